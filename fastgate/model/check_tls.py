"""Checks of TLS between resources: certificates, authorities, listeners, redirects, ACME.

Part of `check`, which reports what is found here with everything else. What is in the files of
certificates is checked when they are read (`fastgate.certificates`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fastgate.errors import ConfigurationError
from fastgate.model.faults import did_you_mean
from fastgate.model.gateway import Gateway, MtlsAuth
from fastgate.model.resolve_tls import acme_of, client_authorities, redirect_port, tls_ports
from fastgate.model.tls import DIRECTORIES, SYSTEM

SELF_SIGNED = "`fastgate certificates self-signed HOST` makes one for tests."


def references(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for names of certificates and authorities that do not exist."""
    certificates = [certificate.name for certificate in gateway.certificates]
    authorities = [authority.name for authority in gateway.authorities]

    for i, listener in enumerate(gateway.listeners):
        if listener.tls is None:
            continue
        at = f"listeners[{i}].tls"
        named = listener.tls.certificates
        yield from _each("certificate", certificates, named, f"{at}.certificates")
        for j, name in enumerate(named):
            if name in named[:j]:
                yield ConfigurationError(f"{name!r} is there twice", f"{at}.certificates[{j}]")
        if listener.tls.client is not None:
            at = f"{at}.client.authorities"
            yield from _clients(authorities, listener.tls.client.authorities, at)
    for i, route in enumerate(gateway.routes):
        if route.client_certificate is not None:
            at = f"routes[{i}].client_certificate.authorities"
            yield from _clients(authorities, route.client_certificate.authorities, at)
        for place, _, method in route.auth.places():
            if isinstance(method, MtlsAuth):
                at = f"routes[{i}].auth.{place}.authorities"
                yield from _clients(authorities, method.authorities, at)
    known = [*authorities, SYSTEM]
    for i, issuer in enumerate(gateway.issuers):
        yield from _missing("authority", known, issuer.authority, f"issuers[{i}].authority")
    for i, upstream in enumerate(gateway.upstreams):
        if upstream.tls is not None:
            at, tls = f"upstreams[{i}].tls", upstream.tls
            yield from _missing("authority", known, tls.authority, f"{at}.authority")
            if tls.certificate is not None:
                yield from _missing(
                    "certificate", certificates, tls.certificate, f"{at}.certificate"
                )
    if gateway.control.tls is not None:
        name = gateway.control.tls.certificate
        yield from _missing("certificate", certificates, name, "control.tls.certificate")
    known = list(dict.fromkeys([*(acme.name for acme in gateway.acme), *DIRECTORIES]))
    for i, certificate in enumerate(gateway.certificates):
        if certificate.acme is not None:
            at = f"certificates[{i}].acme"
            yield from _missing("ACME authority", known, certificate.acme, at)


def _missing(kind: str, known: Sequence[str], name: str, path: str) -> Iterator[ConfigurationError]:
    if name not in known:
        many = f"{kind.removesuffix('y')}ies" if kind.endswith("y") else f"{kind}s"
        hint = did_you_mean(name, known, f"{many[0].upper()}{many[1:]}")
        yield ConfigurationError(f"there is no {kind} {name!r}", path, hint=hint)


def _each(
    kind: str, known: Sequence[str], names: Iterable[str], path: str
) -> Iterator[ConfigurationError]:
    for j, name in enumerate(names):
        yield from _missing(kind, known, name, f"{path}[{j}]")


def _clients(known: Sequence[str], names: Sequence[str], path: str) -> Iterator[ConfigurationError]:
    for j, name in enumerate(names):
        if name == SYSTEM:
            yield ConfigurationError(
                "the authorities of the operating system issue certificates for servers, and any "
                "of them would be accepted from clients",
                f"{path}[{j}]",
                hint="Name the authority that issues your clients' certificates.",
            )
        else:
            yield from _missing("authority", known, name, f"{path}[{j}]")


