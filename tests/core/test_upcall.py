"""Python handlers: the request they see, the answers they give, and what goes wrong."""

from __future__ import annotations

import asyncio
import logging

import orjson
import pytest
from enginekit import Backend, Plane, Seen
from handlerkit import config, plane

from fastgate._core.handlers.errors import ClientDisconnected, UpstreamError


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


async def test_what_a_handler_sees():
    async def handler(x):
        await x.respond(
            200,
            {"Content-Type": "application/json"},
            orjson.dumps(
                {
                    "method": x.method,
                    "path": x.path,
                    "query": x.query,
                    "params": x.params,
                    "header": x.headers["x-one"],
                    "all": x.headers.get_all("X-Two"),
                    "none": x.headers.get("x-none"),
                    "body": x.body.decode(),
                    "consumer": x.consumer,
                    "route": x.route,
                    "id": x.request_id,
                    "trace": x.trace,
                    "address": x.address,
                }
            ),
        )

    async with plane(handler, auth={"api_key": {"header": "X-Api-Key"}}) as p:
        reply = await p.request(
            "POST",
            "/h/42?a=b",
            headers=[("X-One", "1"), ("X-Two", "a"), ("x-two", "b"), ("X-Api-Key", "ann-key")],
            body=b"hello",
        )
    assert reply.status == 200
    seen = orjson.loads(reply.body)
    assert seen.pop("id") == reply.headers["x-request-id"]
    assert seen.pop("trace").startswith("00-")
    assert seen == {
        "method": "POST",
        "path": "/h/42",
        "query": "a=b",
        "params": {"id": "42"},
        "header": "1",
        "all": ["a", "b"],
        "none": None,
        "body": "hello",
        "consumer": {"id": "ann", "name": "ann", "plan": ""},
        "route": "r",
        "address": "127.0.0.1",
    }


