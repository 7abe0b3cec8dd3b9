"""Accounts, consumers and credentials.

Rows in, structs out, without rules except those of the tables. `fastgate.identity` passes changes
to the workers. Every change increments the counter of the topic "parties" in its transaction and
returns the new count. If a reader knows count N and gets N+1 for its own change, no other process
has changed anything in between.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from fastgate.errors import ConflictError, NotFoundError
from fastgate.model.digests import NAMES
from fastgate.store.account_history import balances, history, refusal
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store, count_up, counter
from fastgate.store.ids import new_id
from fastgate.store.pages import Page, decode_cursor, page_of
from fastgate.store.tables import accounts, consumers, credentials

TOPIC = "parties"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays."""

    id: str
    name: str
    created: datetime
    updated: datetime
    version: int


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls."""

    id: str
    account: str | None
    name: str
    plan: str | None
    suspended: bool
    created: datetime
    updated: datetime
    version: int
    limits: dict[str, dict[str, Any]] = {}


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer's credential: the hash of what it shows, and what identifies it to people."""

    id: str
    consumer: str
    digest: bytes
    prefix: str
    label: str
    created: datetime
    updated: datetime
    version: int
    expires_at: datetime | None
    revoked_at: datetime | None
    kind: str = "key"
    """See `fastgate.model.digests`; "key" is an API key."""
    about: dict[str, str] = {}
    """Issuer and subject, pin, user."""


Row = TypeVar("Row", Account, Consumer, Credential)


def now_utc() -> datetime:
    return datetime.now(UTC)


def _struct(kind: type[Row], row: sa.Row[Any]) -> Row:
    return kind(**row._asdict())


