"""Health, tokens, roles and problems: what holds for the whole API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from apikit import Client, is_problem

from fastgate.api.openapi import operations
from fastgate.api.roles import NEEDS, ROLES, allows

# ---- health -----------------------------------------------------------------------------


async def test_health_is_open(api: Client) -> None:
    del api.headers["authorization"]
    assert (await api.get("/healthz")).json() == {"status": "ok"}
    ready = await api.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "generation": 1, "reasons": []}


async def test_unready_is_503_with_the_reasons(api: Client, world: Any) -> None:
    world.control.reasons = ["worker 1 serves generation 0"]
    problem = is_problem(await api.get("/readyz"), 503, "not_ready")
    assert problem["reasons"] == ["worker 1 serves generation 0"]


async def test_metrics_follow_the_configuration(api: Client) -> None:
    headers = dict(api.headers)
    del api.headers["authorization"]
    got = await api.get("/metrics")
    assert got.text == "fastgate_generation 1\n"
    assert got.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    config = (await api.get("/v1/config", headers=headers)).json()
    config["control"]["metrics_open"] = False
    put = {**headers, "if-match": "*"}
    assert (await api.put("/v1/config", json=config, headers=put)).status_code == 200
    is_problem(await api.get("/metrics"), 401, "unauthenticated")
    assert (await api.get("/metrics", headers=headers)).status_code == 200
    config["observability"] = {"metrics": {"enabled": False}}
    assert (await api.put("/v1/config", json=config, headers=put)).status_code == 200
    is_problem(await api.get("/metrics", headers=headers), 404, "not_found")


# ---- tokens and roles -------------------------------------------------------------------


async def test_without_a_token_nothing_of_v1_is_told(api: Client, world: Any) -> None:
    del api.headers["authorization"]
    for one in operations(world.app.routes):
        if not one.path.startswith("/v1"):
            continue
        path = one.path.replace("{number}", "1").replace("{", "").replace("}", "")
        response = await api.request(one.method, path)
        is_problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == 'Bearer realm="fastgate"'


@pytest.mark.parametrize(
    "header", ["Basic abc", "Bearer", "Bearer ", "Bearer wrong", "Bearer \u00e9".encode("latin-1")]
)
async def test_a_bad_token_is_refused(api: Client, header: str | bytes) -> None:
    response = await api.get("/v1/workers", headers={"authorization": header})  # type: ignore[dict-item]
    is_problem(response, 401, "unauthenticated")
    assert "invalid_token" in response.headers["www-authenticate"]


def test_every_handler_declares_its_permission(world: Any) -> None:
    declared = {(one.method, one.path) for one in operations(world.app.routes)}
    for route in world.app.routes:
        for method in route.methods - {"OPTIONS"}:
            assert (method, route.path_format) in declared
    for one in operations(world.app.routes):
        assert one.handler.opt["permission"] in NEEDS


async def test_roles_are_what_the_table_says(api: Client, world: Any, as_role: Any) -> None:
    for role in ROLES:
        headers = await as_role(role)
        for one in operations(world.app.routes):
            permission = one.handler.opt["permission"]
            path = one.path.replace("{number}", "999").replace("{", "").replace("}", "")
            if path == "/v1/drain" or (allows(role, permission) and one.method != "GET"):
                continue
            response = await api.request(one.method, path, headers=headers)
            if allows(role, permission):
                # 409: nothing costs money in this world; 422: a query member is missing.
                assert response.status_code in (200, 404, 409, 422), (one.path, response.text)
            else:
                problem = is_problem(response, 403, "forbidden")
                assert problem["required_role"] == NEEDS[permission]


async def test_the_first_admin_token_is_in_a_private_file(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    assert path.stat().st_mode & 0o777 == 0o600
    again, new = world.tokens.ensure_admin_token()
    assert (again, new) == (path, False)
    assert path.read_text().strip() == world.admin


async def test_removing_the_file_withdraws_the_token(api: Client, world: Any) -> None:
    assert (await api.get("/v1/me")).json()["id"] == "admin-token"
    path, _ = world.tokens.ensure_admin_token()
    path.unlink()
    is_problem(await api.get("/v1/me"), 401, "unauthenticated")
    world.tokens.ensure_admin_token()
    is_problem(await api.get("/v1/me"), 401, "unauthenticated")
    new = {"authorization": f"Bearer {path.read_text().strip()}"}
    assert (await api.get("/v1/me", headers=new)).status_code == 200


async def test_the_file_appears_with_the_token_in_it(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for the file reads it at once; a gateway that was killed meanwhile left none."""
    path = tmp_path / "admin-token"
    path.unlink()
    there: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: there.append(path.exists()))
    assert world.tokens.ensure_admin_token() == (path, True)
    assert there == [False, True]  # the file, then the folder that has it
    assert path.read_text().startswith("fgt_")
    assert not any(name.startswith(".admin-token") for name in os.listdir(tmp_path))
    path.write_text("")
    assert world.tokens.ensure_admin_token() == (path, True)
    assert path.read_text().startswith("fgt_")


