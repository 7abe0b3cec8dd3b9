"""Notices to operators: to each webhook that wants them, once, and again until they are taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from webhookkit import KEY, Receiver

from fastgate.billing.notices import outbox
from fastgate.billing.notices.webhooks import HEADER, verify
from fastgate.certificates.acme.events import Failure
from fastgate.certificates.pairs import Pair
from fastgate.issuers.service import Failure as KeysFailure
from fastgate.model.codec import decode
from fastgate.runtime.control.operator_notices import ISSUER_S, NO_KEYS_S, OperatorNotices
from fastgate.runtime.control.publisher import Publisher

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


class Served:
    """As much of a publisher as notices need."""

    def __init__(self, *webhooks: dict[str, Any]) -> None:
        self.on_served: list[Callable[[], None]] = []
        self.serve(*webhooks)

    def serve(self, *webhooks: dict[str, Any]) -> None:
        hooks = [{"secret": "env:HOOK_SECRET", **each} for each in webhooks]
        self.gateway = decode({"version": 1, "observability": {"webhooks": hooks}})
        for call in self.on_served:
            call()


@contextlib.asynccontextmanager
async def running(served: Served) -> AsyncIterator[OperatorNotices]:
    notices = OperatorNotices(cast(Publisher, served), lambda: NOW)
    task = asyncio.create_task(notices.run())
    try:
        yield notices
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pair(days: float) -> Pair:
    ends = (NOW + timedelta(days=days)).timestamp()
    return cast(Pair, SimpleNamespace(not_after=int(ends), hosts=("a.example", "b.example")))


def failure(failures: int, name: str = "web") -> Failure:
    following = NOW + timedelta(hours=failures)
    return Failure(name, ("a.example",), "The authority is away.", failures, following, None)


async def got(receiver: Receiver, count: int) -> list[dict[str, Any]]:
    """The first notices, with their headers under "headers"; no more have come."""
    for _ in range(4000):
        if len(receiver.got) >= count:
            break
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert len(receiver.got) == count
    return [{**json.loads(body), "headers": headers} for headers, body in receiver.got]


async def test_a_certificate_that_expires_is_announced_once(receiver: Receiver) -> None:
    async with running(Served({"name": "ops", "url": receiver.url})) as notices:
        for _ in range(3):
            notices.certificate_expiring("web", pair(6.5), 7)
        (notice,) = await got(receiver, 1)
        assert notice["type"] == "certificate.expiring"
        assert notice["title"] == "The certificate web expires on 2026-12-08"
        assert "a.example, b.example" in notice["body"]
        assert notice["data"] == {
            "certificate": "web",
            "hosts": "a.example b.example",
            "expires": "2026-12-08T00:00:00+00:00",
        }
        headers, body = receiver.got[0]
        assert verify([KEY], headers[HEADER], body, int(NOW.timestamp()))
        assert headers["FastGate-Id"] == notice["id"]
        notices.certificate_expiring("web", pair(6.5), -1)
        later = (await got(receiver, 2))[1]
        assert later["title"] == "The certificate web expired on 2026-12-08"
        assert later["id"] != notice["id"]


async def test_failures_in_a_row_are_announced_less_and_less_often(receiver: Receiver) -> None:
    async with running(Served({"name": "ops", "url": receiver.url})) as notices:
        for count in range(1, 10):
            notices.certificate_failed(failure(count))
        found = await got(receiver, 4)
        assert [each["data"]["failures"] for each in found] == ["1", "2", "4", "8"]
        assert found[0]["type"] == "certificate.failed"
        assert found[0]["title"] == "The certificate web could not be obtained"
        assert found[0]["data"]["error"] == "The authority is away."


async def test_each_webhook_gets_the_kinds_that_it_wants(receiver: Receiver) -> None:
    served = Served(
        {"name": "all", "url": receiver.url},
        {"name": "group", "url": receiver.url, "events": ["certificate.*"]},
        {"name": "one", "url": receiver.url, "events": ["certificate.failed"]},
    )
    async with running(served) as notices:
        notices.certificate_expiring("web", pair(6.5), 7)
        await got(receiver, 2)
        notices.certificate_failed(failure(1))
        found = await got(receiver, 5)
        assert len({each["id"] for each in found}) == 5


async def test_a_webhook_that_is_configured_later_gets_it_too(receiver: Receiver) -> None:
    served = Served()
    async with running(served) as notices:
        notices.certificate_expiring("web", pair(6.5), 7)
        served.serve({"name": "ops", "url": receiver.url})
        (first,) = await got(receiver, 1)
        served.serve({"name": "ops", "url": receiver.url}, {"name": "more", "url": receiver.url})
        second = (await got(receiver, 2))[1]
        assert second["id"] != first["id"]


async def test_after_a_restart_the_same_notice_has_the_same_id(receiver: Receiver) -> None:
    for _ in range(2):
        async with running(Served({"name": "ops", "url": receiver.url})) as notices:
            notices.certificate_expiring("web", pair(6.5), 7)
            await got(receiver, len(receiver.got) + 1)
    first, second = await got(receiver, 2)
    assert first["id"] == second["id"]


async def test_what_is_not_taken_is_sent_again(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "FIRST", timedelta(milliseconds=1))
    receiver.statuses[:] = [500, 302]
    async with running(Served({"name": "ops", "url": receiver.url})) as notices:
        notices.certificate_failed(failure(1))
        found = await got(receiver, 3)
        assert len({each["id"] for each in found}) == 1
    assert sum("It is sent again." in each for each in caplog.messages) == 2


async def test_a_webhook_that_was_removed_gets_nothing_more(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "FIRST", timedelta(milliseconds=200))
    receiver.statuses[:] = [500] * 20
    served = Served({"name": "ops", "url": receiver.url})
    async with running(served) as notices:
        notices.certificate_failed(failure(1))
        await got(receiver, 1)
        served.serve()
        for _ in range(4000):
            if "It is not sent again." in caplog.text:
                break
            await asyncio.sleep(0.005)
        assert "There is no webhook 'ops' in the configuration." in caplog.text
        await got(receiver, 1)


@pytest.mark.parametrize(("statuses", "tries"), [([410], 1), ([500] * 20, 12)])
async def test_what_is_never_taken_is_given_up(
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    statuses: list[int],
    tries: int,
) -> None:
    monkeypatch.setattr(outbox, "FIRST", timedelta(microseconds=1))
    receiver.statuses[:] = statuses
    async with running(Served({"name": "ops", "url": receiver.url})) as notices:
        notices.certificate_failed(failure(1))
        await got(receiver, tries)
        assert caplog.messages[-1].endswith("It is not sent again.")
        receiver.statuses.clear()
        notices.certificate_failed(failure(1, "other"))  # it has not stopped
        await got(receiver, tries + 1)


async def test_a_cancelled_delivery_is_made_by_the_next_run(receiver: Receiver) -> None:
    """Cancelled while the receiver thinks: whether it has taken it is not known."""
    receiver.hang.clear()
    served = Served({"name": "ops", "url": receiver.url})
    notices = OperatorNotices(cast(Publisher, served), lambda: NOW)
    notices.certificate_failed(failure(1))
    first = asyncio.create_task(notices.run())
    await got(receiver, 1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    receiver.hang.set()
    second = asyncio.create_task(notices.run())
    found = await got(receiver, 2)
    assert len({each["id"] for each in found}) == 1
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


def keys_failure(lasted: float, keys: int = 2, name: str = "corp") -> KeysFailure:
    since = NOW.timestamp()
    return KeysFailure(name, "https://a: it answered 503", since, since + lasted, keys)


async def test_an_issuer_that_stays_down_is_announced_once(receiver: Receiver) -> None:
    async with running(Served({"name": "ops", "url": receiver.url})) as notices:
        for lasted in (0, 60, ISSUER_S - 1, ISSUER_S, ISSUER_S + 300):
            notices.issuer_failed(keys_failure(lasted))
        (notice,) = await got(receiver, 1)
        assert (notice["type"], notice["data"]["issuer"]) == ("issuer.failed", "corp")
        assert notice["title"] == "The keys of the issuer corp cannot be fetched"
        assert "it answered 503. The 2 known keys stay in use" in notice["body"]
        assert notice["data"]["since"] == "2026-12-01T12:00:00+00:00"


async def test_an_issuer_without_any_key_is_announced_sooner(receiver: Receiver) -> None:
    async with running(Served({"name": "ops", "url": receiver.url})) as notices:
        notices.issuer_failed(keys_failure(NO_KEYS_S - 1, keys=0))
        notices.issuer_failed(keys_failure(NO_KEYS_S, keys=0))
        (notice,) = await got(receiver, 1)
        assert "No keys are known, so its tokens are refused." in notice["body"]
