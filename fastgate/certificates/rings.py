"""Keyrings: what workers need of certificates, authorities and issuers, packed for them.

A keyring has only what something uses, and the document's names, by which snapshots and keyrings
refer to each other. Session tickets are encrypted with keys that are in the keyring alone, so they
last as long as the gateway, and every worker knows those of the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastgate._core.tls.keyring import (
    TICKET_KEYS,
    TLS_1_2,
    TLS_1_3,
    AuthorityEntry,
    CertificateEntry,
    Challenge,
    IssuerEntry,
    Keyring,
    ListenerTls,
    NamePolicy,
    TicketKey,
    UpstreamTls,
)
from fastgate.certificates.material import Material
from fastgate.config.listener_records import key_of
from fastgate.config.targets import tls_id
from fastgate.model import gateway as model
from fastgate.model.resolve_auth import all_upstreams
from fastgate.model.resolve_tls import asked_for, certificates_of
from fastgate.model.tls import pin_digest

ROTATE_S = 8 * 3600
"""Seconds after which a new ticket key is made."""
_VERSIONS = {"1.2": TLS_1_2, "1.3": TLS_1_3}


def build(
    gateway: model.Gateway,
    material: Material,
    *,
    serial: int,
    tickets: Sequence[TicketKey] = (),
    challenges: Sequence[Challenge] = (),
    issuers: Sequence[IssuerEntry] = (),
) -> Keyring:
    """The keyring of a document. `tickets`: the newest first; `issuers`: those of tokens."""
    ring = _Packing(gateway, material).keyring(serial, tickets, challenges)
    ring.issuers = list(issuers)
    return ring


class _Packing:
    """The numbers of certificates and authorities in the keyring, given as they are used."""

    def __init__(self, gateway: model.Gateway, material: Material) -> None:
        self.gateway = gateway
        self.material = material
        self.certificates: dict[str, int] = {}
        self.authorities: dict[str, int] = {}
        self.entries: list[CertificateEntry] = []
        self.trusted: list[AuthorityEntry] = []
        self.hosts = {each.name: each.hosts for each in gateway.certificates}

    def keyring(
        self, serial: int, tickets: Sequence[TicketKey], challenges: Sequence[Challenge]
    ) -> Keyring:
        listeners = [self._listener(each) for each in self.gateway.listeners if each.tls]
        profiles = {
            tls_id(profile): profile
            for upstream in all_upstreams(self.gateway)
            if (profile := upstream.profile) is not None
        }
        return Keyring(
            serial=serial,
            listeners=listeners,
            upstreams=[self._upstream(number, each) for number, each in profiles.items()],
            certificates=self.entries,
            authorities=self.trusted,
            tickets=list(tickets) if listeners else [],
            challenges=list(challenges) if listeners else [],
        )

    def _listener(self, listener: model.Listener) -> ListenerTls:
        assert listener.tls is not None
        numbers = [self._certificate(each.name) for each in certificates_of(self.gateway, listener)]
        return ListenerTls(
            key=key_of(listener),
            certificates=[number for number in numbers if number >= 0],
            min_version=_VERSIONS[listener.tls.min],
            policies=[
                NamePolicy(
                    host=asked.host,
                    authorities=[self._authority(name) for name in asked.authorities],
                    required=asked.required,
                )
                for asked in asked_for(self.gateway, listener)
            ],
            strict_names=listener.tls.strict_names,
        )

    def _upstream(self, number: int, profile: model.UpstreamTls) -> UpstreamTls:
        return UpstreamTls(
            id=number,
            name=profile.name or "",
            verify=profile.verify,
            authority=self._authority(profile.authority) if profile.verify else -1,
            certificate=-1
            if profile.certificate is None
            else self._certificate(profile.certificate),
            pins=[pin_digest(pin) for pin in profile.pins],
            min_version=_VERSIONS[profile.min],
        )

    def _certificate(self, name: str) -> int:
        """The number of a certificate; -1: there is none yet."""
        if name not in self.certificates:
            pair = self.material.certificates[name].pair
            if pair is None:
                return -1
            self.certificates[name] = len(self.entries)
            self.entries.append(
                CertificateEntry(
                    name=name,
                    # One that was issued before `hosts` changed serves those that it is for.
                    hosts=[each for each in self.hosts[name] if pair.covers(each)]
                    or list(pair.hosts),
                    chain=[memoryview(der) for der in pair.chain],
                    key=memoryview(pair.key),
                )
            )
        return self.certificates[name]

    def _authority(self, name: str) -> int:
        if name not in self.authorities:
            trusted = self.material.authorities[name].trusted
            assert trusted is not None, "what cannot be read is refused before"
            self.authorities[name] = len(self.trusted)
            self.trusted.append(
                AuthorityEntry(
                    name=name,
                    certificates=[memoryview(der) for der in trusted.certificates],
                    crls=[memoryview(der) for der in trusted.crls],
                )
            )
        return self.authorities[name]


# ---- tickets ----------------------------------------------------------------------------


def tickets_at(tickets: Sequence[TicketKey], now: float) -> list[TicketKey]:
    """The ticket keys from now on: a new one first if the newest is too old, the oldest dropped.

    A key that is made in the future, before the clock was set back, counts as too old."""
    kept = list(tickets)
    if not kept or not 0 <= now - kept[0].made < ROTATE_S:
        secret = memoryview(os.urandom(32))
        kept.insert(0, TicketKey(name=os.urandom(16), made=int(now), secret=secret))
    return kept[:TICKET_KEYS]


def same_but_serial(one: Keyring, other: Keyring) -> bool:
    """Whether two keyrings differ in nothing that matters to workers."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in one.__struct_fields__
        if name != "serial"
    )
