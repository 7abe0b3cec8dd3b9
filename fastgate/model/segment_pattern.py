"""Patterns of path segments: a small language of regular expressions, compiled to a table.

`{id:[0-9]+}` matches a segment that consists of digits. A pattern has to match the whole segment.
It becomes a deterministic automaton with at most MOST_STATES states, so that the core reads a
segment once, whatever a client sends; there is no backtracking.

    text ──▶ parse ──▶ automaton with choices ──▶ subsets of its states ──▶ the fewest states

The language is what Python, PCRE and RE2 have in common and what an automaton can do:

    abc  \\.          these characters
    [a-z0-9_]  [^x]   one character of a set, or one that is not in it
    \\d  \\w           a digit; a letter, digit or underscore. \\D, \\W: any other
    .                 any character
    (ab|c)  (?:ab|c)  one of these
    x? x* x+          x may be missing; may be repeated; or both
    x{3} x{1,3} x{2,} repeated so often

Characters are compared with the path as it is forwarded, so others than letters, digits and the
marks of RFC 3986 are percent-encoded there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

MOST_STATES = 250
"""Of an automaton; its numbers are bytes."""
MOST_STEPS = 4000
"""States before they are made one of the other kind: bounds the time to compile a pattern."""
MOST_REPEATS = 256
_DIGITS = frozenset(b"0123456789")
_WORD = _DIGITS | frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_ANY = frozenset(range(0x21, 0x7F)) - {ord("/"), ord("?"), ord("#")}
_CLASSES = {"d": _DIGITS, "D": _ANY - _DIGITS, "w": _WORD, "W": _ANY - _WORD}
_COUNT = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_SPECIAL = "\\^$.|?*+()[]{}"

Bytes = frozenset[int]


class Automaton(NamedTuple):
    """A deterministic automaton. State 0 is that from which nothing matches."""

    start: int
    accepts: frozenset[int]
    moves: tuple[tuple[int, ...], ...]
    """For each state, the next one by class of byte."""
    classes: bytes
    """The class of each of the 256 bytes."""

    def matches(self, text: bytes) -> bool:
        """Whether it matches the whole text, as the core decides it."""
        state = self.start
        for byte in text:
            state = self.moves[state][self.classes[byte]]
        return state in self.accepts

    @property
    def table(self) -> bytes:
        """As the core reads it: number of classes, number of states, first state, 0; the class of
        each byte; for each state, 1 if the text may end there; for each state, its moves."""
        states = len(self.moves)
        head = bytes([len(self.moves[0]), states, self.start, 0])
        ends = bytes(state in self.accepts for state in range(states))
        return head + self.classes + ends + b"".join(map(bytes, self.moves))


@lru_cache(maxsize=1024)
def compile_pattern(text: str) -> Automaton:
    """The automaton of a pattern. Raises ValueError that says what is wrong with the pattern."""
    steps = _Parser(text).steps()
    moves, accepts = _subsets(steps, text)
    found = _fewest(moves, accepts, text)
    if not found.accepts:
        raise ValueError(f"'{text}' matches no segment")
    if found.start in found.accepts:
        raise ValueError(f"'{text}' also matches nothing, and a segment is never empty")
    return found


# ---- parsing ------------------------------------------------------------------------------------


class _Steps:
    """An automaton with choices: from each state on one of some bytes, or at once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.on: list[tuple[Bytes, int] | None] = []
        self.free: list[list[int]] = []
        self.first = self.last = 0

    def new(self) -> int:
        if len(self.on) == MOST_STEPS:
            raise ValueError(f"'{self.text}' is too long, with what it repeats")
        self.on.append(None)
        self.free.append([])
        return len(self.on) - 1


