"""How large a body may be: what the nearest of route, policies and caps says; 0: any size."""

from __future__ import annotations

import pytest
from enginekit import Backend, Plane, Reply, proxied

from fastgate.model.check import check
from fastgate.model.codec import decode

BODY = bytes(3000)
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("route", "policy", "caps", "status"),
    [
        (None, None, "1KiB", 413),
        (None, None, 0, 200),
        (None, 0, "1KiB", 200),
        (0, "1KiB", "1KiB", 200),
        ("0B", "1KiB", "1KiB", 200),
        ("1KiB", 0, 0, 413),
        (3000, "1KiB", "1KiB", 200),
        (2999, 0, 0, 413),
    ],
)
async def test_the_nearest_says_and_0_is_any_size(route, policy, caps, status):
    upstream = await Backend().start()
    config = proxied(upstream.url)
    config["caps"] = {"body": caps}
    if route is not None:
        config["routes"][0]["max_body"] = route
    if policy is not None:
        config["policies"] = [{"name": "p", "max_body": policy}]
        config["routes"][0]["policies"] = ["p"]
    async with Plane(config) as plane:
        with_length: Reply = await plane.request("POST", "/", body=BODY)
        assert with_length.status == status
        whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
        assert (await plane.raw(CHUNKED + whole)).startswith(b"HTTP/1.1 %d " % status)
        assert [len(seen.body) for seen in upstream.requests] == [3000] * (2 * (status == 200))
    await upstream.stop()


def test_a_handler_cannot_have_any_size():
    route = {"name": "r", "path": "/", "handler": "h:one", "max_body": 0}
    (fault,) = check(decode({"version": 1, "routes": [route]}))
    assert "bodies of any size (0B)" in fault.message
