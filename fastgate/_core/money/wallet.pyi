from collections.abc import Collection, Iterable
from typing import NamedTuple, final

from fastgate._core.money.money_file import MoneyFile
from fastgate._core.shared.segment import Segment

ANY: int

class Subscription(NamedTuple):
    service: int
    plan: int
    access: int = 0
    ended: int = 0

class Bill(NamedTuple):
    number: str
    micros: int
    currency: str
    due: int

class SpendingLimit(NamedTuple):
    micros: int
    period: int

class Account(NamedTuple):
    slot: int
    identity: int
    access: int
    wallets: dict[str, int]
    subscriptions: tuple[Subscription, ...]
    limits: tuple[SpendingLimit, ...]

class Credit(NamedTuple):
    row: int
    sequence: int
    key: bytes
    account: int
    wallet: int
    delta: int
    applied: bool

@final
class Accounts:
    def __init__(self, segment: Segment, money: MoneyFile | None = None) -> None: ...
    @property
    def segment(self) -> Segment: ...
    @property
    def money(self) -> MoneyFile | None: ...
    @property
    def capacity(self) -> int: ...
    def put(
        self, slot: int, identity: int, currencies: Iterable[str] = (), *, access: int = 0
    ) -> None: ...
    def open_wallet(self, slot: int, currency: str) -> int: ...
    def wallet(self, slot: int, currency: str) -> int: ...
    def get(self, slot: int) -> Account: ...
    def __contains__(self, slot: int, /) -> bool: ...
    def slots(self) -> list[int]: ...
    def set_access(self, slot: int, reason: int) -> None: ...
    def set_subscriptions(
        self,
        slot: int,
        subscriptions: Collection[
            tuple[int, int] | tuple[int, int, int] | tuple[int, int, int, int]
        ],
    ) -> None: ...
    def subscription_for(self, slot: int, service: int) -> Subscription | None: ...
    def set_limits(self, slot: int, limits: Iterable[tuple[int, int]]) -> None: ...
    def set_bill(self, slot: int, entry: tuple[str, int, str, int] | None) -> None: ...
    def bill(self, slot: int) -> Bill | None: ...
    def balance(self, slot: int, wallet: int | str = 0) -> int: ...
    def set_balance(self, slot: int, wallet: int | str, micros: int) -> None: ...
    def prepare(self, slot: int, wallet: int | str, delta: int, key: bytes) -> Credit: ...
    def apply(self, credit: Credit, *, floor: int | None = None) -> int | None: ...
    def finish(self, credit: Credit) -> None: ...
    def credit(
        self,
        slot: int,
        delta: int,
        wallet: int | str = 0,
        *,
        floor: int | None = None,
        key: bytes = ...,
    ) -> int | None: ...
    def open_credits(self) -> list[Credit]: ...
