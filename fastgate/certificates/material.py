"""The certificates and authorities of a document, read from where it says they are.

    load      all of them, strictly: every file that cannot be used is an error with its place
    refresh   only those whose files have changed; one that cannot be used keeps its last content

A certificate of an ACME authority has no files here: `issued` returns what was issued last, or None
while there is nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fastgate.certificates.authorities import Trusted, read_authority, system_roots
from fastgate.certificates.pairs import Pair, read_pair
from fastgate.certificates.pem import PemError
from fastgate.certificates.sources import Content, Stamp, read, stamp_of
from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Authority, Certificate, Gateway
from fastgate.model.resolve_auth import all_upstreams
from fastgate.model.secret import PemPlace
from fastgate.model.tls import SYSTEM

Issued = Callable[[Certificate], Pair | None]
Files = tuple[tuple[str, Stamp | None], ...]
"""Paths, each with the state of the file when it was read."""


def nothing_issued(certificate: Certificate) -> Pair | None:
    """`issued` without an ACME client."""
    return None


class LoadedCertificate(NamedTuple):
    """A certificate of the document."""

    pair: Pair | None
    """None: not issued yet, or never read."""
    files: Files = ()
    problem: PemError | None = None
    """Why the current files cannot be used; the pair is that of earlier ones."""


class LoadedAuthority(NamedTuple):
    """An authority of the document, or the operating system's."""

    trusted: Trusted | None
    """None: never read."""
    files: Files = ()
    problem: PemError | None = None


class Material(NamedTuple):
    """All certificates and authorities of a document, by name."""

    certificates: Mapping[str, LoadedCertificate]
    authorities: Mapping[str, LoadedAuthority]
    """With `system` if an upstream or an issuer uses it."""

    def changed(self) -> bool:
        """Whether a file is another one, or was written, since it was read."""
        every: list[LoadedCertificate | LoadedAuthority] = [*self.certificates.values()]
        every += self.authorities.values()
        return any(stamp_of(path) != stamp for each in every for path, stamp in each.files)


NOTHING = Material({}, {})


def uses_system(gateway: Gateway) -> bool:
    """Whether an upstream or an issuer is verified with the operating system's authorities."""
    return next(_system_users(gateway), None) is not None


def _system_users(gateway: Gateway) -> Iterator[tuple[str, str]]:
    """What is verified with the operating system's authorities: name and place."""
    for i, upstream in enumerate(all_upstreams(gateway)):
        profile = upstream.profile
        if profile is not None and profile.verify and profile.authority == SYSTEM:
            yield upstream.name, f"upstreams[{i}].tls"
    for i, issuer in enumerate(gateway.issuers):
        if issuer.asks_by_https and issuer.authority == SYSTEM:
            yield issuer.name, f"issuers[{i}].authority"


def load(
    gateway: Gateway,
    before: Material = NOTHING,
    issued: Issued = nothing_issued,
    environ: Mapping[str, str] = os.environ,
) -> Material:
    """Read everything; what has not changed is taken from `before`.

    Raises ConfigurationError for the first file that cannot be used, with the rest in `others`.
    """
    found = refresh(gateway, before, issued, environ)
    if errors := problems(gateway, found):
        errors[0].others = tuple(errors[1:])
        raise errors[0]
    return found


def refresh(
    gateway: Gateway,
    before: Material,
    issued: Issued = nothing_issued,
    environ: Mapping[str, str] = os.environ,
) -> Material:
    """Read what has changed. What cannot be used keeps the content that it has in `before`."""
    certificates = {}
    for certificate in gateway.certificates:
        old = before.certificates.get(certificate.name, LoadedCertificate(None))
        certificates[certificate.name] = (
            LoadedCertificate(issued(certificate))
            if certificate.acme is not None
            else _certificate(certificate, old, environ)
        )
    authorities = {}
    for authority in gateway.authorities:
        known = before.authorities.get(authority.name, LoadedAuthority(None))
        authorities[authority.name] = _authority(authority, known, environ)
    if uses_system(gateway):
        authorities[SYSTEM] = _system(before.authorities.get(SYSTEM), environ)
    return Material(certificates, authorities)


