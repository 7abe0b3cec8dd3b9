"""The data plane over real sockets: proxying, framing, keep-alive, refusals, limits of patience."""

from __future__ import annotations

import asyncio
import os
import re
import socket

import h11
import orjson
import pytest
from enginekit import Backend, GatedBackend, Plane, Seen, proxied


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


# ---- forwarding ---------------------------------------------------------------------------


async def test_a_request_is_proxied_and_its_answer_comes_back(backend):
    async with Plane(proxied(backend.url)) as plane:
        reply = await plane.get("/x/y?q=1")
    assert reply.status == 200
    assert reply.body == b"GET /x/y?q=1"
    assert reply.headers["via"] == "1.1 fastgate"
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])
    assert "date" in reply.headers


async def test_what_the_upstream_sees(backend):
    async with Plane(proxied(backend.url)) as plane:
        await plane.get(
            "/",
            headers={
                "Host": "api.example:8080",
                "Connection": "keep-alive, X-Private",
                "X-Private": "hop",
                "X-Consumer-Id": "forged",
                "X-Forwarded-For": "6.6.6.6",
                "Forwarded": "for=6.6.6.6",
                "X_Underscore": "dropped",
                "X-Kept": "spaced  value",
            },
        )
    seen = backend.requests[0]
    assert seen.headers["host"] == backend.url.removeprefix("http://")
    assert seen.headers["x-forwarded-host"] == "api.example:8080"
    assert seen.headers["x-forwarded-for"] == "127.0.0.1"
    assert seen.headers["x-forwarded-proto"] == "http"
    assert seen.headers["via"] == "1.1 fastgate"
    assert seen.headers["x-kept"] == "spaced  value"
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", seen.headers["traceparent"])
    for gone in ("connection", "x-private", "x-consumer-id", "forwarded", "x_underscore"):
        assert gone not in seen.headers


