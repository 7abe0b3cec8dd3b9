"""Changes one after another; recorded, also when the store was away; compared and undone."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from revisionkit import Control, adding, gateway

from fastgate.config.revisions import NeedsAdminError, Revisions, digest_of, document_of, yaml_of
from fastgate.errors import ConfigurationError, StoreError
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway
from fastgate.model.gateway import Store as StoreSection
from fastgate.model.store_url import StoreUrl
from fastgate.store.engine import Store


@pytest.fixture
async def pair(sqlite_url: str) -> Any:
    store = Store(sqlite_url)
    control = Control(gateway("free"))
    revisions = Revisions(control, store)
    await store.connect()
    yield control, revisions, store
    await store.stop()


async def sources(revisions: Revisions) -> list[tuple[int, str, str]]:
    page = await revisions.page(cursor=None, limit=100)
    return [(one.number, one.source, one.author) for one in page.items]


async def test_what_is_served_at_start_is_the_first_revision(pair: Any) -> None:
    control, revisions, _ = pair
    assert await sources(revisions) == [(1, "file", "gateway")]
    _, document = await revisions.get(1)
    assert document == document_of(control.gateway)
    await revisions.catch_up()
    assert len(await sources(revisions)) == 1


async def test_a_change_that_comes_before_the_first_revision_waits_for_it(
    sqlite_url: str,
) -> None:
    """The store answers already, and its listeners are still being told."""
    store = Store(sqlite_url)
    await store.connect()
    revisions = Revisions(Control(gateway("free")), store)
    assert (await revisions.change(adding("x"), author="a")).revision == 2
    await revisions.catch_up()
    assert await sources(revisions) == [(2, "api", "a"), (1, "file", "gateway")]
    await store.stop()


@pytest.mark.parametrize("known", [False, True])
async def test_a_file_that_is_read_again_before_the_store_is_there_is_the_second_revision(
    sqlite_url: str, known: bool
) -> None:
    """What was served at the start is the first, unless a run before had it."""
    store = Store(sqlite_url)
    if known:
        before = Revisions(Control(gateway("free")), store)
        await store.connect()
        assert await sources(before) == [(1, "file", "gateway")]
        await store.stop()
        store = Store(sqlite_url)
    control = Control(gateway("free"))
    revisions = Revisions(control, store)
    for names in (("free", "pro"), ("free", "pro", "max")):
        control.file = gateway(*names)
        assert (await revisions.reload(author="sighup")).revision is None
    await store.connect()
    assert await sources(revisions) == [
        (3, "file", "sighup"),
        (2, "file", "sighup"),
        (1, "file", "gateway"),
    ]
    for number, plans in ((1, 1), (2, 2), (3, 3)):
        _, document = await revisions.get(number)
        assert len(document["plans"]) == plans
    await store.stop()


async def test_a_file_that_has_not_changed_keeps_what_the_api_has_changed(pair: Any) -> None:
    control, revisions, _ = pair
    await revisions.change(adding("x"), author="a")
    control.file = gateway("free")  # read again, and the same
    done = await revisions.reload(author="SIGHUP")
    assert [plan.name for plan in control.gateway.plans] == ["free", "x"]
    assert (done.changes, done.dropped, done.revision) == ([], [], None)
    assert control.generation == done.generation == 3  # names and handlers are looked up again


async def test_what_a_changed_file_drops_is_listed(
    pair: Any, caplog: pytest.LogCaptureFixture
) -> None:
    control, revisions, _ = pair
    await revisions.change(adding("x"), author="a")
    await revisions.change(adding("gold"), author="a")
    control.file = gateway("free", "gold")  # it has taken over one of the two
    dry = await revisions.reload(author="me", dry_run=True)
    assert [(each.kind, each.path) for each in dry.dropped] == [("added", "plans[x]")]
    assert not caplog.records
    done = await revisions.reload(author="me")
    assert done.dropped == dry.dropped
    assert "it undoes changes made through the API: plans[x]" in caplog.text
    newest = await revisions.newest()
    assert newest is not None
    assert newest.note == "undoes plans[x]"
    # What it dropped is dropped once.
    control.file = gateway("free", "gold", "max")
    assert (await revisions.reload(author="me")).dropped == []


async def test_what_waits_for_a_restart_is_said(pair: Any) -> None:
    control, revisions, _ = pair

    def edit(current: Gateway) -> Gateway:
        return msgspec.structs.replace(current, workers=7)

    assert (await revisions.change(edit, author="a", dry_run=True)).pending_restart == ["workers"]
    assert (await revisions.change(edit, author="a")).pending_restart == ["workers"]
    # Also when nothing has changed since.
    assert (await revisions.change(edit, author="a")).pending_restart == ["workers"]
    assert control.gateway.workers == 7


async def test_changes_come_one_after_another(pair: Any) -> None:
    control, revisions, _ = pair
    await asyncio.gather(*(revisions.change(adding(f"p{n}"), author=f"a{n}") for n in range(5)))
    assert len(control.gateway.plans) == 6
    assert len(await sources(revisions)) == 6
    newest = await revisions.newest()
    assert newest is not None
    assert newest.digest == digest_of(control.gateway)


async def test_a_change_that_fails_leaves_no_trace(pair: Any) -> None:
    control, revisions, _ = pair
    control.fail = ConfigurationError("no")
    with pytest.raises(ConfigurationError):
        await revisions.change(adding("x"), author="a")

    def wrong(current: Gateway) -> Gateway:
        raise LookupError

    with pytest.raises(LookupError):
        await revisions.change(wrong, author="a")
    with pytest.raises(ConfigurationError, match="free"):
        await revisions.change(adding("free"), author="a")
    assert len(await sources(revisions)) == 1


async def test_without_the_store_the_api_changes_nothing_and_the_file_goes_on(pair: Any) -> None:
    control, revisions, store = pair
    await store.stop()
    with pytest.raises(StoreError):
        await revisions.change(adding("x"), author="a")
    assert control.generation == 1
    control.file = gateway("free", "gold")
    done = await revisions.reload(author="SIGHUP")
    assert done.generation == control.generation == 2
    assert done.revision is None
    assert [change.path for change in done.changes] == ["plans[gold]"]
    control.file = gateway("gold")
    await revisions.reload(author="SIGHUP")
    await store.connect()
    assert await sources(revisions) == [
        (3, "file", "SIGHUP"), (2, "file", "SIGHUP"), (1, "file", "gateway"),
    ]  # fmt: skip
    assert (await revisions.get(2))[1] == document_of(gateway("free", "gold"))


async def test_a_revision_that_a_crash_took_is_found_at_the_next_start(pair: Any) -> None:
    control, revisions, store = pair
    await store.stop()
    control.file = gateway("gold")
    await revisions.reload(author="SIGHUP")
    again = Store(str(store._text))
    restarted = Revisions(control, again)
    await again.connect()
    assert (await sources(restarted))[0] == (2, "file", "gateway")
    assert (await restarted.get(2))[1] == document_of(gateway("gold"))
    await again.stop()


async def test_the_store_may_go_between_applying_and_recording(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, revisions, store = pair
    apply = control.apply

    async def apply_then_lose(gateway: Gateway, *, dry_run: bool = False) -> int:
        generation: int = await apply(gateway, dry_run=dry_run)
        await store.stop()
        return generation

    monkeypatch.setattr(control, "apply", apply_then_lose)
    done = await revisions.change(adding("x"), author="a")
    assert (done.generation, done.revision) == (2, None)
    await store.connect()
    assert await sources(revisions) == [(2, "api", "a"), (1, "file", "gateway")]


async def test_rollback_keeps_store_and_tokens(pair: Any) -> None:
    control, revisions, _ = pair
    tokens = [{"name": "t", "role": "admin", "token": "a-token-of-eight"}]
    wanted = gateway("gold", control={"tokens": tokens, "bind": "127.0.0.1:9999"})
    wanted = msgspec.structs.replace(
        wanted, store=StoreSection(url=StoreUrl.parse("postgresql://u:secret@h/d"))
    )
    with pytest.raises(NeedsAdminError):
        await revisions.change(lambda _: wanted, author="a")
    await revisions.change(lambda _: wanted, author="a", as_admin=True)
    _, document = await revisions.get(2)
    assert "secret" not in str(document)
    assert "a-token-of-eight" not in str(document)
    done = await revisions.rollback(1, author="b")
    assert done.revision == 3
    assert [plan.name for plan in control.gateway.plans] == ["free"]
    assert control.gateway.control.tokens == wanted.control.tokens
    assert str(control.gateway.control.bind) == "127.0.0.1:8081"
    assert control.gateway.store == wanted.store


async def test_differences(pair: Any) -> None:
    _, revisions, _ = pair
    await revisions.change(adding("gold"), author="a")
    made = await revisions.difference(1, 2)
    assert [(change.kind, change.path) for change in made.changes] == [("added", "plans[gold]")]
    assert made.text.splitlines()[:2] == ["--- revision 1", "+++ revision 2"]
    back = await revisions.difference(2, 1)
    assert [(change.kind, change.path) for change in back.changes] == [("removed", "plans[gold]")]
    from_nothing = await revisions.difference(0, 1)
    assert {change.kind for change in from_nothing.changes} == {"added"}
    assert (await revisions.difference(2, 2)).text == ""


async def test_a_lost_caller_does_not_stop_a_change_half_way(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, revisions, _ = pair
    applied, go_on = asyncio.Event(), asyncio.Event()
    apply = control.apply

    async def slow(gateway: Gateway, *, dry_run: bool = False) -> int:
        generation: int = await apply(gateway, dry_run=dry_run)
        applied.set()
        await go_on.wait()
        return generation

    monkeypatch.setattr(control, "apply", slow)
    caller = asyncio.create_task(revisions.change(adding("x"), author="a"))
    await applied.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await revisions.catch_up()  # waits for its turn behind the change
    assert await sources(revisions) == [(2, "api", "a"), (1, "file", "gateway")]


_names = st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), unique=True, max_size=5)


@given(_names, _names)
def test_equal_digests_are_equal_documents(left: list[str], right: list[str]) -> None:
    one, two = gateway(*left), gateway(*right)
    assert (digest_of(one) == digest_of(two)) == (document_of(one) == document_of(two))
    assert decode(document_of(one), Gateway) == one
    import yaml

    assert yaml.safe_load(yaml_of(document_of(one))) == document_of(one)
