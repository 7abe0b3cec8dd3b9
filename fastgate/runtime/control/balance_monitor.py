"""Checks balances and limits as requests use them, and sends alerts.

    a balance changed    ─▶ alerts (low, soon empty) ─▶ automatic recharge ─▶ grace, if no provider
    a consumer's turn    ─▶ alerts (quotas)                                   is available
    an account's turn    ─▶ alerts (spending limits)

Balances are read from the cells once a second, and only those that have changed are checked
further, so the cost grows with traffic. Consumers and accounts are checked in turn.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from fastgate._core.exchange.charging import spending_key
from fastgate._core.shared.quota import QuotaTable
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.billing.auto_recharge import AutoRecharge, AutoRecharges
from fastgate.billing.notices.alerts import Alerts, AlertState, LimitUsage
from fastgate.billing.payments.base import ChargeStatus
from fastgate.config.rules import PERIODS
from fastgate.errors import FastGateError, NotFoundError, StoreError
from fastgate.runtime.control.billing_deps import LimitSources
from fastgate.runtime.control.billing_services import BillingServices
from fastgate.store.cache import ConsumerRecord
from fastgate.store.ledger import Key, Wallet, of_accounts
from fastgate.ticks import next_tick

log = logging.getLogger("fastgate.billing")

LOOK_S = 1.0
TURNS = 500  # consumers and accounts whose limits are checked in a round
MOST = 200  # wallets that are checked further in a round; the others in the next


class _Known(NamedTuple):
    """The stored data of the accounts of wallets that have changed."""

    books: dict[Key, Wallet]
    standings: dict[str, AlertState]
    rules: dict[str, AutoRecharge]

    @classmethod
    def of(cls, connection: sa.Connection, accounts: list[str]) -> _Known:
        wallets = of_accounts(connection, accounts)
        return cls(
            {(wallet.account, wallet.currency): wallet for wallet in wallets},
            Alerts.standings(connection, accounts),
            AutoRecharges.rules(connection, accounts),
        )


class BalanceMonitor:
    """The monitor of one composition of billing services."""

    def __init__(self, services: BillingServices, segment: Segment, limits: LimitSources) -> None:
        self._services = services
        self._billing = services.api
        self._quotas = QuotaTable(segment)
        self._limit_sources = limits
        self._seen: dict[Key, int] = {}
        self._turn = 0
        services.look_again = self.look_again

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await next_tick(LOOK_S)
            if not self._billing.ledger.store.ready:
                continue
            try:
                await self.look()
            except StoreError as error:
                log.info("Balances wait for the store: %s", error)
            except FastGateError as error:
                log.warning("Checking balances: %s", error)
            except Exception:
                log.exception("Checking balances failed.")

    async def look(self) -> None:
        """One round."""
        wallets = self._billing.wallets
        moved = []
        for key, available in wallets.cell_balances().items():
            if self._seen.get(key) != available:
                moved.append((key, available))
        if moved:
            await self._balances(moved[:MOST])
        await self._take_turns()

    def look_again(self, account: str) -> None:
        """Check an account again at the same balance, since its rules may have changed."""
        for key in [key for key in self._seen if key[0] == account]:
            del self._seen[key]

    async def _balances(self, moved: list[tuple[Key, int]]) -> None:
        """Check these wallets, with one query to the store for all of them."""
        accounts = sorted({account for (account, _), _ in moved})
        store = self._billing.ledger.store
        known = await store.run_read(lambda connection: _Known.of(connection, accounts))
        # All at once: the next steps may take long, and books and cells must be of the same time.
        sums = {key: self._sums(key, known) for key, _ in moved}
        for key, available in moved:
            if (found := sums[key]) is None or await self._balance(key, *found, known):
                self._seen[key] = available
            else:
                self._seen.pop(key, None)

    def _sums(self, key: Key, known: _Known) -> tuple[int, int] | None:
        """Balance, and total spending; None if there is no such wallet."""
        books = known.books.get(key)
        if books is None:
            return None
        try:
            now = self._billing.wallets.balance(*key)
        except NotFoundError:
            return None
        return now.available - now.overdraft, books.captured + now.in_flight

    async def _balance(self, key: Key, balance: int, spent: int, known: _Known) -> bool:
        """Whether there is nothing more to do until the balance changes."""
        account, currency = key
        await self._services.alerts.balance(known.standings[account], currency, balance, spent)
        return await self._recharged(known.rules.get(account), currency, balance)

    async def _recharged(self, rule: AutoRecharge | None, currency: str, balance: int) -> bool:
        """Recharge if needed. Whether no recharge is needed now, and none has to be repeated."""
        if rule is None or not rule.enabled or rule.currency != currency:
            return True
        if balance >= rule.threshold:
            return True
        account = rule.account
        result = await self._billing.recharges.check(account, balance, currency)
        # It was not made, or that is unknown. If no provider can be reached (which one failure does
        # not prove), accounts that have paid before get grace.
        unsure = result is None or result.status is ChargeStatus.PENDING
        if unsure and not self._billing.providers.down():
            await self._billing.providers.look()
        if (
            unsure
            and self._billing.providers.down()
            and await self._billing.payments.of_account(account, limit=1)
        ):
            await self._billing.grace.grant(account, currency)
        return False

    # ---- limits ---------------------------------------------------------------------------

    async def _take_turns(self) -> None:
        consumers = list(self._limit_sources.consumers())
        if not consumers:
            return
        first = self._turn % len(consumers)
        self._turn = first + TURNS if first + TURNS < len(consumers) else 0
        accounts = set()
        for record in consumers[first : first + TURNS]:
            if record.account is not None:
                accounts.add(record.account)
                await self._consumer(record, record.account)
        for account in accounts:
            await self._account(account)

    async def _consumer(self, record: ConsumerRecord, account: str) -> None:
        for use in self._limit_sources.of(record.id, record.plan):
            if use.kind == "quota" and "consumer" in use.by:
                await self._services.alerts.usage(
                    LimitUsage(
                        account=account,
                        subject=f"{use.limit} of {record.name}",
                        used=use.used,
                        limit=use.amount,
                        ends=datetime.fromtimestamp(use.resets_at, UTC),
                    )
                )

    async def _account(self, account: str) -> None:
        identity = stable_hash(account)
        now = int(self._services.subscriptions.clock().timestamp())
        for index, (micros, period) in enumerate(self._limit_sources.rows.get(account).limits):
            found = self._quotas.peek(
                spending_key("account", identity + index), PERIODS[period], now, micros
            )
            await self._services.alerts.usage(
                LimitUsage(
                    account=account,
                    subject=f"spending a {period}",
                    used=found.used,
                    limit=micros,
                    ends=datetime.fromtimestamp(found.resets_at, UTC),
                    currency=self._services.billing.currency,
                )
            )
