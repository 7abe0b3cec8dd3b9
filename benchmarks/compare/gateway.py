"""FastGate as a subject: plain, and with all its policies on."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Any

import fastgate
from benchmarks.compare.processes import Tree, name_of
from benchmarks.compare.subjects import NAME, Setup, Subject, Unavailable, all_keys
from benchmarks.workload import routes


@cache
def digests() -> dict[str, str]:
    """Consumer's name → digest of its key, as a configuration carries it."""
    return {
        name: "sha256:" + hashlib.sha256(key.encode()).hexdigest()
        for key, name in all_keys().items()
    }


def listener_tls(document: dict[str, Any], setup: Setup) -> None:
    """Make a configuration serve TLS."""
    document["certificates"] = [
        {"name": "bench", "cert": f"path:{setup.cert}", "key": f"path:{setup.key}"}
    ]
    (listener,) = document["listeners"]
    listener["tls"] = {"certificates": ["bench"]}


def upstream_tls(document: dict[str, Any], setup: Setup) -> None:
    """Make a configuration call its backend over TLS, verified."""
    document["authorities"] = [{"name": "bench", "ca": f"path:{setup.cert}"}]
    (upstream,) = document["upstreams"]
    upstream["targets"] = [{"url": f"https://127.0.0.1:{setup.backend}"}]
    upstream["tls"] = {"authority": "bench", "name": NAME}


class FastGate(Subject):
    """This project's gateway, run as its users run it: `fastgate run FILE`."""

    product = "fastgate"
    reloads = True
    start_patience = 60.0

    def __init__(self, *, policies: bool = False, routes: int = 0, unix: bool = False) -> None:
        """With `routes`, it has that many in every scenario, and its name says so."""
        self.policies = policies
        self.routes = routes
        self.unix = unix
        self.name = "fastgate-policies" if policies else "fastgate"
        if unix:
            self.name += "-unix"
        if routes:
            self.name = f"fastgate-{routes}-route{'s' if routes > 1 else ''}"

    @property
    def description(self) -> str:
        if self.policies:
            return (
                "FastGate: key auth, rate limit and daily quota by consumer, metrics, recent "
                "requests, JSON access log to a file"
            )
        many = f", {self.routes:,} route{'s' if self.routes > 1 else ''}" if self.routes else ""
        target = ", upstream on a Unix socket" if self.unix else ""
        return f"FastGate: plain reverse proxy{many}{target}; metrics counted, access log off"

    def version(self) -> str:
        if importlib.util.find_spec("fastgate._core.engine") is None:
            raise Unavailable("the core is not built: python setup.py build_ext --inplace")
        return fastgate.__version__

    def document(self, setup: Setup) -> dict[str, Any]:
        """The configuration."""
        route: dict[str, Any] = {"name": "all", "path": "/{rest*}", "service": "backend"}
        if setup.mark:
            route["headers"] = {"response": {"set": {"X-Mark": setup.mark}}}
        consumers: list[dict[str, Any]] = []
        if setup.policies:
            route |= {
                "auth": {"api_key": {"header": "X-Api-Key"}},
                "limits": [{"by": ["consumer"], "rate": f"{setup.rate}/s", "burst": setup.burst}],
                "quotas": [{"by": ["consumer"], "period": "day", "requests": 2**40}],
            }
            consumers = [{"name": name, "keys": [key]} for name, key in digests().items()]
        table = [route]
        many = self.routes or setup.routes
        if many > 1:
            table += [{**route, "name": made.name, "path": made.pattern} for made in routes(many)]
        target = f"unix:{setup.socket}" if self.unix else f"http://127.0.0.1:{setup.backend}"
        return {
            "version": 1,
            "workers": setup.workers,
            "listeners": [{"name": "public", "bind": f"127.0.0.1:{setup.port}"}],
            "upstreams": [
                {
                    "name": "backend",
                    "targets": [{"url": target}],
                    "keepalive": {"max": 2048},
                }
            ],
            "services": [{"name": "backend", "upstream": "backend"}],
            "routes": table,
            "consumers": consumers,
            "timeouts": {"idle": "5m"},
            "control": {"bind": f"127.0.0.1:{setup.spare}"},
            "observability": {
                "access_log": {"to": str(setup.folder / "access.log")} if setup.policies else {},
                "recent": 10_000 if setup.policies else 0,
            },
        }

    def files(self, setup: Setup) -> dict[str, str]:
        document = self.document(setup)
        if setup.tls:
            listener_tls(document, setup)
        if setup.upstream_tls:
            upstream_tls(document, setup)
        return {"gateway.json": json.dumps(document)}

    def command(self, setup: Setup) -> list[str]:
        return [sys.executable, "-m", "fastgate", "run", "gateway.json", "--log-level", "warning"]

    def environment(self) -> dict[str, str]:
        """The gateway of this source tree, installed or not."""
        root = str(Path(fastgate.__file__).parent.parent)
        return {
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        }

    def reload(self, tree: Tree, setup: Setup) -> None:
        os.kill(tree.pid, signal.SIGHUP)

    def workers_of(self, tree: Tree, count: int) -> list[int]:
        """The children that are named so."""
        return [pid for pid in tree.pids() if name_of(pid).startswith("fg-worker")]
