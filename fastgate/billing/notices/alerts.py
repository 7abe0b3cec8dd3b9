"""Alerts: a balance that is low or will soon be empty, a limit that is almost used up.

Each is sent once for each occurrence, and only for the highest level:

```
use of a limit    49 %   51 %   52 %   97 %   97 %   | next period   55 %
sent                      50 %          95 %         |               50 %

balance           9      4      3      12     4        (threshold 5)
sent                     low                  low
```

The last alert is stored (`alert_states`), so neither a restart nor a second gateway sends it again.
A level that was skipped is not sent afterwards.

**Burn rate**: the rate over the last hour (or the time since the first sample, at least five
minutes), from samples of an account's total spending; deposits do not change it. The alert is sent
when the balance would last for less than `notices.empty_in`. It is sent again only after the
balance would have lasted twice as long in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from fastgate.billing.amounts import show
from fastgate.billing.notices.notices import Message, Notice, Notices
from fastgate.store.billing_tables import alert_states, billing_profiles
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store

WINDOW = timedelta(hours=1)
LEAST = timedelta(minutes=5)
HOUR_US = 3_600_000_000
MOST_US = timedelta.max // timedelta(microseconds=1)
BALANCES = "balance.%"
"""The prefix of the subjects of wallets."""


# ---- pure -------------------------------------------------------------------------------


def level_of(used: int, limit: int, levels: Iterable[int]) -> int:
    """The highest level (in percent) that is reached; 0: none."""
    return max((level for level in levels if used * 100 >= limit * level), default=0)


class BalanceSample(NamedTuple):
    """The total that an account had spent at a time, in micro-units."""

    at: datetime
    spent: int


class BurnRate:
    """The rate of one account's spending. Feed it samples over time."""

    def __init__(self) -> None:
        self._samples: deque[BalanceSample] = deque()

    def add(self, at: datetime, spent: int) -> None:
        """Add a sample, not older than the last; the total may fall (a refund)."""
        self._samples.append(BalanceSample(at, spent))
        while len(self._samples) > 2 and self._samples[1].at <= at - WINDOW:
            self._samples.popleft()

    def per_hour(self) -> int | None:
        """Micro-units an hour; None: not enough samples."""
        if not self._samples:
            return None
        first, last = self._samples[0], self._samples[-1]
        passed = last.at - first.at
        if passed < LEAST:
            return None
        return max(last.spent - first.spent, 0) * HOUR_US // (passed // timedelta(microseconds=1))

    def lasts(self, balance: int) -> timedelta | None:
        """How long the balance lasts at this rate; None: unknown, or forever."""
        rate = self.per_hour()
        if not rate:
            return None
        micros = max(balance, 0) * HOUR_US // rate
        # Longer than a timedelta can express means forever.
        return timedelta(microseconds=micros) if micros <= MOST_US else None


def in_words(left: timedelta) -> str:
    """ "3 h", "2 h 30 min", "4 min"; rounded down to minutes."""
    minutes = int(left.total_seconds()) // 60
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{rest} min"
    return f"{hours} h {rest} min" if rest else f"{hours} h"


# ---- sent once --------------------------------------------------------------------------


class LimitUsage(NamedTuple):
    """How much of a limit is used."""

    account: str
    subject: str
    """What is limited, as text that is unique within the account: "spending of key abc"."""
    used: int
    limit: int
    ends: datetime
    """The end of the period."""
    currency: str = ""
    """Set for amounts of money in micro-units; empty for counts."""


class AlertState(NamedTuple):
    """The stored settings and alerts of an account whose balance is checked."""

    account: str
    low_balance: int | None
    """Its threshold for a low balance, micro-units; None: not set."""
    sent: frozenset[str]
    """The alerts of its balances that were sent and still apply."""


