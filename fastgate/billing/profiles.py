"""Billing profiles: an account's addresses, currency, time zone and alerts.

An account without a row has the defaults of the configuration: no addresses, the gateway's
currency and time zone, no payment method.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from fastgate.billing.payments.base import Clock
from fastgate.model.billing import Billing, check_zone
from fastgate.store.billing_tables import billing_profiles
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """How an account is billed and notified."""

    account: str
    emails: list[str] = []
    zone: str
    currency: str
    low_balance: int | None = None
    """The balance, in micro-units, below which a notice is sent; None: as configured."""
    has_method: bool = False
    """Whether a payment method is saved."""


class Profiles:
    """The table. Every method may raise StoreError."""

    def __init__(self, store: Store, clock: Clock, billing: Billing) -> None:
        self.store = store
        self.clock = clock
        self.billing = billing

    async def get(self, account: str) -> Profile:
        """The account's profile, or the defaults."""
        return await self.store.run_read(lambda connection: self._read(connection, account))

    async def get_in(self, connection: AsyncConnection, account: str) -> Profile:
        """The same, in the caller's transaction."""
        return await connection.run_sync(self._read, account)

    def _read(self, connection: sa.Connection, account: str) -> Profile:
        row = connection.execute(
            sa.select(billing_profiles).where(billing_profiles.c.account == account)
        ).one_or_none()
        if row is None:
            return Profile(
                account=account, zone=self.billing.time_zone, currency=self.billing.currency
            )
        return Profile(
            account=row.account,
            emails=msgspec.json.decode(row.emails, type=list[str]),
            zone=row.zone,
            currency=row.currency,
            low_balance=row.low_balance,
            has_method=row.has_method,
        )

    async def update(self, account: str, **changes: Any) -> Profile:
        """Change some fields. Raises ValueError for an unknown time zone or a bad address."""
        if "zone" in changes:
            check_zone(changes["zone"])
        for address in changes.get("emails", ()):
            if address.count("@") != 1 or any(c.isspace() or c in "<>,;" for c in address):
                raise ValueError(f"{address!r} is not a mail address")
        now = self.clock()
        async with self.store.write() as connection:
            profile = msgspec.structs.replace(await self.get_in(connection, account), **changes)
            values = msgspec.structs.asdict(profile)
            values["emails"] = msgspec.json.encode(profile.emails).decode()
            changed = await connection.execute(
                sa.update(billing_profiles)
                .where(billing_profiles.c.account == account)
                .values(**values, updated=now, version=billing_profiles.c.version + 1)
            )
            if changed.rowcount == 0:
                await connection.execute(
                    sa.insert(billing_profiles).values(
                        **values, created=now, updated=now, version=1
                    )
                )
        return profile
