"""Consumers, credentials and revoked tokens: in memory, in the workers' index and in the local
cache, in step with the store.

- **Starting**: `load_cache()` fills the index before the store is reachable, `configure()` adds
  the consumers of the configuration; `attach()` lets the store correct both when it is available.
- **Later**: `learn` takes over a change that this process has committed, `sync` everything, when
  another one has changed something. Tokens that are revoked have a count of changes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fastgate._core.shared.credentials import CredentialIndex
from fastgate.errors import (
    ConfigurationError,
    StoreError,
)
from fastgate.identity import overrides
from fastgate.identity.directory import Directory
from fastgate.identity.seeds import anonymous_of, credentials_of
from fastgate.imports import importing
from fastgate.model.overrides import Known, overridable
from fastgate.serial import Serial
from fastgate.store.cache import (
    CacheRecord,
    ConsumerRecord,
    CredentialCache,
    GoneRecord,
    KeyRecord,
    TokenRecord,
)

if TYPE_CHECKING:
    from fastgate.model.gateway import Gateway
    from fastgate.store.engine import Store
    from fastgate.store.parties import Consumer, Credential, Parties
    from fastgate.store.revocations import Revocation, Revocations


log = logging.getLogger("fastgate.identity")

REMEMBERED = timedelta(days=30)
"""How long a revoked or expired key is refused as such; after that it is unknown."""


def unix_of(moment: datetime | None) -> int:
    return 0 if moment is None else max(1, int(moment.timestamp()))


def consumer_record(consumer: Consumer) -> ConsumerRecord:
    return ConsumerRecord(
        consumer.id,
        consumer.name,
        consumer.account,
        consumer.plan,
        consumer.suspended,
        consumer.limits,
    )


def key_record(credential: Credential) -> KeyRecord:
    return KeyRecord(
        credential.digest,
        credential.id,
        credential.consumer,
        unix_of(credential.expires_at),
        unix_of(credential.revoked_at),
        credential.kind,
        credential.about,
    )


def token_records(revocation: Revocation) -> list[TokenRecord]:
    expires = unix_of(revocation.expires_at)
    return [TokenRecord(digest, expires) for digest in revocation.digests]


class SyncedRecords:
    """The records and their copies. Used on the control process's event loop."""

    def __init__(
        self,
        index: CredentialIndex,
        *,
        cache: Path | None = None,
        on_index: Callable[[CredentialIndex], None] = lambda index: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`on_index` is called with the index once it is whole (when the first configuration is
        taken over: without that, consumers have no plans), and with each larger one that takes
        over when one has grown full. It sends the descriptor to the workers, who know the one
        before until then."""
        self.directory = Directory(index, self._grown)
        self._on_index = on_index
        self._whole_index = False
        self._cache = CredentialCache(cache) if cache is not None else None
        self._clock = clock
        self._parties: Parties | None = None
        self._changes = Serial()  # what the store has committed must reach the index
        self._overridable: Known = {}
        self._said_missing: set[str] = set()
        self._known = -1  # the store's count of changes that the directory stands for
        self._revocations: Revocations | None = None
        self._known_revocations = -1  # the same, of revoked tokens

    @property
    def index(self) -> CredentialIndex:
        return self.directory.index

    # ---- coming up ----------------------------------------------------------------------

    def load_cache(self) -> int:
        """Fill the index from the local cache. Returns the number of credentials."""
        if self._cache is None:
            return 0
        directory, now = self.directory, unix_of(self._clock())
        consumers: dict[str, ConsumerRecord] = {}
        keys: dict[bytes, KeyRecord] = {}
        for record in self._cache.load():  # the last word on each is what counts
            if isinstance(record, ConsumerRecord):
                consumers[record.id] = record
            elif isinstance(record, KeyRecord):
                keys[record.digest] = record
            elif isinstance(record, TokenRecord):
                if record.expires_at > now:
                    directory.revoke_token(record.digest, record.expires_at)
            else:
                consumers.pop(record.consumer, None)
                keys = {
                    digest: key for digest, key in keys.items() if key.consumer != record.consumer
                }
        for consumer in consumers.values():
            directory.put_consumer(consumer, seed=False)
        for key in keys.values():
            directory.put_key(key)
        return len(directory.keys)

    def configure(self, gateway: Gateway, plan_slots: Mapping[str, int]) -> None:
        """Take over the consumers and plans of a configuration, which is about to be served.

        `plan_slots`: the slot number of each plan, as compiled into the snapshot.
        """
        directory = self.directory
        directory.set_slots(plan_slots)
        self._overridable = overridable(gateway)
        self._warn_of_lost_overrides()
        wanted: set[str] = set()
        digests: set[bytes] = set()
        for seed in gateway.consumers:
            own = overrides.encoded(seed.limits)
            record = ConsumerRecord(seed.ident, seed.name, None, seed.plan, seed.suspended, own)
            wanted.add(record.id)
            directory.put_consumer(record, seed=True)
            for key in credentials_of(seed):
                digests.add(key.digest)
                directory.put_key(key)
        for name, party in list(directory.parties.items()):
            if party.seed:
                for digest in directory.held(party) - digests:
                    directory.drop_key(digest)
                if name not in wanted:
                    directory.drop_consumer(name)
        directory.set_anonymous(anonymous_of(gateway))
        if self._known >= 0:
            self._warn_of_missing()

        if not self._whole_index:
            self._whole_index = True
            self._on_index(directory.index)

    def _warn_of_lost_overrides(self) -> None:
        """Warn about overrides of stored consumers for limits that the configuration does not
        have."""
        lost: dict[str, int] = {}
        for party in self.directory.parties.values():
            if not party.seed:
                for name in party.record.limits:
                    if name not in self._overridable:
                        lost[name] = lost.get(name, 0) + 1
        for name, count in sorted(lost.items()):
            log.warning(
                "%d consumer(s) have their own numbers for the limit %s, which the configuration "
                "does not have; they have no effect.",
                count,
                name,
            )

    def _warn_of_missing(self) -> None:
        """Warn, once, about consumers that `anonymous` names and nobody has."""
        missing = self.directory.missing()
        for ident in sorted(missing - self._said_missing):
            log.warning(
                "There is no consumer %s, as whom requests without a credential should count; they "
                "are refused.",
                ident,
            )
        self._said_missing = missing

    def _grown(self, index: CredentialIndex) -> None:
        if self._whole_index:
            self._on_index(index)

    def check_plans(self, gateway: Gateway) -> None:
        """Raise ConfigurationError when the configuration lacks a plan that consumers are on:
        without their plan they would go unlimited."""
        plans = {plan.name for plan in gateway.plans}
        missing: dict[str, int] = {}
        for party in self.directory.parties.values():
            plan = party.record.plan
            if plan is not None and plan not in plans and not party.seed:
                missing[plan] = missing.get(plan, 0) + 1
        errors = [
            ConfigurationError(
                f"The plan {plan!r} is missing, and {count} consumer(s) are on it",
                path="plans",
                hint="Keep it, or move them to another plan first.",
            )
            for plan, count in sorted(missing.items())
        ]
        if errors:
            raise ConfigurationError(
                errors[0].message, path="plans", hint=errors[0].hint, others=errors[1:]
            )

    def attach(self, store: Store) -> None:
        """Set the store. Directory and cache follow the store whenever it is available."""
        with importing():
            from fastgate.store import revocations
            from fastgate.store.parties import TOPIC, Parties

        async def changed(counts: dict[str, int]) -> None:
            if counts.get(TOPIC) != self._known:
                await self.sync()
            elif counts.get(revocations.TOPIC, 0) != self._known_revocations:
                await self._changes.run(self._sync_tokens)

        self._parties = Parties(store)
        self._revocations = revocations.Revocations(store)
        store.on_ready.append(self.sync)
        store.on_change.append(changed)

    @property
    def parties(self) -> Parties:
        """The store's tables. Raises StoreError when there is no store (yet)."""
        if self._parties is None:
            raise StoreError("The store is not connected yet.")
        return self._parties

    @property
    def revocations(self) -> Revocations:
        """The store's table of revoked tokens. Raises StoreError when there is no store (yet)."""
        if self._revocations is None:
            raise StoreError("The store is not connected yet.")
        return self._revocations

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    # ---- keeping in step ----------------------------------------------------------------

    async def sync(self) -> None:
        """Make directory, index and cache equal the store. Raises StoreError."""
        await self._changes.run(self._sync)

    async def _sync(self) -> None:
        parties, directory = self.parties, self.directory
        known = await parties.count()  # read first: at worst we read once more than needed
        consumers: set[str] = set()
        keys: set[bytes] = set()
        async with contextlib.aclosing(parties.everything(self._clock() - REMEMBERED)) as batches:
            async for batch in batches:
                for consumer, credentials in batch:
                    consumers.add(consumer.id)
                    if (held := directory.parties.get(consumer.id)) and held.seed:
                        continue  # the seed wins
                    directory.put_consumer(consumer_record(consumer), seed=False)
                    for credential in credentials:
                        keys.add(credential.digest)
                        directory.put_key(key_record(credential))
        for ident, party in list(directory.parties.items()):
            if party.seed:
                continue
            if ident not in consumers:
                directory.drop_consumer(ident)
                continue
            for digest in directory.held(party) - keys:
                directory.drop_key(digest)
        directory.drop_shadows(keys)
        await self._sync_tokens()
        self._known = known
        self._warn_of_missing()

    async def _sync_tokens(self) -> None:
        revoked, known = await self.revocations.everything()
        self.directory.set_revoked_tokens(
            {each.digest: each.expires_at for row in revoked for each in token_records(row)}
        )
        if self._cache is not None:
            await asyncio.to_thread(self._cache.replace, list(self.directory.stored()))
        self._known_revocations = known

    async def learn(self, count: int, records: Sequence[CacheRecord]) -> None:
        """Take over a change that the store has just committed as its `count`th."""
        directory = self.directory
        for record in records:
            if isinstance(record, ConsumerRecord):
                directory.put_consumer(record, seed=False)
            elif isinstance(record, KeyRecord):
                directory.put_key(record)
            elif isinstance(record, GoneRecord):
                directory.drop_consumer(record.consumer)
        await self._save(records)
        if count == self._known + 1:
            self._known = count
        else:  # another gateway changed something as well
            await self._catch_up(self._sync)

    async def learn_revoked(self, count: int, records: Sequence[TokenRecord]) -> None:
        """The same, for tokens that were revoked."""
        self.directory.forget_tokens(unix_of(self._clock()))
        for record in records:
            self.directory.revoke_token(record.digest, record.expires_at)
        await self._save(records)
        if count == self._known_revocations + 1:
            self._known_revocations = count
        else:
            await self._catch_up(self._sync_tokens)

    async def _catch_up(self, sync: Callable[[], Awaitable[None]]) -> None:
        try:
            await sync()
        except StoreError as error:
            log.warning(
                "The change is done, but changes by others could not be read yet: %s", error
            )

    async def _save(self, records: Sequence[CacheRecord]) -> None:
        """Write changes to the local cache."""
        if self._cache is None:
            return
        if self._cache.outdated(self.directory.size):
            await asyncio.to_thread(self._cache.replace, list(self.directory.stored()))
        else:
            self._cache.append(records)
            await asyncio.to_thread(self._cache.sync)
