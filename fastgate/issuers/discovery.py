"""Discovery: what an issuer says about itself, and its keys.

    https://host/path/.well-known/openid-configuration           OpenID Connect Discovery, first
    https://host/.well-known/oauth-authorization-server/path     RFC 8414, if that is not there

`issuer` in the document must be the configured one, letter for letter: otherwise one tenant of a
provider could speak for another. `jwks_uri` may be at another host, as Google's is.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from fastgate.issuers.fetching import Context, FetchError, get
from fastgate.issuers.freshness import fresh_s
from fastgate.issuers.jwks import KeysError, KeySet, read_jwks
from fastgate.model.gateway import Issuer
from fastgate.model.issuer import origin_of

MISSING = frozenset({400, 404, 405, 410, 501})
"""Statuses that say that there is no such document."""


class Found(NamedTuple):
    """What an issuer has answered."""

    keys: KeySet
    fresh_s: float
    """Seconds for which its keys are fresh."""
    jwks_uri: str
    introspection: str = ""
    """The endpoint for questions about tokens, if discovery is asked for it; empty: none."""
    doubt: str = ""
    """Why there is none, if there should be one."""


class Metadata(NamedTuple):
    """What we need of a discovery document."""

    jwks_uri: str
    introspection: str = ""
    doubt: str = ""


async def ask(issuer: Issuer, context: Context, now: float) -> Found:
    """The keys of an issuer, as it publishes them now. now: Unix seconds. Raises FetchError."""
    if issuer.jwks_uri is not None:
        metadata = Metadata(issuer.jwks_uri)
    else:
        metadata = await discover(issuer, context)
    answer = await get(issuer, metadata.jwks_uri, context)
    try:
        keys = read_jwks(answer.body)
    except KeysError as error:
        raise FetchError(f"{metadata.jwks_uri}: {error}") from None
    return Found(keys, fresh_s(answer.headers, now), *metadata)


async def discover(issuer: Issuer, context: Context) -> Metadata:
    """What an issuer says about itself. Raises FetchError."""
    first, second = places(issuer.issuer)
    try:
        answer = await get(issuer, first, context)
    except FetchError as error:
        if error.status not in MISSING:
            raise
        try:
            answer = await get(issuer, second, context)
        except FetchError as other:
            raise FetchError(f"{error}; {other}") from None
    return _read(issuer, answer.url, answer.body)


def places(issuer: str) -> tuple[str, str]:
    """Where an issuer's documents are: of OpenID Connect, of RFC 8414."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    host = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{host}{path}/.well-known/openid-configuration",
        f"{host}/.well-known/oauth-authorization-server{path}",
    )


def _read(issuer: Issuer, url: str, body: bytes) -> Metadata:
    try:
        document: Any = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise FetchError(f"{url}: it is not JSON: {error}") from None
    said = document.get("issuer") if isinstance(document, dict) else None
    if said != issuer.issuer:
        raise FetchError(
            f"{url}: it is about the issuer {str(said)[:200]!r}, not {issuer.issuer!r}; both must "
            "be the same text"
        )
    jwks_uri = document.get("jwks_uri")
    if not isinstance(jwks_uri, str) or not jwks_uri.isprintable():
        raise FetchError(f"{url}: it does not say where the keys are (`jwks_uri`)")
    if not issuer.reachable(jwks_uri):
        raise FetchError(f"{url}: its `jwks_uri` {jwks_uri[:200]!r} is no https address")
    if issuer.introspection is None or issuer.introspection.endpoint_url is not None:
        return Metadata(jwks_uri)
    return Metadata(jwks_uri, *_endpoint(issuer, url, document))


def _endpoint(issuer: Issuer, url: str, document: dict[str, Any]) -> tuple[str, str]:
    """The introspection endpoint, or why there is none."""
    hint = "if it is right, write it into the configuration (`introspection.endpoint`)"
    endpoint = document.get("introspection_endpoint")
    if not isinstance(endpoint, str) or not endpoint.isprintable():
        return "", f"{url}: it has no `introspection_endpoint`"
    try:
        same = origin_of(endpoint) == origin_of(issuer.issuer)
    except ValueError:
        same = False
    if not same:
        where = f"its `introspection_endpoint` {endpoint[:200]!r} is at another server"
        return "", f"{url}: {where}; {hint}"
    return endpoint, ""
