"""Auto-recharge: tops up a wallet automatically, within limits that its owner set.

```
balance < threshold ── reserve ──▶ in progress ┬─ succeeded ─▶ credited; declines := 0
  enabled, none in         spent += amount     ├─ declined ──▶ spent -= amount; declines += 1
  progress, spent +        sequence += 1       │               3 in a row: stopped, notified
  amount <= monthly cap                        └─ unknown ───▶ looked up later, with the same key
```

- **At most one charge at a time, and never above the cap**: the amount is reserved from the
  month's cap in the transaction that begins the charge, under the row's lock, for any number of
  gateways. The month is the calendar month, in the account's time zone, in which the charge began.
- **As much as is needed**: a multiple of `amount`, so that the balance reaches the threshold,
  within the cap.
- **Exactly once**: the charge's idempotency key is `recharge:<account>:<sequence>`. A charge that
  has begun is repeated with this key until its outcome is known, also after a crash.
- The wallet is credited by `credited`, which must be idempotent by the payment: a webhook may
  report the same payment first.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import sqlalchemy as sa

from fastgate.billing.amounts import show, whole_coins
from fastgate.billing.dunning.dunning import AGAIN, Charger
from fastgate.billing.notices.notices import Message, Notices
from fastgate.billing.payments.base import (
    ChargeResult,
    ChargeStatus,
    PaymentError,
    ProviderUnavailable,
    Purpose,
)
from fastgate.errors import ConflictError, NotFoundError
from fastgate.model.units import Money
from fastgate.store.billing_tables import auto_recharges
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store

log = logging.getLogger("fastgate.billing")

MOST_DECLINES = 3
SOON = timedelta(minutes=1)
"""The delay after a provider could not be reached. Its breaker limits how often it is called."""
PAUSE = timedelta(hours=1)
"""The delay between a decline and the next charge."""

RECHARGE_DUE = sa.and_(
    auto_recharges.c.pending > 0, auto_recharges.c.next_at <= sa.bindparam("now")
)
"""Accounts with a charge in progress whose outcome has to be looked up."""

Credited = Callable[[str, ChargeResult, str], Awaitable[None]]
"""Credit the wallet: account, result, idempotency key of the charge."""


class AutoRecharge(msgspec.Struct, frozen=True, kw_only=True):
    """One account's rule and its state. Amounts in micro-units."""

    account: str
    currency: str
    enabled: bool
    threshold: int
    """Recharge when the balance is below this."""
    amount: int
    """The amount of one recharge; no fractions of a cent."""
    cap: int
    """The maximum in a calendar month."""
    month: str = ""
    """The month of `spent`: "2026-11"."""
    spent: int = 0
    sequence: int = 0
    pending: int = 0
    """The amount of the charge in progress; 0: none."""
    pending_since: datetime | None = None
    declines: int = 0
    """In a row."""
    stopped: str = ""
    """Why it was turned off; empty: it is on."""
    next_at: datetime | None = None
    """When the charge in progress is looked up, or the earliest time of the next charge."""
    created: datetime
    updated: datetime
    version: int = 1

    @property
    def key(self) -> str:
        """The idempotency key of the charge in progress."""
        return f"recharge:{self.account}:{self.sequence}"

    def spent_in(self, month: str) -> int:
        """What was recharged in that month, including the charge in progress."""
        return self.spent if self.month == month else 0


