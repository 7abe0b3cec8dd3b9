"""The data plane over real sockets: connections to upstreams, and what goes wrong with them."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from enginekit import Backend, GatedBackend, Plane, Seen, proxied


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


async def test_connections_are_pooled_and_a_stale_one_is_replaced(backend):
    async with Plane(proxied(backend.url)) as plane:
        for _ in range(5):
            assert (await plane.get("/")).status == 200
        assert backend.connections == 1
        for writer in list(backend.writers):
            writer.close()
        assert (await plane.get("/")).status == 200
        assert backend.connections == 2


async def test_an_upstream_that_closes_after_each_answer():
    async def respond(_: Backend, seen: Seen) -> None:
        seen.writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        await seen.writer.drain()

    backend = await Backend(respond).start()
    async with Plane(proxied(backend.url)) as plane:
        client = await plane.client()
        for _ in range(5):
            assert (await client.request("POST", "/", body=b"x")).body == b"ok"
    await backend.stop()


async def test_unix_sockets(tmp_path):
    backend = await Backend().start(str(tmp_path / "up.sock"))
    async with Plane(proxied(backend.url)) as plane:
        assert (await plane.get("/x")).body == b"GET /x"
    await backend.stop()


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length: 5",
        b"content-length: 5",
        b"Content-Length:5",
        b"Content-Length:\t5",
        b"Content-Length: 5 ",
        b"Content-Length:  5",
        b"Content-Length: 005",
    ],
)
async def test_a_length_is_told_in_one_spelling(line):
    backend = await Backend(
        b"HTTP/1.1 200\r\nX-A: 1\r\n" + line + b"\r\nX-B: 2\r\n\r\nhello"
    ).start()
    async with Plane(proxied(backend.url)) as plane:
        reply = await plane.raw(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 "
    assert [x.lower() for x in lines if b"ength" in x] == [b"content-length: 5"]
    assert {b"X-A: 1", b"X-B: 2"} <= set(lines)
    assert body == b"hello"
    await backend.stop()


async def test_the_names_in_rules_are_compared_in_any_case(backend):
    gone = ["x-a", "X-Eight-8", "X-Gone-Or-Is-It", "X-Sixteen-Octets", "X^Caret-And-Tilde"]
    config = proxied(backend.url, headers={"request": {"remove": gone}})
    kept = ["X-B", "X-Eight-9", "X-Gone-Or-Is-In", "X-Sixteen-Octet", "X~Caret-And-Tilde"]
    sent = [name.swapcase() for name in gone] + kept
    async with Plane(config) as plane:
        await plane.get("/", headers=dict.fromkeys(sent, "x"))
    seen = backend.requests[0].headers
    assert [name for name in sent if name.lower() in seen] == kept


async def test_an_upstream_that_is_not_there():
    async with Plane(proxied("http://127.0.0.1:1")) as plane:
        client = await plane.client()
        reply = await client.request("GET", "/")
        assert reply.status == 502
        problem = orjson.loads(reply.body)
        assert problem["reason"] == "upstream_connect_failed"
        assert problem["status"] == 502
        assert problem["instance"] == f"urn:fastgate:request:{reply.headers['x-request-id']}"
        assert (await client.request("GET", "/")).status in (502, 503)


async def test_a_dead_target_is_passed_over(backend):
    async with Plane(proxied("http://127.0.0.1:1", backend.url)) as plane:
        for _ in range(10):
            assert (await plane.get("/")).status == 200


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"garbage\r\n\r\n", "upstream_invalid_response"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            "upstream_invalid_response",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "upstream_invalid_response",
        ),
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "upstream_invalid_response",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", "upstream_invalid_response"),
    ],
)
async def test_bad_answers_are_502(answer, reason):
    backend = await Backend(answer).start()
    async with Plane(proxied(backend.url)) as plane:
        reply = await plane.request("POST", "/", body=b"x")
        assert reply.status == 502
        assert orjson.loads(reply.body)["reason"] == reason
    await backend.stop()


async def test_a_truncated_answer_never_looks_complete():
    async def respond(_: Backend, seen: Seen) -> None:
        if seen.target == "/length":
            seen.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        else:
            seen.writer.write(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
            )
        await seen.writer.drain()

    backend = await Backend(respond).start()
    async with Plane(proxied(backend.url)) as plane:
        reply = await plane.raw(b"GET /length HTTP/1.1\r\nHost: a\r\n\r\n")
        assert reply.endswith(b"only this")
        reply = await plane.raw(b"GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n")
        assert reply.endswith(b"5\r\nhello\r\n")
    await backend.stop()


async def test_bytes_after_an_answer_are_never_anothers():
    backend = await Backend(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    ).start()
    async with Plane(proxied(backend.url)) as plane:
        client = await plane.client()
        for _ in range(4):
            assert (await client.request("GET", "/")).body == b"ok"
    assert backend.connections == 4
    await backend.stop()


async def test_only_safe_requests_are_sent_twice():
    async def respond(backend: Backend, seen: Seen) -> None:
        return None  # closes without an answer

    backend = await Backend(respond).start()
    config = proxied(backend.url)
    config["services"] = [{"name": "s", "upstream": "u", "retries": {"attempts": 3}}]
    async with Plane(config) as plane:
        assert (await plane.request("POST", "/", body=b"x")).status == 502
        assert len(backend.requests) == 1
        assert (await plane.get("/")).status == 502
        assert len(backend.requests) == 4
    await backend.stop()


async def test_a_slow_upstream_times_out():
    backend = GatedBackend()
    await backend.start()
    config = proxied(backend.url)
    config["services"] = [{"name": "s", "upstream": "u", "timeout": "100ms"}]
    async with Plane(config) as plane:
        reply = await plane.get("/")
        assert reply.status == 504
        assert orjson.loads(reply.body)["reason"] == "upstream_timeout"
    backend.gate.set()
    await backend.stop()


async def test_a_slow_reader_holds_the_sender_back():
    sent = 0
    total = 64 * 1024 * 1024

    async def respond(_: Backend, seen: Seen) -> None:
        nonlocal sent
        seen.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        piece = b"z" * 65536
        while sent < total:
            seen.writer.write(piece)
            await seen.writer.drain()
            sent += len(piece)

    backend = await Backend(respond).start()
    async with Plane(proxied(backend.url)) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port, limit=65536)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while sent != before:  # until nothing moves any more
            before = sent
            for _ in range(200):
                await asyncio.sleep(0)
        assert sent < total / 2
        assert plane.engine.stats()["buffers"] < 8
        rest = 0
        while rest < total:
            rest += len(await reader.read(1 << 20))
        writer.close()
    await backend.stop()


async def test_a_client_that_leaves_frees_everything():
    arrived = asyncio.Event()

    async def respond(_: Backend, seen: Seen) -> bytes:
        arrived.set()
        await seen.reader.read()
        return b""

    backend = await Backend(respond).start()
    async with Plane(proxied(backend.url)) as plane:
        client = await plane.client()
        await client.send("GET", "/")
        await arrived.wait()
        await client.reset()
        await plane.settled(exchanges=0, upstreams=0)
    await backend.stop()


async def test_an_early_answer_to_a_long_upload():
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with Plane(proxied(url, max_body="1GB")) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000000\r\n\r\n" + b"x" * 100_000
        )
        reply = await reader.read()
        assert reply.startswith(b"HTTP/1.1 413 Too Large")
        assert reply.endswith(b"big")
        writer.close()
    server.close()
    await server.wait_closed()


async def test_interim_answers_and_a_large_head_in_one_piece():
    """What came before the head takes room in its buffer, which has to be made for the rest."""
    large = (b"X-Large: " + b"y" * 3000 + b"\r\n") * 3

    async def respond(_: Backend, seen: Seen) -> None:
        answer = b"HTTP/1.1 103 Early Hints\r\n" + large + b"\r\n"
        answer += b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + large + b"\r\nok"
        seen.writer.write(answer)
        await seen.writer.drain()

    backend = await Backend(respond).start()
    async with Plane(proxied(backend.url)) as plane:
        client = await plane.client()
        reply = await client.request("POST", "/", body=b"x")
        assert (reply.status, reply.body) == (200, b"ok")
        assert [each.status_code for each in client.informational] == [103]
    await backend.stop()
