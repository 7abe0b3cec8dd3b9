"""Reading the load generator's histograms: the arithmetic of tools/histogram.h, backwards.

Buckets are one wide below 256, then every power of two is cut into 128 of equal width. A
percentile is reported as the highest value of its bucket (never more than the greatest value
seen): at most 0.8 % above what was measured, never below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

BITS = 7
SUB = 1 << BITS
TOP = (1 << 41) - 1


def index_of(value: int) -> int:
    """The bucket that counts `value` (not negative)."""
    value = min(value, TOP)
    if value < 2 * SUB:
        return value
    shift = value.bit_length() - 1 - BITS
    return (shift << BITS) + (value >> shift)


def highest_of(index: int) -> int:
    """The greatest value that bucket `index` counts."""
    if index < 2 * SUB:
        return index
    shift = (index >> BITS) - 1
    return (((index & (SUB - 1)) + SUB + 1) << shift) - 1


@dataclass
class Histogram:
    """Counts by bucket; several can be added together."""

    count: int = 0
    total: int = 0
    greatest: int = 0
    buckets: dict[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, shape: dict[str, object]) -> Histogram:
        """From the JSON object that histogram_print writes."""
        pairs = shape["buckets"]
        assert isinstance(pairs, list)
        return cls(
            count=int(str(shape["count"])),
            total=int(str(shape["sum"])),
            greatest=int(str(shape["max"])),
            buckets={int(i): int(n) for i, n in pairs},
        )

    def record(self, values: Iterable[int]) -> None:
        """Counts each of `values`."""
        for value in values:
            self.count += 1
            self.total += value
            self.greatest = max(self.greatest, value)
            i = index_of(value)
            self.buckets[i] = self.buckets.get(i, 0) + 1

    def add(self, other: Histogram) -> None:
        """Counts what `other` counted."""
        self.count += other.count
        self.total += other.total
        self.greatest = max(self.greatest, other.greatest)
        for i, n in other.buckets.items():
            self.buckets[i] = self.buckets.get(i, 0) + n

    @property
    def mean(self) -> float:
        """The mean of the values themselves, not of their buckets; 0 when empty."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, q: float) -> int:
        """The value that a share `q` (0..1) of all values does not exceed; 0 when empty."""
        wanted = max(1, math.ceil(round(q * self.count, 6)))
        seen = 0
        for i in sorted(self.buckets):
            seen += self.buckets[i]
            if seen >= wanted:
                return min(highest_of(i), self.greatest)
        return 0
