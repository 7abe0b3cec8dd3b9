# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Operation: listeners, caps, timeouts, control, store, observability."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from fastgate.errors import REASONS
from fastgate.model.base import Model, Name, worded
from fastgate.model.connections import ConnectionLimit, HandshakeLimit, check_announcers
from fastgate.model.places import Bind, TrustedPeer
from fastgate.model.store_url import StoreUrl
from fastgate.model.tls import ControlTls, ListenerTls
from fastgate.model.units import Duration, Size
from fastgate.model.values import KeyDigest
from fastgate.model.webhook import Webhook, check_webhooks

MAX_BODY = 32 * 1024
"""Maximum characters of one body of a refusal."""


def _d(text: str) -> Duration:
    return Duration.parse(text)


class Listener(Model, frozen=True, kw_only=True):
    """An address that clients connect to."""

    name: Annotated[Name, Meta(description="Its name in logs and metrics.")] = "public"
    bind: Annotated[
        Bind,
        Meta(description="`host:port`, `:port` for every IPv4 address, or `unix:/path`."),
    ]
    mode: Annotated[
        str,
        Meta(
            pattern=worded(r"^0?[0-7]{3}$", "permissions in octal such as '0660'"),
            description="Permissions of a Unix socket, in octal.",
        ),
    ] = "0660"
    backlog: Annotated[
        int, Meta(ge=1, le=65_535, description="Connections that may wait in the accept queue.")
    ] = 4096
    tls: Annotated[
        ListenerTls | None,
        Meta(description="Speak TLS here, with these certificates. Default: clear HTTP."),
    ] = None
    redirect: Annotated[
        Literal["https"] | None,
        Meta(
            description="`https`: serve nothing here, and redirect every request to the same "
            "address with `https` (308). Default: requests are served."
        ),
    ] = None
    https_port: Annotated[
        Annotated[int, Meta(ge=1, le=65_535)] | None,
        Meta(
            description="The port that `redirect: https` leads to. Default: 443 if a listener has "
            "TLS there, else the port of the listener with TLS."
        ),
    ] = None
    proxy_protocol: Annotated[
        list[TrustedPeer],
        Meta(
            description="Load balancers that begin each connection with a PROXY header (version 1 "
            "or 2), and so say who the client is: networks, addresses, and `unix` for peers on "
            "Unix sockets. Their connections must have one; those of others must not."
        ),
    ] = []
    connections: Annotated[
        ConnectionLimit | None,
        Meta(description="Connections that one client may have at once. Default: no limit."),
    ] = None
    handshakes: Annotated[
        HandshakeLimit | None,
        Meta(description="TLS handshakes that one client may begin. Default: no limit."),
    ] = None

    def __post_init__(self) -> None:
        if self.redirect is not None and self.tls is not None:
            raise ValueError("redirect: this listener has `tls`, so it cannot lead to https")
        if self.https_port is not None and self.redirect is None:
            raise ValueError("https_port: needs `redirect: https`")
        if self.handshakes is not None and self.tls is None:
            raise ValueError(
                "handshakes: this listener has no TLS; add `tls`, or limit `connections`"
            )
        check_announcers(self.bind, self.proxy_protocol)

    @property
    def permissions(self) -> int:
        """The mode as a number."""
        return int(self.mode, 8)


class GatewayHeaders(Model, frozen=True, kw_only=True):
    """What the gateway does with header fields on every route."""

    underscores: Annotated[
        Literal["drop", "reject", "allow"],
        Meta(
            description="Request fields with `_` in their name, which some servers confuse with "
            "`-`: drop the field, reject the request, or allow it."
        ),
    ] = "drop"
    server: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^[\x20-\x7e]{0,128}$",
                    "a header value of up to 128 printable ASCII characters",
                )
            ),
        ]
        | None,
        Meta(description="Value of `Server` on the gateway's own answers. Default: not sent."),
    ] = None
    via: Annotated[
        Name,
        Meta(
            description="This gateway's name in `Via`, by which it also recognizes its own "
            "requests. Give gateways in a chain different names."
        ),
    ] = "fastgate"
    max_loops: Annotated[
        int,
        Meta(
            ge=0,
            le=16,
            description="How often `Via` may already name this gateway; beyond that, 508.",
        ),
    ] = 2
    rate_limits: Annotated[
        bool, Meta(description="Send RateLimit and RateLimit-Policy on successes too.")
    ] = False


