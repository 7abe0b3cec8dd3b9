"""Identity: who may call. Issues keys, and keeps the workers' credential index in step.

```
 configuration's seed ─┐
 store (accounts,      ├─▶ Identity: directory in memory ─▶ CredentialIndex (shared memory)
   consumers, keys) ───┤         │                               └ workers look up, no lock
 credentials.cache ────┘         └─▶ credentials.cache (hashes; for starts without the store)
```

- **Order of a change**: the store's transaction, then the index (every worker feels it with
  its next lookup), then the cache, synced to disk; then the caller has its answer. A crash in
  between is repaired by the next `sync`, which makes directory, index and cache equal the store.
- **Starting**: `load_cache()` fills the index before the store is reachable, `configure()` adds
  the consumers of the configuration; `attach()` lets the store correct both when it is available.
- **The seed wins**: a key in the configuration belongs to the consumer there.

A key is shown once, when it is issued; only its SHA-256 is kept. Keys have 190 random bits, so an
unsalted hash is safe to store. Memory: about 0.6 KiB a credential in the control process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fastgate._core.shared.credentials import CredentialIndex
from fastgate.errors import (
    ConfigurationError,
    ConflictError,
    FastGateError,
    StoreError,
)
from fastgate.identity import overrides
from fastgate.identity.directory import Directory
from fastgate.imports import importing
from fastgate.model.keys import key_digest, new_key, shown_prefix
from fastgate.model.overrides import Known, overridable, override_faults
from fastgate.model.policy import MAX_OVERRIDES
from fastgate.serial import Serial
from fastgate.store.cache import (
    CacheRecord,
    ConsumerRecord,
    CredentialCache,
    GoneRecord,
    KeyRecord,
)

if TYPE_CHECKING:
    from fastgate.model.gateway import Gateway
    from fastgate.store.engine import Store
    from fastgate.store.parties import Consumer, Credential, Parties


log = logging.getLogger("fastgate.identity")

REMEMBERED = timedelta(days=30)
"""How long a revoked or expired key is refused as such; after that it is unknown."""


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A credential and its key, which is stored nowhere. `replaces`: the credential that it
    replaces."""

    credential: Credential
    key: str
    replaces: Credential | None = None


def _unix(moment: datetime | None) -> int:
    return 0 if moment is None else max(1, int(moment.timestamp()))


def _consumer_record(consumer: Consumer) -> ConsumerRecord:
    return ConsumerRecord(
        consumer.id,
        consumer.name,
        consumer.account,
        consumer.plan,
        consumer.suspended,
        consumer.limits,
    )


def _key_record(credential: Credential) -> KeyRecord:
    return KeyRecord(
        credential.digest,
        credential.id,
        credential.consumer,
        _unix(credential.expires_at),
        _unix(credential.revoked_at),
    )


# ---- what the control process and the API use -------------------------------------------


