"""Parse, limiter, quota, credential lookup, counting: loops in C, one call a round."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest

from benchmarks.micro.conftest import Measure

parse_bench = pytest.importorskip(
    "fastgate._core.testing.parse_bench", reason="the core is not built"
)
limit_bench = pytest.importorskip(
    "fastgate._core.testing.limit_bench", reason="the core is not built"
)
credentials = pytest.importorskip(
    "fastgate._core.shared.credentials", reason="the core is not built"
)
lookup_bench = pytest.importorskip(
    "fastgate._core.testing.lookup_bench", reason="the core is not built"
)
count_bench = pytest.importorskip(
    "fastgate._core.testing.count_bench", reason="the core is not built"
)
segment = pytest.importorskip("fastgate._core.shared.segment", reason="the core is not built")

LOOPS = 200_000
KEYS = 1_000_000

# 500 bytes in nine fields, as a browser application sends them.
REQUEST = (
    b"GET /v1/orders/8f14e45fceea167a5a36dedd4bea2543?expand=lines&fields=id,total HTTP/1.1\r\n"
    b"Host: api.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/129.0 Safari/537.36\r\n"
    b"Accept: application/json, text/plain, */*\r\n"
    b"Accept-Language: de-CH,de;q=0.9,en;q=0.8\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\n"
    b"X-Api-Key: fg_live_4f7ac2e19b8d03f56a7be41c\r\n"
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
    b"Origin: https://app.example.com\r\n"
    b"Connection: keep-alive\r\n"
    b"\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\n"
    b"Server: upstream\r\n"
    b"Date: Sat, 21 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: application/json; charset=utf-8\r\n"
    b"Content-Length: 1024\r\n"
    b"Cache-Control: no-store\r\n"
    b'ETag: "5f3c-1024"\r\n'
    b"\r\n"
)


def test_parse_request_500_bytes(measure: Measure) -> None:
    assert 480 <= len(REQUEST) <= 540
    measure(lambda: parse_bench.bench_parse(REQUEST, LOOPS), operations=LOOPS, budget_ns=400)


def test_parse_response(measure: Measure) -> None:
    measure(lambda: parse_bench.bench_parse(RESPONSE, LOOPS, True), operations=LOOPS)


def test_limiter_check(measure: Measure) -> None:
    measure(lambda: limit_bench.bench_limiter(LOOPS * 5), operations=LOOPS * 5, budget_ns=20)


def test_limiter_check_one_key(measure: Measure) -> None:
    measure(lambda: limit_bench.bench_limiter(LOOPS * 5, 1), operations=LOOPS * 5, budget_ns=20)


def test_quota_check(measure: Measure) -> None:
    measure(lambda: limit_bench.bench_quota(LOOPS * 5), operations=LOOPS * 5, budget_ns=20)


def test_quota_check_one_key(measure: Measure) -> None:
    measure(lambda: limit_bench.bench_quota(LOOPS * 5, 1), operations=LOOPS * 5, budget_ns=20)


def test_count_a_request(measure: Measure) -> None:
    made = segment.Segment.create(1)
    measure(lambda: count_bench.bench_count(made, 0, LOOPS), operations=LOOPS)


@pytest.fixture(scope="module")
def index() -> Any:
    """A million keys of ten thousand consumers, and the keys in a random order."""
    made = credentials.CredentialIndex.create(KEYS)
    rows = [made.set_consumer(f"consumer-{i}", identity=i + 1) for i in range(10_000)]
    keys = [f"fg_live_{i:024x}".encode() for i in range(KEYS)]
    made.put_many(
        (hashlib.sha256(key).digest(), rows[i % len(rows)], 0, i + 1) for i, key in enumerate(keys)
    )
    random.Random(3).shuffle(keys)
    return made, keys


@pytest.mark.timeout(300)
def test_credential_lookup_of_a_million(measure: Measure, index: Any) -> None:
    made, keys = index
    measure(
        lambda: lookup_bench.bench_lookup(made, keys, KEYS),
        operations=KEYS,
        budget_ns=350,
        rounds=3,
    )
