"""Renewal at a real authority (pebble), on a clock that is moved: windows, failures, waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from acmefaultkit import Between, Reply, problem
from acmekit import HOST, FakeClock, authority, make_stored, settings, world
from pebblekit import Pebble, pebble

from fastgate.certificates.acme.keys import facts_of
from fastgate.certificates.acme.settings import AcmeSettings

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
ASKED = "GET /draft-ietf-acme-ari-03/renewalInfo/"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority whose certificates last 90 days."""
    profiles = {"default": {"description": "90 days", "validityPeriod": 90 * 86_400}}
    with pebble(
        tmp_path_factory.mktemp("pebble"), profiles=profiles, domainBlocklist=["blocked.example"]
    ) as running:
        yield running


def window(start: datetime, end: datetime) -> str:
    return json.dumps(
        {"suggestedWindow": {"start": start.isoformat(), "end": end.isoformat()},
         "explanationURL": "https://authority.example/why"}
    )  # fmt: skip


async def test_the_authority_says_when(plain: Pebble, tmp_path: Path) -> None:
    clock, wanted = FakeClock(), settings(authority(plain))
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(wanted)
        assert await clock.idle() == [clock.now() + 6 * HOUR]  # it said so, in Retry-After
        planned = one.storage.schedule("shop")
        assert planned.window is not None
        assert planned.renew_at is not None
        assert planned.window.start <= planned.renew_at <= planned.window.end
        (row,) = one.service.status()
        assert row.renews == planned.renew_at

    async with world(plain, tmp_path, clock) as two:
        asked = plain.log.count(ASKED)
        await two.service.reload(wanted)
        await clock.idle()
        assert plain.log.count(ASKED) == asked  # it is not time
        await clock.move(clock.now() + 6 * HOUR)
        assert plain.log.count(ASKED) == asked + 1
        assert two.storage.schedule("shop").renew_at == planned.renew_at  # the window is the same
        await clock.move(planned.renew_at - MINUTE)
        assert not two.issued
        old, replaced = two.on_disk(), plain.log.count("is a replacement of")
        await clock.move(planned.renew_at)
        assert two.issued == ["shop"]
        assert two.on_disk() != old
        assert plain.log.count("is a replacement of") == replaced + 1
        assert two.storage.schedule("shop").fingerprint == two.on_disk().fingerprint


async def test_another_window_is_another_time(
    plain: Pebble, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fastgate.acme")
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        pem = one.leaf()
        start = clock.now() + 10 * DAY
        plain.suggest(pem, window(start, start + HOUR))
        await clock.move(clock.now() + 6 * HOUR)
        renew_at = one.storage.schedule("shop").renew_at
        assert renew_at is not None
        assert start <= renew_at <= start + HOUR
        assert "https://authority.example/why" in caplog.text
        # Now, because the certificate is about to be revoked.
        past = clock.now() - DAY
        plain.suggest(pem, window(past, past + HOUR))
        await clock.move(clock.now() + 6 * HOUR)
        assert one.issued == ["shop", "shop"]


async def test_a_window_after_the_certificates_end_does_not_wait_for_it(
    plain: Pebble, tmp_path: Path
) -> None:
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        facts = facts_of(one.on_disk())
        pem = one.leaf()
        plain.suggest(pem, window(facts.not_after + DAY, facts.not_after + 2 * DAY))
        await clock.move(clock.now() + 6 * HOUR)
        latest = facts.not_before + facts.lifetime * 0.9
        assert one.storage.schedule("shop").renew_at == latest


async def test_an_authority_that_always_says_now_gets_one_order_an_hour(
    plain: Pebble, tmp_path: Path
) -> None:
    clock, between, answers = FakeClock(), Between(plain), 0

    def always_now(asked: str) -> Reply | None:
        nonlocal answers
        if "renewalInfo" not in asked:
            return None
        answers += 1
        body = window(clock.now() - 2 * DAY, clock.now() - DAY)
        return Reply(200, body.encode(), {"content-type": "application/json"})

    between.before = always_now
    async with between.served(), world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain, directory=between.directory)))
        for orders in range(1, 4):
            (until,) = await clock.idle()
            assert until == clock.now() + HOUR
            assert one.service.orders["issued"] == orders
            assert answers == orders
            await clock.move(until, 0)


