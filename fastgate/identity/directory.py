"""Directory: who may call, in the control process's memory and in the workers' credential index.

The one writer of the index. Consumers of the configuration (*seeds*) and of the store are in the
same index; a key that both claim belongs to the seed, and comes back to its stored consumer when
the configuration lets go of it.

    Party ──row──▶ consumer row in the index ◀── entries of its keys

- A row is immutable: to change a consumer is to write a new row and point its keys at it.
- A party has a row (`row >= 0`) only while it has keys here, so the index's own count of
  references says when a row may be used again.
- A revoked key keeps its entry, so that its use is refused with `credential_revoked`; so does one
  that is gone, until the index is rebuilt.
- When the index is full, a larger one takes over: `on_index` sends it to the workers.
- **Who pays** is a number in the row too, the account's slot in shared memory (`pay_from`);
  a consumer of an account that has none yet gets it as soon as there is one.
- **A consumer whose plan the configuration does not have is refused**, as if suspended: without
  its plan it would go unlimited.

Memory: about 0.6 KiB a credential.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Literal, TypeVar

from fastgate._core.shared.credentials import NO_ACCOUNT, NO_PLAN, CredentialIndex, IndexFullError
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.identity import overrides
from fastgate.store.cache import CacheRecord, ConsumerRecord, KeyRecord

T = TypeVar("T")

log = logging.getLogger("fastgate.identity")

PAST = 1
"""An expiry long ago: a revoked key is inserted as expired and then revoked, so it is at no moment
valid."""


def _no_cap(kind: str, ident: str) -> tuple[int, int]:
    return 0, 0


class Party:
    """A consumer in memory, and what was written in the index for it."""

    __slots__ = ("account_slot", "digests", "record", "row", "seed", "slot")

    def __init__(self, record: ConsumerRecord, *, seed: bool) -> None:
        self.record = record
        self.seed = seed
        self.row = -1
        self.slot: int | None = None
        self.account_slot: int | None = None
        self.digests: set[bytes] = set()


class Directory:
    """Parties and keys by id and digest. `shadows`: stored keys that a seed has claimed."""

    def __init__(self, index: CredentialIndex, on_index: Callable[[CredentialIndex], None]) -> None:
        self.index = index
        self._on_index = on_index
        self.parties: dict[str, Party] = {}
        self.keys: dict[bytes, KeyRecord] = {}
        self.shadows: dict[bytes, KeyRecord] = {}
        self.slots: Mapping[str, int] | None = None
        self.account_slots: Mapping[str, int] = {}
        self.cap: Callable[[Literal["consumer", "credential"], str], tuple[int, int]] = _no_cap
        """Spending limits: kind and id → micro-units and period, (0, 0): none."""

    # ---- consumers ----------------------------------------------------------------------

    def put_consumer(self, record: ConsumerRecord, *, seed: bool) -> None:
        """Add or change a consumer; its keys follow."""
        party = self.parties.get(record.id)
        if party is None:
            self.parties[record.id] = Party(record, seed=seed)
            return
        changed = party.record != record
        party.record, party.seed = record, seed
        if changed:
            self._rewrite(party)

    def drop_consumer(self, ident: str) -> None:
        """The consumer is gone, and its keys with it."""
        party = self.parties.get(ident)
        if party is not None:
            for digest in list(party.digests):
                self.drop_key(digest)
            del self.parties[ident]

    def set_slots(self, slots: Mapping[str, int]) -> None:
        """The plans' slot numbers have changed: rewrite the affected consumers."""
        first = self.slots is None
        self.slots = dict(slots)
        for party in self.parties.values():
            if party.row >= 0 and (first or party.slot != self._slot(party.record)):
                self._rewrite(party)

    def pay_from(self, accounts: Mapping[str, int]) -> None:
        """Set the slots of all accounts in shared memory, and rewrite the affected consumers."""
        self.account_slots = accounts
        for party in self.parties.values():
            if party.row >= 0 and party.account_slot != self._account_slot(party.record):
                self._rewrite(party)

    def without_slot(self) -> set[str]:
        """The accounts that have consumers with keys, but no slot."""
        return {
            party.record.account
            for party in self.parties.values()
            if party.record.account is not None
            and party.row >= 0
            and party.record.account not in self.account_slots
        }

    def _account_slot(self, record: ConsumerRecord) -> int | None:
        return None if record.account is None else self.account_slots.get(record.account)

    def _slot(self, record: ConsumerRecord) -> int | None:
        if record.plan is None or self.slots is None:
            return None
        return self.slots.get(record.plan)

    def _rewrite(self, party: Party) -> None:
        """Give the party a new row, if it has one, and point its keys there."""
        party.row = -1
        if party.digests:
            row = self._row(party)
            for digest in party.digests:
                self.index.repoint(digest, row)

    def alone(self, ident: str) -> tuple[CredentialIndex, int] | None:
        """An index with nothing but a consumer's row, as it is or would be in the workers' one;
        None: no such consumer is known."""
        party = self.parties.get(ident)
        if party is None:
            return None
        index = CredentialIndex.create(1)
        return index, self._write(index, party.record)

    def _row(self, party: Party) -> int:
        if party.row < 0:
            record = party.record
            party.slot = self._slot(record)
            if self._planless(record):
                log.warning(
                    "The consumer %s is on the plan %s, which the configuration does not have; "
                    "its requests are refused.",
                    record.name,
                    record.plan,
                )
            party.account_slot = self._account_slot(record)
            party.row = self._with_room(lambda: self._write(self.index, record))
        return party.row

    def _planless(self, record: ConsumerRecord) -> bool:
        """Whether it is on a plan that the configuration does not have."""
        return record.plan is not None and self._slot(record) is None and self.slots is not None

    def _write(self, index: CredentialIndex, record: ConsumerRecord) -> int:
        """A consumer's row in an index."""
        slot, payer = self._slot(record), self._account_slot(record)
        return index.set_consumer(
            record.id,
            identity=stable_hash(record.id),
            account=stable_hash(record.account) if record.account else 0,
            account_slot=NO_ACCOUNT if payer is None else payer,
            spending=self.cap("consumer", record.id),
            plan=NO_PLAN if slot is None else slot,
            suspended=record.suspended or self._planless(record),
            name=record.name,
            plan_name=record.plan or "",
            overrides=overrides.rows(record.limits),
        )

    # ---- keys ---------------------------------------------------------------------------

    def put_key(self, record: KeyRecord) -> None:
        """Add or change a key of a consumer that is known; of an unknown one it is dropped."""
        party = self.parties.get(record.consumer)
        old = self.keys.get(record.digest)
        if party is None or old == record:
            return
        if old is not None and old.consumer != record.consumer:
            owner = self.parties[old.consumer]
            if owner.seed and not party.seed:
                self.shadows[record.digest] = record
                return
            if party.seed and not owner.seed:
                self.shadows[record.digest] = old
            self._forget(owner, record.digest)
        self.keys[record.digest] = record
        party.digests.add(record.digest)
        self._put(record, self._row(party))

    def _put(self, record: KeyRecord, row: int) -> None:
        expires = PAST if record.revoked_at else record.expires_at
        self._with_room(
            lambda: self.index.put(
                record.digest,
                row,
                expires_at=expires,
                identity=stable_hash(record.id),
                spending=self.cap("credential", record.id),
            )
        )
        if record.revoked_at:
            self.index.revoke(record.digest)

    def recap(self, consumer: str | None = None, credential: str | None = None) -> None:
        """Spending limits have changed: of one consumer, of one key, or (neither given) of all."""
        for party in list(self.parties.values()):
            mine = consumer in (None, party.record.id) and credential is None
            if party.row >= 0 and mine:
                self._rewrite(party)
        for record in list(self.keys.values()):
            mine = credential in (None, record.id) and consumer is None
            if mine and not record.revoked_at:
                self._put(record, self._row(self.parties[record.consumer]))

    def drop_key(self, digest: bytes) -> None:
        """The key is refused from now on, unless it was lent to a seed: then it goes back."""
        record = self.keys.pop(digest, None)
        if record is None:
            return
        self.index.revoke(digest)
        self._forget(self.parties[record.consumer], digest)
        lender = self.shadows.pop(digest, None)
        if lender is not None and lender.consumer in self.parties:
            self.put_key(lender)

    def drop_shadows(self, keep: Container[bytes]) -> None:
        """Forget the lent keys that are no longer in the store."""
        for digest in [digest for digest in self.shadows if digest not in keep]:
            del self.shadows[digest]

    @staticmethod
    def _forget(party: Party, digest: bytes) -> None:
        party.digests.discard(digest)
        if not party.digests:
            party.row = -1  # the index frees it once no entry names it

    # ---- room ---------------------------------------------------------------------------

    def _with_room(self, write: Callable[[], T]) -> T:
        try:
            return write()
        except IndexFullError:
            self.index = self.index.grow()
        for digest, record in list(self.keys.items()):
            # Revoked long ago: it was not copied into the larger index.
            if record.revoked_at and self.index.find_digest(digest) is None:
                del self.keys[digest]
                self._forget(self.parties[record.consumer], digest)
        done = write()
        self._on_index(self.index)
        return done

    def stored(self) -> Iterator[CacheRecord]:
        """The records of everything that came from the store: the cache must have these."""
        for party in self.parties.values():
            if not party.seed:
                yield party.record
                for digest in party.digests:
                    yield self.keys[digest]
        yield from self.shadows.values()
