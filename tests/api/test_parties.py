"""Accounts, consumers and credentials through the API; what workers then say."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apikit import Client, is_problem

from fastgate._core.reason import Reason
from fastgate._core.shared.credentials import CredentialIndex
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.identity.identity import Identity
from fastgate.model.values import KeyDigest


async def test_life_of_an_account(api: Client) -> None:
    made = await api.post("/v1/accounts", json={"name": "Acme Ltd"})
    assert made.status_code == 201
    account = made.json()
    assert made.headers["location"] == f"/v1/accounts/{account['id']}"
    assert made.headers["etag"] == '"1"'
    is_problem(await api.post("/v1/accounts", json={"name": "Acme Ltd"}), 409, "conflict")
    assert (await api.get("/v1/accounts/Acme%20Ltd")).json() == account
    path = f"/v1/accounts/{account['id']}"
    is_problem(await api.patch(path, json={"name": "Acme"}), 428, "precondition_required")
    renamed = await api.patch(path, json={"name": "Acme"}, headers={"if-match": '"1"'})
    assert renamed.json()["name"] == "Acme"
    assert renamed.headers["etag"] == '"2"'
    is_problem(await api.patch(path, json={"name": "X"}, headers={"if-match": '"1"'}), 412, "stale")
    await api.post("/v1/consumers", json={"name": "app", "account": "Acme"})
    is_problem(await api.delete(path), 409, "conflict")
    assert (await api.get("/v1/consumers?account=Acme")).json()["items"][0]["name"] == "app"
    assert (await api.delete("/v1/consumers/app")).status_code == 204
    assert (await api.delete(path)).status_code == 204
    is_problem(await api.get(path), 404, "not_found")


async def test_life_of_a_consumer(api: Client, world: Any) -> None:
    made = await api.post("/v1/consumers", json={"name": "acme", "plan": "gold"})
    assert made.status_code == 201
    consumer = made.json()
    assert consumer["id"].startswith("con_")
    assert consumer["source"] == "store"
    is_problem(await api.post("/v1/consumers", json={"name": "acme"}), 409, "conflict")
    key = (await api.post("/v1/consumers/acme/credentials")).json()["key"]
    assert world.reason_for(key) == 0

    path = f"/v1/consumers/{consumer['id']}"
    is_problem(await api.patch(path, json={"suspended": True}), 428, "precondition_required")
    is_problem(await api.patch(path, json={}, headers={"if-match": "*"}), 422, "invalid_member")
    changed = await api.patch(path, json={"suspended": True}, headers={"if-match": '"1"'})
    assert changed.json()["suspended"] is True
    assert changed.json()["plan"] == "gold"
    assert world.reason_for(key) == Reason.CONSUMER_SUSPENDED
    body = {"suspended": False, "plan": None}
    changed = await api.patch(path, json=body, headers={"if-match": changed.headers["etag"]})
    assert changed.json()["plan"] is None
    assert world.reason_for(key) == 0
    is_problem(await api.delete(path, headers={"if-match": '"1"'}), 412, "stale")
    assert (await api.delete(path)).status_code == 204
    assert world.reason_for(key) == Reason.CREDENTIAL_REVOKED
    is_problem(await api.get(path), 404, "not_found")


def own_of(world: Any, key: str) -> dict[int, int]:
    """What the workers' index says: the amounts of a caller's own limits."""
    found = world.identity.index.find(key)
    return {own.key: own.amount for own in found.consumer.overrides}


BURST = stable_hash("override:rate/burst")


async def test_own_numbers_for_limits(api: Client, world: Any) -> None:
    plan = await api.get("/v1/plans/gold")
    gold = {**plan.json(), "limits": [{"by": ["consumer"], "rate": "5/s", "name": "burst"}]}
    tag = {"if-match": plan.headers["etag"]}
    put = await api.put("/v1/plans/gold", json=gold, headers=tag)
    assert put.status_code == 200, put.text

    body = {"name": "acme", "plan": "gold", "limits": {"burst": {"rate": "500/s", "burst": 900}}}
    made = await api.post("/v1/consumers", json=body)
    assert made.json()["limits"] == body["limits"]
    key = (await api.post("/v1/consumers/acme/credentials")).json()["key"]
    assert own_of(world, key) == {BURST: 900}

    path = "/v1/consumers/acme"
    for limits, member, words in [
        ({"brust": {"rate": "9/s"}}, "limits.brust", "Did you mean 'burst'?"),
        ({"burst": {"max": 9}}, "limits.burst", "Write 'rate'"),
        ({"burst": {}}, "limits.burst", "exactly one of rate, requests, max"),
        ({"burst": {"rate": "often"}}, "limits.burst.rate", "not a rate"),
    ]:
        answer = await api.patch(path, json={"limits": limits}, headers={"if-match": "*"})
        is_problem(answer, 422, "invalid_member")
        (fault,) = answer.json()["errors"]
        assert fault["path"] == member
        assert words in fault["message"]
    assert own_of(world, key) == {BURST: 900}

    changed = await api.patch(
        path, json={"limits": {"burst": {"rate": "7/s"}}}, headers={"if-match": "*"}
    )
    assert changed.json()["limits"] == {"burst": {"rate": "7/s"}}
    assert own_of(world, key) == {BURST: 7}
    await api.patch(path, json={"suspended": True}, headers={"if-match": "*"})
    assert own_of(world, key) == {BURST: 7}, "a change of something else leaves them"

    await world.identity.sync()
    assert own_of(world, key) == {BURST: 7}
    again = Identity(CredentialIndex.create(64), cache=world.identity._cache.path)
    again.load_cache()
    again.configure(world.control.gateway, {"gold": 1})
    assert again.directory.parties[made.json()["id"]].record.limits == {"burst": {"rate": "7/s"}}

    changed = await api.patch(path, json={"limits": {}}, headers={"if-match": "*"})
    assert changed.json()["limits"] == {}
    assert own_of(world, key) == {}


async def test_seeds_are_listed_first_and_cannot_be_changed(api: Client) -> None:
    for name in ("b", "a", "c"):
        await api.post("/v1/consumers", json={"name": name, "plan": "free"})
    seen: list[tuple[str, str]] = []
    cursor = ""
    while True:
        page = (await api.get(f"/v1/consumers?limit=1&plan=free{cursor}")).json()
        seen += [(item["name"], item["source"]) for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == [("demo", "config"), ("b", "store"), ("a", "store"), ("c", "store")]
    assert (await api.get("/v1/consumers?plan=gold")).json() == {"items": [], "next": None}
    seed = (await api.get("/v1/consumers/demo")).json()
    assert (seed["id"], seed["plan"], seed["created"]) == ("demo", "free", None)
    (key,) = (await api.get("/v1/consumers/demo/credentials")).json()["items"]
    assert key["source"] == "config"
    star = {"if-match": "*"}
    for response in (
        await api.patch("/v1/consumers/demo", json={"suspended": True}, headers=star),
        await api.delete("/v1/consumers/demo"),
        await api.post("/v1/consumers/demo/credentials"),
        await api.post("/v1/consumers", json={"name": "demo"}),
        await api.delete(f"/v1/consumers/demo/credentials/{key['id']}"),
    ):
        assert "configuration" in is_problem(response, 409, "conflict")["detail"]


async def test_a_key_is_shown_once(api: Client, world: Any) -> None:
    await api.post("/v1/consumers", json={"name": "acme"})
    body = {"label": "laptop", "environment": "live"}
    made = await api.post("/v1/consumers/acme/credentials", json=body)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    credential = made.json()
    assert credential["key"].startswith("fg_live_")
    assert credential["state"] == "active"
    assert credential["key"].startswith(credential["prefix"])
    path = made.headers["location"]
    for response in (await api.get(path), await api.get("/v1/consumers/acme/credentials")):
        assert response.status_code == 200
        assert credential["key"] not in response.text
    assert "key" not in (await api.get(path)).json()


async def test_revoking_is_felt_when_it_answers(api: Client, world: Any) -> None:
    await api.post("/v1/consumers", json={"name": "acme"})
    made = await api.post("/v1/consumers/acme/credentials")
    path = made.headers["location"]
    is_problem(await api.delete(path, headers={"if-match": '"9"'}), 412, "stale")
    assert world.reason_for(made.json()["key"]) == 0
    revoked = await api.delete(path)
    assert revoked.json()["state"] == "revoked"
    assert world.reason_for(made.json()["key"]) == Reason.CREDENTIAL_REVOKED
    again = await api.delete(path)
    assert again.json()["revoked_at"] == revoked.json()["revoked_at"]
    is_problem(await api.delete(path + "x"), 404, "not_found")
    is_problem(await api.get("/v1/consumers/acme/credentials/a%00b"), 404, "not_found")


async def test_rotation_with_overlap(api: Client, world: Any) -> None:
    await api.post("/v1/consumers", json={"name": "acme"})
    old = await api.post("/v1/consumers/acme/credentials", json={"label": "ci"})
    path = old.headers["location"]
    new = await api.post(f"{path}/rotate", json={"overlap": 3600})
    assert new.status_code == 201
    assert new.json()["label"] == "ci"
    assert world.reason_for(old.json()["key"]) == world.reason_for(new.json()["key"]) == 0
    assert (await api.get(path)).json()["expires_at"] is not None
    third = await api.post(f"{new.headers['location']}/rotate")
    assert world.reason_for(new.json()["key"]) == Reason.CREDENTIAL_REVOKED
    assert world.reason_for(third.json()["key"]) == 0
    is_problem(await api.post(f"{path}/rotate", json={"overlap": -1}), 422, "invalid_member")


async def test_expiry_can_be_set_moved_and_taken_back(api: Client, world: Any) -> None:
    await api.post("/v1/consumers", json={"name": "acme"})
    base = "/v1/consumers/acme/credentials"
    past = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    is_problem(await api.post(base, json={"expires_at": past}), 422, "invalid_member")
    naive = {"expires_at": "2030-01-01T00:00:00"}
    assert is_problem(await api.post(base, json=naive), 422, "invalid_member")["errors"][0][
        "path"
    ] == ("expires_at")
    made = await api.post(base, json={"expires_at": "2099-01-01T00:00:00+02:00"})
    assert made.json()["expires_at"] == "2098-12-31T22:00:00Z"
    path = made.headers["location"]
    done = await api.patch(path, json={"expires_at": past}, headers={"if-match": "*"})
    assert done.json()["state"] == "expired"
    assert world.reason_for(made.json()["key"]) == Reason.CREDENTIAL_EXPIRED
    done = await api.patch(path, json={"expires_at": None}, headers={"if-match": "*"})
    assert done.json()["state"] == "active"
    assert world.reason_for(made.json()["key"]) == 0


async def test_a_key_from_elsewhere(api: Client, world: Any) -> None:
    await api.post("/v1/consumers", json={"name": "acme"})
    base = "/v1/consumers/acme/credentials"
    made = await api.post(base, json={"key": "from-another-gateway-1"})
    assert made.status_code == 201
    assert "key" not in made.json()
    assert world.reason_for("from-another-gateway-1") == 0
    is_problem(await api.post(base, json={"key": "from-another-gateway-1"}), 409, "conflict")
    is_problem(await api.post(base, json={"key": "short"}), 422, "invalid_member")
    is_problem(
        await api.post(base, json={"key": "a-key-of-another-gateway\n"}), 422, "invalid_member"
    )
    is_problem(await api.post(base, json={"key": "demo-key-0123456789"}), 409, "conflict")


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("1234567", False),
        ("12345678", True),
        ("k" * 512, True),
        ("k" * 513, False),
        ("a key 8", False),
    ],
)
async def test_keys_are_the_same_in_the_configuration_and_here(
    api: Client, key: str, good: bool
) -> None:
    await api.post("/v1/consumers", json={"name": "acme"})
    made = await api.post("/v1/consumers/acme/credentials", json={"key": key})
    assert made.status_code == (201 if good else 422)
    if good:
        assert KeyDigest.parse(key) == KeyDigest.of(key)
    else:
        with pytest.raises(ValueError, match="8 to 512"):
            KeyDigest.parse(key)


async def test_many_at_once(api: Client, world: Any) -> None:
    await api.post("/v1/consumers", json={"name": "acme"})
    made = await asyncio.gather(*(api.post("/v1/consumers/acme/credentials") for _ in range(30)))
    assert {one.status_code for one in made} == {201}
    keys = {one.json()["key"] for one in made}
    assert len(keys) == 30
    assert {world.reason_for(key) for key in keys} == {0}
    paths = [one.headers["location"] for one in made]
    await asyncio.gather(*(api.delete(path) for path in paths))
    assert {world.reason_for(key) for key in keys} == {Reason.CREDENTIAL_REVOKED}


async def test_a_reference_is_no_key(api: Client, world: Any) -> None:
    """Whoever forgets to let the shell fill it in must not get a key that can be guessed."""
    await api.post("/v1/consumers", json={"name": "acme"})
    path = "/v1/consumers/acme/credentials"
    refused = await api.post(path, json={"key": "${ACME_API_KEY_OLD}"})
    problem = is_problem(refused, 422, "invalid_member")
    assert problem["errors"][0]["path"] == "key"
    assert world.reason_for("${ACME_API_KEY_OLD}") is None
    made = await api.post(path, json={"key": "$${ACME_API_KEY_OLD}"})
    assert made.status_code == 201, made.text
    assert world.reason_for("${ACME_API_KEY_OLD}") == 0
