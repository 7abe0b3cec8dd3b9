"""Checks of authentication between resources: issuers, routes, consumers.

Part of `check`, which reports what is found here with everything else. Authorities are checked in
`check_tls`; what is in files of keys, when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastgate.errors import ConfigurationError
from fastgate.model.auth import EVERY_METHOD, ForwardAuth, IntrospectionAuth, JwtAuth, MtlsAuth
from fastgate.model.faults import did_you_mean
from fastgate.model.gateway import Consumer, Gateway, Issuer, Route
from fastgate.model.issuer import is_loopback, split_url
from fastgate.model.tls import pin_digest


def references(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for names of issuers, plans and upstreams that do not exist."""
    issuers = [issuer.name for issuer in gateway.issuers]
    plans = [plan.name for plan in gateway.plans]
    upstreams = [upstream.name for upstream in gateway.upstreams]
    for i, issuer in enumerate(gateway.issuers):
        if issuer.plan is not None and issuer.plan.default is not None:
            yield from _missing("plan", issuer.plan.default, plans, f"issuers[{i}].plan.default")
    for i, route in enumerate(gateway.routes):
        for place, _, method in route.auth.places():
            at = f"routes[{i}].auth.{place}"
            if isinstance(method, JwtAuth):
                for j, name in enumerate(method.issuer):
                    yield from _missing("issuer", name, issuers, f"{at}.issuer[{j}]")
            elif isinstance(method, IntrospectionAuth):
                yield from _missing("issuer", method.issuer, issuers, f"{at}.issuer")
            elif isinstance(method, ForwardAuth) and method.upstream is not None:
                yield from _missing("upstream", method.upstream, upstreams, f"{at}.upstream")
    for i, consumer in enumerate(gateway.consumers):
        for name in consumer.subjects:
            yield from _missing("issuer", name, issuers, f"consumers[{i}].subjects.{name}")


def _missing(kind: str, name: str, known: list[str], path: str) -> Iterator[ConfigurationError]:
    if name not in known:
        hint = did_you_mean(name, known, f"{kind.capitalize()}s")
        yield ConfigurationError(f"there is no {kind} {name!r}", path, hint=hint)


