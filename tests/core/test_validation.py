"""Requests that Python validates before they are charged, and that go on in C."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
import time

import chargingkit
import orjson
import pytest
from chargingkit import SharedMoney
from enginekit import Backend, Client, GatedBackend, Plane, Reply, Seen, proxied
from validatorkit import Validator, Wrong

PLACE = "/etc/openapi.yaml"


def plane(validator: object, *urls: str, document: dict | None = None, **more: object) -> Plane:
    config = proxied(*urls, validate=PLACE, **more) if document is None else document
    return Plane(config, handlers={"validator": validator})


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


def problem(reply: Reply) -> dict:
    assert reply.status == 400, (reply.status, reply.body)
    found = orjson.loads(reply.body)
    assert found["reason"] == "request_invalid"
    return found


# ---- valid ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, 20_000, 300_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_valid_request_is_proxied_with_its_whole_body(backend, size, chunked):
    validator = Validator()
    body = (b"0123456789" * (size // 10 + 1))[:size]
    async with plane(validator, backend.url, max_body="1MB") as p:
        client = await p.client()
        headers = {"Transfer-Encoding": "chunked"} if chunked else {}
        for _ in range(2):
            reply = await client.request("POST", "/a?b=c", headers, body)
            assert (reply.status, reply.body) == (200, b"POST /a?b=c")
    assert validator.seen == [("POST", "/a", "b=c", body)] * 2
    assert [seen.body for seen in backend.requests] == [body] * 2
    for seen in backend.requests:
        # The gateway has all of it, so the upstream is told its length.
        assert seen.headers.get("content-length") == (str(size) if size or chunked else None)
        assert "transfer-encoding" not in seen.headers


async def test_what_a_validator_sees(backend):
    found = {}

    def validator(view):
        found["fields"] = [
            view.field(name) for name in (b"x-one", b"x-two", b"x-none", b"x-api-key")
        ]
        found["query"], found["path"] = view.query, view.path
        validator.view = view

    config = proxied(
        backend.url,
        validate=PLACE,
        auth={"api_key": {"header": "X-Api-Key", "query": "key"}},
    )
    config["consumers"] = [{"name": "ann"}]
    async with Plane(config, handlers={"validator": validator}, keys={"k" * 20: "ann"}) as p:
        headers = [("X-One", "1"), ("X-Two", "a"), ("x-two", b"b\xe9"), ("X-Api-Key", "k" * 20)]
        reply = await p.get(f"/a//b/%7Ec?x=%20&key={'k' * 20}&y", headers=headers)
        assert reply.status == 200
    # The credential is the gateway's: the description of the API does not know it.
    assert found["fields"] == ["1", "a, b\xe9", None, None]
    assert (found["path"], found["query"]) == ("/a/b/~c", "x=%20&y")
    with pytest.raises(RuntimeError, match="the validation is over"):
        _ = validator.view.body


async def test_the_client_gets_100_continue_and_then_the_answer(backend):
    validator = Validator()
    async with plane(validator, backend.url) as p:
        client = await p.client()
        head = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        await client.raw(head)
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert validator.seen == []
        await client.raw(b"abc")
        assert b"200 OK" in await client.reader.readuntil(b"\r\n\r\n")
    assert backend.requests[0].body == b"abc"
    assert "expect" not in backend.requests[0].headers


async def test_pipelined_requests_are_validated_one_after_the_other(backend):
    validator = Validator()
    async with plane(validator, backend.url) as p:
        one = b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"
        answer = await p.raw(
            one % 1 + b"bad" + one % 2 + b"abc" + b"GET /3 HTTP/1.0\r\nHost: h\r\n\r\n"
        )
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"400", b"200", b"200"]
    assert [seen[1] for seen in validator.seen] == ["/1", "/2", "/3"]


async def test_an_upgrade_is_validated_and_then_a_tunnel():
    async def switch(_: Backend, seen: Seen) -> bytes:
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )

    backend = await Backend(switch).start()
    validator = Validator()
    async with plane(validator, backend.url, websocket=True) as p:
        client = await p.client()
        await client.raw(
            b"GET /w HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")
        await client.close()
    await backend.stop()
    assert [seen[1] for seen in validator.seen] == ["/w"]


async def test_a_preflight_is_answered_without_validation(backend):
    validator = Validator()
    async with plane(validator, backend.url, cors={"origins": ["https://a.example"]}) as p:
        headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        reply = await p.request("OPTIONS", "/a", headers=headers)
        assert reply.status == 204
        assert validator.seen == []
        assert (await p.request("OPTIONS", "/a")).status == 200
        assert (await p.request("HEAD", "/a")).status == 200
    assert [seen[0] for seen in validator.seen] == ["OPTIONS", "HEAD"]


async def test_routes_with_an_answer_of_their_own_and_with_a_handler():
    async def handler(x):
        await x.respond(200, None, b"handled " + x.body)

    validator = Validator()
    config = {
        "routes": [
            {"name": "a", "path": "/a", "respond": "fixed", "validate": PLACE},
            {"name": "h", "path": "/h", "handler": "test:handler", "validate": PLACE},
        ]
    }
    handlers = {"validator": validator, "test:handler": handler}
    async with Plane(config, handlers=handlers) as p:
        for path, said in (("/a", b"fixed"), ("/h", b"handled abc")):
            for headers in ({}, {"Transfer-Encoding": "chunked"}):
                reply = await p.request("POST", path, headers=headers, body=b"abc")
                assert (reply.status, reply.body) == (200, said)
            problem(await p.request("POST", path, body=b"bad"))
        assert p.engine.stats()["upcalls"] == 0


async def test_a_collected_body_is_kept_until_the_answer_begins():
    arrived: asyncio.Queue[None] = asyncio.Queue()
    steps: asyncio.Queue[None] = asyncio.Queue()

    async def slowly(_: Backend, seen: Seen) -> bytes:
        arrived.put_nowait(None)
        await steps.get()
        seen.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        await steps.get()
        return b"b"

    alive = {}
    backend = await Backend(slowly).start()
    async with plane(Validator(), backend.url) as p:
        for body in (b"", b"x" * 100_000):
            client = await p.client()
            await client.send("POST", "/a", {}, body)
            await arrived.get()
            waiting = p.engine.stats()["buffers"]
            steps.put_nowait(None)
            await client.reader.readuntil(b"\r\n\r\na")
            alive[len(body)] = waiting, p.engine.stats()["buffers"]
            steps.put_nowait(None)
            assert await client.reader.readexactly(1) == b"b"
            await client.close()
            await p.settled(exchanges=0)
    await backend.stop()
    assert alive[100_000] == (alive[0][0] + 1, alive[0][1])


# ---- retries ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_collected_body_is_sent_again_to_another_target(chunked):
    async def refuse(_: Backend, seen: Seen) -> bytes:
        return b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"

    busy, good = await Backend(refuse).start(), await Backend().start()
    body = b"x" * 100_000
    config = proxied(busy.url, good.url, validate=PLACE)
    config["services"][0]["retries"] = {"attempts": 2, "statuses": ["503"]}
    headers = {"Transfer-Encoding": "chunked"} if chunked else {}
    async with plane(Validator(), document=config) as p:
        for _ in range(2):
            assert (await p.request("PUT", "/a", headers=headers, body=body)).status == 200
    assert len(busy.requests) >= 1
    assert [seen.body for seen in (*busy.requests, *good.requests)] == [body] * (
        len(busy.requests) + 2
    )
    await busy.stop()
    await good.stop()


async def test_a_collected_body_is_sent_again_when_a_pooled_connection_was_stale():
    async def once(_: Backend, seen: Seen) -> bytes:
        seen.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await seen.writer.drain()
        seen.writer.transport.abort()
        return b""

    backend = await Backend(once).start()
    async with plane(Validator(), backend.url) as p:
        for _ in range(5):
            headers = {"Transfer-Encoding": "chunked"}
            reply = await p.request("POST", "/a", headers=headers, body=b"y" * 50_000)
            assert reply.status == 200
    assert {seen.body for seen in backend.requests} == {b"y" * 50_000}
    await backend.stop()


# ---- not valid --------------------------------------------------------------------------


async def test_an_invalid_request_is_refused_with_its_errors(backend):
    validator = Validator()
    async with plane(validator, backend.url) as p:
        client = await p.client()
        for headers in ({}, {"Transfer-Encoding": "chunked"}):
            reply = await client.request("POST", "/a", headers, b"bad body")
            found = problem(reply)
            assert found["errors"] == [{"pointer": "/a", "detail": "must be 'x'"}]
            assert found["error_count"] == 1
            assert found["detail"].endswith(" It must be 'x'.")
            assert found["status"] == 400
            assert found["retry"] == "never"
            assert "error" not in found
        # The connection goes on: the request is complete.
        assert (await client.request("POST", "/a", {}, b"good")).status == 200
    assert len(backend.requests) == 1


async def test_the_errors_are_in_the_form_that_the_client_accepts(backend):
    validator = Validator()
    async with plane(validator, backend.url, openai_errors=True) as p:
        for accept, form, said in (
            ("text/html", "html", b"<dt>What is wrong</dt><dd>* it</dd>"),
            ("text/markdown", "markdown", b"- What is wrong: * it\n"),
            ("application/json", "json", b'"errors":[{"pointer":"/a","detail":"must be'),
        ):
            reply = await p.request("POST", "/a", headers={"Accept": accept}, body=b"bad")
            assert reply.status == 400
            assert said in reply.body
            assert validator.wrong.form == form
            assert b"It must be" in reply.body
        # OpenAI's clients show nothing but the message.
        assert "It must be 'x'." in orjson.loads(reply.body)["error"]["message"]
        head = await p.request("HEAD", "/a", headers={"Transfer-Encoding": "chunked"}, body=b"bad")
        assert (head.status, head.body) == (400, b"")


async def test_a_body_of_the_operators_shows_the_errors(backend):
    config = proxied(backend.url, validate=PLACE)
    config["problems"] = {
        "bodies": {
            "request_invalid": {"json": {"code": 7, "why": "{{errors}}", "n": "{{error_count}}"}}
        }
    }
    async with plane(Validator(), document=config) as p:
        reply = await p.request("POST", "/a", body=b"bad")
        assert orjson.loads(reply.body) == {
            "code": 7,
            "why": [{"pointer": "/a", "detail": "must be 'x'"}],
            "n": 1,
        }


async def test_the_largest_list_of_errors_fits(backend):
    class Many(Wrong):
        def rendered(self, form: str) -> tuple[bytes, bytes, int]:
            return b"x" * 500, orjson.dumps(["y" * 8188]), 2**32 - 1

    async with plane(lambda view: Many(), backend.url, openai_errors=True) as p:
        found = problem(await p.request("POST", "/a", body=b"bad"))
        assert found["errors"] == ["y" * 8188]
        assert found["error_count"] == 2**32 - 1
        assert found["detail"].endswith(" " + "x" * 500)


@pytest.mark.parametrize("sizes", [(501, 10), (10, 8193)])
async def test_more_than_a_refusal_has_room_for_is_an_error(backend, sizes, caplog):
    class Many(Wrong):
        def rendered(self, form: str) -> tuple[bytes, bytes, int]:
            return b"x" * sizes[0], b"y" * sizes[1], 1

    async with plane(lambda view: Many(), backend.url) as p:
        assert (await p.request("POST", "/a", body=b"bad")).status == 500
    assert "bytes of errors are too many" in caplog.text


async def test_a_validator_that_raises_is_a_500(backend, caplog):
    def validator(view):
        raise ZeroDivisionError("broken")

    with caplog.at_level(logging.ERROR, "fastgate.validation"):
        async with plane(validator, backend.url) as p:
            client = await p.client()
            for _ in range(2):
                reply = await client.request("POST", "/a", {}, b"x")
                assert reply.status == 500
                assert orjson.loads(reply.body)["reason"] == "internal_error"
    assert "the validation of route r failed" in caplog.text
    assert "ZeroDivisionError: broken" in caplog.text
    assert backend.requests == []


# ---- bodies that do not come whole --------------------------------------------------------


async def test_a_body_over_the_cap_is_not_validated(backend):
    validator = Validator()
    async with plane(validator, backend.url, max_body="1KiB") as p:
        assert (await p.request("PUT", "/a", body=b"x" * 1025)).status == 413
        headers = {"Transfer-Encoding": "chunked"}
        assert (await p.request("PUT", "/a", headers=headers, body=b"x" * 1025)).status == 413
        assert (await p.request("PUT", "/a", headers=headers, body=b"x" * 1024)).status == 200
    assert len(validator.seen) == 1


async def test_a_chunk_that_is_not_valid_ends_the_collection(backend):
    validator = Validator()
    async with plane(validator, backend.url) as p:
        answer = await p.raw(
            b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"malformed_request" in answer
    assert validator.seen == []


HALF = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc"


async def half(p: Plane) -> Client:
    """A client whose body has come half."""
    client = await p.client()
    await client.raw(HALF)
    await p.settled(upcalls=1)
    return client


async def test_a_body_that_does_not_come_is_a_408(backend):
    config = proxied(backend.url, validate=PLACE)
    config["timeouts"] = {"body": "50ms"}
    async with plane(Validator(), document=config) as p:
        client = await half(p)
        assert b" 408 " in await client.reader.readuntil(b"\r\n\r\n")
        await p.settled(exchanges=0, upcalls=0)
    assert backend.requests == []


async def test_a_client_that_leaves_while_its_body_is_collected(backend):
    validator = Validator()
    async with plane(validator, backend.url) as p:
        client = await half(p)
        await client.reset()
        await p.settled(exchanges=0, upcalls=0, connections=0, buffers=0)
    assert validator.seen == []


async def test_a_client_that_leaves_while_its_validation_is_queued(backend):
    """Two requests are read in one round. The validation of the first takes all of the turn, and
    the other one's client leaves meanwhile."""
    seen = []

    def validator(view):
        seen.append(view.path)
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaving.close()
        end = time.monotonic_ns() + 2_000_000
        while time.monotonic_ns() < end:
            pass

    async with plane(validator, backend.url) as p:
        staying = socket.create_connection(("127.0.0.1", p.port))
        leaving = socket.create_connection(("127.0.0.1", p.port))
        await p.settled(connections=2)
        for number, client in enumerate((staying, leaving)):
            head = b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
            client.sendall(head % number)
        await p.settled(exchanges=0, upcalls=0, connections=1)
        assert staying.recv(65536).startswith(b"HTTP/1.1 200 OK")
        staying.close()
    assert seen == ["/0"]
    assert [one.target for one in backend.requests] == ["/0"]


