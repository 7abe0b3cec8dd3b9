"""Ids that sort by the time of their creation, like UUIDv7, in a form that people can read out.

```
con_01jd6zr0v4  9fk2m7q3xw8t5nbc
│   │           └ 80 bits: random, then incremented within one millisecond
│   └ 48 bits: Unix time in milliseconds
└ its kind: acc, con, crd, tok
```

26 characters of Crockford's base 32 in lower case (no i, l, o, u), most significant first, so
that comparing text compares time. The ids of one process never go backwards, even if the clock
does; the probability of a collision between two processes is 2^-80.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
RANDOM_BITS = 80
LENGTH = 26  # characters for 128 bits


def encode(value: int) -> str:
    """128 bits as 26 characters."""
    return "".join(ALPHABET[(value >> shift) & 31] for shift in range(5 * (LENGTH - 1), -1, -5))


class IdSource:
    """Makes ids; one per process is enough (not for several threads)."""

    def __init__(self, clock_ms: Callable[[], int] | None = None) -> None:
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)
        self._last = 0

    def next(self, kind: str) -> str:
        """A new id, greater than all earlier ones; `kind` is its prefix, e.g. "con"."""
        value = (self._clock_ms() << RANDOM_BITS) | secrets.randbits(RANDOM_BITS)
        if value <= self._last or value >> RANDOM_BITS == self._last >> RANDOM_BITS:
            value = self._last + 1 + secrets.randbits(32)
        self._last = value
        return f"{kind}_{encode(value)}"


_source = IdSource()
new_id = _source.next