async def test_tokens_of_the_configuration_work(api: Client) -> None:
    headers = {"authorization": "Bearer grafana-token-1"}
    me = await api.get("/v1/me", headers=headers)
    assert me.json() == {"id": "config:grafana", "name": "grafana", "role": "viewer"}
    is_problem(await api.delete("/v1/tokens/config:grafana"), 409, "conflict")


async def test_life_of_a_token(api: Client) -> None:
    made = await api.post("/v1/tokens", json={"role": "operator", "label": "ci"})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    token = made.json()["token"]
    ident = made.json()["id"]
    assert token.startswith("fgt_")
    headers = {"authorization": f"Bearer {token}"}
    assert (await api.get("/v1/me", headers=headers)).json()["name"] == "ci"
    listed = (await api.get("/v1/tokens")).json()["items"]
    assert [one["id"] for one in listed] == [ident]
    assert "token" not in listed[0]
    assert "digest" not in listed[0]
    assert listed[0]["created_by"] == "admin"
    is_problem(await api.delete(f"/v1/tokens/{ident}", headers=headers), 403, "forbidden")
    assert (await api.delete(f"/v1/tokens/{ident}")).status_code == 204
    is_problem(await api.get("/v1/me", headers=headers), 401, "unauthenticated")
    is_problem(await api.delete(f"/v1/tokens/{ident}"), 404, "not_found")


async def test_a_token_expires(api: Client, world: Any) -> None:
    from datetime import UTC, datetime, timedelta

    soon = datetime.now(UTC) + timedelta(hours=1)
    body = {"label": "short", "expires_at": soon.isoformat()}
    token = (await api.post("/v1/tokens", json=body)).json()["token"]
    headers = {"authorization": f"Bearer {token}"}
    assert (await api.get("/v1/me", headers=headers)).status_code == 200
    import msgspec

    (digest,) = world.tokens._rows
    row = world.tokens._rows[digest]
    past = datetime.now(UTC) - timedelta(seconds=1)
    world.tokens._rows[digest] = msgspec.structs.replace(row, expires_at=past)
    problem = is_problem(await api.get("/v1/me", headers=headers), 401, "unauthenticated")
    assert "expired" in problem["detail"]
    body["expires_at"] = past.isoformat()
    is_problem(await api.post("/v1/tokens", json=body), 422, "invalid_member")


async def test_one_does_not_withdraw_ones_own_token(api: Client, as_role: Any) -> None:
    headers = await as_role("admin")
    me = (await api.get("/v1/me", headers=headers)).json()["id"]
    is_problem(await api.delete(f"/v1/tokens/{me}", headers=headers), 409, "conflict")


# ---- problems ---------------------------------------------------------------------------


