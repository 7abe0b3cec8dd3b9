# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Routes: which requests match, what they need, and where they go.

A request is matched by host, then path, then method, then predicates, then priority; see
`docs/routing.md` for the precedence. A route has one of four actions: a service (forwarded), a
handler (Python), a fixed response, or a redirect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec.structs import replace

from fastgate.model.auth import Auth
from fastgate.model.base import LINK, FieldValue, Model, Name, Token, only_one, worded
from fastgate.model.match import Match
from fastgate.model.paths import (
    check_host,
    check_methods,
    check_path,
    check_rewritten,
    literal_prefix,
    segment_patterns,
    shape_of,
)
from fastgate.model.policy import (
    Addresses,
    Cors,
    HeaderRules,
    Headers,
    Rules,
)
from fastgate.model.tls import ClientCertificate
from fastgate.model.traffic import FaultInjection, Maintenance, Mirror, Split
from fastgate.model.units import Duration, Money, Size
from fastgate.model.url_template import Piece, redirect_pieces, rewrite_pieces
from fastgate.model.validation import Validate
from fastgate.model.values import Moment
from fastgate.model.x402 import X402

MAX_HEADERS = 100
"""Of a fixed response."""
MAX_PATHS = 64
"""Of a route."""
MAX_TEMPLATE = 2048
"""Maximum characters of a template for a path or a Location."""
KINDS = ("service", "handler", "respond", "redirect")
"""The actions of routes."""
PathPattern = Annotated[str, Meta(pattern=worded(r"^/", "a path that begins with '/'"))]


class Respond(Model, frozen=True, kw_only=True):
    """A fixed response, stored in the snapshot."""

    status: Annotated[int, Meta(ge=200, le=599, description="Its status.")] = 200
    headers: Annotated[dict[Token, FieldValue], Meta(description="Its header fields.")] = {}
    body: Annotated[
        Annotated[str, Meta(max_length=1 << 20)] | None,
        Meta(description="Its body as text. Content-Type is text/plain unless `headers` says."),
    ] = None
    json: Annotated[
        Any,
        Meta(description="Its body as data, sent as application/json. Not together with `body`."),
    ] = None

    def __post_init__(self) -> None:
        if self.body is not None and self.json is not None:
            raise ValueError("give body or json, not both")
        if self.status in (204, 304) and (self.body or self.json is not None):
            raise ValueError(f"a {self.status} response has no body")
        if len(self.headers) > MAX_HEADERS:
            raise ValueError(f"headers: {MAX_HEADERS} is the most")
        for name in self.headers:
            if name.lower() in ("content-length", "transfer-encoding", "connection", "date"):
                raise ValueError(f"headers: {name!r} is set by the gateway")


class Redirect(Model, frozen=True, kw_only=True):
    """A redirect of the client to another URL."""

    to: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_TEMPLATE,
            description="Sent as `Location`: a path (`/new/{id}`, on the same host) or a URL "
            "(`https://{host}/new/{id}`). `{name}` is a parameter of the route's path, `{host}` "
            "the host that was called, without port, `{scheme}` http or https, `{path}` the whole "
            "path.",
        ),
    ]
    status: Annotated[
        Literal[301, 302, 303, 307, 308],
        Meta(
            description="Its status. 301 and 308 are permanent: clients keep them. 307 and 308 "
            "keep method and body; after 303, and mostly after 301 and 302, a POST becomes a GET."
        ),
    ] = 307
    keep_query: Annotated[
        bool,
        Meta(
            description="Whether the request's query is appended, but for a parameter that holds "
            "an API key."
        ),
    ] = True


class Rewrite(Model, frozen=True, kw_only=True):
    """Changes of the path on its way to the upstream."""

    path: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(r"^/", "a path that begins with '/'"),
                max_length=MAX_TEMPLATE,
            ),
        ]
        | None,
        Meta(
            description="The whole path instead, with parameters of the route's path: "
            "`/v2/orders/{rest}?user={id}`. The request's query follows it. Not together with the "
            "others.",
        ),
    ] = None
    strip_prefix: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^/[^?#\s]*$", "a path that begins with '/', without spaces, '?' or '#'"
                )
            ),
        ]
        | None,
        Meta(
            description="Taken off the front of the path; must be a literal beginning of the "
            "route's `path`, or of each of its `paths`.",
        ),
    ] = None
    replace_prefix: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^/[^?#\s]*$", "a path that begins with '/', without spaces, '?' or '#'"
                )
            ),
        ]
        | None,
        Meta(
            description="Put in front of what is left. Without `strip_prefix`: in front of all.",
        ),
    ] = None

    def __post_init__(self) -> None:
        prefixes = self.strip_prefix is not None or self.replace_prefix is not None
        if self.path is not None and prefixes:
            raise ValueError(
                "path: it is the whole path; leave out strip_prefix and replace_prefix"
            )
        if self.path is None and not prefixes:
            raise ValueError("give path, or strip_prefix, replace_prefix or both")