class InvalidMember(FastGateError):
    """A member of a request is not valid; `path` names it."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class Identity:
    """Consumers and their credentials. Used on the control process's event loop."""

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
        self._known = -1  # the store's count of changes that the directory stands for

    @property
    def index(self) -> CredentialIndex:
        return self.directory.index

    # ---- coming up ----------------------------------------------------------------------

    def load_cache(self) -> int:
        """Fill the index from the local cache. Returns the number of credentials."""
        if self._cache is None:
            return 0
        directory = self.directory
        consumers: dict[str, ConsumerRecord] = {}
        keys: dict[bytes, KeyRecord] = {}
        for record in self._cache.load():  # the last word on each is what counts
            if isinstance(record, ConsumerRecord):
                consumers[record.id] = record
            elif isinstance(record, KeyRecord):
                keys[record.digest] = record
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
            for key in seed.keys:
                digests.add(key.digest)
                ident = f"seed-{key.hex[:16]}"
                directory.put_key(KeyRecord(key.digest, ident, record.id, 0, 0))
        for name, party in list(directory.parties.items()):
            if party.seed:
                for digest in party.digests - digests:
                    directory.drop_key(digest)
                if name not in wanted:
                    directory.drop_consumer(name)

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
            from fastgate.store.parties import TOPIC, Parties

        async def changed(counts: dict[str, int]) -> None:
            if counts.get(TOPIC) != self._known:
                await self.sync()

        self._parties = Parties(store)
        store.on_ready.append(self.sync)
        store.on_change.append(changed)

    @property
    def parties(self) -> Parties:
        """The store's tables. Raises StoreError when there is no store (yet)."""
        if self._parties is None:
            raise StoreError("The store is not connected yet.")
        return self._parties

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
                    directory.put_consumer(_consumer_record(consumer), seed=False)
                    for credential in credentials:
                        keys.add(credential.digest)
                        directory.put_key(_key_record(credential))
        for ident, party in list(directory.parties.items()):
            if party.seed:
                continue
            if ident not in consumers:
                directory.drop_consumer(ident)
                continue
            for digest in party.digests - keys:
                directory.drop_key(digest)
        directory.drop_shadows(keys)
        if self._cache is not None:
            await asyncio.to_thread(self._cache.replace, list(directory.stored()))
        self._known = known

    async def _learn(self, count: int, records: Sequence[CacheRecord]) -> None:
        """Take over a change that the store has just committed as its `count`th."""
        directory = self.directory
        for record in records:
            if isinstance(record, ConsumerRecord):
                directory.put_consumer(record, seed=False)
            elif isinstance(record, KeyRecord):
                directory.put_key(record)
            else:
                directory.drop_consumer(record.consumer)
        if self._cache is not None:
            if self._cache.outdated(len(directory.parties) + len(directory.keys)):
                await asyncio.to_thread(self._cache.replace, list(directory.stored()))
            else:
                self._cache.append(records)
                await asyncio.to_thread(self._cache.sync)
        if count == self._known + 1:
            self._known = count
        else:  # another gateway changed something as well
            try:
                await self._sync()
            except StoreError as error:
                log.warning(
                    "The change is done, but changes by others could not be read yet: %s", error
                )

    # ---- consumers ----------------------------------------------------------------------

    def seed(self, ident: str) -> ConsumerRecord | None:
        """A consumer of the configuration, by id or name."""
        party = self.directory.parties.get(ident)
        if party is not None and party.seed:
            return party.record
        return next((record for record in self.seeds() if record.name == ident), None)

    def seeds(self) -> list[ConsumerRecord]:
        """The consumers of the configuration, by id."""
        found = [party.record for party in self.directory.parties.values() if party.seed]
        return sorted(found, key=lambda record: record.id)

    def seed_keys(self, ident: str) -> list[KeyRecord]:
        """The keys of a consumer of the configuration."""
        party = self.directory.parties[ident]
        return sorted((self.directory.keys[d] for d in party.digests), key=lambda key: key.id)

    def known(self, ident: str) -> ConsumerRecord | None:
        """Any consumer, by id or name, if it is known without the store."""
        party = self.directory.parties.get(ident)
        if party is not None:
            return party.record
        parties = self.directory.parties.values()
        return next((one.record for one in parties if one.record.name == ident), None)

    def refuse_seed(self, ident: str) -> None:
        """Raise ConflictError for a consumer of the configuration."""
        if (seed := self.seed(ident)) is not None:
            raise ConflictError(
                f"The consumer {seed.name!r} belongs to the configuration; change it there."
            )

    def _check(self, changes: Mapping[str, Any]) -> None:
        """Raise InvalidMember for an unknown plan or limit, ConflictError for a seed's name."""
        plan = changes.get("plan")
        plans = self.directory.slots or {}
        if plan is not None and plan not in plans:
            from difflib import get_close_matches  # for errors alone

            near = get_close_matches(plan, list(plans), 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidMember("plan", f"There is no plan {plan!r}.{hint}")
        if limits := changes.get("limits"):
            self._check_limits(limits)
        name = changes.get("name")
        if name is not None and self.seed(name) is not None:
            raise ConflictError(f"The configuration has a consumer named {name!r}.")

    def _check_limits(self, limits: overrides.Numbers) -> None:
        if len(limits) > MAX_OVERRIDES:
            raise InvalidMember("limits", f"A consumer has at most {MAX_OVERRIDES} of them.")
        for name, one in limits.items():
            try:
                overrides.decoded({name: one})
            except ConfigurationError as error:
                path = f"limits.{name}.{error.path}".rstrip(".")
                raise InvalidMember(path, f"{error.message}.") from error
        for name, message, hint in override_faults(overrides.decoded(limits), self._overridable):
            raise InvalidMember(f"limits.{name}", f"{message[0].upper()}{message[1:]}. {hint}")

    async def create_consumer(
        self,
        *,
        name: str,
        account: str | None,
        plan: str | None,
        suspended: bool = False,
        limits: overrides.Numbers | None = None,
    ) -> Consumer:
        """Raises ConflictError, DanglingError, InvalidMember, StoreError."""
        limits = limits or {}
        self._check({"name": name, "plan": plan, "limits": limits})

        async def change() -> Consumer:
            consumer, count = await self.parties.create_consumer(
                name=name, account=account, plan=plan, suspended=suspended, limits=limits
            )
            await self._learn(count, [_consumer_record(consumer)])
            return consumer

        return await self._changes.run(change)

    async def update_consumer(
        self, ident: str, changes: dict[str, Any], version: int | None = None
    ) -> Consumer:
        """Change name, account, plan, suspended or limits; felt by every worker when it returns.

        Raises NotFoundError, ConflictError, InvalidMember, StoreError.
        """
        self.refuse_seed(ident)
        self._check(changes)

        async def change() -> Consumer:
            consumer, count = await self.parties.update_consumer(ident, changes, version)
            await self._learn(count, [_consumer_record(consumer)])
            return consumer

        return await self._changes.run(change)

    async def delete_consumer(self, ident: str, version: int | None = None) -> None:
        """Delete a consumer. When this returns, its keys are refused. Raises NotFoundError,
        ConflictError."""
        self.refuse_seed(ident)

        async def change() -> None:
            consumer, count = await self.parties.delete_consumer(ident, version)
            await self._learn(count, [GoneRecord(consumer.id)])

        await self._changes.run(change)

    # ---- credentials --------------------------------------------------------------------

    async def issue(
        self,
        consumer: str,
        *,
        label: str = "",
        expires_at: datetime | None = None,
        environment: str | None = None,
        key: str | None = None,
    ) -> Issued:
        """A new credential; its key works on every worker when this returns.

        `key`: take this one (from another gateway) instead of making one.
        Raises NotFoundError, ConflictError, StoreError; ValueError for a bad environment.
        """
        self.refuse_seed(consumer)
        made = key if key is not None else new_key(environment)
        digest = key_digest(made)
        if digest in self.directory.keys:
            raise ConflictError("This key exists already.")

        async def change() -> Issued:
            credential, _, count = await self.parties.create_credential(
                consumer,
                digest=digest,
                prefix=shown_prefix(made),
                label=label,
                expires_at=expires_at,
            )
            await self._learn(count, [_key_record(credential)])
            return Issued(credential=credential, key=made)

        return await self._changes.run(change)

    async def rotate(
        self,
        consumer: str,
        ident: str,
        *,
        overlap: timedelta = timedelta(0),
        environment: str | None = None,
    ) -> Issued:
        """A new key in the place of an old one, which is refused after `overlap`.

        Raises NotFoundError, ConflictError, StoreError; ValueError for a bad environment.
        """
        self.refuse_seed(consumer)
        made = new_key(environment)
        now = self._clock()

        async def change() -> Issued:
            parties = self.parties
            before = await parties.credential(consumer, ident)
            end = now + overlap
            if before.expires_at is not None:
                end = min(end, before.expires_at)
            old = {"expires_at": end} if overlap else {"revoked_at": now}
            fresh, after, count = await parties.rotate_credential(
                consumer,
                ident,
                digest=key_digest(made),
                prefix=shown_prefix(made),
                old=old,
            )
            await self._learn(count, [_key_record(fresh), _key_record(after)])
            return Issued(credential=fresh, key=made, replaces=after)

        return await self._changes.run(change)

    async def update_credential(
        self, consumer: str, ident: str, changes: dict[str, Any], version: int | None = None
    ) -> Credential:
        """Change label or expires_at. Raises NotFoundError, ConflictError, StoreError."""
        self.refuse_seed(consumer)

        async def change() -> Credential:
            credential, count = await self.parties.update_credential(
                consumer, ident, changes, version
            )
            await self._learn(count, [_key_record(credential)])
            return credential

        return await self._changes.run(change)

    async def revoke(self, consumer: str, ident: str, version: int | None = None) -> Credential:
        """Revoke a key. When this returns, every worker refuses it. Revoking twice keeps the first
        time.

        Raises NotFoundError, ConflictError, StoreError.
        """
        self.refuse_seed(consumer)

        async def change() -> Credential:
            credential = await self.parties.credential(consumer, ident)
            if credential.revoked_at is not None:
                return credential
            credential, count = await self.parties.update_credential(
                consumer, ident, {"revoked_at": self._clock()}, version
            )
            await self._learn(count, [_key_record(credential)])
            return credential

        return await self._changes.run(change)
