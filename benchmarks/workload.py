"""Routes and paths to measure with: made up, but the same in every run.

Patterns mix what real APIs have: static paths, one parameter at the end, parameters in the
middle, and rests. Every pattern has a literal segment with its number in it, so no two of them
conflict.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SYLLABLES = ("ba", "co", "di", "fu", "ge", "ha", "jo", "ki", "lu", "me", "na", "po", "ri", "su")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Route:
    """A pattern and one path it matches."""

    name: str
    pattern: str
    path: str

    @property
    def literal(self) -> str:
        """The pattern up to its first parameter: what a prefix-only router can match on."""
        return self.pattern.partition("{")[0]


def base36(number: int) -> str:
    """`number` (not negative) in base 36."""
    text = ""
    while True:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
        if not number:
            return text


def routes(count: int, seed: int = 1) -> list[Route]:
    """`count` routes; the same for the same arguments."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) for _ in range(300)]
    made = []
    for i in range(count):
        a, b, c = rng.choices(words, k=3)
        n = base36(i)
        number = rng.randrange(10**9)
        kind = i % 4
        if kind == 0:
            pattern = path = f"/api/v{rng.randint(1, 3)}/{a}/{b}-{n}"
        elif kind == 1:
            pattern, path = f"/{a}/{b}-{n}/{{id}}", f"/{a}/{b}-{n}/{number}"
        elif kind == 2:
            pattern = f"/{a}/x{n}/{b}/{{id}}/{c}"
            path = f"/{a}/x{n}/{b}/{number:x}/{c}"
        else:
            pattern, path = f"/{a}-{n}/{{rest*}}", f"/{a}-{n}/{b}/{number}/{c}"
        made.append(Route(f"route-{i}", pattern, path))
    return made


def shuffled_paths(made: list[Route], count: int, seed: int = 2) -> list[str]:
    """`count` paths of random routes among `made`."""
    rng = random.Random(seed)
    return [rng.choice(made).path for _ in range(count)]
