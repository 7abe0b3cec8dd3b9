"""The kits that TLS is tested with, against each other: what they promise is what they do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable

import pytest
from certkit import CLIENT, KINDS, Identity, Material
from tlskit import (
    Cut,
    TlsClient,
    Tunnel,
    client_context,
    client_hello,
    cut,
    octets,
    one_by_one,
    open_connection,
    send_pieces,
    server_context,
    together,
)
from tlsserverkit import TlsServer

GET = b"GET /a HTTP/1.1\r\nHost: test.example\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nGET /a"


def at(server: TlsServer) -> tuple[str, int]:
    return "127.0.0.1", server.port


# ---- certificates ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["test.example", "a.test.example", "127.0.0.1"])
def test_a_good_leaf_is_verified(tls_material: Material, kind: str, name: str) -> None:
    with (
        TlsServer(tls_material.leaf(kind=kind)) as server,
        TlsClient(at(server), client_context(tls_material.root), name=name) as client,
    ):
        client.send(GET)
        assert client.until(b"GET /a") == ANSWER
        assert client.peer == tls_material.leaf(kind=kind).chain_der[0]


BAD: list[tuple[Callable[[Material], Identity], str]] = [
    (lambda m: m.expired(), "certificate has expired"),
    (lambda m: m.not_yet_valid(), "not yet valid"),
    (lambda m: m.wrong_name(), "Hostname mismatch"),
    (lambda m: m.unknown_issuer(), "unable to get local issuer"),
    (lambda m: m.self_signed(), "self-signed certificate"),
    (lambda m: m.without_chain(), "unable to get local issuer"),
    (lambda m: m.client(), "unsuitable certificate purpose"),
]


@pytest.mark.parametrize(("made", "why"), BAD, ids=[why for _, why in BAD])
def test_a_bad_one_is_refused_for_its_reason(
    tls_material: Material, made: Callable[[Material], Identity], why: str
) -> None:
    with (
        TlsServer(made(tls_material)) as server,
        pytest.raises(ssl.SSLCertVerificationError, match=why),
    ):
        TlsClient(at(server), client_context(tls_material.root))
    assert (server.handshakes, server.ended, len(server.failures)) == (0, ["here"], 1)


def test_a_revoked_one_is_on_the_list(tls_material: Material) -> None:
    context = client_context(tls_material.root)
    context.load_verify_locations(tls_material.crl())
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    with TlsServer(tls_material.leaf()) as server:
        TlsClient(at(server), context).close()
        server.use(tls_material.revoked())
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
            TlsClient(at(server), context)


def test_chains_come_whole_or_not(tls_material: Material) -> None:
    assert len(tls_material.acme().chain) == 2
    assert len(tls_material.without_chain().chain) == 1
    odd = tls_material.reversed_chain()
    assert odd.chain[1] == odd.certificate != odd.chain[0]
    with TlsServer(tls_material.acme()) as server:
        TlsClient(at(server), client_context(tls_material.root)).close()


def test_a_key_of_another_does_not_fit(tls_material: Material) -> None:
    with pytest.raises(ssl.SSLError, match="key values mismatch"):
        TlsServer(tls_material.unfitting_key())


def test_files_are_made_once_and_keys_are_for_their_owner(tls_material: Material) -> None:
    one = tls_material.leaf("once.example")
    assert tls_material.leaf("once.example") is one
    assert one.key.stat().st_mode & 0o777 == 0o600
    assert one.pin != tls_material.leaf("twice.example").pin
    assert one.key_der


def test_a_challenge_carries_its_digest(tls_material: Material) -> None:
    made = tls_material.challenge("acme.example", bytes(range(32)))
    shown = subprocess.run(
        ["openssl", "x509", "-in", made.cert, "-noout", "-text"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "1.3.6.1.5.5.7.1.31: critical" in shown
    assert "DNS:acme.example" in shown


# ---- the client's ways -----------------------------------------------------------------------


@pytest.mark.parametrize("wire", [together, one_by_one, octets, cut(1), cut(5), cut(40)])
@pytest.mark.parametrize("record", [1, 7, 16384])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_however_it_is_cut_it_arrives(
    tls_material: Material,
    wire: Callable[[list[bytes]], list[bytes]],
    record: int,
    version: str,
) -> None:
    context = client_context(tls_material.root, versions=(version, version))
    with (
        TlsServer(tls_material.leaf()) as server,
        TlsClient(at(server), context, wire=wire) as client,
    ):
        client.send(GET + GET, record)  # two requests, in one record or in many
        assert client.until(ANSWER + ANSWER) == ANSWER + ANSWER
        assert client.version == f"TLSv{version}"
    assert [request.target for request in server.requests] == ["/a", "/a"]
    assert server.ended == ["close_notify"]


def test_pieces_arrive_one_by_one() -> None:
    """The next one is sent when the last was read: the reader sees every seam."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def read_all() -> None:
            accepted, _ = listener.accept()
            with accepted:
                while data := accepted.recv(65536):
                    seen.append(data)

        thread = threading.Thread(target=read_all)
        thread.start()
        hello = client_hello(client_context())
        with socket.create_connection(listener.getsockname()) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            send_pieces(client, cut(5)([hello]))
        thread.join(20)
    assert seen == [hello[:5], hello[5:]]


