"""Python's ssl as a client of a real gateway: http.client, plain sockets, asyncio's streams.

A connection that ends without close_notify raises here: an answer without a length would end the
same way if somebody cut it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import tlskit
from certkit import Authority, Identity, Material
from gatewaykit import PATIENCE, Gateway, Upstream, proxying
from tlspeerkit import HOST, authority, document, secure

Start = Callable[..., Gateway]
LARGE = 3_000_000
REQUEST = f"GET %s HTTP/1.1\r\nHost: {HOST}\r\nConnection: %s\r\n\r\n"


@pytest.fixture(scope="module")
def gateway(shared_gateway: Start, shared_upstream: Upstream, tls_material: Material) -> Gateway:
    base = proxying(shared_upstream)
    base["routes"].append({"name": "fixed", "path": "/fixed", "respond": {"body": "hello"}})
    return shared_gateway(
        document(
            base,
            listeners=[
                secure("public"),
                secure("required", client={"authorities": ["partners"]}),
            ],
            authorities=[authority("partners", tls_material.root)],
            api=tls_material.leaf("localhost", HOST),
        )
    )


def context(
    trust: Authority, version: str = "", identity: Identity | None = None
) -> ssl.SSLContext:
    """Python's defaults, and this authority."""
    made = ssl.create_default_context(cafile=str(trust.ca))
    if version:
        made.minimum_version = made.maximum_version = tlskit.VERSIONS[version]
    if identity:
        made.load_cert_chain(identity.cert, identity.key)
    return made


@contextlib.contextmanager
def connected(
    gateway: Gateway, trust: ssl.SSLContext, listener: str = "public"
) -> Iterator[ssl.SSLSocket]:
    """A socket whose `recv` gives the end only after close_notify; without it, it raises."""
    with (
        socket.create_connection(gateway.address(listener), timeout=PATIENCE) as plain,
        trust.wrap_socket(plain, server_hostname=HOST, suppress_ragged_eofs=False) as made,
    ):
        yield made


