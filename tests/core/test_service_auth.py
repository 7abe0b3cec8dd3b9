"""Another service decides about requests: what it is asked, and what follows from its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from enginekit import Backend, GatedBackend, Plane, proxied, until
from test_token_auth import problem

from fastgate.model import digests


@pytest.fixture
async def service() -> AsyncIterator[Backend]:
    service = await Backend(said(204)).start()
    yield service
    await service.stop()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    backend = await Backend().start()
    yield backend
    await backend.stop()


def said(status: int, fields: str = "", body: bytes = b"") -> bytes:
    length = b"" if status in (204, 304) else b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 %d X\r\n%b%b\r\n%b" % (status, fields.encode(), length, body)


def config(service: str, backend: str, **forward: Any) -> dict[str, Any]:
    return proxied(backend, auth={"forward": {"url": f"{service}/verify?x=1", **forward}})


async def test_what_the_service_is_asked(service: Backend, backend: Backend) -> None:
    document = {**config(service.url, backend.url), "trusted_proxies": []}
    async with Plane(document) as plane:
        fields = [
            ("Authorization", "Bearer x"),
            ("Cookie", "a=b"),
            ("X-Forwarded-Uri", "/evil"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("Connection", "X-Hop"),
            ("X-Hop", "1"),
            ("X-Consumer-Id", "evil"),
        ]
        reply = await plane.request("POST", "/a/b?c=d", headers=fields, body=b"the body")
        assert reply.status == 200
    [asked] = service.requests
    assert (asked.method, asked.target, asked.body) == ("GET", "/verify?x=1", b"")
    assert asked.headers["x-forwarded-method"] == "POST"
    assert asked.headers["x-forwarded-uri"] == "/a/b?c=d"
    assert asked.headers["x-forwarded-host"] == "test.example"
    assert asked.headers["x-forwarded-proto"] == "http"
    assert asked.headers["x-forwarded-for"] == "127.0.0.1"
    assert (asked.headers["authorization"], asked.headers["cookie"]) == ("Bearer x", "a=b")
    assert asked.headers["host"] == service.url.removeprefix("http://")
    for name in ("x-hop", "content-length", "x-consumer-id"):
        assert name not in asked.headers
    assert asked.raw.lower().count(b"x-forwarded-uri") == 1
    [seen] = backend.requests
    assert (seen.method, seen.target, seen.body) == ("POST", "/a/b?c=d", b"the body")
    assert seen.headers["authorization"] == "Bearer x"


async def test_it_may_get_listed_fields_only(service: Backend, backend: Backend) -> None:
    async with Plane(config(service.url, backend.url, send=["Cookie", "X-A"])) as plane:
        fields = {"Cookie": "a=b", "X-A": "1", "X-B": "2", "Authorization": "Basic x"}
        assert (await plane.get("/x", headers=fields)).status == 200
    asked = service.requests[0].headers
    assert (asked["cookie"], asked["x-a"]) == ("a=b", "1")
    assert "x-b" not in asked
    assert "authorization" not in asked


async def test_it_lends_fields(service: Backend, backend: Backend) -> None:
    service.respond = said(
        200, "X-User: alice\r\nX-Role: admin\r\nX-Other: no\r\nX-Role: dev\r\n", b"ok"
    )
    document = config(service.url, backend.url, headers=["X-User", "X-Role"])
    async with Plane(document) as plane:
        fields = [("X-User", "evil"), ("x_role", "evil"), ("X.Role", "evil"), ("X-Other", "mine")]
        assert (await plane.get("/x", headers=fields)).status == 200
        seen = backend.requests[-1]
        assert [pair for pair in seen.pairs if pair[0].startswith(("X-User", "X-Role"))] == [
            ("X-User", "alice"),
            ("X-Role", "admin"),
            ("X-Role", "dev"),
        ]
        assert "evil" not in seen.raw.decode()
        assert seen.headers["x-other"] == "mine"
        service.respond = said(204)  # and when it lends none, the client's are removed all the same
        assert (await plane.get("/x", headers=fields)).status == 200
        assert "evil" not in backend.requests[-1].raw.decode()


async def test_it_names_the_consumer(service: Backend, backend: Backend) -> None:
    service.respond = said(200, "X-Who: carol\r\n")
    document = config(service.url, backend.url, consumer="X-Who")
    async with Plane(document, keys={digests.consumer("carol"): "carol"}) as plane:
        assert (await plane.get("/x")).status == 200
        assert backend.requests[-1].headers["x-consumer-id"] == "carol"
        service.respond = said(200, "X-Who: nobody\r\n")
        reply = await plane.get("/x")
        assert (reply.status, problem(reply)["reason"]) == (403, "subject_unknown")


PASSED_ON = [
    (
        302,
        "Location: https://login.example/\r\nSet-Cookie: s=1; Path=/\r\nSet-Cookie: t=2\r\n",
        b"",
    ),
    (307, "Location: /login\r\n", b"go there"),
    (401, "WWW-Authenticate: Negotiate\r\nContent-Type: text/plain\r\n", b"who are you?"),
    (403, "Content-Type: application/json\r\n", b'{"no": 1}'),
    (304, "ETag: x\r\n", b""),
]


@pytest.mark.parametrize(("status", "fields", "body"), PASSED_ON)
async def test_its_refusal_is_the_clients(
    service: Backend, backend: Backend, status: int, fields: str, body: bytes
) -> None:
    service.respond = said(
        status, fields + "Connection: X-Hop\r\nX-Hop: 1\r\nServer: theirs\r\n", body
    )
    async with Plane(config(service.url, backend.url)) as plane:
        client = await plane.client()
        for _ in range(2):
            reply = await client.request("GET", "/x")
            assert (reply.status, reply.body) == (status, body)
            names = {name.lower() for name, _ in reply.pairs}
            for line in fields.splitlines():
                name, _, value = line.partition(": ")
                assert (name, value) in reply.pairs
            assert "x-hop" not in names
            assert "theirs" not in [value for _, value in reply.pairs]
    assert backend.requests == []


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_any_other_answer_is_no_decision(
    service: Backend, backend: Backend, status: int
) -> None:
    service.respond = said(status, "Retry-After: 77\r\n", b"sorry")
    async with Plane(config(service.url, backend.url)) as plane:
        reply = await plane.get("/x")
        assert (reply.status, problem(reply)["reason"]) == (503, "authorization_unavailable")
        assert b"sorry" not in reply.body


async def test_an_answer_that_is_too_long_is_no_decision(
    service: Backend, backend: Backend
) -> None:
    service.respond = said(403, "", b"x" * 70_000)
    async with Plane(config(service.url, backend.url)) as plane:
        assert (await plane.get("/x")).status == 503
        service.respond = said(403, "", b"x" * 60_000)
        reply = await plane.get("/x")
        assert (reply.status, reply.body) == (403, b"x" * 60_000)


async def test_a_service_that_is_away(service: Backend, backend: Backend) -> None:
    async with Plane(config(service.url, backend.url)) as plane:
        await service.stop()
        assert (await plane.get("/x")).status == 503
    assert backend.requests == []


async def test_a_service_that_is_too_slow(backend: Backend) -> None:
    service = GatedBackend()
    await service.start()
    async with Plane(config(service.url, backend.url, timeout="50ms")) as plane:
        reply = await plane.get("/x")
        assert (reply.status, problem(reply)["reason"]) == (503, "authorization_unavailable")
        service.gate.set()
        assert (await plane.get("/x")).status == 200
    await service.stop()


async def test_a_client_may_leave_while_the_service_decides(backend: Backend) -> None:
    service = GatedBackend()
    await service.start()
    async with Plane(config(service.url, backend.url)) as plane:
        client = await plane.client()
        await client.send("POST", "/x", None, b"body")
        await until(lambda: service.requests)
        await client.reset()
        await until(lambda: plane.engine.stats()["exchanges"] == 0)
        service.gate.set()
        assert (await plane.get("/x")).status == 200
    assert len(backend.requests) == 1
    await service.stop()


async def test_a_reload_while_the_service_decides(backend: Backend) -> None:
    service = GatedBackend()
    await service.start()
    async with Plane(config(service.url, backend.url)) as plane:
        reply = asyncio.create_task(plane.request("POST", "/x", body=b"y" * 100_000))
        await until(lambda: service.requests)
        plane.install({"routes": [{"name": "r", "path": "/{rest*}", "respond": {"body": "new"}}]})
        service.gate.set()
        assert (await reply).status == 200
        assert (await plane.get("/x")).body == b"new"
    assert backend.requests[0].body == b"y" * 100_000
    await service.stop()


async def test_the_service_is_asked_for_each_request(service: Backend, backend: Backend) -> None:
    async with Plane(config(service.url, backend.url)) as plane:
        client = await plane.client()
        for _ in range(20):
            assert (await client.request("GET", "/x")).status == 200
    assert len(service.requests) == 20
    assert service.connections == 1


async def test_a_key_first_then_the_service(service: Backend, backend: Backend) -> None:
    document = proxied(backend.url, auth={"any": ["api_key", {"forward": f"{service.url}/v"}]})
    async with Plane(document, keys={"k": "bob"}) as plane:
        assert (await plane.get("/x", headers={"X-Api-Key": "k"})).status == 200
        assert service.requests == []
        assert (await plane.get("/x")).status == 200
        assert len(service.requests) == 1
        assert (await plane.get("/x", headers={"X-Api-Key": "wrong"})).status == 401
        assert len(service.requests) == 1


async def test_a_key_and_the_service(service: Backend, backend: Backend) -> None:
    document = proxied(backend.url, auth={"all": ["api_key", {"forward": f"{service.url}/v"}]})
    async with Plane(document, keys={"k": "bob"}) as plane:
        assert (await plane.get("/x", headers={"X-Api-Key": "k"})).status == 200
        assert len(service.requests) == 1
        assert "x-api-key" not in backend.requests[0].headers
        assert (await plane.get("/x")).status == 401
        assert len(service.requests) == 1


async def test_a_key_and_a_service_that_names_another_consumer(
    service: Backend, backend: Backend
) -> None:
    service.respond = said(200, "X-Who: carol\r\n")
    forward = {"url": f"{service.url}/v", "consumer": "X-Who"}
    document = proxied(backend.url, auth={"all": ["api_key", {"forward": forward}]})
    keys = {"of-carol": "carol", "of-bob": "bob", digests.consumer("carol"): "carol"}
    async with Plane(document, keys=keys) as plane:
        assert (await plane.get("/x", headers={"X-Api-Key": "of-carol"})).status == 200
        reply = await plane.get("/x", headers={"X-Api-Key": "of-bob"})
        assert (reply.status, problem(reply)["reason"]) == (403, "forbidden")


async def test_a_path_that_becomes_longer_fits(service: Backend, backend: Backend) -> None:
    document = config(service.url, backend.url)
    document["routes"][0]["encoded_slash"] = True  # type: ignore[index]
    async with Plane(document) as plane:
        reader, writer = await plane.connect()
        writer.write(b"GET /" + b"\\" * 7000 + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 200")
        writer.close()
    assert service.requests[0].headers["x-forwarded-uri"] == "/" + "%5C" * 7000


async def test_an_engine_that_closes_drops_what_it_asks(backend: Backend) -> None:
    service = GatedBackend()
    await service.start()
    async with Plane(config(service.url, backend.url)) as plane:
        client = await plane.client()
        await client.send("GET", "/x")
        await until(lambda: service.requests)
        assert plane.engine.stats()["subrequests"] == 1
        plane.engine.close()
        assert plane.engine.stats()["subrequests"] == 0
    await service.stop()


async def test_a_bearer_that_is_not_for_tokens_is_passed_on(
    service: Backend, backend: Backend
) -> None:
    corp = {"name": "corp", "issuer": "https://i.example", "jwks_uri": "https://i.example/k"}
    forward = {"forward": f"{service.url}/v"}
    document = {**proxied(backend.url, auth={"any": [{"jwt": "corp"}, forward]}), "issuers": [corp]}
    async with Plane(document) as plane:
        headers = {"Authorization": "Bearer opaque"}
        assert (await plane.get("/x", headers=headers)).status == 200
    assert service.requests[0].headers["authorization"] == "Bearer opaque"
    assert backend.requests[0].headers["authorization"] == "Bearer opaque"


async def test_an_upstream_of_the_document_may_decide(service: Backend, backend: Backend) -> None:
    document = proxied(backend.url, auth={"forward": {"upstream": "auth", "path": "/v?a=b"}})
    document["upstreams"] = [*document["upstreams"], {"name": "auth", "targets": [service.url]}]  # type: ignore[misc]
    async with Plane(document) as plane:
        assert (await plane.get("/x")).status == 200
    assert service.requests[0].target == "/v?a=b"