class Parties:
    """The three tables as operations; each is one transaction."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # ---- accounts -----------------------------------------------------------------------

    async def create_account(self, name: str) -> Account:
        """Raises ConflictError when the name is taken."""
        now = now_utc()
        account = Account(id=new_id("acc"), name=name, created=now, updated=now, version=1)
        async with self.store.write() as connection:
            await _insert(connection, accounts, account, f"An account named {name!r}")
        return account

    async def account(self, ident: str) -> Account:
        """By id or by name. Raises NotFoundError."""
        async with self.store.read() as connection:
            return await _one(connection, accounts, Account, ident)

    async def accounts(self, *, cursor: str | None, limit: int) -> Page[Account]:
        async with self.store.read() as connection:
            return await _page(connection, accounts, Account, [], cursor, limit)

    async def rename_account(self, ident: str, name: str, version: int | None) -> Account:
        """Raises NotFoundError; ConflictError if the name is taken or the version has changed."""
        async with self.store.write() as connection:
            account = await _one(connection, accounts, Account, ident)
            return await _update(connection, accounts, account, {"name": name}, version)

    async def delete_account(self, ident: str, version: int | None) -> None:
        """Raises NotFoundError; ConflictError while it has consumers, and always if it ever had
        subscriptions or movements of money."""
        async with self.store.write() as connection:
            account = await _one(connection, accounts, Account, ident)
            _check_version(account, version)
            found = await history(connection, account.id)
            if found:
                money = await balances(connection, account.id)
                raise ConflictError(refusal(account.name, found, money))
            await connection.execute(sa.delete(accounts).where(accounts.c.id == account.id))

    # ---- consumers ----------------------------------------------------------------------

    async def create_consumer(
        self,
        *,
        name: str,
        account: str | None,
        plan: str | None,
        suspended: bool,
        limits: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> tuple[Consumer, int]:
        """Raises ConflictError when the name is taken, DanglingError for an unknown account."""
        now = now_utc()
        async with self.store.write() as connection:
            owner = await _owner(connection, account) if account else None
            consumer = Consumer(
                id=new_id("con"),
                account=owner.id if owner else None,
                name=name,
                plan=plan,
                suspended=suspended,
                limits={name: dict(each) for name, each in (limits or {}).items()},
                created=now,
                updated=now,
                version=1,
            )
            await _insert(connection, consumers, consumer, f"A consumer named {name!r}")
            return consumer, await count_up(connection, TOPIC)

    async def consumer(self, ident: str) -> Consumer:
        """By id or by name. Raises NotFoundError."""
        async with self.store.read() as connection:
            return await _one(connection, consumers, Consumer, ident)

    async def consumers(
        self,
        *,
        cursor: str | None,
        limit: int,
        account: str | None = None,
        plan: str | None = None,
    ) -> Page[Consumer]:
        where: list[sa.ColumnElement[bool]] = []
        async with self.store.read() as connection:
            if account is not None:
                owner = await _one(connection, accounts, Account, account)
                where.append(consumers.c.account == owner.id)
            if plan is not None:
                where.append(consumers.c.plan == plan)
            return await _page(connection, consumers, Consumer, where, cursor, limit)

    async def update_consumer(
        self, ident: str, changes: dict[str, Any], version: int | None
    ) -> tuple[Consumer, int]:
        """Change name, account, plan, suspended, limits. As create_consumer; NotFoundError."""
        async with self.store.write() as connection:
            consumer = await _one(connection, consumers, Consumer, ident)
            if changes.get("account") is not None:
                owner = await _owner(connection, changes["account"])
                changes = {**changes, "account": owner.id}
            changed = await _update(connection, consumers, consumer, changes, version)
            return changed, await count_up(connection, TOPIC)

    async def delete_consumer(self, ident: str, version: int | None) -> tuple[Consumer, int]:
        """Delete it with its credentials. Raises NotFoundError, ConflictError."""
        async with self.store.write() as connection:
            consumer = await _one(connection, consumers, Consumer, ident)
            _check_version(consumer, version)
            await connection.execute(sa.delete(consumers).where(consumers.c.id == consumer.id))
            return consumer, await count_up(connection, TOPIC)

    # ---- credentials --------------------------------------------------------------------

    async def create_credential(
        self,
        consumer: str,
        *,
        digest: bytes,
        prefix: str,
        label: str,
        expires_at: datetime | None,
        kind: str = "key",
        about: Mapping[str, str] | None = None,
    ) -> tuple[Credential, Consumer, int]:
        """Raises NotFoundError; ConflictError if it already exists, of whichever consumer. One that
        is no key, and was revoked or has expired, is replaced."""
        async with self.store.write() as connection:
            owner = await _one(connection, consumers, Consumer, consumer)
            if kind != "key":
                await connection.execute(_delete_ended(digest))
            new = _new_credential(owner.id, digest, prefix, label, expires_at)
            new = msgspec.structs.replace(new, kind=kind, about=dict(about or {}))
            await _insert(connection, credentials, new, f"This {NAMES[kind]}")
            return new, owner, await count_up(connection, TOPIC)

    async def create_for_subject(
        self, *, ident: str, names: Sequence[str], plan: str, digest: bytes, about: dict[str, str]
    ) -> tuple[Consumer, Credential, int]:
        """The consumer that has a subject; made with this id if nobody has it, with the first of
        the names that is not taken. Harmless when it is done again, or by others at the same
        moment. Raises ConflictError if all names are taken."""
        async with self.store.write() as connection:
            held = await _by_digest(connection, digest)
            if held is not None:
                owner = await _one(connection, consumers, Consumer, held.consumer)
                return owner, held, await counter(connection, TOPIC)
            now = now_utc()
            owner = Consumer(
                id=ident,
                account=None,
                name=names[0],
                plan=plan,
                suspended=False,
                created=now,
                updated=now,
                version=1,
            )
            owner = await _first_free(connection, owner, names)
            new = _new_credential(owner.id, digest, "", "", None)
            new = msgspec.structs.replace(new, kind="subject", about=about)
            try:
                await _insert(connection, credentials, new, "This subject")
            except ConflictError:  # another gateway was faster by a moment
                held = await _by_digest(connection, digest)
                if held is None:
                    raise
                owner, new = await _one(connection, consumers, Consumer, held.consumer), held
            return owner, new, await count_up(connection, TOPIC)

    async def credential(self, consumer: str, ident: str) -> Credential:
        """One credential of one consumer. Raises NotFoundError."""
        async with self.store.read() as connection:
            return await _credential(connection, consumer, ident)

    async def credentials(
        self, consumer: str, *, cursor: str | None, limit: int
    ) -> Page[Credential]:
        async with self.store.read() as connection:
            owner = await _one(connection, consumers, Consumer, consumer)
            where = [credentials.c.consumer == owner.id]
            return await _page(connection, credentials, Credential, where, cursor, limit)

    async def update_credential(
        self, consumer: str, ident: str, changes: dict[str, Any], version: int | None
    ) -> tuple[Credential, int]:
        """Change label, expires_at, revoked_at. Raises NotFoundError, ConflictError."""
        async with self.store.write() as connection:
            credential = await _credential(connection, consumer, ident)
            changed = await _update(connection, credentials, credential, changes, version)
            return changed, await count_up(connection, TOPIC)

    async def rotate_credential(
        self, consumer: str, ident: str, *, digest: bytes, prefix: str, old: dict[str, Any]
    ) -> tuple[Credential, Credential, int]:
        """Create a credential from an old one, and change the old one by `old`; both or neither.

        Returns the new one, the changed old one, and the count. Raises NotFoundError;
        ConflictError if the old one is revoked.
        """
        async with self.store.write() as connection:
            before = await _credential(connection, consumer, ident)
            if before.revoked_at is not None:
                raise ConflictError(
                    f"The credential {ident!r} is revoked; issue a new one instead of rotating it."
                )
            fresh = _new_credential(
                before.consumer, digest, prefix, before.label, before.expires_at
            )
            fresh = msgspec.structs.replace(fresh, kind=before.kind, about=before.about)
            await _insert(connection, credentials, fresh, f"This {NAMES[before.kind]}")
            after = await _update(connection, credentials, before, old, None)
            return fresh, after, await count_up(connection, TOPIC)

    # ---- reading all --------------------------------------------------------------------

    async def count(self) -> int:
        """The count of the topic: the number of changes to parties."""
        async with self.store.read() as connection:
            return await counter(connection, TOPIC)

    async def everything(
        self, since: datetime, batch: int = 5000
    ) -> AsyncGenerator[list[tuple[Consumer, list[Credential]]]]:
        """All consumers with their credentials, in batches, from one snapshot.

        Leaves out credentials revoked or expired before `since`.
        """
        async with self.store.read() as connection:
            after = ""
            while True:
                rows = await connection.execute(
                    sa.select(consumers)
                    .where(consumers.c.id > after)
                    .order_by(consumers.c.id)
                    .limit(batch)
                )
                owners = [_struct(Consumer, row) for row in rows]
                if not owners:
                    return
                after, first = owners[-1].id, owners[0].id
                held: dict[str, list[Credential]] = {owner.id: [] for owner in owners}
                found = await connection.execute(
                    sa.select(credentials)
                    .where(credentials.c.consumer >= first, credentials.c.consumer <= after)
                    .where(
                        sa.or_(credentials.c.revoked_at.is_(None), credentials.c.revoked_at > since)
                    )
                    .where(
                        sa.or_(credentials.c.expires_at.is_(None), credentials.c.expires_at > since)
                    )
                )
                for row in found:
                    credential = _struct(Credential, row)
                    held[credential.consumer].append(credential)
                yield [(owner, held[owner.id]) for owner in owners]


# ---- statements shared by all three -----------------------------------------------------


def _new_credential(
    consumer: str, digest: bytes, prefix: str, label: str, expires_at: datetime | None
) -> Credential:
    now = now_utc()
    return Credential(
        id=new_id("crd"),
        consumer=consumer,
        digest=digest,
        prefix=prefix,
        label=label,
        created=now,
        updated=now,
        version=1,
        expires_at=expires_at,
        revoked_at=None,
    )


def _delete_ended(digest: bytes) -> sa.Delete:
    """Delete a credential that is refused for good."""
    return sa.delete(credentials).where(
        credentials.c.digest == digest,
        sa.or_(credentials.c.revoked_at.is_not(None), credentials.c.expires_at <= now_utc()),
    )


async def _by_digest(connection: AsyncConnection, digest: bytes) -> Credential | None:
    rows = await connection.execute(sa.select(credentials).where(credentials.c.digest == digest))
    row = rows.one_or_none()
    return None if row is None else _struct(Credential, row)


async def _first_free(
    connection: AsyncConnection, consumer: Consumer, names: Sequence[str]
) -> Consumer:
    """The consumer with this id, or a new one with the first name that nobody has. Raises
    ConflictError."""
    for name in names:
        rows = await connection.execute(sa.select(consumers).where(consumers.c.id == consumer.id))
        row = rows.one_or_none()
        if row is not None:
            return _struct(Consumer, row)
        named = msgspec.structs.replace(consumer, name=name)
        try:
            await _insert(connection, consumers, named, f"A consumer named {name!r}")
        except ConflictError:  # the name, or the id a moment ago
            continue
        return named
    raise ConflictError(f"Consumers named {' and '.join(map(repr, names))} exist already.")


NOUN = {"accounts": "account", "consumers": "consumer", "credentials": "credential"}


async def _insert(connection: AsyncConnection, table: sa.Table, row: Row, what: str) -> None:
    try:
        async with connection.begin_nested():
            await connection.execute(sa.insert(table).values(msgspec.structs.asdict(row)))
    except sa.exc.IntegrityError as error:
        raise ConflictError(f"{what} exists already.") from error


async def _one(connection: AsyncConnection, table: sa.Table, kind: type[Row], ident: str) -> Row:
    """By id, else by name."""
    if not ident.isprintable():  # PostgreSQL does not allow NUL in text
        raise NotFoundError(f"There is no {NOUN[table.name]} {ident!r}.")
    for column in (table.c.id, table.c.name):
        row = (await connection.execute(sa.select(table).where(column == ident))).one_or_none()
        if row is not None:
            return _struct(kind, row)
    raise NotFoundError(f"There is no {NOUN[table.name]} {ident!r}.")


async def _owner(connection: AsyncConnection, account: str) -> Account:
    try:
        return await _one(connection, accounts, Account, account)
    except NotFoundError as error:
        raise DanglingError(str(error)) from error


async def _credential(connection: AsyncConnection, consumer: str, ident: str) -> Credential:
    owner = await _one(connection, consumers, Consumer, consumer)
    if not ident.isprintable():
        raise NotFoundError(f"The consumer {owner.name!r} has no credential {ident!r}.")
    row = (
        await connection.execute(
            sa.select(credentials).where(
                credentials.c.id == ident, credentials.c.consumer == owner.id
            )
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"The consumer {owner.name!r} has no credential {ident!r}.")
    return _struct(Credential, row)


async def _page(
    connection: AsyncConnection,
    table: sa.Table,
    kind: type[Row],
    where: list[sa.ColumnElement[bool]],
    cursor: str | None,
    limit: int,
) -> Page[Row]:
    query = sa.select(table).where(*where).order_by(table.c.id).limit(limit + 1)
    if cursor is not None:
        query = query.where(table.c.id > decode_cursor(cursor, str))
    rows = await connection.execute(query)
    return page_of([_struct(kind, row) for row in rows], limit, lambda item: item.id)


class DanglingError(NotFoundError):
    """The account of a consumer does not exist."""


class StaleError(ConflictError):
    """The record was changed since the version that the caller knows."""


def _check_version(row: Account | Consumer | Credential, version: int | None) -> None:
    if version is not None and row.version != version:
        raise StaleError(
            f"It was changed in the meantime: you have version {version}, it is at {row.version}."
        )


async def _update(
    connection: AsyncConnection,
    table: sa.Table,
    row: Row,
    changes: dict[str, Any],
    version: int | None,
) -> Row:
    """Change a row that was just read. The version in WHERE detects a change in between."""
    _check_version(row, version)
    values = {**changes, "updated": now_utc(), "version": row.version + 1}
    try:
        async with connection.begin_nested():
            done = await connection.execute(
                sa.update(table)
                .where(table.c.id == row.id, table.c.version == row.version)
                .values(values)
            )
    except sa.exc.IntegrityError as error:
        raise ConflictError(
            f"Another {NOUN[table.name]} has the name {changes.get('name')!r}."
        ) from error
    if done.rowcount != 1:
        raise StaleError("It was changed by someone else at the same moment; read it again.")
    return msgspec.structs.replace(row, **values)
