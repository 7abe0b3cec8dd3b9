"""The whole configuration through the API, and its revisions."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from apikit import Client, is_problem

from fastgate.errors import ApplyError, ConfigurationError
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway


async def read(api: Client) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration, and the headers to change just that."""
    got = await api.get("/v1/config")
    assert got.status_code == 200
    return got.json(), {"if-match": got.headers["etag"]}


async def test_get_gives_the_canonical_document(api: Client, world: Any) -> None:
    document, _ = await read(api)
    assert document["routes"][0]["name"] == "read"
    assert "store" not in document
    assert decode(document, Gateway) == world.control.gateway
    got = await api.get("/v1/config", headers={"accept": "application/yaml"})
    assert got.headers["content-type"].startswith("application/yaml")
    assert yaml.safe_load(got.text) == document


async def test_keys_are_digests_and_cut_short_for_viewers(api: Client) -> None:
    document, _ = await read(api)
    whole = document["consumers"][0]["keys"][0]
    assert len(whole) == len("sha256:") + 64
    headers = {"authorization": "Bearer grafana-token-1"}
    seen = (await api.get("/v1/config", headers=headers)).json()
    assert seen["consumers"][0]["keys"][0] == whole[:15] + "…"
    assert "demo-key" not in str(document)
    number = (await api.get("/v1/config/revisions")).json()["items"][0]["number"]
    got = await api.get(f"/v1/config/revisions/{number}/diff", headers=headers)
    assert whole[:15] in got.text
    assert whole not in got.text


async def test_put_applies_and_makes_a_revision(api: Client, world: Any) -> None:
    document, match = await read(api)
    document["routes"].append({"name": "ping", "path": "/ping", "respond": {"body": "pong"}})
    done = await api.put("/v1/config", json=document, headers=match)
    assert done.status_code == 200, done.text
    applied = done.json()
    assert applied["generation"] == world.control.generation == 2
    assert applied["revision"] == 2
    (change,) = applied["changes"]
    assert (change["kind"], change["path"]) == ("added", "routes[ping]")
    after, now = await read(api)
    assert now["if-match"] == done.headers["etag"] != match["if-match"]
    assert [route["name"] for route in after["routes"]] == ["read", "ping"]


async def test_put_takes_yaml_and_toml(api: Client, world: Any) -> None:
    document, _ = await read(api)
    document["plans"].append({"name": "silver"})
    headers = {"if-match": "*", "content-type": "application/yaml; charset=utf-8"}
    done = await api.put("/v1/config", content=yaml.safe_dump(document), headers=headers)
    assert done.json()["changes"][0]["path"] == "plans[silver]"
    text = 'version = 1\n[[plans]]\nname = "bronze"\n'
    headers["content-type"] = "application/toml"
    done = await api.put("/v1/config", content=text, headers={**headers, **as_admin(world)})
    assert done.status_code == 200, done.text
    assert [plan.name for plan in world.control.gateway.plans] == ["bronze"]


