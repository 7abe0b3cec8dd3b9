"""The short forms that may be written instead of a full struct, as a table.

Plain data is expanded before it is decoded; the result has only full forms. Besides the table,
there are two general rules: one text or number may be written instead of a list of one; and in
`limits`, `quotas`, `concurrency` and `targets`, so may one mapping.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

from fastgate.model import gateway as g
from fastgate.model.auth import EVERY_METHOD, METHODS
from fastgate.model.base import Model
from fastgate.model.policy import QuotaPeriod

PERIODS = get_args(QuotaPeriod)


class Short(NamedTuple):
    """One short form of a struct."""

    kinds: tuple[type, ...]
    """The type of the short form (bool does not count as int)."""
    expand: Callable[[Any], dict[str, Any]]
    """The conversion to the full form."""
    schema: dict[str, Any]
    """Its JSON Schema."""
    meaning: str
    """The text for the reference."""


def _text(name: str, meaning: str, **more: Any) -> Short:
    return Short((str,), lambda value: {name: value}, {"type": "string", **more}, meaning)


def _number(name: str, meaning: str) -> Short:
    return Short((int,), lambda value: {name: value}, {"type": "integer"}, meaning)


def _listener(bind: str) -> dict[str, Any]:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", bind).strip("-._")[:56]
    return {"name": name or "public", "bind": bind}


_DEFAULTS = ("api_key", "basic", "signature", "hmac")
"""The methods of authentication that need nothing to be said."""
_NEEDED = {
    "jwt": "{jwt: ISSUER}",
    "introspection": "{introspection: ISSUER}",
    "mtls": "{mtls: AUTHORITY}",
    "forward": "{forward: {upstream: UPSTREAM, path: PATH}}",
}
"""What the others need, as it is written."""


def _auth(word: str) -> dict[str, Any]:
    return {} if word == "none" else _method(word)


def _method(word: str) -> dict[str, Any]:
    if word in _DEFAULTS:
        return {word: {}}
    if word in _NEEDED:
        raise ValueError(f"{word} needs more: `{_NEEDED[word]}`")
    raise ValueError(
        f"{word!r} is not a way to authenticate; write none, {', '.join(_DEFAULTS)} or a mapping"
    )


def _methods(struct: type[Model], value: dict[str, Any]) -> dict[str, Any]:
    """Methods without a value: they have their defaults, and never mean "open"."""
    for word in METHODS:
        if value.get(word, 0) is None:
            value = {**value, **_method(word)}
    for several in ("any", "all"):
        if struct is g.Auth and value.get(several, 0) in (None, []):
            raise ValueError(f"{several}: list the methods, such as `{several}: [api_key]`")
    return value


def _scopes(value: Any) -> Any:
    """Scopes by HTTP method."""
    return {EVERY_METHOD: value} if isinstance(value, str | list) else value


def _validate(text: str) -> dict[str, Any]:
    return {} if text == "none" else {"openapi": text}


def _quota(text: str) -> dict[str, Any]:
    match = re.fullmatch(rf"\s*(\d{{1,13}})\s*/\s*({'|'.join(PERIODS)})\s*", text, re.A)
    if match is None:
        raise ValueError(
            f"{text!r} is not a quota such as '100000/month'; periods are {', '.join(PERIODS)}"
        )
    return {"requests": int(match[1]), "period": match[2]}


def _predicate(text: str) -> dict[str, Any]:
    if text == "*":
        return {"present": True}
    if text.endswith("*"):
        return {"prefix": text[:-1]}
    return {"equals": text}


def _listener_tls(on: bool) -> dict[str, Any]:
    if not on:
        raise ValueError("leave `tls` out for a listener without TLS")
    return {}


_STRINGS = {"type": "array", "items": {"type": "string"}}


def _texts(name: str, one: str) -> tuple[Short, Short]:
    return (
        Short((str,), lambda value: {name: [value]}, {"type": "string"}, one),
        Short((list,), lambda value: {name: value}, _STRINGS, f"the `{name}`"),
    )


_MAINTENANCE = (
    Short(
        (bool,), lambda value: {"enabled": value}, {"type": "boolean"}, "whether it is `enabled`"
    ),
    _text("message", "the `message`"),
)

SHORT: dict[type[Model], tuple[Short, ...]] = {
    g.Listener: (
        Short((str,), _listener, {"type": "string"}, "the address; the name is made from it"),
    ),
    g.ListenerTls: (
        Short(
            (bool,),
            _listener_tls,
            {"enum": [True]},
            "TLS with all configured certificates, if it is `true`",
        ),
    ),
    g.ConnectionLimit: (_number("max", "the `max`"),),
    g.HandshakeLimit: (_text("rate", "the `rate`", examples=["20/s"]),),
    g.Hsts: (_text("max_age", "the `max_age`", examples=["180d"]),),
    g.ListenerClient: _texts("authorities", "one authority"),
    g.ClientCertificate: _texts("authorities", "one authority"),
    g.ControlTls: (_text("certificate", "the `certificate`"),),
    g.Target: (_text("url", "the `url`"),),
    g.Health: (_text("path", "the `path`"),),
    g.KeepAlive: (_number("max", "the `max`"),),
    g.Sticky: (_text("cookie", "the `cookie`"),),
    g.Split: (
        Short(
            (list,),
            lambda value: {"to": value},
            {"type": "array", "items": {"$ref": "#/$defs/SplitService"}},
            "the services, `to`",
        ),
    ),
    g.SplitCookie: (_text("cookie", "the `cookie`"),),
    g.Mirror: (_text("service", "the `service`"),),
    g.Retries: (_number("attempts", "the `attempts`"),),
    g.Respond: (
        _number("status", "the `status`, no body"),
        _text("body", "the `body`, status 200"),
    ),
    g.Redirect: (_text("to", "where `to`"),),
    g.Auth: (
        Short(
            (str,),
            _auth,
            {"enum": ["none", *_DEFAULTS]},
            f"`none`, or a method with its defaults: `{'`, `'.join(_DEFAULTS)}`",
        ),
    ),
    g.AuthMethod: (Short((str,), _method, {"enum": [*_DEFAULTS]}, "the method with its defaults"),),
    g.JwtAuth: _texts("issuer", "one issuer"),
    g.IntrospectionAuth: (_text("issuer", "the `issuer`"),),
    g.MtlsAuth: _texts("authorities", "one authority"),
    g.BasicAuth: (_text("realm", "the `realm`"),),
    g.ForwardAuth: (_text("url", "the `url`"),),
    g.TokenPlan: (_text("default", "the `default`"),),
    g.Validate: (
        Short(
            (str,),
            _validate,
            {"type": "string", "examples": ["openapi.yaml", "none"]},
            "the path of the `openapi` file; `none`: no validation",
        ),
    ),
    g.ApiKeyAuth: (_text("header", "the `header`"),),
    g.Limit: (_text("rate", "the `rate`, by consumer", examples=["50/s"]),),
    g.LimitOverride: (_text("rate", "the `rate`", examples=["500/s"]),),
    g.Quota: (
        Short(
            (str,),
            _quota,
            {"type": "string", "examples": ["100000/month"]},
            "`<requests>/<period>`, by consumer",
        ),
    ),
    g.Concurrency: (_number("max", "the `max`; by route or service if written there"),),
    g.Cors: (
        Short((str,), lambda value: {"origins": [value]}, {"type": "string"}, "one origin"),
        Short((list,), lambda value: {"origins": value}, _STRINGS, "the `origins`"),
    ),
    g.Addresses: (
        Short((str,), lambda value: {"allow": [value]}, {"type": "string"}, "one to allow"),
        Short((list,), lambda value: {"allow": value}, _STRINGS, "those to `allow`"),
    ),
    g.Predicate: (
        Short(
            (str,),
            _predicate,
            {"type": "string"},
            '`"v2"`: equals; `"v2*"`: begins with; `"*"`: present',
        ),
    ),
    g.Control: (_text("bind", "the `bind`"),),
    g.Store: (_text("url", "the `url`"),),
    g.AccessLog: (_text("to", "the `to`"),),
    g.ProblemBody: (_text("body", "the `body`"),),
    g.Maintenance: _MAINTENANCE,
    g.GatewayMaintenance: _MAINTENANCE,
    g.Metrics: (
        Short((bool,), lambda value: {"enabled": value}, {"type": "boolean"}, "`enabled`"),
    ),
    g.Price: (_text("per_request", "the price of a request"),),
    g.SpendingLimit: (_text("amount", "the `amount`, by month", examples=["100 USD"]),),
    g.Consumer: (_text("name", "the `name`"),),
}
"""The short forms by struct. Other structs are always written in full."""

CONCURRENCY = "concurrency"
ONE_MAPPING = frozenset({"limits", "quotas", CONCURRENCY, "targets"})
"""List fields for which one mapping may be written."""


def concurrency_of(owner: type[Model], value: Any) -> Any:
    """`concurrency: 100` on a route or service counts all its requests, not those per consumer."""
    scope = {g.Route: "route", g.Service: "service"}.get(owner)
    if scope is not None and isinstance(value, int) and not isinstance(value, bool):
        return {"max": value, "by": [scope]}
    return value


def expand_one(struct: type[Model], value: Any) -> Any:
    """`value` in the full form of `struct`, if it is in one of its short forms."""
    if not isinstance(value, dict):
        for short in SHORT.get(struct, ()):
            if isinstance(value, short.kinds) and (type(value) is not bool or bool in short.kinds):
                return short.expand(value)
        return value
    if struct in (g.Auth, g.AuthMethod):
        value = _methods(struct, value)
    if struct in _WITH_SCOPES and "scopes" in value:
        return {**value, "scopes": _scopes(value["scopes"])}
    if struct is g.Listener and value.get("tls", 0) is None:
        # Likewise, "tls:" without a value must not mean "in clear".
        value = {**value, "tls": {}}
    if struct is g.Listener and isinstance(value.get("proxy_protocol"), bool):
        raise ValueError(
            "proxy_protocol: list who may send the header, such as `[10.0.0.0/8]`: it says who "
            "the client is, so nobody else may send one"
        )
    if struct in _WITH_VERSION and type(version := value.get("min")) is float:
        return {**value, "min": str(version)}
    statuses = _STATUSES.get(struct)
    if statuses is not None and statuses in value:
        return {**value, statuses: _statuses(value[statuses])}
    return value


_WITH_SCOPES = frozenset({g.Auth, g.JwtAuth, g.IntrospectionAuth})
"""Structs whose `scopes` are by HTTP method."""

_WITH_VERSION = frozenset({g.ListenerTls, g.UpstreamTls})
"""Structs whose `min` is a version of TLS, which people write as a number: `1.3`."""

_STATUSES: dict[type[Model], str] = {
    g.Health: "expect",
    g.Eject: "statuses",
    g.Retries: "statuses",
}


def _statuses(value: Any) -> Any:
    """Statuses as texts: people write `304` and `2xx` side by side."""
    listed = value if isinstance(value, list) else [value]
    return [str(one) if type(one) is int else one for one in listed]
