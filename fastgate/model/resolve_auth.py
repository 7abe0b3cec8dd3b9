"""Services that workers ask about callers: where they are, as upstreams.

A service that is given by its address (`forward: {url: …}`, the introspection endpoint of an
issuer) is an upstream of its own for workers, so that requests to it use the same pools, deadlines
and TLS as any other. Services at the same host share one.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from fastgate.model.auth import ForwardAuth, IntrospectionAuth
from fastgate.model.gateway import Gateway, Issuer, Target, Upstream, UpstreamTls
from fastgate.model.issuer import origin_of
from fastgate.model.places import TargetUrl
from fastgate.model.tls import SYSTEM


def all_upstreams(gateway: Gateway) -> list[Upstream]:
    """The upstreams of the document, and those of services that are asked about callers."""
    found = {upstream.name: upstream for upstream in _services(gateway)}
    return [*gateway.upstreams, *found.values()]


def asked_upstream(method: ForwardAuth | IntrospectionAuth, issuers: dict[str, Issuer]) -> str:
    """The name of the upstream that is asked."""
    if isinstance(method, ForwardAuth):
        if method.upstream is not None:
            return method.upstream
        assert method.url is not None
        return _name(method.url, SYSTEM)
    issuer = issuers[method.issuer]
    return _name(endpoint_of(issuer), issuer.authority)


def asked_path(method: ForwardAuth) -> str:
    """The path and query that a service is asked at."""
    if method.url is None:
        return method.path or "/"
    parts = urlsplit(method.url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def endpoint_of(issuer: Issuer) -> str:
    """An address at the host of the issuer's introspection endpoint."""
    assert issuer.introspection is not None
    return issuer.introspection.endpoint_url or issuer.issuer


def _services(gateway: Gateway) -> Iterator[Upstream]:
    issuers = {issuer.name: issuer for issuer in gateway.issuers}
    for route in gateway.routes:
        for _, method in route.auth.methods:
            if isinstance(method, ForwardAuth) and method.url is not None:
                yield _upstream(method.url, SYSTEM)
            elif isinstance(method, IntrospectionAuth):
                issuer = issuers[method.issuer]
                yield _upstream(endpoint_of(issuer), issuer.authority)


def _name(url: str, authority: str) -> str:
    scheme, host, port = origin_of(url)
    text = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    return text if authority == SYSTEM else f"{text} ({authority})"


def _upstream(url: str, authority: str) -> Upstream:
    name = _name(url, authority)
    secure = name.startswith("https:")
    return Upstream(
        name=name,
        targets=[Target(url=TargetUrl.parse(name.partition(" ")[0]))],
        tls=UpstreamTls(authority=authority) if secure else None,
    )
