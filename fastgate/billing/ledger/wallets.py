"""Wallets: all movements of money, with their effect on the ledger and on the wallet's cell. The
module `balances` carries them out.

Used on the control process's event loop. Amounts are micro-units.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from fastgate.billing.ledger.balances import Balances, Change
from fastgate.billing.ledger.ledger import EntryKind, Movement, Posted, Postings, Wanted
from fastgate.store.ledger import Book, Key, TakenBack


class Wallets(Balances):
    """Balances and their changes. All raise the ledger's errors, and StoreError until the cells
    have been compared."""

    async def credit(self, movement: Movement, *, tax: int = 0) -> Posted:
        """Like `Ledger.credit`; on return, requests can be charged to it."""
        post = partial(self.ledger.credit, movement, tax=tax)
        return await self.change(Change(movement, post, movement.amount))

    async def promo(self, movement: Movement) -> Posted:
        """As `Ledger.promo`."""
        return await self.change(
            Change(movement, partial(self.ledger.promo, movement), movement.amount)
        )

    async def refund(self, movement: Movement) -> Posted:
        """Like `Ledger.refund`: a refund of usage."""
        return await self.change(
            Change(movement, partial(self.ledger.refund, movement), movement.amount)
        )

    async def credit_note(self, movement: Movement) -> Posted:
        """As `Ledger.credit_note`."""
        return await self.change(
            Change(movement, partial(self.ledger.credit_note, movement), movement.amount)
        )

    async def end_promo(self, movement: Movement) -> Posted:
        """As `Ledger.end_promo`."""
        post = partial(self.ledger.end_promo, movement)
        return await self.change(Change(movement, post, -movement.amount, enough=True))

    async def freeze(self, movement: Movement) -> Posted:
        """Like `Ledger.freeze`: from now on, no request can be charged to it; then `pay_out` or
        `release`. Raises InsufficientFundsError if requests have already used or reserved it."""
        post = partial(self.ledger.freeze, movement)
        return await self.change(Change(movement, post, -movement.amount, enough=True))

    async def dispute(self, movement: Movement) -> Posted:
        """Like `Ledger.dispute`; the cell may fall below zero."""
        return await self.change(
            Change(movement, partial(self.ledger.dispute, movement), -movement.amount)
        )

    async def pay_out(self, ident: str, *, reference: str = "") -> Posted:
        """Like `Ledger.pay_out`; the cell does not change, since it lost the amount before."""
        origin = await self.ledger.set_aside(ident)
        post = partial(self.ledger.pay_out, ident, reference=reference)
        return await self.change(Change(self.ledger.settlement(origin, reference), post))

    async def release(self, ident: str, *, reference: str = "") -> Posted:
        """As `Ledger.release`."""
        origin = await self.ledger.set_aside(ident)
        post = partial(self.ledger.release, ident, reference=reference)
        delta = 0 if origin.kind == EntryKind.FEE_ASIDE else origin.amount  # no wallet's money
        return await self.change(Change(self.ledger.settlement(origin, reference), post, delta))

    async def fee(self, movement: Movement, *, tax: int = 0) -> Posted:
        """Like `Ledger.fee`; no cell changes."""
        return await self.change(Change(movement, partial(self.ledger.fee, movement, tax=tax)))

    async def fee_aside(self, movement: Movement) -> Posted:
        """Like `Ledger.fee_aside`; no cell changes."""
        return await self.change(Change(movement, partial(self.ledger.fee_aside, movement)))

    async def provider_fee(self, movement: Movement) -> Posted:
        """Like `Ledger.provider_fee`; no cell changes."""
        return await self.change(Change(movement, partial(self.ledger.provider_fee, movement)))

    async def tax(self, movement: Movement) -> Posted:
        """Like `Ledger.tax`; no cell changes."""
        return await self.change(Change(movement, partial(self.ledger.tax, movement)))

    async def take_back(self, account: str, wanted: Wanted) -> None:
        """Take back the account's credits, or restore them, until the total taken equals `wanted`,
        by invoice and currency: their fees were returned, or paid after all. The cell may fall
        below zero. To be called after each change of `wanted`; repeating it does nothing."""

        async def plan() -> Iterable[Change]:
            taken = await self.ledger.taken_back(account)
            changes = []
            for (invoice, currency), amount in sorted((await wanted()).items()):
                before = taken.get((invoice, currency), TakenBack(0, 0))
                if delta := before.amount - amount:
                    ident = f"back:{invoice}:{currency}:{before.entries + 1}"
                    movement = Movement(ident, account, currency, abs(delta), reference=invoice)
                    post = self.ledger.credit_back if delta < 0 else self.ledger.credit_again
                    changes.append(Change(movement, partial(post, movement), delta))
            return changes

        await self.change_all(plan)

    async def correct(self, movement: Movement, postings: Postings) -> Posted:
        """Like `Ledger.correct`; the cell may fall below zero."""
        post = partial(self.ledger.correct, movement, postings)
        return await self.change(Change(movement, post, postings.get(Book.AVAILABLE, 0)))

    async def reverse(self, ident: str) -> Posted:
        """Undo an entry with another one. Raises NotFoundError; see `Ledger.reversal`."""
        return await self.correct(*await self.ledger.reversal(ident))

    async def set_overdraft(self, ident: str, account: str, currency: str, most: int) -> Posted:
        """Set the wallet's overdraft to `most` (if it was larger before, the balance may already be
        lower). `ident`: the id of the entry that records it."""

        async def plan() -> Iterable[Change]:
            before = await self._overdraft(account, currency)
            return [self._to_overdraft(ident, (account, currency), before, most)]

        (posted,) = await self.change_all(plan)
        return posted

    async def add_overdraft(self, ident: str, account: str, currency: str, more: int) -> None:
        """Raise the wallet's overdraft by this, or lower it if negative. Does nothing if there is
        already an entry with that id."""

        async def plan() -> Iterable[Change]:
            if await self.ledger.find(ident) is not None:
                return []
            before = await self._overdraft(account, currency)
            most = max(0, before + more)
            return [self._to_overdraft(ident, (account, currency), before, most)]

        await self.change_all(plan)

    async def _overdraft(self, account: str, currency: str) -> int:
        wallet = await self.ledger.wallet(account, currency)
        return wallet.overdraft if wallet is not None else 0

    def _to_overdraft(self, ident: str, key: Key, before: int, most: int) -> Change:
        movement = Movement(ident, *key, max(1, most))
        return Change(movement, partial(self.ledger.set_overdraft, movement, most), most - before)
