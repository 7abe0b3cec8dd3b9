"""Cross-origin requests: where a route has a policy, it alone counts."""

from __future__ import annotations

import asyncio

import pytest
from enginekit import Backend, Plane, Reply, Seen, proxied

APP = "https://app.example"
EVIL = "https://evil.example"
THEIRS = (
    b"Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n"
    b"Access-Control-Expose-Headers: X-Theirs\r\naccess-control-request-method: X\r\n"
    b"ACCESS-CONTROL-MAX-AGE: 5\r\nX-Kept: 1\r\nVary: Accept-Encoding\r\n"
)


@pytest.fixture
async def backend():
    backend = Backend(b"HTTP/1.1 200 OK\r\n" + THEIRS + b"Content-Length: 2\r\n\r\nhi")
    await backend.start()
    yield backend
    await backend.stop()


def controls(reply: Reply) -> list[tuple[str, str]]:
    """The Access-Control-* fields, but which of the gateway's own scripts may read."""
    found = [(n.lower(), v) for n, v in reply.pairs if n.lower().startswith("access-control-")]
    return sorted(pair for pair in found if pair[0] != "access-control-expose-headers")


def vary(reply: Reply) -> set[str]:
    return {
        word.strip().lower()
        for name, value in reply.pairs
        if name.lower() == "vary"
        for word in value.split(",")
    }


ALLOWED = [("access-control-allow-origin", APP)]


def cors(*urls: str, **route: object) -> dict[str, object]:
    return proxied(*urls, cors={"origins": [APP]}, **route)


async def test_an_upstreams_own_fields_do_not_stay_beside_the_routes(backend):
    async with Plane(cors(backend.url)) as plane:
        allowed = await plane.get("/", headers={"Origin": APP})
        assert controls(allowed) == ALLOWED
        assert "X-Theirs" not in allowed.headers["access-control-expose-headers"]
        assert vary(allowed) == {"origin", "accept-encoding"}
        assert allowed.headers["x-kept"] == "1"
        refused = await plane.get("/", headers={"Origin": EVIL})
        assert controls(refused) == []
        assert vary(refused) == {"origin", "accept-encoding"}
        without = await plane.get("/")
        assert controls(without) == []
        # A cache may not give it to an origin.
        assert vary(without) == {"origin", "accept-encoding"}
        options = await plane.request("OPTIONS", "/", headers={"Origin": APP})
        assert controls(options) == ALLOWED


async def test_a_route_without_a_policy_leaves_the_upstreams_fields(backend):
    async with Plane(proxied(backend.url)) as plane:
        reply = await plane.get("/", headers={"Origin": EVIL})
    assert ("access-control-allow-origin", "*") in controls(reply)
    assert vary(reply) == {"accept-encoding"}


async def test_any_origin_is_answered_alike(backend):
    async with Plane(proxied(backend.url, cors={"origins": ["*"]})) as plane:
        for headers in ({"Origin": EVIL}, {}):
            reply = await plane.get("/", headers=headers)
            assert controls(reply) == [("access-control-allow-origin", "*")]
            assert vary(reply) == {"accept-encoding"}


async def test_preflights_are_the_gateways(backend):
    ask = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-a"}
    async with Plane(cors(backend.url)) as plane:
        allowed = await plane.request("OPTIONS", "/", headers={**ask, "Origin": APP})
        assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (204, APP)
        assert vary(allowed) == {"origin"}
        refused = await plane.request("OPTIONS", "/", headers={**ask, "Origin": EVIL})
        assert controls(refused) == []
        assert vary(refused) == {"origin"}
    assert backend.requests == []


@pytest.mark.parametrize("how", ["respond", "start", "relay"])
async def test_a_handlers_own_fields_do_not_stay_either(backend, how):
    mine = {
        "Access-Control-Allow-Origin": "*", "Access-Control-Max-Age": "1", "X-Mine": "1",
    }  # fmt: skip

    async def handler(x):
        if how == "respond":
            await x.respond(200, mine, b"hi")
        elif how == "start":
            await x.start(200, mine)
            await x.write(b"hi")
            x.finish()
        else:
            x.relay(await x.forward("u"), mine)

    document = cors(backend.url, handler="handlers:one")
    document["routes"][0].pop("service")
    async with Plane(document, handlers={"handlers:one": handler}) as plane:
        for origin, expected in ((APP, ALLOWED), (EVIL, [])):
            reply = await plane.get("/", headers={"Origin": origin})
            assert (reply.body, reply.headers["x-mine"]) == (b"hi", "1")
            assert controls(reply) == expected


async def test_fixed_answers_and_refusals_are_readable(backend):
    document = cors(
        backend.url,
        auth={"api_key": {}},
        limits=[{"by": ["address"], "rate": "1/min", "burst": 2}],
    )
    document["routes"].append(
        {"name": "fixed", "path": "/fixed", "respond": {"body": "x"}, "cors": {"origins": [APP]}}
    )
    async with Plane(document) as plane:
        assert controls(await plane.get("/fixed", headers={"Origin": APP})) == ALLOWED
        assert controls(await plane.get("/fixed", headers={"Origin": EVIL})) == []
        statuses = []
        for _ in range(3):
            reply = await plane.get("/", headers={"Origin": APP})
            statuses.append(reply.status)
            assert controls(reply) == ALLOWED
            assert "origin" in vary(reply)
            shown = reply.headers["access-control-expose-headers"].lower().split(", ")
            assert {"retry-after", "ratelimit", "x-request-id", "www-authenticate"} <= set(shown)
        assert statuses == [401, 401, 429]


