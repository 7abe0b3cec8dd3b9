"""The keyring's entries of issuers: what workers need to judge a token."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastgate._core.tls.keyring import IssuerEntry, TokenHeader, TokenKey
from fastgate.config.issuer_ids import id_of
from fastgate.issuers.files import LoadedIssuer
from fastgate.issuers.service import Known
from fastgate.model.gateway import Issuer
from fastgate.model.issuer import SECRET_BYTES


def entry_of(issuer: Issuer, loaded: LoadedIssuer, known: Known) -> IssuerEntry:
    """`loaded`: from files; `known`: from the issuer itself."""
    plan, lifetime = issuer.plan, issuer.max_lifetime
    return IssuerEntry(
        id=id_of(issuer),
        name=issuer.name,
        issuer=issuer.issuer,
        audiences=list(issuer.audience),
        types=[type_of(each) for each in issuer.types],
        leeway_s=-(-issuer.leeway.ns // 1_000_000_000),
        lifetime_s=0 if lifetime is None else -(-lifetime.ns // 1_000_000_000),
        subject=list(issuer.consumer.names),
        plan=[] if plan is None or plan.claim is None else list(plan.claim.names),
        default_plan="" if plan is None else plan.default or "",
        scopes=[list(path.names) for path in issuer.scopes],
        headers=[
            TokenHeader(name=name, claim=list(path.names)) for name, path in issuer.headers.items()
        ],
        unknown=issuer.unknown,
        keys=_keys(issuer, loaded, known),
        fetches=issuer.fetches,
        authorization=loaded.authorization,
        introspection=_introspection(issuer, known),
        cache_s=0
        if issuer.introspection is None
        else -(-issuer.introspection.cache.ns // 1_000_000_000),
    )


def type_of(text: str) -> str:
    """A `typ` as it is compared: lower case, without "application/" (RFC 7515, 4.1.9)."""
    return text.lower().removeprefix("application/")


def _keys(issuer: Issuer, loaded: LoadedIssuer, known: Known) -> list[TokenKey]:
    if issuer.secret is not None:
        algorithms = [each for each in issuer.accepted if len(loaded.secret) >= SECRET_BYTES[each]]
        return [TokenKey(algorithms=algorithms, key=memoryview(loaded.secret))]
    accepted = issuer.accepted
    found = []
    for key in known.keys if issuer.fetches else loaded.keys:
        algorithms = [each for each in accepted if each in key.algorithms]
        if algorithms:
            found.append(TokenKey(algorithms=algorithms, key=memoryview(key.spki), kid=key.kid))
    return found


def _introspection(issuer: Issuer, known: Known) -> str:
    """Path and query of the endpoint; empty: there is none, or it is not known yet."""
    if issuer.introspection is None:
        return ""
    parts = urlsplit(issuer.introspection.endpoint_url or known.introspection)
    return f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}" if parts.netloc else ""
