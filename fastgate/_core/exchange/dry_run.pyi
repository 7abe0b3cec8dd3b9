from typing import NamedTuple, final

from fastgate._core.money.money_file import MoneyFile
from fastgate._core.shared.credentials import CredentialIndex
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot

class LimitLook(NamedTuple):
    name: str
    words: str
    kind: str
    amount: int
    used: int
    remaining: int
    resets_at: int
    reason: int
    of_plan: bool

class SpendingLook(NamedTuple):
    of: str
    limit: int
    used: int
    resets_at: int

class Outcome(NamedTuple):
    reason: int
    looks_at_keys: bool
    key: int
    account: int
    subscription: int
    service: int
    plan: str
    limits: tuple[LimitLook, ...]
    unseen: int
    price: int
    currency: str
    spending: tuple[SpendingLook, ...]
    spending_reason: int
    spender: str
    charge: int
    available: int
    held: int
    chosen: str = ""
    chosen_by: str = ""

SPENDERS: tuple[str, ...]
KINDS: dict[int, str]

@final
class DryRun:
    def __init__(
        self,
        segment: Segment,
        money: MoneyFile | None,
        snapshot: Snapshot,
        *,
        route: int = -1,
        address: bytes = b"",
        service: str | None = None,
    ) -> None: ...
    def of_key(self, index: CredentialIndex, digest: bytes) -> Outcome: ...
    def of_consumer(self, index: CredentialIndex, row: int) -> Outcome: ...
    def of_nobody(self) -> Outcome: ...