def as_admin(world: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {world.admin}"}


async def test_put_of_the_same_changes_nothing(api: Client, world: Any) -> None:
    document, match = await read(api)
    done = await api.put("/v1/config", json=document, headers=match)
    assert done.json()["changes"] == []
    assert done.json()["revision"] is None
    assert world.control.generation == 1


async def test_put_needs_the_right_etag(api: Client, world: Any) -> None:
    document, match = await read(api)
    problem = await api.put("/v1/config", json=document)
    is_problem(problem, 428, "precondition_required")
    assert problem.headers["etag"] == match["if-match"]
    document["plans"].append({"name": "silver"})
    assert (await api.put("/v1/config", json=document, headers=match)).status_code == 200
    stale = await api.put("/v1/config", json=document, headers=match)
    is_problem(stale, 412, "stale")
    several = {"if-match": f'"other", {stale.headers["etag"]}'}
    assert (await api.put("/v1/config", json=document, headers=several)).status_code == 200
    assert world.control.generation == 2


async def test_a_dry_run_tells_all_and_does_nothing(api: Client, world: Any) -> None:
    document, match = await read(api)
    document["plans"].append({"name": "silver"})
    done = await api.put("/v1/config?dry_run=true", json=document, headers=match)
    assert done.json()["dry_run"] is True
    assert done.json()["generation"] == 2
    assert done.json()["changes"][0]["path"] == "plans[silver]"
    assert (await read(api))[1] == match
    assert world.control.applied == []
    document["routes"][0]["service"] = "ordres"
    wrong = await api.put("/v1/config?dry_run=true", json=document, headers=match)
    is_problem(wrong, 422, "invalid_configuration")


async def test_a_fault_is_told_with_path_line_and_nearest_name(api: Client, world: Any) -> None:
    text = "version: 1\nroutes:\n  - name: read\n    path: /\n    servise: orders\n"
    headers = {"if-match": "*", "content-type": "application/yaml"}
    response = await api.put("/v1/config", content=text, headers=headers)
    problem = is_problem(response, 422, "invalid_configuration")
    (fault,) = problem["errors"]
    assert fault["path"] == "routes[0].servise"
    assert fault["line"] == 5
    assert "service" in fault["hint"]
    document, match = await read(api)
    document["routes"][0]["service"] = "ordres"
    response = await api.put("/v1/config", json=document, headers=match)
    problem = is_problem(response, 422, "invalid_configuration")
    assert problem["errors"][0]["path"] == "routes[0].service"
    assert world.control.applied == []


async def test_references_are_refused_and_never_taken_literally(
    api: Client, monkeypatch: pytest.MonkeyPatch, world: Any
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "from-the-environment")
    document, match = await read(api)
    document["consumers"].append({"name": "new", "keys": ["${GATEWAY_SECRET}"]})
    document["consumers"].append({"name": "two", "keys": ["file:/etc/hostname"]})
    refused = await api.put("/v1/config", json=document, headers=match)
    problem = is_problem(refused, 422, "invalid_configuration")
    assert [one["path"] for one in problem["errors"]] == [
        "consumers[1].keys[0]",
        "consumers[2].keys[0]",
    ]
    assert "$${" in problem["errors"][0]["hint"]
    assert world.control.applied == []
    assert world.reason_for("${GATEWAY_SECRET}") is None


async def test_what_looks_like_a_reference_can_be_read_and_sent_back(
    api: Client, world: Any
) -> None:
    document, match = await read(api)
    respond = {"body": "$${GATEWAY_SECRET}", "headers": {"X-Where": "$file:here"}}
    document["routes"].append({"name": "template", "path": "/t", "respond": respond})
    done = await api.put("/v1/config", json=document, headers=match)
    assert done.status_code == 200, done.text
    served = world.control.gateway.routes[1].respond
    assert served.body == "${GATEWAY_SECRET}"
    assert served.headers == {"X-Where": "file:here"}
    document, match = await read(api)
    assert document["routes"][1]["respond"] == respond
    again = await api.put("/v1/config", json=document, headers=match)
    assert again.json()["changes"] == []
    got = await api.get("/v1/routes/template")
    again = await api.put(
        "/v1/routes/template", json=got.json(), headers={"if-match": got.headers["etag"]}
    )
    assert again.json()["changes"] == []
    assert again.json()["resource"] == got.json()
    assert world.control.gateway.routes[1].respond == served


async def test_what_cannot_be_served_leaves_the_old(api: Client, world: Any) -> None:
    document, match = await read(api)
    document["plans"].append({"name": "silver"})
    world.control.refuse = ApplyError("worker 1: no module named 'shop'")
    response = await api.put("/v1/config", json=document, headers=match)
    assert "shop" in is_problem(response, 503, "apply_failed")["detail"]
    world.control.refuse = ConfigurationError("conflicts with 'read'", path="routes[1].path")
    response = await api.put("/v1/config", json=document, headers=match)
    assert is_problem(response, 422, "invalid_configuration")["errors"][0]["path"] == (
        "routes[1].path"
    )
    assert (await read(api))[1] == match
    assert len((await api.get("/v1/config/revisions")).json()["items"]) == 1


async def test_a_changed_store_waits_for_the_next_start(
    api: Client, world: Any, as_role: Any
) -> None:
    before = world.control.gateway.store
    document, match = await read(api)
    document["store"] = {"url": "sqlite:////elsewhere.db"}
    operator = await as_role("operator")
    response = await api.put("/v1/config", json=document, headers={**match, **operator})
    assert "role admin" in is_problem(response, 403, "forbidden")["detail"]
    assert world.control.gateway.store == before
    response = await api.put("/v1/config", json=document, headers=match)
    assert response.status_code == 200, response.text
    assert str(world.control.gateway.store.url) == "sqlite:////elsewhere.db"
    del document["store"]  # one without a store keeps it
    match = {"If-Match": response.headers["etag"]}
    assert (await api.put("/v1/config", json=document, headers=match)).status_code == 200
    assert str(world.control.gateway.store.url) == "sqlite:////elsewhere.db"


async def test_a_masked_password_is_not_taken_for_the_password(api: Client, world: Any) -> None:
    document, match = await read(api)
    document["store"] = {"url": "postgresql://u:***@h/d"}
    response = await api.put("/v1/config", json=document, headers=match)
    error = is_problem(response, 422, "invalid_configuration")["errors"][0]
    assert (error["path"], error["message"]) == ("store.url", "the password is masked")


async def test_a_plan_with_consumers_cannot_be_taken_away(api: Client) -> None:
    await api.post("/v1/consumers", json={"name": "acme", "plan": "gold"})
    document, match = await read(api)
    document["plans"] = [plan for plan in document["plans"] if plan["name"] != "gold"]
    response = await api.put("/v1/config", json=document, headers=match)
    assert "gold" in is_problem(response, 422, "invalid_configuration")["detail"]


async def test_an_operator_cannot_make_itself_admin(api: Client, as_role: Any, world: Any) -> None:
    operator = await as_role("operator")
    document, match = await read(api)
    token = {"name": "me", "role": "admin", "token": "a-token-of-mine"}
    document["control"]["tokens"].append(token)
    response = await api.put("/v1/config", json=document, headers={**match, **operator})
    is_problem(response, 403, "forbidden")
    assert world.control.applied == []
    document["control"]["tokens"].pop()
    document["plans"].append({"name": "silver"})
    done = await api.put("/v1/config", json=document, headers={**match, **operator})
    assert done.status_code == 200


async def test_reload_reads_the_file_again(api: Client, world: Any) -> None:
    same = await api.post("/v1/config/reload")
    assert same.json()["generation"] == 2
    assert same.json()["revision"] is None
    world.control.file = decode({"version": 1, "plans": [{"name": "free"}]}, Gateway)
    done = await api.post("/v1/config/reload")
    assert done.json()["generation"] == 3
    newest = (await api.get("/v1/config/revisions")).json()["items"][0]
    assert newest["source"] == "file"
    assert newest["author"] == "admin"
    world.control.file = ConfigurationError("is missing", path="version", line=1, file="gw.yaml")
    problem = is_problem(await api.post("/v1/config/reload"), 422, "invalid_configuration")
    (wrong,) = problem["errors"]
    assert wrong == {"path": "version", "message": "is missing", "file": "gw.yaml", "line": 1}
    assert world.control.generation == 3


async def test_revisions_are_listed_shown_compared_and_undone(api: Client, world: Any) -> None:
    for name in ("one", "two", "three"):
        document, match = await read(api)
        document["plans"].append({"name": name})
        assert (await api.put("/v1/config", json=document, headers=match)).status_code == 200
    first = (await api.get("/v1/config/revisions?limit=3")).json()
    assert [item["number"] for item in first["items"]] == [4, 3, 2]
    assert [item["source"] for item in first["items"]] == ["api"] * 3
    rest = (await api.get(f"/v1/config/revisions?cursor={first['next']}")).json()
    assert [item["number"] for item in rest["items"]] == [1]
    assert rest["next"] is None

    shown = (await api.get("/v1/config/revisions/2")).json()
    assert [plan["name"] for plan in shown["document"]["plans"]] == ["free", "gold", "one"]
    assert shown["parent"] == 1
    diff = (await api.get("/v1/config/revisions/3/diff")).json()
    assert [change["path"] for change in diff["changes"]] == ["plans[two]"]
    assert "+- name: two" in diff["text"]
    wide = (await api.get("/v1/config/revisions/4/diff?against=1")).json()
    assert len(wide["changes"]) == 3
    text = await api.get("/v1/config/revisions/3/diff", headers={"accept": "text/plain"})
    assert text.text == diff["text"]
    is_problem(await api.get("/v1/config/revisions/99"), 404, "not_found")
    is_problem(await api.get(f"/v1/config/revisions/{2**40}"), 404, "not_found")

    dry = await api.post("/v1/config/revisions/1/rollback?dry_run=true")
    assert len(dry.json()["changes"]) == 3
    done = await api.post("/v1/config/revisions/1/rollback")
    assert done.status_code == 200, done.text
    assert done.json()["revision"] == 5
    assert [plan.name for plan in world.control.gateway.plans] == ["free", "gold"]
    newest = (await api.get("/v1/config/revisions/5")).json()
    assert (newest["source"], newest["note"]) == ("rollback", "rollback to revision 1")


async def test_a_rollback_brings_no_token_back(api: Client, world: Any) -> None:
    document, match = await read(api)
    document["control"]["tokens"] = []
    assert (await api.put("/v1/config", json=document, headers=match)).status_code == 200
    grafana = {"authorization": "Bearer grafana-token-1"}
    is_problem(await api.get("/v1/me", headers=grafana), 401, "unauthenticated")
    assert (await api.post("/v1/config/revisions/1/rollback")).status_code == 200
    is_problem(await api.get("/v1/me", headers=grafana), 401, "unauthenticated")
    assert world.control.gateway.control.tokens == []