def problems(gateway: Gateway, material: Material) -> list[ConfigurationError]:
    """The files that cannot be used, in the order of the document."""
    found = []
    for i, certificate in enumerate(gateway.certificates):
        problem = material.certificates[certificate.name].problem
        if problem is not None:
            found.append(_error(problem, f"certificates[{i}]"))
    for i, authority in enumerate(gateway.authorities):
        problem = material.authorities[authority.name].problem
        if problem is not None:
            found.append(_error(problem, f"authorities[{i}]"))
    system = material.authorities.get(SYSTEM)
    if system is not None and system.problem is not None:
        found += [
            ConfigurationError(
                f"{system.problem}, so {name!r} cannot be verified",
                place,
                hint=system.problem.hint or None,
            )
            for name, place in _system_users(gateway)
        ]
    return found


def _error(problem: PemError, place: str) -> ConfigurationError:
    path = f"{place}.{problem.field}" if problem.field else place
    return ConfigurationError(str(problem), path, hint=problem.hint or None)


# ---- one of them ------------------------------------------------------------------------


def _certificate(
    certificate: Certificate, old: LoadedCertificate, environ: Mapping[str, str]
) -> LoadedCertificate:
    places = _places(certificate.cert, certificate.key)
    if _same(old.files, places):
        return old
    now = _now(places)
    try:
        assert certificate.cert is not None
        contents = _read({"cert": certificate.cert, "key": certificate.key}, environ)
        pair = read_pair(contents[0], contents[1] if len(contents) > 1 else None)
        _check_hosts(certificate, pair)
    except PemError as problem:
        return LoadedCertificate(old.pair, now, problem.bare())
    return LoadedCertificate(pair, _files(contents))


def _check_hosts(certificate: Certificate, pair: Pair) -> None:
    for host in certificate.hosts:
        if not pair.covers(host):
            valid = ", ".join(pair.hosts[:5]) or "no host"
            raise PemError(
                f"the certificate in {certificate.cert} is not valid for {host!r}, but for {valid}",
                "Have it issued for this host too, or take the host out.",
                "hosts",
            )


def _authority(
    authority: Authority, old: LoadedAuthority, environ: Mapping[str, str]
) -> LoadedAuthority:
    places = _places(authority.ca, authority.crl)
    if _same(old.files, places):
        return old
    now = _now(places)
    try:
        contents = _read({"ca": authority.ca, "crl": authority.crl}, environ)
        trusted = read_authority(contents[0], contents[1] if len(contents) > 1 else None)
    except PemError as problem:
        return LoadedAuthority(old.trusted, now, problem.bare())
    return LoadedAuthority(trusted, _files(contents))


def _system(old: LoadedAuthority | None, environ: Mapping[str, str]) -> LoadedAuthority:
    if old is not None and _same(old.files, [path for path, _ in old.files]):
        return old
    try:
        trusted, contents = system_roots(environ)
    except PemError as problem:
        return LoadedAuthority(None if old is None else old.trusted, (), problem.bare())
    return LoadedAuthority(trusted, _files(contents))


def _read(places: Mapping[str, PemPlace | None], environ: Mapping[str, str]) -> Sequence[Content]:
    """What is at these places, by field of the document; those that are None are left out."""
    found = []
    for field, place in places.items():
        if place is None:
            continue
        try:
            found.append(read(place, environ))
        except PemError as problem:
            problem.field = field
            raise
    return found


def _places(*places: PemPlace | None) -> list[str]:
    """The paths among them."""
    return [place.place for place in places if place is not None and place.kind == "path"]


def _same(files: Files, places: Sequence[str]) -> bool:
    """Whether these are the places of the files, and none of them has changed."""
    return (
        bool(files)
        and [path for path, _ in files] == list(places)
        and all(stamp_of(path) == stamp for path, stamp in files)
    )


def _now(places: Sequence[str]) -> Files:
    return tuple((path, stamp_of(path)) for path in places)


def _files(contents: Sequence[Content]) -> Files:
    return tuple((each.path, each.stamp) for each in contents if each.path)
