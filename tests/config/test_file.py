"""Loading: references, lines, all faults at once; YAML, JSON and TOML alike."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastgate.config import file as configfile
from fastgate.config.file import Loaded, load, loads
from fastgate.errors import ConfigurationError

SAMPLE = """\
version: 1
x-auth: &auth {api_key: {header: X-Api-Key}}
upstreams:
  - name: orders
    targets: ["http://10.0.0.11:9000", "unix:/run/orders.sock"]
services:
  - {name: orders, upstream: orders, timeout: 10s}
routes:
  - name: orders-read
    hosts: [api.example.com]
    path: /orders/{id}
    service: orders
    auth: *auth
    limits: [{by: consumer, rate: 50/s, burst: 100}]
plans:
  - name: starter
    limits: [10/s]
consumers:
  - name: demo
    plan: starter
    keys:
      - ${DEMO_KEY}
"""
ENVIRON = {"DEMO_KEY": "demo-key-1"}


def read(text: str, **environ: str) -> Loaded:
    return loads(text, environ={**ENVIRON, **environ}, file="f.yaml")


def fault(text: str, **environ: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        read(text, **environ)
    return caught.value


def swap(old: str, new: str) -> str:
    assert SAMPLE.count(old) == 1, old
    return SAMPLE.replace(old, new)


def test_a_sound_document_loads() -> None:
    loaded = read(SAMPLE)
    assert loaded.gateway.routes[0].auth.api_key is not None
    assert loaded.warnings == ()
    assert len(loaded.digest) == 64
    assert loaded.lines.of("routes[0].limits[0].burst") == 14


@pytest.mark.parametrize(
    ("text", "line", "path", "words"),
    [
        (
            swap("service: orders\n", "service: ordres\n"),
            12,
            "routes[0].service",
            "Did you mean 'orders'?",
        ),
        (swap("upstream: orders", "upstream: a"), 7, "services[0].upstream", "Upstreams: orders."),
        (swap("plan: starter", "plan: stater"), 20, "consumers[0].plan", "Did you mean 'starter'?"),
        (swap("hosts:", "host:"), 10, "routes[0].host", "Did you mean 'hosts'?"),
        (swap("burst: 100", "burst: lots"), 14, "routes[0].limits[0].burst", "a whole number"),
        (
            swap("    auth: *auth\n", ""),
            13,
            "routes[0].limits[0].by",
            "does not identify the caller",
        ),
        (swap("path: /orders/{id}", "path: orders"), 11, "routes[0].path", "a path that begins"),
        (swap("10/s]", "10]"), 17, "plans[0].limits[0]", "expected a mapping"),
        (
            swap("    plan: starter\n", "    name: again\n"),
            20,
            "consumers[0].name",
            "First on line 19",
        ),
        (swap("version: 1", "version: 7"), 1, "version", "Choices: 1."),
        (
            swap("name: starter", "name: !!python/name:os.system x"),
            16,
            "plans[0].name",
            "tags such as",
        ),
        (swap("plans:", "\tplans:"), 15, "", "there is a tab here"),
        (swap("hosts: [api.example.com]", "hosts: [api.example.com"), 11, "", "not valid YAML"),
        (swap("*auth", "*other"), 13, "", "undefined alias"),
        (SAMPLE + "---\nversion: 1\n", 23, "", "expected a single document"),
        (SAMPLE + "? [a]\n: b\n", 23, "", "a key must be a plain text"),
        ("", None, "", "the document is empty"),
        ("# nothing\n", None, "", "Begin with `version: 1`"),
        ("- a\n", None, "", "expected a mapping, not a list"),
    ],
)
def test_a_fault_has_its_line(text: str, line: int | None, path: str, words: str) -> None:
    error = fault(text)
    assert (error.line, error.path, error.file) == (line, path, "f.yaml")
    assert words in str(error)


def test_all_errors_between_resources_are_reported_at_once() -> None:
    text = swap("service: orders\n", "service: nope\n").replace("plan: starter", "plan: nope")
    errors = list(fault(text))
    assert [(error.path, error.line) for error in errors] == [
        ("routes[0].service", 12),
        ("consumers[0].plan", 20),
    ]
    assert all(error.file == "f.yaml" for error in errors)


# ---- references -------------------------------------------------------------------------


def body(text: str, **environ: str) -> str | None:
    document = f"version: 1\nroutes:\n  - {{name: a, path: /, respond: {{body: {text}}}}}\n"
    respond = loads(document, environ=environ).gateway.routes[0].respond
    assert respond is not None
    return respond.body


@pytest.mark.parametrize(
    ("text", "environ", "result"),
    [
        ('"${A}"', {"A": "x"}, "x"),
        ('"<${A}${B}>"', {"A": "x", "B": ""}, "<x>"),
        ('"${A:-y}"', {}, "y"),
        ('"${A:-y}"', {"A": ""}, "y"),
        ('"${A:-}"', {}, ""),
        ('"${A:-a b:c}"', {}, "a b:c"),
        ('"$${A}"', {}, "${A}"),
        ('"$A $ {}"', {}, "$A $ {}"),
        ('"${A}"', {"A": "${B}"}, "${B}"),
        ('"${A}"', {"A": "file:/etc/passwd"}, "file:/etc/passwd"),
        ('"${A}"', {"A": "on"}, "on"),
    ],
)
def test_the_environment(text: str, environ: dict[str, str], result: str) -> None:
    assert body(text, **environ) == result


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"${NOT_THERE}"', "the environment has no NOT_THERE"),
        ('"${1A}"', "is not a reference"),
        ('"${A-b}"', "is not a reference"),
        ("file:/does/not/exist", "cannot be read"),
    ],
)
def test_bad_references_have_a_place(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        body(text)
    assert (caught.value.path, caught.value.line) == ("routes[0].respond.body", 3)


def test_files_are_relative_to_the_document(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key-in-a-file\n")
    path = tmp_path / "gate.yaml"
    path.write_text(
        "version: 1\nconsumers:\n"
        "  - {name: a, keys: ['file:key']}\n"
        "  - {name: b, keys: [{file: '${NAME}'}]}\n"
    )
    (tmp_path / "other").write_text("another-key")
    loaded = load(path, {"NAME": "other"})
    digests = [consumer.keys[0] for consumer in loaded.gateway.consumers]
    assert digests == [configfile_key("key-in-a-file"), configfile_key("another-key")]
    assert loaded.files == (str(tmp_path / "key"), str(tmp_path / "other"))


def configfile_key(text: str) -> Any:
    from fastgate.model.values import KeyDigest

    return KeyDigest.of(text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file"):
        load(tmp_path / "no.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"version: \xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(tmp_path / "b.yaml")


# ---- other formats ----------------------------------------------------------------------

TOML = """\
version = 1
workers = 2

