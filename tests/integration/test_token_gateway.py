"""Tokens in a whole gateway: discovery alone, keys that rotate, a provider that is down."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gatewaykit import Answer, Gateway, eventually, fetch
from providerkit import Provider, SigningKey

StartGateway = Callable[..., Gateway]

CONSUMERS = [{"name": "alice", "plan": "free", "subjects": {"corp": ["alice"]}}]


def config(provider: Provider, **issuer: Any) -> dict[str, Any]:
    return {
        "issuers": [
            {"name": "corp", "issuer": provider.issuer, "audience": ["orders"], **issuer},
        ],
        "plans": [{"name": "free"}],
        "consumers": CONSUMERS,
        "routes": [
            {
                "name": "r",
                "path": "/{rest*}",
                "auth": {"jwt": {"issuer": "corp", "scopes": ["orders:read"]}},
                "respond": {"body": "hello"},
            }
        ],
    }


def token(provider: Provider, key: SigningKey | None = None, **claims: Any) -> str:
    now = int(time.time())
    usual = {
        "iss": provider.issuer, "sub": "alice", "aud": "orders", "scope": "orders:read", "iat": now,
        "exp": now + 600,
    }  # fmt: skip
    return (key or provider.keys[-1]).token({**usual, **claims})


def ask(gateway: Gateway, text: str) -> Answer:
    return fetch(gateway.address(), "/x", headers={"Authorization": f"Bearer {text}"})


def reason(answer: Answer) -> str:
    return "" if answer.status == 200 else str(json.loads(answer.body)["reason"])


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def served(provider: Provider, gateway: StartGateway) -> Gateway:
    """A gateway that has the provider's keys."""
    return knowing(gateway(config(provider)), provider)


def knowing(gateway: Gateway, provider: Provider) -> Gateway:
    eventually(lambda: ask(gateway, token(provider)).status == 200, "the keys are there")
    return gateway


def test_discovery_is_all_that_is_needed(served: Gateway, provider: Provider) -> None:
    gateway = served
    assert reason(ask(gateway, token(provider, aud="users"))) == "token_invalid"
    assert reason(ask(gateway, token(provider, scope="orders:write"))) == "insufficient_scope"
    assert reason(ask(gateway, token(provider, sub="mallory"))) == "subject_unknown"
    assert reason(ask(gateway, token(provider, SigningKey("k1")))) == "token_invalid"
    assert provider.fetches == 1
    metrics = fetch_metrics(gateway)
    assert 'fastgate_tokens_total{issuer="corp",result="verified"}' in metrics
    assert 'fastgate_jwks_age_seconds{issuer="corp"}' in metrics


def fetch_metrics(gateway: Gateway) -> str:
    return gateway.api("/metrics").body.decode()


def test_keys_rotate_under_load(served: Gateway, provider: Provider) -> None:
    gateway = served
    before = provider.fetches
    stop = threading.Event()
    found: Counter[str] = Counter()

    def load() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            found[reason(ask(gateway, token(provider, jti=str(number))))] += 1

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: found[""] > 100, "requests before")
        # As providers do it: the new key is published, and used from then on.
        provider.keys = [provider.keys[-1], SigningKey("k2")]
        so_far = found[""]
        eventually(lambda: found[""] > so_far + 300, "requests with the new key")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(found) == {""}
    assert 1 <= provider.fetches - before <= 2


def test_a_provider_that_is_down_harms_nobody_whose_key_is_known(
    provider: Provider, gateway: StartGateway, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    first = knowing(gateway(config(provider), state=state), provider)
    provider.fails = 503
    known, stranger = provider.keys[-1], SigningKey("k9")
    for number in range(20):
        assert ask(first, token(provider, known, jti=str(number))).status == 200
    assert ask(first, token(provider, stranger)).status in (401, 503)
    assert ask(first, token(provider, known)).status == 200
    first.stop()
    again = gateway(config(provider), state=state)
    assert ask(again, token(provider, known)).status == 200


def test_a_token_is_revoked_in_all_workers_at_once(served: Gateway, provider: Provider) -> None:
    text = token(provider, jti="one")
    for _ in range(10):
        assert ask(served, text).status == 200
    answer = served.api("/v1/tokens/revoke", method="POST", body={"token": text})
    assert answer.status in (200, 201, 204), answer.body
    for _ in range(10):
        assert reason(ask(served, text)) == "credential_revoked"
    assert ask(served, token(provider, jti="two")).status == 200


def test_an_unknown_subject_becomes_a_consumer(provider: Provider, gateway: StartGateway) -> None:
    served = gateway(config(provider, unknown="create", plan="free"))
    served.api("/v1/consumers")  # the store is there
    knowing(served, provider)
    results: Counter[str] = Counter()

    def call() -> None:
        results[reason(ask(served, token(provider, sub="carol")))] += 1

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"": 8}
    consumers = json.loads(served.api("/v1/consumers").body)["items"]
    assert len([each for each in consumers if "carol" in each["name"]]) == 1
