from typing import NamedTuple, TypedDict, Unpack, final

from fastgate._core.money.money_file import MoneyFile
from fastgate._core.money.usage_block import UsageBlock

NO_SLOT: int
STATES: tuple[str, ...]

class HoldTableFull(RuntimeError): ...

class UsageRecord(NamedTuple):
    id: str
    time_ns: int
    account: int
    account_slot: int
    consumer: int
    credential: int
    route: int
    service: int
    plan: int
    wallet: int
    currency: str
    amount: int
    held: int
    units: int
    status: int
    flags: int
    request_id: str
    meter: int

class OpenHold(NamedTuple):
    worker: int
    state: str
    taken: bool
    dead: bool
    record: UsageRecord

class AreaState(NamedTuple):
    published: int
    committed: int
    parked: int
    dropped: int
    refused: int
    sequence: int

class _Who(TypedDict, total=False):
    consumer: int
    credential: int
    route: int
    service: int
    plan: int
    meter: int
    now_ns: int
    request_id: bytes

@final
class Hold:
    @property
    def money(self) -> MoneyMap: ...
    @property
    def worker(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def balance(self) -> int: ...
    @property
    def id(self) -> str: ...
    @property
    def open(self) -> bool: ...
    def due(self, amount: int) -> None: ...
    def capture(
        self, actual: int, *, now_ns: int = 0, units: int = 0, status: int = 200
    ) -> bool: ...
    def release(self) -> None: ...

class MoneyMap(MoneyFile):
    def begin(self, worker: int) -> None: ...
    def hold(
        self, worker: int, account: int, amount: int, *, wallet: int = 0, **fields: Unpack[_Who]
    ) -> Hold | None: ...
    def note(
        self,
        worker: int,
        account: int = ...,
        *,
        units: int = 0,
        status: int = 200,
        **fields: Unpack[_Who],
    ) -> str | None: ...
    def hold_many(
        self, worker: int, account: int, amount: int, price: int, n: int, *, wallet: int = 0
    ) -> int: ...
    def drain(
        self, worker: int, most: int = 1024, *, after: int | None = None
    ) -> tuple[list[UsageRecord], int]: ...
    def drain_blocks(
        self, worker: int, most: int = 1024, *, after: int | None = None
    ) -> tuple[list[UsageBlock], int, int]: ...
    def commit(self, worker: int, position: int) -> None: ...
    def stopped(self, worker: int) -> None: ...
    def resolve_dead(self, worker: int, policy: str = "due") -> list[UsageRecord]: ...
    def open_holds(self, worker: int | None = None) -> list[OpenHold]: ...
    def state(self, worker: int) -> AreaState: ...
    @property
    def damaged(self) -> int: ...
