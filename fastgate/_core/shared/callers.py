"""What the credential index (credentials.pyx) knows about callers."""

from __future__ import annotations

from typing import NamedTuple

NO_PLAN = 0xFFFFFFFF
NO_ACCOUNT = 0xFFFFFFFF


class IndexFullError(RuntimeError):
    """No room for another credential or consumer: `grow` the index and distribute the new one."""


class SpendingCap(NamedTuple):
    """At most `micros` micro-units of the account's currency per calendar `period` (`Period`).

    `micros` is below 2^56 (72 billion units); 0 with a period: nothing may be spent.
    (0, 0): no cap.
    """

    micros: int = 0
    period: int = 0


class LimitOverride(NamedTuple):
    """A consumer's own numbers for the limits with this `override_key`; other values are as in a
    limit of the snapshot. For a rate, `amount` is the burst. For others, the last two are 0."""

    key: int
    amount: int
    interval_ns: int = 0
    tolerance_ns: int = 0


class Consumer(NamedTuple):
    """A consumer row of the data plane. `account`: identity of the paying account, 0: none;
    `account_slot`: its row in the shared segment, or NO_ACCOUNT."""

    id: str
    identity: int
    account: int
    plan: int
    suspended: bool
    name: str
    plan_name: str
    account_slot: int = NO_ACCOUNT
    spending: SpendingCap = SpendingCap()
    overrides: tuple[LimitOverride, ...] = ()


class Found(NamedTuple):
    """The result of a lookup. `result`: 0, or the number of the Reason for refusing it.
    `spending` is the credential's own cap."""

    result: int
    consumer: Consumer
    identity: int
    spending: SpendingCap = SpendingCap()
