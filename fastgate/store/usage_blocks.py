"""Blocks of usage records, for the store, the spool and the ledger.

```
block   dimensions, sums, id of the first ... of the last | lines
lines   one for each record: `fastgate._core.money.usage_block`
```

A block has ids and names where shared memory has hashes and slots. Its records are of one boot, one
worker and one UTC day, and have equal dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from datetime import UTC, datetime, timedelta

import msgspec

from fastgate._core.money.usage_block import Line, numbers, pack_lines, unpack_lines

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000
RECOVERED = 8
"""The flag of a record whose worker died before it could settle it."""
BOOT = 16
"""The number of an id's digits that are the boot; the others are a number."""
FAILED = 500
"""Requests with this status or higher count as failed."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """One charged request, with ids and names where shared memory has hashes and slots.

    `id`: boot 16, area 2, sequence 14 hexadecimal digits. `time_us` is Unix time in microseconds,
    `amount` micro-units charged, `units` the meter's, `status` the HTTP status given, `request`
    the request's id in hexadecimal, `flags` the bits of shared memory (1 captured, 2 free, 4
    refunded, 8 recovered). `meter`: "" for the request itself, otherwise the meter that its
    handler counted.
    """

    id: str
    time_us: int
    account: str
    consumer: str
    credential: str
    route: str
    service: str
    plan: str
    currency: str
    amount: int
    units: int
    status: int
    request: str
    flags: int
    meter: str = ""

    @property
    def time(self) -> datetime:
        return EPOCH + timedelta(microseconds=self.time_us)

    @property
    def worker(self) -> int:
        """The worker that served it: the area of the id is the worker's number plus one."""
        return int(self.id[16:18], 16) - 1


class Block(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Records that share all of these dimensions. `low` and `high` are their smallest and greatest
    ids, `day` counts from 1970; `failed` of them were answered with 500 or more, `recovered` are of
    a dead worker."""

    low: str
    high: str
    day: int
    first_us: int
    last_us: int
    account: str
    consumer: str
    credential: str
    route: str
    service: str
    plan: str
    currency: str
    meter: str
    records: int
    failed: int
    recovered: int
    units: int
    amount: int
    lines: bytes

    @property
    def requests(self) -> int:
        """Records of a meter are not additional requests."""
        return 0 if self.meter else self.records

    def usages(self) -> Iterator[Usage]:
        """Its records, in their order."""
        boot = self.boot
        for line in unpack_lines(self.lines):
            yield Usage(
                f"{boot}{line.number:016x}",
                line.time_us,
                self.account,
                self.consumer,
                self.credential,
                self.route,
                self.service,
                self.plan,
                self.currency,
                line.amount,
                line.units,
                line.status,
                line.request.hex(),
                line.flags,
                self.meter,
            )

    @property
    def boot(self) -> str:
        """The common prefix of the ids of its records."""
        return self.low[:BOOT]

    def numbers(self) -> list[int]:
        """The numbers at the end of its records' ids, in order."""
        return numbers(self.lines)

    def without(self, known: Set[int]) -> Block | None:
        """The block without these numbers and without duplicates; None if nothing is left."""
        found = self.numbers()
        fresh = set(found) - known
        if len(fresh) == len(found):
            return self
        left: list[Usage] = []
        for number, usage in zip(found, self.usages(), strict=True):
            if number in fresh:
                fresh.remove(number)
                left.append(usage)
        return block_of(left) if left else None


def block_of(usages: list[Usage]) -> Block:
    """One block of similar records, as built by `fastgate._core.money.usage_block`."""
    like = usages[0]
    ids = [usage.id for usage in usages]
    times = [usage.time_us for usage in usages]
    return Block(
        low=min(ids),
        high=max(ids),
        day=like.time_us // DAY_US,
        first_us=min(times),
        last_us=max(times),
        account=like.account,
        consumer=like.consumer,
        credential=like.credential,
        route=like.route,
        service=like.service,
        plan=like.plan,
        currency=like.currency,
        meter=like.meter,
        records=len(usages),
        failed=0 if like.meter else sum(usage.status >= FAILED for usage in usages),
        recovered=sum(usage.flags & RECOVERED != 0 for usage in usages),
        units=sum(usage.units for usage in usages),
        amount=sum(usage.amount for usage in usages),
        lines=pack_lines(
            Line(
                int(usage.id[16:], 16),
                usage.time_us,
                usage.amount,
                usage.units,
                bytes.fromhex(usage.request),
                usage.status,
                usage.flags,
            )
            for usage in usages
        ),
    )