@pytest.mark.parametrize(
    "answer",
    [
        "{",
        "[]",
        "{}",
        '{"suggestedWindow": {"start": "2030-01-01T00:00:00", "end": "2030-01-02T00:00:00"}}',
        '{"suggestedWindow": {"start": "2030-01-02T00:00:00Z", "end": "2030-01-01T00:00:00Z"}}',
        '{"suggestedWindow": {"start": "2030-01-01T00:00:00Z", "end": "2030-01-01T00:00:00Z"}}',
        '{"suggestedWindow": {"start": "soon", "end": "2030-01-01T00:00:00Z"}}',
        "404",
        "none",
    ],
)
async def test_without_usable_information_two_thirds_of_the_life(
    plain: Pebble, tmp_path: Path, answer: str
) -> None:
    clock, between = FakeClock(), Between(plain)

    def fault(method: str, path: str, reply: Reply) -> Reply:
        if answer == "none":  # the directory has no renewal information
            directory = json.loads(reply.body)
            del directory["renewalInfo"]
            return reply._replace(body=json.dumps(directory).encode())
        return Reply(404) if answer == "404" else Reply(200, answer.encode(), reply.fields)

    part = "/dir" if answer == "none" else "renewalInfo"
    between.faults += [(part, fault)] * 2
    async with between.served(), world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain, directory=between.directory)))
        (until,) = await clock.idle()
        assert until == clock.now() + 6 * HOUR
        facts, planned = facts_of(one.on_disk()), one.storage.schedule("shop")
        assert planned.window is None
        assert planned.renew_at is not None
        life = (planned.renew_at - facts.not_before) / facts.lifetime
        assert 2 / 3 - 1 / 40 <= life <= 2 / 3 + 1 / 40
        assert not one.failures


async def test_an_authority_that_cannot_be_asked_is_asked_again_soon(
    plain: Pebble, tmp_path: Path
) -> None:
    clock, between = FakeClock(), Between(plain)
    busy = problem("serverInternal", "busy", 503, **{"retry-after": "300"})
    between.faults = [
        ("renewalInfo", lambda *_: None),
        ("renewalInfo", lambda *_: problem("serverInternal", "broken", 500)),
        ("renewalInfo", lambda *_: busy),
        ("renewalInfo", lambda _, __, reply: reply._replace(fields={"retry-after": "1"})),
        ("renewalInfo", lambda _, __, reply: reply._replace(fields={"retry-after": "9999999"})),
        ("renewalInfo", lambda _, __, reply: reply._replace(fields={"retry-after": "in a bit"})),
    ]
    waits = [MINUTE, 2 * MINUTE, 5 * MINUTE, MINUTE, DAY, 6 * HOUR]
    async with between.served(), world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain, directory=between.directory)))
        for wait in waits:
            (until,) = await clock.idle()
            assert until == clock.now() + wait
            await clock.move(until, 0)
        assert not one.failures


async def test_an_expired_certificate_is_ordered_now_without_asking(
    plain: Pebble, tmp_path: Path
) -> None:
    clock = FakeClock()
    now = datetime.now(UTC)
    async with world(plain, tmp_path, clock) as one:
        one.storage.prepare()
        expired = make_stored(plain.directory, [HOST], now - 91 * DAY, now - DAY)
        one.storage.write_certificate("shop", expired)
        asked = plain.log.count(ASKED)
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        assert one.issued == ["shop"]
        assert plain.log.count(ASKED) == asked + 1  # about the new one
        assert one.on_disk().not_after > now.timestamp()


async def test_a_wrong_clock_does_not_lead_to_one_order_after_another(
    plain: Pebble, tmp_path: Path
) -> None:
    clock = FakeClock(datetime.now(UTC) + 3650 * DAY)
    async with world(plain, tmp_path, clock) as one:
        before = plain.orders
        await one.service.reload(settings(authority(plain)))
        assert await clock.idle() == [clock.now() + MINUTE]
        (failure,) = one.failures
        assert failure.error == (
            "pebble issued the certificate, but it has expired. Check the clock of this machine."
        )
        (row,) = one.service.status()
        assert row.state == "expired"
        assert plain.orders == before + 1


async def test_a_certificate_that_was_replaced_already_is_replaced_again(
    plain: Pebble, tmp_path: Path
) -> None:
    """The state directory was restored from a backup."""
    clock, wanted = FakeClock(), settings(authority(plain))
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(wanted)
        await clock.idle()
        path = one.storage.file_of("shop")
        old = path.read_bytes()
        await one.service.renew("shop", wait=True)
        await one.service.reload(AcmeSettings())
        path.write_bytes(old)
        await one.service.reload(wanted)
        placed = plain.log.count("POST /order-plz")
        await one.service.renew("shop", wait=True)
        assert plain.log.count("POST /order-plz") == placed + 2
        assert path.read_bytes() != old


# ---- failures ---------------------------------------------------------------------------