def relations(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors between parts whose references are valid."""
    issuers = {issuer.name: issuer for issuer in gateway.issuers}
    for i, route in enumerate(gateway.routes):
        yield from _issuers(f"routes[{i}].auth", route, issuers)
        yield from _scopes(f"routes[{i}].auth", route)
        if route.client_certificate is not None and any(
            isinstance(method, MtlsAuth) for _, method in route.auth.methods
        ):
            yield ConfigurationError(
                "`auth` asks for a client certificate already",
                f"routes[{i}].client_certificate",
                hint="Leave it out; `auth: {mtls: {…, forward: true}}` sends the certificate to "
                "the upstream.",
            )
    yield from _shown_twice(gateway.consumers)


def _issuers(at: str, route: Route, issuers: dict[str, Issuer]) -> Iterator[ConfigurationError]:
    for place, _, method in route.auth.places():
        if isinstance(method, IntrospectionAuth) and issuers[method.issuer].introspection is None:
            yield ConfigurationError(
                f"the issuer {method.issuer!r} is not asked about tokens",
                f"{at}.{place}.issuer",
                hint="Give it `introspection: {client_id: …, client_secret: env:…}`, or use "
                f"`{{jwt: {method.issuer}}}` if its tokens are signed.",
            )
        if not isinstance(method, JwtAuth):
            continue
        first: dict[str, str] = {}
        for j, name in enumerate(method.issuer):
            iss = issuers[name].issuer
            if iss in first:
                yield ConfigurationError(
                    f"{first[iss]!r} and {name!r} have the same `iss` {iss!r}, so it is not clear "
                    "which of them a token is from",
                    f"{at}.{place}.issuer[{j}]",
                    hint="Name one of them.",
                )
            first.setdefault(iss, name)


def _scopes(at: str, route: Route) -> Iterator[ConfigurationError]:
    """Errors for HTTP methods whose scopes are forgotten, and for those that the route has not."""
    places = [("scopes", route.auth.scopes)]
    for place, _, method in route.auth.places():
        if isinstance(method, JwtAuth | IntrospectionAuth):
            places.append((f"{place}.scopes", method.scopes))
    for place, scopes in places:
        if not scopes:
            continue
        for name in scopes:
            if name != EVERY_METHOD and route.methods and name not in route.methods:
                yield ConfigurationError(
                    f"the route does not take {name}",
                    f"{at}.{place}.{name}",
                    hint=did_you_mean(name, route.methods, "Its methods"),
                )
        covered = {*scopes, *(("HEAD",) if "GET" in scopes else ())}
        rest = [name for name in route.methods if name not in covered]
        if EVERY_METHOD not in scopes and (rest or not route.methods):
            which = " and ".join(rest) if rest else f"methods other than {', '.join(scopes)}"
            yield ConfigurationError(
                f"it does not say which scopes {which} need",
                f"{at}.{place}",
                hint='Add them, or `"*": [SCOPE]` for all others; `"*": []` needs none.',
            )


def _shown_twice(consumers: list[Consumer]) -> Iterator[ConfigurationError]:
    """Errors for subjects, certificates and users that two consumers have."""
    first: dict[tuple[str, ...] | bytes, str] = {}

    def once(key: tuple[str, ...] | bytes, what: str, path: str) -> Iterator[ConfigurationError]:
        if key in first:
            yield ConfigurationError(f"{what} is already at {first[key]}", path)
        first.setdefault(key, path)

    for i, consumer in enumerate(consumers):
        at = f"consumers[{i}]"
        for issuer, subjects in consumer.subjects.items():
            for j, subject in enumerate(subjects):
                what = f"the subject {subject!r} of {issuer!r}"
                yield from once(("subject", issuer, subject), what, f"{at}.subjects.{issuer}[{j}]")
        for j, pin in enumerate(consumer.certificates):
            yield from once(pin_digest(pin), "this public key", f"{at}.certificates[{j}]")
        for user in consumer.basic:
            yield from once(("basic", user), f"the user {user!r}", f"{at}.basic.{user}")


def warnings(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Valid configuration that is dangerous or looks unintended."""
    signed: set[str] = set()
    used: set[str] = set()
    for route in gateway.routes:
        for _, method in route.auth.methods:
            if isinstance(method, JwtAuth):
                signed.update(method.issuer)
            elif isinstance(method, IntrospectionAuth):
                used.add(method.issuer)
    for i, issuer in enumerate(gateway.issuers):
        at = f"issuers[{i}]"
        if issuer.name not in signed | used:
            yield ConfigurationError(f"{issuer.name!r}: no route uses it", at)
        if issuer.name in signed and not issuer.audience:
            yield ConfigurationError(
                f"{issuer.name!r} accepts every token of the issuer, also one that was issued for "
                "another service",
                f"{at}.audience",
                hint="Write what `aud` is in tokens for this service: `audience: [NAME]`.",
            )
        for place, url in _addresses(issuer):
            parts = split_url(place, url)
            if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                yield ConfigurationError(
                    f"NOT ENCRYPTED: an attacker in the network can replace the keys of "
                    f"{issuer.name!r} and issue tokens",
                    f"{at}.{place}",
                    hint="Write https.",
                )


def _addresses(issuer: Issuer) -> Iterator[tuple[str, str]]:
    """The addresses at which it is asked, with their places."""
    if issuer.discovers:
        yield "issuer", issuer.issuer
    if issuer.jwks_uri is not None:
        yield "jwks_uri", issuer.jwks_uri
    asked = issuer.introspection
    if asked is not None and asked.endpoint_url is not None:
        yield "introspection.endpoint", asked.endpoint_url
