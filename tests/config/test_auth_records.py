"""Records of authentication: what a route asks for, as workers read it."""

from __future__ import annotations

from typing import Any

import pytest
from compilerkit import NONE, compiled, one_route, refused

from fastgate._core.snapshot.snapshot import AuthFlag
from fastgate.config.auth_records import SUPPORTED
from fastgate.model.auth import METHODS

ISSUERS = [
    {
        "name": "corp",
        "issuer": "https://id.example.com",
        "introspection": {"client_id": "a", "client_secret": "env:A"},
    }
]
AUTHORITIES = [{"name": "partners", "ca": "path:/partners.pem"}]
TLS = {
    "listeners": [{"bind": ":443", "tls": True}],
    "certificates": [{"name": "c", "cert": "env:C"}],
}
ASKING: dict[str, Any] = {
    "jwt": "corp",
    "introspection": "corp",
    "mtls": "partners",
    "basic": {},
    "signature": {},
    "hmac": {},
    "forward": "http://auth.internal",
}


def document(auth: Any) -> dict[str, Any]:
    return {"issuers": ISSUERS, "authorities": AUTHORITIES, **TLS, **one_route(auth=auth)}


@pytest.mark.parametrize(
    ("auth", "optional"),
    [
        ("api_key", False),
        ({"any": ["api_key"]}, False),
        ({"all": ["api_key"]}, False),
        ({"api_key": {"optional": True}}, True),
        ({"api_key": {}, "optional": True}, True),
        ({"any": ["api_key"], "optional": True}, True),
    ],
)
def test_one_key_is_one_record(auth: Any, optional: bool) -> None:
    with compiled(document(auth)) as snapshot:
        record = snapshot.auth(snapshot.route(0)["auth"])
        flags = AuthFlag.AUTH_BEARER | (AuthFlag.AUTH_OPTIONAL if optional else 0)
        assert (record["header"], record["flags"]) == (b"x-api-key", flags)


def test_no_method_is_no_record() -> None:
    with compiled(document("none")) as snapshot:
        assert snapshot.route(0)["auth"] == NONE


def test_what_is_not_supported_is_refused_at_its_place() -> None:
    assert SUPPORTED | set(ASKING) == set(METHODS)
    for method in set(METHODS) - SUPPORTED:
        alone = refused(document({method: ASKING[method]}))
        assert (alone.path, alone.message) == (
            f"routes[0].auth.{method}",
            f"{method} is not supported yet",
        )
        beside = refused(document({"any": ["api_key", {method: ASKING[method]}]}))
        assert beside.path == f"routes[0].auth.any[1].{method}"
