"""The C tools over TLS: they do what was asked, and say when it was something else."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certkit import Material
from tlskit import TlsClient, client_context, cut, octets, server_context, together
from tlsserverkit import TlsServer

from benchmarks.compare.encryption import Agreed, Tls, objection
from benchmarks.compare.machine import available_cores
from benchmarks.compare.processes import Tree
from benchmarks.compare.subjects import Setup, free_port, release_port, wait_serving
from benchmarks.tools import tool

pytestmark = pytest.mark.usefixtures("compiled_tools")

NAME = "test.example"


@pytest.fixture(scope="module")
def backend(tls_material: Material, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The backend, serving TLS: its port."""
    leaf, port = tls_material.leaf(), free_port()
    folder = tmp_path_factory.mktemp("backend")
    command = [tool("backend"), "--cert", leaf.cert, "--key", leaf.key, f"tls:127.0.0.1:{port}"]
    with Tree([str(part) for part in command], cores=available_cores(), folder=folder) as tree:
        wait_serving(tree, Setup(port=port, backend=0, folder=folder, tls=True), 10)
        yield port
    release_port(port)


def run(name: str, port: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool(name), "--target", f"127.0.0.1:{port}", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def load(port: int, material: Material, *arguments: object) -> dict[str, Any]:
    """The generator's result, over TLS that is verified."""
    done = run(
        "load", port, "--header", "Host: a", "--tls", "--tls-ca", material.root.ca,
        "--tls-name", NAME, *arguments,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shape: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return shape


def errors(shape: dict[str, Any]) -> int:
    names = ("connect_errors", "tls_errors", "resets", "timeouts", "protocol_errors", "unanswered")
    return sum(shape[name] for name in names)


# ---- the generator ---------------------------------------------------------------------------


def test_connections_that_are_kept_have_one_handshake_each(
    backend: int, tls_material: Material
) -> None:
    shape = load(backend, tls_material, "--connections", 8, "--duration", 0.2, "--warmup", 0)
    assert errors(shape) == 0
    assert shape["responses"] > 8
    tls = shape["tls"]
    assert (tls["full"], tls["resumed"]) == (8, 0)
    assert (tls["version"], tls["key"]) == ("TLSv1.3", "EC-256")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_connection_for_each_request_has_the_handshake_asked_for(
    tls_material: Material, version: str, resume: bool
) -> None:
    """By the server's own count."""
    asked = Tls(version=version, resume=resume)
    given = asked.arguments(tls_material.root.ca)
    given[given.index("--tls-name") + 1] = NAME
    with TlsServer(tls_material.leaf()) as server:
        done = run("load", server.port, "--count", 30, "--connections", 2, "--close",
                   "--header", "Host: a", *given)  # fmt: skip
    shape = json.loads(done.stdout.splitlines()[-1])
    assert (errors(shape), shape["responses"]) == (0, 30)
    assert server.handshakes == 30
    assert server.resumed == shape["tls"]["resumed"] == (28 if resume else 0)
    assert (shape["tls"]["full"], shape["tls"]["refused"]) == (30 - server.resumed, 0)
    assert shape["tls"]["unoffered"] == (2 if resume else 0)
    assert (shape["tls"]["cipher"], shape["tls"]["group"]) == (asked.suite, "x25519")
    assert server.ended == ["here"] * 30  # by the server, which is waited for


def test_sessions_that_a_server_does_not_take_are_counted(tls_material: Material) -> None:
    with TlsServer(tls_material.leaf(), versions=("1.2", "1.2")) as server:

        def forgetful(_: object) -> bytes:
            server.use(server.identity)  # another context, with other ticket keys
            return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

        server.respond = forgetful
        shape = load(server.port, tls_material, "--count", 5, "--close", "--tls-resume")
    assert (shape["tls"]["full"], shape["tls"]["refused"], server.resumed) == (5, 4, 0)
    asked = Tls(version="1.2", resume=True)
    agreed = Agreed.read(shape["tls"] | {"cipher": asked.suite, "group": "x25519"})
    assert objection(agreed, asked, 5, fresh=True) == (
        "5 of 5 handshakes were full ones; in all, 4 sessions were refused, 1 missing"
    )


def test_sessions_that_a_server_does_not_give_are_counted(tls_material: Material) -> None:
    with TlsServer(tls_material.leaf(), versions=("1.3", "1.3")) as server:
        server.context.num_tickets = 0
        shape = load(server.port, tls_material, "--count", 5, "--close", "--tls-resume")
    assert (shape["tls"]["full"], shape["tls"]["unoffered"], server.resumed) == (5, 5, 0)


@pytest.mark.parametrize("wire", [together, octets, cut(7)])
def test_records_may_come_in_any_pieces(tls_material: Material, wire: Any) -> None:
    with TlsServer(tls_material.leaf(), wire=wire) as server:
        server.record = 9
        shape = load(server.port, tls_material, "--count", 3)
    assert (errors(shape), shape["responses"], len(server.requests)) == (0, 3, 3)


@pytest.mark.parametrize("size", [0, 100, 1 << 20])
def test_bodies_of_any_size(backend: int, tls_material: Material, size: int) -> None:
    shape = load(
        backend, tls_material, "--count", 8, "--path", f"/bytes/{size}", "--body", size,
        "--connections", 2,
    )  # fmt: skip
    assert (errors(shape), shape["statuses"]) == (0, {"200": 8})


def test_latency_contains_the_handshake(tls_material: Material, backend: int) -> None:
    """A constant rate with a connection each: all that is due is in the histogram."""
    shape = load(
        backend, tls_material, "--rate", 100, "--duration", 0.3, "--warmup", 0.1, "--close",
        "--connections", 4,
    )  # fmt: skip
    assert (errors(shape), shape["latency"]["count"]) == (0, 30)
    assert shape["tls"]["full"] == 40
    assert 1 <= shape["tls"]["window_full"] <= 40


def test_the_window_contains_no_first_handshake(tls_material: Material) -> None:
    """They take longer than the warm-up."""
    with TlsServer(tls_material.leaf()) as server:
        shape = load(server.port, tls_material, "--connections", 4, "--duration", 0.5,
                     "--warmup", 0.0001)  # fmt: skip
    assert errors(shape) == 0
    assert (shape["tls"]["full"], shape["tls"]["window_full"]) == (4, 0)
    assert shape["responses"] > 0


def test_a_server_that_resets_is_survived(tls_material: Material) -> None:
    """libssl writes to what is closed, which is a signal unless it is ignored."""
    context = server_context(tls_material.leaf())
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted, _ = listener.accept()
                    with accepted, contextlib.suppress(ssl.SSLError, OSError):
                        wrapped = context.wrap_socket(accepted, server_side=True)
                        wrapped.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                        wrapped.close()

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        shape = load(listener.getsockname()[1], tls_material, "--connections", 4,
                     "--duration", 0.5, "--warmup", 0.1, "--timeout", 0.5,
                     "--body", 1 << 22)  # fmt: skip
        listener.shutdown(socket.SHUT_RDWR)
        serving.join(10)
    assert (shape["responses"], shape["resets"] > 0) == (0, True)


@pytest.mark.parametrize(
    ("bad", "why"),
    [("wrong_name", "hostname mismatch"), ("expired", "certificate has expired"),
     ("unknown_issuer", "unable to get local issuer certificate")],
)  # fmt: skip
def test_a_certificate_that_is_not_good_is_an_error(
    tls_material: Material, bad: str, why: str
) -> None:
    with TlsServer(getattr(tls_material, bad)()) as server:
        shape = load(server.port, tls_material, "--count", 1)
    assert (shape["tls_errors"], errors(shape), shape["responses"]) == (1, 1, 0)
    assert why in shape["tls"]["error"]


def test_nothing_is_verified_if_that_is_asked_for(tls_material: Material) -> None:
    with TlsServer(tls_material.expired()) as server:
        done = run("load", server.port, "--tls", "--tls-insecure", "--count", 2, "--header",
                   "Host: a")  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])["statuses"] == {"200": 2}


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (["--tls"], "--tls-ca FILE, or --tls-insecure"),
        (["--tls", "--tls-ca", "a.pem"], "--tls-ca needs --tls-name"),
        (["--tls", "--tls-ca", "/nowhere.pem", "--tls-name", "a"], "/nowhere.pem"),
        (["--tls", "--tls-insecure", "--tls-version", "1.1"], "must be 1.2 or 1.3"),
        (["--tls", "--tls-insecure", "--tls-cipher", "NOTHING"], "NOTHING"),
        (["--tls", "--tls-insecure", "--tls-group", "NOTHING"], "NOTHING"),
    ],
)
def test_what_cannot_be_is_said(given: list[str], word: str) -> None:
    done = run("load", 9, *given)
    assert done.returncode == 2
    assert word in done.stderr


