"""nginx as a subject: the one that is installed, and another whose path is given.

The other one is for nginx mainline, OpenResty, or a build of one's own. It gets the same
configuration, and the result has its version as it says it.
"""

from __future__ import annotations

import os
import signal

from benchmarks.compare.processes import Tree
from benchmarks.compare.programs import program, said_by
from benchmarks.compare.subjects import NAME, PROBLEM_401, Setup, Subject, Unavailable, all_keys
from benchmarks.workload import routes

GIVEN = "FASTGATE_BENCH_NGINX"  # the environment variable with the path of another nginx


class Nginx(Subject):
    """nginx as a reverse proxy; with policies: map, limit_req, access log (buffered)."""

    product = "nginx"
    base = "nginx"
    reloads = True

    def __init__(self, *, policies: bool = False, unix: bool = False) -> None:
        self.policies = policies
        self.unix = unix
        self.name = self.base + "-policies" * policies + "-unix" * unix

    def binary(self) -> str:
        """The program's path. Raises Unavailable."""
        return program("nginx", "nginx")

    @property
    def description(self) -> str:
        if self.policies:
            return (
                "nginx: key map, limit_req by consumer, access log (combined) to a file, buffered"
            )
        target = ", upstream on a Unix socket" if self.unix else ""
        return f"nginx: plain reverse proxy{target}, access log off"

    def version(self) -> str:
        return said_by([self.binary(), "-v"], r"nginx/(\S+)")

    def files(self, setup: Setup) -> dict[str, str]:
        verify = ""
        if setup.upstream_tls:
            verify = f"""
            proxy_ssl_trusted_certificate {setup.cert};
            proxy_ssl_verify on;
            proxy_ssl_name {NAME};
            proxy_ssl_server_name on;
            proxy_ssl_protocols TLSv1.2 TLSv1.3;"""
        forward = f"""
            proxy_pass {"https" if setup.upstream_tls else "http"}://backend;{verify}
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
        tls = ""
        if setup.tls:
            tls = f"""
        ssl_certificate {setup.cert};
        ssl_certificate_key {setup.key};
        ssl_protocols TLSv1.2 TLSv1.3;"""
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
        listen 127.0.0.1:{setup.port}{" ssl" if setup.tls else ""} backlog=4096;{tls}
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
        return [self.binary(), "-p", folder, "-c", "nginx.conf", "-e", "stderr"]

    def reload(self, tree: Tree, setup: Setup) -> None:
        os.kill(tree.pid, signal.SIGHUP)


class GivenNginx(Nginx):
    """Another nginx, by its path."""

    base = "nginx-given"

    @property
    def description(self) -> str:
        return super().description.replace("nginx:", "nginx whose path was given:", 1)

    def binary(self) -> str:
        if path := os.environ.get(GIVEN):
            return path
        raise Unavailable(f"no path was given: --nginx PATH, or {GIVEN}")

    def version(self) -> str:
        return said_by([self.binary(), "-v"], r"version: (\S+)")
