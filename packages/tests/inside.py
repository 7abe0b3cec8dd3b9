"""Runs in a system that has nothing but Python: uses an installed FastGate as a person would.

inside.py PROGRAM    prints, as JSON, what each command and request answered
"""

from __future__ import annotations

import fcntl
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
STATE = "/tmp/state"
PATIENCE = 60  # seconds


def loopback_up() -> None:
    """A new network has a loopback device that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def said(*command: str, patience: float = 0) -> str:
    """What a command prints that must succeed, at the latest after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if ran.returncode == 0:
            return ran.stdout
        assert time.monotonic() < deadline, f"{command}\n{ran.stdout}{ran.stderr}"
        time.sleep(0.2)  # the control API is there a moment after the gateway serves


def status_of(url: str, **headers: str) -> int:
    """The status of one request."""
    request = urllib.request.Request(
        url, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def mapped(pid: int) -> list[str]:
    """The libraries of OpenSSL that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sorted({line.split()[-1] for line in lines if re.search(r"lib(ssl|crypto)", line)})


def main(program: str) -> None:
    loopback_up()
    config = Path("/tmp/fastgate.yaml")
    config.write_text('version: 1\nroutes: [{name: all, path: "/{rest*}", respond: 204}]\n')
    found: dict[str, object] = {"version": said(program, "--version")}
    found["check"] = said(program, "check", str(config))
    with subprocess.Popen(
        [program, "demo", "--state-dir", STATE], stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        shown = ""
        for line in demo.stdout:
            shown += line
            if line.startswith("Ctrl-C"):
                break
        key = re.search(r"X-Api-Key: (\w+)", shown)
        assert key is not None, shown
        base = "http://127.0.0.1:8080"
        found["requests"] = [
            status_of(f"{base}/open/hello"),
            status_of(f"{base}/keyed/hello"),
            status_of(f"{base}/keyed/hello", X_Api_Key=key[1]),
        ]
        status = json.loads(
            said(program, "status", "--json", "--state-dir", STATE, patience=PATIENCE)
        )
        found["ready"] = status["ready"]
        found["mapped"] = mapped(status["workers"][0]["pid"])
        demo.send_signal(signal.SIGTERM)
        found["ended"] = demo.wait(60)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
