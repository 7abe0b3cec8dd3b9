"""Sticky cookies: who gets one, where it leads, when it is replaced, and what caches do with it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import chargingkit
import pytest
from balancingkit import POLICIES
from enginekit import Backend, GatedBackend, Plane, Reply, Seen

from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import stable_hash

NAME = "lb"


def named(number: int, fields: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: 1\r\n%b\r\n%d" % (status, fields, number)


class Numbered(Backend):
    """An upstream that answers with its number, and with these fields and this status."""

    def __init__(self, number: int) -> None:
        super().__init__(self._answer)
        self.number = number
        self.fields = b""
        self.status = b"200 OK"

    async def _answer(self, _: Backend, seen: Seen) -> bytes:
        if self.status[:3] in (b"304", b"204"):
            return b"HTTP/1.1 %b\r\n%b\r\n" % (self.status, self.fields)
        return named(self.number, self.fields, self.status)


@contextlib.asynccontextmanager
async def targets(count: int = 3) -> AsyncIterator[list[Numbered]]:
    found = [Numbered(i) for i in range(count)]
    for each in found:
        await each.start()
    try:
        yield found
    finally:
        for each in found:
            await each.stop()


def config(backends: list[Any], *, sticky: Any = NAME, route: Any = None, **upstream: Any) -> Any:
    return {
        "upstreams": [
            {
                "name": "u",
                "targets": [each.url for each in backends],
                "sticky": sticky,
                "eject": {"after": 0},
                **upstream,
            }
        ],
        "services": [{"name": "s", "upstream": "u", "retries": 3}],
        "routes": [{"name": "r", "path": "/{rest*}", "service": "s", **(route or {})}],
    }


def cookie_of(reply: Reply) -> str:
    """The cookie that the answer sets; empty: none."""
    lines = [value for name, value in reply.pairs if name.lower() == "set-cookie"]
    assert len(lines) <= 1
    return lines[0].partition(";")[0] if lines else ""


def caching(reply: Reply) -> list[str]:
    return [value for name, value in reply.pairs if name.lower() == "cache-control"]


async def stuck(plane: Plane, cookie: str, times: int = 6) -> set[bytes]:
    """The targets of requests with that cookie, none of which sets one."""
    found = set()
    for _ in range(times):
        reply = await plane.get("/", headers={"Cookie": cookie})
        assert (reply.status, cookie_of(reply), caching(reply)) == (200, "", [])
        found.add(reply.body)
    return found


async def cookie_for(plane: Plane, number: int, headers: Any = None) -> str:
    """A cookie that leads to that target."""
    for _ in range(200):
        reply = await plane.get("/", headers=headers or {})
        if reply.body == b"%d" % number:
            return cookie_of(reply)
    raise AssertionError(f"target {number} gets no requests")


# ---- what is set, and where it leads ------------------------------------------------------------


@pytest.mark.parametrize("balance", POLICIES)
async def test_a_client_stays_with_the_target_that_answered_first(balance: str) -> None:
    async with targets() as backends:
        more = {"balance": balance} | ({"hash_by": "header:X"} if balance == "hash" else {})
        async with Plane(config(backends, **more)) as plane:
            values = {}
            for i in range(30):
                reply = await plane.get("/", headers={"X": str(i)})
                cookie = cookie_of(reply)
                assert re.fullmatch(rf"{NAME}=[A-Za-z0-9_-]{{16}}", cookie)
                assert values.setdefault(cookie, reply.body) == reply.body
            assert len(values) > 1
            for cookie, body in values.items():
                assert await stuck(plane, cookie) == {body}


async def test_the_attributes() -> None:
    async with targets(1) as backends, Plane(config(backends)) as plane:
        reply = await plane.get("/")
        assert re.fullmatch(
            rf"{NAME}=[\w-]{{16}}; Path=/; HttpOnly; SameSite=Lax", reply.headers["set-cookie"]
        )
        sticky = {
            "cookie": "route-1", "path": "/shop", "max_age": "1h", "same_site": "strict",
            "secure": True,
        }  # fmt: skip
        plane.install(config(backends, sticky=sticky))
        reply = await plane.get("/")
        assert re.fullmatch(
            r"route-1=[\w-]{16}; Path=/shop; Max-Age=3600; HttpOnly; SameSite=Strict; Secure",
            reply.headers["set-cookie"],
        )


@pytest.mark.parametrize(
    ("secure", "clear", "proxied", "tls"),
    [("auto", False, True, True), (True, True, True, True), (False, False, False, False)],
)
async def test_secure_is_as_the_client_came(
    secure: Any, clear: bool, proxied: bool, tls: bool
) -> None:
    async with targets(1) as backends:
        document = config(backends, sticky={"cookie": NAME, "secure": secure})
        async with Plane({**document, "trusted_proxies": ["127.0.0.1"]}) as plane:
            encrypted = await plane.encrypted()
            for reply, expected in (
                (await plane.get("/"), clear),
                (await plane.get("/", headers={"X-Forwarded-Proto": "https"}), proxied),
                (await encrypted.request("GET", "/"), tls),
            ):
                assert reply.headers["set-cookie"].endswith("; Secure") == expected


async def test_nothing_is_set_without_the_setting() -> None:
    async with targets() as backends, Plane(config(backends, sticky=None)) as plane:
        for _ in range(3):
            reply = await plane.get("/", headers={"Cookie": f"{NAME}=AAAAAAAAAAAAAAAA"})
            assert (cookie_of(reply), caching(reply)) == ("", [])


async def test_which_cookies_of_a_request_count() -> None:
    async with targets() as backends, Plane(config(backends)) as plane:
        cookie = await cookie_for(plane, 1)
        other = await cookie_for(plane, 2)
        value = cookie.partition("=")[2]
        for field in (
            f"a=b; {cookie}; c=d", f"a=b;{cookie}", f";; ;\t{cookie}", f"{NAME}=; {cookie}",
            f"{NAME}=unknown; {cookie}", f"{NAME}; {cookie}", f"{cookie}; {other}",
            f"x{NAME}={other}; {cookie}",
        ):  # fmt: skip
            assert await stuck(plane, field) == {b"1"}, field
        client = await plane.client()
        for _ in range(6):  # a field for each cookie
            reply = await client.request("GET", "/", [("Cookie", "a=b"), ("cookie", cookie)])
            assert (reply.body, cookie_of(reply)) == (b"1", "")
        for field in (
            f'{NAME}="{value}"', f"{NAME}={value}x", f"{NAME}={value[:-1]}", f"X{NAME}={value}",
            f"{NAME.upper()}={value}", f"{NAME} ={value}", value, "",
        ):  # fmt: skip
            bodies = set()
            for _ in range(6):
                reply = await plane.get("/", headers={"Cookie": field})
                assert cookie_of(reply)
                bodies.add(reply.body)
            assert len(bodies) == 3, field


async def test_the_upstream_sees_the_clients_cookies_as_they_are() -> None:
    async with targets(1) as backends, Plane(config(backends)) as plane:
        cookie = cookie_of(await plane.get("/"))
        await plane.get("/", headers={"Cookie": f"a=b; {cookie}"})
        assert backends[0].requests[-1].headers["cookie"] == f"a=b; {cookie}"


async def test_its_own_cookies_pass_beside_it() -> None:
    async with targets(1) as backends, Plane(config(backends)) as plane:
        backends[0].fields = b"Set-Cookie: session=1; Path=/\r\nSet-Cookie: x=y\r\n"
        reply = await plane.get("/")
        lines = [value for name, value in reply.pairs if name.lower() == "set-cookie"]
        assert lines[:2] == ["session=1; Path=/", "x=y"]
        assert lines[2].startswith(f"{NAME}=")


# ---- targets that cannot be used ----------------------------------------------------------------


def claimed(plane: Plane, number: int, backends: list[Any]) -> Any:
    (key,) = (key for key in plane.slots.targets if backends[number].url in key)
    row = plane.segment.target_row(plane.slots.targets[key])
    row.claim(stable_hash(f"target:{key}"))
    return row


@pytest.mark.parametrize("why", ["unhealthy", "ejected"])
async def test_another_takes_over_and_the_cookie_is_replaced(why: str) -> None:
    async with targets() as backends, Plane(config(backends)) as plane:
        cookie = await cookie_for(plane, 1)
        row = claimed(plane, 1, backends)
        if why == "unhealthy":
            row.health = 2
        else:
            row.ejected_until_ns = time.monotonic_ns() + 3600 * 10**9
        reply = await plane.get("/", headers={"Cookie": cookie})
        replaced = cookie_of(reply)
        assert reply.body in (b"0", b"2")
        assert replaced != cookie
        assert await stuck(plane, replaced) == {reply.body}
        row.health, row.ejected_until_ns = 1, 1
        # It stays with the second one; the first cookie would lead back.
        assert await stuck(plane, replaced) == {reply.body}
        assert await stuck(plane, cookie) == {b"1"}


async def test_an_ejected_one_is_used_as_a_last_resort() -> None:
    async with targets() as backends, Plane(config(backends)) as plane:
        cookie = await cookie_for(plane, 1)
        for number in range(3):
            until = time.monotonic_ns() + 3600 * 10**9
            claimed(plane, number, backends).ejected_until_ns = until
        assert await stuck(plane, cookie) == {b"1"}


async def test_one_that_has_no_room() -> None:
    gated, other = GatedBackend(b"0"), Numbered(1)
    await gated.start()
    await other.start()
    gated.gate.set()
    async with Plane(config([gated, other], max_connections=1)) as plane:
        cookie = await cookie_for(plane, 0)
        gated.gate.clear()
        gated.asked.clear()
        waiting = await plane.client()
        await waiting.send("GET", "/", {"Cookie": cookie})
        await gated.asked.wait()
        reply = await plane.get("/", headers={"Cookie": cookie})
        assert reply.body == b"1"
        assert cookie_of(reply) not in ("", cookie)
        gated.gate.set()
        assert cookie_of(await waiting.reply()) == ""
    await gated.stop()
    await other.stop()


async def test_a_retry_replaces_it() -> None:
    async with targets() as backends, Plane(config(backends)) as plane:
        cookie = await cookie_for(plane, 1)
        await backends[1].stop()
        reply = await plane.request("POST", "/", headers={"Cookie": cookie}, body=b"x")
        assert reply.status == 200
        assert cookie_of(reply) not in ("", cookie)
        assert counters_snapshot(plane.segment).workers[0]["retries"] == 1
        await backends[1].start()


async def test_an_answer_that_is_retried_elsewhere() -> None:
    async with targets(2) as backends:
        document = config(backends)
        document["services"][0]["retries"] = {"attempts": 2, "statuses": [503]}
        async with Plane(document) as plane:
            cookie = await cookie_for(plane, 1)
            backends[1].status = b"503 X"
            reply = await plane.get("/", headers={"Cookie": cookie})
            assert reply.body == b"0"
            assert cookie_of(reply) not in ("", cookie)
            backends[0].status = b"503 X"  # now the last answer passes, and names who gave it
            reply = await plane.get("/", headers={"Cookie": cookie})
            assert (reply.status, reply.body) == (503, b"0")
            assert cookie_of(reply) not in ("", cookie)


async def test_refusals_of_the_gateway_set_none() -> None:
    async with targets(1) as backends, Plane(config(backends)) as plane:
        await backends[0].stop()
        reply = await plane.get("/")
        assert (reply.status, cookie_of(reply)) == (502, "")
        await backends[0].start()


# ---- reloads and workers ------------------------------------------------------------------------


async def test_reloads_do_not_change_it() -> None:
    async with targets() as backends, Plane(config(backends)) as plane:
        cookies = [await cookie_for(plane, number) for number in range(3)]
        weighted = [{"url": each.url, "weight": 7 - i} for i, each in enumerate(backends)]
        for change in (
            {"balance": "least_connections"}, {"targets": weighted[::-1]},
            {"targets": weighted[1:]},
        ):  # fmt: skip
            plane.install(config(backends, **change))
            for number in (1, 2):
                assert await stuck(plane, cookies[number]) == {b"%d" % number}
        reply = await plane.get("/", headers={"Cookie": cookies[0]})  # its target is gone
        assert cookie_of(reply) in cookies[1:]


async def test_a_reload_in_the_middle_of_a_request() -> None:
    gated = GatedBackend(b"0")
    await gated.start()
    async with targets(1) as backends, Plane(config([gated, *backends])) as plane:
        client = await plane.client()
        await client.send("GET", "/")
        await gated.asked.wait()
        plane.install(config(backends, sticky={"cookie": "other", "path": "/x"}))
        gated.gate.set()
        reply = await client.reply()
        assert cookie_of(reply).startswith(f"{NAME}=")
        assert cookie_of(await plane.get("/")).startswith("other=")
    await gated.stop()


async def test_all_workers_know_it() -> None:
    async with targets() as backends:
        segment = Segment.create(2, log_records=64)
        document = config(backends)
        async with (
            Plane(document, segment=segment) as first,
            Plane(document, segment=segment, worker=1) as second,
        ):
            for number in range(3):
                cookie = await cookie_for(first, number)
                assert await stuck(second, cookie) == {b"%d" % number}


# ---- caches -------------------------------------------------------------------------------------

SHARED = [
    b"Cache-Control: public\r\n", b"Cache-Control: max-age=60, s-maxage=600\r\n",
    b"Cache-Control: max-age=60\r\nCache-Control: PUBLIC\r\n", b"CDN-Cache-Control: max-age=60\r\n",
    b"Cache-Control: private\r\nSurrogate-Control: max-age=60\r\n",
]  # fmt: skip
NOT_SHARED = [
    b"Cache-Control: private, max-age=60\r\n", b"Cache-Control: no-store\r\n",
    b"Cache-Control: max-age=60\r\nCache-Control: private\r\n",
    b"Cache-Control: no-store\r\nCDN-Cache-Control: no-store\r\n",
]  # fmt: skip
SAYS_NOTHING = [
    b"", b"Cache-Control: max-age=60\r\n", b"Expires: Thu, 01 Jan 2099 00:00:00 GMT\r\n",
    b'ETag: "x"\r\n', b"Cache-Control: no-cache\r\n",
]  # fmt: skip


@pytest.mark.parametrize("fields", SHARED)
async def test_what_shared_caches_may_store_has_no_cookie(fields: bytes) -> None:
    async with targets(1) as backends, Plane(config(backends)) as plane:
        backends[0].fields = fields
        reply = await plane.get("/")
        assert (reply.status, cookie_of(reply)) == (200, "")
        assert len(caching(reply)) == fields.lower().count(b"\ncache-control:") + (
            fields.startswith(b"Cache-Control:")
        )
        backends[0].fields = b""  # the next answer sets it
        assert cookie_of(await plane.get("/"))


@pytest.mark.parametrize("fields", NOT_SHARED)
async def test_what_they_may_not_store_has_it(fields: bytes) -> None:
    async with targets(1) as backends, Plane(config(backends)) as plane:
        backends[0].fields = fields
        reply = await plane.get("/")
        assert cookie_of(reply)
        sent = [line.split(b": ")[1].decode() for line in fields.splitlines()
                if line.startswith(b"Cache-Control")]  # fmt: skip
        assert caching(reply) == sent


@pytest.mark.parametrize("fields", SAYS_NOTHING)
async def test_what_does_not_say_is_made_private(fields: bytes) -> None:
    async with targets(1) as backends, Plane(config(backends)) as plane:
        backends[0].fields = fields
        reply = await plane.get("/")
        assert cookie_of(reply)
        assert caching(reply)[-1] == "private"
        again = await plane.get("/", headers={"Cookie": cookie_of(reply)})
        assert caching(again) == caching(reply)[:-1]


@pytest.mark.parametrize(
    ("rules", "fields", "set_", "sent"),
    [
        ({"set": {"Cache-Control": "public"}}, b"Cache-Control: private\r\n", False, ["public"]),
        ({"set": {"Cache-Control": "private"}}, b"Cache-Control: public\r\n", True, ["private"]),
        ({"set": {"Cache-Control": "max-age=5"}}, b"Cache-Control: public\r\n", True,
         ["private", "max-age=5"]),
        ({"remove": ["Cache-Control"]}, b"Cache-Control: public\r\n", True, ["private"]),
        ({"add": {"Cache-Control": "s-maxage=5"}}, b"", False, ["s-maxage=5"]),
        ({"default": {"Cache-Control": "public"}}, b"", False, ["public"]),
        ({"default": {"Cache-Control": "public"}}, b"Cache-Control: no-store\r\n", True,
         ["no-store"]),
        ({"set": {"CDN-Cache-Control": "max-age=9"}}, b"", False, []),
    ],
)  # fmt: skip
async def test_rules_of_the_route_decide(
    rules: Any, fields: bytes, set_: bool, sent: list[str]
) -> None:
    async with targets(1) as backends:
        document = config(backends, route={"headers": {"response": rules}})
        async with Plane(document) as plane:
            backends[0].fields = fields
            reply = await plane.get("/")
            assert (bool(cookie_of(reply)), caching(reply)) == (set_, sent)


async def test_answers_whose_fields_would_change_what_is_stored() -> None:
    async with targets(1) as backends, Plane(config(backends)) as plane:
        backends[0].status = b"304 Not Modified"
        reply = await plane.get("/", headers={"If-None-Match": '"x"'})
        assert (reply.status, cookie_of(reply), caching(reply)) == (304, "", [])
        backends[0].status = b"204 No Content"
        assert cookie_of(await plane.get("/"))
        backends[0].status = b"404 Not Found"
        assert cookie_of(await plane.get("/"))


# ---- other answers ------------------------------------------------------------------------------


async def test_tunnels_set_it_too() -> None:
    async def upgrade(_: Backend, seen: Seen) -> None:
        seen.writer.write(
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello"
        )
        await seen.writer.drain()
        await seen.reader.read()

    backend = await Backend(upgrade).start()
    async with Plane(config([backend], route={"websocket": True})) as plane:
        reader, writer = await plane.connect()
        writer.write(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nSet-Cookie: lb=" in head
        assert b"Cache-Control" not in head
        assert await reader.readexactly(5) == b"hello"
        writer.close()
    await backend.stop()


async def test_handlers_that_relay() -> None:
    """The client's cookie leads their calls, and the answer that is relayed sets it."""

    async def handler(x: Any) -> None:
        if x.path == "/own":
            response = await x.forward("u")
            await x.respond(200, [("Cache-Control", "public")], await response.read())
        elif x.path == "/public":
            x.relay(await x.forward("u"), [("Cache-Control", "public")])
        else:
            x.relay(await x.forward("u"))

    async with targets() as backends:
        document = config(backends)
        document["routes"] = [{"name": "h", "path": "/{rest*}", "handler": "t:h"}]
        async with Plane(document, handlers={"t:h": handler}) as plane:
            cookie = await cookie_for(plane, 1)
            assert await stuck(plane, cookie) == {b"1"}
            for path in ("/own", "/public"):
                assert cookie_of(await plane.get(path)) == ""


async def test_paid_answers_are_private_once() -> None:
    """They say so themselves; the cookie adds no second line."""
    shared = chargingkit.SharedMoney()
    shared.accounts.set_balance(chargingkit.ANN, "USD", 1_000_000)
    async with targets(1) as backends:
        document = chargingkit.config(backends[0])
        document["upstreams"][0]["sticky"] = NAME
        async with chargingkit.plane(shared, document) as plane:
            reply = await plane.get("/", headers={"X-Api-Key": "ann-key"})
            assert cookie_of(reply)
            assert caching(reply) == ["private"]


async def test_long_heads_have_room_for_it() -> None:
    async with targets(1) as backends:
        sticky = {"cookie": "n" * 128, "path": "/" + "p" * 1023}
        rules = {"set": {f"X-{i}": "b" * 4000 for i in range(4)}}
        document = config(backends, sticky=sticky, route={"headers": {"response": rules}})
        async with Plane(document) as plane:
            backends[0].fields = b"X-B: %b\r\n" % (b"c" * 12000)
            reply = await plane.get("/")
            assert cookie_of(reply).startswith("n" * 128)
            assert (reply.headers["x-3"], reply.body) == ("b" * 4000, b"0")