def test_a_server_without_tls_is_an_error(tls_material: Material) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = subprocess.Popen(
            [tool("load"), "--target", f"127.0.0.1:{server.getsockname()[1]}", "--tls",
             "--tls-insecure", "--count", "1"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        client, _ = server.accept()
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            out, _ = process.communicate(timeout=30)
    shape = json.loads(out.splitlines()[-1])
    assert (shape["tls_errors"], shape["tls"]["error"]) == (1, "wrong version number")


def test_an_answer_that_is_cut_is_a_reset_and_ends_are_told_apart(tls_material: Material) -> None:
    with TlsServer(tls_material.leaf(), cut=-1) as server:
        shape = load(server.port, tls_material, "--count", 1)
        assert (shape["resets"], errors(shape), shape["tls"]["bare_ends"]) == (1, 1, 1)
        server.cut, server.close_notify = None, False
        for server.close_notify in (False, True):
            shape = load(server.port, tls_material, "--count", 4, "--close")
            assert (errors(shape), shape["responses"]) == (0, 4)
            # the last one may not have ended when the run does
            assert (shape["tls"]["bare_ends"] >= 3) is not server.close_notify


def test_held_connections_stay_over_tls(backend: int, tls_material: Material) -> None:
    process = subprocess.Popen(
        [tool("load"), "--target", f"127.0.0.1:{backend}", "--connections", "50", "--hold",
         "--tls", "--tls-ca", tls_material.root.ca, "--tls-name", NAME],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    lines = [process.stdout.readline().strip(), process.stdout.readline().strip()]
    assert lines == ["measuring", "held"]
    out, _ = process.communicate(timeout=30)
    shape = json.loads(out)
    assert (shape["responses"], shape["reconnects"], shape["tls"]["full"]) == (50, 0, 50)


# ---- what was agreed -------------------------------------------------------------------------


def seen(**changes: object) -> Agreed:
    fields: dict[str, object] = {
        "version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "group": "x25519",
        "key": "EC-256", "error": "", "full": 5, "resumed": 0, "refused": 0, "unoffered": 0,
        "bare_ends": 0, "window_full": 0, "window_resumed": 0,
    }  # fmt: skip
    return Agreed.read(fields | changes)


@pytest.mark.parametrize(
    ("changes", "asked", "fresh", "why"),
    [
        ({}, Tls(), False, ""),
        ({"window_full": 3}, Tls(), False, ""),
        ({"window_full": 4}, Tls(), False, "4 handshakes in the window"),
        ({"window_full": 300}, Tls(), True, ""),
        ({}, Tls(), True, "no handshake in the window"),
        ({"window_full": 2, "window_resumed": 298}, Tls(resume=True), True, ""),
        ({"window_full": 200, "window_resumed": 100}, Tls(resume=True), True, "200 of 300"),
        ({"window_full": 200, "window_resumed": 100}, Tls(), True, "100 of 300"),
        ({"version": "TLSv1.2"}, Tls(), False, "agreed on TLSv1.2"),
        ({"key": "RSA-2048"}, Tls(), False, "asked for TLSv1.3"),
        ({"cipher": "TLS_AES_128_GCM_SHA256"}, Tls(), False, "TLS_AES_128"),
        ({"group": "secp256r1"}, Tls(), False, "secp256r1"),
        ({"full": 0, "error": "bad"}, Tls(), False, "no handshake: bad"),
    ],
)
def test_a_run_that_is_not_what_was_asked_for_is_objected_to(
    changes: dict[str, object], asked: Tls, fresh: bool, why: str
) -> None:
    found = objection(seen(**changes), asked, 300, fresh=fresh)
    assert why in found
    assert bool(found) is bool(why)


# ---- the backend -----------------------------------------------------------------------------


@pytest.mark.parametrize("wire", [together, octets, cut(7)])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_the_backend_takes_requests_in_any_pieces(
    backend: int, tls_material: Material, wire: Any, version: str
) -> None:
    context = client_context(tls_material.root, versions=(version, version))
    with TlsClient(("127.0.0.1", backend), context, wire=wire) as client:
        client.send(b"GET /bytes/3 HTTP/1.1\r\n\r\nGET /bytes/5 HTTP/1.1\r\n\r\n", record=7)
        assert client.until(b"\r\n\r\nxxxxx").count(b"HTTP/1.1 200") == 2
        client.send(b"GET /bytes/3 HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert client.rest().endswith(b"\r\n\r\nxxx")  # and close_notify


def test_the_backend_counts_handshakes(backend: int, tls_material: Material) -> None:
    context = client_context(tls_material.root)

    def counts(session: Any = None) -> tuple[list[int], Any]:
        with TlsClient(("127.0.0.1", backend), context, session=session) as client:
            client.send(b"GET /handshakes HTTP/1.1\r\nConnection: close\r\n\r\n")
            body = client.rest().partition(b"\r\n\r\n")[2]
            return [int(number) for number in body.split()], client.session

    before, session = counts()
    after, _ = counts(session)
    assert [b - a for a, b in zip(before, after, strict=True)] == [0, 1]


def test_the_backend_agrees_to_nothing_else(tls_material: Material, tmp_path: Path) -> None:
    leaf, port = tls_material.leaf(), free_port()
    command = [
        tool("backend"), "--cert", leaf.cert, "--key", leaf.key,
        "--cipher", "TLS_AES_256_GCM_SHA384", "--group", "X25519", f"tls:127.0.0.1:{port}",
    ]  # fmt: skip
    with Tree([str(part) for part in command], cores=available_cores(), folder=tmp_path) as tree:
        wait_serving(tree, Setup(port=port, backend=0, folder=tmp_path, tls=True), 10)
        for group, failed in (("P-256", 1), ("X25519", 0)):
            shape = load(port, tls_material, "--count", 1, "--tls-group", group)
            assert shape["tls_errors"] == failed
    release_port(port)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (["tls:127.0.0.1:9"], "--cert PEM --key PEM"),
        (["--cert", "a.pem", "127.0.0.1:9"], "go together"),
        (["--cert", "/nowhere.pem", "--key", "/nowhere.key", "tls:127.0.0.1:9"], "/nowhere.pem"),
    ],
)
def test_the_backend_says_what_it_lacks(given: list[str], word: str) -> None:
    done = subprocess.run(
        [tool("backend"), *given], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert word in done.stderr


# ---- half handshakes -------------------------------------------------------------------------


def test_a_flood_of_halves(backend: int, tls_material: Material) -> None:
    done = run("hello", backend, "--connections", 20, "--half", 5, "--duration", 0.5)
    begun, result = done.stdout.splitlines()
    counts = json.loads(result)
    assert begun == "flooding"
    assert 20 <= counts["answered"] <= counts["sent"]
    assert (counts["refused"], counts["given_up"], counts["held"]) == (0, 0, 5)
    shape = load(backend, tls_material, "--count", 1)  # none of them was a handshake
    assert errors(shape) == 0


def test_a_flood_says_what_is_refused() -> None:
    """A server that sends an alert, and closes."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        process = subprocess.Popen(
            [tool("hello"), "--target", f"127.0.0.1:{server.getsockname()[1]}",
             "--connections", "2", "--half", "1", "--duration", "0.5", "--name", "a.example"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        server.settimeout(0.1)
        seen: list[bytes] = []
        while process.poll() is None:
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                with client:
                    seen.append(client.recv(65536))
                    client.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
        out, _ = process.communicate(timeout=30)
    counts = json.loads(out.splitlines()[-1])
    assert counts["answered"] == 0
    assert counts["refused"] >= 1
    assert counts["given_up"] >= 1
    whole = max(seen, key=len)
    assert b"a.example" in whole
    assert {len(each) for each in seen} <= {0, len(whole), len(whole) // 2}