def relations(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors between parts whose references are valid."""
    yield from _listeners(gateway)
    yield from _routes(gateway)
    yield from _control(gateway)
    yield from _acme(gateway)


def _listeners(gateway: Gateway) -> Iterator[ConfigurationError]:
    for i, listener in enumerate(gateway.listeners):
        if listener.tls is not None and not gateway.certificates:
            yield ConfigurationError(
                "this listener has TLS, but there are no certificates",
                f"listeners[{i}].tls",
                hint=f"Add one under `certificates`. {SELF_SIGNED}",
            )
        if listener.redirect is None or redirect_port(gateway, listener):
            continue
        ports = tls_ports(gateway)
        if not ports:
            yield ConfigurationError(
                "this leads to https, but no listener has TLS",
                f"listeners[{i}].redirect",
                hint="Add a listener with `tls`, or give `https_port` if another program "
                "serves https.",
            )
        else:
            why = (
                "the system chooses the port of the listener with TLS"
                if ports == [0]
                else f"listeners have TLS on {len(ports)} ports, none of them 443"
            )
            yield ConfigurationError(
                f"it is not clear where this leads to: {why}",
                f"listeners[{i}].redirect",
                hint="Write the port, `https_port: 8443`.",
            )


def _routes(gateway: Gateway) -> Iterator[ConfigurationError]:
    if any(listener.tls is not None for listener in gateway.listeners):
        return
    for i, route in enumerate(gateway.routes):
        asking = [] if route.client_certificate is None else ["client_certificate"]
        asking += [f"auth.{place}" for place, kind, _ in route.auth.places() if kind == "mtls"]
        for place in asking:
            yield ConfigurationError(
                "no listener has TLS, so no client can present a certificate",
                f"routes[{i}].{place}",
                hint="Add `tls` to a listener.",
            )


def _control(gateway: Gateway) -> Iterator[ConfigurationError]:
    control = gateway.control
    if control.tls is None and not control.bind.loopback:
        yield ConfigurationError(
            "the control API can be reached from other machines there, and its tokens would be "
            "sent in clear",
            "control.bind",
            hint="Bind it to loopback or a Unix socket, or give it a certificate: "
            "`control: {bind: …, tls: NAME}`.",
        )
    if control.tls is not None and control.bind.is_unix:
        yield ConfigurationError(
            "a Unix socket needs no TLS", "control.tls", hint="Leave it out, or bind an address."
        )


def _acme(gateway: Gateway) -> Iterator[ConfigurationError]:
    ordered: dict[str, str] = {}
    for i, certificate in enumerate(gateway.certificates):
        if certificate.acme is None:
            continue
        acme = acme_of(gateway, certificate.acme)
        assert acme is not None
        for j, host in enumerate(certificate.hosts):
            at = f"certificates[{i}].hosts[{j}]"
            if host.startswith("*."):
                yield ConfigurationError(
                    f"{acme.challenge} proves control of one host, so no ACME authority issues "
                    f"a certificate for {host!r} with it",
                    at,
                    hint="List the hosts, or use a certificate from files.",
                )
            if host in ordered:
                yield ConfigurationError(
                    f"{host!r} is already in the certificate {ordered[host]!r}", at
                )
            ordered.setdefault(host, certificate.name)
        yield from _challenged(gateway, i, acme.challenge)


def _challenged(gateway: Gateway, i: int, challenge: str) -> Iterator[ConfigurationError]:
    secured = challenge == "tls-alpn-01"
    if not any(
        (listener.tls is not None) is secured and not listener.bind.is_unix
        for listener in gateway.listeners
    ):
        yield ConfigurationError(
            f"{challenge} is answered by a listener {'with' if secured else 'without'} TLS, and "
            "there is none",
            f"certificates[{i}].acme",
            hint='Add one, which port 443 of the hosts leads to: `{bind: ":443", tls: true}`.'
            if secured
            else 'Add one, which port 80 of the hosts leads to: `{bind: ":80", redirect: https}`.',
        )


def warnings(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Valid configuration that is dangerous or looks unintended."""
    for i, upstream in enumerate(gateway.upstreams):
        if upstream.tls is not None and not upstream.tls.verify:
            yield ConfigurationError(
                f"NOT VERIFIED: {upstream.name!r} accepts any certificate, so an attacker in the "
                "network can read and change its requests and answers",
                f"upstreams[{i}].tls.verify",
                hint="Name the authority that issues its certificate: "
                "`tls: {authority: NAME}`, or pin its key.",
            )
    yield from _unused(gateway)


def _unused(gateway: Gateway) -> Iterator[ConfigurationError]:
    certificates: set[str | None] = set()
    authorities: set[str] = set()
    for listener in gateway.listeners:
        if listener.tls is None:
            continue
        names = listener.tls.certificates
        certificates.update(names or (each.name for each in gateway.certificates))
        if listener.tls.client is not None:
            authorities.update(listener.tls.client.authorities)
    for upstream in gateway.upstreams:
        if upstream.tls is not None:
            certificates.add(upstream.tls.certificate)
            authorities.add(upstream.tls.authority)
    for route in gateway.routes:
        authorities.update(client_authorities(route))
    authorities.update(issuer.authority for issuer in gateway.issuers)
    if gateway.control.tls is not None:
        certificates.add(gateway.control.tls.certificate)
    orders = {certificate.acme for certificate in gateway.certificates}
    for where, names_there, used in (
        ("certificates", [each.name for each in gateway.certificates], certificates),
        ("authorities", [each.name for each in gateway.authorities], authorities),
        ("acme", [each.name for each in gateway.acme], orders),
    ):
        for i, name in enumerate(names_there):
            if name not in used:
                yield ConfigurationError(f"{name!r}: nothing uses it", f"{where}[{i}]")