class Caps(Model, frozen=True, kw_only=True):
    """Bounds. Past one, the request is refused in a defined way."""

    line: Annotated[Size, Meta(description="Request line (414 beyond).")] = Size.parse("8KiB")
    head: Annotated[
        Size, Meta(description="All of a message's head (431 beyond); 1 to 64 KiB.")
    ] = Size.parse("16KiB")
    fields: Annotated[
        int, Meta(ge=8, le=128, description="Number of header fields (431 beyond).")
    ] = 100
    field: Annotated[Size, Meta(description="One header field (431 beyond).")] = Size.parse("8KiB")
    body: Annotated[
        Size,
        Meta(
            description="A request's body, if no route or policy sets a limit (413 beyond); 0: any "
            "size."
        ),
    ] = Size.parse("10MiB")
    requests: Annotated[
        int,
        Meta(ge=0, le=2**31, description="Requests on one connection before it is closed; 0: any."),
    ] = 0
    connections: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="The maximum number of client connections of one worker. Fewer if the "
            "limit of open files leaves no descriptors for their upstream connections.",
        ),
    ] = 100_000
    handshakes: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="TLS handshakes of clients in progress, at once in one worker. Beyond it, "
            "each new one ends the one that began first.",
        ),
    ] = 1024
    upcalls: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Requests in Python handlers that have not begun to answer, at once in one "
            "worker (503 beyond).",
        ),
    ] = 1024
    streams: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Python handlers that answer as a stream, at once in one worker (503 "
            "beyond). They do not count as `upcalls`.",
        ),
    ] = 10_000

    def __post_init__(self) -> None:
        for name in ("line", "head", "field"):
            size: Size = getattr(self, name)
            if not 512 <= size.bytes <= 65_536:
                raise ValueError(f"{name}: {size} is not from 512B to 64KiB")
        if self.line.bytes > self.head.bytes or self.field.bytes > self.head.bytes:
            raise ValueError("head: must have room for one line and one field of full size")


class Timeouts(Model, frozen=True, kw_only=True):
    """How long clients may take, and how slowly they may send and read."""

    handshake: Annotated[
        Duration,
        Meta(
            description="For the TLS handshake of a new connection, in all; before that, for its "
            "PROXY header. Beyond it the connection is closed."
        ),
    ] = _d("5s")
    head: Annotated[
        Duration,
        Meta(
            description="For a request's head, from its first byte (408 beyond). A new connection "
            "has the same time to send the first byte."
        ),
    ] = _d("10s")
    body: Annotated[
        Duration,
        Meta(
            description="Between two pieces of a request's body (408 beyond). It runs while the "
            "gateway waits for the client, not while the upstream takes nothing."
        ),
    ] = _d("30s")
    idle: Annotated[
        Duration, Meta(description="For the next request on a kept-alive connection.")
    ] = _d("75s")
    write: Annotated[
        Duration,
        Meta(
            description="For a client that does not read its answer. Beyond it the connection is "
            "reset."
        ),
    ] = _d("30s")
    min_rate: Annotated[
        Size,
        Meta(
            description="Minimum speed, in bytes per second, at which a body must arrive (else "
            "408) and an answer be read (else a reset), after five seconds of waiting for the "
            "client; 0: no minimum."
        ),
    ] = Size.parse("240B")

    def __post_init__(self) -> None:
        for name in ("handshake", "head", "body", "idle", "write"):
            value: Duration = getattr(self, name)
            if not 1_000_000 <= value.ns <= _d("1d").ns:
                raise ValueError(f"{name}: {value} is not from 1ms to 1d")