class Route(Rules, frozen=True, kw_only=True):
    """Which requests match, what they need, and where they go."""

    name: Annotated[
        Name, Meta(description="Its name in metrics, logs and errors; counts belong to it.")
    ]
    hosts: Annotated[
        list[str],
        Meta(
            description="Hosts it answers for: `api.example.com`, `*.example.com` (one or more "
            "labels in front). Empty: any."
        ),
    ] = []
    methods: Annotated[
        list[Token], Meta(description="Methods it takes. Empty: any but CONNECT.")
    ] = []
    path: Annotated[
        PathPattern | None,
        Meta(
            description="Its path: literal segments, `{name}` for one segment, "
            "`{name:pattern}` for one that matches a regular expression, such as `{id:[0-9]+}`, "
            "`{name*}` at the end for all the rest, also an empty one.",
        ),
    ] = None
    paths: Annotated[
        list[PathPattern],
        Meta(
            max_length=MAX_PATHS,
            description="Several paths instead: it is one route, which is counted, limited and "
            "measured once, whichever path a request has.",
        ),
    ] = []
    match: Annotated[
        Match | None, Meta(description="Further conditions: headers and query parameters.")
    ] = None
    priority: Annotated[
        int,
        Meta(
            ge=-1_000_000,
            le=1_000_000,
            description="Among routes that match equally well, the higher goes first.",
        ),
    ] = 0
    service: Annotated[str | None, Meta(description="The service it forwards to, by name.")] = None
    split: Annotated[
        Split | None,
        Meta(
            description="Other services that get part of its requests, for canary releases and "
            "A/B tests. Default: none."
        ),
    ] = None
    mirror: Annotated[
        Mirror | None,
        Meta(description="Another service that gets copies of its requests. Default: none."),
    ] = None
    handler: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", "a handler, 'package.module:function'"
                )
            ),
        ]
        | None,
        Meta(
            description="A Python handler instead: `package.module:function`.",
        ),
    ] = None
    respond: Annotated[Respond | None, Meta(description="A fixed response instead.")] = None
    redirect: Annotated[Redirect | None, Meta(description="A redirect instead.")] = None
    rewrite: Annotated[
        Rewrite | None, Meta(description="Changes of the path on its way to the upstream.")
    ] = None
    auth: Annotated[
        Auth,
        Meta(
            description="What a caller must send to prove who it is: `api_key`, `{jwt: ISSUER}`, "
            "`{any: [api_key, {jwt: ISSUER}]}`, or `none` for nothing."
        ),
    ] = Auth()
    client_certificate: Annotated[
        ClientCertificate | None,
        Meta(
            description="The client certificate that a caller must present, on listeners with TLS, "
            "beside what `auth` asks for. Default: none is needed."
        ),
    ] = None
    policies: Annotated[list[str], Meta(description="Policies that apply to it, by name.")] = []
    default_policies: Annotated[
        bool, Meta(description="Whether the gateway's `default_policies` apply to it.")
    ] = True
    maintenance: Annotated[
        Maintenance | None,
        Meta(description="Whether it is closed for maintenance: `true`, or with a message."),
    ] = None
    fault: Annotated[
        FaultInjection | None,
        Meta(description="Faults that are injected on purpose, for tests. Default: none."),
    ] = None
    price: Annotated[
        Money | None,
        Meta(
            description="What a request costs, unless the caller's plan has a price for requests."
        ),
    ] = None
    charge_abandoned: Annotated[
        bool,
        Meta(
            description="Whether a client that leaves before the answer begins owes the price, "
            "once the upstream or the handler has all of the request (with `x402`, its payment is "
            "settled). Where the caller's plan has a price for requests, the plan's setting holds."
        ),
    ] = True
    x402: Annotated[
        X402 | None,
        Meta(description="Payment with each request, by x402 (needs the extra `x402`)."),
    ] = None
    addresses: Annotated[
        Addresses | None, Meta(description="Who may call, by network address.")
    ] = None
    cors: Annotated[Cors | None, Meta(description="Cross-origin access by browsers.")] = None
    headers: Annotated[Headers, Meta(description="Header rules.")] = Headers()
    max_body: Annotated[
        Size | None,
        Meta(
            description="The largest request body it takes (413 beyond); 0: any size, which a "
            "handler cannot have. Default: the policies', then caps'."
        ),
    ] = None
    validate: Annotated[
        Validate | None,
        Meta(
            description="Validation of requests against an API's description; `none`: none. "
            "Default: that of its policies, its service, or the service's policies."
        ),
    ] = None
    timeout: Annotated[
        Duration | None,
        Meta(
            description="From the request's last byte to the response's head (504 beyond); for a "
            "handler, to the start of its answer. Default: the service's; for a handler, none."
        ),
    ] = None
    deadline: Annotated[
        Duration | None,
        Meta(
            description="From the request's first byte to the response's last, however much "
            "progress it makes, over all attempts: 504 `deadline_exceeded` beyond, or the response "
            "is broken off. Not for upgraded connections. Default: none."
        ),
    ] = None
    importance: Annotated[
        Literal["low", "normal", "high"],
        Meta(
            description="With `shedding`: requests of `low` importance are refused from the mark "
            "on, those of `normal` from twice the mark, those of `high` never."
        ),
    ] = "normal"
    idle_timeout: Annotated[
        Duration | None,
        Meta(
            description="Between two pieces of the response's body; in a tunnel, between two "
            "pieces in either direction. Beyond it the answer is broken off, the tunnel closed. "
            "Default: the service's."
        ),
    ] = None
    websocket: Annotated[
        bool, Meta(description="Let requests upgrade to WebSocket; then bytes are tunnelled.")
    ] = False
    preserve_host: Annotated[
        bool, Meta(description="Forward the client's Host instead of the target's own.")
    ] = False
    encoded_slash: Annotated[
        bool,
        Meta(description="Take `%2f`, `%5c` and backslash in the path, which are refused else."),
    ] = False
    limit_headers: Annotated[
        bool | None,
        Meta(
            description="Send RateLimit and RateLimit-Policy on successes too. Default: what "
            "`headers.rate_limits` says for all routes."
        ),
    ] = None
    deprecated: Annotated[
        Moment | None,
        Meta(description="Since when it is deprecated; sent as `Deprecation` (RFC 9745)."),
    ] = None
    sunset: Annotated[
        Moment | None,
        Meta(description="When it will go away; sent as `Sunset` (RFC 8594)."),
    ] = None
    notice: Annotated[
        Annotated[str, Meta(pattern=LINK)] | None,
        Meta(description="A page about the deprecation; sent as `Link` with its relation."),
    ] = None
    retired: Annotated[
        bool, Meta(description="Gone for good: answered with 410 `route_retired`.")
    ] = False
    openai_errors: Annotated[
        bool,
        Meta(
            description="Whether refusals also have the `error` member of OpenAI's API, whose "
            "`message` is all that its clients show."
        ),
    ] = False
    log: Annotated[
        bool, Meta(description="Whether its requests are written to the access log.")
    ] = True

    def __post_init__(self) -> None:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if not (self.retired and not kinds):
            only_one(f"a route has exactly one of {', '.join(KINDS)}", kinds)
        given = [name for name in ("path", "paths") if getattr(self, name)]
        only_one("a route has exactly one of path, paths", given)
        if len(set(self.paths)) != len(self.paths):
            raise ValueError("paths: the same path is there twice")
        for number, path in enumerate(self.written):
            try:
                check_path(path, encoded_slash=self.encoded_slash)
            except ValueError as error:
                said = str(error).removeprefix("path")
                raise ValueError(f"{self.place_of(number)}{said}") from None
        if self.x402 is not None:
            self._check_x402()
        for host in self.hosts:
            check_host(host)
        check_methods(self.methods)
        if "CONNECT" in self.methods:
            raise ValueError("methods: CONNECT is never routed")
        if self.rewrite is not None:
            if self.service is None and not self.retired:
                raise ValueError("rewrite: only a route with a service forwards a path")
            check_rewritten(self.rewrite.replace_prefix or "")
            self._check_strip(self.rewrite.strip_prefix)
        self._check_templates()
        if self.deprecated and self.sunset and self.sunset.unix < self.deprecated.unix:
            raise ValueError("sunset: not before deprecated")

        self._check_deadline()
        self._check_unused()
        self._check_services()

    @property
    def written(self) -> tuple[str, ...]:
        """Its paths, in the order of the document."""
        return tuple(self.paths) if self.path is None else (self.path,)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The shapes of its paths: a parameter's own pattern is left out (`segments`)."""
        return tuple(map(shape_of, self.written))

    def segments(self, number: int) -> tuple[tuple[int, str], ...]:
        """What the path with this number asks of its segments: their numbers, and patterns."""
        return segment_patterns(self.written[number])

    def place_of(self, number: int) -> str:
        """The place of the path with this number in the route: `path`, `paths[1]`."""
        return f"paths[{number}]" if self.path is None else "path"

    def _check_strip(self, strip: str | None) -> None:
        for path in self.patterns:
            literal = literal_prefix(path)
            if strip is not None and not literal.startswith(strip):
                raise ValueError(
                    f"rewrite.strip_prefix: {strip!r} is not a literal beginning of the path "
                    f"{path!r} ({literal!r} is its longest)"
                )

    @property
    def rewritten(self) -> list[Piece]:
        """The pieces of the target that is forwarded; none: `rewrite` has no `path`."""
        if self.rewrite is None or self.rewrite.path is None:
            return []
        return rewrite_pieces(self.rewrite.path, self.patterns)

    @property
    def location(self) -> list[Piece]:
        """The pieces of Location; none: it is not a redirect."""
        if self.redirect is None:
            return []
        return redirect_pieces(self.redirect.to, self.patterns, self.redirect.keep_query)

    def _check_templates(self) -> None:
        for place, pieces in (("rewrite.path", "rewritten"), ("redirect.to", "location")):
            try:
                getattr(self, pieces)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None

    def _check_unused(self) -> None:
        """Raise for settings of the route that would have no effect."""
        if self.retired or self.service is not None:
            return
        for name in ("split", "mirror"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: only a route with a service forwards requests")
        for name in ("preserve_host", "websocket"):
            if getattr(self, name):
                raise ValueError(f"{name}: only a route with a service forwards requests")
        if self.client_certificate is not None and self.client_certificate.forward:
            raise ValueError(
                "client_certificate.forward: only a route with a service forwards requests"
            )
        if self.idle_timeout is not None:
            raise ValueError("idle_timeout: only a route with a service waits for an upstream")
        if self.handler is None:
            kind = "a fixed response" if self.redirect is None else "a redirect"
            for name in ("timeout", "deadline"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: {kind} takes no time; leave it out")
            if self.headers.request != HeaderRules():
                raise ValueError(f"headers.request: {kind} forwards no request")

    def _check_deadline(self) -> None:
        if self.deadline is None or self.timeout is None:
            return
        if self.timeout.ns > self.deadline.ns:
            raise ValueError(
                f"timeout: {self.timeout} would never pass before the deadline of {self.deadline}"
            )

    def _check_services(self) -> None:
        for name in ("split", "mirror"):
            if self.x402 is not None and getattr(self, name) is not None:
                raise ValueError(f"{name}: not on a route that is paid for with x402")
        for number, each in enumerate([] if self.split is None else self.split.to):
            if each.service == self.service:
                raise ValueError(
                    f"split.to[{number}].service: {each.service!r} is the route's own service, "
                    "which gets what the others leave"
                )
        by_consumer = self.split is not None and self.split.sticky == "consumer"
        if by_consumer and not self.auth.identifies and not self.retired:
            raise ValueError(
                "split.sticky: this route does not identify the caller; add `auth: api_key`, or "
                "choose by address or cookie"
            )

    @property
    def services(self) -> list[str]:
        """All services that get requests of it, by name."""
        found = [] if self.service is None else [self.service]
        if self.split is not None:
            found += [each.service for each in self.split.to]
        if self.mirror is not None:
            found.append(self.mirror.service)
        return found

    @property
    def variants(self) -> tuple[Route, ...]:
        """What it is with each of its services: itself, and one for each entry of its split."""
        if self.split is None:
            return (self,)
        own = replace(self, split=None)
        return (own, *(replace(own, service=each.service) for each in self.split.to))

    def _check_x402(self) -> None:
        if self.service is None and not self.retired:
            raise ValueError("x402: only a route with a service is paid for with its requests")
        if self.price is not None:
            raise ValueError("x402: a request is paid for with x402 or has a price, not both")
        if self.websocket:
            raise ValueError("x402: a request that is paid for cannot upgrade to WebSocket")
        if self.deadline is not None:
            raise ValueError(
                "x402: an answer that was paid for is not broken off; leave out deadline"
            )
        if self.idle_timeout is not None:
            raise ValueError(
                "x402: `timeout` holds between two pieces of an answer that is paid for as well; "
                "leave out idle_timeout"
            )
