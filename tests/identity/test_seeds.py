"""What consumers of the configuration can show, and requests without a credential, in the index."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest

from fastgate._core.reason import Reason
from fastgate._core.shared.credentials import CredentialIndex
from fastgate.identity.identity import Identity
from fastgate.identity.seeds import anonymous_of
from fastgate.model import digests
from fastgate.model.codec import decode
from fastgate.store.engine import Store

SPKI = hashlib.sha256(b"spki").digest()
PIN = "sha256/b+7MjBbFVR2f6z61934tp3O/aL2e+cUpJ86yyG5WiSs="
SUBJECT = digests.subject("corp", "build-server")
CERTIFICATE = digests.certificate(SPKI)
BASIC = digests.basic("acme", hashlib.sha256(b"a-long-secret").digest())
ACME: dict[str, Any] = {
    "name": "acme",
    "plan": "free",
    "keys": "an-api-key-1",
    "subjects": {"corp": "build-server"},
    "certificates": PIN,
    "basic": {"acme": "a-long-secret"},
}
ISSUERS = [{"name": "corp", "issuer": "https://id.example.com"}]


def gateway(*consumers: dict[str, Any], anonymous: str | None = None) -> Any:
    route: dict[str, Any] = {"name": "r", "path": "/", "respond": 204, "auth": "api_key"}
    if anonymous is not None:
        route["auth"] = {"api_key": {}, "anonymous": anonymous}
    return decode(
        {
            "version": 1,
            "plans": [{"name": "free"}],
            "issuers": ISSUERS,
            "consumers": list(consumers),
            "routes": [route],
        }
    )


def who(identity: Identity, digest: bytes) -> str:
    """Who a worker finds by this digest."""
    found = identity.index.find_digest(digest)
    if found is None:
        return "unknown"
    return found.consumer.id if found.result == 0 else Reason(found.result).name.lower()


def configured(identity: Identity, document: Any) -> None:
    identity.configure(document, {"free": 0})


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity(CredentialIndex.create(64), cache=tmp_path / "credentials.cache")


def test_a_consumer_is_found_by_all_that_it_can_show(identity: Identity) -> None:
    configured(identity, gateway(ACME))
    for digest in (hashlib.sha256(b"an-api-key-1").digest(), SUBJECT, CERTIFICATE, BASIC):
        assert who(identity, digest) == "acme"
    assert who(identity, digests.subject("other", "build-server")) == "unknown"
    assert who(identity, digests.basic("acme", SPKI)) == "unknown"
    found = {key.kind: key.about for key in identity.seed_keys("acme")}
    assert found == {
        "key": {},
        "subject": {"issuer": "corp", "subject": "build-server"},
        "certificate": {"pin": PIN},
        "basic": {"user": "acme"},
    }


def test_what_it_can_no_longer_show_is_refused(identity: Identity) -> None:
    configured(identity, gateway(ACME))
    configured(identity, gateway({"name": "acme", "certificates": PIN}))
    assert who(identity, CERTIFICATE) == "acme"
    assert who(identity, SUBJECT) == who(identity, BASIC) == "credential_revoked"
    configured(identity, gateway({**ACME, "suspended": True}))
    assert who(identity, SUBJECT) == who(identity, BASIC) == "consumer_suspended"


def test_a_subject_moves_to_another_consumer(identity: Identity) -> None:
    configured(identity, gateway(ACME))
    configured(identity, gateway({"name": "other", "subjects": {"corp": "build-server"}}))
    assert who(identity, SUBJECT) == "other"


# ---- requests without a credential ------------------------------------------------------


def test_names_and_ids_that_anonymous_can_be() -> None:
    guest = {"name": "Guest", "id": "g-1"}
    assert anonymous_of(gateway(guest, anonymous="Guest")) == {"g-1"}
    assert anonymous_of(gateway(guest, anonymous="g-1")) == {"g-1"}
    assert anonymous_of(gateway(guest, anonymous="con_7")) == {"con_7"}
    assert anonymous_of(gateway(guest)) == set()


def test_requests_without_a_credential_count_as_a_consumer(identity: Identity) -> None:
    guest = {"name": "guest", "plan": "free"}
    digest = digests.consumer("guest")
    configured(identity, gateway(guest))
    assert who(identity, digest) == "unknown"
    configured(identity, gateway(guest, anonymous="guest"))
    assert who(identity, digest) == "guest"
    assert identity.seed_keys("guest") == []
    configured(identity, gateway({**guest, "suspended": True}, anonymous="guest"))
    assert who(identity, digest) == "consumer_suspended"
    configured(identity, gateway(guest))
    assert who(identity, digest) == "credential_revoked"
    configured(identity, gateway(guest, anonymous="guest"))
    assert who(identity, digest) == "guest"
    configured(identity, gateway(anonymous="guest"))
    assert who(identity, digest) == "credential_revoked"


async def test_they_count_as_a_consumer_of_the_store(
    identity: Identity, sqlite_store: Store, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    identity.attach(sqlite_store)
    await identity.sync()
    configured(identity, gateway())
    made = await identity.create_consumer(name="guest", account=None, plan="free")
    configured(identity, gateway(anonymous=made.id))
    digest = digests.consumer(made.id)
    assert who(identity, digest) == made.id
    # It is no credential of the store: neither a sync nor the cache of a restart is misled by it.
    await identity.sync()
    assert who(identity, digest) == made.id
    again = Identity(CredentialIndex.create(64), cache=tmp_path / "credentials.cache")
    assert again.load_cache() == 0
    configured(again, gateway(anonymous=made.id))
    assert who(again, digest) == made.id
    configured(again, gateway())
    assert who(again, digest) == "credential_revoked"
    assert not caplog.records
    await identity.delete_consumer(made.id)
    assert who(identity, digest) == "credential_revoked"


async def test_a_consumer_that_comes_later(
    identity: Identity, sqlite_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The store may know it only after the configuration has named it."""
    other = Identity(CredentialIndex.create(64))
    other.attach(sqlite_store)
    await other.sync()
    configured(other, gateway())
    made = await other.create_consumer(name="guest", account=None, plan="free")
    configured(identity, gateway(anonymous=made.id))
    assert not caplog.records  # the store was not asked yet
    identity.attach(sqlite_store)
    await identity.sync()
    assert who(identity, digests.consumer(made.id)) == made.id
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        configured(identity, gateway(anonymous="nobody"))
        configured(identity, gateway(anonymous="nobody"))
    assert [record.getMessage() for record in caplog.records] == [
        "There is no consumer nobody, as whom requests without a credential should count; they are "
        "refused."
    ]
