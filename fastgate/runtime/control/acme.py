"""Certificates that are ordered: the ACME service in the control process.

    served configuration ─▶ settings ─▶ AcmeService ─┬─ challenges ─▶ the page; the keyring
                                                     └─ certificates on disk ─▶ the keyring

A gateway that orders no certificate imports nothing of it. The keyring is made from the disk
(`issued`), so the first configuration of a process has what was ordered earlier, before the service
runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fastgate._core.tls.keyring import Challenge
from fastgate.config.public_route import PublicSide, hosts_proved_by_http
from fastgate.errors import ConfigurationError, FastGateError, KeyringError, NotFoundError
from fastgate.imports import import_late, importing
from fastgate.observability.families import Family, Sample
from fastgate.runtime.control.certificates import Certificates
from fastgate.runtime.control.publisher import Publisher

if TYPE_CHECKING:
    from fastgate.api.ports import CertificateStatus
    from fastgate.certificates.acme.events import Failure, Row
    from fastgate.certificates.acme.service import AcmeService
    from fastgate.certificates.acme.tokens import Tokens
    from fastgate.certificates.pairs import Pair
    from fastgate.model.gateway import Certificate, Gateway

log = logging.getLogger("fastgate.acme")

ORDERS = Family(
    "fastgate_acme_orders_total",
    "counter",
    "Attempts to obtain a certificate from an ACME authority, by result.",
)
ACME_FAMILIES = (ORDERS,)


class Acme:
    """Orders the certificates of the served configuration. It is `Answers` of the service."""

    def __init__(
        self,
        state: Path,
        certificates: Certificates,
        publisher: Publisher,
        public: PublicSide | None,
    ) -> None:
        """`public`: where the page of http-01 is served; None: nowhere."""
        self._state = state
        self._public = public
        self._certificates = certificates
        self._publisher = publisher
        self._service: AcmeService | None = None
        self._tokens: Tokens | None = None
        self._challenges: dict[str, Challenge] = {}
        self.on_failed: Callable[[Failure], None] = lambda failure: None
        """Called with each failed attempt to obtain a certificate."""
        self._wake = asyncio.Event()
        self._served = self._issued = False  # what has changed
        certificates.issued = self.issued
        publisher.checks.append(self._check)
        publisher.on_served.append(self._on_served)

    def _check(self, gateway: Gateway) -> None:
        """Raise ConfigurationError for what is missing: secrets, files, packages, the page."""
        if not _orders(gateway):
            return
        with importing():
            from fastgate.certificates.acme.configured import settings_of

        settings_of(gateway)
        if self._public is None and hosts_proved_by_http(gateway):
            raise ConfigurationError(
                "challenges of http-01 are answered on a socket in the state directory, which "
                "cannot be used (see the log)",
                "certificates",
                hint="Choose a state directory with a shorter path, or `challenge: tls-alpn-01`.",
            )

    async def run(self) -> None:
        """Until cancelled."""
        if self._publisher.gateway is not None:
            self._on_served()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._served:
                    self._served = False
                    await self._reload()
                if self._issued:
                    self._issued = False
                    await self._bring()
        finally:
            if self._service is not None:
                await self._service.stop()

    def _on_served(self) -> None:
        self._served = True
        self._wake.set()

    async def _reload(self) -> None:
        gateway = self._publisher.gateway
        assert gateway is not None
        if self._service is None:
            if not _orders(gateway):
                return
            service = await import_late("fastgate.certificates.acme.service")
            events = await import_late("fastgate.certificates.acme.events")
            tokens = await import_late("fastgate.certificates.acme.tokens")
            self._tokens = tokens.Tokens()
            calls = events.Events(self._on_certificate, self.on_failed)
            self._service = service.AcmeService(self._state, self, calls)
        configured = await import_late("fastgate.certificates.acme.configured")
        try:
            await self._service.reload(configured.settings_of(gateway))
        except FastGateError as error:
            log.error("No certificate is ordered: %s", error)

    async def _bring(self) -> None:
        """Bring new certificates to the workers."""
        try:
            await self._certificates.look(everything=True)
        except KeyringError as error:
            log.error("A new certificate cannot be used: %s", error)

    def _on_certificate(self, name: str) -> None:
        self._issued = True
        self._wake.set()

    def issued(self, certificate: Certificate) -> Pair | None:
        """A certificate on disk, for the keyring. Called in a thread."""
        with importing():
            from fastgate.certificates.acme.issued import issued

        return issued(self._state, certificate.name)

    # ---- challenges -------------------------------------------------------------------------

    @property
    def tokens(self) -> Tokens:
        """Those of http-01 challenges that are pending."""
        assert self._tokens is not None
        return self._tokens

    def key_authorization(self, token: str) -> str | None:
        """The answer to a token; None if no challenge with it is pending."""
        return None if self._tokens is None else self._tokens.find(token)

    async def publish(self, host: str, certificate: bytes, key: bytes) -> None:
        """Let the workers answer a challenge of tls-alpn-01."""
        self._challenges[host] = Challenge(
            host=host, certificate=memoryview(certificate), key=memoryview(key)
        )
        await self._certificates.challenge(self._challenges.values())

    async def withdraw(self, host: str) -> None:
        """Let them answer it no longer."""
        if self._challenges.pop(host, None) is not None:
            await self._certificates.challenge(self._challenges.values())

    # ---- questions --------------------------------------------------------------------------

    def completed(self, statuses: list[CertificateStatus]) -> list[CertificateStatus]:
        """The states of certificates, with what is known of those that are ordered."""
        rows = {} if self._service is None else {row.name: row for row in self._service.status()}
        return [
            each if each.name not in rows else _with_row(each, rows[each.name]) for each in statuses
        ]

    async def renew(self, name: str, *, wait: bool) -> None:
        """Order a new certificate now. Raises NotFoundError; AcmeError as `AcmeService.renew`."""
        if self._service is None:
            raise NotFoundError(f"There is no certificate {name!r} from an ACME authority.")
        await self._service.renew(name, wait=wait)

    def samples(self) -> Iterator[Sample]:
        """Metrics, as they are now."""
        if self._service is not None:
            for result, count in self._service.orders.items():
                yield Sample(ORDERS, f'result="{result}"', count)


def _orders(gateway: Gateway) -> bool:
    """Whether a configuration has certificates that are ordered."""
    return any(certificate.acme is not None for certificate in gateway.certificates)


def _with_row(status: CertificateStatus, row: Row) -> CertificateStatus:
    def seconds(when: object) -> int | None:
        return None if when is None else int(when.timestamp())  # type: ignore[attr-defined]

    return msgspec.structs.replace(
        status,
        ordering=row.ordering,
        renews=seconds(row.renews),
        next_attempt=seconds(row.next_attempt),
        problem=row.error or status.problem,
    )
