import struct
from typing import Final, NamedTuple

LINE: Final[struct.Struct]

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

def sums(lines: bytes, *, meter: bool = False) -> tuple[int, int, int, int]: ...
def numbers(lines: bytes) -> list[int]: ...