class Memory(Model, frozen=True, kw_only=True):
    """Sizes of the shared segment. Set at start; a reload does not change them."""

    limit_cells: Annotated[
        int,
        Meta(
            ge=1024,
            le=2**28,
            description="Rate-limit counters, 16 bytes each, rounded up to a power of two. Have "
            "twice as many as there are callers at one time.",
        ),
    ] = 1 << 18
    quota_cells: Annotated[
        int,
        Meta(ge=1024, le=2**28, description="Quota counters, 16 bytes each; as `limit_cells`."),
    ] = 1 << 17
    concurrency_cells: Annotated[
        int,
        Meta(
            ge=256,
            le=2**24,
            description="Counters of requests in progress, for each worker; up to half of them "
            "also for `connections` of listeners.",
        ),
    ] = 1 << 13
    targets: Annotated[
        int, Meta(ge=16, le=2**20, description="Upstream targets whose health is shared.")
    ] = 1024
    route_rows: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="Routes with their own metrics; the others are counted together.",
        ),
    ] = 256
    log_records: Annotated[
        int,
        Meta(
            ge=256,
            le=2**20,
            description="Records of 512 bytes in each worker's log ring, rounded up to a power of "
            "two. A full ring drops records and counts them.",
        ),
    ] = 8192


class ControlToken(Model, frozen=True, kw_only=True):
    """A token for the control API that the document brings along."""

    name: Annotated[Name, Meta(description="The owner's name; the author in revisions.")]
    role: Annotated[
        Literal["admin", "operator", "viewer"],
        Meta(
            description="`viewer` may read; `operator` may also apply, reload and drain; `admin` "
            "may also manage tokens."
        ),
    ] = "viewer"
    token: Annotated[
        KeyDigest,
        Meta(description="The token, from the environment or a file, or as `sha256:<hex>`."),
    ]


class Control(Model, frozen=True, kw_only=True):
    """The control API."""

    bind: Annotated[
        Bind,
        Meta(
            description="Where it listens: an address of this machine alone, or a Unix socket, or "
            "with `tls` any address."
        ),
    ] = Bind.parse("127.0.0.1:8081")
    tls: Annotated[
        ControlTls | None,
        Meta(description="Speak TLS there. Required for addresses that others can reach."),
    ] = None
    tokens: Annotated[
        list[ControlToken],
        Meta(description="Tokens besides the first admin token, which is made at first start."),
    ] = []
    metrics_open: Annotated[bool, Meta(description="Serve `/metrics` without a token.")] = True


class Store(Model, frozen=True, kw_only=True):
    """Where records are kept."""

    url: Annotated[
        StoreUrl | None,
        Meta(
            description="`sqlite:///path`, or `postgresql://user:password@host/database` with "
            "libpq's parameters (`?sslmode=verify-full&sslrootcert=…`), which needs "
            "`pip install 'fastgate[postgresql]'`. Default: a SQLite file in the state directory.",
        ),
    ] = None


SECRET_PARAMS = (
    "access_token", "api_key", "apikey", "auth", "client_secret", "code", "credential", "id_token",
    "jwt", "key", "passwd", "password", "refresh_token", "secret", "session", "sig", "signature",
    "token", "x-amz-credential", "x-amz-security-token", "x-amz-signature", "x-goog-credential",
    "x-goog-signature",
)  # fmt: skip
"""Common names of query parameters that contain credentials."""


class AccessLog(Model, frozen=True, kw_only=True):
    """The access log, written by the control process."""

    to: Annotated[
        str,
        Meta(
            min_length=1,
            description="`off`, `stdout`, `stderr`, or a file's path (SIGUSR1 reopens it).",
        ),
    ] = "off"
    format: Annotated[
        Literal["json", "combined"],
        Meta(
            description="`json`: one object per line; `combined`: the format of common web servers."
        ),
    ] = "json"
    phases: Annotated[
        bool,
        Meta(
            description="Whether a JSON line also says when each phase began. `fastgate explain` "
            "always shows it."
        ),
    ] = False
    query: Annotated[
        bool,
        Meta(
            description="Whether the query is logged too, without the parameters of `hide_params` "
            "and those from which API keys are read. It may contain personal data."
        ),
    ] = False
    hide_params: Annotated[
        list[
            Annotated[
                str,
                Meta(
                    pattern=worded(
                        r"^[\x21-\x25\x27-\x3c\x3e-\x7e]{1,64}$",
                        "the name of a query parameter: 1 to 64 visible ASCII characters other "
                        "than '&' and '='",
                    )
                ),
            ]
        ],
        Meta(
            max_length=64,
            description="Query parameters that are left out of the log, in any case and spelling. "
            "A list replaces the default one.",
        ),
    ] = field(default_factory=lambda: list(SECRET_PARAMS))


