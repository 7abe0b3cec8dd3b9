"""fastgate import: where the document and the list go, exit codes, errors."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from conftest import Cli

KONG = """\
_format_version: "3.0"
services:
  - name: orders
    url: http://orders.internal
    routes: [{name: orders, paths: [/]}]
"""
OPENAPI = """\
openapi: 3.1.0
servers: [{url: "https://api.example.com"}]
paths: {/orders: {get: {}}}
"""
APISIX = """\
routes:
  - id: 1
    uri: /*
    upstream: {nodes: {"127.0.0.1:9000": 1}}
"""
SOURCES = {"kong": KONG, "apisix": APISIX, "openapi": OPENAPI}
LISTED = {
    "kong": KONG + "    plugins: [{name: jwt}]\n",
    "openapi": OPENAPI
    + "components: {securitySchemes: {o: {type: oauth2}}}\nsecurity: [{o: []}]\n",
}


@pytest.mark.parametrize("form", SOURCES)
def test_what_is_written_passes_check(cli: Cli, form: str) -> None:
    Path("source.yaml").write_text(SOURCES[form])
    ran = cli("import", form, "source.yaml", "--strict")
    assert (ran.code, ran.err) == (0, "")
    Path("fastgate.yaml").write_text(ran.out)
    assert cli("check", "--strict").code == 0
    assert cli("import", form, "source.yaml", "--output", "other.yaml").out == ""
    assert Path("other.yaml").read_text() == ran.out


@pytest.mark.parametrize("form", LISTED)
def test_what_could_not_be_expressed_is_listed(cli: Cli, form: str) -> None:
    Path("source.yaml").write_text(LISTED[form])
    ran = cli("import", form, "source.yaml")
    assert ran.code == 0
    assert yaml.safe_load(ran.out)["version"] == 1
    assert "PROTECTION MISSING: line " in ran.err
    assert ran.err.endswith("1 to look at.\n")
    assert cli("import", form, "source.yaml", "--strict").code == 1
    data = cli.done("import", form, "source.yaml")
    assert data["document"] == yaml.safe_load(ran.out)
    assert [one["kind"] for one in data["findings"]] == ["open"]


@pytest.mark.parametrize("form", SOURCES)
def test_a_bad_source(cli: Cli, form: str) -> None:
    Path("source.yaml").write_text("a: 1\nb: [\n")
    ran = cli("import", form, "source.yaml")
    assert (ran.code, ran.out) == (4, "")
    assert "source.yaml:3: not valid YAML" in ran.err
    ran = cli("import", form, "missing.yaml", "--json")
    assert ran.code == 4
    assert json.loads(ran.err)["error"]["errors"][0]["file"] == "missing.yaml"


def test_a_target_that_cannot_be_written(cli: Cli) -> None:
    Path("source.yaml").write_text(KONG)
    ran = cli("import", "kong", "source.yaml", "--output", "missing/fastgate.yaml")
    assert ran.code == 1
    assert "missing/fastgate.yaml" in ran.err


def test_standard_input_is_yaml_or_json(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(yaml.safe_load(OPENAPI)).replace("/", r"\/")
    for given in (text, OPENAPI, "{openapi: 3.1.0, servers: [{url: 'http://a'}]}"):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        ran = cli("import", "openapi", "-", "--strict")
        assert (ran.code, ran.err) == (0, "")
    monkeypatch.setattr("sys.stdin", io.StringIO("a: [\n"))
    assert "<stdin>:2: not valid YAML" in cli("import", "openapi", "-").err


def test_the_upstream_of_a_description(cli: Cli) -> None:
    Path("source.yaml").write_text(OPENAPI)
    data = cli.done("import", "openapi", "source.yaml", "--upstream", "http://10.0.0.7/api")
    assert data["document"]["upstreams"][0]["targets"] == [{"url": "http://10.0.0.7/api"}]
    ran = cli("import", "openapi", "source.yaml", "--upstream", "10.0.0.7")
    assert ran.code == 2
    assert "does not begin with 'http://'" in ran.err


def test_requests_are_validated_against_an_imported_description(cli: Cli) -> None:
    Path("api").mkdir()
    Path("api/openapi.yaml").write_text(OPENAPI)
    ran = cli("import", "openapi", "api/openapi.yaml", "--validate", "--strict")
    expected = {"openapi": "api/openapi.yaml", "prefix": "/"}
    assert yaml.safe_load(ran.out)["services"][0]["validate"] == expected
    # The path is relative to the document, as it is read later.
    Path("conf").mkdir()
    ran = cli("import", "openapi", "api/openapi.yaml", "--validate", "-o", "conf/gateway.yaml")
    assert (ran.code, ran.err) == (0, "")
    written = yaml.safe_load(Path("conf/gateway.yaml").read_text())
    assert written["services"][0]["validate"]["openapi"] == "../api/openapi.yaml"
    assert cli("check", "conf/gateway.yaml", "--strict").code == 0
    Path("api/openapi.yaml").unlink()
    assert cli("check", "conf/gateway.yaml").code == 4


def test_a_description_that_requests_cannot_be_validated_against(cli: Cli) -> None:
    Path("swagger.yaml").write_text('swagger: "2.0"\npaths: {/a: {get: {}}}\n')
    assert cli("import", "openapi", "swagger.yaml").code == 0
    ran = cli("import", "openapi", "swagger.yaml", "--validate")
    assert ran.code == 4
    assert "swagger.yaml:1: swagger: this is Swagger 2.0" in ran.err
    ran = cli("import", "openapi", "-", "--validate")
    assert ran.code == 2
    assert "FILE must be a file" in ran.err
