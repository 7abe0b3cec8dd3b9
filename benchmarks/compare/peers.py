"""HAProxy, the bare relay, and the backend with nothing before it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.compare.programs import program, said_by
from benchmarks.compare.subjects import NAME, PROBLEM_401, Setup, Subject, Unavailable, all_keys
from benchmarks.tools import NoCompiler, tool


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

    def checks(self, setup: Setup) -> str:
        """The rules that decide about a request."""
        if not setup.policies:
            return ""
        return f"""
    http-request set-var(txn.consumer) req.hdr(x-api-key),map({setup.folder}/keys.map)
    http-request return status 401 content-type application/problem+json string '{PROBLEM_401}' \
unless {{ var(txn.consumer) -m found }}
    http-request track-sc0 var(txn.consumer) table consumers
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {setup.rate} }}
    http-request set-header X-Consumer-ID %[var(txn.consumer)]
    http-request del-header X-Api-Key"""

    def files(self, setup: Setup) -> dict[str, str]:
        log_global = log_front = table = ""
        if setup.policies:
            log_global = "log stdout format raw local0 info"
            log_front = "log global\n    option httplog"
            table = """
backend consumers
    stick-table type string len 64 size 100k expire 60s store http_req_rate(1s)
"""
        bind = target = ""
        if setup.tls:
            bind = " ssl crt server.pem"
        if setup.upstream_tls:
            target = f" ssl verify required ca-file {setup.cert} sni str({NAME}) verifyhost {NAME}"
        conf = f"""
global
    maxconn {setup.descriptors // 2 - 100}
    nbthread {setup.workers}
    ssl-default-bind-options ssl-min-ver TLSv1.2
    ssl-default-server-options ssl-min-ver TLSv1.2
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
    bind 127.0.0.1:{setup.port} backlog 4096{bind}
    maxconn {setup.descriptors // 2 - 200}
    {log_front}
    option forwardfor
    http-request set-header X-Forwarded-Proto {"https" if setup.tls else "http"}{self.checks(setup)}
    default_backend backend
{table}
backend backend
    server one 127.0.0.1:{setup.backend} pool-max-conn -1 pool-purge-delay 300s{target}
"""
        files = {"haproxy.cfg": conf}
        if setup.tls:  # it wants both in one file
            files["server.pem"] = Path(setup.cert).read_text() + Path(setup.key).read_text()
        if setup.policies:
            files["keys.map"] = "".join(f"{k} {v}\n" for k, v in all_keys().items())
        return files

    def command(self, setup: Setup) -> list[str]:
        return [program("haproxy", "haproxy"), "-db", "-f", "haproxy.cfg"]


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
