"""Keys of Wycheproof: what control leaves out, and that no signature of such a key is valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgate._core.testing.token_sample import Checker
from fastgate._core.tls.keyring import IssuerEntry, Keyring, TokenKey
from fastgate.issuers.jwks import KeysError, read_jwks
from fastgate.issuers.roca import PRIMES, is_roca

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "wycheproof"
SECRETS = "oct"


def vectors() -> Iterator[Any]:
    for name in ("json_web_key_test.json", "json_web_crypto_test.json"):
        path = VECTORS / name
        if not path.exists():
            yield pytest.param([], {}, marks=pytest.mark.skip(f"Wycheproof's {name} is not here"))
            continue
        for group in json.loads(path.read_text())["testGroups"]:
            key = group.get("public") or group["private"]
            jwks = key.get("keys", [key])
            if all(jwk["kty"] == SECRETS for jwk in jwks):
                continue  # secrets come from the configuration, never from a JWKS
            for test in group["tests"]:
                if isinstance(test.get("jws"), str):
                    yield pytest.param(jwks, test, id=f"{name[9:12]}-{test['tcId']}")


@pytest.mark.parametrize(("jwks", "test"), list(vectors()))
def test_what_is_valid_with_the_keys_that_are_taken(
    jwks: list[dict[str, Any]], test: dict[str, Any]
) -> None:
    try:
        found = read_jwks(json.dumps({"keys": jwks}).encode())
        keys = [
            TokenKey(algorithms=list(key.algorithms), key=memoryview(key.spki), kid=key.kid)
            for key in found.keys
        ]
    except KeysError:
        keys = []
    entry = IssuerEntry(id=7, name="w", issuer="w", keys=keys)
    fault = Checker(Keyring(serial=1, issuers=[entry])).signed(test["jws"].encode(), [7])
    assert (fault == "") == (test["result"] == "valid"), fault


def test_weak_keys_of_smart_cards_are_known() -> None:
    product = 1
    for prime in PRIMES:
        product *= prime
    assert is_roca(pow(65537, 12345, product))
    assert not is_roca(2)
    assert not is_roca(pow(65537, 12345, product) + 1)
