"""Rules of the configuration as records and tables of the image.

Limits, address lists, header rules, predicates, credentials, CORS, fixed responses, redirects: each
method takes the model's structs and returns the handle of a table, or the index of a record. Equal
rules have equal handles, so rules that many routes share are in the image once.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.snapshot import (
    AuthFlag,
    HeaderAction,
    LimitFlag,
    LimitKind,
    LimitScope,
    Period,
    UrlPiece,
    stable_hash,
)
from fastgate.config.rendering import (
    WINDOWS,
    cors_exposed,
    cors_methods,
    policy_member,
    rate_window,
    static_response,
)
from fastgate.model.gateway import (
    Addresses,
    ApiKeyAuth,
    Cors,
    HeaderRules,
    Limit,
    Match,
    Predicate,
    Quota,
    Respond,
)
from fastgate.model.overrides import can_be_overridden, override_name
from fastgate.model.resolve import OwnedLimit
from fastgate.model.segment_pattern import compile_pattern
from fastgate.model.url_template import Piece

_SCOPES = {
    "address": int(LimitScope.BY_ADDRESS),
    "route": int(LimitScope.BY_ROUTE),
    "consumer": int(LimitScope.BY_CONSUMER),
    "plan": int(LimitScope.BY_PLAN),
    "service": int(LimitScope.BY_SERVICE),
    "credential": int(LimitScope.BY_CREDENTIAL),
}
_BY_HEADER = int(LimitScope.BY_HEADER)
_NEEDS_IDENTITY = _SCOPES["consumer"] | _SCOPES["plan"] | _SCOPES["credential"]
PERIODS = {
    "minute": int(Period.PERIOD_MINUTE),
    "hour": int(Period.PERIOD_HOUR),
    "day": int(Period.PERIOD_DAY),
    "week": int(Period.PERIOD_WEEK),
    "month": int(Period.PERIOD_MONTH),
    "year": int(Period.PERIOD_YEAR),
}
_CORS_CREDENTIALS, _CORS_ANY = 1, 2  # cors_rec.flags
_PIECES = {
    "text": int(UrlPiece.URL_TEXT),
    "param": int(UrlPiece.URL_PARAM),
    "path": int(UrlPiece.URL_PATH),
    "host": int(UrlPiece.URL_HOST),
    "scheme": int(UrlPiece.URL_SCHEME),
    "query": int(UrlPiece.URL_QUERY),
    "query_more": int(UrlPiece.URL_QUERY_MORE),
}


class RuleTables:
    """Adds rules to an image. `via` and `server` are the gateway's names in its answers."""

    def __init__(self, image: ImageBuilder, via: str, server: str | None) -> None:
        self.image = image
        self.via = via
        self.server = server
        self._auths: dict[tuple[ApiKeyAuth | None, int, str, int, int, bytes], int] = {}
        self._cors: dict[tuple[bytes, str], int] = {}
        self._texts: dict[tuple[str, ...], int] = {}
        self._redirects: dict[tuple[int, int], int] = {}

    @property
    def key_params(self) -> set[str]:
        """The query parameters that routes read API keys from."""
        return {key[0].query for key in self._auths if key[0] is not None and key[0].query}

    # ---- limits ---------------------------------------------------------------------------

    def limits(self, limits: Sequence[OwnedLimit]) -> int:
        """The handle of a table of limits; those without an identity come first."""
        rows = [(_scope(owned), owned) for owned in limits]
        rows.sort(key=lambda row: bool(row[0] & _NEEDS_IDENTITY))
        return self.image.table([self._limit(owned, scope) for scope, owned in rows])

    def _limit(self, owned: OwnedLimit, scope: int) -> bytes:
        limit = owned.limit
        identity = stable_hash(owned.key)
        policy = policy_member(limit)
        headers = self.strings(limit.headers)
        override = 0
        if limit.name is not None and can_be_overridden(limit):
            override = stable_hash(override_name(owned.kind, limit.name))
        if isinstance(limit, Limit):
            return self.image.limit(
                identity=identity,
                kind=LimitKind.LIMIT_RATE,
                scope=scope,
                amount=limit.bucket,
                name=limit.label,
                policy=policy,
                headers=headers,
                override_key=override,
                interval_ns=limit.rate.interval_ns,
                tolerance_ns=limit.tolerance_ns,
                window_s=rate_window(limit),
            )
        if isinstance(limit, Quota):
            return self.image.limit(
                identity=identity,
                kind=LimitKind.LIMIT_QUOTA,
                scope=scope,
                amount=limit.requests,
                name=limit.label,
                policy=policy,
                headers=headers,
                override_key=override,
                window_s=WINDOWS[limit.period],
                period=PERIODS[limit.period],
                flags=int(LimitFlag.LIMIT_OFFER_UPGRADE) if limit.then == "offer_upgrade" else 0,
            )
        return self.image.limit(
            identity=identity,
            kind=LimitKind.LIMIT_CONCURRENCY,
            scope=scope,
            amount=limit.max,
            name=limit.label,
            policy=policy,
            headers=headers,
            override_key=override,
        )

    def strings(self, texts: tuple[str, ...]) -> int:
        if not texts:
            return 0
        handle = self._texts.get(texts)
        if handle is None:
            handle = self._texts[texts] = self.image.strings(list(texts))
        return handle

    def predicates(self, match: Match, segments: Sequence[tuple[int, str]] = ()) -> tuple[int, int]:
        """The handle of the table, equal for equal conditions in any order; and their number.

        `segments`: the numbers of segments of the path, from 0, with the patterns they match.
        """
        headers = {name.lower(): predicate for name, predicate in match.headers.items()}
        rows = [
            *((1, name, predicate) for name, predicate in headers.items()),
            *((4, name, predicate) for name, predicate in match.query.items()),
            *((7, name, predicate) for name, predicate in match.cookies.items()),
        ]
        records = [
            self.image.predicate(first + kind, name, value)
            for first, name, (kind, value) in sorted(
                (first, name, _kind(predicate)) for first, name, predicate in rows
            )
        ]
        records += [
            self.image.segment_predicate(number, compile_pattern(text).table)
            for number, text in segments
        ]
        return self.image.table(records), len(records)

    # ---- rules that routes share ----------------------------------------------------------

    def addresses(self, addresses: Addresses | None) -> int:
        if addresses is None:
            return 0
        return self.image.table(
            [
                *(self.image.address_rule(str(cidr), False) for cidr in addresses.deny),
                *(self.image.address_rule(str(cidr), True) for cidr in addresses.allow),
            ]
        )

    def headers(self, rules: Sequence[HeaderRules]) -> int:
        """The handle of the table for the combined effect of these rules, in order."""
        records = []
        for name, field in _fold(rules).items():
            lines = list(field.lines)
            if field.dropped and lines:
                records.append(self.image.header_rule(*lines.pop(0), HeaderAction.HEADER_SET))
            elif field.dropped:
                records.append(self.image.header_rule(name, "", HeaderAction.HEADER_REMOVE))
            elif field.default is not None:
                records.append(self.image.header_rule(*field.default, HeaderAction.HEADER_DEFAULT))
            records += [self.image.header_rule(*line, HeaderAction.HEADER_ADD) for line in lines]
        return self.image.table(records)

    def auth(
        self,
        keys: ApiKeyAuth | None,
        *,
        flags: int,
        challenge: str,
        methods: int = 0,
        owned: int = 0,
        anonymous: bytes = b"",
    ) -> int:
        """The record of what routes ask for; equal ones are shared. keys: how API keys are sent;
        None: they are not taken. The rest: as in auth_rec."""
        key = (keys, flags, challenge, methods, owned, anonymous)
        index = self._auths.get(key)
        if index is None:
            header, query = ("", "") if keys is None else (keys.header or "", keys.query or "")
            if keys is not None:
                flags |= int(AuthFlag.AUTH_BEARER) if keys.bearer else 0
                flags |= int(AuthFlag.AUTH_FORWARD) if keys.forward else 0
            index = self._auths[key] = self.image.add_auth(
                flags=flags,
                header=header.lower(),
                query=query,
                challenge=challenge,
                methods=methods,
                owned=owned,
                anonymous=anonymous,
            )
        return index

    def cors(self, cors: Cors, methods: Sequence[str]) -> int:
        allowed = cors_methods(cors, methods)
        key = (msgspec.json.encode(cors, enc_hook=str), allowed)
        index = self._cors.get(key)
        if index is None:
            anyone = "*" in cors.origins
            index = self._cors[key] = self.image.add_cors(
                origins=0 if anyone else self.image.strings(list(cors.origins)),
                allow_methods=allowed,
                allow_headers=", ".join(cors.headers),
                expose_headers=", ".join(cors_exposed(cors)),
                max_age=int(cors.max_age.seconds),
                flags=(_CORS_CREDENTIALS if cors.credentials else 0) | (_CORS_ANY if anyone else 0),
            )
        return index

    def static(self, respond: Respond) -> int:
        fields, body = static_response(respond, self.server)
        return self.image.add_static(fields=fields, body=body, status=respond.status)

    def redirect(self, status: int, location: Sequence[Piece], names: Sequence[str]) -> int:
        """The static response of a redirect; equal ones are shared. `names`: as for `url`."""
        key = (status, self.url(location, names))
        index = self._redirects.get(key)
        if index is None:
            index = self._redirects[key] = self.image.add_static(
                fields=f"Server: {self.server}\r\n".encode() if self.server else b"",
                body=b"",
                status=status,
                location=key[1],
            )
        return index

    def url(self, pieces: Sequence[Piece], names: Sequence[str]) -> int:
        """The table of a URL's pieces; `names`: the parameters of the path, in order."""
        return self.image.table(
            [
                self.image.url_piece(
                    _PIECES[piece.kind],
                    text=piece.value if piece.kind == "text" else "",
                    param=names.index(piece.value) if piece.kind == "param" else 0,
                    encode=piece.encode,
                )
                for piece in pieces
            ]
        )