def rest(sock: ssl.SSLSocket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


# ---- sockets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", tlskit.BOTH)
@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/fixed", b"hello"),
        ("/size/70000", b"x" * 70000),
        ("/chunked/9/9000", b"\r\n0\r\n\r\n"),
        ("/no/route/%00", b"}"),
        ("/reset", b"}"),
    ],
    ids=["fixed", "proxied", "chunked", "refused", "failed"],
)
def test_a_last_answer_ends_with_close_notify(
    gateway: Gateway, tls_material: Material, path: str, end: bytes, version: str
) -> None:
    with connected(gateway, context(tls_material.root, version)) as sock:
        sock.sendall((REQUEST % (path, "close")).encode())
        answer = rest(sock)
    assert answer.startswith(b"HTTP/1.1 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(end)


def test_an_upload_that_is_refused_ends_with_close_notify(
    gateway: Gateway, tls_material: Material
) -> None:
    """What the client still sends must not reset the connection before it has read the answer."""
    with connected(gateway, context(tls_material.root)) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a b\r\nContent-Length: 200000\r\n\r\n")
        sock.sendall(b"x" * 200_000)
        answer = rest(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"}")


@pytest.mark.parametrize("version", tlskit.BOTH)
def test_a_client_may_end_its_side_first(
    gateway: Gateway, tls_material: Material, version: str
) -> None:
    """`unwrap` sends close_notify and waits for the gateway's."""
    with connected(gateway, context(tls_material.root, version)) as sock:
        sock.sendall((REQUEST % ("/fixed", "keep-alive")).encode())
        received = b""
        while not received.endswith(b"hello"):
            received += sock.recv(65536)
        plain = sock.unwrap()
        with plain:
            assert plain.recv(1) == b""


def test_requests_in_one_record_and_over_many(gateway: Gateway, tls_material: Material) -> None:
    requests = (REQUEST % ("/fixed", "keep-alive")) * 20 + REQUEST % ("/fixed", "close")
    for size in (len(requests), 7):
        with connected(gateway, context(tls_material.root)) as sock:
            for at in range(0, len(requests), size):
                sock.sendall(requests[at : at + size].encode())
            assert rest(sock).count(b"HTTP/1.1 200 OK") == 21


# ---- http.client and urllib ----------------------------------------------------------------------


@pytest.mark.parametrize("version", tlskit.BOTH)
def test_http_client_keeps_its_connection(
    gateway: Gateway, tls_material: Material, version: str
) -> None:
    port = gateway.address()[1]
    connection = http.client.HTTPSConnection(
        "localhost", port, timeout=PATIENCE, context=context(tls_material.root, version)
    )
    with contextlib.closing(connection):
        connection.connect()
        first = connection.sock
        for n in range(20):
            body = bytes([n]) * (LARGE if n == 10 else n)
            connection.request("POST", f"/echo/{n}", body=body)
            answer = json.loads(connection.getresponse().read())
            assert answer["target"] == f"/echo/{n}"
            assert answer["body"].encode("latin-1") == body
        assert connection.sock is first
        connection.request("GET", f"/size/{LARGE}")
        assert connection.getresponse().read() == b"x" * LARGE
        assert connection.sock is first


def test_http_client_without_a_valid_certificate(gateway: Gateway, tls_material: Material) -> None:
    port = gateway.address()[1]

    def fails(host: str, trust: Authority) -> str:
        connection = http.client.HTTPSConnection(
            host, port, timeout=PATIENCE, context=context(trust)
        )
        with contextlib.closing(connection), pytest.raises(ssl.SSLCertVerificationError) as caught:
            connection.connect()
        return caught.value.verify_message

    assert "unable to get local issuer" in fails("localhost", tls_material.stranger)
    assert "certificate is not valid for '127.0.0.1'" in fails("127.0.0.1", tls_material.root)


def test_urllib_with_a_client_certificate(gateway: Gateway, tls_material: Material) -> None:
    """With TLS 1.3, clients learn that theirs is refused from their first reading."""
    url = f"https://localhost:{gateway.address('required')[1]}/fixed"
    mine = context(tls_material.root, identity=tls_material.client())
    with urllib.request.urlopen(url, timeout=PATIENCE, context=mine) as answer:
        assert answer.read() == b"hello"
    with pytest.raises((urllib.error.URLError, ssl.SSLError)) as caught:
        urllib.request.urlopen(url, timeout=PATIENCE, context=context(tls_material.root))
    assert "CERTIFICATE_REQUIRED" in str(caught.value)


# ---- asyncio -------------------------------------------------------------------------------------


async def test_many_asyncio_streams(gateway: Gateway, tls_material: Material) -> None:
    """Fifty connections, half of them at once."""
    trust = context(tls_material.root)
    host, port = gateway.address()

    async def one(path: str, wanted: int) -> None:
        reader, writer = await asyncio.open_connection(host, port, ssl=trust, server_hostname=HOST)
        writer.write((REQUEST % (path, "close")).encode())
        received = await asyncio.wait_for(reader.read(), PATIENCE)
        assert received.startswith(b"HTTP/1.1 200 ")
        assert len(received.partition(b"\r\n\r\n")[2]) == wanted
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*[one("/fixed", 5) for _ in range(25)])
    await asyncio.gather(*[one(f"/size/{n * 9973}", n * 9973) for n in range(1, 26)])


async def test_asyncio_streams_both_ways_at_once(gateway: Gateway, tls_material: Material) -> None:
    """An upload in pieces, whose echo comes while more connections do the same."""
    trust = context(tls_material.root)
    host, port = gateway.address()

    async def one(n: int) -> None:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=trust, server_hostname=HOST, limit=10 * LARGE
        )
        size = 300_000 + n
        writer.write(
            f"POST /echo HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {size}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        for at in range(0, size, 10_007):
            writer.write(b"y" * min(10_007, size - at))
            await writer.drain()
        received = await asyncio.wait_for(reader.read(), PATIENCE)
        assert json.loads(received.partition(b"\r\n\r\n")[2])["body"] == "y" * size
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*[one(n) for n in range(10)])
