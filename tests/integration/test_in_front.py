"""What stands in front of a real gateway: HAProxy with both versions of the PROXY protocol, clients
beyond their limits, load balancers that send something else."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tlskit
from certkit import Material
from gatewaykit import Gateway, eventually, fetch
from proxykit import version_1

Start = Callable[..., Gateway]
CLIENT = "127.0.0.77"  # our own address, seen by HAProxy
REQUEST = b"GET /%b HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n"
SENDS = {
    "v1": "send-proxy",
    "v2": "send-proxy-v2",
    "v2-crc": "send-proxy-v2 proxy-v2-options crc32c,unique-id",
}
"""What HAProxy's server line says."""


def document(folder: Path, material: Material, **listener: Any) -> dict[str, Any]:
    """A clear listener and one with TLS; the access log is in `folder`."""
    leaf = material.leaf()
    return {
        "listeners": [
            {"name": "clear", "bind": "127.0.0.1:0", **listener},
            {"name": "secure", "bind": "127.0.0.1:0", "tls": True, **listener},
        ],
        "certificates": [{"name": "api", "cert": f"path:{leaf.cert}", "key": f"path:{leaf.key}"}],
        "routes": [{"name": "r", "path": "/{rest*}", "respond": {"body": "hello"}}],
        "observability": {"access_log": {"to": str(folder / "access.log")}},
    }


def logged(folder: Path, path: str) -> dict[str, Any]:
    """The line of the access log for that path."""

    def probe() -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError):
            whole = (
                (folder / "access.log").read_text().rpartition("\n")[0]
            )  # not what is half written
            for line in whole.splitlines():
                found: dict[str, Any] = json.loads(line)
                if found["path"] == path:
                    return found
        return None

    found = eventually(probe, f"the line for {path}")
    assert found is not None
    return found


# ---- behind HAProxy -----------------------------------------------------------------------------


class Behind(NamedTuple):
    """A gateway behind HAProxy, which has a port for each listener and what it sends."""

    folder: Path
    ports: dict[tuple[str, str], int]
    stats: Path

    def ask_haproxy(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.stats))
            sock.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def haproxy_config(gateway: Gateway, fds: dict[tuple[str, str], int], stats: Path) -> str:
    lines = [
        "global", f"  stats socket {stats}", "defaults", "  mode tcp", "  timeout connect 20s",
        "  timeout client 20s", "  timeout server 20s",
    ]  # fmt: skip
    for (listener, how), fd in fds.items():
        host, port = gateway.address(listener)
        check = "check check-send-proxy inter 100ms"
        if listener == "secure":
            check += " check-ssl verify none"
        lines += [
            f"listen {listener}-{how}",
            f"  bind fd@{fd}",
            "  unique-id-format %pid",
            f"  option httpchk GET /checked/{listener}/{how}",
            f"  server s {host}:{port} {SENDS[how]} {check}",
        ]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def behind(
    shared_gateway: Start, tls_material: Material, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Behind]:
    if shutil.which("haproxy") is None:
        pytest.skip("needs haproxy (Debian: haproxy)")
    folder = tmp_path_factory.mktemp("haproxy")
    config = document(folder, tls_material, proxy_protocol=["127.0.0.1"])
    gateway = shared_gateway(config)
    pairs = [(listener, how) for listener in ("clear", "secure") for how in SENDS]
    stats = folder / "stats"
    with contextlib.ExitStack() as stack:
        sockets = {
            pair: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for pair in pairs
        }
        fds = {pair: sock.fileno() for pair, sock in sockets.items()}
        (folder / "haproxy.cfg").write_text(haproxy_config(gateway, fds, stats))
        with (folder / "haproxy.log").open("wb") as log:
            process = subprocess.Popen(
                ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")],
                pass_fds=list(fds.values()), stdout=log, stderr=log,
            )  # fmt: skip
        ports = {pair: sock.getsockname()[1] for pair, sock in sockets.items()}
        try:
            eventually(
                lambda: stats.exists() or process.poll() is not None, "HAProxy's socket for us"
            )
            assert process.poll() is None, (folder / "haproxy.log").read_text()
            yield Behind(folder, ports, stats)
        finally:
            process.terminate()
            process.wait(20)


def ask(port: int, path: bytes, *, secure: bool, trust: Material) -> bytes:
    """The answer to a request from our own address."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(CLIENT, 0))
    if secure:
        with tlskit.TlsClient(sock, tlskit.client_context(trust.root)) as client:
            client.send(REQUEST % path)
            return client.rest()
    with sock:
        sock.sendall(REQUEST % path)
        return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize("how", SENDS)
@pytest.mark.parametrize("listener", ["clear", "secure"])
def test_haproxy_says_who_the_client_is(
    behind: Behind, listener: str, how: str, tls_material: Material
) -> None:
    path = f"asked/{listener}/{how}"
    for n in range(3):
        answer = ask(
            behind.ports[listener, how],
            f"{path}/{n}".encode(),
            secure=listener == "secure",
            trust=tls_material,
        )
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert logged(behind.folder, f"/{path}/{n}")["client"] == CLIENT


@pytest.mark.parametrize("how", SENDS)
@pytest.mark.parametrize("listener", ["clear", "secure"])
def test_haproxys_own_checks_are_its_own(behind: Behind, listener: str, how: str) -> None:
    """It announces itself then, with LOCAL or its own address."""
    assert logged(behind.folder, f"/checked/{listener}/{how}")["client"] == "127.0.0.1"

    def up() -> bool:
        stat = behind.ask_haproxy("show stat")
        row = next(line for line in stat.splitlines() if line.startswith(f"{listener}-{how},s,"))
        return row.split(",")[17] == "UP"

    eventually(up, "HAProxy finds the gateway healthy")


# ---- those who send something else --------------------------------------------------------------


def test_a_load_balancer_without_headers_is_logged_and_counted(
    gateway: Start, tls_material: Material, tmp_path: Path
) -> None:
    running = gateway(document(tmp_path, tls_material, proxy_protocol=["127.0.0.1"]))
    address = running.address("clear")
    for _ in range(3):
        with pytest.raises(OSError, match=r"closed without an answer|reset"):
            fetch(address, "/")
    eventually(lambda: running.said("does not begin with a PROXY header"), "the warning")

    def refused() -> bool:
        text = running.api("/metrics").body.decode()
        lines = [line for line in text.splitlines() if 'reason="proxy_protocol"' in line]
        return sum(int(line.rpartition(" ")[2]) for line in lines) == 3

    eventually(refused, "the count")
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(version_1(CLIENT) + REQUEST % b"announced")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert logged(tmp_path, "/announced")["client"] == CLIENT


# ---- limits -------------------------------------------------------------------------------------


def served(sock: socket.socket) -> bool:
    try:
        sock.sendall(REQUEST.replace(b"close", b"keep-alive") % b"")
        return sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    except ConnectionError:
        return False


def test_a_killed_worker_leaves_no_count(
    gateway: Start, tls_material: Material, tmp_path: Path
) -> None:
    running = gateway(document(tmp_path, tls_material, connections=6), workers=2)
    address = running.address("clear")
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(10)
        ]
        assert sum(served(sock) for sock in socks) == 6
        for name in ("fg-worker-0", "fg-worker-1"):
            running.kill(name)
        # Their connections are gone with them, and as many others have room.

        def six() -> bool:
            with contextlib.ExitStack() as others:
                tried = [
                    others.enter_context(socket.create_connection(address, timeout=20))
                    for _ in range(8)
                ]
                return sum(served(sock) for sock in tried) == 6

        eventually(six, "room for six")
