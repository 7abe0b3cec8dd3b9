"""What the processes of a small gateway have not imported: it would be kept in memory for good.

A `sitecustomize` in each process tells which modules are there: the children over a socket, the
supervisor, which has no threads, at its end.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

from gatewaykit import PROJECT, Gateway, Upstream, eventually, fetch, proxying

Start = Callable[..., Gateway]

TELL = """
import atexit, json, os, socket, sys, threading

FOLDER = os.environ["FASTGATE_TEST_MODULES"]
SUPERVISOR = os.getpid()


def modules():
    return json.dumps(sorted(sys.modules)).encode()


def tell():
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.join(FOLDER, str(os.getpid())))
        listening.listen()
        while True:
            with listening.accept()[0] as asking:
                asking.sendall(modules())


def at_end():
    if os.getpid() == SUPERVISOR:
        with open(os.path.join(FOLDER, "supervisor"), "wb") as file:
            file.write(modules())


os.register_at_fork(after_in_child=lambda: threading.Thread(target=tell, daemon=True).start())
atexit.register(at_end)
"""

NOWHERE = (
    "aiosmtplib", "alembic", "asyncpg", "cryptography", "fastgate.billing.invoices",
    "fastgate.billing.ledger", "fastgate.billing.notices", "fastgate.billing.payments",
    "fastgate.billing.subscriptions", "fastgate.certificates", "fastgate.cli.client",
    "fastgate.demo", "fastgate.portal", "fastgate.runtime.control.money", "http.client", "httpx",
    "jinja2", "litestar", "pydantic", "rich", "sqlalchemy.dialects.mysql",
    "sqlalchemy.dialects.postgresql", "sqlalchemy.ext.asyncio", "sqlalchemy.orm", "stripe", "x402",
    "zoneinfo",
)  # fmt: skip
"""Costs for what a gateway does that was not asked to."""

CONTROL_ALONE = (
    "aiosqlite", "difflib", "email", "fastgate.api", "fastgate.config.compiler",
    "fastgate.identity", "fastgate.observability", "fastgate.refusal",
    "fastgate.runtime.control.control", "fastgate.store", "greenlet", "h11", "html",
    "logging.config", "multiprocessing", "secrets", "sqlalchemy", "sqlite3", "uvicorn",
)  # fmt: skip
"""The supervisor and the workers do without."""


def found(modules: set[str], unwanted: tuple[str, ...]) -> list[str]:
    """Which of them are there, with all that is in them."""
    return sorted(
        name for name in modules if any(f"{name}.".startswith(f"{top}.") for top in unwanted)
    )


def ask(folder: Path, pid: int) -> set[str]:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(folder / str(pid)))
        said = b"".join(iter(lambda: asking.recv(65536), b""))
    return set(json.loads(said))


def test_a_small_gateway_imports_what_it_uses(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(TELL)
    running = gateway(
        proxying(upstream),
        workers=1,
        environ={
            "PYTHONPATH": f"{tmp_path}:{PROJECT}",
            "FASTGATE_TEST_MODULES": str(tmp_path),
            "PYTHONWARNINGS": "ignore",
        },
    )
    assert fetch(running.address(), "/").status == 200
    host, _, port = running.control.removeprefix("http://").rpartition(":")
    for probe in ("/readyz", "/metrics"):
        assert fetch((host, int(port)), probe).status == 200
    eventually(lambda: running.said("The store is ready"), "the store is there")
    children = running.children()
    control, worker = (ask(tmp_path, children[name]) for name in ("fg-control", "fg-worker-0"))
    assert {"sqlalchemy", "fastgate.api.probes"} <= control
    assert found(control, NOWHERE) == []
    assert "fastgate._core.engine" in worker
    assert found(worker, (*NOWHERE, *CONTROL_ALONE)) == []

    assert running.api("/v1/status").json["ready"] is True  # the rest of the API, from now on
    control = ask(tmp_path, children["fg-control"])
    assert "litestar" in control
    for name in ("sqlalchemy.orm", "sqlalchemy.dialects.postgresql", "fastgate.portal", "stripe",
                 "httpx", "pydantic", "fastgate.runtime.control.money"):  # fmt: skip
        assert found(control, (name,)) == []

    assert running.stop() == 0
    supervisor = set(json.loads((tmp_path / "supervisor").read_text()))
    assert "fastgate.runtime.supervisor.supervisor" in supervisor
    assert found(supervisor, (*NOWHERE, *CONTROL_ALONE)) == []