def _scope(owned: OwnedLimit) -> int:
    by = owned.limit.by
    bits = sum(_SCOPES[scope] for scope in by if scope in _SCOPES)
    return bits | (_BY_HEADER if owned.limit.headers else 0)


def _kind(predicate: Predicate) -> tuple[int, str]:
    """0 (present), 1 (equals) or 2 (prefix); and the value."""
    if predicate.equals is not None:
        return 1, predicate.equals
    if predicate.prefix is not None:
        return 2, predicate.prefix
    return 0, ""


class _Field:
    """The combined effect of rules on one field of a message."""

    __slots__ = ("default", "dropped", "lines")

    def __init__(self) -> None:
        self.dropped = False  # received ones are removed
        self.lines: list[tuple[str, str]] = []  # put in
        self.default: tuple[str, str] | None = None  # added if none was received


def _fold(rules: Sequence[HeaderRules]) -> dict[str, _Field]:
    """Combines steps into one for each field, so that a worker never sees its own additions."""
    fields: dict[str, _Field] = {}

    def of(name: str) -> _Field:
        return fields.setdefault(name.lower(), _Field())

    for rule in rules:
        for name in rule.remove:
            field = of(name)
            field.dropped, field.lines, field.default = True, [], None
        for name, value in rule.set.items():
            field = of(name)
            field.dropped, field.lines, field.default = True, [(name, value)], None
        for name, value in rule.add.items():
            of(name).lines.append((name, value))
        for name, value in rule.default.items():
            field = of(name)
            if field.dropped and not field.lines:
                field.lines.append((name, value))
            elif not field.lines and field.default is None:
                field.default = (name, value)
    return fields