async def test_a_client_that_leaves_after_its_validation():
    backend = await GatedBackend().start()
    async with plane(Validator(), backend.url) as p:
        client = await p.client()
        await client.send("POST", "/a", {"Transfer-Encoding": "chunked"}, b"abc")
        await p.settled(exchanges=1, upstreams=1)
        await client.reset()
        await p.settled(exchanges=0, upcalls=0, buffers=0)
        backend.gate.set()
    await backend.stop()


async def test_more_than_the_workers_upcalls_are_refused(backend):
    config = proxied(backend.url, validate=PLACE)
    config["caps"] = {"upcalls": 1}
    async with plane(Validator(), document=config) as p:
        first = await half(p)
        reply = await p.request("POST", "/a", body=b"x")
        assert (reply.status, orjson.loads(reply.body)["reason"]) == (503, "overloaded")
        assert reply.headers["retry-after"]
        await first.raw(b"def")
        assert b"200 OK" in await first.reader.readuntil(b"\r\n\r\n")
        # An exchange counts until it is validated, not until it is answered.
        await p.settled(upcalls=0)
        assert (await p.request("POST", "/a", body=b"x")).status == 200


async def test_validated_requests_that_wait_for_their_upstream_do_not_count(backend):
    gated = await GatedBackend().start()
    config = proxied(gated.url, validate=PLACE)
    config["caps"] = {"upcalls": 1}
    async with plane(Validator(), document=config) as p:
        clients = [await p.client() for _ in range(5)]
        for number, client in enumerate(clients, 1):
            await client.send("POST", "/a", {}, b"abc")
            await p.settled(exchanges=number, upstreams=number, upcalls=0)
        gated.gate.set()
        for client in clients:
            assert (await client.reply()).status == 200
    await gated.stop()


