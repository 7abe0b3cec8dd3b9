"""Proxies that check a signed token in each request, and FastGate with a key in its place.

Both of FastGate's look the caller up among as many consumers, tell the upstream who calls and strip
the credential; they have no limits and no access log. HAProxy verifies the signature of each
request, checks issuer, audience and time, looks the subject up in a map, and does the same two
things. It remembers nothing of a token, so a known one costs it as much as a new one.
"""

from __future__ import annotations

from typing import Any

from benchmarks.compare.gateway import FastGate, digests
from benchmarks.compare.peers import HAProxy
from benchmarks.compare.subjects import Setup, Subject, Unavailable
from benchmarks.compare.tokens import AUDIENCE, ISSUER, SUBJECTS_KNOWN, subject

WITH_KEY, WITH_TOKEN, PEER_WITH_TOKEN = "fastgate-key", "fastgate-jwt", "haproxy-jwt"


class FastGateKey(FastGate):
    """FastGate with one route that asks for an API key."""

    def __init__(self) -> None:
        super().__init__()
        self.name = WITH_KEY

    @property
    def description(self) -> str:
        return "FastGate: an API key in X-Api-Key, among 1,000; access log off"

    def document(self, setup: Setup) -> dict[str, Any]:
        document = super().document(setup)
        document["routes"][0]["auth"] = {"api_key": {"header": "X-Api-Key"}}
        document["consumers"] = [
            {"name": name, "keys": [digest]} for name, digest in digests().items()
        ]
        return document


class FastGateToken(FastGate):
    """FastGate with one route that asks for a token of the issuer."""

    def __init__(self) -> None:
        super().__init__()
        self.name = WITH_TOKEN

    @property
    def description(self) -> str:
        return "FastGate: a JWT of an issuer, subjects of 1,000 consumers; access log off"

    def document(self, setup: Setup) -> dict[str, Any]:
        document = super().document(setup)
        document["issuers"] = [
            {"name": "bench", "issuer": ISSUER, "audience": [AUDIENCE],
             "keys": f"path:{setup.issuer_jwks}"}
        ]  # fmt: skip
        document["routes"][0]["auth"] = {"jwt": "bench"}
        document["consumers"] = [
            {"name": f"consumer-{i}", "subjects": {"bench": [subject(i)]}}
            for i in range(SUBJECTS_KNOWN)
        ]
        return document


class HAProxyToken(HAProxy):
    """HAProxy with `jwt_verify`."""

    def __init__(self) -> None:
        super().__init__()
        self.name = PEER_WITH_TOKEN

    @property
    def description(self) -> str:
        return "HAProxy: jwt_verify in each request; issuer, audience, expiry; map of 1,000"

    def checks(self, setup: Setup) -> str:
        return f"""
    http-request set-var(txn.token) http_auth_bearer
    http-request deny deny_status 401 unless {{ var(txn.token),\
jwt_verify({setup.algorithm},{setup.issuer_pem}) -m int 1 }}
    http-request deny deny_status 401 unless {{ var(txn.token),jwt_payload_query('$.iss') \
-m str {ISSUER} }}
    http-request deny deny_status 401 unless {{ var(txn.token),jwt_payload_query('$.aud') \
-m str {AUDIENCE} }}
    http-request set-var(txn.now) date()
    http-request deny deny_status 401 unless {{ var(txn.token),\
jwt_payload_query('$.exp','int'),sub(txn.now) -m int gt 0 }}
    http-request set-var(txn.consumer) var(txn.token),jwt_payload_query('$.sub'),\
map({setup.folder}/subjects.map)
    http-request deny deny_status 403 unless {{ var(txn.consumer) -m found }}
    http-request set-header X-Consumer-ID %[var(txn.consumer)]
    http-request del-header Authorization"""

    def files(self, setup: Setup) -> dict[str, str]:
        known = (f"{subject(i)} consumer-{i}\n" for i in range(SUBJECTS_KNOWN))
        return {**super().files(setup), "subjects.map": "".join(known)}


class NginxToken(Subject):
    """Here to say why it is not measured."""

    product = "nginx"
    name = "nginx-jwt"
    description = "nginx: does not check tokens; auth_jwt is part of the commercial NGINX Plus"

    def version(self) -> str:
        raise Unavailable("nginx cannot check a JWT: auth_jwt is part of the commercial NGINX Plus")

    def files(self, setup: Setup) -> dict[str, str]:
        return {}

    def command(self, setup: Setup) -> list[str]:
        return [self.product]