async def test_an_upstream_that_fails_and_hints_that_come_early():
    async def hint(_, __):
        return (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n" + THEIRS + b"\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        )

    backend = await Backend(hint).start()
    async with Plane(cors(backend.url)) as plane:
        client = await plane.client()
        assert (await client.request("GET", "/", {"Origin": APP})).status == 200
        (early,) = client.informational
        names = [name.lower() for name, _ in early.headers]
        assert b"link" in names
        assert not any(name.startswith(b"access-control-") for name in names)
        await backend.stop()
        gone = await plane.get("/", headers={"Origin": APP})
        assert (gone.status, controls(gone)) == (502, ALLOWED)


async def test_rules_apply_to_fixed_answers_and_to_handlers_too():
    """`headers.response`: removed, set, added, default; nothing is there twice."""

    async def handler(x):
        await x.respond(200, {"X-Gone": "1", "X-Set": "1", "X-There": "1"}, b"")

    rules = {
        "remove": ["X-Gone"], "set": {"X-Set": "2"}, "default": {"X-There": "2", "X-New": "2"},
    }  # fmt: skip
    headers = {"response": rules}
    own = {"X-Gone": "1", "X-Set": "1", "X-There": "1"}
    document = {
        "routes": [
            {"name": "h", "path": "/h", "handler": "handlers:one", "headers": headers},
            {"name": "f", "path": "/f", "respond": {"headers": own}, "headers": headers},
        ]
    }
    async with Plane(document, handlers={"handlers:one": handler}) as plane:
        for path in ("/h", "/f"):
            reply = await plane.get(path)
            mine = [(n, v) for n, v in reply.pairs if n in ("X-Gone", "X-Set", "X-There", "X-New")]
            assert sorted(mine) == [("X-New", "2"), ("X-Set", "2"), ("X-There", "1")], path


# ---- refusals ----------------------------------------------------------------------------------

KEYED = {"api_key": {"header": "X-Api-Key"}}


@pytest.mark.parametrize(
    ("status", "route", "ask"),
    [
        (401, {"auth": KEYED}, {}),
        (402, {"auth": KEYED, "price": "1 USD"}, {"headers": {"X-Api-Key": "ann"}}),
        (403, {"addresses": {"deny": ["127.0.0.0/8"]}}, {}),
        (405, {"methods": ["POST"]}, {}),
        (413, {"max_body": "1B"}, {"body": b"xx", "method": "POST"}),
        (429, {"limits": [{"by": ["address"], "rate": "1/h", "burst": 1}]}, {"times": 2}),
        (502, {"path": "/dead"}, {"path": "/dead"}),
        (503, {}, {"target": "http://unknown.invalid"}),
        (504, {"timeout": "50ms"}, {"path": "/late"}),
    ],
)
async def test_refusals_can_be_read_by_scripts(status, route, ask):
    async def respond(_: Backend, seen: Seen) -> bytes | None:
        if seen.target == "/late":
            await asyncio.sleep(1)
        return None if seen.target == "/dead" else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    upstream = await Backend(respond).start()
    config = cors(ask.get("target", upstream.url), **route)
    config["consumers"] = [{"name": "ann"}]
    headers = {"Origin": APP, **ask.get("headers", {})}
    async with Plane(config, keys={"ann": "ann"}) as plane:
        for _ in range(ask.get("times", 1)):
            reply = await plane.request(
                ask.get("method", "GET"), ask.get("path", "/"), headers=headers,
                body=ask.get("body", b""),
            )  # fmt: skip
        assert reply.status == status
        assert controls(reply) == ALLOWED
        assert "origin" in vary(reply)
        stranger = await plane.request(
            ask.get("method", "GET"), ask.get("path", "/"), headers={**headers, "Origin": EVIL},
            body=ask.get("body", b""),
        )  # fmt: skip
        assert (stranger.status, controls(stranger)) == (status, [])
    await upstream.stop()


async def test_a_405_has_the_policy_of_the_first_route_of_its_path(backend):
    config = proxied(backend.url)
    config["routes"] = [
        {"name": "open", "path": "/a", "methods": ["GET"], "service": "s"},
        {"name": "post", "path": "/a", "methods": ["POST"], "service": "s"},
        {"name": "none", "path": "/b", "methods": ["GET"], "service": "s"},
    ]
    for route in config["routes"][:2]:
        route["cors"] = {"origins": [APP]}
    async with Plane(config) as plane:
        known = await plane.request("PUT", "/a", headers={"Origin": APP})
        assert (known.status, controls(known)) == (405, ALLOWED)
        assert known.headers["allow"] == "GET, POST"
        preflight = {"Origin": APP, "Access-Control-Request-Method": "PUT"}
        refused = await plane.request("OPTIONS", "/a", headers=preflight)
        assert (refused.status, controls(refused)) == (405, ALLOWED)
        assert controls(await plane.request("PUT", "/b", headers={"Origin": APP})) == []
        missing = await plane.get("/nowhere", headers={"Origin": APP})  # nobody's
        assert (missing.status, controls(missing)) == (404, [])
