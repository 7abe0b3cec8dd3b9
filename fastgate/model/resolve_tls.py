"""What TLS means once all parts of a document are taken together.

- **Certificates of a listener**: those that it names, or all.
- **Client certificates that are asked for under a host**: those of the listener's authorities, and
  those of the authorities that routes for this host name, in `client_certificate` or `auth`. The
  handshake comes before the request, so it asks for all that any route could need; each route then
  judges by its own authorities. A route without hosts counts for every host, one for
  `*.example.com` for all hosts below it.
- **Where `redirect: https` leads**: port 443 if a listener has TLS there, else the port of the
  listener with TLS. With several of them the document must say.

References must be valid (`check.check`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fastgate.model.gateway import Acme, Certificate, Gateway, Listener, MtlsAuth, Route
from fastgate.model.tls import DIRECTORIES

HTTPS = 443


class AskedFor(NamedTuple):
    """The client certificates that are asked for under a host."""

    host: str
    """As in routes: a name, `*.example.com` for one or more labels in front, "" for any host."""
    authorities: tuple[str, ...]
    """By name, each once."""
    required: bool
    """Whether the handshake fails without one."""


def needs_keyring(gateway: Gateway) -> bool:
    """Whether a document has anything that needs a keyring: certificates, authorities, issuers."""
    return bool(
        gateway.certificates
        or gateway.authorities
        or gateway.issuers
        or any(upstream.profile is not None for upstream in gateway.upstreams)
    )


def certificates_of(gateway: Gateway, listener: Listener) -> list[Certificate]:
    """The certificates that a listener may present, in order; empty: it has no TLS."""
    if listener.tls is None:
        return []
    if not listener.tls.certificates:
        return list(gateway.certificates)
    named = {certificate.name: certificate for certificate in gateway.certificates}
    return [named[name] for name in listener.tls.certificates]


def acme_of(gateway: Gateway, name: str) -> Acme | None:
    """The ACME authority with this name: of the document, or one that needs no section."""
    found = next((acme for acme in gateway.acme if acme.name == name), None)
    return Acme(name=name) if found is None and name in DIRECTORIES else found


def tls_ports(gateway: Gateway) -> list[int]:
    """The ports with TLS, each once; 0: one that the system chooses."""
    ports = [
        listener.bind.port
        for listener in gateway.listeners
        if listener.tls is not None and not listener.bind.is_unix
    ]
    return list(dict.fromkeys(ports))


def redirect_port(gateway: Gateway, listener: Listener) -> int:
    """The port that a listener's `redirect: https` leads to; 0: the document does not say."""
    if listener.https_port is not None:
        return listener.https_port
    ports = tls_ports(gateway)
    if HTTPS in ports:
        return HTTPS
    return ports[0] if len(ports) == 1 else 0


def asked_for(gateway: Gateway, listener: Listener) -> list[AskedFor]:
    """What a listener with TLS asks clients for, by host; the one for "" is the last.

    A host that is not in the list, nor below a wildcard of it, gets that of "".
    """
    assert listener.tls is not None
    client = listener.tls.client
    own = [] if client is None else client.authorities
    required = client is not None and client.required
    asking = [
        (set(route.hosts), names)
        for route in gateway.routes
        if not route.retired and (names := client_authorities(route))
    ]
    hosts = sorted({host for named, _ in asking for host in named})
    found = []
    for host in [*hosts, ""]:
        names = [*own]
        for named, authorities in asking:
            if not named or not named.isdisjoint(_over(host)):
                names += authorities
        if names:
            found.append(AskedFor(host, tuple(dict.fromkeys(names)), required))
    return found


def client_authorities(route: Route) -> list[str]:
    """The authorities of all client certificates that a route may ask for, by name."""
    found = [] if route.client_certificate is None else list(route.client_certificate.authorities)
    for _, method in route.auth.methods:
        if isinstance(method, MtlsAuth):
            found += method.authorities
    return list(dict.fromkeys(found))


def _over(host: str) -> Iterable[str]:
    """A host or wildcard itself, and all wildcards above it."""
    yield host
    labels = host.removeprefix("*.").split(".")
    for i in range(1, len(labels)):
        yield f"*.{'.'.join(labels[i:])}"
