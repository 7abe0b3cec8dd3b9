"""The control API over a fake control process, a real store and a real credential index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from fastgate._core.shared.credentials import CredentialIndex
from fastgate.api.app import create_app
from fastgate.api.auth import Tokens
from fastgate.api.billing_api import BillingApi
from fastgate.api.ports import (
    CertificateStatus,
    IssuerKeyStatus,
    IssuerStatus,
    LimitUse,
    Readiness,
    RouteUse,
    WorkerStatus,
)
from fastgate.billing.diagnosis.sources import Sources
from fastgate.config.revisions import Revisions
from fastgate.errors import ConfigurationError, NotFoundError, ProcessError
from fastgate.identity.identity import Identity
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway
from fastgate.store.engine import Store

CONFIG: dict[str, Any] = {
    "version": 1,
    "upstreams": [{"name": "orders", "targets": ["http://127.0.0.1:9000"]}],
    "services": [{"name": "orders", "upstream": "orders"}],
    "routes": [{"name": "read", "path": "/orders/{id}", "methods": ["GET"], "service": "orders"}],
    "plans": [{"name": "free", "limits": ["10/s"]}, {"name": "gold"}],
    "consumers": [{"name": "demo", "keys": ["demo-key-0123456789"], "plan": "free"}],
    "control": {"tokens": [{"name": "grafana", "role": "viewer", "token": "grafana-token-1"}]},
}


class FakeControl:
    """A control process without processes: keeps the contract of ControlPort on plain values."""

    def __init__(self, gateway: Gateway, identity: Identity) -> None:
        self.gateway = gateway
        self.generation = 1
        self.identity = identity
        self.file: Gateway | ConfigurationError = gateway
        self.applied_file = self.started_with = gateway
        self.refuse: Exception | None = None
        self.applied: list[Gateway] = []
        self.drained = False
        self.refreshed: list[str] = []
        self.renewed: list[tuple[str, bool]] = []
        self.reasons: list[str] = []
        self.requests: dict[str, dict[str, Any]] = {}
        self.billing: BillingApi | None = None
        self._configure()

    def _configure(self) -> None:
        slots = {plan.name: slot for slot, plan in enumerate(self.gateway.plans)}
        self.identity.configure(self.gateway, slots)

    async def apply(self, gateway: Gateway, *, dry_run: bool = False) -> int:
        if self.refuse is not None:
            raise self.refuse
        self.identity.check_plans(gateway)
        if dry_run:
            return self.generation + 1
        self.gateway = gateway
        if gateway is self.file:
            self.applied_file = gateway
        self.generation += 1
        self.applied.append(gateway)
        self._configure()
        return self.generation

    async def load_file(self) -> Gateway:
        if isinstance(self.file, ConfigurationError):
            raise self.file
        return self.file

    @property
    def file_before(self) -> Gateway | None:
        return self.applied_file

    def pending_restart(self, gateway: Gateway) -> list[str]:
        return ["workers"] if gateway.workers != self.started_with.workers else []

    def workers(self) -> list[WorkerStatus]:
        return [
            WorkerStatus(
                index=index,
                pid=4000 + index,
                state="serving",
                generation=self.generation,
                connections=3,
                in_flight=1,
                upstream_idle=2,
                starts=1,
                heartbeat_age=0.2,
                memory=9_000_000,
            )
            for index in range(2)
        ]

    def readiness(self) -> Readiness:
        return Readiness(
            ready=not self.reasons, generation=self.generation, reasons=list(self.reasons)
        )

    def metrics(self) -> bytes:
        return f"fastgate_generation {self.generation}\n".encode()

    def request(self, request_id: str) -> dict[str, Any] | None:
        return self.requests.get(request_id)

    def recent_requests(self, limit: int) -> list[dict[str, Any]]:
        return list(self.requests.values())[::-1][:limit]

    def limits_of(self, consumer_id: str, plan: str | None) -> list[LimitUse]:
        return [
            LimitUse(
                limit=f"{plan}-of-{consumer_id}",
                kind="rate",
                by=["consumer"],
                amount=20,
                used=5,
                remaining=15,
                resets_at=1_800_000_000,
            )
        ]

    def certificates(self) -> list[CertificateStatus]:
        return [
            CertificateStatus(
                name="api",
                source="path:/etc/fastgate/api.pem",
                state="valid",
                hosts=["api.example.com"],
                key_type="ECDSA P-256",
                subject="api.example.com",
                issuer="Test Root",
                not_before=1_790_000_000,
                not_after=1_800_000_000,
                fingerprint="ab" * 32,
                used_by=["listener public"],
            ),
            CertificateStatus(
                name="shop",
                source="acme: letsencrypt",
                state="pending",
                hosts=["shop.example.com"],
                used_by=[],
            ),
        ]

    async def renew_certificate(self, name: str, *, wait: bool) -> None:
        if name == "broken":
            raise ProcessError("letsencrypt refused the order.")
        if name != "shop":
            raise NotFoundError(f"There is no certificate {name!r} from an ACME authority.")
        self.renewed.append((name, wait))

    def issuers(self) -> list[IssuerStatus]:
        key = IssuerKeyStatus(kid="k1", kind="RSA 2048", algorithms=["RS256"], since=1_790_000_000)
        return [
            IssuerStatus(
                name="corp",
                issuer="https://id.example.com",
                source="discovery",
                state="ok",
                keys=[key],
                jwks_uri="https://id.example.com/keys",
                fetched=1_790_000_000,
                next_fetch=1_790_003_600,
            ),
            IssuerStatus(
                name="broken",
                issuer="https://broken.example.com",
                source="https://broken.example.com/keys",
                state="missing",
                keys=[],
                failures=3,
                problem="it answered 503",
                notes=["the key 'e' is for encryption"],
            ),
            IssuerStatus(
                name="svc", issuer="svc", source="path:/etc/svc.json", state="ok", keys=[key]
            ),
        ]

    async def refresh_issuer(self, name: str) -> None:
        if name == "broken":
            raise ProcessError("https://broken.example.com/keys: it answered 503")
        if name != "corp":
            raise NotFoundError(f"There is no issuer {name!r} whose keys are fetched.")
        self.refreshed.append(name)

    def usage(self) -> list[RouteUse]:
        return [
            RouteUse(
                route=route.name,
                requests=7,
                statuses={"2xx": 6, "4xx": 1},
                refused={"rate_limited": 1},
                bytes_in=100,
                bytes_out=1000,
            )
            for route in self.gateway.routes
        ]

    def evidence(self) -> Sources:
        return Sources(self.identity.directory, lambda: self.gateway, lambda asked: None)

    async def drain(self) -> None:
        self.drained = True


class World:
    """Everything of one test."""

    def __init__(self, store: Store, state: Path) -> None:
        self.store = store
        self.identity = Identity(CredentialIndex.create(64), cache=state / "credentials.cache")
        self.control = FakeControl(decode(CONFIG, Gateway), self.identity)
        self.identity.attach(store)
        self.revisions = Revisions(self.control, store)
        self.tokens = Tokens(self.control, store, state)
        path, _ = self.tokens.ensure_admin_token()
        self.admin = path.read_text().strip()
        self.app: Litestar = create_app(
            self.control,
            store=store,
            identity=self.identity,
            revisions=self.revisions,
            bearers=self.tokens,
        )

    def reason_for(self, key: str) -> int | None:
        """What a worker would say to the key: 0, the number of a reason, or None."""
        found = self.identity.index.find(key)
        return None if found is None else found.result


@pytest.fixture
async def world(sqlite_url: str, tmp_path: Path) -> AsyncIterator[World]:
    store = Store(sqlite_url)
    world = World(store, tmp_path)
    await store.connect()
    yield world
    await store.stop()


@pytest.fixture
async def api(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the admin's token."""
    transport = httpx.ASGITransport(world.app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        client.headers["authorization"] = f"Bearer {world.admin}"
        yield client


@pytest.fixture
async def as_role(world: World, api: httpx.AsyncClient) -> Callable[[str], Any]:
    """as_role(role): headers of a token with that role."""

    async def make(role: str) -> dict[str, str]:
        made = await api.post("/v1/tokens", json={"role": role, "label": f"a {role}"})
        assert made.status_code == 201, made.text
        return {"authorization": f"Bearer {made.json()['token']}"}

    return make
