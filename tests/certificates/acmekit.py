"""What tests of ACME need: a clock that stands still, servers that show proofs, a service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from pebblekit import Pebble

from fastgate.certificates.acme.clock import Clock
from fastgate.certificates.acme.events import Events, Failure
from fastgate.certificates.acme.service import AcmeService
from fastgate.certificates.acme.settings import AcmeSettings, Authority, Wanted
from fastgate.certificates.acme.storage import Metadata, Storage, Stored
from fastgate.certificates.acme.tokens import Tokens
from fastgate.certificates.pairs import Pair, read_pair
from fastgate.certificates.sources import Content
from fastgate.portal.challenges import WithChallenges
from fastgate.runtime.control.serving import serve_until

HOST = "shop.example.com"
PATIENCE_S = 60


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = datetime.now(UTC) if now is None else now
        self._moved = asyncio.Event()
        self._asleep: list[tuple[asyncio.Event, datetime | None]] = []  # what wakes them, until
        self._changed = asyncio.Event()

    def now(self) -> datetime:
        return self._now

    async def wait(self, event: asyncio.Event, until: datetime | None) -> None:
        while not event.is_set() and (until is None or self._now < until):
            moved = self._moved
            tasks = [asyncio.ensure_future(each.wait()) for each in (event, moved)]
            self._asleep.append((moved, until))
            self._changed.set()
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._asleep.remove((moved, until))
                for task in tasks:
                    task.cancel()

    async def idle(self, waiting: int = 1) -> list[datetime | None]:
        """Return when so many wait since the clock was moved; until when they wait."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = [until for moved, until in self._asleep if moved is self._moved]
                if len(found) >= waiting:
                    return found
                self._changed.clear()
                await self._changed.wait()

    async def move(self, to: datetime, waiting: int = 1) -> list[datetime | None]:
        """Move it; return when so many wait again, and until when."""
        assert to >= self._now
        self._now = to
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        return await self.idle(waiting)


class Proofs:
    """Shows proofs as a gateway does: the page of control, and a server for acme-tls/1."""

    def __init__(self, pebble: Pebble, folder: Path) -> None:
        self.tokens = Tokens()
        self.log: list[tuple[str, str]] = []
        """What was published and withdrawn."""
        self._pebble = pebble
        self._folder = folder
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def publish(self, host: str, certificate: bytes, key: bytes) -> None:
        self.log.append(("publish", host))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["acme-tls/1"])
        context.load_cert_chain(self._pem(host, certificate, key))
        await asyncio.sleep(0)
        self._contexts[host] = context

    def _pem(self, host: str, certificate: bytes, key: bytes) -> Path:
        loaded = load_der_private_key(key, password=None)
        path = self._folder / f"{host}.pem"
        path.write_bytes(
            x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)
            + loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return path

    async def withdraw(self, host: str) -> None:
        self.log.append(("withdraw", host))
        await asyncio.sleep(0)
        self._contexts.pop(host, None)

    @property
    def shown(self) -> int:
        """Proofs that can be fetched now."""
        return len(self.tokens) + len(self._contexts)

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Serve them on the ports that pebble looks at."""
        over = asyncio.Event()
        page = socket.create_server(("127.0.0.1", self._pebble.http_port))
        app = WithChallenges(self.tokens.find, _nothing_else)
        serving = asyncio.create_task(serve_until(over, app, page))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = self._choose
        handshakes = await asyncio.start_server(
            _hang_up, "127.0.0.1", self._pebble.tls_port, ssl=context
        )
        try:
            yield
        finally:
            handshakes.close()
            over.set()
            await serving
            page.close()

    def _choose(self, connection: Any, host: str | None, _: ssl.SSLContext) -> int | None:
        found = self._contexts.get(host or "")
        if found is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = found
        return None


async def _nothing_else(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError(scope)


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


class World:
    """A service, with what it has reported."""

    def __init__(self, state: Path, proofs: Proofs, clock: Clock | None = None) -> None:
        self.issued: list[str] = []
        self.failures: list[Failure] = []
        self.proofs = proofs
        self.storage = Storage(state)
        self.service = AcmeService(
            state, proofs, Events(self.issued.append, self.failures.append), clock
        )

    def on_disk(self, name: str = "shop") -> Pair:
        """The certificate on disk, checked."""
        stored = self.storage.certificate(name)
        assert stored is not None
        return read_pair(Content("it", stored.pem.encode()), None)

    def leaf(self, name: str = "shop") -> str:
        """The certificate on disk alone, PEM."""
        leaf = x509.load_der_x509_certificate(self.on_disk(name).chain[0])
        return leaf.public_bytes(Encoding.PEM).decode()


@contextlib.asynccontextmanager
async def world(pebble: Pebble, folder: Path, clock: Clock | None = None) -> AsyncIterator[World]:
    """A service whose proofs pebble can fetch; stopped at the end, with none left."""
    proofs = Proofs(pebble, folder)
    async with proofs.served():
        made = World(folder, proofs, clock)
        try:
            yield made
        finally:
            await made.service.stop()
        assert not proofs.shown


def authority(pebble: Pebble, **more: Any) -> Authority:
    return Authority(**{"name": "pebble", "directory": pebble.directory, "ca": pebble.ca, **more})


def settings(authority: Authority, *hosts: str, name: str = "shop") -> AcmeSettings:
    """One certificate."""
    wanted = Wanted(name, hosts or (HOST,), authority.name)
    return AcmeSettings({authority.name: authority}, (wanted,))


def make_stored(
    directory: str, hosts: Sequence[str], not_before: datetime, not_after: datetime
) -> Stored:
    """A certificate as if it had been issued for this time."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=True
        )
        .add_extension(x509.AuthorityKeyIdentifier(b"\x07" * 20, None, None), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    metadata = Metadata(
        directory=directory,
        account="https://authority.example/account/1",
        order="https://authority.example/order/1",
        hosts=list(hosts),
        obtained=not_before,
    )
    return Stored(metadata, pem + certificate.public_bytes(Encoding.PEM).decode())
