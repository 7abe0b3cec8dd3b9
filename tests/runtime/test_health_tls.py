"""Health checks over TLS: verified like requests, by the same settings of the upstream."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certkit import Identity, Material
from tlsserverkit import TlsServer

from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway
from fastgate.runtime.control.health import Check, CheckFailed, ask
from fastgate.runtime.control.keyrings import Keyrings
from fastgate.runtime.control.publisher import check_of
from fastgate.runtime.control.worker_channels import SealedKeyring

HOST = "test.example"  # one of certkit.NAMES


@contextmanager
def serving(identity: Identity, **more: Any) -> Iterator[int]:
    """An upstream with this certificate; yields its port. More: of TlsServer."""
    with TlsServer(identity, **more) as server:
        yield int(server.url.rpartition(":")[2])


class Probe:
    """Health checks of one upstream, as control makes them."""

    def __init__(self, material: Material, folder: Path, **tls: Any) -> None:
        self.ca = folder / "ca.pem"
        shutil.copy(material.root.ca, self.ca)
        client = material.client()
        authority: dict[str, Any] = {"name": "internal", "ca": f"path:{self.ca}"}
        if (crl := tls.pop("crl", None)) is not None:
            authority["crl"] = f"path:{crl}"
        self.host = tls.pop("host", HOST)
        self.tls = {"name": HOST, "authority": "internal", **tls}
        self.document: dict[str, Any] = {
            "version": 1,
            "authorities": [authority],
            "certificates": [
                {"name": "own", "cert": f"path:{client.cert}", "key": f"path:{client.key}"}
            ],
        }
        self.keyrings = Keyrings(self._distribute, None)

    async def _distribute(self, sealed: SealedKeyring) -> None:
        os.close(sealed.fd)

    async def begin(self, port: int) -> Check:
        upstream = {
            "name": "up", "targets": f"https://127.0.0.1:{port}", "health": "/healthz",
            "tls": {name: value for name, value in self.tls.items() if value is not None},
        }  # fmt: skip
        gateway: Gateway = decode({**self.document, "upstreams": [upstream]})
        new = await self.keyrings.prepare(gateway)
        os.close(new.sealed.fd)
        self.keyrings.keep(new)
        target = {"name": f"https://127.0.0.1:{port}".encode()}
        check = check_of(gateway.upstreams[0], target, socket.AF_INET, ("127.0.0.1", port))
        assert check is not None
        return check

    async def ask(self, port: int) -> str:
        """Why the check fails; empty if it does not."""
        check = await self.begin(port)
        try:
            await ask(check, self.keyrings)
        except CheckFailed as error:
            return str(error)
        return ""


NAMED = "the certificate is not accepted: "


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("leaf", ""),
        ("expired", f"{NAMED}certificate has expired"),
        ("not_yet_valid", f"{NAMED}certificate is not yet valid"),
        ("wrong_name", f"{NAMED}Hostname mismatch"),
        ("unknown_issuer", f"{NAMED}unable to get local issuer certificate"),
        ("self_signed", f"{NAMED}self-signed certificate"),
        ("without_chain", f"{NAMED}unable to get local issuer certificate"),
    ],
)
async def test_what_is_verified(
    kind: str, says: str, tls_material: Material, tmp_path: Path
) -> None:
    with serving(getattr(tls_material, kind)()) as port:
        found = await Probe(tls_material, tmp_path).ask(port)
    assert found.startswith(says)
    assert bool(found) == bool(says)


async def test_a_chain_with_its_intermediate(tls_material: Material, tmp_path: Path) -> None:
    with serving(tls_material.leaf(issuer=tls_material.intermediate)) as port:
        assert await Probe(tls_material, tmp_path).ask(port) == ""


async def test_without_a_name_the_address_is_verified(
    tls_material: Material, tmp_path: Path
) -> None:
    with serving(tls_material.leaf("127.0.0.1")) as port:
        assert await Probe(tls_material, tmp_path, name=None).ask(port) == ""
    with serving(tls_material.leaf(HOST)) as port:
        found = await Probe(tls_material, tmp_path, name=None).ask(port)
        assert "IP address mismatch" in found


async def test_nothing_is_verified_where_that_is_said(
    tls_material: Material, tmp_path: Path
) -> None:
    with serving(tls_material.expired("other.example")) as port:
        probe = Probe(tls_material, tmp_path, verify=False, authority=None)
        assert await probe.ask(port) == ""


async def test_revoked_certificates(tls_material: Material, tmp_path: Path) -> None:
    crl = tls_material.crl()
    with serving(tls_material.revoked()) as port:
        found = await Probe(tls_material, tmp_path, crl=crl).ask(port)
    assert found == f"{NAMED}certificate revoked"
    with serving(tls_material.leaf()) as port:
        assert await Probe(tls_material, tmp_path, crl=crl).ask(port) == ""


async def test_pins(tls_material: Material, tmp_path: Path) -> None:
    """Of the leaf, or of a certificate above it."""
    leaf = tls_material.leaf(issuer=tls_material.intermediate)
    above = tls_material.identity(
        [tls_material.intermediate.certificate], tls_material.intermediate.private_key
    )
    other = tls_material.leaf("other.example")
    with serving(leaf) as port:
        for pins, says in (
            ([leaf.pin], ""),
            ([other.pin, above.pin], ""),
            ([other.pin], "no certificate in its chain has a pinned key"),
        ):
            assert await Probe(tls_material, tmp_path, pins=pins).ask(port) == says


async def test_our_own_certificate(tls_material: Material, tmp_path: Path) -> None:
    with serving(tls_material.leaf(), clients=tls_material.root) as port:
        assert await Probe(tls_material, tmp_path, certificate="own").ask(port) == ""
        assert await Probe(tls_material, tmp_path).ask(port) != ""


async def test_versions(tls_material: Material, tmp_path: Path) -> None:
    with serving(tls_material.leaf(), versions=("1.2", "1.2")) as port:
        assert await Probe(tls_material, tmp_path).ask(port) == ""
        found = await Probe(tls_material, tmp_path, min="1.3").ask(port)
    assert found.startswith("the TLS handshake failed: ")


async def test_a_target_without_tls(tls_material: Material, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        asking = asyncio.create_task(Probe(tls_material, tmp_path).ask(server.getsockname()[1]))
        peer, _ = await loop.sock_accept(server)
        with peer:
            await loop.sock_sendall(peer, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert (await asking).startswith("the TLS handshake failed: ")


async def test_a_target_that_leaves_in_the_handshake(
    tls_material: Material, tmp_path: Path
) -> None:
    """An error without words must not count as a success."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        asking = asyncio.create_task(Probe(tls_material, tmp_path).ask(server.getsockname()[1]))
        peer, _ = await loop.sock_accept(server)
        await loop.sock_recv(peer, 65536)
        peer.close()
        assert await asking == "the connection was reset"