[[upstreams]]
name = "orders"
targets = [
  "http://10.0.0.11:9000",
]

[[services]]
name = "orders"
upstream = "orders"

[[routes]]
name = "read"
path = "/orders/{id}"
service = "orders"
auth = "api_key"
[routes.headers.request]
set = {X-A = "1"}

[[routes]]
name = "hello"
path = "/hello"
respond = "Hello"
"""

JSON: dict[str, Any] = {
    "$schema": "fastgate.schema.json",
    "version": 1,
    "workers": 2,
    "upstreams": [{"name": "orders", "targets": ["http://10.0.0.11:9000"]}],
    "services": [{"name": "orders", "upstream": "orders"}],
    "routes": [
        {
            "name": "read",
            "path": "/orders/{id}",
            "service": "orders",
            "auth": "api_key",
            "headers": {"request": {"set": {"X-A": "1"}}},
        },
        {"name": "hello", "path": "/hello", "respond": "Hello"},
    ],
}


def test_the_three_formats_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TOML)
    (tmp_path / "a.json").write_text(json.dumps(JSON))
    (tmp_path / "a.yaml").write_text(json.dumps(JSON))
    one, two, three = (load(tmp_path / f"a.{kind}") for kind in ("toml", "json", "yaml"))
    assert one.gateway == two.gateway == three.gateway
    assert one.digest == two.digest == three.digest


@pytest.mark.parametrize(
    ("old", "new", "line", "path"),
    [
        ('service = "orders"', 'service = "ordres"', 17, "routes[0].service"),
        ('respond = "Hello"', "respond = 99", 25, "routes[1].respond.status"),
        ("set = {", "sett = {", 20, "routes[0].headers.request.sett"),
        ("workers = 2", "workers = 0", 2, "workers"),
    ],
)
def test_lines_of_toml(old: str, new: str, line: int, path: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loads(TOML.replace(old, new), "toml")
    assert (caught.value.line, caught.value.path) == (line, path)


def test_lines_of_json() -> None:
    text = json.dumps(JSON, indent=2)
    with pytest.raises(ConfigurationError) as caught:
        loads(text.replace('"/hello"', '"hello"'), "json")
    assert caught.value.path == "routes[1].path"
    assert caught.value.line is not None
    assert '"hello"' in text.replace('"/hello"', '"hello"').splitlines()[caught.value.line - 1]


@pytest.mark.parametrize(
    ("text", "kind", "words", "line"),
    [
        ('{"version": 1\n,}', "json", "not valid JSON", 2),
        ('{"version": 1, "version": 1}', "json", "there twice", None),
        ('{"version": NaN}', "json", "is not JSON", None),
        ("version = 1\nversion = 1\n", "toml", "not valid TOML", 2),
        ("version = \n", "toml", "not valid TOML", 1),
    ],
)
def test_bad_json_and_toml(text: str, kind: Any, words: str, line: int | None) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        loads(text, kind)
    assert caught.value.line == line


def test_warnings_have_lines() -> None:
    text = SAMPLE + "policies:\n  - name: unused\nauthorities:\n  - {name: a, ca: env:CA}\n"
    assert [(warning.path, warning.line) for warning in read(text).warnings] == [
        ("authorities[0]", 26),
        ("policies[0]", 24),
    ]


def test_the_compilers_errors_get_lines() -> None:
    loaded = read(SAMPLE)
    error = loaded.locate(ConfigurationError("two routes are the same", "routes[0].path"))
    assert (error.line, error.file) == (11, "f.yaml")


def test_the_module_offers_the_schema() -> None:
    assert configfile.json_schema()["title"] == "FastGate configuration"