def test_records_have_the_size_asked_for(tls_material: Material) -> None:
    with (
        TlsServer(tls_material.leaf()) as server,
        TlsClient(at(server), client_context()) as client,
    ):
        assert len(client.tunnel.seal(b"abc", 1)) == 3
        assert len(client.tunnel.seal(b"abc")) == 1
        assert len(client.tunnel.seal(bytes(40000))) == 3


def test_a_hello_is_one_record_and_half_of_it_is_none(tls_material: Material) -> None:
    hello = client_hello(client_context(), "test.example")
    assert hello[0] == 22
    assert len(hello) == 5 + int.from_bytes(hello[3:5])
    assert b"test.example" in hello
    with TlsServer(tls_material.leaf()) as server, socket.create_connection(at(server)) as half:
        half.sendall(hello[: len(hello) // 2])
        half.shutdown(socket.SHUT_WR)
        assert half.recv(100) == b""
    assert server.ended == ["cut"]


def test_a_damaged_record_ends_the_connection(tls_material: Material) -> None:
    with (
        TlsServer(tls_material.leaf()) as server,
        TlsClient(at(server), client_context()) as client,
    ):
        (record,) = client.tunnel.seal(GET)
        client.send_records([record[:-1] + bytes([record[-1] ^ 1])])
        with pytest.raises(ssl.SSLError, match="alert bad record mac"):
            client.recv()
    assert server.requests == []


@pytest.mark.parametrize(
    ("end", "seen"), [("notify", "close_notify"), ("bare", "cut"), ("reset", "reset")]
)
def test_each_end_is_seen_as_what_it_is(tls_material: Material, end: str, seen: str) -> None:
    with TlsServer(tls_material.leaf()) as server:
        client = TlsClient(at(server), client_context())
        client.send(GET)
        client.until(b"GET /a")
        if end == "reset":
            client.reset()
        else:
            client.close(notify=end == "notify")
    assert server.ended == [seen]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_sessions_are_resumed_and_counted(tls_material: Material, version: str) -> None:
    context = client_context(tls_material.root, versions=(version, version))
    with TlsServer(tls_material.leaf()) as server:
        session = None
        for resumed in (False, True):
            with TlsClient(at(server), context, session=session) as client:
                client.send(GET)
                client.until(b"GET /a")
                assert client.resumed is resumed
                session = client.session
    assert (server.handshakes, server.resumed) == (2, 1)
    assert [request.resumed for request in server.requests] == [False, True]


# ---- the client in a loop --------------------------------------------------------------------


@pytest.mark.parametrize("wire", [together, octets, cut(3)])
async def test_the_same_in_a_loop(
    tls_material: Material, wire: Callable[[list[bytes]], list[bytes]]
) -> None:
    with TlsServer(tls_material.leaf()) as server:
        reader, writer = await open_connection(
            *at(server), ssl=client_context(tls_material.root), wire=wire, record=9
        )
        for _ in range(2):
            writer.write(GET)
            await writer.drain()
            assert await reader.readuntil(b"GET /a") == ANSWER
        writer.close()
        await writer.wait_closed()
    assert server.ended == ["close_notify"]


async def test_a_reader_gets_an_end_only_by_close_notify(tls_material: Material) -> None:
    close = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with TlsServer(tls_material.leaf()) as server:
        server.respond = lambda _: b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall"
        for server.close_notify in (True, False):
            reader, writer = await open_connection(*at(server), ssl=client_context())
            writer.write(close)
            if server.close_notify:
                assert (await reader.read()).endswith(b"all")
            else:
                with pytest.raises(Cut):
                    await reader.read()
            writer.close()
            await writer.wait_closed()


async def test_nothing_more_is_read_than_the_reader_takes(tls_material: Material) -> None:
    body = bytes(20 << 20)
    with TlsServer(tls_material.leaf()) as server:
        server.respond = lambda _: (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        reader, writer = await open_connection(*at(server), ssl=client_context())
        writer.write(GET)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(4000):
            if not writer._wanted.is_set():
                break
            await asyncio.sleep(0.005)
        assert not writer._wanted.is_set()
        assert await reader.readexactly(len(body)) == body
        writer.notify = False
        writer.close()
        await writer.wait_closed()
    assert server.ended == ["cut"]


async def test_an_aborted_one_is_gone_at_once(tls_material: Material) -> None:
    with TlsServer(tls_material.leaf()) as server:
        _, writer = await open_connection(*at(server), ssl=client_context())
        writer.transport.abort()
        await writer.wait_closed()
    assert server.ended in (["cut"], ["reset"])


# ---- the server's switches -------------------------------------------------------------------


def test_an_answer_is_cut_in_the_middle_of_its_record(tls_material: Material) -> None:
    with TlsServer(tls_material.leaf()) as server:
        for server.cut in (0, 1, 20, -1):
            client = TlsClient(at(server), client_context())
            client.send(GET)
            with pytest.raises(Cut):
                client.rest()
            client.close(notify=False)
    assert server.ended == ["here"] * 4


def test_one_version_alone(tls_material: Material) -> None:
    with TlsServer(tls_material.leaf(), versions=("1.2", "1.2")) as server:
        with pytest.raises(ssl.SSLError, match="alert protocol version"):
            TlsClient(at(server), client_context(versions=("1.3", "1.3")))
        with TlsClient(at(server), client_context()) as client:
            assert client.version == "TLSv1.2"


def test_a_client_certificate_is_required_and_shown(tls_material: Material) -> None:
    mine = tls_material.client()
    with TlsServer(tls_material.leaf(), clients=tls_material.root) as server:
        for identity in (None, tls_material.client_of_stranger()):
            client = TlsClient(at(server), client_context(identity=identity))
            with pytest.raises(ssl.SSLError, match=r"alert (certificate required|unknown ca)"):
                client.recv()
            client.close(notify=False)
        with TlsClient(at(server), client_context(identity=mine)) as client:
            client.send(GET)
            client.until(b"GET /a")
    assert [request.client for request in server.requests] == mine.chain_der
    assert len(server.failures) == 2


def test_a_stalled_one_says_nothing(tls_material: Material) -> None:
    with TlsServer(tls_material.leaf()) as server:
        server.stall = True
        with socket.create_connection(at(server)) as client:
            client.sendall(client_hello(client_context()))
            client.settimeout(0.05)
            with pytest.raises(TimeoutError):
                client.recv(1)
    assert (server.handshakes, server.ended) == (0, ["cut"])


def test_what_was_asked_is_kept(tls_material: Material) -> None:
    context = client_context(alpn=("http/1.1",))
    with (
        TlsServer(tls_material.leaf(usage=(CLIENT,)), alpn=("h2", "http/1.1")) as server,
        TlsClient(at(server), context, name="a.test.example") as client,
    ):
        client.send(b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"3\r\nabc\r\n0\r\n\r\n")
        client.until(b"POST /b")
        assert client.tunnel.ssl.selected_alpn_protocol() == "http/1.1"
    (seen,) = server.requests
    assert (seen.method, seen.target, seen.body) == ("POST", "/b", b"abc")
    assert (seen.name, seen.version, seen.client) == ("a.test.example", "TLSv1.3", None)


def test_disconnected_ones_have_no_close_notify(tls_material: Material) -> None:
    with TlsServer(tls_material.leaf()) as server:
        client = TlsClient(at(server), client_context())
        server.disconnect()
        with pytest.raises(Cut):
            client.rest()
        client.close(notify=False)


def test_a_tunnel_needs_no_socket(tls_material: Material) -> None:
    one = Tunnel(client_context(), server_hostname="test.example")
    other = Tunnel(server_context(tls_material.leaf()), server=True)
    while not (one.handshake() and other.handshake()):
        for tunnel, peer in ((one, other), (other, one)):
            tunnel.handshake()
            peer.feed(b"".join(tunnel.records()))
    other.feed(b"".join(one.seal(b"abc") + one.notify()))
    assert (other.open(), other.open()) == (b"abc", None)
