"""The peers: they take their configuration, do their duty, and are left out with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import ipaddress
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import __main__ as command
from benchmarks.compare import built
from benchmarks.compare.built import Built, Caddy, Pingora
from benchmarks.compare.envoy import Envoy
from benchmarks.compare.gateway import FastGate
from benchmarks.compare.machine import available_cores
from benchmarks.compare.nginx import GIVEN, GivenNginx, Nginx
from benchmarks.compare.peers import HAProxy
from benchmarks.compare.processes import Tree, runs
from benchmarks.compare.programs import program, said_by
from benchmarks.compare.scenarios import PROXIES, SUBJECTS, table
from benchmarks.compare.session import Options, Session
from benchmarks.compare.subjects import (
    Setup,
    Subject,
    Unavailable,
    all_keys,
    free_port,
    probe,
    release_port,
)


def installed(subject: Subject) -> Subject:
    """The subject; the test is skipped where it is not there. Nothing is built for a test."""
    try:
        subject.ready(build=False)
    except Unavailable as e:
        pytest.skip(str(e))
    return subject


# ---- what they do ----------------------------------------------------------------------------


@contextlib.contextmanager
def upstream() -> Iterator[tuple[int, list[dict[str, str]]]]:
    """A server that answers everything; its port, and the header fields of what it was asked."""
    asked: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)


@contextlib.contextmanager
def served(
    subject: Subject, folder: Path, **fields: object
) -> Iterator[tuple[int, list[dict[str, str]]]]:
    """A started subject: its port, and what its upstream was asked. It has answered with 200."""
    ports = free_port(), free_port()
    with upstream() as (backend, asked):
        setup = Setup(
            port=ports[0], backend=backend, folder=folder, spare=ports[1], descriptors=2000,
            policies=subject.policies, **fields,  # type: ignore[arg-type]
        )  # fmt: skip
        with subject.start(setup, tuple(available_cores())):
            yield ports[0], asked
    release_port(*ports)


ALL = (
    FastGate(), FastGate(policies=True), Nginx(), Nginx(policies=True), HAProxy(),
    HAProxy(policies=True), Envoy(), Envoy(policies=True), Pingora(), Caddy(),
)  # fmt: skip


@pytest.mark.parametrize("subject", ALL, ids=lambda s: s.name)
def test_all_tell_the_upstream_the_same(subject: Subject, tmp_path: Path) -> None:
    with served(installed(subject), tmp_path) as (port, asked):
        missing = probe(port, key=None)
    fields = asked[0]
    client = fields["x-forwarded-for"]
    if subject.product == "envoy":  # names a loopback client by an address of the host
        assert ipaddress.ip_address(client)
    else:
        assert client == "127.0.0.1"
    assert fields["x-forwarded-proto"] == "http"
    assert missing is not None
    if subject.policies:
        assert fields["x-consumer-id"] == "bench"
        assert "x-api-key" not in fields
        assert missing.status == 401
    else:
        assert missing.status == 200


@pytest.mark.parametrize("subject", [s for s in ALL if s.policies], ids=lambda s: s.name)
def test_the_rate_is_limited_by_consumer(subject: Subject, tmp_path: Path) -> None:
    """The one that asked until it was served has used its burst; another has its own."""
    other = next(key for key, name in all_keys().items() if name == "consumer-7")
    with served(installed(subject), tmp_path, rate=1, burst=1) as (port, _):
        statuses = {answer.status for _ in range(4) if (answer := probe(port))}
        others = probe(port, key=other)
    assert 429 in statuses
    assert others is not None
    assert others.status == 200


@pytest.mark.parametrize("policies", [False, True])
def test_envoy_takes_its_configuration(tmp_path: Path, policies: bool) -> None:
    envoy = Envoy(policies=policies)
    installed(envoy)
    made = Setup(port=21000, backend=21001, folder=tmp_path, policies=policies, rate=5, burst=9)
    envoy.write(made)
    done = subprocess.run(
        [envoy.binary(), "--mode", "validate", "-c", "envoy.json", "--log-level", "error"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_envoy_has_policies_only_where_it_is_to_have_them(tmp_path: Path) -> None:
    made = Setup(port=21000, backend=21001, folder=tmp_path, rate=5, burst=9)
    plain = Envoy().files(made)["envoy.json"]
    full = Envoy(policies=True).files(dataclasses.replace(made, policies=True))["envoy.json"]
    for name in ("api_key_auth", "local_ratelimit", "access.log"):
        assert name not in plain
        assert name in full
    manager = json.loads(full)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    keys, limit, router = manager[0]["typed_config"]["http_filters"]
    assert len(keys["typed_config"]["credentials"]) == len(all_keys())
    (descriptor,) = limit["typed_config"]["descriptors"]
    bucket = descriptor["token_bucket"]
    assert (bucket["max_tokens"], bucket["tokens_per_fill"]) == (9, 5)
    assert router["name"].endswith("router")


# ---- another nginx ---------------------------------------------------------------------------


def test_another_nginx_is_measured_when_its_path_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(GIVEN, raising=False)
    for policies in (False, True):
        with pytest.raises(Unavailable, match="--nginx PATH"):
            GivenNginx(policies=policies).version()
    try:
        binary = program("nginx", "nginx")
    except Unavailable as e:
        pytest.skip(str(e))
    monkeypatch.setenv(GIVEN, binary)
    for subject in (GivenNginx(), GivenNginx(policies=True)):
        assert subject.name == "nginx-given" + "-policies" * subject.policies
        assert "path was given" in subject.description
        assert subject.version() == f"nginx/{Nginx().version()}"
        setup = Setup(port=1, backend=2, folder=tmp_path, policies=subject.policies)
        assert subject.command(setup)[0] == binary
        assert subject.files(setup) == Nginx(policies=subject.policies).files(setup)


def test_openresty_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "openresty"
    script.write_text("#!/bin/sh\necho 'nginx version: openresty/1.27.1.2' >&2\n")
    script.chmod(0o755)
    monkeypatch.setenv(GIVEN, str(script))
    assert GivenNginx().version() == "openresty/1.27.1.2"


def test_a_path_that_is_no_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("")
    for wrong in (tmp_path / "none", tmp_path / "text", tmp_path):
        with pytest.raises(SystemExit):
            command.arguments(["--nginx", str(wrong)])
        assert "give the path of an nginx binary" in capsys.readouterr().err
        monkeypatch.setenv(GIVEN, str(wrong))
        with pytest.raises(SystemExit):
            command.arguments([])
        monkeypatch.delenv(GIVEN)


def test_the_option_and_the_variable_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "mainline"
    script.write_text("#!/bin/sh\necho 'nginx version: nginx/1.99.1' >&2\n")
    script.chmod(0o755)
    monkeypatch.setenv(GIVEN, str(script))
    assert command.arguments([]).nginx == script
    monkeypatch.setenv(GIVEN, "")
    assert command.arguments([]).nginx is None
    assert command.main(["--nginx", str(script), "--list"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("[nginx/1.99.1]") == 2
    for name in SUBJECTS:
        assert f"  {name} " in listed
    for scenario in table():
        assert f"  {scenario.name} " in listed
    assert os.environ[GIVEN] == str(script)


def test_a_program_without_a_version_is_not_measured() -> None:
    with pytest.raises(Unavailable, match="not installed"):
        said_by(["/nowhere/at/all"], "(.*)")
    with pytest.raises(Unavailable, match="no version"):
        said_by(["true"], r"version (\S+)")


# ---- what is built ---------------------------------------------------------------------------

BUILDERS = {
    "pingora": ("cargo", 'mkdir -p "$CARGO_TARGET_DIR/release"; '
                'echo made > "$CARGO_TARGET_DIR/release/bench-pingora"'),
    "caddy": ("go", 'echo made > "$GOBIN/caddy"'),
}  # fmt: skip


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of builders that stands in for all that is installed, and an empty build folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for needed in ("taskset", "sh", "mkdir", "sleep"):
        path = command.shutil.which(needed)
        assert path
        (folder / needed).symlink_to(path)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(built, "BUILD", tmp_path / "build")
    return folder


def builder(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f'#!/bin/sh\necho "$@" >> "{folder}/asked"\n{script}\n')
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("subject", [Pingora(), Caddy()], ids=lambda s: s.name)
def test_a_peer_is_built_once_where_its_builder_is(subject: Built, tools: Path) -> None:
    name, script = BUILDERS[subject.name]
    with pytest.raises(Unavailable, match=f"{name} is not installed: https://"):
        subject.ready(build=True)
    builder(tools, name, script)
    with pytest.raises(Unavailable, match=r"not built yet: python -m benchmarks\.compare --build"):
        subject.ready(build=False)
    assert not (tools / "asked").exists()
    for _ in range(2):
        subject.ready(build=True)
    subject.ready(build=False)
    assert subject.version() == subject.pinned
    assert subject.program.read_text() == "made\n"
    assert [path.name for path in built.BUILD.iterdir()] == [subject.program.name]
    (asked,) = (tools / "asked").read_text().splitlines()
    assert ("--locked" in asked) if name == "cargo" else asked.endswith(f"@{built.CADDY}")
    (tools / name).unlink()  # what was built needs nothing to be run
    assert subject.version() == subject.pinned


@pytest.mark.parametrize("subject", [Pingora(), Caddy()], ids=lambda s: s.name)
def test_a_build_that_fails_says_why(subject: Built, tools: Path) -> None:
    name, _ = BUILDERS[subject.name]
    builder(tools, name, "echo one; echo 'error: no network' >&2; exit 3")
    with pytest.raises(Unavailable, match="ended with 3: error: no network") as failed:
        subject.ready(build=True)
    folder = built.BUILD / f"{subject.name}-build"
    assert str(folder) in str(failed.value)
    assert "no network" in (folder / "stderr.log").read_text()
    assert not subject.program.exists()


def test_what_is_built_can_be_built_alone(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builder(tools, *BUILDERS["caddy"])
    assert command.main(["--build"]) == 1
    said = capsys.readouterr()
    assert f"caddy {Caddy().pinned}: " in said.out
    assert "pingora: cargo is not installed" in said.err
    builder(tools, *BUILDERS["pingora"])
    assert command.main(["--build"]) == 0


def test_a_build_that_is_interrupted_ends_with_all_its_children(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waited(Tree):
        """Leaves a file when its end is waited for: then the builder may interrupt it."""

        def __init__(self, *given: Any, folder: Path, **named: Any) -> None:
            super().__init__(*given, folder=folder, **named)
            wait = self.process.wait

            def waiting(timeout: float | None = None) -> int:
                (folder / "waited-for").touch()
                return wait(timeout)

            monkeypatch.setattr(self.process, "wait", waiting)

    monkeypatch.setattr(built, "Tree", Waited)
    builder(
        tools, "cargo",
        'cd "$CARGO_TARGET_DIR"; sleep 600 & echo $! > child; '
        "while [ ! -e waited-for ]; do sleep 0.01; done; kill -TERM $PPID; wait",
    )  # fmt: skip
    assert command.main(["--build"]) == 130
    assert not runs(int((built.BUILD / "pingora-build" / "child").read_text()))
    assert not Pingora().program.exists()


def test_the_lock_has_the_version_that_is_pinned() -> None:
    lock = (built.PINGORA / "Cargo.lock").read_text()
    assert f'name = "pingora"\nversion = "{Pingora().pinned}"\n' in lock


# ---- what cannot be had ----------------------------------------------------------------------


def test_a_quick_run_builds_nothing_and_says_what_is_missing(tools: Path) -> None:
    for name, script in BUILDERS.values():
        builder(tools, name, script)
    (wanted,) = (s for s in table() if s.name == "saturation")
    wanted = dataclasses.replace(wanted, subjects=("pingora", "caddy"))
    with Session(Options(quick=True)) as session:
        assert session.available(wanted) == []
        assert session.available(dataclasses.replace(wanted, name="idle")) == []
    assert not (tools / "asked").exists()
    assert [(s.scenario, s.subject) for s in session.skipped] == [
        ("saturation", "pingora"), ("saturation", "caddy"), ("idle", "pingora"), ("idle", "caddy"),
    ]  # fmt: skip
    assert {s.reason for s in session.skipped} == {
        "not built yet: python -m benchmarks.compare --build"
    }


def test_a_full_run_asks_once_for_what_cannot_be_built(tools: Path) -> None:
    builder(tools, "go", "exit 1")
    (wanted,) = (s for s in table() if s.name == "saturation")
    wanted = dataclasses.replace(wanted, subjects=("caddy",))
    with Session(Options()) as session:
        for name in ("saturation", "idle"):
            assert session.available(dataclasses.replace(wanted, name=name)) == []
    assert len((tools / "asked").read_text().splitlines()) == 1
    assert len(session.skipped) == 2


def test_each_peer_is_described() -> None:
    text = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    assert [name for name in SUBJECTS if f"`{name}`" not in text] == []
    assert set(PROXIES) <= set(SUBJECTS)