async def test_many_validations_at_once_take_turns_with_polling(backend):
    """A turn ends after a millisecond of validations; the others follow by themselves."""
    turns = []

    def validator(view):
        turns.append(p.snapshot)
        sum(range(20_000))  # a part of a millisecond

    async with plane(validator, backend.url) as p:
        clients = [await p.client() for _ in range(40)]
        for client in clients:
            client.writer.write(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
        for client in clients:
            assert b"200 OK" in await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 20)
    assert len(turns) == 40


# ---- reload, drain, end -----------------------------------------------------------------


async def test_a_reload_that_removes_the_route_while_the_body_comes(backend):
    validator = Validator()
    async with plane(validator, backend.url) as p:
        client = await half(p)
        p.install({"routes": [{"name": "other", "path": "/other", "respond": 204}]})
        assert p.engine.stats()["retired_snapshots"] == 1
        await client.raw(b"def")
        assert b"200 OK" in await client.reader.readuntil(b"\r\n\r\n")
        await p.settled(exchanges=0, retired_snapshots=0)
        assert (await p.request("POST", "/a", body=b"x")).status == 404
    assert validator.seen == [("POST", "/a", "", b"abcdef")]


async def test_a_reload_changes_the_validator_of_later_requests(backend):
    first, second = Validator(), Validator()
    async with plane(first, backend.url) as p:
        client = await half(p)
        p.handlers["validator"] = second
        p.install(p.config)
        await client.raw(b"def")
        assert b"200 OK" in await client.reader.readuntil(b"\r\n\r\n")
        assert (await p.request("POST", "/b", body=b"x")).status == 200
    assert ([seen[1] for seen in first.seen], [seen[1] for seen in second.seen]) == (["/a"], ["/b"])


