"""TLS of clients' connections: handshakes, names, ends, tickets, client certificates."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import tlskit
from certkit import CLIENT, Material
from deadlinekit import DEADLINE, FOREVER, STEP, STEPS, unstalled
from enginekit import Client, Plane
from keyringkit import authority_entry, keyring_of, ticket_key

from fastgate._core.tls.keyring import TLS_1_3, Challenge, Keyring, NamePolicy
from fastgate.errors import KeyringError

CONFIG: dict[str, Any] = {
    "routes": [{"name": "r", "path": "/{rest*}", "respond": {"body": "hello"}}]
}


@contextlib.asynccontextmanager
async def serving(keyring: Keyring, **config: Any) -> AsyncIterator[Plane]:
    async with Plane({**CONFIG, **config}, keyring=keyring) as plane:
        yield plane


async def ask(plane: Plane, **how: Any) -> tuple[int, ssl.SSLObject]:
    """The status of a request over a new connection, and its TLS."""
    reader, writer = await plane.connect(**how)
    client = Client(reader, writer)
    try:
        reply = await client.request("GET", "/")
        assert reply.body == b"hello"
        return reply.status, writer.tunnel.ssl
    finally:
        await client.close()


def presented(tls: ssl.SSLObject) -> bytes | None:
    return tls.getpeercert(binary_form=True)


def on(version: str) -> tuple[str, str]:
    return (version, version)


# ---- handshakes --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", tlskit.BOTH)
@pytest.mark.parametrize("kind", ["ecdsa", "ecdsa-384", "rsa", "ed25519"])
async def test_each_version_with_each_kind_of_key(
    tls_material: Material, version: str, kind: str
) -> None:
    async with serving(keyring_of(tls_material.leaf(kind=kind))) as plane:
        context = tlskit.client_context(tls_material.root, versions=on(version))
        client = Client(*await plane.connect(ssl=context))
        for _ in range(3):
            reply = await client.request("GET", "/")
            assert (reply.status, reply.body) == (200, b"hello")
        await client.close()


@pytest.mark.parametrize("version", tlskit.BOTH)
async def test_both_kinds_of_key_for_one_name(tls_material: Material, version: str) -> None:
    ecdsa, rsa = tls_material.leaf(), tls_material.leaf(kind="rsa")
    async with serving(keyring_of(rsa, ecdsa)) as plane:
        found = set()
        for ciphers in ("ECDHE+ECDSA", "ECDHE+aRSA"):
            context = tlskit.client_context(tls_material.root, versions=on("1.2"), ciphers=ciphers)
            found.add(presented((await ask(plane, ssl=context))[1]))
        assert found == {ecdsa.chain_der[0], rsa.chain_der[0]}
        # Without a preference, the cheaper one.
        context = tlskit.client_context(tls_material.root, versions=on(version))
        assert presented((await ask(plane, ssl=context))[1]) == ecdsa.chain_der[0]


async def test_the_chain_is_sent(tls_material: Material) -> None:
    leaf = tls_material.leaf("chain.example", issuer=tls_material.intermediate)
    async with serving(keyring_of(leaf)) as plane:
        context = tlskit.client_context(tls_material.root)
        await ask(plane, ssl=context, server_hostname="chain.example")


async def test_tls_1_2_can_be_switched_off(tls_material: Material) -> None:
    keyring = keyring_of(tls_material.leaf(), listener={"min_version": TLS_1_3})
    async with serving(keyring) as plane:
        await ask(plane, ssl=tlskit.client_context(versions=on("1.3")))
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await ask(plane, ssl=tlskit.client_context(versions=on("1.2")))


async def test_protocols_offered_without_http_1_1_are_refused(tls_material: Material) -> None:
    async with serving(keyring_of(tls_material.leaf())) as plane:
        _, tls = await ask(plane, ssl=tlskit.client_context(alpn=["h2", "http/1.1"]))
        assert tls.selected_alpn_protocol() == "http/1.1"
        with pytest.raises(ssl.SSLError, match="no application protocol"):
            await ask(plane, ssl=tlskit.client_context(alpn=["h2"]))


@pytest.mark.parametrize("version", tlskit.BOTH)
@pytest.mark.parametrize("wire", [tlskit.octets, tlskit.one_by_one])
async def test_a_handshake_may_come_in_pieces(
    tls_material: Material, version: str, wire: tlskit.Wire
) -> None:
    async with serving(keyring_of(tls_material.leaf())) as plane:
        context = tlskit.client_context(tls_material.root, versions=on(version))
        await ask(plane, ssl=context, wire=wire)


@unstalled
async def test_a_handshake_has_its_time_in_all(tls_material: Material) -> None:
    async with serving(keyring_of(tls_material.leaf()), timeouts={"handshake": DEADLINE}) as plane:
        hello = tlskit.client_hello(tlskit.client_context())
        for sends in (True, False):
            with socket.create_connection(("127.0.0.1", plane.port)) as peer:
                peer.setblocking(False)
                await plane.settled(handshakes=1)
                with contextlib.suppress(ConnectionError):
                    for i in range(STEPS if sends else 0):
                        peer.send(hello[i : i + 1])
                        await asyncio.sleep(STEP)
                await plane.settled(handshakes=0, connections=0)
        # A client that is quick enough is served.
        await ask(plane)


async def test_a_client_that_leaves_in_its_handshake(tls_material: Material) -> None:
    async with serving(keyring_of(tls_material.leaf())) as plane:
        hello = tlskit.client_hello(tlskit.client_context())
        for n in (0, 1, 5, len(hello) // 2, len(hello)):
            with socket.create_connection(("127.0.0.1", plane.port)) as peer:
                peer.sendall(hello[:n])
                await plane.settled(handshakes=1)
            await plane.settled(handshakes=0, connections=0)


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x00\x01\x01", b"\x80\x2e\x01\x00\x02", b"\0" * 64])
async def test_what_is_no_handshake_is_closed(tls_material: Material, data: bytes) -> None:
    async with serving(keyring_of(tls_material.leaf())) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), FOREVER)
        assert answer == b"" or answer[0] == 0x15  # an alert, at most
        writer.close()
        await plane.settled(connections=0)


# ---- names --------------------------------------------------------------------------------------


async def test_the_certificate_is_chosen_by_name(tls_material: Material) -> None:
    one = tls_material.leaf("one.example")
    many = tls_material.leaf("*.many.example")
    exact = tls_material.leaf("exact.many.example")
    async with serving(keyring_of(one, many, exact)) as plane:
        context = tlskit.client_context()
        for name, wanted in {
            "one.example": one,
            "ONE.example": one,
            "a.many.example": many,
            "exact.many.example": exact,
            "a.b.many.example": one,  # a star stands for one label
            "many.example": one,
            "unknown.example": one,
            None: one,
        }.items():
            _, tls = await ask(plane, ssl=context, server_hostname=name)
            assert presented(tls) == wanted.chain_der[0], name


async def test_unknown_names_can_be_refused(tls_material: Material) -> None:
    keyring = keyring_of(
        tls_material.leaf("one.example", "*.many.example"), listener={"strict_names": True}
    )
    async with serving(keyring) as plane:
        context = tlskit.client_context()
        await ask(plane, ssl=context, server_hostname="one.example")
        await ask(plane, ssl=context, server_hostname="a.many.example")
        for name in ("unknown.example", "a.b.many.example", None):
            with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
                await ask(plane, ssl=context, server_hostname=name)


async def test_many_names(tls_material: Material) -> None:
    leaf = tls_material.leaf(*(f"host-{i}.example" for i in range(300)))
    async with serving(keyring_of(tls_material.leaf("other.example"), leaf)) as plane:
        context = tlskit.client_context()
        for i in (0, 1, 150, 299):
            _, tls = await ask(plane, ssl=context, server_hostname=f"host-{i}.example")
            assert presented(tls) == leaf.chain_der[0]


# ---- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", tlskit.BOTH)
async def test_a_last_answer_ends_with_close_notify(tls_material: Material, version: str) -> None:
    async with serving(keyring_of(tls_material.leaf())) as plane:
        context = tlskit.client_context(versions=on(version))
        reader, writer = await plane.connect(ssl=context)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), FOREVER)  # Cut, without it
        assert answer.endswith(b"hello")
        writer.close()
        await writer.wait_closed()


async def test_an_idle_connection_ends_with_close_notify(tls_material: Material) -> None:
    async with serving(keyring_of(tls_material.leaf()), timeouts={"idle": DEADLINE}) as plane:
        reader, writer = await plane.connect()
        client = Client(reader, writer)
        await client.request("GET", "/")
        assert await asyncio.wait_for(reader.read(), FOREVER) == b""
        await client.close()


async def test_a_client_may_leave_without_close_notify(tls_material: Material) -> None:
    async with serving(keyring_of(tls_material.leaf())) as plane:
        reader, writer = await plane.connect()
        writer.notify = False
        await Client(reader, writer).request("GET", "/")
        writer.close()
        await writer.wait_closed()
        await plane.settled(connections=0)


async def test_updates_of_keys_without_data_are_bounded(tls_material: Material) -> None:
    """`openssl s_client` can ask for them; Python cannot."""
    async with serving(keyring_of(tls_material.leaf())) as plane:
        process = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-connect", f"127.0.0.1:{plane.port}", "-tls1_3",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        await plane.settled(connections=1, handshakes=0)
        for command in (*[b"K\n"] * 5, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
            await asyncio.sleep(0.05)  # it takes one read for one command
            process.stdin.write(command)
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readuntil(b"hello"), FOREVER)
        with contextlib.suppress(ConnectionError):
            for _ in range(300):
                if process.stdin.is_closing():
                    break
                process.stdin.write(b"K\n")
                await process.stdin.drain()
                await asyncio.sleep(0.002)
        await plane.settled(connections=0)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


# ---- rest ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", tlskit.BOTH)
async def test_a_connection_without_requests_rests_after_a_second(
    tls_material: Material, version: str
) -> None:
    async with serving(keyring_of(tls_material.leaf())) as plane:
        client = Client(*await plane.connect(ssl=tlskit.client_context(versions=on(version))))
        for _ in range(2):
            await client.request("GET", "/")
            assert plane.engine.stats()["rested"] == 0
            await plane.settled(rested=1)
        await client.close()


# ---- tickets -------------------------------------------------------------------------------------


async def resumes(plane: Plane, context: ssl.SSLContext, name: str, other: str = "") -> bool:
    """Whether a session of `name` is resumed under the other name (default: the same)."""
    reader, writer = await plane.connect(ssl=context, server_hostname=name)
    client = Client(reader, writer)
    await client.request("GET", "/")
    session = writer.tunnel.ssl.session
    await client.close()
    reader, writer = await plane.connect(
        ssl=context, server_hostname=other or name, session=session
    )
    client = Client(reader, writer)
    await client.request("GET", "/")
    resumed = writer.tunnel.ssl.session_reused
    await client.close()
    return bool(resumed)


@pytest.mark.parametrize("version", tlskit.BOTH)
async def test_sessions_are_resumed_by_any_engine(tls_material: Material, version: str) -> None:
    tickets = [ticket_key(), ticket_key()]
    leaf = tls_material.leaf()
    context = tlskit.client_context(versions=on(version))
    async with serving(keyring_of(leaf, tickets=tickets)) as plane:
        assert await resumes(plane, context, "test.example")
        reader, writer = await plane.connect(ssl=context)
        client = Client(reader, writer)
        await client.request("GET", "/")
        session = writer.tunnel.ssl.session
        # The key is the second one now, as after a rotation: it decrypts.
        plane.engine.set_keyring(keyring_of(leaf, tickets=[ticket_key(), tickets[0]], serial=2))
        await client.request("GET", "/")  # established connections go on
        await client.close()
        _, tls = await ask(plane, ssl=context, session=session)
        assert tls.session_reused
        # Without the key: a full handshake.
        plane.engine.set_keyring(keyring_of(leaf, tickets=[ticket_key()], serial=3))
        _, tls = await ask(plane, ssl=context, session=session)
        assert not tls.session_reused


async def test_a_client_that_resumes_gets_the_next_ticket(tls_material: Material) -> None:
    """With TLS 1.3, clients use a ticket once."""
    context = tlskit.client_context(versions=on("1.3"))
    async with serving(keyring_of(tls_material.leaf())) as plane:
        sessions: list[ssl.SSLSession | None] = [None]
        for _ in range(4):
            reader, writer = await plane.connect(ssl=context, session=sessions[-1])
            client = Client(reader, writer)
            await client.request("GET", "/")
            assert writer.tunnel.ssl.session_reused is (sessions[-1] is not None)
            sessions.append(writer.tunnel.ssl.session)
            await client.close()
        assert len({session.id for session in sessions if session}) == 4


@pytest.mark.parametrize("version", tlskit.BOTH)
async def test_a_session_is_not_resumed_under_another_policy(
    tls_material: Material, version: str
) -> None:
    leaf = tls_material.leaf("open.example", "same.example", "closed.example")
    keyring = keyring_of(
        leaf,
        authorities=[authority_entry(tls_material.root)],
        listener={"policies": [NamePolicy(host="closed.example", authorities=[0])]},
    )
    context = tlskit.client_context(identity=tls_material.client(), versions=on(version))
    async with serving(keyring) as plane:
        assert await resumes(plane, context, "open.example")
        assert await resumes(plane, context, "closed.example")
        if version == "1.2":  # OpenSSL's client insists on the name with TLS 1.3
            assert await resumes(plane, context, "open.example", "same.example")
        assert not await resumes(plane, context, "open.example", "closed.example")
        assert not await resumes(plane, context, "closed.example", "open.example")


# ---- client certificates -------------------------------------------------------------------------


def asking(material: Material, *, required: bool, crl: bool = False) -> Keyring:
    lists = [material.crl(material.revoked(CLIENT))] if crl else []
    return keyring_of(
        material.leaf(),
        authorities=[authority_entry(material.root, crls=lists)],
        listener={"policies": [NamePolicy(host="", authorities=[0], required=required)]},
    )


@pytest.mark.parametrize("version", tlskit.BOTH)
async def test_certificates_that_are_required(tls_material: Material, version: str) -> None:
    async with serving(asking(tls_material, required=True)) as plane:
        good = tlskit.client_context(identity=tls_material.client(), versions=on(version))
        await ask(plane, ssl=good)
        assert await resumes(plane, good, "test.example")
        for bad in (None, tls_material.client_of_stranger(), tls_material.leaf()):
            context = tlskit.client_context(identity=bad, versions=on(version))
            with pytest.raises((ssl.SSLError, tlskit.Cut, ConnectionError)):
                await ask(plane, ssl=context)


@pytest.mark.parametrize("version", tlskit.BOTH)
async def test_certificates_that_are_optional(tls_material: Material, version: str) -> None:
    async with serving(asking(tls_material, required=False)) as plane:
        for identity in (tls_material.client(), None):
            context = tlskit.client_context(identity=identity, versions=on(version))
            await ask(plane, ssl=context)
        # One that is not valid is an error, not the same as none.
        context = tlskit.client_context(
            identity=tls_material.client_of_stranger(), versions=on(version)
        )
        with pytest.raises((ssl.SSLError, tlskit.Cut, ConnectionError)):
            await ask(plane, ssl=context)


async def test_revoked_certificates(tls_material: Material) -> None:
    async with serving(asking(tls_material, required=True, crl=True)) as plane:
        await ask(plane, ssl=tlskit.client_context(identity=tls_material.client()))
        revoked = tlskit.client_context(identity=tls_material.revoked(CLIENT))
        with pytest.raises((ssl.SSLError, tlskit.Cut, ConnectionError)):
            await ask(plane, ssl=revoked)


async def test_a_new_revocation_list_ends_sessions(tls_material: Material) -> None:
    tickets = [ticket_key()]

    def keyring(*lists: Any) -> Keyring:
        return keyring_of(
            tls_material.leaf(),
            authorities=[authority_entry(tls_material.root, crls=lists)],
            listener={"policies": [NamePolicy(host="", authorities=[0], required=True)]},
            tickets=tickets,
        )

    context = tlskit.client_context(identity=tls_material.revoked(CLIENT))
    async with serving(keyring()) as plane:
        reader, writer = await plane.connect(ssl=context)
        client = Client(reader, writer)
        await client.request("GET", "/")
        session = writer.tunnel.ssl.session
        await client.close()
        _, tls = await ask(plane, ssl=context, session=session)
        assert tls.session_reused
        plane.engine.set_keyring(keyring(tls_material.crl(tls_material.revoked(CLIENT))))
        with pytest.raises((ssl.SSLError, tlskit.Cut, ConnectionError)):
            await ask(plane, ssl=context, session=session)


# ---- challenges, keyrings ------------------------------------------------------------------------


async def test_a_challenge_is_answered_under_its_name(tls_material: Material) -> None:
    proof = tls_material.challenge("new.example", b"x" * 32)
    keyring = keyring_of(
        tls_material.leaf(),
        challenges=[
            Challenge(
                host="new.example",
                certificate=memoryview(proof.chain_der[0]),
                key=memoryview(proof.key_der),
            )
        ],
    )
    async with serving(keyring) as plane:
        context = tlskit.client_context(alpn=["acme-tls/1"])
        _, writer = await plane.connect(ssl=context, server_hostname="new.example")
        assert presented(writer.tunnel.ssl) == proof.chain_der[0]
        assert writer.tunnel.ssl.selected_alpn_protocol() == "acme-tls/1"
        writer.close()
        await writer.wait_closed()
        await plane.settled(connections=0)
        with pytest.raises((ssl.SSLError, tlskit.Cut)):
            await plane.connect(ssl=context, server_hostname="test.example")
        await ask(plane, server_hostname="new.example")  # other protocols are as ever


async def test_a_listener_without_a_certificate_answers_challenges_alone(
    tls_material: Material,
) -> None:
    """Until the first one is issued."""
    proof = tls_material.challenge("new.example", b"x" * 32)
    challenge = Challenge(
        host="new.example",
        certificate=memoryview(proof.chain_der[0]),
        key=memoryview(proof.key_der),
    )
    none = {"certificates": []}  # of those in the keyring
    keyring = keyring_of(tls_material.leaf(), listener=none, challenges=[challenge])
    async with serving(keyring) as plane:
        context = tlskit.client_context(alpn=["acme-tls/1"])
        _, writer = await plane.connect(ssl=context, server_hostname="new.example")
        assert presented(writer.tunnel.ssl) == proof.chain_der[0]
        writer.close()
        await writer.wait_closed()
        await plane.settled(connections=0)
        for name in ("new.example", "test.example"):
            with pytest.raises((ssl.SSLError, tlskit.Cut), match=r"UNRECOGNIZED_NAME|unrecognized"):
                await plane.connect(ssl=tlskit.client_context(), server_hostname=name)
        plane.engine.set_keyring(keyring_of(tls_material.leaf("new.example"), serial=2))
        await ask(plane, server_hostname="new.example")


async def test_a_handshake_goes_on_with_the_keyring_it_began_with(tls_material: Material) -> None:
    old, new = tls_material.leaf("one.example"), tls_material.leaf("two.example")
    async with serving(keyring_of(old)) as plane:
        hello = tlskit.client_hello(tlskit.client_context())
        with socket.create_connection(("127.0.0.1", plane.port)) as peer:
            peer.sendall(hello[:50])
            await plane.settled(handshakes=1)
            for serial in (2, 3, 4):
                plane.engine.set_keyring(keyring_of(new, serial=serial))
            peer.sendall(hello[50:])
            peer.settimeout(0)
            while True:
                with contextlib.suppress(BlockingIOError):
                    assert peer.recv(100)[0] == 0x16
                    break
                await asyncio.sleep(0.001)
        _, tls = await ask(plane)
        assert presented(tls) == new.chain_der[0]


def test_a_keyring_that_cannot_be_used_is_refused(tls_material: Material) -> None:
    from fastgate._core.tls.ring import TlsRing

    good = keyring_of(tls_material.leaf())
    assert TlsRing(good).serial == 1
    unfitting = keyring_of(tls_material.unfitting_key())
    with pytest.raises(KeyringError, match="cannot be used by OpenSSL"):
        TlsRing(unfitting)
    no_certificate = keyring_of(tls_material.leaf(), listener={"certificates": [3]})
    with pytest.raises(KeyringError, match="has no certificate 3"):
        TlsRing(no_certificate)
