"""Grace: serves customers on credit while no payment provider is available. Limited, recorded.

```
 chain.down ─▶ grant ─▶ opening ─▶ open ─▶ closing ─▶ ended     by: provider_back, expired, operator
                           │ the overdraft is raised              │ the overdraft is lowered
```

Grace is not money: it is a temporary overdraft of the wallet. Nothing is credited or written off:
usage in that time is owed and in the ledger, and the next payment covers it. When the provider is
back, or the time is over, the overdraft ends. A wallet below zero then refuses requests with
`insufficient_balance` until it is paid. Auto-recharge always comes first, because `grant` is called
only after a charge could not be made.

Limits, per account and currency: at most `amount` in any `window`, and each grant for at most
`lasts`; only while the chain is down. Both hold across restarts and several gateways, because they
are checked against the table, in one transaction.

The row is written before the overdraft is raised and again after it is lowered. A process killed in
between leaves `opening` or `closing`, and `sweep` completes it: raising and lowering are ledger
entries under the row's own name, so they happen once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

import msgspec

from fastgate.billing.payments.base import Clock
from fastgate.billing.payments.chain import Chain
from fastgate.model.units import Money
from fastgate.store.ids import new_id
from fastgate.store.payments import GraceTable, Grant


class Overdrafts(Protocol):
    """`fastgate.billing.ledger.wallets.Wallets`, as far as overdrafts are concerned."""

    async def add_overdraft(self, ident: str, account: str, currency: str, more: int) -> None:
        """Raise the wallet's overdraft by this, or lower it if negative; once."""


class GraceTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The amount and duration of grace."""

    amount: Money
    """The maximum for an account in a window, for its wallet in this currency."""
    lasts: timedelta = timedelta(hours=1)
    """The maximum duration of one grant; zero: no grace."""
    window: timedelta = timedelta(days=1)


class GraceLedger:
    """Grants and ends grace."""

    def __init__(
        self,
        chain: Chain,
        table: GraceTable,
        overdrafts: Overdrafts,
        clock: Clock,
        terms: GraceTerms,
    ) -> None:
        self.terms = terms
        self._chain = chain
        self._table = table
        self._overdrafts = overdrafts
        self._clock = clock

    async def grant(self, account: str, currency: str) -> Grant | None:
        """Let the account continue while the providers are down; None if it may not.

        To be called when a charge could not be made and the customer has paid before. Raises
        StoreError, LedgerError.
        """
        terms = self.terms
        if not self._chain.down() or not terms.lasts or currency != terms.amount.currency:
            return None
        now = self._clock()
        cause = "; ".join(item.error for item in self._chain.states() if item.error)
        wanted = Grant(
            id=new_id("grc"),
            account=account,
            currency=currency,
            amount=terms.amount.micros,
            state="opening",
            cause=cause[:200],
            granted=now,
            expires=now + terms.lasts,
            ended=None,
            ended_by="",
        )
        opened = await self._table.open(wanted, now - terms.window, terms.amount.micros)
        if opened is None:
            return None
        await self._raise(opened)
        return msgspec.structs.replace(opened, state="open")

    async def sweep(self) -> list[Grant]:
        """Complete what was interrupted, and end the grants that are over. Returns those."""
        ended = []
        for grace in await self._table.unended():
            if grace.state == "opening":
                await self._raise(grace)
            if grace.state == "closing":
                await self._lower(grace)
                ended.append(grace)
                continue
            by = self._over(grace)
            if by and await self._table.move(grace.id, "open", "closing", by=by):
                await self._lower(grace)
                ended.append(grace)
        return ended

    def _over(self, grace: Grant) -> str:
        """Why the grant ends now; empty if it continues."""
        if self._clock() >= grace.expires:
            return "expired"
        return "" if self._chain.down() else "provider_back"

    async def end(self, account: str, ident: str) -> bool:
        """End one of an account's grants by hand; False if no grant of that id is open."""
        for grace in await self._table.unended():
            if (grace.account, grace.id) != (account, ident):
                continue
            if await self._table.move(ident, "open", "closing", by="operator"):
                await self._lower(grace)
                return True
        return False

    async def _raise(self, grace: Grant) -> None:
        await self._shift(grace, "begin", grace.amount)
        await self._table.move(grace.id, "opening", "open")

    async def _lower(self, grace: Grant) -> None:
        await self._shift(grace, "end", -grace.amount)
        await self._table.move(grace.id, "closing", "ended", now=self._clock())

    async def _shift(self, grace: Grant, what: str, more: int) -> None:
        ident = f"grace:{grace.id}:{what}"
        await self._overdrafts.add_overdraft(ident, grace.account, grace.currency, more)
