"""Settings of upstreams: what is refused, and what is warned of."""

from __future__ import annotations

from typing import Any

import pytest

from fastgate.errors import ConfigurationError
from fastgate.model.check import warnings
from fastgate.model.codec import decode
from fastgate.model.gateway import Upstream

TARGET = "http://10.0.0.1:9000"


def upstream(**more: Any) -> Upstream:
    found: Upstream = decode({"name": "u", "targets": [TARGET], **more}, Upstream)
    return found


def refused(**more: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        upstream(**more)
    return str(caught.value)


def test_slow_start_is_bounded() -> None:
    assert upstream(slow_start="1d").slow_start.seconds == 86_400
    assert "more than a day" in refused(slow_start="25h")


# ---- sticky cookies -----------------------------------------------------------------------------


def test_a_name_is_enough() -> None:
    assert upstream(sticky="lb") == upstream(sticky={"cookie": "lb"})
    found = upstream(sticky="lb").sticky
    assert found is not None
    assert (found.path, found.same_site, found.secure, found.max_age) == ("/", "lax", "auto", None)


@pytest.mark.parametrize(
    ("sticky", "why"),
    [
        ("a b", "is not an HTTP token"),
        ("", "is not an HTTP token"),
        ({"cookie": "lb", "path": "shop"}, "path"),
        ({"cookie": "lb", "path": "/a;b"}, "path"),
        ({"cookie": "lb", "path": "/a b"}, "path"),
        ({"cookie": "lb", "max_age": "1500ms"}, "whole number of seconds"),
        ({"cookie": "lb", "max_age": "0s"}, "whole number of seconds"),
        ({"cookie": "lb", "max_age": "401d"}, "more than 400 days"),
        ({"cookie": "lb", "same_site": "none", "secure": False}, "ignore `none` without"),
        ({"cookie": "__Secure-lb"}, "only with `secure: true`"),
        ({"cookie": "__Host-lb", "secure": "auto"}, "only with `secure: true`"),
        ({"cookie": "__Host-lb", "secure": True, "path": "/a"}, "only with the path '/'"),
        ({"cookie": "lb", "secret": "s3cret"}, "never write a secret itself"),
    ],
)
def test_cookies_that_browsers_would_not_take(sticky: Any, why: str) -> None:
    assert why in refused(sticky=sticky)


def test_names_with_a_prefix() -> None:
    for name in ("__Host-lb", "__Secure-lb"):
        assert upstream(sticky={"cookie": name, "secure": True}).sticky is not None


def found_in(**first: Any) -> list[str]:
    gateway = decode(
        {
            "version": 1,
            "upstreams": [
                {"name": "a", "targets": [TARGET], **first},
                {"name": "b", "targets": ["http://10.0.0.2"], "sticky": "lb"},
            ],
            "services": [{"name": name, "upstream": name} for name in "ab"],
            "routes": [{"name": n, "path": f"/{n}", "service": n} for n in "ab"],
        }
    )
    return [str(warning) for warning in warnings(gateway)]


def test_two_upstreams_that_would_replace_each_others_cookies() -> None:
    (warning,) = found_in(sticky="lb")
    assert "upstreams[1].sticky" in warning
    assert "'a'" in warning
    assert found_in() == []
    assert found_in(sticky="lb", targets=["http://10.0.0.2"]) == []  # they have the same values
    assert found_in(sticky="other") == []
    assert found_in(sticky={"cookie": "lb", "path": "/a"}) == []
