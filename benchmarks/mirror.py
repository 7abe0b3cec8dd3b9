"""What mirroring adds to the original, with copies to a service that works, refuses or hangs.

    python -m benchmarks.mirror [--rate N] [--seconds N] [--rounds N]

One gateway with one worker has four routes to one upstream. Requests come at a fixed rate, each in
turn to another route, so that all see the same machine. The latency is that of the client.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import threading
import time

from benchmarks.one_worker import one_worker
from benchmarks.validation import serve

ROUTES = ("alone", "works", "refuses", "hangs")


def document(port: int, hanging: int) -> dict[str, object]:
    """The gateway's configuration. `hanging`: a port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()[1]
    ports = {"u": port, "works": port, "refuses": refusing, "hangs": hanging}
    routes = [
        {"name": name, "path": f"/{name}", "service": "u"}
        | ({} if name == "alone" else {"mirror": {"service": name}})
        for name in ROUTES
    ]
    return {
        "version": 1,
        "listeners": ["127.0.0.1:0"],
        "control": "127.0.0.1:0",
        "upstreams": [
            {"name": name, "targets": [f"http://127.0.0.1:{each}"]} for name, each in ports.items()
        ],
        "services": [{"name": name, "upstream": name} for name in ports],
        "routes": routes,
        "observability": {"access_log": {"to": "none"}},
    }


def measure(address: tuple[str, int], rate: int, seconds: float) -> dict[str, list[float]]:
    """Microseconds of each request, by route. Raises OSError for an answer that is not right."""
    took: dict[str, list[float]] = {name: [] for name in ROUTES}
    with socket.create_connection(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = time.monotonic()
        for number in range(int(rate * len(ROUTES) * seconds)):
            time.sleep(max(0.0, begin + number / rate / len(ROUTES) - time.monotonic()))
            name = ROUTES[number % len(ROUTES)]
            sent = time.perf_counter_ns()
            client.sendall(f"GET /{name} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            answer = client.recv(4096)
            took[name].append((time.perf_counter_ns() - sent) / 1000)
            if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(b"ok"):
                raise OSError(f"{name}: {answer[:500]!r}")
    return took


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main(arguments: list[str]) -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks.mirror")
    parser.add_argument("--rate", type=int, default=200, help="requests of a route in a second")
    parser.add_argument("--seconds", type=float, default=5, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    listening = socket.create_server(("127.0.0.1", 0))
    hanging = socket.create_server(("127.0.0.1", 0), backlog=4096)
    threading.Thread(target=serve, args=(listening,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        ports = (listening.getsockname()[1], hanging.getsockname()[1])
        with one_worker(folder, document(*ports)) as gateway:
            rounds = [
                measure(gateway.address, given.rate, given.seconds) for _ in range(given.rounds)
            ]
    print(f"{given.rate} requests/s to each route, medians of {given.rounds} rounds, µs")
    print(f"{'copies to a service that':<26}{'p50':>8}{'p99':>8}")
    for name in ROUTES:
        p50, p99 = (
            statistics.median(percentile(each[name], share) for each in rounds)
            for share in (0.5, 0.99)
        )
        print(f"{'(none)' if name == 'alone' else name:<26}{p50:>8.0f}{p99:>8.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
