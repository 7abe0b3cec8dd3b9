"""Identity: who may call. Issues credentials, and keeps the workers' credential index in step.

```
 configuration's seed ─┐
 store (accounts,      ├─▶ Identity: directory in memory ─▶ CredentialIndex (shared memory)
   consumers,          │                               └ workers look up, no lock
   credentials) ───────┤         │
 credentials.cache ────┘         └─▶ credentials.cache (hashes; for starts without the store)
```

- **Order of a change**: the store's transaction, then the index (every worker feels it with
  its next lookup), then the cache, synced to disk; then the caller has its answer. A crash in
  between is repaired by the next `sync`, which makes directory, index and cache equal the store
  (`synced.py`).
- **The seed wins**: a credential in the configuration belongs to the consumer there.

A key is shown once, when it is issued; only its SHA-256 is kept. Keys have 190 random bits, so an
unsalted hash is safe to store. What else proves who calls has a digest, too
(`fastgate.model.digests`).
Memory: about 0.6 KiB a credential in the control process.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from fastgate.errors import ConfigurationError, ConflictError, FastGateError
from fastgate.identity import kinds, overrides
from fastgate.identity.synced import SyncedRecords, consumer_record, key_record, token_records
from fastgate.model.digests import NAMES
from fastgate.model.overrides import override_faults
from fastgate.model.policy import MAX_OVERRIDES
from fastgate.store.cache import ConsumerRecord, GoneRecord, KeyRecord

if TYPE_CHECKING:
    from fastgate.identity.kinds import NewCredential, NewRevocation
    from fastgate.store.parties import Consumer, Credential
    from fastgate.store.revocations import Revocation


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A credential, and what its owner needs to have (a key, a secret), which is stored nowhere.
    `replaces`: the credential that it replaces."""

    credential: Credential
    key: str
    replaces: Credential | None = None


class InvalidMember(FastGateError):
    """A member of a request is not valid; `path` names it."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class Identity(SyncedRecords):
    """Consumers, their credentials, and tokens that are revoked."""

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
        """The credentials of a consumer of the configuration."""
        directory = self.directory
        held = directory.held(directory.parties[ident])
        return sorted((directory.keys[digest] for digest in held), key=lambda key: key.id)

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
            await self.learn(count, [consumer_record(consumer)])
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
            await self.learn(count, [consumer_record(consumer)])
            return consumer

        return await self._changes.run(change)

    async def delete_consumer(self, ident: str, version: int | None = None) -> None:
        """Delete a consumer. When this returns, its keys are refused. Raises NotFoundError,
        ConflictError."""
        self.refuse_seed(ident)

        async def change() -> None:
            consumer, count = await self.parties.delete_consumer(ident, version)
            await self.learn(count, [GoneRecord(consumer.id)])

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
        """A new key; it works on every worker when this returns.

        `key`: take this one (from another gateway) instead of making one.
        Raises NotFoundError, ConflictError, StoreError; ValueError for a bad environment.
        """
        new = kinds.api_key(key, environment)
        return await self.add(consumer, new, label=label, expires_at=expires_at)

    async def add(
        self,
        consumer: str,
        new: NewCredential,
        *,
        label: str = "",
        expires_at: datetime | None = None,
    ) -> Issued:
        """A new credential; it works on every worker when this returns. One that was revoked, or
        has expired, can be given to a consumer again, unless it is a key.

        Raises NotFoundError, ConflictError, StoreError.
        """
        self.refuse_seed(consumer)
        held = self.directory.keys.get(new.digest)
        if held is not None and (self.directory.parties[held.consumer].seed or new.kind == "key"):
            raise ConflictError(f"This {NAMES[new.kind]} exists already.")

        async def change() -> Issued:
            credential, _, count = await self.parties.create_credential(
                consumer,
                digest=new.digest,
                prefix=new.prefix,
                label=label,
                expires_at=expires_at,
                kind=new.kind,
                about=new.about,
            )
            await self.learn(count, [key_record(credential)])
            return Issued(credential=credential, key=new.shown)

        return await self._changes.run(change)

    async def rotate(
        self,
        consumer: str,
        ident: str,
        *,
        overlap: timedelta = timedelta(0),
        environment: str | None = None,
    ) -> Issued:
        """A new key, or a new secret for a user, in the place of an old one, which is refused after
        `overlap`.

        Raises NotFoundError, ConflictError (also for credentials that have no secret), StoreError;
        ValueError for a bad environment.
        """
        self.refuse_seed(consumer)
        now = self._clock()

        async def change() -> Issued:
            parties = self.parties
            before = await parties.credential(consumer, ident)
            new = _replacement(before, environment)
            end = now + overlap
            if before.expires_at is not None:
                end = min(end, before.expires_at)
            old = {"expires_at": end} if overlap else {"revoked_at": now}
            fresh, after, count = await parties.rotate_credential(
                consumer, ident, digest=new.digest, prefix=new.prefix, old=old
            )
            await self.learn(count, [key_record(fresh), key_record(after)])
            return Issued(credential=fresh, key=new.shown, replaces=after)

        return await self._changes.run(change)

    async def create_for_subject(self, issuer: str, subject: str, plan: str) -> bool:
        """Make sure that a subject of an issuer has a consumer: if it has none, one is made on this
        plan. Whether its requests will be served. Raises ConflictError, StoreError.

        The consumer's id follows from issuer and subject, so workers and gateways that do this at
        the same moment make one consumer."""
        new = kinds.subject(issuer, subject)
        names = kinds.names_of(subject, new.digest)

        async def change() -> bool:
            held = self.directory.keys.get(new.digest)
            if held is None:
                consumer, credential, count = await self.parties.create_for_subject(
                    ident=kinds.consumer_of(new.digest),
                    names=names,
                    plan=plan,
                    digest=new.digest,
                    about=new.about,
                )
                held = key_record(credential)
                await self.learn(count, [consumer_record(consumer), held])
            return not held.revoked_at

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
            await self.learn(count, [key_record(credential)])
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
            await self.learn(count, [key_record(credential)])
            return credential

        return await self._changes.run(change)

    # ---- tokens -------------------------------------------------------------------------

    async def revoke_token(
        self, new: NewRevocation, expires_at: datetime, revoked_by: str
    ) -> tuple[Revocation, bool]:
        """Revoke a token of a caller until it expires: every worker refuses it when this returns.
        Whether it was not revoked before. Raises StoreError."""
        end = expires_at + timedelta(seconds=kinds.LEEWAY_S)

        async def change() -> tuple[Revocation, bool]:
            row, fresh, count = await self.revocations.add(
                digest=new.digest,
                whole=new.whole,
                about=new.about,
                revoked_by=revoked_by,
                expires_at=end,
            )
            await self.learn_revoked(count, token_records(row))
            return row, fresh

        return await self._changes.run(change)


def _replacement(before: Credential, environment: str | None) -> NewCredential:
    """What comes in the place of a credential. Raises ConflictError."""
    if before.kind == "basic":
        return kinds.basic(before.about["user"])
    if before.kind != "key":
        raise ConflictError(
            f"A {before.kind} has no secret that could be replaced. Add the new one, and revoke "
            "this one."
        )
    return kinds.api_key(None, environment)
