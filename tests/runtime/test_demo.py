"""The demonstration's upstream answers as a server must; its document is sound."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import h11
import pytest

from fastgate.model import codec
from fastgate.runtime.demo import _converse, document


@pytest.fixture
async def address() -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.start_server(_converse, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()
    server.close()


async def talk(address: tuple[str, int], sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    writer.write_eof()
    received = await reader.read()
    writer.close()
    return received


async def test_it_says_what_it_saw(address: tuple[str, int]) -> None:
    received = await talk(
        address,
        b"POST /open/x?y=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
    )
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    found = json.loads(body)
    assert (found["method"], found["target"], found["body"]) == ("POST", "/open/x?y=1", "hello")
    assert found["headers"]["x-a"] == "b"


async def test_it_keeps_the_connection_and_answers_in_order(address: tuple[str, int]) -> None:
    sent = b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i for i in range(3))
    received = await talk(address, sent)
    assert received.count(b"HTTP/1.1 200") == 3
    places = [received.index(b'"target": "/%d"' % i) for i in range(3)]
    assert places == sorted(places)


async def test_head_has_no_body(address: tuple[str, int]) -> None:
    received = await talk(address, b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert received.endswith(b"\r\n\r\n")
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="HEAD", target="/", headers=[("Host", "h")]))
    client.receive_data(received)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert int(dict(response.headers)[b"content-length"]) > 0


async def test_nonsense_ends_the_connection(address: tuple[str, int]) -> None:
    assert await talk(address, b"nonsense\r\n\r\n") == b""


def test_its_document_is_sound() -> None:
    gateway = codec.decode(document(9000, "sha256:" + "0" * 64, "127.0.0.1:8080", "127.0.0.1:8081"))
    assert [route.name for route in gateway.routes] == ["open", "keyed", "limited"]
