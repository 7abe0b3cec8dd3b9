"""The keys of issuers: fetched when they are due or asked for, kept when that fails."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest
from providerkit import SigningKey

from fastgate.config.issuer_ids import id_of
from fastgate.errors import NotFoundError
from fastgate.issuers.discovery import Found
from fastgate.issuers.fetching import FetchError
from fastgate.issuers.freshness import MOST_S
from fastgate.issuers.jwks import IssuerKey, KeySet
from fastgate.issuers.service import ASKED_S, LOOK_S, Failure, IssuerService, Known
from fastgate.issuers.storage import FOLDER, Storage
from fastgate.model.codec import decode
from fastgate.model.gateway import Issuer

START = 1_800_000_000.0
FRESH = 3600.0


def issuer(name: str = "corp", **more: Any) -> Issuer:
    return decode({"name": name, "issuer": f"https://{name}.example.com", **more}, Issuer)


def key(kid: str) -> IssuerKey:
    made = SigningKey(kid)
    return IssuerKey(kid=kid, kind="ECDSA P-256", algorithms=("ES256",), spki=made.spki)


CORP = issuer()
ONE, TWO, BARE = key("one"), key("two"), key("")


class Desk:
    """A service whose provider and clock are ours."""

    def __init__(self, state: Path) -> None:
        self.now = START
        self.answers: list[Found | str] = []
        """What the provider says next; the last one again and again. Text: an error."""
        self.asked = 0
        self.gate: asyncio.Event | None = None
        """If it is there, the provider answers when it is set."""
        self.brought: list[tuple[IssuerKey, ...]] = []
        self.delivered = asyncio.Event()
        self.failures: list[Failure] = []
        self.storage = Storage(state)
        self.service = IssuerService(self.storage, self.ask, lambda: self.now)
        self.service.on_keys = self.bring
        self.service.on_failed = self.failures.append

    async def ask(self, asked: Issuer, now: float) -> Found:
        assert now == self.now
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(answer, str):
            raise FetchError(answer)
        return answer

    async def bring(self) -> None:
        self.brought.append(self.service.known(CORP).keys)
        self.delivered.set()

    def serve(self, *issuers: Issuer) -> None:
        """As with a configuration: what is known is restored, then it is served."""
        self.service.restore(issuers)
        self.service.serve(issuers)

    async def look(self) -> float:
        """Begin what is due, and let it end."""
        wait = self.service.look()
        await self.rest()
        return wait

    async def rest(self) -> None:
        while tasks := [s.task for s in self.service._states.values() if s.task is not None]:
            await asyncio.wait(tasks)

    @property
    def kids(self) -> list[str]:
        return [key.kid for key in self.service.known(CORP).keys]

    def counts(self, name: str = "corp") -> dict[str, int]:
        return dict(self.service.counts()[name])


def found(*keys: IssuerKey, fresh: float = FRESH, **more: Any) -> Found:
    return Found(KeySet(keys), fresh, "https://corp.example.com/keys", **more)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# ---- the schedule -----------------------------------------------------------------------


async def test_new_issuers_are_asked_at_once(desk: Desk) -> None:
    desk.answers = [found(ONE)]
    assert desk.service.known(CORP) == Known()
    desk.serve(CORP, issuer("file", keys="path:/keys"))
    await desk.look()
    assert (desk.kids, desk.asked, desk.brought) == (["one"], 1, [(ONE,)])
    assert desk.counts() == {"ok": 1, "failed": 0, "held_back": 0}
    assert list(desk.service.rows()) == ["corp"]


async def test_keys_are_fetched_again_when_they_are_due(desk: Desk) -> None:
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    due = desk.service.rows()["corp"].due
    assert 0.9 * FRESH <= due - START <= FRESH
    assert await desk.look() == min(LOOK_S, due - START)
    desk.now = due - 1
    assert await desk.look() == 1
    assert desk.asked == 1
    desk.now, desk.answers = due, [found(TWO, ONE)]
    await desk.look()
    assert (desk.asked, desk.kids) == (2, ["two", "one"])
    row = desk.service.rows()["corp"]
    assert (row.since, row.fetched) == ((due, START), due)
    assert desk.service.ages() == {"corp": 0}


async def test_keys_that_are_the_same_are_not_brought_again(desk: Desk) -> None:
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    desk.now += FRESH
    await desk.look()
    assert (desk.asked, len(desk.brought)) == (2, 1)
    desk.now += FRESH
    desk.answers = [found(ONE, introspection="https://corp.example.com/ask")]
    await desk.look()
    assert len(desk.brought) == 2
    assert desk.service.known(CORP).introspection == "https://corp.example.com/ask"


async def test_the_last_good_keys_stay(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    desk.answers = ["https://corp.example.com: it answered 503"]
    waits = []
    desk.now += FRESH
    for _ in range(9):
        before = desk.now
        await desk.look()
        desk.now = desk.service.rows()["corp"].due
        waits.append(desk.now - before)
    assert desk.kids == ["one"]
    assert all(0.9 * most <= wait <= most for wait, most in zip(
        waits, [5, 10, 20, 40, 80, 160, 300, 300, 300], strict=True
    ))  # fmt: skip
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 4  # the first, second, fourth, eighth
    assert "it answered 503); the 1 known ones stay in use" in said[0]
    first = desk.failures[0]
    assert [each.since for each in desk.failures] == [first.at] * 9
    assert (first.name, first.keys) == ("corp", 1)
    row = desk.service.rows()["corp"]
    assert (row.failures, row.error) == (9, "https://corp.example.com: it answered 503")
    assert desk.service.ages()["corp"] == desk.now - START

    desk.answers = [found(ONE)]
    with caplog.at_level(logging.INFO, "fastgate.issuers"):
        await desk.look()
    assert "corp: its keys could be fetched again" in caplog.text
    row = desk.service.rows()["corp"]
    assert (row.failures, row.error) == (0, "")
    assert desk.counts() == {"ok": 2, "failed": 9, "held_back": 0}


async def test_an_issuer_that_has_never_answered(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.answers = ["down"]
    desk.serve(CORP)
    await desk.look()
    assert "(down); none are known, so its tokens are refused" in caplog.text
    assert (desk.service.known(CORP), desk.service.ages()) == (Known(), {})
    assert desk.failures[0].keys == 0


async def test_a_clock_that_is_set_back(desk: Desk) -> None:
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    desk.now -= MOST_S
    await desk.look()
    assert desk.asked == 2
    assert desk.service.ages()["corp"] == 0


async def test_it_runs(desk: Desk) -> None:
    desk.answers = [found(ONE)]
    running = asyncio.create_task(desk.service.run())
    desk.serve(CORP)
    await desk.delivered.wait()
    desk.gate = asyncio.Event()
    desk.now += FRESH
    desk.service.look()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert desk.service._states["corp"].task is None  # it was ended, too
    assert desk.kids == ["one"]
    desk.gate, desk.answers = None, [found(TWO)]
    await desk.look()  # and it can go on
    assert desk.kids == ["two"]


async def test_a_fault_of_ours_is_no_endless_loop(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.answers = [found(ONE), None]  # type: ignore[list-item]
    desk.serve(CORP)
    await desk.look()
    desk.now += FRESH
    await desk.look()
    await desk.look()
    assert (desk.asked, desk.kids) == (2, ["one"])
    assert "corp: its keys could not be fetched" in caplog.text


# ---- what is said about keys ------------------------------------------------------------


async def test_keys_that_are_not_used_are_named_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    odd = KeySet((ONE,), ("the key 'e' is for encryption",), ("the key 'p' is a private key",))
    desk.answers = [Found(odd, FRESH, "https://a", "", "it has no endpoint")]
    desk.serve(CORP)
    await desk.look()
    desk.now += FRESH
    await desk.look()
    said = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert said == [
        ("ERROR", "corp: the key 'p' is a private key"),
        ("WARNING", "corp: the key 'e' is for encryption"),
        ("WARNING", "corp: it has no endpoint"),
    ]
    assert len(desk.service.rows()["corp"].notes) == 3
    desk.now += FRESH
    desk.answers = [found(ONE)]
    await desk.look()
    assert desk.service.rows()["corp"].notes == ()


async def test_changes_of_keys_are_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastgate.issuers")
    desk.answers = [found(ONE), found(TWO, BARE)]
    desk.serve(CORP)
    await desk.look()
    assert "corp: its keys have changed: new one (ECDSA P-256)" in caplog.text
    desk.now += FRESH
    await desk.look()
    assert (
        "new two (ECDSA P-256), without an id (ECDSA P-256); gone one (ECDSA P-256)" in caplog.text
    )


# ---- questions --------------------------------------------------------------------------


async def test_an_unknown_key_is_a_reason_to_ask(desk: Desk) -> None:
    desk.answers = [found(ONE), found(TWO)]
    desk.serve(CORP)
    await desk.look()
    assert await desk.service.question(id_of(CORP), "one")
    assert desk.asked == 1
    desk.now += 10
    assert await desk.service.question(id_of(CORP), "two")
    assert (desk.asked, desk.brought) == (2, [(ONE,), (TWO,)])
    assert not await desk.service.question(id_of(CORP) ^ 1, "two")


async def test_many_questions_are_one_fetch(desk: Desk) -> None:
    """Answers come when workers have the keys, not before."""
    desk.answers = [found(ONE), found(TWO)]
    desk.serve(CORP)
    await desk.look()
    desk.gate = asyncio.Event()
    brought, delivered = asyncio.Event(), asyncio.Event()

    async def bring() -> None:
        brought.set()
        await delivered.wait()

    desk.service.on_keys = bring
    kids = ["two", "two", "forged", "two"]
    asking = [asyncio.create_task(desk.service.question(id_of(CORP), kid)) for kid in kids]
    await asyncio.sleep(0)
    desk.gate.set()
    await brought.wait()
    assert desk.kids == ["two"]
    assert not any(task.done() for task in asking)
    late = asyncio.create_task(desk.service.question(id_of(CORP), "two"))
    delivered.set()
    assert await asyncio.gather(*asking, late) == [True, True, False, True, True]
    assert desk.asked == 2


async def test_invented_keys_do_not_make_us_ask_without_end(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastgate.issuers")
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    for second in range(int(ASKED_S)):
        desk.now = START + second
        assert not await desk.service.question(id_of(CORP), f"forged-{second}")
    assert desk.asked == 2
    assert desk.counts()["held_back"] == ASKED_S - 1
    assert caplog.text.count("are not fetched again yet") == 1
    assert "a token has the unknown key 'forged-1'" in caplog.text
    desk.now = START + ASKED_S
    assert not await desk.service.question(id_of(CORP), "forged")
    assert desk.asked == 3


async def test_a_rotation_takes_two_fetches_at_most(desk: Desk) -> None:
    """One for the first token with the new key, and one by the schedule."""
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    desk.answers = [found(ONE, TWO)]
    desk.now = desk.service.rows()["corp"].due
    desk.gate = asyncio.Event()
    desk.service.look()
    asking = [asyncio.create_task(desk.service.question(id_of(CORP), "two")) for _ in range(100)]
    await asyncio.sleep(0)
    desk.gate.set()
    assert all(await asyncio.gather(*asking))
    assert desk.asked == 2
    assert all([await desk.service.question(id_of(CORP), "two") for _ in range(100)])
    assert desk.asked == 2


async def test_a_provider_that_is_down_is_not_asked_for_each_token(desk: Desk) -> None:
    desk.answers = [found(ONE), "down"]
    desk.serve(CORP)
    await desk.look()
    assert not await desk.service.question(id_of(CORP), "two")
    assert not await desk.service.question(id_of(CORP), "two")
    assert (desk.asked, desk.kids) == (2, ["one"])
    desk.answers = [found(TWO)]
    desk.now += ASKED_S
    assert await desk.service.question(id_of(CORP), "two")


async def test_tokens_without_a_key_id(desk: Desk) -> None:
    """No key has verified it: only other keys are worth another look."""
    desk.answers = [found(BARE)]
    desk.serve(CORP)
    await desk.look()
    assert not await desk.service.question(id_of(CORP), "")
    assert desk.asked == 2
    desk.now += ASKED_S
    desk.answers = [found(key(""))]
    assert await desk.service.question(id_of(CORP), "")
    assert not await desk.service.question(id_of(CORP), "")
    assert desk.asked == 3


async def test_a_cancelled_question_leaves_the_fetch(desk: Desk) -> None:
    desk.answers = [found(ONE), found(TWO)]
    desk.serve(CORP)
    await desk.look()
    desk.gate = asyncio.Event()
    first = asyncio.create_task(desk.service.question(id_of(CORP), "two"))
    second = asyncio.create_task(desk.service.question(id_of(CORP), "two"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    desk.gate.set()
    assert await second
    assert desk.asked == 2


async def test_an_operator_asks(desk: Desk) -> None:
    desk.answers = [found(ONE), found(TWO), "down"]
    desk.serve(CORP)
    await desk.look()
    await desk.service.refresh("corp")
    assert desk.kids == ["two"]
    with pytest.raises(FetchError, match="down"):
        await desk.service.refresh("corp")
    assert desk.kids == ["two"]
    with pytest.raises(NotFoundError, match="no issuer 'other' whose keys are fetched"):
        await desk.service.refresh("other")


# ---- other configurations ---------------------------------------------------------------


async def test_a_reload_keeps_what_is_known(desk: Desk) -> None:
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    desk.serve(CORP)
    await desk.look()
    assert (desk.asked, desk.kids) == (1, ["one"])
    # Asked in another way: the keys stay, and are fetched again.
    other = issuer(audience="orders")
    desk.serve(other)
    assert desk.kids == ["one"]
    await desk.look()
    assert desk.asked == 2
    assert await desk.service.question(id_of(other), "one")
    assert not await desk.service.question(id_of(CORP), "one")


async def test_another_issuer_with_the_name_has_its_own_keys(desk: Desk) -> None:
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    other = issuer(issuer="https://other.example.com")
    desk.service.restore([other])
    assert desk.service.known(CORP).keys == (ONE,)  # still served
    assert desk.service.known(other) == Known()
    desk.service.serve([other])
    assert desk.service.known(CORP) == Known()
    desk.answers = [found(TWO)]
    await desk.look()
    assert desk.service.known(other).keys == (TWO,)


async def test_one_that_is_taken_out_is_not_asked_any_more(desk: Desk) -> None:
    desk.answers, desk.gate = [found(ONE)], asyncio.Event()
    desk.serve(CORP)
    desk.service.look()
    await asyncio.sleep(0)
    task = desk.service._states["corp"].task
    assert task is not None
    desk.serve()
    await asyncio.wait({task})
    assert task.cancelled()
    assert (desk.service.rows(), desk.brought) == ({}, [])


async def test_a_configuration_that_is_refused_changes_nothing(desk: Desk) -> None:
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    desk.service.restore([issuer(issuer="https://other.example.com"), issuer("new")])
    assert desk.kids == ["one"]
    assert list(desk.service.rows()) == ["corp"]


# ---- the disk ---------------------------------------------------------------------------


async def test_a_restart_while_the_issuer_is_down(desk: Desk, tmp_path: Path) -> None:
    desk.answers = [found(ONE, introspection="https://corp.example.com/ask")]
    desk.serve(CORP)
    await desk.look()
    file = tmp_path / FOLDER / "corp.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [each.name for each in file.parent.iterdir()] == ["corp.json"]

    again = Desk(tmp_path)
    again.answers = ["down"]
    again.now = START + 10
    again.service.restore([CORP])
    assert again.service.known(CORP) == Known((ONE,), "https://corp.example.com/ask")
    again.service.serve([CORP])
    await again.look()
    assert again.asked == 0  # they are fresh
    again.now = again.service.rows()["corp"].due
    await again.look()
    assert (again.asked, again.kids) == (1, ["one"])
    row = again.service.rows()["corp"]
    assert (row.fetched, row.since) == (START, (START,))


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "https://other.example.com"},
        {"jwks_uri": "https://corp.example.com/keys"},
    ],
)
async def test_a_file_is_for_the_issuer_that_it_was_written_for(
    desk: Desk, tmp_path: Path, changed: dict[str, Any]
) -> None:
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    again = Desk(tmp_path)
    other = issuer(**changed)
    again.service.restore([other])
    assert again.service.known(other) == Known()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b"\xff", b"null"])
async def test_a_damaged_file_is_not_used(
    desk: Desk, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "corp.json").write_bytes(content)
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    assert "is damaged" in caplog.text
    await desk.look()
    assert desk.kids == ["one"]
    assert json.loads((tmp_path / FOLDER / "corp.json").read_bytes())["issuer"] == CORP.issuer


async def test_a_file_with_other_numbers_of_times(desk: Desk, tmp_path: Path) -> None:
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    await desk.look()
    file = tmp_path / FOLDER / "corp.json"
    for change in ({"since": []}, {"version": 2}):
        file.write_text(json.dumps({**json.loads(file.read_bytes()), **change}))
        assert desk.storage.read(CORP) is None


async def test_a_disk_that_cannot_be_written(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys in memory are as good. A file in place of the folder: root may write anywhere."""
    (tmp_path / FOLDER).write_text("in the way")
    desk.answers = [found(ONE)]
    desk.serve(CORP)
    assert "cannot be read" in caplog.text
    await desk.look()
    assert (desk.kids, desk.brought) == (["one"], [(ONE,)])
    assert "a restart while corp is down would not know its keys" in caplog.text
