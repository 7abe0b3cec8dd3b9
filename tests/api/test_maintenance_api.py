"""Closing routes for maintenance through the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from apikit import Client, is_problem

PATH = "/v1/maintenance"


async def test_routes_are_closed_and_opened_and_keep_their_settings(
    api: Client, world: Any
) -> None:
    before = await api.get(PATH)
    assert before.json() == {"gateway": None, "routes": {}}
    setting = {"message": "Back soon.", "allow": ["10.0.0.0/8"]}
    closed = await api.patch(PATH, json={"routes": {"read": setting}})
    assert closed.status_code == 200, closed.text
    assert closed.json()["generation"] == world.control.generation == 2
    assert closed.json()["revision"] == 2
    assert closed.json()["maintenance"]["routes"]["read"] == {"enabled": True, **setting}
    assert closed.headers["etag"] != before.headers["etag"]
    assert (await api.get("/v1/routes/read")).json()["maintenance"] == setting
    opened = await api.patch(PATH, json={"routes": {"read": False}})
    assert opened.json()["maintenance"]["routes"]["read"] == {"enabled": False, **setting}
    again = await api.patch(PATH, json={"routes": {"read": {"enabled": True, "allow": None}}})
    assert again.json()["maintenance"]["routes"]["read"] == {
        "enabled": True,
        "message": "Back soon.",
    }
    gone = await api.patch(PATH, json={"routes": {"read": None}})
    assert gone.json()["maintenance"] == before.json()
    assert "maintenance" not in (await api.get("/v1/routes/read")).json()


async def test_the_whole_gateway_and_routes_in_one_change(api: Client, world: Any) -> None:
    change = {"gateway": {"retry_after": "1h", "except": ["read"]}, "routes": {"read": True}}
    done = await api.patch(PATH, json=change)
    assert done.json()["generation"] == 2
    gateway = world.control.gateway
    assert gateway.maintenance.enabled
    assert gateway.maintenance.except_ == ["read"]
    assert str(gateway.maintenance.retry_after) == "1h"
    (route,) = [each for each in gateway.routes if each.name == "read"]
    assert route.maintenance.enabled
    assert (await api.get(PATH)).json() == done.json()["maintenance"]
    # It is part of the document like everything else.
    assert (await api.get("/v1/config")).json()["maintenance"]["except"] == ["read"]
    assert (await api.patch(PATH, json={"gateway": False})).status_code == 200
    assert not world.control.gateway.maintenance.enabled
    assert (await api.patch(PATH, json={"gateway": None})).status_code == 200
    assert world.control.gateway.maintenance is None


async def test_a_dry_run_and_a_change_of_nothing(api: Client, world: Any) -> None:
    dry = await api.patch(f"{PATH}?dry_run=true", json={"routes": {"read": True}})
    assert dry.json()["dry_run"] is True
    assert dry.json()["changes"][0]["path"] == "routes[read].maintenance"
    assert world.control.generation == 1
    nothing = await api.patch(PATH, json={})
    assert (nothing.json()["changes"], world.control.generation) == ([], 1)


@pytest.mark.parametrize(
    ("body", "status", "reason", "place"),
    [
        ([], 422, "invalid_member", ""),
        ({"route": {}}, 422, "invalid_member", "route"),
        ({"routes": ["read"]}, 422, "invalid_member", "routes"),
        ({"routes": {"raed": True}}, 404, "not_found", None),
        (
            {"routes": {"read": {"message": "a\nb"}}},
            422,
            "invalid_configuration",
            "routes.read.message",
        ),
        ({"routes": {"read": {"except": []}}}, 422, "invalid_configuration", "routes.read.except"),
        ({"gateway": {"except": ["x"]}}, 422, "invalid_configuration", "maintenance.except[0]"),
        (
            {"routes": {"read": {"enabled": "yes"}}},
            422,
            "invalid_configuration",
            "routes.read.enabled",
        ),
    ],
)
async def test_what_is_refused(
    api: Client, world: Any, body: Any, status: int, reason: str, place: str | None
) -> None:
    problem = is_problem(await api.patch(PATH, json=body), status, reason)
    if place is not None:
        assert problem["errors"][0]["path"] == place
    else:
        assert "Did you mean 'read'?" in problem["detail"]
    assert world.control.generation == 1


async def test_conditions_and_roles(api: Client, as_role: Callable[[str], Any]) -> None:
    etag = (await api.get(PATH)).headers["etag"]
    match = {"if-match": etag}
    assert (await api.patch(PATH, json={"routes": {"read": True}}, headers=match)).is_success
    stale = await api.patch(PATH, json={"routes": {"read": False}}, headers=match)
    is_problem(stale, 412, "stale")
    viewer = await as_role("viewer")
    assert (await api.get(PATH, headers=viewer)).status_code == 200
    refused = await api.patch(PATH, json={"gateway": True}, headers=viewer)
    is_problem(refused, 403, "forbidden")