class _Parser:
    """A parser by descent. Each method adds what it has read behind a state; returns its end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.built = _Steps(text)

    def steps(self) -> _Steps:
        if not self.text:
            raise ValueError("a pattern is missing after the ':'")
        self.built.first = self.built.new()
        self.built.last = self._choice(self.built.first)
        if self.at < len(self.text):
            raise self._error("a ')' that closes nothing")
        return self.built

    def _error(self, what: str) -> ValueError:
        return ValueError(f"'{self.text}', at character {self.at + 1}: {what}")

    @property
    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _choice(self, start: int) -> int:
        ends = [self._sequence(start)]
        while self._next == "|":
            self.at += 1
            branch = self.built.new()
            self.built.free[start].append(branch)
            ends.append(self._sequence(branch))
        end = self.built.new()
        for each in ends:
            self.built.free[each].append(end)
        return end

    def _sequence(self, start: int) -> int:
        here = self.built.new()
        self.built.free[start].append(here)
        while self._next not in ("", "|", ")"):
            here = self._repeated(here)
        return here

    def _repeated(self, start: int) -> int:
        begin = self.at
        end = self._atom(start)
        least, most = self._count()
        behind = self.at
        if self._next and self._next in "?*+{":
            raise self._error("one repetition after another; put the first one into parentheses")
        if (least, most) == (1, 1):
            return end
        # The piece is read again for each repetition; the first reading is one that may be skipped.
        here = start
        if least == 0:
            skip = self.built.new()
            self.built.free[start].append(skip)
        ends = [end]
        for _ in range(max(least, 1 if most is None else most) - 1):
            here = end
            self.at = begin
            fresh = self.built.new()
            self.built.free[here].append(fresh)
            end = self._atom(fresh)
            ends.append(end)
        if most is None:
            again = self.built.new()
            self.built.free[end].append(again)
            self.at = begin
            back = self._atom(again)
            self.built.free[back].append(again)
            self.built.free[back].append(end)
        self.at = behind
        finish = self.built.new()
        for number, each in enumerate(ends, 1):
            if number >= least:
                self.built.free[each].append(finish)
        if least == 0:
            self.built.free[skip].append(finish)
        return finish

    def _count(self) -> tuple[int, int | None]:
        simple: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}
        if self._next in simple:
            self.at += 1
            return simple[self.text[self.at - 1]]
        if self._next != "{":
            return 1, 1
        found = _COUNT.match(self.text, self.at)
        if found is None:
            raise self._error("write '\\{' for the character, or {3}, {1,3} or {2,}")
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] else None
        if max(least, most or 0) > MOST_REPEATS:
            raise self._error(f"more than {MOST_REPEATS} repetitions")
        if most is not None and (most < least or most == 0):
            raise self._error("it can never be repeated so often")
        self.at = found.end()
        return least, most

    def _atom(self, start: int) -> int:
        here = self._next
        if here == "(":
            return self._group(start)
        self.at += 1
        if here == "[":
            found = self._set()
        elif here == ".":
            found = _ANY
        elif here == "\\":
            found = self._escape()
        elif here in "^$":
            self.at -= 1
            raise self._error("a pattern always matches the whole segment; leave out '^' and '$'")
        elif here in _SPECIAL:
            self.at -= 1
            raise self._error(f"nothing to repeat; write '\\{here}' for the character itself")
        else:
            found = frozenset({self._byte(here)})
        end = self.built.new()
        self.built.on[start] = (found, end)
        return end

    def _group(self, start: int) -> int:
        self.at += 1
        if self.text.startswith("?:", self.at):
            self.at += 2
        elif self._next == "?":
            raise self._error("only '(?:' is supported after '(', no look-ahead and no names")
        inner = self.built.new()
        self.built.free[start].append(inner)
        end = self._choice(inner)
        if self._next != ")":
            raise self._error("a ')' is missing")
        self.at += 1
        return end

    def _escape(self) -> Bytes:
        letter = self._next
        self.at += 1
        if letter in _CLASSES:
            return _CLASSES[letter]
        if not letter or letter.isalnum():
            self.at -= 2
            raise self._error(f"'\\{letter}' is not supported; only \\d, \\w, \\D and \\W are")
        return frozenset({self._byte(letter)})

    def _byte(self, character: str) -> int:
        byte = ord(character)
        if byte not in _ANY:
            self.at -= 1
            if character == "/":
                raise self._error("a segment has no '/'")
            raise self._error(f"no path has {character!r} in a segment; write it percent-encoded")
        return byte

    def _set(self) -> Bytes:
        negated = self._next == "^"
        self.at += negated
        found: set[int] = set()
        begin = self.at
        while self._next != "]" or self.at == begin:
            if not self._next:
                raise self._error("a ']' is missing")
            found |= self._members()
        self.at += 1
        return frozenset(_ANY - found if negated else found)

    def _members(self) -> Bytes:
        one = self._member()
        if self._next != "-" or self.text[self.at + 1 : self.at + 2] in ("", "]"):
            return one
        self.at += 1
        other = self._member()
        if len(one) != 1 or len(other) != 1 or min(one) > min(other):
            raise self._error("a range goes from one character to a later one")
        return frozenset(range(min(one), min(other) + 1)) & _ANY

    def _member(self) -> Bytes:
        self.at += 1
        here = self.text[self.at - 1 : self.at]
        if not here:
            raise self._error("a ']' is missing")
        return self._escape() if here == "\\" else frozenset({self._byte(here)})


# ---- the automaton ------------------------------------------------------------------------------


def _reached(steps: _Steps, states: Iterable[int]) -> frozenset[int]:
    """These states, and those that are reached from them at once."""
    found = set(states)
    pending = list(found)
    while pending:
        for each in steps.free[pending.pop()]:
            if each not in found:
                found.add(each)
                pending.append(each)
    return frozenset(found)


def _subsets(steps: _Steps, text: str) -> tuple[list[list[int]], set[int]]:
    """For each set of states that can be reached, the next set by byte; and those that accept.
    0 is the empty set, 1 the first."""
    start = _reached(steps, [steps.first])
    numbers: dict[frozenset[int], int] = {frozenset(): 0, start: 1}
    order = [frozenset[int](), start]
    moves: list[list[int]] = []
    for current in order:
        targets: dict[int, set[int]] = {}
        for on in _used(steps, current):
            for byte in on[0]:
                targets.setdefault(byte, set()).add(on[1])
        row = [0] * 256
        known: dict[frozenset[int], int] = {}
        for byte, states in targets.items():
            key = frozenset(states)
            if key not in known:
                reached = _reached(steps, key)
                if reached not in numbers:
                    if len(order) > 8 * MOST_STATES:
                        raise _too_complex(text)
                    numbers[reached] = len(order)
                    order.append(reached)
                known[key] = numbers[reached]
            row[byte] = known[key]
        moves.append(row)
    accepts = {number for number, states in enumerate(order) if steps.last in states}
    return moves, accepts


def _too_complex(text: str) -> ValueError:
    return ValueError(
        f"'{text}' is too complex: it needs more than {MOST_STATES} states; repeat less"
    )


def _used(steps: _Steps, states: frozenset[int]) -> Iterator[tuple[Bytes, int]]:
    for each in states:
        on = steps.on[each]
        if on is not None:
            yield on


def _fewest(moves: list[list[int]], accepts: set[int], text: str) -> Automaton:
    """Bytes that behave alike become one class, and then states that do become one (Moore)."""
    columns: dict[tuple[int, ...], int] = {}
    classes = bytes(columns.setdefault(each, len(columns)) for each in zip(*moves, strict=True))
    rows = list(zip(*columns, strict=True))
    kinds = [int(number in accepts) for number in range(len(rows))]
    count = 0
    while count != len(set(kinds)):
        count = len(set(kinds))
        keys = [
            (kind, *(kinds[each] for each in row)) for kind, row in zip(kinds, rows, strict=True)
        ]
        numbers: dict[tuple[int, ...], int] = {}
        kinds = [numbers.setdefault(key, len(numbers)) for key in keys]
    if count > MOST_STATES:
        raise _too_complex(text)
    fewest: dict[int, tuple[int, ...]] = {}
    for kind, row in zip(kinds, rows, strict=True):
        fewest.setdefault(kind, tuple(kinds[each] for each in row))
    return Automaton(
        kinds[1], frozenset(kinds[each] for each in accepts), tuple(fewest.values()), classes
    )
