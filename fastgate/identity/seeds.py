"""Credentials of the configuration: what its consumers can show, as records of the index."""

from __future__ import annotations

from collections.abc import Iterator

from fastgate.model import digests
from fastgate.model.gateway import Consumer, Gateway
from fastgate.model.party import ident_of
from fastgate.model.tls import pin_digest
from fastgate.store.cache import KeyRecord


def credentials_of(consumer: Consumer) -> Iterator[KeyRecord]:
    """All credentials of a consumer of the configuration."""
    for key in consumer.keys:
        yield _record(consumer, key.digest, "key", {})
    for issuer, subjects in consumer.subjects.items():
        for subject in subjects:
            digest = digests.subject(issuer, subject)
            yield _record(consumer, digest, "subject", {"issuer": issuer, "subject": subject})
    for pin in consumer.certificates:
        digest = digests.certificate(pin_digest(pin))
        yield _record(consumer, digest, "certificate", {"pin": pin})
    for user, secret in consumer.basic.items():
        yield _record(consumer, digests.basic(user, secret.digest), "basic", {"user": user})


def _record(consumer: Consumer, digest: bytes, kind: str, about: dict[str, str]) -> KeyRecord:
    ident = f"seed-{digest.hex()[:16]}"
    return KeyRecord(digest, ident, consumer.ident, 0, 0, kind, about)


def anonymous_of(gateway: Gateway) -> set[str]:
    """The ids of the consumers as whom requests without a credential count on some route."""
    names = {route.auth.anonymous for route in gateway.routes}
    return {ident_of(gateway.consumers, name) for name in names if name is not None}
