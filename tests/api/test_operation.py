"""Status, workers, usage, requests, limits, drain; the OpenAPI document and its page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
from apikit import Client, is_problem

from fastgate.api.openapi import document, operations

ID = "0af7651916cd43dd8448eb211c80319c"


async def test_status_and_workers(api: Client, world: Any) -> None:
    status = (await api.get("/v1/status")).json()
    assert status["generation"] == 1
    assert status["ready"] is True
    assert (status["routes"], status["plans"]) == (1, 2)
    assert status["store"]["ready"] is True
    workers = (await api.get("/v1/workers")).json()["items"]
    assert [worker["pid"] for worker in workers] == [4000, 4001]
    assert status["workers"] == workers
    digest = (await api.get("/v1/config")).headers["etag"]
    assert digest == f'"{status["digest"]}"'


async def test_usage_by_route(api: Client) -> None:
    usage = (await api.get("/v1/usage")).json()
    assert usage["requests"] == 7
    assert usage["routes"][0]["refused"] == {"rate_limited": 1}
    assert (await api.get("/v1/usage?route=read")).json() == usage
    is_problem(await api.get("/v1/usage?route=nothing"), 404, "not_found")


async def test_requests_by_any_form_of_their_id(api: Client, world: Any) -> None:
    world.control.requests[ID] = {"id": ID, "status": 429, "reason": "rate_limited"}
    dashed = "-".join((ID[:8], ID[8:12], ID[12:16], ID[16:20], ID[20:]))
    for ident in (ID, ID.upper(), dashed, f"urn:fastgate:request:{ID}"):
        assert (await api.get(f"/v1/requests/{ident}")).json()["reason"] == "rate_limited"
    assert (await api.get("/v1/requests?limit=5")).json()["items"] == [world.control.requests[ID]]
    is_problem(await api.get("/v1/requests/unknown"), 404, "not_found")
    is_problem(await api.get("/v1/requests?limit=0"), 422, "invalid_member")


async def test_limits_of_a_consumer(api: Client) -> None:
    made = (await api.post("/v1/consumers", json={"name": "acme", "plan": "gold"})).json()
    for ident in (made["id"], "acme"):
        limits = (await api.get(f"/v1/limits/{ident}")).json()
        assert limits["consumer"] == made["id"]
        assert limits["items"][0]["limit"] == f"gold-of-{made['id']}"
    assert (await api.get("/v1/limits/demo")).json()["plan"] == "free"
    is_problem(await api.get("/v1/limits/nobody"), 404, "not_found")


async def test_certificates(api: Client) -> None:
    valid, pending = (await api.get("/v1/certificates")).json()["items"]
    assert (valid["name"], valid["state"], valid["not_after"]) == ("api", "valid", 1_800_000_000)
    assert valid["used_by"] == ["listener public"]
    assert (pending["state"], pending["not_after"]) == ("pending", None)
    assert not any("key" in name and name != "key_type" for name in valid)


async def test_renewing_a_certificate(api: Client, world: Any) -> None:
    found = await api.post("/v1/certificates/shop/renew")
    assert (found.status_code, found.json()["name"]) == (200, "shop")
    await api.post("/v1/certificates/shop/renew?wait=true")
    assert world.control.renewed == [("shop", False), ("shop", True)]
    is_problem(await api.post("/v1/certificates/other/renew"), 404, "not_found")
    is_problem(await api.post("/v1/certificates/broken/renew?wait=true"), 503, "not_issued")
    from_files = await api.post("/v1/certificates/api/renew")
    is_problem(from_files, 409, "conflict")
    assert "is from path:/etc/fastgate/api.pem. Replace the file" in from_files.json()["detail"]


async def test_issuers(api: Client) -> None:
    corp, broken, _ = (await api.get("/v1/issuers")).json()["items"]
    assert (corp["name"], corp["state"], corp["next_fetch"]) == ("corp", "ok", 1_790_003_600)
    assert corp["keys"] == [
        {"kid": "k1", "kind": "RSA 2048", "algorithms": ["RS256"], "since": 1_790_000_000}
    ]
    assert (broken["problem"], broken["fetched"]) == ("it answered 503", None)


async def test_fetching_the_keys_of_an_issuer(api: Client, world: Any) -> None:
    found = await api.post("/v1/issuers/corp/refresh")
    assert (found.status_code, found.json()["name"]) == (200, "corp")
    assert world.control.refreshed == ["corp"]
    is_problem(await api.post("/v1/issuers/other/refresh"), 404, "not_found")
    failed = await api.post("/v1/issuers/broken/refresh")
    is_problem(failed, 503, "not_fetched")
    assert failed.json()["detail"].endswith("it answered 503. The last good keys stay in use.")
    from_file = await api.post("/v1/issuers/svc/refresh")
    is_problem(from_file, 409, "conflict")
    assert "are from path:/etc/svc.json. Replace the file" in from_file.json()["detail"]


async def test_drain(api: Client, world: Any) -> None:
    done = await api.post("/v1/drain")
    assert (done.status_code, done.json()) == (202, {"draining": True})
    assert world.control.drained


# ---- the description --------------------------------------------------------------------


def references(data: Any) -> list[str]:
    if isinstance(data, dict):
        own = [data["$ref"]] if isinstance(data.get("$ref"), str) else []
        return own + [ref for value in data.values() for ref in references(value)]
    if isinstance(data, list):
        return [ref for value in data for ref in references(value)]
    return []


async def test_openapi_describes_every_operation(api: Client, world: Any) -> None:
    made = (await api.get("/openapi.json")).json()
    assert made["openapi"] == "3.1.0"
    declared = {
        (one.path, one.method.lower())
        for one in operations(world.app.routes)
        if one.handler.opt["media"] != "text/html"
    }
    described = {(path, method) for path, methods in made["paths"].items() for method in methods}
    assert described == declared
    names = [one["operationId"] for methods in made["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))
    for path, methods in made["paths"].items():
        for one in methods.values():
            in_path = {p["name"] for p in one.get("parameters", []) if p["in"] == "path"}
            assert in_path == set(re.findall(r"\{(\w+)\}", path))
            assert one["summary"]
            assert one["description"]
            assert "default" in one["responses"]
    for reference in references(made):
        target: Any = made
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_schemas_accept_what_is_answered(world: Any) -> None:
    made = document(world.app.routes)
    route = made["components"]["schemas"]["Route"]
    assert {"name", "path", "limits"} <= route["properties"].keys()
    consumer = made["components"]["schemas"]["ConsumerNew"]
    assert consumer["required"] == ["name"]
    assert consumer["additionalProperties"] is False
    assert msgspec.json.encode(made)


class Loads(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "object", "embed", "link"):
            self.found.append(tag)
        self.found += [name for name in given if name.startswith("on") or name == "src"]
        if tag == "a":
            self.links.append(given["href"] or "")
        if given.get("id"):
            self.ids.add(given["id"] or "")


async def test_the_page_loads_nothing_from_anywhere(api: Client) -> None:
    del api.headers["authorization"]
    got = await api.get("/docs")
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    assert got.headers["content-security-policy"].startswith("default-src 'none'")
    page = Loads()
    page.feed(got.text)
    assert page.found == []
    assert not re.search(r"@import|url\(", got.text)
    for link in page.links:
        assert link == "/openapi.json" or link.removeprefix("#") in page.ids, link
    assert (await api.get("/")).text == got.text
    assert "/v1/consumers/{ident}/credentials" in got.text
