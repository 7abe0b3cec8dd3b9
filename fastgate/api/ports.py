"""What the control API needs from the control process, as a protocol.

`fastgate.runtime.control.control` implements it; the API and its tests know nothing else about the
processes. Everything here is called on the control process's event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from fastgate.model.gateway import Gateway

if TYPE_CHECKING:
    from fastgate.api.billing_api import BillingApi
    from fastgate.billing.diagnosis.evidence import Evidence


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, as the shared segment shows it."""

    index: int
    pid: int  # 0: not running
    state: str  # starting | serving | draining | down
    generation: int
    connections: int
    in_flight: int
    upstream_idle: int
    starts: int
    heartbeat_age: float  # seconds since the worker's last heartbeat
    memory: int  # bytes, PSS; 0 if it cannot be read


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the gateway serves the newest generation; `reasons`: why not, or which workers
    are missing."""

    ready: bool
    generation: int
    reasons: list[str]


class LimitUse(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of one limit for one consumer."""

    limit: str
    kind: str  # rate | quota | concurrency
    by: list[str]
    amount: int
    used: int
    remaining: int
    resets_at: int  # Unix seconds
    route: str | None = None
    own: bool = False  # the numbers are the consumer's own


class RouteUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one route has served since the counters began (they survive reloads and workers)."""

    route: str
    requests: int
    statuses: dict[str, int]  # by class ("2xx") or exact status, as the counters have them
    refused: dict[str, int]  # by reason
    bytes_in: int
    bytes_out: int


class CertificateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate of the configuration."""

    name: str
    source: str  # where it is from: path:…, env:…, or "acme: NAME"
    state: str  # valid | expiring | expired | not_yet_valid | pending (not issued yet)
    hosts: list[str]
    key_type: str | None = None  # "ECDSA P-256", "RSA 2048", "Ed25519"
    subject: str | None = None
    issuer: str | None = None
    not_before: int | None = None  # Unix seconds
    not_after: int | None = None
    fingerprint: str | None = None  # SHA-256, hex
    used_by: list[str]  # "listener public", "upstream orders", "control"
    # Why the current files cannot be used (the last good ones are), or why it was not issued.
    problem: str | None = None
    ordering: bool = False  # whether one is being ordered from an ACME authority now
    renews: int | None = None  # Unix seconds: when one is ordered next
    next_attempt: int | None = None  # the same, after an attempt that failed


class IssuerKeyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One key of an issuer of tokens."""

    kid: str  # "": it has none
    kind: str  # "RSA 2048", "ECDSA P-256", "Ed25519", "secret"
    algorithms: list[str]  # that it may verify, as its issuer says
    since: int | None = None  # Unix seconds: when it was first seen


class IssuerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One issuer of tokens of the configuration."""

    name: str
    issuer: str  # `iss` of its tokens
    source: str  # of its keys: "discovery", an address, path:…, env:…
    # ok | stale (the last fetch failed, or the file cannot be used; the last good keys are) |
    # missing (no keys are known, so all its tokens are refused)
    state: str
    keys: list[IssuerKeyStatus]
    jwks_uri: str | None = None  # where its keys were fetched
    introspection: str | None = None  # where it is asked about tokens
    fetched: int | None = None  # Unix seconds: the last good fetch
    next_fetch: int | None = None
    failures: int = 0  # fetches in a row
    problem: str | None = None  # of the last fetch or reading
    notes: list[str] = []  # keys that are not used, and why


class ControlPort(Protocol):
    """The control process, as the API sees it."""

    @property
    def gateway(self) -> Gateway:
        """The configuration that is served now."""

    @property
    def generation(self) -> int:
        """The newest published generation; 0 before the first."""

    async def apply(self, gateway: Gateway, *, dry_run: bool = False) -> int:
        """Compile, publish, and return the generation when every worker serves it.

        Raises `fastgate.errors.ConfigurationError`; then the old generation continues serving.
        With dry_run, compiles only and returns the generation it would have been.
        """

    async def load_file(self) -> Gateway:
        """Read the configuration file again, without applying it.

        Raises `fastgate.errors.ConfigurationError`, also when the gateway has no file.
        """

    @property
    def file_before(self) -> Gateway | None:
        """The text of the file when it was last applied; None if there is no file."""

    def pending_restart(self, gateway: Gateway) -> list[str]:
        """The settings of a configuration that take effect at the next start of the gateway."""

    def workers(self) -> list[WorkerStatus]: ...

    def readiness(self) -> Readiness: ...

    def metrics(self) -> bytes:
        """The Prometheus text exposition."""

    def request(self, request_id: str) -> dict[str, Any] | None:
        """A recent request by its id (32 hex digits), phase by phase; None if it is not kept."""

    def recent_requests(self, limit: int) -> list[dict[str, Any]]: ...

    def limits_of(self, consumer_id: str, plan: str | None) -> list[LimitUse]:
        """Rate limits and quotas counted by this consumer, now. Reads the shared cells."""

    def usage(self) -> list[RouteUse]:
        """What each route has served, by name; routes without a row of their own as "other"."""

    def certificates(self) -> list[CertificateStatus]:
        """The certificates of the configuration, in its order."""

    async def renew_certificate(self, name: str, *, wait: bool) -> None:
        """Order a new certificate from its ACME authority now. `wait`: until it is there. Raises
        NotFoundError for a name that is not ordered; FastGateError if it cannot be or, with
        `wait`, was not issued."""

    def issuers(self) -> list[IssuerStatus]:
        """The issuers of tokens of the configuration, in its order."""

    async def refresh_issuer(self, name: str) -> None:
        """Fetch the keys of an issuer now. Raises NotFoundError for one whose keys are not fetched;
        FastGateError if it fails, then the last good keys stay in use."""

    @property
    def billing(self) -> BillingApi | None:
        """The billing services; None while nothing costs money."""

    def evidence(self) -> Evidence:
        """What a diagnosis looks at."""

    async def drain(self) -> None:
        """Begin the graceful end of the whole gateway, as SIGTERM does."""
