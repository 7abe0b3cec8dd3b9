"""Debian's nginx as an https upstream, in the foreground, on sockets that the test has bound.

    with Nginx(folder, {"plain": "…what is in its server block…"}) as nginx:
        nginx.url("plain")
        nginx.restart({"plain": "…"})          # another configuration, on the same ports

A server block gets its `listen`, and /facts, which answers with what nginx knows of the connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

from certkit import Identity
from gatewaykit import eventually
from tlspeerkit import program

FACTS = {
    "protocol": "$ssl_protocol",
    "name": "$ssl_server_name",
    "reused": "$ssl_session_reused",
    "connection": "$connection",
    "verified": "$ssl_client_verify",
    "client": "$ssl_client_s_dn",
}


class Facts(NamedTuple):
    """Of one request: what the variables in FACTS were."""

    protocol: str
    name: str
    reused: bool
    connection: int
    verified: str
    client: str

    @classmethod
    def of(cls, body: bytes) -> Facts:
        found = dict(line.split(": ", 1) for line in body.decode().splitlines())
        return cls(
            found["protocol"], found["name"], found["reused"] == "r", int(found["connection"]),
            found["verified"], found["client"],
        )  # fmt: skip


def presenting(identity: Identity, more: str = "") -> str:
    """What goes into a server block to present this certificate."""
    return f"ssl_certificate {identity.cert}; ssl_certificate_key {identity.key}; {more}"


class Nginx:
    """One nginx with a server on each of its ports, or several that SNI selects."""

    def __init__(self, folder: Path, servers: dict[str, str | list[str]]) -> None:
        self._program = program("nginx", "nginx-light")
        self._folder = folder
        self._sockets = {
            name: socket.create_server(("127.0.0.1", 0), backlog=511) for name in servers
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._start(servers)

    def url(self, name: str) -> str:
        return f"https://127.0.0.1:{self._sockets[name].getsockname()[1]}"

    @property
    def log(self) -> str:
        return (self._folder / "nginx.log").read_text()

    def restart(self, servers: dict[str, str | list[str]]) -> None:
        """Stop it, connections and all, and start it with other servers for the same names."""
        self.stop()
        self._start(servers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(20) == 0, self.log
            self._process = None

    def _start(self, servers: dict[str, str | list[str]]) -> None:
        (self._folder / "nginx.conf").write_text(self._config(servers))
        (self._folder / "nginx.pid").unlink(missing_ok=True)
        fds = [each.fileno() for each in self._sockets.values()]
        with (self._folder / "nginx.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-p", str(self._folder), "-c", "nginx.conf", "-e", "stderr"],
                pass_fds=fds, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**os.environ, "NGINX": "".join(f"{fd};" for fd in fds)},
            )  # fmt: skip

        def ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log
            with contextlib.suppress(FileNotFoundError):
                return bool((self._folder / "nginx.pid").read_text())
            return False

        eventually(ready, "nginx serves")

    def _config(self, servers: dict[str, str | list[str]]) -> str:
        facts = "".join(f"{name}: {value}\\n" for name, value in FACTS.items())
        blocks = [
            f"server {{ listen 127.0.0.1:{self._sockets[name].getsockname()[1]} ssl; {block}\n"
            f'    location ~ /facts$ {{ return 200 "{facts}"; }} }}\n'
            for name, given in servers.items()
            for block in ([given] if isinstance(given, str) else given)
        ]
        return f"""
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr info;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    access_log off;
    client_max_body_size 0;
    keepalive_timeout 300s;
    ssl_protocols TLSv1.2 TLSv1.3;
    {"".join(blocks)}
}}
"""

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for each in self._sockets.values():
            each.close()