@pytest.mark.parametrize("size", [0, 1, 20_000, 300_000, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_whole_body_is_there(size, chunked):
    body = (b"0123456789" * (size // 10 + 1))[:size]

    async def handler(x):
        assert x.body == body
        await x.respond(200, None, x.body)

    async with plane(handler, max_body="10MB") as p:
        client = await p.client()
        headers = {"Transfer-Encoding": "chunked"} if chunked else {}
        for _ in range(2):
            reply = await client.request("PUT", "/h/1", headers, body)
            assert (reply.status, reply.body) == (200, body)


async def test_a_body_over_the_cap_never_reaches_the_handler():
    async def handler(x):
        raise AssertionError

    async with plane(handler, max_body="1KiB") as p:
        assert (await p.request("PUT", "/h/1", body=b"x" * 1025)).status == 413
        headers = {"Transfer-Encoding": "chunked"}
        assert (await p.request("PUT", "/h/1", headers=headers, body=b"x" * 1025)).status == 413


async def test_streams_chunked_and_of_known_length():
    async def handler(x):
        if x.params["id"] == "known":
            await x.start(200, {"Content-Length": "6"})
        else:
            await x.start(206, [("X-A", "1")])
        for piece in (b"ab", bytearray(b"cd"), memoryview(b"ef")):
            await x.write(piece)
        x.finish()

    async with plane(handler) as p:
        client = await p.client()
        reply = await client.request("GET", "/h/known")
        assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"abcdef", "6")
        reply = await client.request("GET", "/h/unknown")
        assert (reply.status, reply.body) == (206, b"abcdef")
        assert reply.headers["transfer-encoding"] == "chunked"
        reply = await client.request("HEAD", "/h/known")
        assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", "6")
        old = await p.raw(b"GET /h/unknown HTTP/1.0\r\n\r\n")
        assert old.endswith(b"\r\n\r\nabcdef")


async def test_writing_waits_for_a_slow_reader():
    written = 0
    total = 32 * 1024 * 1024

    async def handler(x):
        nonlocal written
        await x.start(200, None, total)
        piece = b"p" * 65536
        while written < total:
            await x.write(piece)
            written += len(piece)

    async with plane(handler) as p:
        reader, writer = await asyncio.open_connection("127.0.0.1", p.port, limit=65536)
        writer.write(b"GET /h/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while written != before:
            before = written
            for _ in range(200):
                await asyncio.sleep(0)
        assert written < total / 2
        rest = 0
        while rest < total:
            rest += len(await reader.read(1 << 20))
        assert rest == total
        writer.close()


async def test_a_client_that_leaves_cancels_the_handler():
    begun = asyncio.Event()
    ended = asyncio.Event()
    seen: list[str] = []

    async def handler(x):
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)  # it may still settle
            seen.append("settled")
            with pytest.raises(ClientDisconnected):
                await x.respond(200)
            raise
        finally:
            ended.set()

    async with plane(handler) as p:
        client = await p.client()
        await client.send("GET", "/h/1")
        await begun.wait()
        await client.reset()
        await asyncio.wait_for(ended.wait(), 10)
        await p.settled(exchanges=0, upcalls=0)
    assert seen == ["cancelled", "settled"]


async def test_a_client_that_leaves_while_a_stream_is_written():
    ended = asyncio.Event()

    async def handler(x):
        try:
            await x.start(200)
            while True:
                await x.write(b"data: tick\n\n")
                await asyncio.sleep(0)
        finally:
            ended.set()

    async with plane(handler) as p:
        reader, writer = await asyncio.open_connection("127.0.0.1", p.port)
        writer.write(b"GET /h/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"tick")
        writer.close()
        await asyncio.wait_for(ended.wait(), 10)
        await p.settled(exchanges=0, upcalls=0)


@pytest.mark.parametrize("fault", ["raise", "nothing", "bad-status", "bad-header"])
async def test_a_handler_that_fails_gives_a_problem(fault, caplog):
    async def handler(x):
        if fault == "raise":
            raise KeyError("secret detail")
        if fault == "bad-status":
            await x.start(99)
        if fault == "bad-header":
            await x.start(200, {"X": "a\r\nInjected: yes"})

    with caplog.at_level(logging.ERROR):
        async with plane(handler) as p:
            client = await p.client()
            reply = await client.request("GET", "/h/1")
            assert reply.status == 500
            problem = orjson.loads(reply.body)
            assert problem["reason"] == "internal_error"
            assert b"secret" not in reply.body
            assert reply.headers["x-request-id"] in caplog.text
            assert (await client.request("GET", "/h/1")).status == 500


async def test_a_handler_that_fails_in_the_middle_breaks_off(caplog):
    async def handler(x):
        await x.start(200)
        await x.write(b"half")
        raise RuntimeError

    async with plane(handler) as p:
        reply = await p.raw(b"GET /h/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert reply.endswith(b"4\r\nhalf\r\n")


async def test_misuse_is_told():
    kept = []

    async def handler(x):
        kept.append(x)
        with pytest.raises(RuntimeError, match=r"start\(\)"):
            await x.write(b"x")
        await x.start(200, None, 2)
        with pytest.raises(RuntimeError, match="begun"):
            await x.start(200)
        with pytest.raises(ValueError, match="announced 2"):
            await x.write(b"abc")
        with pytest.raises(RuntimeError, match="0 bytes written"):
            x.finish()
        await x.write(b"ok")
        x.finish()
        with pytest.raises(RuntimeError, match="finished"):
            await x.write(b"!")

    async with plane(handler) as p:
        assert (await p.get("/h/1")).body == b"ok"
    with pytest.raises(RuntimeError, match="over"):
        kept[0].method  # noqa: B018


async def test_forward_and_relay(backend):
    async def handler(x):
        response = await x.forward("u0", path="/made?up=1", headers={"X-Mine": "1"})
        assert response.status == 200
        assert response.headers["content-type"] == "text/plain"
        x.relay(response, headers={"X-Added": "by the handler"})

    async with plane(handler, backend.url) as p:
        client = await p.client()
        for _ in range(3):
            reply = await client.request("GET", "/h/1")
            assert (reply.status, reply.body) == (200, b"GET /made?up=1")
            assert reply.headers["via"] == "1.1 fastgate"
            assert reply.headers["x-added"] == "by the handler"
    seen = backend.requests[0]
    assert seen.headers["x-mine"] == "1"
    assert seen.headers["host"] == backend.url.removeprefix("http://")
    assert len(seen.headers["x-request-id"]) == 32
    assert backend.connections == 1


async def test_forward_passes_the_request_on_by_default(backend):
    async def handler(x):
        x.relay(await x.forward("u0"))

    async with plane(handler, backend.url, auth={"api_key": {"header": "X-Api-Key"}}) as p:
        headers = {"X-Api-Key": "ann-key", "X-Kept": "1", "Connection": "X-Hop", "X-Hop": "1"}
        reply = await p.request("POST", "/h/1?q", headers=headers, body=b"payload")
        assert reply.body == b"POST /h/1?q"
    seen = backend.requests[0]
    assert seen.body == b"payload"
    assert seen.headers["x-kept"] == "1"
    assert "x-api-key" not in seen.headers
    assert "x-hop" not in seen.headers


async def test_relaying_a_large_answer_after_the_handler_returned():
    size = 20_000_000

    async def respond(_: Backend, seen: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"L" * size

    backend = await Backend(respond).start()

    async def handler(x):
        x.relay(await x.forward("u0"))

    async with plane(handler, backend.url) as p:
        reply = await p.get("/h/1")
        assert reply.body == b"L" * size
    await backend.stop()


async def test_two_upstreams_at_once():
    together = asyncio.Barrier(2)

    async def respond(_: Backend, seen: Seen) -> bytes:
        await together.wait()
        body = b"from " + seen.target.encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    one = await Backend(respond).start()
    two = await Backend(respond).start()

    async def handler(x):
        answers = await asyncio.gather(x.forward("u0", path="/a"), x.forward("u1", path="/b"))
        bodies = await asyncio.gather(*(answer.read() for answer in answers))
        await x.respond(200, None, b" and ".join(bodies))

    async with plane(handler, one.url, two.url) as p:
        client = await p.client()
        for _ in range(3):
            reply = await asyncio.wait_for(client.request("GET", "/h/1"), 10)
            assert reply.body == b"from /a and from /b"
    assert one.connections == two.connections == 1
    await one.stop()
    await two.stop()


async def test_an_upstreams_stream_is_read_piece_by_piece():
    async def respond(_: Backend, seen: Seen) -> None:
        seen.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(50):
            piece = b"event %d\n" % i * 100
            seen.writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await seen.writer.drain()
            await asyncio.sleep(0)
        seen.writer.write(b"0\r\n\r\n")
        await seen.writer.drain()
        await seen.reader.read(1)

    backend = await Backend(respond).start()

    async def handler(x):
        response = await x.forward("u0")
        await x.start(200)
        async for chunk in response:
            await x.write(chunk.upper())
        x.finish()

    async with plane(handler, backend.url) as p:
        reply = await p.get("/h/1")
        assert reply.body == b"".join(b"EVENT %d\n" % i * 100 for i in range(50))
    await backend.stop()


async def test_why_an_upstream_failed(backend):
    async def cut(_: Backend, seen: Seen) -> None:
        seen.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await seen.writer.drain()

    broken = await Backend(cut).start()
    failures: list[str] = []

    async def handler(x):
        for name in ("u0", "u1"):
            try:
                response = await x.forward(name)
                await response.read()
            except UpstreamError as error:
                failures.append(error.reason)
        with pytest.raises(LookupError, match="no upstream 'nowhere'"):
            await x.forward("nowhere")
        with pytest.raises(ValueError, match="path"):
            await x.forward("u2", path="no slash")
        with pytest.raises(ValueError, match="control character"):
            await x.forward("u2", headers={"X": "a\nb"})
        await x.respond(200)

    async with plane(handler, "http://127.0.0.1:1", broken.url, backend.url) as p:
        assert (await p.get("/h/1")).status == 200
    assert failures == ["upstream_connect_failed", "response_truncated"]
    await broken.stop()


async def test_a_response_that_is_not_read_is_let_go(backend):
    async def handler(x):
        await x.forward("u0")
        response = await x.forward("u0")
        response.close()
        await x.respond(200)

    async with plane(handler, backend.url) as p:
        for _ in range(3):
            assert (await p.get("/h/1")).status == 200
        await p.settled(calls=0)


async def test_the_number_of_waiting_handlers_is_bounded():
    gate = asyncio.Event()

    async def handler(x):
        await gate.wait()
        await x.respond(200)

    document = {**config(), "caps": {"upcalls": 2}}
    async with Plane(document, handlers={"test:handler": handler}) as p:
        tasks = [asyncio.create_task(p.get("/h/1")) for _ in range(2)]
        await p.settled(upcalls=2)
        refused = await p.get("/h/1")
        assert refused.status == 503
        assert orjson.loads(refused.body)["reason"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        gate.set()
        assert [(await task).status for task in tasks] == [200, 200]
        assert (await p.get("/h/1")).status == 200


async def test_the_head_of_a_stream_goes_out_before_its_first_piece():
    gate = asyncio.Event()

    async def handler(x):
        await x.start(200, {"Content-Type": "text/event-stream"})
        await gate.wait()
        await x.write(b"data: 1\n\n")

    async with plane(handler) as p:
        reader, writer = await asyncio.open_connection("127.0.0.1", p.port)
        writer.write(b"GET /h/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200 OK")
        gate.set()
        assert b"data: 1" in await reader.readuntil(b"0\r\n\r\n")
        writer.close()


async def test_sizes_that_no_message_has_are_refused(backend):
    """And not cut to 32 bits on the way: as many octets would be copied all the same."""
    said = []

    async def handler(x):
        with pytest.raises(ValueError, match="1073741825 bytes; at most 1073741824") as large:
            await x.forward("u0", body=bytes((1 << 30) + 1))
        said.append(large)
        with pytest.raises(
            ValueError, match="bytes of header fields are too many; at most 1048576 are allowed"
        ) as large:
            await x.start(200, {"X-Large": "y" * (1 << 20)})
        said.append(large)
        await x.respond(200, None, b"ok")

    async with plane(handler, backend.url) as p:
        assert (await p.get("/h/1")).body == b"ok"
    assert len(said) == 2


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        *(({"method": x}, "is not a method") for x in ("", "G ET", "GET\r", "GÉT", "G\0", 7)),
        *(({"path": x}, "is not a path") for x in ("", "x", "/a b", "/a\n", "/\x7f", "/é", 7)),
        *(
            ({"headers": {x: "v"}}, "is not the name of a header field")
            for x in ("", "a b", "a:", "a\n", "é", "a\0", 7)
        ),
        *(
            ({"headers": {"X": x}}, "control character")
            for x in ("a\r", "\n", "\0", "\x7f", "\x1f")
        ),
        ({"headers": {"X": "\u20ac"}}, "the value of X has a character that is not in Latin-1"),
        ({"headers": {"\ud800": "v"}}, "surrogates not allowed"),
    ],
)
async def test_what_cannot_be_asked_of_an_upstream(backend, asked, why):
    errors = []

    async def handler(x):
        try:
            await x.forward("u0", **asked)
        except ValueError as error:
            errors.append(str(error))
        await x.respond(204)

    async with plane(handler, backend.url) as p:
        assert (await p.get("/h/1")).status == 204
    assert len(errors) == 1
    assert why in errors[0]


async def test_field_values_may_have_tabs_and_any_octet_of_latin_1():
    value = "a\tb \x80\xff!~"

    async def handler(x):
        await x.respond(200, {"X-All": value}, b"")

    async with plane(handler) as p:
        assert (await p.get("/h/1")).headers["x-all"] == value