class Metrics(Model, frozen=True, kw_only=True):
    """Prometheus metrics, at `/metrics` of the control API."""

    enabled: Annotated[bool, Meta(description="Whether metrics are served.")] = True


class Observability(Model, frozen=True, kw_only=True):
    """What can be seen of the gateway."""

    access_log: Annotated[AccessLog, Meta(description="The access log.")] = AccessLog()
    metrics: Annotated[Metrics, Meta(description="Prometheus metrics.")] = Metrics()
    recent: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Finished requests kept for `fastgate explain`; 0: none.",
        ),
    ] = 10_000
    webhooks: Annotated[
        list[Webhook],
        Meta(
            description="Notices to operators by signed webhook: `certificate.expiring`, "
            "`certificate.failed`."
        ),
    ] = []

    def __post_init__(self) -> None:
        check_webhooks(self.webhooks)


ProblemText = Annotated[str, Meta(max_length=MAX_BODY)]


class ProblemBody(Model, frozen=True, kw_only=True):
    """What a refusal says instead of the gateway's own words; `{{name}}` stands for a member."""

    json: Annotated[
        Any, Meta(description="Data, sent as `application/json`, or with `content_type`.")
    ] = None
    html: Annotated[ProblemText | None, Meta(description="A page, for browsers.")] = None
    markdown: Annotated[ProblemText | None, Meta(description="Markdown, for agents.")] = None
    body: Annotated[
        ProblemText | None,
        Meta(
            description="A text for all clients, sent as `text/plain`, or with `content_type`. Not "
            "together with the others."
        ),
    ] = None
    content_type: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(; ?[a-z]+=[A-Za-z0-9._-]+)*$",
                    "a media type such as 'application/problem+json' or 'text/xml; charset=utf-8'",
                ),
                max_length=200,
            ),
        ]
        | None,
        Meta(description="The `Content-Type` of `json` or `body`."),
    ] = None

    def __post_init__(self) -> None:
        forms = [name for name in ("json", "html", "markdown") if getattr(self, name) is not None]
        if self.body is not None and forms:
            raise ValueError(f"body is for everyone; leave out {' and '.join(forms)}, or body")
        if self.body is None and not forms:
            raise ValueError("give json, html, markdown or body")
        if self.content_type is not None and self.json is None and self.body is None:
            raise ValueError("content_type: belongs to json or body")


class Problems(Model, frozen=True, kw_only=True):
    """The bodies of refusals."""

    base: Annotated[
        str,
        Meta(
            pattern=worded(
                r"^([A-Za-z][A-Za-z0-9+.-]*:|/)[\x21\x23-\x5b\x5d-\x7e]{0,512}$",
                "an address or a path that begins with '/', without spaces, quotes or backslashes",
            ),
            description="The beginning of a problem's `type`; the reason's code follows. Give the "
            "address of a page for each reason, `https://api.example.com/problems/`, so that "
            "types can be opened.",
        ),
    ] = "urn:fastgate:reason:"
    bodies: Annotated[
        dict[str, ProblemBody],
        Meta(
            description="Your own bodies, by reason (`rate_limited`), status (`404`) or class of "
            "statuses (`4xx`); the most specific one applies. A class does not include `402`: "
            "write `402`, or a reason. See [refusals](refusals.md#bodies-of-your-own)."
        ),
    ] = {}

    def __post_init__(self) -> None:
        known = {reason.code for reason in REASONS if reason.status}
        statuses = {str(reason.status) for reason in REASONS if reason.status}
        classes = {f"{status[0]}xx" for status in statuses}
        for key in self.bodies:
            if key not in known | statuses | classes:
                from difflib import get_close_matches  # for errors alone

                near = get_close_matches(key, known, 1)
                raise ValueError(
                    f"bodies: {key!r} is not a reason, status or class of statuses of a refusal"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