class Alerts:
    """Sends alerts. Methods may raise StoreError."""

    def __init__(self, store: Store, notices: Notices) -> None:
        self.store = store
        self.notices = notices
        self.rules = notices.billing.notices
        self._rates: dict[tuple[str, str], BurnRate] = {}

    async def usage(self, usage: LimitUsage) -> Notice | None:
        """Send an alert if the use of a limit has reached a new level."""
        level = level_of(usage.used, usage.limit, self.rules.levels) if usage.limit > 0 else 0
        if not level:
            return None
        state = f"{usage.subject[:120]}:{usage.limit}:{usage.ends.isoformat()}"
        if level <= await self._sent_level(usage.account, state):
            return None
        async with self.store.write() as connection:
            if not await self._rises(connection, usage.account, state, level):
                return None
            profile = await self.notices.profiles.get_in(connection, usage.account)
            shown = [
                show(number, usage.currency) if usage.currency else str(number)
                for number in (usage.used, usage.limit)
            ]
            data = {
                "level": str(level),
                "subject": usage.subject,
                "used": shown[0],
                "limit": shown[1],
                "date": usage.ends.astimezone(ZoneInfo(profile.zone)).strftime("%Y-%m-%d"),
            }
            kind = "usage.spending" if usage.currency else "usage.quota"
            return await self.notices.put_in(
                connection,
                Message(
                    kind=kind,
                    account=usage.account,
                    key=f"{kind}:{usage.account}:{state}:{level}",
                    data=data,
                ),
            )

    @staticmethod
    def standings(connection: sa.Connection, accounts: Sequence[str]) -> dict[str, AlertState]:
        """The data for `balance`, of up to 1,000 accounts."""
        given = {"accounts": accounts}
        low = {row.account: row.low_balance for row in connection.execute(_LOW, given)}
        sent: dict[str, set[str]] = {}
        for account, subject in connection.execute(_TOLD, given):
            sent.setdefault(account, set()).add(subject)
        return {
            account: AlertState(account, low.get(account), frozenset(sent.get(account, ())))
            for account in accounts
        }

    async def balance(
        self, standing: AlertState, currency: str, balance: int, spent: int
    ) -> list[Notice]:
        """Check a wallet: its balance, and the total spent from it so far."""
        rate = self._rates.setdefault((standing.account, currency), BurnRate())
        now = self.notices.clock()
        rate.add(now, spent)
        found = [
            await self._low(standing, currency, balance),
            await self._burning(standing, currency, balance, rate),
        ]
        return [notice for notice in found if notice is not None]

    async def _low(self, standing: AlertState, currency: str, balance: int) -> Notice | None:
        threshold = standing.low_balance
        rule = self.rules.low_balance
        if threshold is None and rule is not None and rule.currency == currency:
            threshold = rule.micros
        if threshold is None:
            return None
        data = {"balance": show(balance, currency), "threshold": show(threshold, currency)}
        below = balance < threshold
        return await self._episode("balance.low", standing, currency, below, not below, data)

    async def _burning(
        self, standing: AlertState, currency: str, balance: int, rate: BurnRate
    ) -> Notice | None:
        bound = timedelta(microseconds=self.rules.empty_in.ns // 1000)
        left = rate.lasts(balance)
        if not bound or (left is None and rate.per_hour() is None):
            return None
        soon = left is not None and left < bound
        data = {
            "balance": show(balance, currency),
            "hours": in_words(left) if left is not None else "",
            "rate": show(rate.per_hour() or 0, currency),
        }
        calm = left is None or left >= 2 * bound
        return await self._episode("balance.burning", standing, currency, soon, calm, data)

    async def _episode(
        self,
        kind: str,
        standing: AlertState,
        currency: str,
        begins: bool,
        ends: bool,
        data: dict[str, str],
    ) -> Notice | None:
        """Send an alert when an episode begins; no more until it has ended."""
        if not begins and not ends:
            return None
        account, subject = standing.account, f"{kind}:{currency}"
        if begins == (subject in standing.sent):
            return None
        async with self.store.write() as connection:
            level, episode = await self._state(connection, account, subject)
            if begins == bool(level):
                return None
            episode += begins
            await self._write(connection, account, subject, int(begins), episode)
            if not begins:
                return None
            return await self.notices.put_in(
                connection,
                Message(
                    kind=kind, account=account, key=f"{subject}:{account}:{episode}", data=data
                ),
            )

    async def _sent_level(self, account: str, subject: str) -> int:
        """The level sent last. Read before writing, since most checks find nothing new."""
        query = sa.select(alert_states.c.level).where(
            alert_states.c.account == account, alert_states.c.subject == subject
        )
        return await self.store.run_read(lambda connection: int(connection.scalar(query) or 0))

    async def _rises(
        self, connection: AsyncConnection, account: str, subject: str, level: int
    ) -> bool:
        sent, episode = await self._state(connection, account, subject)
        if level <= sent:
            return False
        await self._write(connection, account, subject, level, episode)
        return True

    async def _state(
        self, connection: AsyncConnection, account: str, subject: str
    ) -> tuple[int, int]:
        row = (
            await connection.execute(
                sa.select(alert_states.c.level, alert_states.c.episode)
                .where(alert_states.c.account == account, alert_states.c.subject == subject)
                .with_for_update()
            )
        ).one_or_none()
        if row is None:
            await connection.execute(
                sa.insert(alert_states).values(
                    account=account,
                    subject=subject,
                    level=0,
                    episode=0,
                    updated=self.notices.clock(),
                )
            )
            return 0, 0
        return int(row.level), int(row.episode)

    async def _write(
        self, connection: AsyncConnection, account: str, subject: str, level: int, episode: int
    ) -> None:
        await connection.execute(
            sa.update(alert_states)
            .where(alert_states.c.account == account, alert_states.c.subject == subject)
            .values(level=level, episode=episode, updated=self.notices.clock())
        )

    async def prune(self, before: datetime) -> int:
        """Delete the states of alerts before that time, a year ago or more. Returns how many."""
        async with self.store.write() as connection:
            done = await connection.execute(
                sa.delete(alert_states).where(
                    alert_states.c.updated < before,
                    alert_states.c.subject.not_like(BALANCES),
                )
            )
        return int(done.rowcount)


_ACCOUNTS: sa.BindParameter[str] = sa.bindparam("accounts", expanding=True)
_LOW = sa.select(billing_profiles.c.account, billing_profiles.c.low_balance).where(
    billing_profiles.c.account.in_(_ACCOUNTS)
)
_TOLD = sa.select(alert_states.c.account, alert_states.c.subject).where(
    alert_states.c.account.in_(_ACCOUNTS),
    alert_states.c.subject.like(BALANCES),
    alert_states.c.level > 0,
)
