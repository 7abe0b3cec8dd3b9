"""Certificates in the control process: read when there are any, watched, shown.

A gateway without TLS and tokens imports nothing of it (`keyrings.py` needs `cryptography`) and
sends no keyring. Once a configuration has had certificates, authorities, `https` targets or issuers
of tokens, every later one brings its keyring, also an empty one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from fastgate.api.ports import CertificateStatus
from fastgate.errors import ApplyError, KeyringError
from fastgate.imports import import_late
from fastgate.model.resolve_tls import needs_keyring
from fastgate.observability.families import Family, Sample
from fastgate.observability.metrics import escape
from fastgate.runtime.control.supervisor_channel import SupervisorChannel
from fastgate.runtime.control.worker_channels import SealedKeyring, WorkerChannels
from fastgate.runtime.wire.messages import KeepKeyring
from fastgate.ticks import next_tick

if TYPE_CHECKING:
    from fastgate._core.tls.keyring import Challenge
    from fastgate.certificates.material import Issued
    from fastgate.certificates.pairs import Pair
    from fastgate.issuers.source import IssuerSource
    from fastgate.model.gateway import Gateway, UpstreamTls
    from fastgate.runtime.control.keyrings import Keyrings, NewKeyring

log = logging.getLogger("fastgate.control")

LOOK_S = 5.0
"""Seconds between two looks at the files."""

EXPIRY = Family(
    "fastgate_certificate_expiry_seconds",
    "gauge",
    "Seconds until a certificate expires; negative when it has.",
)
CERTIFICATE_FAMILIES = (EXPIRY,)


class Certificates:
    """The certificates of the served configuration."""

    def __init__(
        self, workers: WorkerChannels, supervisor: SupervisorChannel, kept: int = -1
    ) -> None:
        """kept: descriptor of the keyring that workers have from an earlier control process; owned
        from now on. -1: none."""
        self.lock = asyncio.Lock()
        """Held while workers get a generation or a keyring: one at a time."""
        self.on_change: list[Callable[[], None]] = []
        """Called when a certificate may be another one."""
        self.issued: Issued | None = None
        """Certificates of ACME authorities; None: there are none."""
        self.issuers: Callable[[], Awaitable[IssuerSource]] | None = None
        """Makes the source of issuers of tokens, for a configuration that has some."""
        self.on_expiring: Callable[[str, Pair, int], None] = lambda name, pair, days: None
        """See `Keyrings.on_expiring`."""
        self._workers = workers
        self._supervisor = supervisor
        self._kept = kept
        self._keyrings: Keyrings | None = None
        self._there = asyncio.Event()

    async def prepare(self, gateway: Gateway) -> NewKeyring | None:
        """The keyring for a configuration; None if there never was any TLS. Raises
        ConfigurationError for files that cannot be used. With `lock` held."""
        if self._keyrings is None and self._kept < 0 and not needs_keyring(gateway):
            return None
        keyrings = await self._loaded()
        if gateway.issuers and keyrings.issuers is None and self.issuers is not None:
            keyrings.use_issuers(await self.issuers())
        return await keyrings.prepare(gateway)

    def keep(self, new: NewKeyring) -> None:
        """A prepared keyring is the served one from now on."""
        assert self._keyrings is not None
        self._keyrings.keep(new)
        self._there.set()
        self._changed()

    async def run(self) -> None:
        """Watch the files until cancelled."""
        await self._there.wait()
        while True:
            with suppress(KeyringError):  # it was logged; what follows is tried again
                await self.look()
            await next_tick(LOOK_S)

    async def look(self, *, everything: bool = False) -> None:
        """Bring certificates that have changed to the workers, now; see `Keyrings.look`."""
        async with self.lock:
            if self._keyrings is not None and await self._keyrings.look(everything=everything):
                self._changed()

    async def challenge(self, challenges: Iterable[Challenge]) -> None:
        """Let the workers answer these challenges (tls-alpn-01) from now on. Raises KeyringError
        if they cannot use them."""
        async with self.lock:
            if self._keyrings is not None:
                await self._keyrings.challenge(challenges)

    def pair(self, name: str) -> Pair | None:
        """A certificate with its key; None if it is not issued yet."""
        return dict(self._keyrings.pairs()).get(name) if self._keyrings is not None else None

    def context(self, profile: UpstreamTls) -> ssl.SSLContext:
        """The context for connections to an upstream, with its current certificates."""
        assert self._keyrings is not None, "a configuration with `https` targets has a keyring"
        return self._keyrings.context(profile)

    def authority_context(self, name: str) -> ssl.SSLContext:
        """The context for connections to servers with certificates of an authority."""
        assert self._keyrings is not None, "a configuration with issuers has a keyring"
        return self._keyrings.authority_context(name)

    def pinned(self, profile: UpstreamTls, connection: ssl.SSLObject) -> bool:
        """Whether the chain of a connection has a key that the profile pins, if it pins any."""
        assert self._keyrings is not None
        return self._keyrings.pinned(profile, connection)

    def status(self) -> list[CertificateStatus]:
        """All certificates of the configuration, in its order."""
        return [] if self._keyrings is None else self._keyrings.status()

    def samples(self) -> Iterator[Sample]:
        """Metrics, as they are now."""
        if self._keyrings is not None:
            for name, pair in self._keyrings.pairs():
                left = round(pair.not_after - time.time())
                yield Sample(EXPIRY, f'name="{escape(name)}"', left)

    async def _loaded(self) -> Keyrings:
        if self._keyrings is None:
            module = await import_late("fastgate.runtime.control.keyrings")
            kept, self._kept = module.read_kept(self._kept), -1
            self._keyrings = module.Keyrings(self._distribute, kept)
            self._keyrings.on_expiring = self.on_expiring
            if self.issued is not None:
                self._keyrings.issued = self.issued
        return self._keyrings

    async def _distribute(self, sealed: SealedKeyring) -> None:
        """Raises KeyringError, ApplyError."""
        fd = os.dup(sealed.fd)
        try:
            try:
                await self._workers.use_keyring(sealed)
            except ApplyError:  # it is in force; some workers are late
                self._supervisor.send(KeepKeyring(serial=sealed.serial), (fd,))
                raise
            self._supervisor.send(KeepKeyring(serial=sealed.serial), (fd,))
        finally:
            os.close(fd)

    def _changed(self) -> None:
        for callback in self.on_change:
            callback()
