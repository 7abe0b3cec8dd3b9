"""`validate`: what may be written, where, and which setting applies."""

from __future__ import annotations

from typing import Any

import pytest

from fastgate.errors import ConfigurationError
from fastgate.model import check, codec
from fastgate.model.gateway import DescriptionPlace, Gateway, Validate
from fastgate.model.resolve import Resolver
from fastgate.model.validation import relative_to, validator_name

ROUTE = {"name": "r", "path": "/", "service": "s"}


def gateway(validate: Any = None, **more: Any) -> Gateway:
    route = ROUTE if validate is None else {**ROUTE, "validate": validate}
    document = {
        "version": 1,
        "upstreams": [{"name": "u", "targets": ["http://127.0.0.1:1"]}],
        "services": [{"name": "s", "upstream": "u"}],
        "routes": [route],
        **more,
    }
    found: Gateway = codec.decode(document)
    return found


def nearest(found: Gateway) -> str | None:
    validate = Resolver(found).route(found.routes[0]).validate
    return None if validate is None else str(validate.openapi)


def test_the_short_forms() -> None:
    whole = gateway({"openapi": "/a/b.yaml"})
    assert gateway("/a/b.yaml") == whole
    assert gateway("none") == gateway({}) != gateway()
    for one in (whole, gateway("none")):
        assert codec.decode(codec.encode(one)) == one


@pytest.mark.parametrize(
    ("validate", "words"),
    [
        ("o.yaml", "write an absolute path; only in a configuration file can it be relative"),
        ("https://a.example/o.yaml", "only a file can be read; download it first"),
        ("openapi: 3.1.0\npaths: {}", "write the path without 'file:'"),
        ("", "is not the path of an OpenAPI file"),
        ("/a\x00b", "is not the path of an OpenAPI file"),
        (5, "validate"),
        ({"unknown": "pass"}, "give openapi, the file with the description"),
        ({"openapi": "/o", "unknown": "perhaps"}, "unknown"),
        ({"openapi": "/o", "prefix": "v1"}, "a path that begins with '/'"),
        ({"openapi": "/o", "prefix": "/{a}"}, "a path that begins with '/'"),
        ({"openapi": "/o", "more": 1}, "unknown key 'more'"),
    ],
)
def test_what_may_not_be_written(validate: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        gateway(validate)
    assert words in str(caught.value)
    assert caught.value.path.startswith("routes[0].validate")


def test_a_relative_path_is_relative_to_the_document() -> None:
    for folder, text, path in (
        ("/etc/fastgate", "o.yaml", "/etc/fastgate/o.yaml"),
        ("/etc/fastgate", "../api/o.yaml", "/etc/api/o.yaml"),
        ("/etc/fastgate", "/o.yaml", "/o.yaml"),
        ("/srv", "o.yaml", "/srv/o.yaml"),  # nothing is remembered from the first one
    ):
        with relative_to(folder):
            assert str(DescriptionPlace.read(text)) == path
    with pytest.raises(ValueError, match="absolute"):
        DescriptionPlace.read("o.yaml")


def test_the_nearest_setting_applies() -> None:
    policies = [{"name": name, "validate": f"/{name}"} for name in ("near", "far", "default")]
    service = {"name": "s", "upstream": "u", "policies": ["far"]}
    more: dict[str, Any] = {"policies": policies, "default_policies": ["default"]}
    assert nearest(gateway(**more)) == "/default"
    more["services"] = [service]
    assert nearest(gateway(**more)) == "/far"
    more["services"] = [{**service, "validate": "/service"}]
    assert nearest(gateway(**more)) == "/service"
    more["routes"] = [{**ROUTE, "policies": ["near"]}]
    assert nearest(gateway(**more)) == "/near"
    more["routes"] = [{**ROUTE, "policies": ["near"], "validate": "/route"}]
    assert nearest(gateway(**more)) == "/route"
    more["routes"] = [{**ROUTE, "policies": ["near"], "validate": "none"}]
    assert nearest(gateway(**more)) is None
    assert nearest(gateway()) is None


@pytest.mark.parametrize("size", ["0B", "2GiB"])
def test_bodies_that_are_validated_have_a_limit(size: str) -> None:
    check.require(gateway(caps={"body": size}))
    with pytest.raises(ConfigurationError) as caught:
        check.require(gateway("/o.yaml", caps={"body": size}))
    assert "the validation of this route would get bodies" in str(caught.value)
    assert caught.value.path == "routes[0].max_body"
    check.require(gateway("none", caps={"body": size}))


def test_the_name_of_a_validator_has_what_it_needs() -> None:
    place = DescriptionPlace.parse("/o.yaml")
    plain = validator_name(Validate(openapi=place), "{}")
    assert plain.endswith("\n{}")
    assert plain == validator_name(Validate(openapi=DescriptionPlace.parse("/p.yaml")), "{}")
    for changed in ({"prefix": "/a"}, {"unknown": "pass"}, {"read_only": "refuse"}):
        other = validator_name(Validate(openapi=place, **changed), "{}")  # type: ignore[arg-type]
        assert other != plain