async def test_a_trace_is_continued_and_a_good_request_id_kept(backend):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    identifier = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    async with Plane(proxied(backend.url)) as plane:
        reply = await plane.get("/", headers={"traceparent": trace, "X-Request-ID": identifier})
        bad = await plane.get("/", headers={"traceparent": trace.upper(), "X-Request-ID": "x y"})
    first, second = backend.requests
    assert first.headers["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert first.headers["traceparent"][36:52] != "b7ad6b7169203331"
    assert first.headers["traceparent"].endswith("-00")
    assert first.headers["x-request-id"] == reply.headers["x-request-id"] == identifier
    assert second.headers["x-request-id"] == bad.headers["x-request-id"] != "x y"
    assert "0AF7" not in second.headers["traceparent"].upper()


@pytest.mark.parametrize("size", [1, 5000, 16384, 70000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_pass_both_ways_unchanged(size, chunked):
    body = bytes(i * 7 % 251 for i in range(1000)) * (size // 1000 + 1)
    body = body[:size]

    async def echo(_: Backend, seen: Seen) -> bytes:
        if not chunked:
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(seen.body), seen.body)
        out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        step = max(1, size // 7)
        for at in range(0, size, step):
            piece = seen.body[at : at + step]
            out += b"%x;ext=1\r\n%s\r\n" % (len(piece), piece)
        return out + b"0\r\nX-Trailer: dropped\r\n\r\n"

    backend = await Backend(echo).start()
    async with Plane(proxied(backend.url, max_body="10MB")) as plane:
        client = await plane.client()
        headers = {"Transfer-Encoding": "chunked"} if chunked else {}
        for _ in range(3):
            reply = await client.request("POST", "/", headers, body)
            assert reply.status == 200
            assert reply.body == body
    assert backend.connections == 1
    await backend.stop()


async def test_close_delimited_answers_become_chunked_and_keep_the_connection():
    async def respond(_: Backend, seen: Seen) -> None:
        seen.writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
        await seen.writer.drain()

    backend = await Backend(respond).start()
    async with Plane(proxied(backend.url)) as plane:
        client = await plane.client()
        for _ in range(2):
            reply = await client.request("GET", "/")
            assert reply.body == b"x" * 100_000
            assert reply.headers["transfer-encoding"] == "chunked"
        old = await plane.raw(b"GET / HTTP/1.0\r\n\r\n")
        assert old.endswith(b"\r\n\r\n" + b"x" * 100_000)
        assert b"chunked" not in old
    await backend.stop()


async def test_chunked_answers_are_unwrapped_for_http_1_0():
    backend = await Backend(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    ).start()
    async with Plane(proxied(backend.url)) as plane:
        reply = await plane.raw(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert reply.endswith(b"\r\n\r\nhello")
    assert b"Connection: close" in reply
    await backend.stop()


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", 200), ("HEAD", 204), ("HEAD", 304), ("GET", 204), ("GET", 304)],
)
async def test_answers_without_a_body(method, status):
    async def respond(_: Backend, seen: Seen) -> bytes:
        length = b"" if status == 204 else b"Content-Length: 1234\r\n"
        return b"HTTP/1.1 %d X\r\n%s\r\n" % (status, length)

    backend = await Backend(respond).start()
    async with Plane(proxied(backend.url)) as plane:
        client = await plane.client()
        for _ in range(3):
            reply = await client.request(method, "/")
            assert reply.status == status
            assert reply.body == b""
            assert reply.headers.get("content-length") == (None if status == 204 else "1234")
    assert backend.connections == 1
    await backend.stop()


async def test_interim_answers():
    async def respond(_: Backend, seen: Seen) -> bytes:
        return (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        )

    backend = await Backend(respond).start()
    async with Plane(proxied(backend.url)) as plane:
        client = await plane.client()
        reply = await client.request("GET", "/")
        assert (reply.status, reply.body) == (200, b"ok")
        assert [each.status_code for each in client.informational] == [103]
        old = await plane.raw(b"GET / HTTP/1.0\r\n\r\n")
        assert b"103" not in old
    await backend.stop()


async def test_too_many_interim_answers_are_a_fault():
    async def respond(_: Backend, seen: Seen) -> bytes:
        return b"HTTP/1.1 102 X\r\n\r\n" * 17 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    backend = await Backend(respond).start()
    async with Plane(proxied(backend.url)) as plane:
        assert (await plane.get("/")).status == 502
    await backend.stop()


async def test_expect_continue_is_answered_by_the_gateway(backend):
    async with Plane(proxied(backend.url)) as plane:
        client = await plane.client()
        await client.raw(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.raw(b"body")
        assert (await client.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        assert backend.requests[0].body == b"body"
        assert "expect" not in backend.requests[0].headers
        refused = await plane.raw(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: something\r\n\r\n"
        )
        assert refused.startswith(b"HTTP/1.1 417 ")


async def test_pipelined_requests_are_answered_in_order(backend):
    async with Plane(proxied(backend.url)) as plane:
        data = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(200))
        data += b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        data += b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        data += b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n"
        reply = await plane.raw(data)
    assert reply.count(b"HTTP/1.1 200 OK") == 202
    targets = [each.target for each in backend.requests]
    assert targets == [f"/{i}" for i in range(200)] + ["/body", "/last"]
    assert backend.requests[200].body == b"hello"


async def test_a_request_that_trickles_in_is_served(backend):
    async with Plane(proxied(backend.url)) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        head = b"POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        for byte in head + b"3\r\nabc\r\n0\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
    assert backend.requests[0].body == b"abc"


async def test_one_canonical_path_is_routed_and_forwarded(backend):
    config = proxied(backend.url, path="/a/{rest*}")
    async with Plane(config) as plane:
        assert (await plane.get("//a/./b/../%63?x=/../y")).body == b"GET /a/c?x=/../y"
        assert (await plane.get("/a/b%2fc")).status == 400
        assert (await plane.get("/a/../b")).status == 404


async def test_rewriting(backend):
    config = proxied(backend.url)
    config["routes"] = [
        {
            "name": "strip",
            "path": "/v1/{rest*}",
            "service": "s",
            "rewrite": {"strip_prefix": "/v1"},
        },
        {
            "name": "replace",
            "path": "/old/{rest*}",
            "service": "s",
            "rewrite": {"strip_prefix": "/old", "replace_prefix": "/new"},
        },
    ]
    async with Plane(config) as plane:
        assert (await plane.get("/v1/x?y")).body == b"GET /x?y"
        assert (await plane.get("/v1/")).body == b"GET /"
        assert (await plane.get("/old/x/y")).body == b"GET /new/x/y"


async def test_header_rules(backend):
    config = proxied(
        backend.url,
        headers={
            "request": {"set": {"X-Set": "1"}, "remove": ["X-Gone"], "default": {"X-Default": "d"}},
            "response": {"set": {"X-Answer": "yes"}, "remove": ["Content-Type"]},
        },
    )
    async with Plane(config) as plane:
        reply = await plane.get("/", headers={"X-Set": "0", "X-Gone": "x", "X-Default": "mine"})
    seen = backend.requests[0].headers
    assert seen["x-set"] == "1"
    assert "x-gone" not in seen
    assert seen["x-default"] == "mine"
    assert reply.headers["x-answer"] == "yes"
    assert "content-type" not in reply.headers


# ---- refusals -----------------------------------------------------------------------------


async def test_no_route_and_wrong_method(backend):
    async with Plane(proxied(backend.url, path="/only", methods=["GET", "POST"])) as plane:
        missing = await plane.get("/else")
        assert (missing.status, orjson.loads(missing.body)["reason"]) == (404, "no_route")
        wrong = await plane.request("DELETE", "/only")
        assert (wrong.status, orjson.loads(wrong.body)["reason"]) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "GET, POST"
        assert (await plane.request("CONNECT", "a:443")).status == 405
        head = await plane.raw(b"HEAD /else HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
async def test_malformed_requests_are_refused_and_closed(data, status, backend):
    async with Plane(proxied(backend.url)) as plane:
        reply = await plane.raw(data)
        head, _, body = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), reply
        assert b"Connection: close" in head
        problem = orjson.loads(body)
        assert problem["status"] == status
    assert backend.requests == []


async def test_a_body_over_the_cap(backend):
    async with Plane(proxied(backend.url, max_body="10B")) as plane:
        announced = await plane.request("POST", "/", body=b"x" * 11)
        assert announced.status == 413
        reply = await plane.raw(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n"
        )
        assert reply.startswith(b"HTTP/1.1 413 ")
        fits = await plane.request("POST", "/", body=b"x" * 10)
        assert fits.status == 200


async def test_a_head_that_does_not_come_times_out(backend):
    config = proxied(backend.url)
    config["timeouts"] = {"head": "50ms"}
    async with Plane(config) as plane:
        reply = await plane.raw(b"GET / HTTP/1.1\r\nHost")
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert await plane.raw(b"") == b""  # nothing was asked: closed without a word


async def test_loops_are_broken(backend):
    async with Plane(proxied(backend.url)) as plane:
        itself = proxied(plane_url(plane))
        itself["upstreams"][0]["keepalive"] = {"max": 0}
        plane.install(itself)
        reply = await plane.get("/")
        assert reply.status == 508
        assert orjson.loads(reply.body)["reason"] == "loop_detected"


def plane_url(plane: Plane) -> str:
    return f"http://127.0.0.1:{plane.port}"


async def test_options_of_the_gateway_itself():
    async with Plane({"routes": []}) as plane:
        got = await plane.raw(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert got.endswith(b"\r\n\r\n")


async def test_static_answers():
    config = {
        "routes": [
            {
                "name": "t",
                "path": "/t",
                "respond": {"status": 201, "headers": {"X-A": "b"}, "body": "hi"},
            },
        ]
    }
    async with Plane(config) as plane:
        client = await plane.client()
        for _ in range(3):
            reply = await client.request("GET", "/t")
            assert (reply.status, reply.body, reply.headers["x-a"]) == (201, b"hi", "b")
        reply = await client.request("HEAD", "/t")
        assert (reply.status, reply.body, reply.headers["content-length"]) == (201, b"", "2")
        reply = await client.request("POST", "/t", body=b"ignored")
        assert reply.status == 201
        assert (await client.request("GET", "/t")).status == 201


async def test_websockets_are_tunnelled():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"upgrade: websocket" in head.lower()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\n\r\nhello"
        )
        while data := await reader.read(65536):
            writer.write(data[::-1])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    ask = (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: x\r\n\r\n"
    )
    async with Plane(proxied(url, websocket=True)) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        writer.write(ask + b"early")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"upgrade: websocket" in head.lower()
        assert await reader.readexactly(5) == b"hello"
        assert await reader.readexactly(5) == b"ylrae"
        for size in (1, 100_000):
            writer.write(b"a" * size)
            assert await reader.readexactly(size) == b"a" * size
        writer.close()
    server.close()
    await server.wait_closed()


async def test_a_reload_keeps_exchanges_in_flight_on_their_snapshot(backend):
    slow = GatedBackend(b"old")
    await slow.start()
    async with Plane(proxied(slow.url)) as plane:
        client = await plane.client()
        await client.send("GET", "/")
        await plane.settled(exchanges=1)
        plane.install(proxied(backend.url))
        assert plane.engine.stats()["retired_snapshots"] == 1
        assert (await plane.get("/new")).body == b"GET /new"
        slow.gate.set()
        assert (await client.reply()).body == b"old"
        assert (await client.request("GET", "/next")).body == b"GET /next"
        await plane.settled(retired_snapshots=0)
    await slow.stop()


async def test_a_head_in_pieces_is_routed_by_its_own_path_and_by_what_is_installed_at_its_end(
    backend,
):
    def named(*paths: str) -> dict[str, object]:
        """Routes by their first segment, each of which says which it is."""
        config = proxied(backend.url)
        config["routes"] = [
            {
                "name": f"{i}{path}".translate({47: 45, 123: 45, 125: 45}),
                "path": path,
                "service": "s",
                "headers": {"response": {"set": {"X-Route": f"{len(paths)} {path}"}}},
            }
            for i, path in enumerate(paths)
        ]
        return config

    async def begun(plane: Plane, path: str):
        client = await plane.client()
        client.h11.send(h11.Request(method="GET", target=path, headers=[("Host", "h")]))
        client.h11.send(h11.EndOfMessage())
        client.writer.write(b"GET %s HTTP/1.1\r\nHo" % path.encode())
        return client

    async def ended(client) -> str:
        client.writer.write(b"st: h\r\n\r\n")
        return (await client.reply()).headers["x-route"]

    async with Plane(named("/a", "/b", "/{any}")) as plane:
        pending = [await begun(plane, path) for path in ("/a", "/b", "/c", "/a%61", "/a")]
        await plane.settled(exchanges=5)
        assert (await plane.get("/b")).headers["x-route"] == "3 /b"
        found = [await ended(client) for client in pending[:4]]
        assert found == ["3 /a", "3 /b", "3 /{any}", "3 /{any}"]
        plane.install(named("/b", "/a"))
        assert await ended(pending[4]) == "2 /a"


async def test_a_target_that_takes_anothers_slot_gets_none_of_its_connections():
    async def say(which: bytes) -> Backend:
        return await Backend(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + which).start()

    one, two = await say(b"one"), await say(b"two")
    async with Plane(proxied(one.url)) as plane:
        for _ in range(3):
            for backend, body in ((one, b"one"), (two, b"two")):
                plane.install(proxied(backend.url))
                assert (await plane.get("/")).body == body
        await plane.settled(idle_upstreams=1, upstreams=1)
    await one.stop()
    await two.stop()


async def test_draining_finishes_what_runs_and_closes_what_idles(backend):
    slow = GatedBackend(b"ok")
    await slow.start()
    async with Plane(proxied(slow.url)) as plane:
        idle = await plane.client()
        busy = await plane.client()
        plane.install(proxied(backend.url))
        assert (await idle.request("GET", "/")).status == 200
        plane.install(proxied(slow.url))
        await busy.send("GET", "/")
        await plane.settled(exchanges=1, connections=2)
        plane.engine.drain()
        assert await idle.reader.read() == b""
        assert not plane.engine.idle
        slow.gate.set()
        reply = await busy.reply()
        assert (reply.body, reply.headers["connection"]) == (b"ok", "close")
        await busy.close()
        await plane.settled(connections=0)
        assert plane.engine.idle
    await slow.stop()


async def test_draining_serves_whoever_was_let_in(backend):
    async with Plane(proxied(backend.url)) as plane:
        fresh = await plane.client()
        queued = [await plane.client() for _ in range(20)]  # still in the accept queue
        plane.engine.drain()
        for each in [fresh, *queued]:
            reply = await each.request("GET", "/late")
            assert (reply.status, reply.headers["connection"]) == (200, "close")
        await plane.settled(connections=0)


async def test_when_descriptors_run_out_clients_wait_and_nothing_is_lost(backend):
    import resource

    async with Plane(proxied(backend.url)) as plane:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        first = await plane.client()
        assert (await first.request("GET", "/")).status == 200
        connected = [socket.create_connection(("127.0.0.1", plane.port)) for _ in range(30)]
        held = len(os.listdir("/proc/self/fd"))
        try:
            # Room for a few of the thirty on the gateway's side.
            resource.setrlimit(resource.RLIMIT_NOFILE, (held + 4, hard))
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert plane.engine.stats()["connections"] < 31
            assert (await first.request("GET", "/")).status == 200  # who is in, is served
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in connected:
            each.setblocking(False)
        for each in connected:
            reader, writer = await asyncio.open_connection(sock=each)
            writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
            writer.close()


async def test_senders_that_are_too_slow_are_let_go(backend):
    config = proxied(backend.url)
    config["timeouts"] = {"head": "100ms", "body": "100ms", "idle": "100ms"}
    async with Plane(config) as plane:
        slow_body = await plane.raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        assert slow_body.startswith(b"HTTP/1.1 408 ")
        idle = await plane.client()
        assert (await idle.request("GET", "/")).status == 200
        assert await idle.reader.read() == b""

        async def trickle() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
            for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: " + b"y" * 1000:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.002)
                if reader.at_eof() or plane.engine.stats()["connections"] == 0:
                    break
            reply = await reader.read()
            writer.close()
            return reply

        assert (await trickle()).startswith(b"HTTP/1.1 408 ")


async def test_a_body_below_the_minimum_rate_is_given_up(backend):
    """Every read is in time, and yet it would never end: judged after five seconds."""
    config = proxied(backend.url)
    config["timeouts"] = {"body": "2s", "min_rate": "1KiB"}
    async with Plane(config) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(100):
            writer.write(b"x" * 20)
            try:
                reply = await asyncio.wait_for(reader.read(), 0.2)
                break
            except TimeoutError:
                continue
        assert reply.startswith(b"HTTP/1.1 408 ")
        writer.close()
