"""The dependencies of billing in the control process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastgate._core.money.money_map import MoneyMap
    from fastgate.api.ports import LimitUse
    from fastgate.billing.ledger.ledger import Ledger
    from fastgate.billing.ledger.pipeline import Pipeline
    from fastgate.billing.ledger.wallets import Wallets
    from fastgate.billing.subscriptions.subscriptions import Subscriptions
    from fastgate.model.gateway import Gateway
    from fastgate.runtime.control.account_rows import AccountRows
    from fastgate.runtime.control.caps import Caps
    from fastgate.store.cache import ConsumerRecord
    from fastgate.store.engine import Store


class BillingDeps(NamedTuple):
    """The dependencies of `BillingServices`; they are kept across compositions."""

    money_map: MoneyMap
    store: Store
    ledger: Ledger
    wallets: Wallets
    pipeline: Pipeline
    clock: Callable[[], datetime]
    gateway: Callable[[], Gateway]
    open_account: Callable[[str], Awaitable[None]]
    entries_changed: Callable[[Subscriptions, str], Awaitable[None]]
    """Call it when the subscriptions of an account have changed."""
    caps: Caps


class LimitSources(NamedTuple):
    """Reads limits and their use."""

    consumers: Callable[[], Iterable[ConsumerRecord]]
    of: Callable[[str, str | None], list[LimitUse]]
    """Takes a consumer's id and plan."""
    rows: AccountRows
