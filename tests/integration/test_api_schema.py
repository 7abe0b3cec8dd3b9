"""The control API answers as its OpenAPI document says: schemathesis sends a real gateway what the
document allows and what it does not, and compares.

Semantics are not judged here: a body that the schema allows may still name a plan that is not
there. `FASTGATE_API_CASES` sets how many cases each operation gets (`make fuzz-api`: 100).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import requests
import schemathesis
from gatewaykit import Gateway, eventually
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

CASES = int(os.environ.get("FASTGATE_API_CASES", "3"))
CHECKS: list[Any] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
CONFIG: dict[str, Any] = {
    "upstreams": [{"name": "orders", "targets": ["http://127.0.0.1:9"]}],
    "services": [{"name": "orders", "upstream": "orders"}],
    "plans": [
        {"name": "free", "limits": ["10/s"]},
        {"name": "gold", "price": {"flat": "10 USD", "per_request": "0.01 USD"}},
    ],
    "routes": [
        {"name": "ping", "path": "/ping", "respond": {"body": "pong"}},
        {
            "name": "read", "path": "/orders/{id}", "service": "orders", "auth": "api_key",
            "price": "0.002 USD",
        },
    ],
    "consumers": [{"name": "demo", "keys": ["demo-key-0123456789"], "plan": "free"}],
}  # fmt: skip


def _as_text(context: Any, value: Any) -> bytes:
    """JSON is YAML; TOML has no null, and what is sent as TOML is JSON's mistakes too."""
    return json.dumps(value, default=str).encode()


schemathesis.serializer("application/toml")(_as_text)


@pytest.fixture(scope="module")
def running(shared_gateway: Callable[..., Gateway]) -> Gateway:
    started = shared_gateway(CONFIG, workers=1)
    eventually(lambda: (started.state / "admin-token").exists(), "a token")
    return started


@pytest.fixture(scope="module")
def api(running: Gateway) -> tuple[str, dict[str, str]]:
    """The address, and a token's header."""
    token = (running.state / "admin-token").read_text().strip()
    return running.control, {"Authorization": f"Bearer {token}"}


def test_every_operation_answers_as_documented(api: tuple[str, dict[str, str]]) -> None:
    base, token = api
    document = requests.get(f"{base}/openapi.json", headers=token, timeout=60).json()
    schema = schemathesis.openapi.from_dict(document)
    tried = 0
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.path == "/v1/drain":
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                try_out(operation, mode, base, token, session)
            tried += 1
    assert tried > 100


def try_out(
    operation: Any, mode: GenerationMode, base: str, token: dict[str, str], session: Any
) -> None:
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=CASES < 10,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        case.call_and_validate(
            base_url=base, headers=token, session=session, checks=CHECKS, timeout=60
        )

    if mode is GenerationMode.NEGATIVE:
        with suppress(Unsatisfiable):  # it takes nothing that could be wrong
            run()
    else:
        run()


def test_options_names_every_method_of_a_path(api: tuple[str, dict[str, str]]) -> None:
    base, token = api
    document = requests.get(f"{base}/openapi.json", headers=token, timeout=60).json()
    for path, methods in document["paths"].items():
        address = base + path.replace("{number}", "1").replace("{", "").replace("}", "")
        answer = requests.options(address, headers=token, timeout=60)
        allowed = set(answer.headers["allow"].split(", "))
        assert answer.status_code == 204
        assert allowed >= {method.upper() for method in methods} | {"OPTIONS"}, path
        other = requests.request("PROPFIND", address, headers=token, timeout=60)
        assert other.status_code == 405
        assert set(other.headers["allow"].split(", ")) == allowed, path


@pytest.mark.parametrize("ident", ["zz", "0", "g" * 32, "0" * 31, "urn:fastgate:request:1", "%00"])
@pytest.mark.parametrize("what", ["", "/diagnosis"])
def test_what_is_no_request_id_is_not_found(
    api: tuple[str, dict[str, str]], ident: str, what: str
) -> None:
    base, token = api
    answer = requests.get(f"{base}/v1/requests/{ident}{what}", headers=token, timeout=60)
    assert answer.status_code == 404
    assert "32 hexadecimal digits" in answer.json()["detail"]
