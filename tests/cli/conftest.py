"""The command line in this process, and the real control API on a real socket to speak to."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn

from fastgate.cli.app import execute

SAMPLE = Path(__file__).parents[1] / "api" / "conftest.py"


class Ran(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Cli:
    """Runs command lines."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ran:
        self._capsys.readouterr()
        code = execute(arguments)
        captured = self._capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    def done(self, *arguments: str) -> Any:
        """The JSON that a command prints that must succeed."""
        ran = self(*arguments, "--json")
        assert ran.code == 0, ran.err
        return ran.data


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Command lines run in an empty directory, with no setting in the environment."""
    for name in ("CONFIG", "CONTROL", "TOKEN", "STATE_DIR", "LOG_LEVEL"):
        monkeypatch.delenv(f"FASTGATE_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return Cli(capsys)


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Signals are the test runner's."""


class Gateway:
    """A control API that listens, over a fake control process; in a thread of its own."""

    def __init__(self, url: str, state: Path) -> None:
        self._url = url
        self._state = state
        self._up = threading.Event()
        self._failed: BaseException | None = None
        self.world: Any = None
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.control = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._up.wait(30)
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
        finally:
            self._up.set()

    async def _serve(self) -> None:
        from fastgate.store.engine import Store

        spec = importlib.util.spec_from_file_location("api_world", SAMPLE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        store = Store(self._url)
        self.world = module.World(store, self._state)
        await store.connect()
        config = uvicorn.Config(self.world.app, log_config=None, lifespan="off", loop="asyncio")
        self._server = _Server(config)
        self._loop = asyncio.get_running_loop()
        self._up.set()
        await self._server.serve(sockets=[self.socket])
        await store.stop()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(setattr, self._server, "should_exit", True)
        self._thread.join(30)
        self.socket.close()


@pytest.fixture
def gateway(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> Iterator[Gateway]:
    """A running control API, named by the environment; its admin token in the state directory."""
    state = tmp_path / ".fastgate"
    state.mkdir()
    running = Gateway(sqlite_url, state)
    monkeypatch.setenv("FASTGATE_CONTROL", running.control)
    yield running
    running.stop()
