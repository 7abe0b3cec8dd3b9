"""What is wrong with certificates that can be read: expired, incomplete, of no use where they are
used, and what will expire soon.

The gateway serves with all of these, since a certificate that some clients refuse is better than
no gateway: it warns. `fastgate check` makes errors of those that are out of date.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastgate.certificates.facts import day
from fastgate.certificates.material import Material
from fastgate.certificates.pairs import Pair, validity
from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Gateway
from fastgate.model.resolve_auth import all_upstreams
from fastgate.model.resolve_tls import certificates_of

DAY = 86_400
SOON = (1 * DAY, 7 * DAY, 30 * DAY)
"""Seconds before its end at which a certificate is reported."""


def out_of_date(gateway: Gateway, material: Material, now: float) -> list[ConfigurationError]:
    """Certificates, authorities and revocation lists that are expired or not valid yet."""
    found = []
    for i, certificate in enumerate(gateway.certificates):
        pair = material.certificates[certificate.name].pair
        if pair is None or (state := validity(pair, now)) == "valid":
            continue
        when = (
            f"expired on {day(pair.not_after)}"
            if state == "expired"
            else f"is not valid before {day(pair.not_before)}"
        )
        source = certificate.cert or f"of {certificate.acme}"
        found.append(
            ConfigurationError(
                f"the certificate {certificate.name!r} ({source}) {when}, so clients refuse it",
                f"certificates[{i}]",
                hint="Renew it; the gateway notices the new file."
                if state == "expired"
                else "Check the clock of this machine.",
            )
        )
    for i, authority in enumerate(gateway.authorities):
        trusted = material.authorities[authority.name].trusted
        if trusted is None:
            continue
        if now > trusted.not_after:
            found.append(
                ConfigurationError(
                    f"the certificates of the authority {authority.name!r} expired on "
                    f"{day(trusted.not_after)}, so everything that it has issued is refused",
                    f"authorities[{i}].ca",
                    hint="Replace the file with its current certificates.",
                )
            )
        if trusted.crls and now > trusted.crls_until:
            found.append(
                ConfigurationError(
                    f"a revocation list of the authority {authority.name!r} expired on "
                    f"{day(trusted.crls_until)}, so everything that it has issued is refused",
                    f"authorities[{i}].crl",
                    hint="Download the current lists; the gateway notices the new file.",
                )
            )
    return found


def doubts(gateway: Gateway, material: Material) -> list[ConfigurationError]:
    """What can be right for the clients at hand, but probably is not."""
    return [
        *_remarks(gateway, material),
        *_of_no_use(gateway, material),
        *_twice(gateway, material),
    ]


def _remarks(gateway: Gateway, material: Material) -> Iterator[ConfigurationError]:
    for i, certificate in enumerate(gateway.certificates):
        pair = material.certificates[certificate.name].pair
        for remark in () if pair is None else pair.remarks:
            yield ConfigurationError(remark, f"certificates[{i}].cert")
    for i, authority in enumerate(gateway.authorities):
        trusted = material.authorities[authority.name].trusted
        for remark in () if trusted is None else trusted.remarks:
            yield ConfigurationError(remark, f"authorities[{i}].crl")


def _of_no_use(gateway: Gateway, material: Material) -> Iterator[ConfigurationError]:
    """Certificates whose purpose, as their issuer has set it, is another one."""
    said: set[tuple[str, str]] = set()
    for name, use, where in _uses(gateway):
        pair = material.certificates[name].pair
        if pair is None or use in pair.usable_for or (name, use) in said:
            continue
        said.add((name, use))
        peer = "clients" if use == "server" else "upstreams"
        yield ConfigurationError(
            f"the certificate {name!r} was not issued for {use}s (extended key usage), so {peer} "
            "may refuse it",
            where,
        )


def _uses(gateway: Gateway) -> Iterator[tuple[str, str, str]]:
    """Certificate, what it is used as, and where."""
    for i, listener in enumerate(gateway.listeners):
        for certificate in certificates_of(gateway, listener):
            yield certificate.name, "server", f"listeners[{i}].tls"
    for i, upstream in enumerate(all_upstreams(gateway)):
        if upstream.tls is not None and upstream.tls.certificate is not None:
            yield upstream.tls.certificate, "client", f"upstreams[{i}].tls.certificate"
    if gateway.control.tls is not None:
        yield gateway.control.tls.certificate, "server", "control.tls.certificate"


def _twice(gateway: Gateway, material: Material) -> Iterator[ConfigurationError]:
    """Certificates of a listener with the same kind of key for the same host."""
    for i, listener in enumerate(gateway.listeners):
        first: dict[tuple[str, str], str] = {}
        for certificate in certificates_of(gateway, listener):
            pair = material.certificates[certificate.name].pair
            if pair is None:
                continue
            kind = pair.key_type.partition(" ")[0]
            for host in certificate.hosts or pair.hosts:
                other = first.setdefault((host, kind), certificate.name)
                if other != certificate.name:
                    yield ConfigurationError(
                        f"the certificates {other!r} and {certificate.name!r} are both for "
                        f"{host} with {kind} keys; {other!r} is used",
                        f"listeners[{i}].tls",
                        hint="Take one of them out, or give `hosts` to one.",
                    )
                    break


def expiring(pair: Pair, now: float) -> int:
    """The smallest limit of `SOON`, in days, that its remaining time is below; 0: none, or it is
    expired already."""
    left = pair.not_after - now
    if left < 0:
        return 0
    life = pair.not_after - pair.not_before  # one for six days is always in its last 30
    return next((limit // DAY for limit in SOON if left < limit <= life / 3), 0)
