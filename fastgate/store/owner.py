"""The owner of a store with priced requests: one gateway, in one row.

Each gateway holds the balances of all wallets in its own memory, so two on one database would spend
each balance twice. The owner writes a heartbeat. Another gateway may take over

    when the owner has ended gracefully          at once
    from the same state directory                at once: that directory is locked while it is used
    when its process on this machine is gone     at once
    otherwise                                    `EXPIRY` after the last heartbeat

The previous owner notices a takeover at its next heartbeat (`renew`). On PostgreSQL, times are the
database's own, so that the clocks of hosts need not agree.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from fastgate.errors import OwnedError
from fastgate.store.columns import UtcTime, id_type, metadata

EXPIRY = timedelta(seconds=15)

owners = sa.Table(
    "owners",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),  # 1: there is one row
    sa.Column("boot", id_type(32), nullable=False),
    sa.Column("state", id_type(64), nullable=False),
    sa.Column("machine", id_type(64), nullable=False),
    sa.Column("node", sa.String(255), nullable=False),
    sa.Column("folder", sa.String(4096), nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("born", sa.BigInteger, nullable=False),
    sa.Column("since", UtcTime, nullable=False),
    sa.Column("beat", UtcTime),
)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway, as others identify it."""

    boot: str
    """New at each start of the gateway."""
    state: str
    """Identifies its state directory, wherever that is mounted; a copy has a different one."""
    machine: str
    """The scope of process ids: the boot of a kernel, and a namespace in it."""
    node: str
    folder: str
    pid: int
    born: int
    """When the process started, in the kernel's ticks, because pids are reused."""


class _Row(msgspec.Struct, frozen=True):
    owner: Owner
    since: datetime
    beat: datetime | None


_COLUMNS = ("boot", "state", "machine", "node", "folder", "pid", "born")


def claim(connection: sa.Connection, me: Owner) -> Owner | None:
    """Become or stay the owner. Returns the previous owner. Raises OwnedError."""
    row, now = _look(connection)
    if row is None:
        connection.execute(sa.insert(owners).values(**_values(me), id=1, since=now, beat=now))
        return None
    if row.owner.boot == me.boot:
        connection.execute(sa.update(owners).values(beat=now))
        return None
    if not _may_take(row, me, now):
        raise OwnedError(_refusal(row, now))
    connection.execute(sa.update(owners).values(**_values(me), since=now, beat=now))
    return row.owner


def renew(connection: sa.Connection, me: Owner) -> None:
    """Write a heartbeat. Raises OwnedError if another gateway has taken over."""
    row, _ = _look(connection)
    if row is not None and row.owner.boot != me.boot:
        raise OwnedError(_lost(row))
    claim(connection, me)


def release(connection: sa.Connection, me: Owner) -> None:
    """Give up ownership, so that the next gateway need not wait."""
    connection.execute(sa.update(owners).where(owners.c.boot == me.boot).values(beat=None))


def _look(connection: sa.Connection) -> tuple[_Row | None, datetime]:
    """The row, locked, and the time."""
    if connection.dialect.name != "postgresql":
        found, now = connection.execute(sa.select(owners)).one_or_none(), datetime.now(UTC)
    else:
        # One claim at a time, even if there is no row to lock yet.
        connection.execute(sa.text("LOCK TABLE owners IN SHARE ROW EXCLUSIVE MODE"))
        found = connection.execute(sa.select(owners)).one_or_none()
        now = connection.scalar(sa.select(sa.func.clock_timestamp())) or datetime.now(UTC)
    if found is None:
        return None, now
    fields: dict[str, Any] = {name: getattr(found, name) for name in _COLUMNS}
    return _Row(Owner(**fields), found.since, found.beat), now


def _values(me: Owner) -> dict[str, Any]:
    return {name: getattr(me, name) for name in _COLUMNS}


def _may_take(row: _Row, me: Owner, now: datetime) -> bool:
    if row.beat is None or row.owner.state == me.state or now - row.beat > EXPIRY:
        return True
    return row.owner.machine == me.machine and not is_alive(row.owner)


def is_alive(owner: Owner) -> bool:
    """Whether its process is running; valid only on its own machine."""
    return started_at(owner.pid) == owner.born


def started_at(pid: int) -> int:
    """When a process started, in ticks since the kernel's start; 0: it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def machine() -> str:
    """The scope of this process's id."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{os.readlink('/proc/self/ns/pid')}"[:64]


def _who(row: _Row) -> str:
    owner = row.owner
    return f"{owner.node} (pid {owner.pid}, state directory {owner.folder})"


def _at(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _refusal(row: _Row, now: datetime) -> str:
    assert row.beat is not None
    age = max(0.0, (now - row.beat).total_seconds())
    return (
        f"the store belongs to the gateway on {_who(row)}, since {_at(row.since)}; its last "
        f"heartbeat was {age:.0f} s ago. Two gateways that price requests cannot share a store: "
        "each would spend the balances in full. Stop that gateway first, or give this one its own "
        "store (`store.url`). If that gateway has crashed, start this one again "
        f"{EXPIRY.total_seconds():.0f} s after its last heartbeat."
    )


def _lost(row: _Row) -> str:
    return (
        f"the gateway on {_who(row)} took over the store at {_at(row.since)}, because this one had "
        "written no heartbeat. This gateway ends: two that price requests cannot share a store."
    )
