"""The budgets of the design, and whether a run keeps them. Reported, never asserted.

Ratios of one scenario are formed by pairs of neighbouring visits (both sides saw the same
machine), and their median is what counts: ratios.py. A budget whose figures were not measured in
this run says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from benchmarks.compare.bearers import WITH_TOKEN
from benchmarks.compare.ratios import Figure, quartiles, ratio
from benchmarks.compare.scenarios import ALL_ROUTES, LIMITED, ONE_ROUTE, PAID, PROXIES
from benchmarks.compare.schema import Budget, Point, Ratio, figure, find

FASTGATE, PLAIN = "fastgate-policies", "fastgate"


def line(
    budget: str, value: float | None, sense: str, limit: float, unit: str = "", note: str = ""
) -> Budget:
    """A line of the verdict."""
    met = None if value is None else (value <= limit if sense == "<=" else value >= limit)
    if value is None and not note:
        note = "not measured in this run"
    return Budget(
        budget=budget, figure=value, sense=sense, limit=limit, unit=unit, met=met, note=note
    )


def at_most(budget: str, found: Ratio | None, limit: float) -> Budget:
    """The line of a ratio that must not be more than `limit`."""
    return judged(budget, found, "<=", limit)


def judged(budget: str, found: Ratio | None, sense: str, limit: float) -> Budget:
    """The line of a ratio."""
    made = line(budget, found.median if found else None, sense, limit, "x")
    if found is None:
        return made
    return structs.replace(made, lower=found.lower, upper=found.upper, pairs=found.pairs)


def cpu(
    points: Sequence[Point], against: str, limit: float, words: str, scenario: str = "saturation"
) -> Budget:
    """CPU per request with all policies on, against another subject of the same scenario."""
    found = ratio(points, Figure(scenario, FASTGATE, "cpu_us"), Figure(scenario, against, "cpu_us"))
    return at_most(f"CPU per request, policies on / {words}", found, limit)


def against_nginx(points: Sequence[Point], scenario: str, limit: float, budget: str) -> Budget:
    """CPU per request with all policies on against nginx with its own: the better one, if the path
    of another was given."""
    found = {
        name: figure(points, scenario, name, "cpu_us")
        for name in ("nginx-policies", "nginx-given-policies")
    }
    measured = {name: value for name, value in found.items() if value is not None}
    best = min(measured, key=lambda name: measured[name], default="nginx-policies")
    made = at_most(
        budget,
        ratio(points, Figure(scenario, FASTGATE, "cpu_us"), Figure(scenario, best, "cpu_us")),
        limit,
    )
    return structs.replace(made, note=f"best: {best}") if len(measured) > 1 else made


def added(points: Sequence[Point], metric: str, words: str) -> Budget:
    """Latency added at half load, policies on, against the best of the peers at the same rate."""
    rate = figure(points, "half-load", FASTGATE, "rate")
    peers = {
        name: value
        for name in PROXIES
        if name not in (FASTGATE, "fastgate", "relay")
        # A slower one, which got half of its own, has it easier.
        and figure(points, "half-load", name, "rate") == rate
        and (value := figure(points, "half-load", name, metric)) is not None
    }
    mine = figure(points, "half-load", FASTGATE, metric)
    if mine is None or not peers:
        return line(f"added latency at half load, {words}", None, "<=", 0, "µs")
    best = min(peers, key=lambda name: peers[name])
    return line(
        f"added latency at half load, {words}, against the best peer",
        round(mine, 1),
        "<=",
        round(peers[best], 1),
        "µs",
        f"best: {best}",
    )


def scaling(points: Sequence[Point], workers: int, limit: float) -> Budget:
    """Throughput of several workers over that of one."""
    several = figure(points, f"workers-{workers}", FASTGATE, "rps")
    one = figure(points, "saturation", FASTGATE, "rps")
    value = round(several / one, 3) if several and one else None
    note = ""
    point = find(points, f"workers-{workers}", FASTGATE)
    if point and any("bottleneck" in n for n in point.notes):
        note = "a lower bound: the workers were not saturated"
    return line(f"throughput, {workers} workers / 1", value, ">=", limit, "x", note)


HANDSHAKES = (
    ("tls-handshakes", "full handshakes a core"),
    ("tls-resumed", "resumed handshakes a core"),
)


def encrypted(points: Sequence[Point]) -> list[Budget]:
    """The budgets of TLS. Policies are off, with FastGate and with its peers."""

    def against(peer: str, scenario: str, metric: str) -> Ratio | None:
        return ratio(points, Figure(scenario, PLAIN, metric), Figure(scenario, peer, metric))

    verdict = [
        at_most(f"CPU per request over TLS / {words}", against(peer, "tls", "cpu_us"), limit)
        for peer, words, limit in (("nginx", "nginx", 0.85), ("haproxy", "HAProxy", 0.80))
    ]
    secure, clear = (figure(points, name, PLAIN, "cpu_us") for name in ("tls", "saturation"))
    more = round(secure - clear, 2) if secure is not None and clear is not None else None
    idle = figure(points, "tls-idle", PLAIN, "connection_bytes")
    verdict.append(line("CPU per request over TLS, above clear HTTP", more, "<=", 3, "µs"))
    for scenario, words in HANDSHAKES:
        for peer, name in (("nginx", "nginx"), ("haproxy", "HAProxy")):
            found = against(peer, scenario, "handshakes_per_core")
            verdict.append(judged(f"{words} / {name}", found, ">=", 0.98))
    verdict += [
        line("memory per idle TLS connection",
             None if idle is None else round(idle / 1024, 2), "<=", 16, "KiB"),
        line("p99 of others under a flood of half handshakes, above calm",
             figure(points, "tls-flood", PLAIN, "flood_added_us"), "<=", 2000, "µs"),
    ]  # fmt: skip
    return verdict


IDENTITY = (
    ("jwt-known", "a known token", 1.0),
    ("jwt-first-rs256", "a new RS256 token", 25.0),
    ("jwt-first-es256", "a new ES256 token", 70.0),
)


def identified(points: Sequence[Point]) -> list[Budget]:
    """What tokens may cost above an API key, in the worker."""
    verdict = []
    for scenario, words, limit in IDENTITY:
        made = line(f"CPU per request, {words}, above an API key", None, "<=", limit, "µs")
        point = find(points, scenario, WITH_TOKEN)
        if point and "above_key_us" in point.metrics:
            values = point.metrics["above_key_us"].values
            lower, median, upper = (round(value, 2) for value in quartiles(values))
            made = line(made.budget, median, "<=", limit, "µs")
            floor = figure(points, scenario, WITH_TOKEN, "verify_us")
            if scenario != "jwt-known" and floor is not None:
                made = structs.replace(made, note=f"libcrypto alone: {floor:.1f} µs")
            made = structs.replace(made, lower=lower, upper=upper, pairs=len(values))
        verdict.append(made)
    return verdict


def judge(points: Sequence[Point]) -> list[Budget]:
    """All budgets that `compare` measures."""

    def of(scenario: str, subject: str, metric: str) -> float | None:
        return figure(points, scenario, subject, metric)

    verdict = [
        against_nginx(
            points, "saturation", 0.90,
            "CPU per request, policies on / nginx with key map and limit_req",
        ),
        cpu(points, "haproxy-policies", 0.85, "HAProxy with map and stick table"),
        cpu(points, "envoy", 0.40, "plain Envoy"),
        cpu(points, "relay", 1.10, "the bare relay", "windows"),
        cpu(points, "fastgate", 1.08, "all policies off", "windows"),
        *(
            against_nginx(
                points, scenario, 0.95,
                f"CPU per request {words}, policies on / nginx with its policies",
            )
            for scenario, words in (
                ("connections-1", "over one connection"),
                ("partial-load", "at 8,000/s over 1,000 connections"),
                ("connection-per-request", "with a connection each"),
            )
        ),
        added(points, "added_p50_us", "p50"),
        added(points, "added_p99_us", "p99"),
        # the design's 3.6 of 4, for two
        scaling(points, 2, 1.8),
        scaling(points, 4, 3.6),
    ]  # fmt: skip
    for flood in ("flood-401", "flood-429"):
        found = ratio(
            points, Figure(flood, FASTGATE, "cpu_us"), Figure("saturation", FASTGATE, "cpu_us")
        )
        verdict.append(at_most(f"CPU per refusal ({flood[-3:]}) / per request served", found, 1.0))
    found = ratio(
        points, Figure("routes", ALL_ROUTES, "cpu_us"), Figure("routes", ONE_ROUTE, "cpu_us")
    )
    verdict.append(at_most("CPU per request, 100,000 routes / 1", found, 1.02))
    for metric, words in (
        ("worker_cpu_us", "in the workers"),
        ("cpu_us", "with control, which writes the ledger"),
    ):
        found = ratio(points, Figure("paid", PAID, metric), Figure("paid", LIMITED, metric))
        verdict.append(
            at_most(f"CPU per request, paid and keyed / rate limit alone, {words}", found, 1.05)
        )
    for name in ("reload-10", "reload-10000"):
        routes = name.partition("-")[2]
        kept, fresh = of(name, "fastgate", "failed"), of(name, "fastgate", "failed_fresh")
        total = None
        if kept is not None and fresh is not None:
            point = find(points, name, "fastgate")
            assert point
            total = sum(point.metrics["failed"].values) + sum(point.metrics["failed_fresh"].values)
        verdict += [
            line(f"requests failed by reloads, {routes} routes", total, "<=", 0),
            line(
                f"p99 while reloading / in quiet, {routes} routes",
                of(name, "fastgate", "p99_ratio"),
                "<=",
                1.2,
                "x",
            ),
        ]
    verdict += [
        line("idle memory, supervisor + control + 1 worker",
             of("sidecar", "fastgate", "idle_pss_mib"), "<=", 75, "MiB"),
        line("the same, once the control API was used",
             of("sidecar", "fastgate", "used_pss_mib"), "<=", 85, "MiB"),
        line("memory per idle connection",
             of("idle", "fastgate", "connection_bytes"), "<=", 1536, "B"),
        line("from start to the first response",
             of("sidecar", "fastgate", "start_s"), "<=", 0.3, "s"),
    ]  # fmt: skip
    return verdict + encrypted(points) + identified(points)