async def test_unknown_paths_and_methods_are_problems(api: Client) -> None:
    is_problem(await api.get("/v1/nothing"), 404, "not_found")
    response = await api.delete("/v1/config")
    is_problem(response, 405, "method_not_allowed")
    assert {"GET", "PUT"} <= {part.strip() for part in response.headers["allow"].split(",")}
    is_problem(await api.get("/v1/config/revisions/abc"), 404, "not_found")


async def test_a_wrong_query_member_is_named(api: Client) -> None:
    for limit in ("0", "501", "many"):
        problem = is_problem(await api.get(f"/v1/routes?limit={limit}"), 422, "invalid_member")
        assert problem["errors"][0]["path"] == "limit"
    for cursor in ("x", "%00", "gaFh", "kQE"):
        problem = is_problem(await api.get(f"/v1/accounts?cursor={cursor}"), 422, "invalid_member")
        assert problem["errors"][0]["path"] == "cursor"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a", "colour": 1}, "colour"),
        ({"name": "a", "suspended": "true"}, "suspended"),
        ({"name": ""}, "name"),
        ({"name": "a", "plan": "golf"}, "plan"),
        ({"name": "a", "account": "nobody"}, "account"),
    ],
)
async def test_a_wrong_member_is_named(api: Client, body: dict[str, Any], path: str) -> None:
    problem = is_problem(await api.post("/v1/consumers", json=body), 422, "invalid_member")
    assert problem["errors"][0]["path"] == path


async def test_what_is_no_json_is_told(api: Client) -> None:
    async def post(content: bytes, media: str = "application/json") -> Any:
        return await api.post("/v1/accounts", content=content, headers={"content-type": media})

    is_problem(await post(b"{"), 400, "invalid_json")
    is_problem(await post(b'"\xff"'), 400, "invalid_json")
    is_problem(await post(b"[" * 100_000), 400, "invalid_json")
    is_problem(await post(b""), 422, "invalid_member")
    is_problem(await post(b"[]"), 422, "invalid_member")
    is_problem(await post(b"<a/>", "text/xml"), 415, "unsupported_media_type")


async def test_an_error_of_ours_tells_no_secrets(
    api: Client, world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("a secret detail")

    world.control.workers = fail
    response = await api.get("/v1/workers")
    is_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "a secret detail" in caplog.text


async def test_with_the_store_away(api: Client, world: Any) -> None:
    await world.store.stop()
    for method, path, body in (
        ("GET", "/v1/accounts", None),
        ("POST", "/v1/accounts", {"name": "acme"}),
        ("POST", "/v1/consumers", {"name": "acme"}),
        ("GET", "/v1/consumers", None),
        ("GET", "/v1/tokens", None),
        ("GET", "/v1/config/revisions", None),
        ("DELETE", "/v1/routes/read", None),
    ):
        response = await api.request(method, path, json=body)
        is_problem(response, 503, "store_unavailable")
        assert response.headers["retry-after"] == "1"
    assert world.control.applied == []
    for path in ("/healthz", "/readyz", "/v1/status", "/v1/config", "/v1/routes", "/v1/workers"):
        assert (await api.get(path)).status_code == 200
    assert (await api.get("/v1/consumers/demo")).json()["source"] == "config"
    assert (await api.get("/v1/limits/demo")).status_code == 200
    status = (await api.get("/v1/status")).json()
    assert status["store"] == {"kind": "sqlite", "ready": False, "problem": "The store is closed."}
    # A token that may be the store's is not called wrong while nobody can know.
    world.tokens._rows = None
    response = await api.get("/v1/me", headers={"authorization": "Bearer fgt_unknown"})
    is_problem(response, 503, "store_unavailable")
    assert (await api.post("/v1/config/reload")).status_code == 200
    assert (await api.post("/v1/drain", headers={"idempotency-key": "d1"})).status_code == 202
    assert world.control.drained
    await world.store.connect()
    assert (await api.post("/v1/accounts", json={"name": "acme"})).status_code == 201