async def test_the_wait_doubles_up_to_six_hours_and_survives_a_restart(
    plain: Pebble, tmp_path: Path
) -> None:
    clock, wanted = FakeClock(), settings(authority(plain), "blocked.example")
    waits = [*(MINUTE * 2**n for n in range(9)), 6 * HOUR, 6 * HOUR]
    for failures, wait in enumerate(waits, 1):
        async with world(plain, tmp_path, clock) as one:  # a new process each time
            await one.service.reload(wanted)
            if failures > 1:
                (until,) = await clock.idle()
                assert not one.failures  # it waits on
                assert until is not None
                await clock.move(until, 0)
            assert await clock.idle() == [clock.now() + wait]
            (failure,) = one.failures
            assert (failure.failures, failure.expires) == (failures, None)
            assert failure.next_attempt == clock.now() + wait
            (row,) = one.service.status()
            assert (row.state, row.failures, row.error) == ("missing", failures, failure.error)
            assert one.service.orders["refused"] == 1
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(wanted)
        await clock.idle()
        await one.service.reload(settings(authority(plain), "free.example"))
        await clock.idle()  # what is ordered has changed: at once
        assert one.issued == ["shop"]
        (row,) = one.service.status()
        assert (row.failures, row.error, row.next_attempt) == (0, "", None)


async def test_the_old_certificate_serves_while_renewal_fails(
    plain: Pebble, tmp_path: Path
) -> None:
    clock, between = FakeClock(), Between(plain)
    async with between.served(), world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain, directory=between.directory)))
        await clock.idle()
        old = one.service.pair("shop")
        between.before = lambda _: problem("serverInternal", "closed for today", 503)
        renews = one.storage.schedule("shop").renew_at
        assert renews is not None
        await clock.move(renews)  # the failed question, then the failed order
        for _ in range(3):
            assert one.service.pair("shop") == old
            (row,) = one.service.status()
            assert row.state == "valid"
            assert old is not None
            assert one.failures[-1].expires == facts_of(old).not_after
            (until,) = await clock.idle()
            assert until is not None
            await clock.move(until)
        between.before = None
        (until,) = await clock.idle()
        assert until is not None
        await clock.move(until)
        assert one.service.pair("shop") not in (old, None)
        assert one.service.orders == {"issued": 2, "failed": 4, "refused": 0, "limited": 0}


async def test_what_the_authority_asks_to_wait_is_waited(plain: Pebble, tmp_path: Path) -> None:
    clock, between = FakeClock(), Between(plain)
    many, week = "too many certificates", timedelta(days=7)
    limited = problem("rateLimited", many, 429, **{"retry-after": str(7 * 86_400)})
    never = problem("rateLimited", many, 429, **{"retry-after": "9" * 30})
    until_then = datetime.now(UTC) + 3 * HOUR
    date = until_then.strftime("%a, %d %b %Y %H:%M:%S GMT")
    closed = Reply(503, b"<h1>Closed", {"retry-after": date})
    between.faults = [
        ("order-plz", lambda *_: limited),
        ("order-plz", lambda *_: never),
    ]
    async with between.served(), world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain, directory=between.directory)))
        assert await clock.idle() == [clock.now() + week]
        assert one.failures[0].error == (
            f"pebble refused the order for {HOST}: {many} (rateLimited)."
        )
        await clock.move(clock.now() + week)
        assert await clock.idle() == [clock.now() + 30 * DAY]
        assert one.service.orders["limited"] == 2
        between.faults = [("/dir", lambda *_: closed)]
        await clock.move(clock.now() + 30 * DAY)
        (until,) = await clock.idle()
        assert until is not None
        assert 2 * HOUR < until - clock.now() <= 3 * HOUR
        assert one.failures[2].error == (
            "pebble refused to give its directory: status 503, without an explanation."
        )
        # Only the operator may try earlier.
        await one.service.renew("shop", wait=True)


async def test_an_interrupted_order_is_continued(plain: Pebble, tmp_path: Path) -> None:
    clock, between = FakeClock(), Between(plain)
    before = plain.orders
    steps = ["authZ/", "chalZ/", "finalize-order/", "my-order/", "certZ/"]
    async with between.served(), world(plain, tmp_path, clock) as one:
        between.faults = [(steps[0], lambda *_: None)]
        await one.service.reload(settings(authority(plain, directory=between.directory)))
        for step in [*steps[1:], "nothing"]:
            (until,) = await clock.idle()
            assert until is not None
            assert not one.issued
            assert one.storage.order("shop") is not None
            between.faults = [(step, lambda *_: None)]
            await clock.move(until)
        assert one.issued == ["shop"]
        assert one.storage.order("shop") is None
        assert one.service.orders["failed"] == len(steps)
    assert plain.orders == before + 1
