from collections.abc import Iterable
from typing import NamedTuple

class Line(NamedTuple):
    number: int
    time_us: int
    amount: int
    units: int
    request: bytes
    status: int
    flags: int

class UsageBlock(NamedTuple):
    boot: int
    low: int
    high: int
    day: int
    first_us: int
    last_us: int
    account: int
    consumer: int
    credential: int
    route: int
    service: int
    plan: int
    currency: str
    meter: int
    records: int
    failed: int
    recovered: int
    units: int
    amount: int
    lines: bytes

def pack_lines(lines: Iterable[Line]) -> bytes: ...
def unpack_lines(lines: bytes) -> list[Line]: ...
def sums(lines: bytes, *, meter: bool = False) -> tuple[int, int, int, int]: ...
def numbers(lines: bytes) -> list[int]: ...
