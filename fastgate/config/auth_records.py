"""The image's records of authentication: what a route asks for, as workers read it.

What the document can say and workers cannot do yet is refused here, in `unsupported`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fastgate._core.snapshot.image import NONE
from fastgate._core.snapshot.router_build import method_mask
from fastgate._core.snapshot.snapshot import AuthFlag, AuthKind, AuthMethodFlag
from fastgate._core.tls.keyring import authority_id
from fastgate.config.issuer_ids import id_of
from fastgate.config.rendering import challenges
from fastgate.config.rules import RuleTables
from fastgate.errors import ConfigurationError
from fastgate.model import digests
from fastgate.model.auth import (
    EVERY_METHOD,
    ForwardAuth,
    IntrospectionAuth,
    JwtAuth,
    Method,
    MtlsAuth,
)
from fastgate.model.gateway import ApiKeyAuth, Auth, Gateway
from fastgate.model.issuer import Issuer
from fastgate.model.resolve_auth import asked_path, asked_upstream

_KINDS = {
    "api_key": int(AuthKind.AUTH_KEY),
    "jwt": int(AuthKind.AUTH_JWT),
    "introspection": int(AuthKind.AUTH_INTROSPECTION),
    "mtls": int(AuthKind.AUTH_CERTIFICATE),
    "basic": int(AuthKind.AUTH_BASIC),
    "forward": int(AuthKind.AUTH_SERVICE),
}
SUPPORTED = frozenset(_KINDS)
"""The methods that workers know."""
_ALL_METHODS = 0xFFFFFFFF
_FORWARD = int(AuthMethodFlag.METHOD_FORWARD)


class AuthRecords:
    """Adds what routes ask for to an image."""

    def __init__(self, rules: RuleTables, gateway: Gateway, upstreams: Mapping[str, int]) -> None:
        """upstreams: name → index in the image, filled in before the first record."""
        self._rules = rules
        self._upstreams = upstreams
        self._image = rules.image
        self._issuers: dict[str, Issuer] = {each.name: each for each in gateway.issuers}
        self._consumers = {
            name: each.ident for each in gateway.consumers for name in (each.ident, each.name)
        }

    def record(self, place: str, auth: Auth) -> int:
        """The index of a route's record; NONE: nothing is asked for. `place`: that of `auth` in
        the document. Raises ConfigurationError for what is not supported yet."""
        unsupported(place, auth)
        if not auth.methods:
            return NONE
        keys = next((each for _, each in auth.methods if isinstance(each, ApiKeyAuth)), None)
        alone = keys is not None and len(auth.methods) == 1
        flags = int(AuthFlag.AUTH_OPTIONAL) if auth.passes_nobody else 0
        if not alone:
            flags |= int(AuthFlag.AUTH_LIST) | (int(AuthFlag.AUTH_ALL) if auth.all else 0)
            if any(isinstance(each, JwtAuth) for _, each in auth.methods):
                flags |= int(AuthFlag.AUTH_TOKENS)
        anonymous = b""
        if auth.anonymous is not None:
            anonymous = digests.consumer(self._consumers.get(auth.anonymous, auth.anonymous))
        return self._rules.auth(
            keys,
            flags=flags,
            challenge=challenges(auth, self._rules.via),
            methods=0 if alone else self._methods(place, auth),
            owned=self._image.strings(sorted(self._owned(each for _, each in auth.methods))),
            anonymous=anonymous,
        )

    def _methods(self, place: str, auth: Auth) -> int:
        rows = []
        for where, kind, method in auth.places():
            scopes = 0
            if isinstance(method, JwtAuth | IntrospectionAuth):
                scopes = self._scopes(f"{place}.{where}.scopes", auth.scopes_of(method))
            rows.append(self._method(_KINDS[kind], method, scopes))
        return self._image.table(rows)

    def _method(self, kind: int, method: Method, scopes: int) -> bytes:
        image = self._image
        flags = _FORWARD if getattr(method, "forward", False) else 0
        if isinstance(method, JwtAuth):
            ids = image.ids([id_of(self._issuers[name]) for name in method.issuer])
            return image.auth_method(kind, flags=flags, ids=ids, scopes=scopes)
        if isinstance(method, IntrospectionAuth):
            issuer = self._issuers[method.issuer]
            assert issuer.introspection is not None
            return image.auth_method(
                kind,
                flags=flags,
                ids=image.ids([id_of(issuer)]),
                scopes=scopes,
                upstream=self._upstreams[asked_upstream(method, self._issuers)],
                timeout_ms=issuer.introspection.timeout.ms,
            )
        if isinstance(method, MtlsAuth):
            return image.auth_method(
                kind, ids=image.ids([authority_id(name) for name in method.authorities])
            )
        if isinstance(method, ForwardAuth):
            return image.auth_method(
                kind,
                upstream=self._upstreams[asked_upstream(method, self._issuers)],
                timeout_ms=method.timeout.ms,
                path=asked_path(method),
                forwarded=image.strings([name.lower() for name in method.send]),
                lent=image.strings([name.lower() for name in method.headers]),
                consumer=(method.consumer or "").lower(),
            )
        return image.auth_method(kind, flags=flags)

    def _scopes(self, place: str, scopes: Mapping[str, list[str]]) -> int:
        """The table of scope rules. HEAD needs what GET needs, unless it is listed."""
        by_method = dict(scopes)
        every = by_method.pop(EVERY_METHOD, None)
        if "GET" in by_method:
            by_method.setdefault("HEAD", by_method["GET"])
        listed, unknown = method_mask(list(by_method)) if by_method else (0, ())
        if unknown:
            raise ConfigurationError(
                f"{unknown[0]}: scopes by method are possible for GET, HEAD, POST, PUT, PATCH, "
                f"DELETE, OPTIONS and TRACE; for others, use {EVERY_METHOD!r}",
                place,
            )
        rules = [(method_mask([method])[0], names) for method, names in by_method.items()]
        if every is not None:
            rules.append((_ALL_METHODS & ~listed, every))
        return self._image.table(
            [self._image.scope_rule(mask, self._image.strings(names)) for mask, names in rules]
        )

    def _owned(self, methods: Iterable[Method]) -> set[str]:
        """Names of the header fields that only the gateway may send to upstreams."""
        found: set[str] = set()
        for method in methods:
            if isinstance(method, JwtAuth):
                for name in method.issuer:
                    found.update(self._issuers[name].headers)
            elif isinstance(method, IntrospectionAuth):
                found.update(self._issuers[method.issuer].headers)
            elif isinstance(method, ForwardAuth):
                found.update(method.headers)
        return {name.lower() for name in found}


def unsupported(place: str, auth: Auth) -> None:
    """Raise ConfigurationError for what workers cannot do yet."""
    for where, kind, _ in auth.places():
        if kind not in _KINDS:
            raise ConfigurationError(f"{kind} is not supported yet", f"{place}.{where}")
