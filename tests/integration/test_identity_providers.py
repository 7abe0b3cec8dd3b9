"""Keycloak and oidc-provider in front of a whole gateway: their tokens work by discovery alone."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from gatewaykit import Answer, Gateway, eventually, fetch
from identitykit import OPAQUE, IdentityProvider, Keycloak

StartGateway = Callable[..., Gateway]

AUDIENCE = "https://orders.example"
SCOPES = ["orders:read"]


@pytest.fixture(params=["keycloak", "oidc_provider"])
def provider(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def config(provider: IdentityProvider) -> dict[str, Any]:
    """Two routes: for signed tokens, and for tokens that the provider is asked about."""
    introspection = {
        "client_id": provider.gateway.id,
        "client_secret": "env:GATEWAY_SECRET",
        "cache": "0s",
    }
    needed = {"issuer": "idp", "scopes": SCOPES}

    def route(name: str, method: str) -> dict[str, Any]:
        auth = {method: needed}
        return {"name": name, "path": f"/{name}", "auth": auth, "respond": {"body": "hello"}}

    return {
        "issuers": [
            {
                "name": "idp",
                "issuer": provider.issuer,
                "audience": [AUDIENCE, AUDIENCE + OPAQUE],
                "consumer": "azp" if isinstance(provider, Keycloak) else "client_id",
                "introspection": introspection,
            }
        ],
        "consumers": [{"name": "app", "subjects": {"idp": [provider.client.id]}}],
        "routes": [route("signed", "jwt"), route("asked", "introspection")],
    }


@pytest.fixture
def served(provider: IdentityProvider, gateway: StartGateway) -> Gateway:
    started = gateway(config(provider), environ={"GATEWAY_SECRET": provider.gateway.secret})
    text = provider.token(SCOPES, AUDIENCE)
    eventually(lambda: ask(started, text).status == 200, "the keys are there")
    return started


def ask(gateway: Gateway, text: str, route: str = "signed") -> Answer:
    headers = {"Authorization": f"Bearer {text}"}
    return fetch(gateway.address(), f"/{route}", headers=headers)


def reason(answer: Answer) -> str:
    return "" if answer.status == 200 else str(json.loads(answer.body)["reason"])


def fetches(gateway: Gateway) -> int:
    text = gateway.api("/metrics").body.decode()
    found = re.findall(r'fastgate_jwks_fetches_total\{issuer="idp",result="(\w+)"\} (\d+)', text)
    return sum(int(number) for result, number in found if result != "held_back")


def test_tokens_work_by_discovery_alone(served: Gateway, provider: IdentityProvider) -> None:
    assert reason(ask(served, provider.token(SCOPES, AUDIENCE))) == ""
    assert reason(ask(served, provider.token(SCOPES, "https://other.example"))) == "token_invalid"
    assert reason(ask(served, provider.token([], AUDIENCE))) == "insufficient_scope"
    text = provider.token(SCOPES, AUDIENCE)
    assert reason(ask(served, text[:-8] + "AAAAAAAA")) in ("token_invalid",)


def test_tokens_are_introspected(served: Gateway, provider: IdentityProvider) -> None:
    # Keycloak knows about all its tokens, oidc-provider only about opaque ones.
    audience = AUDIENCE if isinstance(provider, Keycloak) else AUDIENCE + OPAQUE
    text = provider.token(SCOPES, audience)
    assert reason(ask(served, text, "asked")) == ""
    assert reason(ask(served, provider.token([], audience), "asked")) == "insufficient_scope"
    assert reason(ask(served, provider.token(SCOPES), "asked")) == "token_invalid"  # for nobody
    assert reason(ask(served, "no-such-token", "asked")) == "token_invalid"
    provider.revoke(text)
    eventually(lambda: reason(ask(served, text, "asked")) == "token_invalid", "it is revoked")


def test_keys_rotate_under_load(served: Gateway, provider: IdentityProvider) -> None:
    before = fetches(served)
    texts = [provider.token(SCOPES, AUDIENCE)]
    stop = threading.Event()
    found: Counter[str] = Counter()

    def load() -> None:
        while not stop.is_set():
            found[reason(ask(served, texts[-1]))] += 1

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: found[""] > 50, "requests before")
        provider.rotate()
        texts.append(provider.token(SCOPES, AUDIENCE))
        so_far = found[""]
        eventually(lambda: found[""] > so_far + 200, "requests with the new key")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(found) == {""}
    assert fetches(served) - before <= 2


def test_a_provider_that_is_down(served: Gateway, provider: IdentityProvider) -> None:
    text = provider.token(SCOPES, AUDIENCE)
    another = provider.token(SCOPES, AUDIENCE)
    assert reason(ask(served, text)) == ""
    provider.stop()
    assert reason(ask(served, text)) == ""
    assert reason(ask(served, another)) == ""  # new to the gateway, by a known key
    assert reason(ask(served, another, "asked")) == "authorization_unavailable"
    provider.start()