async def test_a_draining_worker_validates_what_it_has_begun(backend):
    validator = Validator()
    async with plane(validator, backend.url) as p:
        client = await half(p)
        p.engine.drain()
        await client.raw(b"def")
        answer = await client.reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answer
    assert len(validator.seen) == 1


async def test_a_worker_that_ends_breaks_off_what_it_collects(backend):
    validator = Validator()
    async with plane(validator, backend.url) as p:
        client = await half(p)
        p.engine.close()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.reader.readexactly(1)
        assert p.engine.stats()["exchanges"] == 0
    assert validator.seen == []


# ---- limits and money -------------------------------------------------------------------


async def test_an_invalid_request_counts_in_limits_and_not_in_quotas(backend):
    limits = {
        "limits": [{"by": ["route"], "rate": "1/h", "burst": 3}],
        "concurrency": [{"by": ["route"], "max": 1}],
        "quotas": [{"by": ["route"], "period": "day", "requests": 2}],
    }
    async with plane(Validator(), backend.url, **limits) as p:
        problem(await p.request("POST", "/a", body=b"bad"))
        problem(await p.request("POST", "/a", body=b"bad"))
        assert (await p.request("POST", "/a", body=b"x")).status == 200
        reply = await p.request("POST", "/a", body=b"x")  # the quota has one left, the limit none
        assert (reply.status, orjson.loads(reply.body)["reason"]) == (429, "rate_limited")


