"""The built-in route: there on every host, out of the way of others, and gone when it is off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from enginekit import Backend, Plane

from fastgate._core.snapshot.router import Router
from fastgate._core.snapshot.snapshot import RouteFlag, Snapshot
from fastgate.config.compiler import compile_gateway
from fastgate.config.public_route import NAME, PublicSide
from fastgate.config.slots import SlotBook
from fastgate.errors import ConfigurationError
from fastgate.model.codec import decode
from fastgate.sockaddr import pack_unix

PUBLIC = PublicSide("/run/fastgate/public.sock", bytes(range(16)))
BASE: dict[str, Any] = {
    "version": 1,
    "upstreams": [{"name": "up", "targets": ["http://10.0.0.1:9000"]}],
    "services": [{"name": "svc", "upstream": "up"}],
}


def route(name: str, path: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "path": path, "service": "svc", **more}


@contextmanager
def compiled(
    document: dict[str, Any],
    public: PublicSide | None = PUBLIC,
    slots: SlotBook | None = None,
) -> Iterator[Snapshot]:
    image = compile_gateway(
        decode({**BASE, **document}),
        generation=1,
        slots=slots or SlotBook(),
        addresses={},
        public=public,
    )
    try:
        yield Snapshot(image.fd, verify=True)
    finally:
        os.close(image.fd)


def test_it_leads_to_the_socket() -> None:
    with compiled({"routes": [route("r", "/x")]}) as snapshot:
        index = snapshot.routes().index(NAME)
        found = snapshot.route(index)
        assert found["auth"] == 0xFFFFFFFF
        assert found["flags"] & RouteFlag.ROUTE_PRESERVE_HOST
        (limit,) = found["limits"]
        assert limit["name"] == b"fastgate-pages"
        service = snapshot.service(found["service"])
        (target,) = snapshot.upstream(service["upstream"])["targets"]
        assert snapshot.target(target)["sockaddr"] == pack_unix(PUBLIC.socket)


async def test_webhooks_are_not_counted_with_what_people_ask(tmp_path: Path) -> None:
    """A provider that tells much is not refused, and takes nothing from visitors."""
    socket = str(tmp_path / "p.sock")
    backend = await Backend().start(socket)
    async with Plane({"routes": []}, public=PublicSide(socket, bytes(range(16)))) as plane:
        news = "/_fastgate/webhooks/stripe"
        told = [(await plane.request("POST", news, body=b"{}")).status for _ in range(150)]
        assert set(told) == {200}
        asked = [(await plane.get("/_fastgate/problems/x")).status for _ in range(150)]
        assert asked[0] == 200
        assert 429 in asked
        assert (await plane.request("POST", news, body=b"{}")).status == 200
    await backend.stop()


@pytest.mark.parametrize("host", ["", "any.example", "api.example", "x.wild.example"])
@pytest.mark.parametrize("path", ["/_fastgate", "/_fastgate/problems/x", "/%5Ffastgate/x"])
def test_it_matches_on_every_host_beside_any_other_route(host: str, path: str) -> None:
    routes = [
        route("all", "/{rest*}"),
        route("api", "/{rest*}", hosts=["api.example"]),
        route("wild", "/{first}/{rest*}", hosts=["*.wild.example"], priority=100),
    ]
    with compiled({"routes": routes}) as snapshot:
        found = Router(snapshot).find(host=host, path=path.replace("%5F", "_"))
        assert (found.status, found.name) == (200, NAME)


@pytest.mark.parametrize("path", ["/_fastgate", "/_fastgate/x", "/%5ffastgate/x", "/_fastgate/{a}"])
def test_other_routes_may_not_have_its_paths(path: str) -> None:
    document = {"routes": [route("mine", path)]}
    with pytest.raises(ConfigurationError, match="own pages") as caught, compiled(document):
        pass
    assert caught.value.path == "routes[0].path"
    with compiled({**document, "billing": {"public": "off"}}) as snapshot:
        assert snapshot.routes() == ["mine"]


def test_names_that_only_begin_alike_are_free() -> None:
    with compiled({"routes": [route("mine", "/_fastgates/{rest*}")]}) as snapshot:
        assert snapshot.routes() == ["mine", NAME, NAME]


@pytest.mark.parametrize("off", [True, False])
def test_when_it_is_off_nothing_of_it_is_there(off: bool) -> None:
    document = {"routes": [route("r", "/x")], "billing": {"public": "off" if off else "on"}}
    with compiled(document, PUBLIC if off else None) as snapshot:
        assert snapshot.routes() == ["r"]
        assert snapshot.services() == ["svc"]
        assert snapshot.upstreams() == ["up"]


def test_the_slots_of_others_stay_when_it_comes_and_goes() -> None:
    slots = SlotBook()
    with compiled({"routes": [route("a", "/a")]}, None, slots):
        before = dict(slots.routes)
    with compiled({"routes": [route("a", "/a"), route("b", "/b")]}, PUBLIC, slots):
        assert slots.routes.items() >= before.items()
        with_it = dict(slots.routes)
    with compiled({"routes": [route("b", "/b"), route("a", "/a")]}, None, slots):
        assert {name: with_it[name] for name in slots.routes} == slots.routes


def test_a_path_too_long_for_a_socket() -> None:
    long = PublicSide("/" + "x" * 107, PUBLIC.key)
    with pytest.raises(ConfigurationError, match="too long"), compiled({}, long):
        pass
    with compiled({"billing": {"public": "off"}}, long):
        pass


async def test_requests_reach_the_pages_as_they_were_sent(tmp_path: Path) -> None:
    path = str(tmp_path / "public.sock")
    backend = await Backend().start(path)
    config = {"routes": [{"name": "all", "path": "/{rest*}", "respond": {"status": 204}}]}
    async with Plane(config, public=PublicSide(path, PUBLIC.key)) as plane:
        reply = await plane.request(
            "POST",
            "/_fastgate/webhooks/stripe?a=b",
            headers={"Authorization": "Bearer key", "Stripe-Signature": "t=1", "Host": "a.example"},
            body=b'{"raw" : 1}',
        )
        assert reply.status == 200
        assert (await plane.get("/else")).status == 204
    (seen,) = backend.requests
    assert (seen.method, seen.target) == ("POST", "/_fastgate/webhooks/stripe?a=b")
    assert seen.headers["authorization"] == "Bearer key"
    assert seen.headers["stripe-signature"] == "t=1"
    assert seen.headers["host"] == "a.example"
    assert seen.body == b'{"raw" : 1}'
    await backend.stop()


async def test_without_the_pages_everything_else_continues(tmp_path: Path) -> None:
    config = {"routes": [{"name": "x", "path": "/x", "respond": {"status": 204}}]}
    async with Plane(config, public=PublicSide(str(tmp_path / "none"), PUBLIC.key)) as plane:
        assert (await plane.get("/_fastgate/problems")).status in (502, 503)
        assert (await plane.get("/x")).status == 204


# ---- challenges of ACME authorities -----------------------------------------------------

CHALLENGE = "/.well-known/acme-challenge/LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
LISTENERS = [{"bind": ":80"}, {"name": "tls", "bind": ":443", "tls": True}]


def ordering(*hosts: str, challenge: str = "http-01", **more: Any) -> dict[str, Any]:
    """A document with a certificate that is ordered."""
    return {
        "listeners": LISTENERS,
        "certificates": [{"name": "shop", "hosts": list(hosts), "acme": "letsencrypt"}],
        "acme": [{"name": "letsencrypt", "challenge": challenge}],
        **more,
    }


@pytest.mark.parametrize("public", ["on", "off"])
@pytest.mark.parametrize("host", ["", "shop.example", "a.wild.example", "other.example"])
def test_challenges_are_answered_on_every_host_that_is_proved(public: str, host: str) -> None:
    routes = [
        route("all", "/{rest*}"),
        route("known", "/.well-known/{rest*}", hosts=["shop.example"]),
        route("wild", "/{first}/{rest*}", hosts=["*.wild.example"], priority=100),
        route("other", "/.well-known/acme-challenge/{rest*}", hosts=["other.example"]),
    ]
    document = ordering("shop.example", "a.wild.example", routes=routes, billing={"public": public})
    with compiled(document) as snapshot:
        found = Router(snapshot).find(host=host, path=CHALLENGE)
        expected = "other" if host == "other.example" else NAME
        assert (found.status, found.name) == (200, expected)
        below = Router(snapshot).find(host=host, path=f"{CHALLENGE}/x")
        assert below.name != NAME
        pages = Router(snapshot).find(host=host, path="/_fastgate/problems")
        assert (pages.name == NAME) is (public == "on")


@pytest.mark.parametrize(
    "document",
    [
        {},
        ordering("shop.example", challenge="tls-alpn-01"),
        {
            "listeners": LISTENERS,
            "certificates": [{"name": "a", "cert": "path:/a.pem", "hosts": ["shop.example"]}],
        },
    ],
)
def test_without_http_01_the_path_is_free(document: dict[str, Any]) -> None:
    mine = [route("mine", "/.well-known/acme-challenge/{rest*}")]
    with compiled({**document, "routes": mine}) as snapshot:
        assert Router(snapshot).find(host="shop.example", path=CHALLENGE).name == "mine"
    with compiled({**document, "billing": {"public": "off"}}) as snapshot:
        assert snapshot.routes() == []


@pytest.mark.parametrize("hosts", [[], ["shop.example"], ["*.example"], ["a.other", "*.example"]])
@pytest.mark.parametrize(
    "path",
    [CHALLENGE, "/.well-known/acme-challenge/{x}", "/.well-known/%61cme-challenge"],
)
def test_other_routes_may_not_answer_challenges(hosts: list[str], path: str) -> None:
    document = ordering("shop.example", routes=[route("mine", path, hosts=hosts)])
    with (
        pytest.raises(ConfigurationError, match="to prove the hosts of") as caught,
        compiled(document),
    ):
        pass
    assert caught.value.path == "routes[0].path"
    assert "tls-alpn-01" in str(caught.value)


async def test_challenges_reach_control_and_have_a_limit_of_their_own(tmp_path: Path) -> None:
    path = str(tmp_path / "public.sock")
    backend = await Backend().start(path)
    document = ordering("shop.example", billing={"public": "off"}, routes=[])
    del document["listeners"]
    document["acme"] = []
    async with Plane(document, public=PublicSide(path, PUBLIC.key)) as plane:
        reply = await plane.get(CHALLENGE, headers={"Host": "shop.example"})
        assert reply.status == 200
        assert (await plane.get("/_fastgate/problems")).status == 404
        asked = [(await plane.get(CHALLENGE)).status for _ in range(300)]
        assert 429 in asked
    assert {seen.target for seen in backend.requests} == {CHALLENGE}
    assert backend.requests[0].headers["host"] == "shop.example"
    await backend.stop()
