"""systemd's two small protocols: readiness notification and socket activation.

Both use environment variables: `NOTIFY_SOCKET` is a datagram socket for lines such as `READY=1`;
`LISTEN_FDS` is the number of sockets, from descriptor 3 on, that were opened for us. Without
systemd, none of this has any effect.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

LISTEN_FDS_START = 3


class Notifier:
    """Reports our state to the service manager.

    The datagram socket is opened once. Errors are ignored, because a failed report must never stop
    the gateway.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._sock: socket.socket | None = None
        self.watchdog_s = 0.0  # interval of calls to `alive`; 0: none
        path = environ.pop("NOTIFY_SOCKET", "")  # so that children do not report for us
        usec = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        if path[:1] not in ("/", "@"):
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            sock.connect("\0" + path[1:] if path[0] == "@" else path)
        except OSError:
            sock.close()
            return
        self._sock = sock
        if usec.isdecimal() and (not pid or pid == str(os.getpid())):
            # Half of the limit, as sd_watchdog_enabled(3) recommends.
            self.watchdog_s = int(usec) / 2e6

    def ready(self, status: str = "") -> None:
        self._send("READY=1", status)

    def reloading(self) -> None:
        self._send("RELOADING=1", "reloading", MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def stopping(self, status: str = "draining") -> None:
        self._send("STOPPING=1", status)

    def status(self, status: str) -> None:
        self._send("", status)

    def alive(self) -> None:
        self._send("WATCHDOG=1", "")

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, state: str, status: str, **more: int) -> None:
        if self._sock is None:
            return
        lines = [state] if state else []
        if status:
            lines.append("STATUS=" + status.replace("\n", " "))
        lines += [f"{key}={value}" for key, value in more.items()]
        try:
            self._sock.send("\n".join(lines).encode())
        except OSError:
            return


def inherited_sockets(
    environ: MutableMapping[str, str] = os.environ, *, first: int = LISTEN_FDS_START
) -> list[tuple[str, socket.socket]]:
    """The listening sockets that the service manager opened, with their names.

    Removes the variables from the environment, so that children do not see them. Names are from
    `LISTEN_FDNAMES` ("" if there is none).
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for i in range(int(count)):
        fd = first + i
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        found.append((names[i] if i < len(names) else "", sock))
    return found
