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
- **Requests without a credential** can count as a consumer, on routes with `anonymous`. Such a
  consumer has one more entry, which is made here and is in no list: the digest of its id.
- **A revoked token** has an entry, too, which names a row of no consumer. It is there until the
  index is rebuilt; after it has expired, it is not put into the next one.
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
from fastgate.model import digests
from fastgate.store.cache import CacheRecord, ConsumerRecord, KeyRecord, TokenRecord

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
        self.tokens: dict[bytes, int] = {}
        """Revoked tokens → when they expire, Unix seconds."""
        self._token_row = -1
        self._anonymous: dict[str, bytes] = {}
        """Ids of consumers as whom requests without a credential count → digests."""
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
            self._put_anonymous(record.id)
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

    # ---- requests without a credential --------------------------------------------------

    def set_anonymous(self, idents: set[str]) -> None:
        """The consumers as whom requests without a credential count, from now on."""
        for ident in self._anonymous.keys() - idents:
            self.drop_key(self._anonymous.pop(ident))
        for ident in idents - self._anonymous.keys():
            self._anonymous[ident] = digests.consumer(ident)
            self._put_anonymous(ident)

    def missing(self) -> set[str]:
        """Those of them that do not exist."""
        return self._anonymous.keys() - self.parties.keys()

    def held(self, party: Party) -> set[bytes]:
        """The digests of a consumer's credentials: without the one for requests that have none."""
        return party.digests - {self._anonymous.get(party.record.id, b"")}

    def _put_anonymous(self, ident: str) -> None:
        digest = self._anonymous.get(ident)
        if digest is not None:
            self.put_key(KeyRecord(digest, f"anonymous-{ident}", ident, 0, 0, "consumer"))

    # ---- revoked tokens -----------------------------------------------------------------

    def revoke_token(self, digest: bytes, expires_at: int) -> None:
        """Refuse a token from now on. `expires_at`: when it can be forgotten."""
        known = self.tokens.get(digest)
        self.tokens[digest] = max(expires_at, known or 0)
        if known is None:
            self._with_room(lambda: self._put_token(digest))

    def set_revoked_tokens(self, tokens: Mapping[bytes, int]) -> None:
        """These are all of them."""
        self.tokens = {digest: at for digest, at in self.tokens.items() if digest in tokens}
        for digest, expires_at in tokens.items():
            self.revoke_token(digest, expires_at)

    def forget_tokens(self, now: int) -> None:
        """Forget those that have expired."""
        self.tokens = {digest: at for digest, at in self.tokens.items() if at > now}

    def _put_token(self, digest: bytes) -> None:
        if self._token_row < 0:
            self._token_row = self.index.set_consumer(
                "revoked-tokens", identity=0, suspended=True, name="revoked tokens"
            )
        self.index.put(digest, self._token_row, expires_at=PAST, identity=0)
        self.index.revoke(digest)

    # ---- room ---------------------------------------------------------------------------

    def _with_room(self, write: Callable[[], T]) -> T:
        try:
            return write()
        except IndexFullError:
            grown = self.index.grow()
            if grown.capacity <= self.size:  # of the tokens that it forgets, many live longer
                grown = self.index.grow(max(2 * self.size, self.index.capacity))
            self.index = grown
        for digest, record in list(self.keys.items()):
            # Revoked long ago: it was not copied into the larger index.
            if record.revoked_at and self.index.find_digest(digest) is None:
                del self.keys[digest]
                self._forget(self.parties[record.consumer], digest)
        lost = [digest for digest in self.tokens if self.index.find_digest(digest) is None]
        if len(lost) == len(self.tokens):
            self._token_row = -1  # it has no entry, so the index may give it to a consumer
        for digest in lost:
            self._put_token(digest)
        done = write()
        self._on_index(self.index)
        return done

    def stored(self) -> Iterator[CacheRecord]:
        """The records of everything that came from the store: the cache must have these."""
        for party in self.parties.values():
            if not party.seed:
                yield party.record
                for digest in self.held(party):
                    yield self.keys[digest]
        yield from self.shadows.values()
        for digest, expires_at in self.tokens.items():
            yield TokenRecord(digest, expires_at)

    @property
    def size(self) -> int:
        """How many records there are."""
        return len(self.parties) + len(self.keys) + len(self.tokens)