async def test_an_authority_that_changes_is_used_at_once(
    tls_material: Material, tmp_path: Path
) -> None:
    """Checks go on without interruption, with another context."""
    probe = Probe(tls_material, tmp_path)
    with serving(tls_material.unknown_issuer()) as port:
        check = await probe.begin(port)
        assert check.tls is not None
        context = probe.keyrings.context(check.tls)
        assert probe.keyrings.context(check.tls) is context
        with pytest.raises(CheckFailed, match="unable to get local issuer"):
            await ask(check, probe.keyrings)
        shutil.copy(tls_material.stranger.ca, probe.ca)
        assert await probe.keyrings.look()
        await ask(check, probe.keyrings)
        assert probe.keyrings.context(check.tls) is not context


async def test_a_check_that_is_given_up_leaves_nothing(
    tls_material: Material, tmp_path: Path
) -> None:
    """A server that accepts and says nothing: cancelled in the middle of its handshake."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        port = silent.getsockname()[1]
        probe = Probe(tls_material, tmp_path)
        check = await probe.begin(port)
        asking = asyncio.create_task(ask(check, probe.keyrings))
        loop = asyncio.get_running_loop()
        peer, _ = await loop.sock_accept(silent)
        with peer:
            assert (await loop.sock_recv(peer, 1)) == b"\x16"  # its hello
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            while await loop.sock_recv(peer, 65536):
                pass  # the rest of the hello, and then the end