class AutoRecharges:
    """The table and its rules. Methods may raise StoreError."""

    def __init__(
        self, store: Store, notices: Notices, charger: Charger, credited: Credited
    ) -> None:
        self.store = store
        self.notices = notices
        self.clock = notices.clock
        self.charger = charger
        self.credited = credited

    async def get(self, account: str) -> AutoRecharge | None:
        """The account's rule; None if it has none."""
        return await self.store.run_read(lambda connection: _read(connection, account))

    @staticmethod
    def rules(connection: sa.Connection, accounts: Sequence[str]) -> dict[str, AutoRecharge]:
        """The rules of those accounts, where they have one. At most 1,000 accounts."""
        rows = connection.execute(_OF_ACCOUNTS, {"accounts": accounts})
        return {row.account: AutoRecharge(**row._asdict()) for row in rows}

    async def set(self, account: str, threshold: Money, amount: Money, cap: Money) -> AutoRecharge:
        """Create or change the rule, and turn it on; this resets the declines.

        Raises ValueError: different currencies, a fraction of a coin, a cap below the amount.
        """
        currency = amount.currency
        if {threshold.currency, cap.currency} != {currency}:
            raise ValueError("threshold, amount and cap must have the same currency")
        if amount.micros <= 0 or whole_coins(amount.micros, currency) != amount.micros:
            raise ValueError(f"{amount} cannot be charged; give whole coins of {currency}")
        if cap.micros < amount.micros:
            raise ValueError(f"the cap {cap} is less than one recharge of {amount}")
        now = self.clock()
        values: dict[str, Any] = {
            "currency": currency,
            "enabled": True,
            "threshold": threshold.micros,
            "amount": amount.micros,
            "cap": cap.micros,
            "declines": 0,
            "stopped": "",
            "updated": now,
        }
        async with self.store.write() as connection:
            found = await _locked(connection, account)
            if found is not None and found.pending and found.currency != currency:
                raise ConflictError(
                    "A recharge in another currency is in progress. Wait until it ends."
                )
            if found is None:
                found = AutoRecharge(account=account, created=now, **values)
                await connection.execute(
                    sa.insert(auto_recharges).values(msgspec.structs.asdict(found))
                )
                return found
            if not found.pending:
                values["next_at"] = None
            return await _save(connection, found, **values)

    async def disable(self, account: str) -> AutoRecharge:
        """Turn it off. A charge in progress is still completed. Raises NotFoundError."""
        async with self.store.write() as connection:
            found = await _locked(connection, account)
            if found is None:
                raise NotFoundError(f"The account {account!r} has no automatic recharge.")
            return await _save(connection, found, enabled=False, updated=self.clock())

    async def check(self, account: str, balance: int, currency: str) -> ChargeResult | None:
        """Recharge if the balance is too low. The charge's outcome; None if no charge was made."""
        begun = await self._begin(account, balance, currency)
        return await self._charge(begun, balance) if begun is not None else None

    async def run(self, limit: int = 50) -> int:
        """Look up the charges in progress that are due. Returns how many."""
        query = (
            sa.select(auto_recharges)
            .where(RECHARGE_DUE)
            .order_by(auto_recharges.c.next_at)
            .limit(limit)
        )
        async with self.store.read() as connection:
            rows = await connection.execute(query, {"now": self.clock()})
            found = [AutoRecharge(**row._asdict()) for row in rows]
        for one in found:
            await self._charge(one, None)
        return len(found)

    async def _begin(self, account: str, balance: int, currency: str) -> AutoRecharge | None:
        now = self.clock()
        async with self.store.write() as connection:
            found = await _locked(connection, account)
            if (
                found is None
                or not found.enabled
                or found.pending
                or found.currency != currency
                or balance >= found.threshold
                or (found.next_at is not None and found.next_at > now)
            ):
                return None
            profile = await self.notices.profiles.get_in(connection, account)
            month = now.astimezone(ZoneInfo(profile.zone)).strftime("%Y-%m")
            spent = found.spent_in(month)
            # One charge for all that is needed, not several of `amount` each.
            needed = -(-(found.threshold - balance) // found.amount) * found.amount
            amount = min(needed, (found.cap - spent) // found.amount * found.amount)
            if amount <= 0:
                await self._notify(connection, "capped", found, f"{month}:{found.cap}", balance)
                return None
            return await _save(
                connection,
                found,
                month=month,
                spent=spent + amount,
                sequence=found.sequence + 1,
                pending=amount,
                pending_since=now,
                next_at=now + AGAIN,
                updated=now,
            )

    async def _charge(self, begun: AutoRecharge, balance: int | None) -> ChargeResult | None:
        money = Money(begun.pending, begun.currency)
        try:
            result = None
            if balance is None and begun.pending_since is not None:
                since = begun.pending_since - timedelta(minutes=5)
                result = await self.charger.find_charge(begun.account, begun.key, since)
            if result is None:
                result = await self.charger.charge_saved(
                    begun.account, money, begun.key, purpose=Purpose.TOP_UP
                )
        except PaymentError as error:
            if not isinstance(error, ProviderUnavailable):
                log.error("Recharging %s: %s", begun.account, error)
            await self._again(begun)
            return None
        await self.settle(begun.account, result, begun.key, balance)
        return result

    async def _again(self, begun: AutoRecharge) -> None:
        now = self.clock()
        async with self.store.write() as connection:
            found = await _locked(connection, begun.account)
            if found is not None and found.version == begun.version:
                await _save(connection, found, next_at=now + SOON, updated=now)

    async def settle(
        self, account: str, result: ChargeResult, key: str, balance: int | None = None
    ) -> bool:
        """Record the outcome of a charge, from the call or a webhook. Whether it was expected."""
        now = self.clock()
        if result.status is ChargeStatus.SUCCEEDED:
            # The wallet first: after a kill here, the charge is looked up and credited again, once.
            await self.credited(account, result, key)
        async with self.store.write() as connection:
            found = await _locked(connection, account)
            if found is None or not found.pending or found.key != key:
                return False
            if result.status is ChargeStatus.PENDING:
                await _save(connection, found, next_at=now + AGAIN, updated=now)
            elif result.status is ChargeStatus.SUCCEEDED:
                await _save(connection, found, **_over(found, now), declines=0, next_at=None)
            else:
                await self._declined(connection, found, result, balance, now)
        return True

    async def _declined(
        self,
        connection: AsyncConnection,
        found: AutoRecharge,
        result: ChargeResult,
        balance: int | None,
        now: datetime,
    ) -> None:
        declines = found.declines + 1
        stops = declines >= MOST_DECLINES
        changes: dict[str, Any] = {
            "spent": max(found.spent - found.pending, 0),
            "declines": declines,
            "next_at": now + PAUSE,
        }
        if stops:
            changes |= {"enabled": False, "stopped": "declined"}
        changed = await _save(connection, found, **(_over(found, now) | changes))
        said = result.message or "no reason given."
        tried = msgspec.structs.replace(changed, amount=found.pending)
        await self._notify(connection, "failed", tried, str(found.sequence), balance, said)
        if stops:
            await self._notify(connection, "stopped", tried, str(found.sequence), balance)

    async def _notify(
        self,
        connection: AsyncConnection,
        what: str,
        found: AutoRecharge,
        key: str,
        balance: int | None,
        message: str = "",
    ) -> None:
        data = {
            "amount": show(found.amount, found.currency),
            "cap": show(found.cap, found.currency),
            "balance": show(balance, found.currency) if balance is not None else "low",
            "declines": str(found.declines),
            "message": message,
        }
        await self.notices.put_in(
            connection,
            Message(
                kind=f"recharge.{what}",
                account=found.account,
                key=f"recharge.{what}:{found.account}:{key}",
                data=data,
            ),
        )


def _over(found: AutoRecharge, now: datetime) -> dict[str, Any]:
    return {"pending": 0, "pending_since": None, "updated": now}


async def _locked(connection: AsyncConnection, account: str) -> AutoRecharge | None:
    return await connection.run_sync(_read, account, lock=True)


def _read(connection: sa.Connection, account: str, *, lock: bool = False) -> AutoRecharge | None:
    query = sa.select(auto_recharges).where(auto_recharges.c.account == account)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return AutoRecharge(**row._asdict()) if row is not None else None


_OF_ACCOUNTS = sa.select(auto_recharges).where(
    auto_recharges.c.account.in_(sa.bindparam("accounts", expanding=True))
)


async def _save(connection: AsyncConnection, found: AutoRecharge, **changes: Any) -> AutoRecharge:
    saved = msgspec.structs.replace(found, **changes, version=found.version + 1)
    await connection.execute(
        sa.update(auto_recharges)
        .where(auto_recharges.c.account == found.account)
        .values(msgspec.structs.asdict(saved))
    )
    return saved
