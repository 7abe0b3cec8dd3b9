"""The keyring of the served configuration: built, kept up to date, brought to the workers.

    apply    read all files (strictly) ─ build ─▶ with the new generation: Prepare, Commit
    look     read what has changed ─ build ─ different? ─▶ alone: UseKeyring, no new generation

`look` runs every few seconds. A file that has changed and cannot be used is reported, and its last
content stays in use. It also makes a new ticket key when the newest is old, and warns of
certificates that will expire. It also runs when the keys of an issuer of tokens are others
(`fastgate.issuers`).

A new control process has the workers' keyring from the supervisor. It goes on with its ticket keys,
and with its certificates where the files cannot be used at the moment: clients must not suffer from
the replacement of a process.

This module imports `cryptography`, so it is imported when there is something to read
(`runtime/control/certificates.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import Challenge, Keyring
from fastgate.api.ports import CertificateStatus
from fastgate.certificates import rings
from fastgate.certificates.authorities import Trusted, system_roots
from fastgate.certificates.contexts import client_context, pinned, verified_chain
from fastgate.certificates.facts import day
from fastgate.certificates.judge import doubts, expiring, out_of_date
from fastgate.certificates.material import (
    NOTHING,
    Issued,
    LoadedAuthority,
    LoadedCertificate,
    Material,
    load,
    nothing_issued,
    problems,
    refresh,
)
from fastgate.certificates.pairs import Pair, pair_of, validity
from fastgate.config.targets import tls_id
from fastgate.errors import ApplyError, ConfigurationError, KeyringError
from fastgate.imports import in_thread
from fastgate.model.gateway import Certificate, Gateway, UpstreamTls
from fastgate.model.resolve_tls import certificates_of
from fastgate.runtime.control.worker_channels import SealedKeyring

if TYPE_CHECKING:
    from fastgate.issuers.source import IssuerSource

log = logging.getLogger("fastgate.control")

Distribute = Callable[[SealedKeyring], Awaitable[None]]
"""Brings a keyring to all workers; owns the descriptor. Raises KeyringError, ApplyError."""


class NewKeyring(NamedTuple):
    """A keyring that may become the served one. The caller closes `sealed`."""

    gateway: Gateway
    material: Material
    keyring: Keyring
    sealed: SealedKeyring
    warnings: list[str]


class Keyrings:
    """The current keyring, and the certificates and authorities that it was made of."""

    def __init__(
        self,
        distribute: Distribute,
        kept: Keyring | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """kept: the one that the supervisor has from an earlier control process."""
        self.issued: Issued = nothing_issued
        self.on_expiring: Callable[[str, Pair, int], None] = lambda name, pair, days: None
        """Called with a certificate and the days that are left at most; below 0: it has expired."""
        self.material = NOTHING
        self.issuers: IssuerSource | None = None
        """Issuers of tokens; None: no configuration has had any. Set by `use_issuers`."""
        self._distribute = distribute
        self._clock = clock
        self._kept = kept
        self._gateway: Gateway | None = None
        self._ring = kept
        self._refused: Keyring | None = None  # that workers could not use
        self._serial = 0 if kept is None else kept.serial
        self._tickets = [] if kept is None else list(kept.tickets)
        self._challenges: list[Challenge] = []
        self._contexts: dict[int, tuple[Trusted | None, Pair | None, ssl.SSLContext]] = {}
        self._said: dict[str, int] = {}  # certificate → days of the last warning
        self._troubles: list[str] = []  # files that cannot be used, as reported

    def use_issuers(self, source: IssuerSource) -> None:
        """Put the issuers of this source into keyrings, from now on."""
        self.issuers = source
        if self._ring is not None:
            source.rows.take(self._ring.issuers)

    # ---- with a generation ---------------------------------------------------------------

    async def prepare(self, gateway: Gateway) -> NewKeyring:
        """The keyring for a configuration. Raises ConfigurationError for files that cannot be
        used."""
        material = await in_thread(lambda: self._load(gateway))
        ring = self._build(gateway, material, new=True)
        now = self._clock()
        warnings = [*out_of_date(gateway, material, now), *doubts(gateway, material)]
        if self.issuers is not None:
            warnings += self.issuers.remarks(gateway)
        sealed = SealedKeyring(ring.serial, keyring.write(ring))
        return NewKeyring(gateway, material, ring, sealed, list(map(str, warnings)))

    def keep(self, new: NewKeyring) -> None:
        """All workers have it, or are about to swap to it."""
        self._gateway, self.material, self._ring = new.gateway, new.material, new.keyring
        self._tickets = list(new.keyring.tickets) or self._tickets
        self._kept = None
        if self.issuers is not None:
            self.issuers.keep(new.gateway)
        self._contexts.clear()
        self._troubles = self._problems()

    def _load(self, gateway: Gateway) -> Material:
        errors: list[ConfigurationError] = []
        material = NOTHING
        try:
            material = load(gateway, self.material, self.issued)
        except ConfigurationError as error:
            errors += error
        try:
            if self.issuers is not None:
                self.issuers.load(gateway)
        except ConfigurationError as error:
            errors += error
        if not errors:
            return material
        found = self._from_kept(gateway)
        if found is None:
            errors[0].others = tuple(errors[1:])
            raise errors[0]
        for each in errors:
            log.error("%s", each)
        log.error("what workers have stays in use instead")
        return found

    def _from_kept(self, gateway: Gateway) -> Material | None:
        """What can be read, and the workers' own keyring for what cannot; None: something is
        missing in it, or there is none."""
        if self._kept is None:
            return None
        found = refresh(gateway, _material_of(self._kept), self.issued)
        whole = _complete(found)
        if self.issuers is not None:
            whole = self.issuers.load_kept(gateway, self._kept.issuers) and whole
        return found if whole else None

    def _build(self, gateway: Gateway, material: Material, *, new: bool = False) -> Keyring:
        self._serial += 1
        return rings.build(
            gateway,
            material,
            serial=self._serial,
            tickets=rings.tickets_at(self._tickets, self._clock()),
            challenges=self._challenges,
            issuers=[] if self.issuers is None else self.issuers.entries(gateway, new=new),
        )

    # ---- alone ---------------------------------------------------------------------------

    async def look(self, *, everything: bool = False) -> bool:
        """Read files that have changed, and bring the result to the workers. Whether there was
        anything new.

        everything: also ask for issued certificates. Raises KeyringError if workers cannot use it.
        """
        gateway = self._gateway
        if gateway is None:
            return False
        before = self.material
        if everything or await asyncio.to_thread(self._changed):
            self.material = await in_thread(lambda: self._refresh(gateway))
            self._say_troubles()
        self._say_expiring()
        ring = self._build(gateway, self.material)
        known = (self._ring, self._refused)
        if any(each is not None and rings.same_but_serial(ring, each) for each in known):
            self._serial -= 1  # perhaps a certificate that only control uses
            return self._say_replaced(before)
        await self._bring(ring)
        self._say_replaced(before)
        return True

    def _changed(self) -> bool:
        issuers = self.issuers
        return self.material.changed() or (issuers is not None and issuers.changed())

    def _refresh(self, gateway: Gateway) -> Material:
        if self.issuers is not None:
            self.issuers.refresh(gateway)
        return refresh(gateway, self.material, self.issued)

    async def challenge(self, challenges: Iterable[Challenge]) -> None:
        """Answer these challenges (tls-alpn-01) from now on; returns when every worker does."""
        self._challenges = list(challenges)
        await self.look()

    async def _bring(self, ring: Keyring) -> None:
        try:
            await self._distribute(SealedKeyring(ring.serial, keyring.write(ring)))
        except ApplyError as error:
            log.warning("%s; it will as soon as it continues", error)
        except KeyringError as error:
            log.error("the workers cannot use the new certificates or keys: %s", error)
            self._refused = ring
            await self._undo()
            raise
        self._ring, self._refused = ring, None
        self._tickets = list(ring.tickets) or self._tickets

    async def _undo(self) -> None:
        """Some workers have accepted what others have not: all go back to what they had."""
        if self._ring is None:
            return
        self._serial += 1
        self._ring.serial = self._serial
        await self._distribute(SealedKeyring(self._serial, keyring.write(self._ring)))

    # ---- control's own connections -------------------------------------------------------

    def context(self, profile: UpstreamTls) -> ssl.SSLContext:
        """The context for connections to an upstream, with its current certificates."""
        trusted = self.material.authorities[profile.authority].trusted if profile.verify else None
        pair = None
        if profile.certificate is not None:
            pair = self.material.certificates[profile.certificate].pair
        number = tls_id(profile)
        known = self._contexts.get(number)
        if known is None or known[0] is not trusted or known[1] is not pair:
            known = trusted, pair, client_context(profile, trusted, pair)
            self._contexts[number] = known
        return known[2]

    def authority_context(self, name: str) -> ssl.SSLContext:
        """The context for connections to servers with certificates of an authority."""
        if name not in self.material.authorities:  # the system's, which nothing else uses
            found, _ = system_roots()
            return client_context(UpstreamTls(), found, None)
        return self.context(UpstreamTls(authority=name))

    def pinned(self, profile: UpstreamTls, connection: ssl.SSLObject) -> bool:
        """Whether the chain of a connection has a key that the profile pins, if it pins any."""
        return not profile.pins or pinned(profile, verified_chain(connection))

    # ---- reports -------------------------------------------------------------------------

    def _problems(self) -> list[str]:
        if self._gateway is None:
            return []
        found = problems(self._gateway, self.material)
        if self.issuers is not None:
            found += self.issuers.problems(self._gateway)
        return list(map(str, found))

    def _say_troubles(self) -> None:
        found = self._problems()
        for trouble in found:
            if trouble not in self._troubles:
                log.error("%s", trouble)
                log.error("its last content stays in use")
        self._troubles = found

    def _say_replaced(self, before: Material) -> bool:
        """Log what is new; whether there was anything."""
        new = False
        for name, loaded in self.material.certificates.items():
            old = before.certificates.get(name)
            if loaded.pair is not None and (old is None or old.pair != loaded.pair):
                new = True
                log.info(
                    "the certificate %s is a new one, valid until %s",
                    *(name, day(loaded.pair.not_after)),
                )
        for name, known in self.material.authorities.items():
            earlier = before.authorities.get(name)
            if earlier is not None and earlier.trusted != known.trusted:
                new = True
                log.info("the authority %s has changed", name)
        return new

    def _say_expiring(self) -> None:
        now = self._clock()
        for name, loaded in self.material.certificates.items():
            pair = loaded.pair
            if pair is None:
                continue
            days = -1 if validity(pair, now) == "expired" else expiring(pair, now)
            if days and self._said.get(name) != days:
                if days < 0:
                    log.error("the certificate %s expired on %s", name, day(pair.not_after))
                else:
                    log.warning("the certificate %s expires on %s", name, day(pair.not_after))
                self.on_expiring(name, pair, days)
            self._said[name] = days

    def pairs(self) -> Iterator[tuple[str, Pair]]:
        """The certificates that are there, by name."""
        for name, loaded in self.material.certificates.items():
            if loaded.pair is not None:
                yield name, loaded.pair

    def status(self) -> list[CertificateStatus]:
        """All certificates of the configuration, in its order."""
        gateway = self._gateway
        if gateway is None:
            return []
        users = _users(gateway)
        return [self._status(each, users.get(each.name, [])) for each in gateway.certificates]

    def _status(self, certificate: Certificate, used_by: list[str]) -> CertificateStatus:
        loaded = self.material.certificates[certificate.name]
        pair, problem = loaded.pair, loaded.problem
        source = f"acme: {certificate.acme}" if certificate.acme else str(certificate.cert)
        return CertificateStatus(
            name=certificate.name,
            source=source,
            state="pending" if pair is None else self._state(pair),
            hosts=list(certificate.hosts or (pair.hosts if pair is not None else ())),
            key_type=None if pair is None else pair.key_type,
            subject=None if pair is None else pair.subject,
            issuer=None if pair is None else pair.issuer,
            not_before=None if pair is None else pair.not_before,
            not_after=None if pair is None else pair.not_after,
            fingerprint=None if pair is None else pair.fingerprint,
            used_by=used_by,
            problem=None if problem is None else str(problem),
        )

    def _state(self, pair: Pair) -> str:
        now = self._clock()
        state = validity(pair, now).replace(" ", "_")
        return "expiring" if state == "valid" and expiring(pair, now) else state


def _users(gateway: Gateway) -> dict[str, list[str]]:
    """Certificate → what uses it."""
    found: dict[str, list[str]] = {}
    for listener in gateway.listeners:
        for certificate in certificates_of(gateway, listener):
            found.setdefault(certificate.name, []).append(f"listener {listener.name}")
    for upstream in gateway.upstreams:
        if upstream.tls is not None and upstream.tls.certificate is not None:
            found.setdefault(upstream.tls.certificate, []).append(f"upstream {upstream.name}")
    if gateway.control.tls is not None:
        found.setdefault(gateway.control.tls.certificate, []).append("control")
    return found


def _complete(material: Material) -> bool:
    """Whether nothing is missing that should be in files."""
    certificates = all(
        each.pair is not None or each.problem is None for each in material.certificates.values()
    )
    return certificates and all(each.trusted for each in material.authorities.values())


def _material_of(kept: Keyring) -> Material:
    """What is in a keyring, without the files that it came from."""
    return Material(
        {
            each.name: LoadedCertificate(pair_of(list(map(bytes, each.chain)), bytes(each.key)))
            for each in kept.certificates
        },
        {
            each.name: LoadedAuthority(
                Trusted(
                    tuple(map(bytes, each.certificates)),
                    tuple(map(bytes, each.crls)),
                    not_after=1 << 62,
                    crls_until=1 << 62,
                )
            )
            for each in kept.authorities
        },
    )


def read_kept(fd: int) -> Keyring | None:
    """The keyring that the supervisor kept; None if there is none, or it cannot be used."""
    if fd < 0:
        return None
    try:
        return keyring.read(fd)
    except KeyringError as error:
        log.error("%s; session tickets of clients become invalid", error)
        return None
    finally:
        os.close(fd)
