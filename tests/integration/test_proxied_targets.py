"""Targets that expect a PROXY header: HAProxy and nginx, in clear and over TLS; health checks."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from certkit import Material
from gatewaykit import Client, Gateway, eventually
from tlspeerkit import authority, program

Start = Callable[..., Gateway]
KINDS = {
    "haproxy": ("clear", "v1"), "haproxy-v2": ("clear", "v2"), "haproxy-tls": ("tls", "v2"),
    "nginx": ("clear", "v1"), "nginx-v2": ("clear", "v2"), "nginx-tls": ("tls", "v1"),
}  # fmt: skip
"""Upstream → how it is reached, and the version of its PROXY headers."""


class Sockets(NamedTuple):
    """A listening socket for each upstream."""

    of: dict[str, socket.socket]

    def port(self, name: str) -> int:
        return int(self.of[name].getsockname()[1])

    def url(self, name: str) -> str:
        return f"http{'s' * (KINDS[name][0] == 'tls')}://127.0.0.1:{self.port(name)}"


def haproxy_config(sockets: Sockets, pem: Path) -> str:
    lines = ["defaults", "  mode http", "  timeout connect 20s", "  timeout client 60s"]
    lines.append("  timeout server 20s")
    for name in KINDS:
        if name.startswith("haproxy"):
            tls = f" ssl crt {pem}" if KINDS[name][0] == "tls" else ""
            lines += [
                f"frontend {name}",
                f"  bind fd@{sockets.of[name].fileno()} accept-proxy{tls}",
                "  http-request return status 200 content-type text/plain lf-string "
                '"%[src]:%[src_port] %[dst]:%[dst_port]"',
            ]
    return "\n".join(lines) + "\n"


def nginx_config(sockets: Sockets, pem: Path) -> str:
    blocks = [
        f"server {{ listen 127.0.0.1:{sockets.port(name)} proxy_protocol"
        f"{' ssl' if KINDS[name][0] == 'tls' else ''};"
        f" ssl_certificate {pem}; ssl_certificate_key {pem};"
        ' return 200 "$proxy_protocol_addr:$proxy_protocol_port '
        '$proxy_protocol_server_addr:$proxy_protocol_server_port"; }'
        for name in KINDS
        if name.startswith("nginx")
    ]
    temporary = "".join(
        f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        ("user root;" if os.geteuid() == 0 else "")
        + "worker_processes 1; daemon off; pid nginx.pid; error_log stderr info;"
        + "events { worker_connections 512; }"
        + f"http {{ {temporary} access_log off; {''.join(blocks)} }}"
    )


@pytest.fixture(scope="module")
def targets(tls_material: Material, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sockets]:
    folder = tmp_path_factory.mktemp("targets")
    leaf = tls_material.leaf()
    pem = folder / "leaf.pem"
    pem.write_bytes(leaf.cert.read_bytes() + leaf.key.read_bytes())
    with contextlib.ExitStack() as stack:
        sockets = Sockets(
            {name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in KINDS}
        )
        (folder / "haproxy.cfg").write_text(haproxy_config(sockets, pem))
        (folder / "nginx.conf").write_text(nginx_config(sockets, pem))
        commands = {
            "haproxy": [program("haproxy", "haproxy"), "-db", "-f", str(folder / "haproxy.cfg")],
            "nginx": [
                program("nginx", "nginx-light"), "-p", str(folder), "-c", "nginx.conf",
                "-e", "stderr",
            ],
        }  # fmt: skip
        for name, command in commands.items():
            fds = [each.fileno() for kind, each in sockets.of.items() if kind.startswith(name)]
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            environ = {**os.environ, "NGINX": "".join(f"{fd};" for fd in fds)}
            if name == "haproxy":
                del environ["NGINX"]
            process = subprocess.Popen(
                command, pass_fds=fds, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=environ,
            )  # fmt: skip
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
        yield sockets


def document(sockets: Sockets, material: Material) -> dict[str, Any]:
    return {
        "authorities": [authority("test", material.root)],
        "upstreams": [
            {
                "name": name,
                "targets": [sockets.url(name)],
                "proxy_protocol": version,
                "health": {"path": "/", "interval": "100ms", "healthy_after": 1},
                **({"tls": {"name": "test.example", "authority": "test"}} if how == "tls" else {}),
            }
            for name, (how, version) in KINDS.items()
        ],
        "services": [{"name": name, "upstream": name} for name in KINDS],
        "routes": [{"name": name, "path": f"/{name}", "service": name} for name in KINDS],
        "trusted_proxies": ["127.0.0.1"],
    }


@pytest.fixture(scope="module")
def served(targets: Sockets, shared_gateway: Start, tls_material: Material) -> Gateway:
    return shared_gateway(document(targets, tls_material), workers=1)


@pytest.mark.parametrize("name", KINDS)
async def test_they_see_the_client(served: Gateway, name: str) -> None:
    address = served.address()
    ours = f"{address[0]}:{address[1]}"
    async with Client(address) as first, Client(address) as second:
        for client in (first, second, first):
            answer = await client.request(f"/{name}")
            assert client.streams is not None
            host, port = client.streams[1].get_extra_info("sockname")
            assert (answer.status, answer.body.decode()) == (200, f"{host}:{port} {ours}")
        reported = await first.request(f"/{name}", headers={"X-Forwarded-For": "2001:db8::9"})
        seen = reported.body.decode().partition(" ")[0]
        assert seen.removesuffix("0") == "2001:db8::9:"  # HAProxy shows no port 0


@pytest.mark.parametrize("name", KINDS)
def test_they_are_healthy(served: Gateway, name: str) -> None:
    """Health checks begin with the header as well; otherwise these would not answer them."""

    def healthy() -> bool:
        text = served.api("/metrics").body.decode()
        return any(
            line.startswith("fastgate_target_healthy{")
            and f'upstream="{name}"' in line
            and line.endswith(" 1")
            for line in text.splitlines()
        )

    eventually(healthy, f"{name} is healthy")