async def test_a_refused_limit_comes_before_the_validation(backend):
    validator = Validator()
    limits = [{"by": ["route"], "rate": "1/h", "burst": 1}]
    async with plane(validator, backend.url, limits=limits) as p:
        assert (await p.request("POST", "/a", body=b"x")).status == 200
        assert (await p.request("POST", "/a", body=b"bad")).status == 429
    assert len(validator.seen) == 1


async def test_nothing_is_charged_or_held_for_an_invalid_request(backend):
    shared = SharedMoney()
    shared.accounts.set_balance(chargingkit.ANN, "USD", 1_000_000)
    held = []

    def validator(view):
        held.append(shared.balance())
        return Wrong() if view.body.startswith(b"bad") else None

    document = chargingkit.config(backend, validate=PLACE)
    async with chargingkit.plane(shared, document, handlers={"validator": validator}) as p:
        headers = {"X-Api-Key": "ann-key"}
        problem(await p.request("POST", "/a", headers=headers, body=b"bad"))
        assert shared.balance() == 1_000_000
        assert shared.records() == []
        assert (await p.request("POST", "/a", headers=headers, body=b"x")).status == 200
        assert shared.balance() == 750_000
        # The caller is known before the request is looked at.
        assert (await p.request("POST", "/a", body=b"bad")).status == 401
    assert held == [1_000_000, 1_000_000]
    assert [(amount, status) for amount, status, _ in shared.records()] == [(250_000, 200)]


async def test_who_cannot_pay_learns_first_what_is_wrong_with_the_request(backend):
    shared = SharedMoney()
    document = chargingkit.config(backend, validate=PLACE)
    handlers = {"validator": Validator()}
    async with chargingkit.plane(shared, document, handlers=handlers) as p:
        headers = {"X-Api-Key": "ann-key"}
        problem(await p.request("POST", "/a", headers=headers, body=b"bad"))
        assert (await p.request("POST", "/a", headers=headers, body=b"x")).status == 402
