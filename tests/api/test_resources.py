"""One resource of the configuration at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from apikit import Client, is_problem
from hypothesis import given
from hypothesis import strategies as st

from fastgate.api.resources import KINDS, merge

BODIES: dict[str, dict[str, Any]] = {
    "routes": {"name": "new", "path": "/new", "service": "orders"},
    "services": {"name": "new", "upstream": "orders"},
    "upstreams": {"name": "new", "targets": ["http://127.0.0.1:9001"]},
    "plans": {"name": "new"},
    "policies": {"name": "new", "limits": ["5/s"]},
}


def test_every_kind_is_tested() -> None:
    assert {kind.plural for kind in KINDS} == set(BODIES)


@pytest.mark.parametrize("plural", BODIES)
async def test_life_of_a_resource(api: Client, world: Any, plural: str) -> None:
    base, body = f"/v1/{plural}", BODIES[plural]
    made = await api.post(base, json=body)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"{base}/new"
    assert made.json()["generation"] == world.control.generation
    assert made.json()["revision"] == 2
    assert made.json()["resource"]["name"] == "new"
    is_problem(await api.post(base, json=body), 409, "conflict")

    got = await api.get(f"{base}/new")
    assert got.json() == made.json()["resource"]
    assert got.headers["etag"] == made.headers["etag"]
    names = [item["name"] for item in (await api.get(base)).json()["items"]]
    assert "new" in names
    assert names == sorted(names)

    is_problem(await api.put(f"{base}/new", json=body), 428, "precondition_required")
    is_problem(await api.put(f"{base}/new", json=body, headers={"if-match": '"x"'}), 412, "stale")
    match = {"if-match": got.headers["etag"]}
    assert (await api.put(f"{base}/new", json=body, headers=match)).status_code == 200
    assert (await api.delete(f"{base}/new", headers={"if-match": '"x"'})).status_code == 412
    gone = await api.delete(f"{base}/new", headers=match)
    assert gone.status_code == 200
    assert gone.json()["resource"] is None
    is_problem(await api.get(f"{base}/new"), 404, "not_found")
    is_problem(await api.delete(f"{base}/new"), 404, "not_found")


async def test_put_creates_and_replaces(api: Client) -> None:
    body = {"path": "/ping", "respond": {"body": "pong"}}
    once = {"if-none-match": "*"}
    assert (await api.put("/v1/routes/ping", json=body, headers=once)).status_code == 201
    is_problem(await api.put("/v1/routes/ping", json=body, headers=once), 412, "stale")
    is_problem(await api.put("/v1/routes/pong", json=body, headers={"if-match": "*"}), 412, "stale")
    other = {**body, "name": "pong"}
    problem = is_problem(
        await api.put("/v1/routes/ping", json=other, headers={"if-match": "*"}),
        422,
        "invalid_member",
    )
    assert problem["errors"][0]["path"] == "name"


async def test_patch_changes_some_members(api: Client) -> None:
    star = {"if-match": "*"}
    patched = await api.patch("/v1/routes/read", json={"priority": 5}, headers=star)
    assert patched.status_code == 200, patched.text
    assert patched.json()["resource"]["priority"] == 5
    assert patched.json()["resource"]["path"] == "/orders/{id}"
    merge_type = {**star, "content-type": "application/merge-patch+json"}
    back = await api.patch("/v1/routes/read", content=b'{"priority": null}', headers=merge_type)
    assert "priority" not in back.json()["resource"]
    is_problem(
        await api.patch("/v1/routes/read", json={"priority": 5}), 428, "precondition_required"
    )
    is_problem(await api.patch("/v1/routes/read", json=[], headers=star), 422, "invalid_member")
    wrong = await api.patch("/v1/routes/read", json={"pirority": 5}, headers=star)
    assert is_problem(wrong, 422, "invalid_configuration")["errors"][0]["path"] == "pirority"


async def test_what_is_referred_to_cannot_go(api: Client, world: Any) -> None:
    problem = is_problem(await api.delete("/v1/services/orders"), 422, "invalid_configuration")
    assert problem["errors"][0]["path"] == "routes[0].service"
    assert world.control.applied == []


async def test_a_wrong_name_gets_the_nearest(api: Client) -> None:
    problem = is_problem(await api.get("/v1/upstreams/ordres"), 404, "not_found")
    assert "Did you mean 'orders'?" in problem["detail"]


async def test_a_dry_run_makes_nothing(api: Client, world: Any) -> None:
    done = await api.post("/v1/plans?dry_run=1", json={"name": "new"})
    assert done.status_code == 200
    assert done.json()["dry_run"] is True
    assert world.control.applied == []


async def test_changes_at_once_all_have_their_way(api: Client, world: Any) -> None:
    bodies = [{"name": f"plan-{number}"} for number in range(8)]
    answers = await asyncio.gather(*(api.post("/v1/plans", json=body) for body in bodies))
    assert [answer.status_code for answer in answers] == [201] * 8
    assert len(world.control.gateway.plans) == 10
    assert sorted(answer.json()["revision"] for answer in answers) == list(range(2, 10))


async def test_one_of_two_that_saw_the_same_is_told(api: Client) -> None:
    match = {"if-match": (await api.get("/v1/routes/read")).headers["etag"]}
    answers = await asyncio.gather(
        *(api.patch("/v1/routes/read", json={"priority": n}, headers=match) for n in (1, 2, 3))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412]


async def test_lists_are_paged_by_name(api: Client) -> None:
    for number in range(5):
        await api.post("/v1/plans", json={"name": f"plan-{number}"})
    names: list[str] = []
    cursor = ""
    while True:
        page = (await api.get(f"/v1/plans?limit=2{cursor}")).json()
        names += [item["name"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert names == ["free", "gold", *(f"plan-{number}" for number in range(5))]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=10,
)


@given(_json, _json)
def test_merge_patch_as_the_rfc_words_it(target: Any, patch: Any) -> None:
    merged = merge(target, patch)
    if not isinstance(patch, dict):
        assert merged == patch
        return
    before = target if isinstance(target, dict) else {}
    for key in before.keys() | patch.keys():
        if key not in patch:
            assert merged[key] == before[key]
        elif patch[key] is None:
            assert key not in merged
        elif isinstance(patch[key], dict):
            assert merged[key] == merge(before.get(key), patch[key])
        else:
            assert merged[key] == patch[key]
    assert merge(merged, patch) == merged


async def test_references_are_refused_in_every_body(api: Client, world: Any) -> None:
    """They belong to the file; here they would become what they look like."""
    route = {"name": "leak", "path": "/leak", "respond": {"body": "${HOME}"}}
    is_problem(await api.post("/v1/routes", json=route), 422, "invalid_configuration")
    put = await api.put("/v1/routes/leak", json=route, headers={"if-match": "*"})
    is_problem(put, 422, "invalid_configuration")
    match = {"if-match": "*"}
    change = {"respond": {"body": "file:/etc/hostname"}, "service": None}
    patched = await api.patch("/v1/routes/read", json=change, headers=match)
    problem = is_problem(patched, 422, "invalid_configuration")
    assert problem["errors"][0]["path"] == "respond.body"
    change["respond"] = {"body": "$file:/etc/hostname"}
    patched = await api.patch("/v1/routes/read", json=change, headers=match)
    assert patched.status_code == 200, patched.text
    assert patched.json()["resource"]["respond"] == change["respond"]
    assert world.control.gateway.routes[0].respond.body == "file:/etc/hostname"
    # What is kept is not looked at again: a change of another member goes through.
    patched = await api.patch("/v1/routes/read", json={"priority": 5}, headers=match)
    assert patched.status_code == 200, patched.text
    assert world.control.gateway.routes[0].respond.body == "file:/etc/hostname"
