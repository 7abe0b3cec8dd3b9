"""Imported documents in an engine: requests go where the other gateway would send them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from enginekit import Backend, Plane


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    running = await Backend().start()
    yield running
    await running.stop()


def plane(found: Any, **options: Any) -> Plane:
    return Plane({key: value for key, value in found.data.items() if key != "version"}, **options)


async def test_kong(import_: Any, backend: Backend) -> None:
    found = import_("kong", f"""\
_format_version: "3.0"
services:
  - name: a
    url: {backend.url}/base
    routes:
      - {{name: stripped, paths: [/v1, /v2]}}
      - {{name: kept, paths: [/kept], strip_path: false}}
      - {{name: expression, paths: ['~/u/(?<id>[^/]+)/items$'], strip_path: false}}
      - name: closed
        paths: [/closed]
        plugins: [{{name: request-termination, config: {{status_code: 403, message: no}}}}]
      - name: keyed
        paths: [/keyed]
        plugins:
          - {{name: key-auth, config: {{key_names: [token]}}}}
          - {{name: request-transformer, config: {{add: {{headers: ["X-Added:1"]}}}}}}
""")  # fmt: skip
    async with plane(found, keys={"demo-key-1": "alice"}) as running:
        assert (await running.get("/v1/x?y")).body == b"GET /base/x?y"
        assert (await running.get("/v2")).body == b"GET /base"
        assert (await running.get("/kept/x")).body == b"GET /base/kept/x"
        assert (await running.get("/u/7/items")).body == b"GET /base/u/7/items"
        assert (await running.get("/u/7/other")).status == 404
        closed = await running.get("/closed/x")
        assert (closed.status, closed.body) == (403, b'{"message":"no"}')
        assert (await running.get("/keyed")).status == 401
        assert (await running.get("/keyed", headers={"token": "demo-key-1"})).status == 200
        assert backend.requests[-1].headers["x-added"] == "1"
        assert backend.requests[-1].headers["token"] == "demo-key-1"


async def test_apisix(import_: Any, backend: Backend) -> None:
    address = backend.url.removeprefix("http://")
    found = import_("apisix", f"""\
upstreams:
  - {{id: 1, nodes: {{"{address}": 1}}}}
routes:
  - id: prefix
    uri: /api/*
    upstream_id: 1
    plugins: {{proxy-rewrite: {{regex_uri: ["^/api/(.*)", "/v2/$1"]}}}}
  - {{id: exact, uri: /exact, upstream_id: 1, methods: [GET]}}
  - {{id: vars, uri: /exact, upstream_id: 1, methods: [GET], vars: [[arg_v, "==", "2"]],
      plugins: {{proxy-rewrite: {{uri: /two, host: two.internal}}}}}}
  - {{id: moved, uri: /old/*, plugins: {{redirect: {{uri: "https://$host$uri", ret_code: 301}}}}}}
#END
""")  # fmt: skip
    async with plane(found) as running:
        assert (await running.get("/api/x?y=1")).body == b"GET /v2/x?y=1"
        assert (await running.get("/exact", headers={"Host": "h.example"})).body == b"GET /exact"
        assert backend.requests[-1].headers["host"] == "h.example"
        assert (await running.request("POST", "/exact")).status == 405
        assert (await running.get("/exact?v=2")).body == b"GET /two?v=2"
        assert backend.requests[-1].headers["host"] == "two.internal"
        moved = await running.get("/old/x", headers={"Host": "h.example"})
        assert (moved.status, moved.headers["location"]) == (301, "https://h.example/old/x")


async def test_openapi(import_: Any, backend: Backend) -> None:
    found = import_("openapi", f"""\
openapi: 3.1.0
servers: [{{url: {backend.url}/v1}}]
components: {{securitySchemes: {{key: {{type: apiKey, in: header, name: X-Token}}}}}}
paths:
  /users/{{user-id}}: {{get: {{}}, delete: {{security: [{{key: []}}]}}}}
""")  # fmt: skip
    async with plane(found, keys={"demo-key-1": "alice"}) as running:
        assert (await running.get("/users/7")).body == b"GET /v1/users/7"
        assert (await running.request("DELETE", "/users/7")).status == 401
        key = {"X-Token": "demo-key-1"}
        served = await running.request("DELETE", "/users/7", headers=key)
        assert served.body == b"DELETE /v1/users/7"
        assert (await running.request("PUT", "/users/7")).status == 405
