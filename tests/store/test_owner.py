"""Who owns a store that prices requests; on SQLite and PostgreSQL."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from fastgate.errors import OwnedError
from fastgate.store import owner
from fastgate.store.engine import Store
from fastgate.store.owner import EXPIRY, Owner, owners

ME = Owner(
    boot="a" * 32,
    state="state-a:1",
    machine=owner.machine(),
    node="alpha",
    folder="/srv/alpha",
    pid=os.getpid(),
    born=owner.started_at(os.getpid()),
)
OTHER = msgspec.structs.replace(
    ME, boot="b" * 32, state="state-b:2", machine="another", node="beta", folder="/srv/beta"
)


async def claim(store: Store, who: Owner) -> Owner | None:
    return await store.run_write(lambda connection: owner.claim(connection, who))


async def renew(store: Store, who: Owner) -> None:
    await store.run_write(lambda connection: owner.renew(connection, who))


async def age(store: Store, by: timedelta) -> None:
    """As if the last heartbeat had been so long ago."""
    beat = datetime.now(UTC) - by
    await store.run_write(
        lambda connection: connection.execute(sa.update(owners).values(beat=beat))
    )


async def test_the_first_owns_it_and_stays(store: Store) -> None:
    assert await claim(store, ME) is None
    await renew(store, ME)
    assert await claim(store, ME) is None  # its next control process


async def test_another_is_refused_and_hears_whose_it_is(store: Store) -> None:
    await claim(store, ME)
    with pytest.raises(OwnedError) as caught:
        await claim(store, OTHER)
    said = str(caught.value)
    for part in (
        "alpha",
        f"pid {ME.pid}",
        "/srv/alpha",
        "since 2",
        "heartbeat was 0 s",
        "store.url",
    ):
        assert part in said
    await renew(store, ME)


async def test_a_crashed_owner_is_taken_over_after_its_heartbeat_expires(store: Store) -> None:
    await claim(store, ME)
    await age(store, EXPIRY - timedelta(seconds=5))
    with pytest.raises(OwnedError):
        await claim(store, OTHER)
    await age(store, EXPIRY + timedelta(seconds=1))
    assert await claim(store, OTHER) == ME


async def test_one_that_wakes_up_after_it_was_taken_over_loses(store: Store) -> None:
    await claim(store, ME)
    await age(store, EXPIRY + timedelta(seconds=1))
    await claim(store, OTHER)
    with pytest.raises(OwnedError, match=r"on beta .* took over the store"):
        await renew(store, ME)
    with pytest.raises(OwnedError, match="belongs to the gateway on beta"):
        await claim(store, ME)
    await renew(store, OTHER)


async def test_the_same_state_directory_takes_over_at_once(store: Store) -> None:
    await claim(store, ME)
    again = msgspec.structs.replace(ME, boot="c" * 32, machine="moved", node="gamma")
    assert await claim(store, again) == ME


async def test_a_process_that_is_gone_here_is_taken_over_at_once(store: Store) -> None:
    pid = 2**22 + 1  # none has such a number
    dead = msgspec.structs.replace(ME, pid=pid, born=1)
    here = msgspec.structs.replace(OTHER, machine=ME.machine)
    await claim(store, dead)
    with pytest.raises(OwnedError):
        await claim(store, OTHER)  # on another machine, where the pid says nothing
    assert await claim(store, here) == dead
    with pytest.raises(OwnedError):
        await claim(store, ME)  # `here` has the pid of this process, which lives


async def test_a_pid_that_is_used_again_is_not_the_owner(store: Store) -> None:
    await claim(store, msgspec.structs.replace(ME, born=ME.born - 1))
    here = msgspec.structs.replace(OTHER, machine=ME.machine)
    assert await claim(store, here) is not None


async def test_what_was_released_is_free(store: Store) -> None:
    await claim(store, ME)
    await store.run_write(lambda connection: owner.release(connection, OTHER))  # not its own
    with pytest.raises(OwnedError):
        await claim(store, OTHER)
    await store.run_write(lambda connection: owner.release(connection, ME))
    assert await claim(store, OTHER) == ME


async def test_a_row_that_is_gone_is_made_again(store: Store) -> None:
    """The store was put back from a backup."""
    await claim(store, ME)
    await store.run_write(lambda connection: connection.execute(sa.delete(owners)))
    await renew(store, ME)
    with pytest.raises(OwnedError):
        await claim(store, OTHER)


def test_a_dead_process_was_never_born(tmp_path: Path) -> None:
    assert owner.started_at(2**22 + 1) == 0
    assert owner.started_at(os.getpid()) > 0
    assert owner.machine() == owner.machine()
