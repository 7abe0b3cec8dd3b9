"""The query in the access log: when it is asked for, without what may be a credential."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from enginekit import Backend, Plane, Seen, proxied

from fastgate._core.logs.drain import LogDrain, RecentRequests

SECRET = "s3cr3t"
LOGGED = {"observability": {"access_log": {"query": True}}}


@pytest.fixture
async def backend():
    backend = await Backend().start()
    yield backend
    await backend.stop()


def lines(plane: Plane) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in LogDrain(plane.segment).drain(0).splitlines()]


async def logged(plane: Plane, path: str, **request: Any) -> str | None:
    """The query of the one line that the request makes."""
    await plane.get(path, **request)
    (line,) = lines(plane)
    query: str | None = line.get("query")
    return query


async def test_it_is_off_unless_asked_for(backend):
    async with Plane(proxied(backend.url)) as plane:
        assert await logged(plane, "/?a=1") is None
        await plane.get("/?a=1")
        recent = RecentRequests(4)
        LogDrain(plane.segment, format="none", recent=recent).drain(0)
        assert recent.latest(1)[0]["query"] is None


async def test_it_is_logged_as_it_came(backend):
    async with Plane({**proxied(backend.url), **LOGGED}) as plane:
        for path, query in {
            "/": None,
            "/?": None,
            "/?a=1": "a=1",
            "/?a=%22&b=\\&&c": "a=%22&b=\\&&c",
            "/nothing?x": "x",
        }.items():
            assert await logged(plane, path) == query
        await plane.get("/?a=1")
        recent = RecentRequests(4)
        LogDrain(plane.segment, format="none", recent=recent).drain(0)
        assert recent.latest(1)[0]["query"] == "a=1"
        await plane.get("/p?a={1}")
        text = LogDrain(plane.segment, format="combined").drain(0)
        assert b'"GET /p?a={1} HTTP/1.1" 200' in text


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (f"key={SECRET}", None),
        (f"a=1&key={SECRET}&b=2", "a=1&b=2"),
        (f"a=1&KEY={SECRET}&%6bey={SECRET}&k%65%79={SECRET}", "a=1"),
        (f"Access_Token={SECRET}&monkey=1&keys=2&ke=3&key", "monkey=1&keys=2&ke=3"),
        (f"cap={SECRET}&request=7", "request=7"),
        (f"a&access%5Ftoken={SECRET}&&b", "a&&b"),
    ],
)
async def test_a_credential_is_never_logged(backend, query, left):
    """Whether the route reads it, another one does, or none was found."""
    auth = {"api_key": {"query": "key", "forward": True, "optional": True}}
    document = {**proxied(backend.url), **LOGGED}
    document["routes"] = [
        {"name": "keyed", "path": "/keyed", "service": "s", "auth": auth},
        {"name": "open", "path": "/open", "service": "s"},
        {"name": "static", "path": "/static", "respond": 204},
    ]
    async with Plane(document) as plane:
        for path in ("/keyed", "/open", "/static", "/none"):
            await plane.get(f"{path}?{query}")
        drain = LogDrain(plane.segment)
        text = drain.drain(0)
        assert SECRET.encode() not in text
        assert [orjson.loads(line).get("query") for line in text.splitlines()] == [left] * 4


async def test_what_is_hidden_can_be_chosen(backend):
    document = {
        **proxied(backend.url, auth={"api_key": {"query": "apiKey", "optional": True}}),
        "observability": {"access_log": {"query": True, "hide_params": ["Email"]}},
    }
    async with Plane(document) as plane:
        query = "/?email=a%40b&token=1&APIKEY=2&ema%69l=c"
        assert await logged(plane, query) == "token=1"


async def test_a_long_one_is_cut_and_leaves_room_for_the_rest(backend):
    async with Plane({**proxied(backend.url), **LOGGED}) as plane:
        # Hidden parameters are taken out before it is cut.
        hidden = "&".join(f"token={SECRET}{i}" for i in range(40))
        value = "x" * 600
        agent = "agent" * 8
        await plane.get(f"/?{hidden}&long={value}", headers={"User-Agent": agent})
        (line,) = lines(plane)
        assert line["query"].startswith("long=xxx")
        assert 100 < len(line["query"]) <= 255
        assert line["user_agent"] == agent
        assert (line["route"], line["path"], line["host"]) == ("r", "/", "test.example")


async def test_it_is_logged_where_the_configuration_was_replaced_meanwhile():
    """The answer has begun, so the image that named the hidden parameters is gone."""
    end = asyncio.Event()

    async def stream(_: Backend, seen: Seen) -> bytes:
        seen.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
        await end.wait()
        return b"3\r\nend\r\n0\r\n\r\n"

    slow = await Backend(stream).start()
    async with Plane({**proxied(slow.url), **LOGGED}) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        writer.write(b"GET /?a=1&token=%b&key=1 HTTP/1.1\r\nHost: a\r\n\r\n" % SECRET.encode())
        await reader.readuntil(b"begin")
        plane.install(proxied(slow.url))
        await plane.settled(exchanges=1, retired_snapshots=0)
        end.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        await plane.settled(exchanges=0)
        assert [line["query"] for line in lines(plane)] == ["a=1"]
    await slow.stop()
