"""Every place of an API key: one of them authenticates, none of them is forwarded."""

from __future__ import annotations

import orjson
import pytest
from enginekit import Backend, Plane, proxied

from fastgate._core.shared.credentials import key_digest

KEY = "dee-key"
KEYS = {KEY: "dee", "a/b+c%d": "dee"}
ALL = {"header": "X-Api-Key", "query": "api_key", "bearer": True}


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


def keyed(backend: Backend, **api_key: object) -> dict[str, object]:
    return proxied(backend.url, auth={"api_key": api_key})


@pytest.mark.parametrize(
    ("path", "target", "headers"),
    [
        ("/", "/", [("X-Api-Key", KEY), ("x-api-key", KEY)]),
        ("/", "/", [("X-Api-Key", KEY), ("X-API-KEY", "another"), ("X-Api-Key", "")]),
        ("/", "/", [("X-Api-Key", KEY), ("Authorization", f"Bearer {KEY}")]),
        ("/", "/", [("X-Api-Key", ""), ("Authorization", f"bearer   {KEY}")]),
        ("/", "/", [("X-Api-Key", KEY), ("Authorization", f"Bearer\t{KEY}")]),
        ("/", "/", [("Authorization", f"Bearer {KEY}"), ("authorization", f"BEARER {KEY}")]),
        (f"/?api_key={KEY}", "/", [("X-Api-Key", KEY)]),
        (f"/?a=1&api_key={KEY}", "/?a=1", [("Authorization", f"Bearer {KEY}")]),
        (f"/?api_key={KEY}&b=&api_key={KEY}&&c", "/?b=&&c", []),
        (f"/?%61pi%5fkey={KEY}&a=%20", "/?a=%20", []),
        (f"/?a=1&api%5Fkey={KEY}&b=api_key", "/?a=1&b=api_key", [("X-Api-Key", KEY)]),
        ("/?api_key&api_key=&x=1", "/?x=1", [("X-Api-Key", KEY)]),
        ("/?api_key=dee%2Dkey", "/", []),
        ("/?api_key=%64ee-key&api_keys=1", "/?api_keys=1", []),
        ("/?api_key=a%2Fb%2bc%25d", "/", []),
    ],
)
async def test_a_key_reaches_no_upstream_from_any_place(backend, path, target, headers):
    async with Plane(keyed(backend, **ALL), keys=KEYS) as plane:
        assert (await plane.get(path, headers=headers)).status == 200
    (seen,) = backend.requests
    assert seen.target == target
    for secret in (KEY.encode(), b"dee%", b"%64", b"a%2F", b"another", b"earer", b"api-key"):
        assert secret not in seen.raw, secret


async def test_what_is_no_place_of_a_key_passes(backend):
    async with Plane(keyed(backend, **ALL), keys=KEYS) as plane:
        headers = [
            ("X-Api-Key", KEY), ("Authorization", "Basic YTpi"), ("X-Api-Keys", "1"),
            ("authorization", "BearerX 1"),
        ]  # fmt: skip
        assert (await plane.get("/?", headers=headers)).status == 200
        quiet = keyed(backend, header="X-Api-Key", bearer=False)
        plane.install(quiet)
        headers = [("X-Api-Key", KEY), ("Authorization", "Bearer theirs")]
        assert (await plane.get("/?api_key=1", headers=headers)).status == 200
    first, second = backend.requests
    assert first.target == "/?"
    assert [value for name, value in first.pairs if name.lower() == "authorization"] == [
        "Basic YTpi",
        "BearerX 1",
    ]
    assert first.headers["x-api-keys"] == "1"
    assert second.headers["authorization"] == "Bearer theirs"
    assert second.target == "/?api_key=1"


async def test_a_name_with_underscores_that_reads_as_the_keys_is_hidden_too(backend):
    document = {**keyed(backend, **ALL), "headers": {"underscores": "allow"}}
    async with Plane(document, keys=KEYS) as plane:
        headers = {"X-Api-Key": KEY, "X_Api_Key": KEY, "X.Api~Key": KEY, "X_Other": "1"}
        assert (await plane.get("/", headers=headers)).status == 200
    assert "x_other" in backend.requests[0].headers
    assert "x_api_key" not in backend.requests[0].headers


