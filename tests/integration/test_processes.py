"""A gateway from its start to its end, over real processes and sockets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gatewaykit import PATIENCE, PROJECT, Answer, Gateway, Upstream, eventually, fetch, proxying
from waitkit import lives

Start = Callable[..., Gateway]


# ---- starting ----------------------------------------------------------------------------


def test_it_serves_and_its_processes_are_who_they_should_be(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(proxying(upstream), workers=2)
    answer = fetch(running.address(), "/echo?x=1", headers={"X-Mine": "yes"})
    assert answer.status == 200
    assert answer.json["target"] == "/echo?x=1"
    assert answer.json["headers"]["x-mine"] == "yes"
    assert set(running.children()) == {"fg-control", "fg-worker-0", "fg-worker-1"}
    assert running.api("/readyz").json["ready"] is True
    workers = running.api("/v1/workers").json["items"]
    assert {worker["pid"] for worker in workers} == {running.worker(0), running.worker(1)}
    assert {worker["state"] for worker in workers} == {"serving"}
    assert {worker["generation"] for worker in workers} == {running.generation}


def test_it_serves_before_the_control_api_listens(gateway: Start, upstream: Upstream) -> None:
    running = gateway(proxying(upstream))
    assert fetch(running.address(), "/").status == 200
    log = running.log_text()
    serving = log.index("serving generation 1")
    assert "control API at" not in log[:serving]
    assert running.api("/healthz").status == 200


def test_unix_sockets_on_both_sides(
    gateway: Start, upstreams: Callable[..., Upstream], tmp_path: Path
) -> None:
    upstream = upstreams(str(tmp_path / "app.sock"))
    front = tmp_path / "front.sock"
    config = proxying(upstream, listeners=[{"name": "local", "bind": f"unix:{front}"}])
    running = gateway(config)
    answer = fetch(str(front), "/echo")
    assert answer.status == 200
    assert running.stop() == 0
    assert not front.exists()


def test_the_demonstration_does_what_it_says(gateway: Start) -> None:
    ports = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")
    running = gateway(None, arguments=ports)
    text = eventually(
        lambda: (found := (running.folder / "stdout").read_text()) and "Ctrl-C" in found and found,
        "what to try is printed",
    )
    key = re.search(r"X-Api-Key: (fg_\w+)", text)
    assert key is not None
    address = running.address()
    assert fetch(address, "/open/hello").json["target"] == "/open/hello"
    refused = fetch(address, "/keyed/hello")
    assert refused.status == 401
    assert refused.json["reason"] == "credential_missing"
    assert fetch(address, "/keyed/hello", headers={"X-Api-Key": key[1]}).status == 200
    assert fetch(address, "/keyed/hello", headers={"X-Api-Key": key[1] + "x"}).status == 401
    assert fetch(address, "/nothing").status == 404
    assert [fetch(address, "/limited").status for _ in range(3)] == [200, 200, 429]
    assert f"http://{running.running['control']}" in text
    assert str(running.state / "admin-token") in text
    assert running.api("/v1/workers").status == 200


def test_another_start_has_another_key(gateway: Start) -> None:
    ports = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")
    keys = set()
    for _ in range(2):
        running = gateway(None, workers=1, arguments=ports)
        stdout = running.folder / "stdout"
        eventually(lambda path=stdout: "Ctrl-C" in path.read_text(), "what to try")  # type: ignore[misc]
        keys |= set(re.findall(r"fg_\w+", stdout.read_text()))
    assert len(keys) == 2


# ---- what cannot start -------------------------------------------------------------------


def ends(running: Gateway) -> tuple[int, str]:
    """The exit code and what was said; there is never a traceback."""
    code = running.wait()
    text = running.log_text()
    assert "Traceback" not in text
    return code, text


def test_a_port_in_use_is_named_with_the_way_out(gateway: Start, upstream: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        config = proxying(upstream, listeners=[{"name": "public", "bind": where}])
        code, text = ends(gateway(config, wait=False))
    assert code == 1
    assert f"{where} is already in use" in text
    assert "ss -ltnp" in text


def test_a_demonstration_whose_port_is_taken_names_the_option(gateway: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        ports = ("--listen", where, "--control", "127.0.0.1:0")
        code, text = ends(gateway(None, wait=False, arguments=ports))
    assert code == 1
    assert f"{where} is already in use" in text
    assert "`fastgate demo --listen 127.0.0.1:0` uses a free one" in text


def test_a_second_gateway_on_the_same_port_does_not_share_it(
    gateway: Start, upstream: Upstream
) -> None:
    first = gateway(proxying(upstream))
    where = "{}:{}".format(*first.address())
    config = proxying(upstream, listeners=[{"name": "public", "bind": where}])
    code, text = ends(gateway(config, wait=False))
    assert code == 1
    assert "already in use" in text
    assert fetch(first.address(), "/").status == 200


def test_two_gateways_do_not_share_a_state_directory(gateway: Start, upstream: Upstream) -> None:
    first = gateway(proxying(upstream, billing={"public": "off"}))
    code, text = ends(gateway(proxying(upstream), wait=False, state=first.state))
    assert code == 1
    assert f"is used by a running gateway (pid {first.pid})" in text
    assert fetch(first.address(), "/").status == 200


def test_a_control_port_in_use_stops_the_start_as_well(gateway: Start, upstream: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text = ends(gateway(proxying(upstream, control={"bind": where}), wait=False))
    assert code == 1
    assert "control.bind" in text
    assert where in text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("version: 1\nroutes:\n  - name: a\n    pth: /x\n", ("fastgate.yaml:4", "path")),
        ("version: 1\nroutes: [\n", ("fastgate.yaml",)),
        (
            "version: 1\nroutes:\n  - {name: a, path: /a, service: nowhere}\n",
            ("fastgate.yaml:3", "nowhere"),
        ),
        ("", ("empty",)),
    ],
)
def test_a_broken_file_is_explained(gateway: Start, config: str, said: tuple[str, ...]) -> None:
    code, text = ends(gateway(config, wait=False))
    assert code == 4
    for part in said:
        assert part in text


def test_what_only_the_compiler_or_a_worker_can_tell_stops_the_start(gateway: Start) -> None:
    routes = [{"name": "one", "path": "/x", "handler": "no_such_module:handle"}]
    code, text = ends(gateway({"routes": routes}, wait=False))
    assert code == 4
    assert "fastgate.yaml:" in text
    assert "routes[0].handler: the import of no_such_module failed" in text


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "fastgate", "run", str(tmp_path / "absent.yaml")],
        capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE, check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert found.returncode == 4
    assert "there is no such file" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_state_directory_that_cannot_be_is_explained(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, text = ends(gateway(proxying(upstream), wait=False, state=tmp_path / "file" / "state"))
    assert code == 1
    assert "--state-dir" in text


# ---- ending ------------------------------------------------------------------------------


class Background(threading.Thread):
    """A request in a thread; its answer, or what became of it."""

    def __init__(self, address: tuple[str, int], path: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._path = path
        self.answer: Answer | OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = fetch(self._address, self._path)
        except OSError as error:
            self.answer = error


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def test_draining_finishes_what_is_in_progress_and_takes_nothing_new(
    gateway: Start, upstream: Upstream
) -> None:
    running = gateway(proxying(upstream))
    address = running.address()
    control = running.control
    idle = socket.create_connection(address, timeout=PATIENCE)
    held = Background(address, "/hold")
    eventually(lambda: "/hold" in upstream.seen, "the request is with the upstream")
    running.process.send_signal(signal.SIGTERM)
    eventually(lambda: refused(address), "new connections are refused")
    host, _, port = control.removeprefix("http://").rpartition(":")
    ready = fetch((host, int(port)), "/readyz")
    assert ready.status == 503
    assert "draining" in ready.body.decode()
    assert idle.recv(100) == b""  # an idle connection is closed
    idle.close()
    upstream.release()
    held.join(PATIENCE)
    assert isinstance(held.answer, Answer)
    assert held.answer.status == 200
    assert held.answer.body == b"held"
    assert running.wait() == 0
    assert running.children() == {}


def test_workers_that_do_not_finish_in_time_are_killed(gateway: Start, upstream: Upstream) -> None:
    running = gateway(proxying(upstream, drain_timeout="200ms"))
    hanging = Background(running.address(), "/silent")
    eventually(lambda: "/silent" in upstream.seen, "the request is with the upstream")
    assert running.stop(signal.SIGTERM) == 0
    hanging.join(PATIENCE)
    assert isinstance(hanging.answer, OSError)
    assert running.said("has not finished in time")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_ends_at_once_when_told(gateway: Start, upstream: Upstream, number: signal.Signals) -> None:
    running = gateway(proxying(upstream))
    children = running.children()
    assert running.stop(number) == 0
    for pid in children.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_api_may_ask_for_the_end(gateway: Start, upstream: Upstream) -> None:
    running = gateway(proxying(upstream))
    assert running.api("/v1/drain", method="POST").status in (200, 202, 204)
    assert running.wait() == 0


def test_no_process_survives_a_killed_supervisor(gateway: Start, upstream: Upstream) -> None:
    running = gateway(proxying(upstream))
    children = running.children().values()
    assert len(children) == 3
    assert all(lives(pid) for pid in children)
    running.process.kill()
    running.wait()
    eventually(lambda: not any(lives(pid) for pid in children), "its children end")


# ---- over a restart ----------------------------------------------------------------------


def quota(upstream: Upstream, requests: int) -> dict[str, Any]:
    limited = {
        "name": "limited",
        "path": "/{rest*}",
        "quotas": [{"by": "route", "period": "year", "requests": requests}],
    }
    return proxying(upstream, limited)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_quotas_survive_a_restart(
    gateway: Start, upstream: Upstream, tmp_path: Path, number: signal.Signals
) -> None:
    state = tmp_path / "state"
    first = gateway(quota(upstream, 10), state=state)
    assert [fetch(first.address(), "/").status for _ in range(7)] == [200] * 7
    first.stop(number)
    second = gateway(quota(upstream, 10), state=state)
    assert [fetch(second.address(), "/").status for _ in range(5)] == [200] * 3 + [429] * 2
    assert second.generation > 1


def test_quotas_survive_even_a_killed_gateway_up_to_the_last_second(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    first = gateway(quota(upstream, 10), state=state)
    assert [fetch(first.address(), "/").status for _ in range(7)] == [200] * 7
    saved = state / "quotas.bin"
    size = saved.stat().st_size if saved.exists() else 0
    eventually(lambda: saved.exists() and saved.stat().st_size > size, "the counts are saved")
    first.process.kill()
    first.wait()
    second = gateway(quota(upstream, 10), state=state)
    assert [fetch(second.address(), "/").status for _ in range(4)] == [200] * 3 + [429]


def test_damaged_quotas_are_set_aside_and_said(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "quotas.bin").write_bytes(b"not at all")
    running = gateway(quota(upstream, 1), state=state)
    assert fetch(running.address(), "/").status == 200
    assert running.said("quotas count from zero")
    assert (state / "quotas.bin.damaged").exists()


def test_changes_made_through_the_api_survive_a_restart_until_the_file_changes(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    config = proxying(upstream, {"name": "one", "path": "/one"})
    first = gateway(config, state=state)
    added = first.api(
        "/v1/routes", method="POST", body={"name": "two", "path": "/two", "service": "app"}
    )
    assert added.status in (200, 201), added.body
    assert fetch(first.address(), "/two").status == 200
    first.stop()
    second = gateway(config, state=state)
    assert fetch(second.address(), "/two").status == 200
    assert second.said("changes made through the API")
    second.stop()
    third = gateway(proxying(upstream, {"name": "three", "path": "/three"}), state=state)
    assert fetch(third.address(), "/three").status == 200
    assert fetch(third.address(), "/two").status == 404


# ---- with a service manager --------------------------------------------------------------

ACTIVATED = """
import os, sys
fd = int(sys.argv[1])
os.dup2(fd, 3)
os.set_inheritable(3, True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "1"
os.execv(sys.executable, [sys.executable, "-m", "fastgate", *sys.argv[2:]])
"""


def test_a_socket_of_the_service_manager_is_used_and_it_is_told(
    upstream: Upstream, tmp_path: Path
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        address = listening.getsockname()
        bind = "{}:{}".format(*address)
        config = {
            "version": 1,
            "control": {"bind": "127.0.0.1:0"},
            **proxying(upstream, listeners=[{"name": "public", "bind": bind}]),
        }
        file = tmp_path / "fastgate.yaml"
        file.write_text(json.dumps(config))
        process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATED, str(listening.fileno()), "run", str(file),
             "--workers", "2", "--log-format", "json"],
            pass_fds=[listening.fileno()], cwd=tmp_path, stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": str(PROJECT),
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
            },
        )  # fmt: skip
        try:
            heard = manager.recv(4096).decode()
            assert heard.startswith("READY=1")
            assert bind in heard
            assert fetch(address, "/").status == 200
            process.send_signal(signal.SIGTERM)
            while not heard.startswith("STOPPING=1"):
                heard = manager.recv(4096).decode()
            assert process.wait(PATIENCE) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


# ---- spreading ---------------------------------------------------------------------------


def accepted(running: Gateway) -> list[int]:
    """Connections that each worker accepted."""
    text = running.api("/metrics").body.decode()
    found = re.findall(r'^fastgate_connections_accepted_total\{worker="(\d+)"\} (\d+)', text, re.M)
    assert found, text
    return [int(count) for _, count in sorted(found, key=lambda pair: int(pair[0]))]


def test_connections_spread_evenly_over_the_workers(gateway: Start, upstream: Upstream) -> None:
    """The kernel chooses by a hash: the counts are binomial. Six deviations allow for chance."""
    running = gateway(proxying(upstream, {"name": "x", "path": "/x"}), workers=4)
    before = accepted(running)
    connections = 2000
    for _ in range(connections):
        with contextlib.closing(socket.create_connection(running.address())):
            pass
    eventually(lambda: sum(accepted(running)) - sum(before) >= connections, "all are accepted")
    counts = [now - then for now, then in zip(accepted(running), before, strict=True)]
    deviation = (connections * 0.25 * 0.75) ** 0.5
    for count in counts:
        assert abs(count - connections / 4) < 6 * deviation, counts


def test_idle_processes_are_quiet(gateway: Start, upstream: Upstream) -> None:
    """Without traffic a worker wakes for its heartbeat and little else."""
    running = gateway(proxying(upstream))
    pid = running.worker(0)

    def switches() -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)
        assert found is not None
        return int(found[1])

    _ = running.control  # all has come up
    before = switches()
    time.sleep(2.0)
    assert switches() - before < 40
