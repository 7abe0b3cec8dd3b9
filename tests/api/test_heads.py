"""HEAD on the control API: wherever GET is answered."""

from __future__ import annotations

from typing import Any

import pytest
from apikit import Client


@pytest.mark.parametrize(
    "path", ["/v1/status", "/v1/config", "/v1/routes", "/v1/openapi.json", "/metrics", "/healthz"]
)
async def test_head_answers_as_get_without_the_body(api: Client, world: Any, path: str) -> None:
    whole = await api.get(path)
    head = await api.request("HEAD", path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    changing = {"date", "content-length"}
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in whole.headers.items() if k not in changing
    }
    allow = (await api.request("OPTIONS", path)).headers.get("allow", "")
    assert whole.status_code != 200 or {"GET", "HEAD"} <= set(allow.split(", "))


async def test_head_where_there_is_no_get(api: Client) -> None:
    assert (await api.request("HEAD", "/v1/drain")).status_code == 405