async def test_a_route_that_forwards_the_key_forwards_all_of_it(backend):
    async with Plane(keyed(backend, **ALL, forward=True), keys=KEYS) as plane:
        headers = [("X-Api-Key", KEY), ("Authorization", f"Bearer {KEY}")]
        assert (await plane.get(f"/?api_key={KEY}&a=1", headers=headers)).status == 200
    (seen,) = backend.requests
    assert seen.target == f"/?api_key={KEY}&a=1"
    assert seen.headers["x-api-key"] == KEY
    assert seen.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("bearer", [True, False])
async def test_authorization_as_the_routes_own_header(backend, bearer):
    document = keyed(backend, header="Authorization", bearer=bearer)
    async with Plane(document, keys=KEYS) as plane:
        missing = await plane.get("/")
        assert ("Bearer" in missing.headers["www-authenticate"]) is bearer
        for value, good in [
            (f"Bearer {KEY}", bearer),
            (f"bearer {KEY}", bearer),
            (KEY, True),
            ("Bearer nope", False),
            ("Bearer", False),
        ]:
            reply = await plane.get("/", headers={"Authorization": value})
            assert reply.status == (200 if good else 401), value
    assert all("authorization" not in seen.headers for seen in backend.requests)


@pytest.mark.parametrize("size", [8, 511, 512, 513, 1024, 1025, 4000])
async def test_a_key_is_never_cut_before_it_is_looked_up(backend, size):
    long = "k" * 512
    query = {"header": "X-Api-Key", "query": "api_key"}
    async with Plane(keyed(backend, **query), keys={"k" * 512: "dee", "k" * 8: "dee"}) as plane:
        key = "k" * size
        expected = 200 if size in (8, 512) else 401
        for path, headers in [
            ("/", {"X-Api-Key": key}),
            ("/", {"Authorization": f"Bearer {key}"}),
            (f"/?api_key={key}", {}),
            (f"/?api_key={key.replace('k', '%6b')}" if size <= 1025 else f"/?api_key={key}", {}),
        ]:
            assert (await plane.get(path, headers=headers)).status == expected, (path, headers)
        assert (await plane.get("/", headers={"X-Api-Key": long + "x"})).status == 401


async def test_a_handler_sees_and_forwards_no_key(backend):
    async def handler(x):
        if x.path == "/forward":
            x.relay(await x.forward("u"))
            return
        await x.respond(
            200, {"Content-Type": "application/json"}, orjson.dumps([x.query, list(x.headers)])
        )

    document = proxied(backend.url, service=None, handler="handlers:one", auth={"api_key": ALL})
    document["routes"][0].pop("service")
    async with Plane(document, keys=KEYS, handlers={"handlers:one": handler}) as plane:
        headers = [
            ("X-Api-Key", KEY), ("Authorization", f"Bearer {KEY}"), ("X-Consumer-ID", "admin"),
            ("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Prefix", "/x"), ("X_Under", "1"),
        ]  # fmt: skip
        seen = await plane.get(f"/see?a=1&api_key={KEY}", headers=headers)
        assert KEY.encode() not in seen.body
        query, fields = orjson.loads(seen.body)
        assert query == "a=1"
        assert [name.lower() for name, _ in fields] == ["host"]
        passed = await plane.get(f"/forward?a=1&api_key={KEY}", headers=headers)
        assert passed.body == b"GET /forward?a=1"
    (seen,) = backend.requests
    assert KEY.encode() not in seen.raw
    assert seen.headers["x-consumer-id"] == "dee"
    assert seen.headers["x-forwarded-for"] == "127.0.0.1"
    assert "x-forwarded-prefix" not in seen.headers
    assert "x_under" not in seen.headers
    assert seen.headers["via"] == "1.1 fastgate"


async def test_a_refused_key_stands_in_no_answer(backend):
    async with Plane(keyed(backend, **ALL), keys=KEYS) as plane:
        plane.index.revoke(key_digest(KEY))
        for accept in ("application/json", "text/html", "text/markdown"):
            for headers in ({"X-Api-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
                reply = await plane.get(f"/x?api_key={KEY}", headers={**headers, "Accept": accept})
                assert reply.status == 401
                assert KEY.encode() not in reply.body
                assert not any(KEY in value for _, value in reply.pairs)
