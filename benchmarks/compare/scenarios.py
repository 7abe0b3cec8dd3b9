"""What is measured: a table. A scenario is one kind of load on a list of subjects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.compare.bearers import FastGateKey, FastGateToken, HAProxyToken, NginxToken
from benchmarks.compare.built import Caddy, Pingora
from benchmarks.compare.encryption import Tls
from benchmarks.compare.envoy import Envoy
from benchmarks.compare.gateway import FastGate
from benchmarks.compare.keyed import Keyed
from benchmarks.compare.nginx import GivenNginx, Nginx
from benchmarks.compare.peers import Direct, HAProxy, Relay
from benchmarks.compare.subjects import Subject
from benchmarks.compare.tokens import Tokens

MANY_ROUTES = 100_000
LIMITED, PAID = "fastgate-limited", "fastgate-paid"
ONE_ROUTE, ALL_ROUTES = "fastgate-1-route", f"fastgate-{MANY_ROUTES}-routes"

SUBJECTS: dict[str, Subject] = {
    s.name: s
    for s in (
        FastGate(),
        FastGate(policies=True),
        Nginx(),
        Nginx(policies=True),
        GivenNginx(),
        GivenNginx(policies=True),
        HAProxy(),
        HAProxy(policies=True),
        Envoy(),
        Envoy(policies=True),
        Pingora(),
        Caddy(),
        Relay(),
        Direct(),
        FastGate(unix=True),
        Nginx(unix=True),
        Relay(unix=True),
        FastGate(routes=1),
        FastGate(routes=MANY_ROUTES),
        Keyed(paid=False),
        Keyed(paid=True),
        FastGateKey(),
        FastGateToken(),
        HAProxyToken(),
        NginxToken(),
    )
}

POLICIES = ("fastgate-policies", "nginx-policies", "nginx-given-policies", "haproxy-policies",
            "envoy-policies")  # fmt: skip
PROXIES = ("fastgate", "fastgate-policies", "nginx", "nginx-policies", "nginx-given",
           "nginx-given-policies", "haproxy", "haproxy-policies", "envoy", "envoy-policies",
           "pingora", "caddy", "relay")  # fmt: skip

# With TLS: those that can be had on the system's libssl.
SECURE = ("fastgate", "nginx", "nginx-given", "haproxy")

# Who calls: by a key, by a token, and not asked for.
IDENTITY = ("fastgate", "fastgate-key", "fastgate-jwt", "haproxy", "haproxy-jwt", "nginx-jwt")

# The others may be slower by so much that half of what these can do would be overload for them.
SETS_THE_RATE = ("fastgate", "fastgate-policies", "nginx", "nginx-policies", "haproxy",
                 "haproxy-policies")  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """One kind of load.

    `closed` finds the saturation; `open` sends half of it at a constant rate, or `rate`. `reload`
    and `idle` have functions of their own in special.py, `paid` in paid.py, `sidecar` in
    sidecar.py, `flood` in flood.py, `identity` in identity.py. Where a few per cent are asked
    after, a round visits its subjects several times in turn.
    """

    name: str
    title: str
    subjects: tuple[str, ...]
    mode: Literal["closed", "open", "reload", "idle", "paid", "sidecar", "flood",
                  "identity"] = "closed"  # fmt: skip
    connections: int = 64
    body: int = 100  # bytes of the response's body
    request_body: int = 0  # bytes of the request's body: POST; 0: GET
    fresh: bool = False  # a connection for every request
    rate: float = 0.0  # `open`: requests/s, in place of half of the saturation; `identity`: too
    workers: int = 1
    key: bool = True  # whether requests carry the key
    setup: Mapping[str, Any] = field(default_factory=dict)  # fields of Setup that differ
    random_paths: int = 0  # so many routes' paths in place of /bytes/<body>
    turns: int = 1  # visits of each subject in a round; --quick: one
    window: float = math.inf  # seconds measured at a time, where the options say more
    quick: bool = True  # part of --quick
    tls: Tls | None = None  # how clients speak it
    tokens: Tokens | None = None  # `identity`: what requests carry
    upstream_tls: bool = False  # between the proxies and the backend
    expect: int = 200  # the status that the answers must have, all but a few
    ratios: tuple[tuple[str, str], ...] = ()  # CPU per request of the first over the second's


FLOOD_LIMIT: dict[str, Any] = {"rate": 1, "burst": 1}


def table() -> list[Scenario]:
    """All scenarios in the order in which they run; `open` ones need a saturation before them."""
    return [
        Scenario("saturation", "64 connections, 100 B, saturated", (*PROXIES, "direct"), turns=2),
        Scenario("half-load", "64 connections, 100 B, half load", (*PROXIES, "direct"), "open"),
        Scenario(
            "flood-401", "64 connections without a key, refused", POLICIES, key=False, expect=401
        ),
        Scenario(
            "flood-429", "64 connections over the limit", POLICIES, setup=FLOOD_LIMIT, expect=429
        ),
        Scenario(
            "paid", "a keyed route with a rate limit, and the same route paid", (LIMITED, PAID),
            "paid", turns=12,
        ),
        Scenario(
            "windows", "policies on, policies off and the bare relay, in half-second windows",
            ("fastgate-policies", "fastgate", "relay"), turns=42, window=0.5,
            ratios=(
                ("fastgate-policies", "fastgate"),
                ("fastgate-policies", "relay"),
                ("fastgate", "relay"),
            ),
        ),
        Scenario(
            "connections-1", "1 connection, 100 B", PROXIES, connections=1, turns=2, quick=False
        ),
        Scenario(
            "partial-load", "1,000 connections, 100 B, 8,000 requests/s", (*PROXIES, "direct"),
            "open", connections=1000, rate=8000.0, turns=2, quick=False,
        ),
        Scenario(
            "connection-per-request", "a connection per request, 64 at a time, 100 B", PROXIES,
            fresh=True, turns=2, quick=False,
        ),
        Scenario(
            "connections-1000", "1,000 connections, 100 B", PROXIES, connections=1000, quick=False
        ),
        Scenario(
            "post-16k", "64 connections, POST of 16 KiB", PROXIES, request_body=16_384, quick=False
        ),
        Scenario(
            "upstreams-unix", "upstreams on Unix sockets and over TCP, 64 connections, 100 B",
            ("fastgate-unix", "fastgate", "nginx-unix", "nginx", "relay-unix", "relay"),
            turns=12, window=0.5, quick=False,
            ratios=(
                ("fastgate-unix", "fastgate"), ("nginx-unix", "nginx"), ("relay-unix", "relay")
            ),
        ),
        Scenario("body-10k", "64 connections, 10 KiB", PROXIES, body=10_240, quick=False),
        Scenario("body-1m", "64 connections, 1 MiB", PROXIES, body=1 << 20, quick=False),
        Scenario(
            "workers-2",
            "2 workers, 128 connections, 100 B",
            ("fastgate", "fastgate-policies", "nginx", "haproxy", "envoy"),
            connections=128,
            workers=2,
            quick=False,
        ),
        Scenario(
            "workers-4",
            "4 workers, 256 connections, 100 B",
            ("fastgate", "fastgate-policies", "nginx", "haproxy", "envoy"),
            connections=256,
            workers=4,
            quick=False,
        ),
        Scenario(
            "routes", "random paths through one route and through 100,000",
            (ONE_ROUTE, ALL_ROUTES), random_paths=MANY_ROUTES, turns=30, window=0.5,
        ),
        Scenario(
            "reload-10", "reload under load, 10 routes", ("fastgate", "nginx"), "reload",
            setup={"routes": 10},
        ),
        Scenario(
            "reload-10000", "reload under load, 10,000 routes", ("fastgate", "nginx"), "reload",
            setup={"routes": 10_000}, quick=False,
        ),
        Scenario(
            "idle", "memory at rest and per idle connection; time to serve", PROXIES, "idle",
            workers=2,
        ),
        Scenario(
            "tls", "TLS 1.3, 64 connections kept alive, 100 B", SECURE, tls=Tls(), turns=12,
            window=0.5, ratios=(("fastgate", "nginx"), ("fastgate", "haproxy")),
        ),
        Scenario(
            "tls-handshakes", "TLS 1.3, ECDSA P-256, a full handshake for each request", SECURE,
            tls=Tls(), fresh=True, turns=8, window=1.0,
            ratios=(("fastgate", "nginx"), ("fastgate", "haproxy")),
        ),
        Scenario(
            "tls-resumed", "TLS 1.3, a resumed handshake for each request", SECURE,
            tls=Tls(resume=True), fresh=True, turns=8, window=1.0,
            ratios=(("fastgate", "nginx"), ("fastgate", "haproxy")),
        ),
        Scenario(
            "tls-handshakes-rsa", "TLS 1.3, RSA 2048, a full handshake for each request", SECURE,
            tls=Tls(key="rsa"), fresh=True, turns=4, window=1.0, quick=False,
        ),
        Scenario(
            "tls-handshakes-12", "TLS 1.2, ECDSA P-256, a full handshake for each request", SECURE,
            tls=Tls(version="1.2"), fresh=True, turns=4, window=1.0, quick=False,
        ),
        Scenario(
            "tls-resumed-12", "TLS 1.2, a resumed handshake for each request", SECURE,
            tls=Tls(version="1.2", resume=True), fresh=True, turns=4, window=1.0, quick=False,
        ),
        Scenario(
            "tls-upstream", "clear clients, TLS 1.3 to the upstream, 64 connections, 100 B",
            SECURE, upstream_tls=True, turns=12, window=0.5,
            ratios=(("fastgate", "nginx"), ("fastgate", "haproxy")),
        ),
        Scenario(
            "tls-idle", "TLS 1.3: memory per idle connection", SECURE, "idle", workers=2,
            tls=Tls(),
        ),
        Scenario(
            "tls-flood", "TLS 1.3: other clients while hundreds start handshakes and drop them",
            SECURE, "flood", connections=64, rate=1000.0, tls=Tls(),
        ),
        *(
            Scenario(
                name, title, IDENTITY, "identity", connections=16, turns=10, tokens=tokens,
                rate=4000.0 if tokens.first else 0.0,
                ratios=(("fastgate-jwt", "fastgate-key"), ("fastgate-jwt", "haproxy-jwt")),
            )
            for name, title, tokens in (
                ("jwt-known", "a JWT (RS256) that is known, an API key, and neither", Tokens()),
                (
                    "jwt-first-rs256", "a new JWT (RS256) in each request, an API key, and neither",
                    Tokens(first=True, requests=2000),
                ),
                (
                    "jwt-first-es256", "a new JWT (ES256) in each request, an API key, and neither",
                    Tokens("ES256", first=True, requests=2000),
                ),
            )
        ),
        Scenario(
            "sidecar", "one worker and one route: memory by process, and time to serve",
            ("fastgate",), "sidecar",
        ),
    ]  # fmt: skip
