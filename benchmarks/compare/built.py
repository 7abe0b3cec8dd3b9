"""Peers that are built from source: Pingora by cargo, Caddy by go, each in a pinned version.

Pingora is a framework: `benchmarks/tools/pingora` is a proxy of some sixty lines made with it. What
was built stays in `build/benchmarks/` until its source or version changes. Sources come from
crates.io and by the Go module proxy, through cargo and go themselves.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from abc import abstractmethod
from pathlib import Path

from benchmarks.compare.machine import available_cores
from benchmarks.compare.processes import Tree
from benchmarks.compare.subjects import Setup, Subject, Unavailable
from benchmarks.tools import BUILD, SOURCES

BUILD_PATIENCE = 1800.0  # seconds
POOL = 2048  # idle connections to the backend
CADDY = "v2.11.9"
PINGORA = SOURCES / "pingora"


class Built(Subject):
    """A peer that is built from source."""

    builder: str  # the program that builds it
    builder_from: str  # where to get that

    @property
    @abstractmethod
    def program(self) -> Path:
        """Where the program is when it is built; another path when its source is another."""

    @property
    @abstractmethod
    def pinned(self) -> str:
        """The version that is built."""

    @abstractmethod
    def make(self, folder: Path) -> Path:
        """Builds in `folder`; the program there. Raises Unavailable."""

    def version(self) -> str:
        if self.program.exists():
            return self.pinned
        if shutil.which(self.builder) is None:
            raise Unavailable(f"{self.builder} is not installed: {self.builder_from}")
        raise Unavailable("not built yet: python -m benchmarks.compare --build")

    def ready(self, *, build: bool) -> None:
        if self.program.exists() or not build or shutil.which(self.builder) is None:
            self.version()
            return
        print(f"building {self.name} {self.pinned}: some minutes, once", file=sys.stderr)
        folder = BUILD / f"{self.name}-build"
        folder.mkdir(parents=True, exist_ok=True)
        made = self.make(folder)
        beside = self.program.with_suffix(".new")
        shutil.copy2(made, beside)
        beside.replace(self.program)
        shutil.rmtree(folder)

    def run(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        """Runs a step of a build in `folder`, ended with all its children when this is interrupted.

        Raises Unavailable when it fails; its output is in the folder then.
        """
        with Tree(command, cores=available_cores(), folder=folder, environment=environment) as tree:
            try:
                code = tree.process.wait(BUILD_PATIENCE)
            except subprocess.TimeoutExpired:
                raise Unavailable(f"not built within {BUILD_PATIENCE:g} s") from None
        if code:
            said = tree.last_words().splitlines() or ["no output"]
            raise Unavailable(f"{self.builder} ended with {code}: {said[-1]} (more in {folder})")

    def workers_of(self, tree: Tree, count: int) -> list[int]:
        return tree.pids()  # threads of one process


class Pingora(Built):
    """The proxy of tools/pingora."""

    product = name = "pingora"
    builder, builder_from = "cargo", "https://rustup.rs"

    @property
    def description(self) -> str:
        return "a proxy of sixty lines built with Pingora: plain reverse proxy, no access log"

    @property
    def program(self) -> Path:
        digest = hashlib.sha256()
        for source in ("Cargo.toml", "Cargo.lock", "src/main.rs"):
            digest.update((PINGORA / source).read_bytes())
        return BUILD / f"pingora-{digest.hexdigest()[:12]}"

    @property
    def pinned(self) -> str:
        found = re.search(r'^pingora = .*version = "=([\d.]+)"', self._manifest(), re.MULTILINE)
        assert found
        return found.group(1)

    def _manifest(self) -> str:
        return (PINGORA / "Cargo.toml").read_text()

    def make(self, folder: Path) -> Path:
        manifest = str(PINGORA / "Cargo.toml")
        command = ["cargo", "build", "--release", "--locked", "--manifest-path", manifest]
        self.run(command, folder, {"CARGO_TARGET_DIR": str(folder)})
        return folder / "release" / "bench-pingora"

    def files(self, setup: Setup) -> dict[str, str]:
        return {}

    def command(self, setup: Setup) -> list[str]:
        return [
            str(self.program), f"127.0.0.1:{setup.port}", f"127.0.0.1:{setup.backend}",
            str(setup.workers), str(POOL),
        ]  # fmt: skip


class Caddy(Built):
    """Caddy with its standard modules."""

    product = name = "caddy"
    builder, builder_from = "go", "https://go.dev/dl"

    @property
    def description(self) -> str:
        return "Caddy: plain reverse proxy, access log off"

    @property
    def program(self) -> Path:
        return BUILD / f"caddy-{CADDY}"

    @property
    def pinned(self) -> str:
        return CADDY.removeprefix("v")

    def make(self, folder: Path) -> Path:
        module = f"github.com/caddyserver/caddy/v2/cmd/caddy@{CADDY}"
        command = ["go", "install", "-trimpath", "-ldflags=-s -w", module]
        self.run(command, folder, {"GOBIN": str(folder), "CGO_ENABLED": "0"})
        return folder / "caddy"

    def files(self, setup: Setup) -> dict[str, str]:
        proxy = {
            "handler": "reverse_proxy",
            "transport": {
                "protocol": "http",
                "keep_alive": {
                    "enabled": True, "idle_timeout": "5m",
                    "max_idle_conns": POOL, "max_idle_conns_per_host": POOL,
                },
            },
            "upstreams": [{"dial": f"127.0.0.1:{setup.backend}"}],
        }  # fmt: skip
        server = {
            "listen": [f"127.0.0.1:{setup.port}"],
            "protocols": ["h1"],
            "automatic_https": {"disable": True},
            "idle_timeout": "5m",
            "routes": [{"handle": [proxy]}],
        }
        conf = {
            "admin": {"disabled": True, "config": {"persist": False}},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "storage": {"module": "file_system", "root": f"{setup.folder}/storage"},
            "apps": {"http": {"servers": {"public": server}}},
        }
        return {"caddy.json": json.dumps(conf, indent=1)}

    def command(self, setup: Setup) -> list[str]:
        # Go runs as many threads as it is pinned to cores: one for each worker of the others.
        homes = [f"XDG_{kind}_HOME={setup.folder}" for kind in ("CONFIG", "DATA")]
        return ["env", *homes, str(self.program), "run", "--config", "caddy.json"]
