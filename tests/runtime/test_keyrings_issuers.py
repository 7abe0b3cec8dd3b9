"""The keyring and issuers of tokens: entries, files, keys that change, a successor's keyring."""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from certkit import Material
from providerkit import SigningKey

from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import Keyring
from fastgate.errors import ConfigurationError, KeyringError
from fastgate.issuers.discovery import Found
from fastgate.issuers.jwks import IssuerKey, KeySet
from fastgate.issuers.service import IssuerService
from fastgate.issuers.source import IssuerSource
from fastgate.issuers.storage import Storage
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway, Issuer
from fastgate.runtime.control.keyrings import Keyrings, NewKeyring
from fastgate.runtime.control.worker_channels import SealedKeyring


def key(kid: str) -> IssuerKey:
    made = SigningKey(kid)
    return IssuerKey(kid=kid, kind="ECDSA P-256", algorithms=("ES256",), spki=made.spki)


class Place:
    """A document with a fetched issuer and one with a file, and workers that take all keyrings."""

    def __init__(self, folder: Path, kept: Keyring | None = None) -> None:
        self.folder = folder
        self.environ: dict[str, str] = {"SHARED": "s" * 40, "ASKED": "a-secret"}
        self.keys: tuple[IssuerKey, ...] = (key("one"),)
        self.brought: list[Keyring] = []
        self.refuse: Exception | None = None
        self.keyrings = Keyrings(self._distribute, kept)
        service = IssuerService(Storage(folder), self._ask)
        service.on_keys = self._look
        self.source = IssuerSource(service, self.environ)
        self.keyrings.use_issuers(self.source)
        self.issuers: list[dict[str, Any]] = [
            {"name": "corp", "issuer": "https://corp.example.com", "authority": "internal"},
            {"name": "svc", "issuer": "svc", "keys": f"path:{folder}/keys.json"},
        ]

    def write(self, *keys: SigningKey) -> None:
        jwks = {"keys": [each.jwk() for each in keys]}
        (self.folder / "keys.json").write_text(json.dumps(jwks))

    async def _ask(self, issuer: Issuer, now: float) -> Found:
        return Found(KeySet(self.keys), 3600, "https://corp.example.com/keys")

    async def _look(self) -> None:
        await self.keyrings.look()

    async def _distribute(self, sealed: SealedKeyring) -> None:
        ring = keyring.read(sealed.fd)
        os.close(sealed.fd)
        self.brought.append(ring)
        refuse, self.refuse = self.refuse, None
        if refuse is not None:
            raise refuse

    @property
    def gateway(self) -> Gateway:
        return decode(
            {
                "version": 1,
                "issuers": self.issuers,
                "authorities": [{"name": "internal", "ca": f"path:{self.folder}/ca.pem"}],
            }
        )

    async def apply(self) -> NewKeyring:
        """As the publisher does. Raises ConfigurationError."""
        new = await self.keyrings.prepare(self.gateway)
        os.close(new.sealed.fd)
        self.keyrings.keep(new)
        return new

    async def keyrings_now(self) -> Keyring:
        """The keyring that a look would make, whether it is another one or not."""
        gateway = self.keyrings._gateway
        assert gateway is not None
        return self.keyrings._build(gateway, self.keyrings.material)

    async def fetch(self) -> None:
        await self.source.service.refresh("corp")


def kids(ring: Keyring) -> list[list[str]]:
    return [[key.kid for key in issuer.keys] for issuer in ring.issuers]


@pytest.fixture
def place(tmp_path: Path, tls_material: Material) -> Place:
    (tmp_path / "ca.pem").write_bytes(Path(tls_material.root.ca).read_bytes())
    place = Place(tmp_path)
    place.write(SigningKey("a"))
    return place


async def test_a_configuration_has_its_issuers(place: Place) -> None:
    new = await place.apply()
    assert [each.name for each in new.keyring.issuers] == ["corp", "svc"]
    assert kids(new.keyring) == [[], ["a"]]
    assert new.keyring.authorities == []  # workers do not ask it
    await place.fetch()
    assert [kids(ring) for ring in place.brought] == [[["one"], ["a"]]]
    assert kids((await place.apply()).keyring) == [["one"], ["a"]]


async def test_new_keys_are_brought_alone(place: Place) -> None:
    await place.apply()
    await place.fetch()
    place.keys = (key("two"),)
    await place.fetch()
    await place.fetch()
    assert [kids(ring)[0] for ring in place.brought] == [["one"], ["two"]]
    assert not await place.keyrings.look()


async def test_a_changed_file_is_brought(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    await place.apply()
    place.write(SigningKey("a"), SigningKey("b"))
    assert await place.keyrings.look()
    assert kids(place.brought[-1])[1] == ["a", "b"]
    (place.folder / "keys.json").write_text("broken")
    assert not await place.keyrings.look()
    assert "issuers[1].keys" in caplog.text
    assert "its last content stays in use" in caplog.text
    assert kids(await place.keyrings_now()) == [[], ["a", "b"]]


async def test_a_file_that_cannot_be_used_is_refused(place: Place) -> None:
    first = await place.apply()
    (place.folder / "keys.json").write_text("broken")
    (place.folder / "ca.pem").unlink()
    with pytest.raises(ConfigurationError) as caught:
        await place.keyrings.prepare(place.gateway)
    assert [error.path for error in caught.value] == ["authorities[0].ca", "issuers[1].keys"]
    assert kids(await place.keyrings_now()) == kids(first.keyring)


async def test_one_that_is_not_served_in_the_end_changes_nothing(place: Place) -> None:
    """A worker cannot serve its snapshot, for example: its keys must not be accepted."""
    first = await place.apply()
    served = place.issuers
    (place.folder / "other.json").write_text(json.dumps({"keys": [SigningKey("evil").jwk()]}))
    place.issuers = [served[0], {**served[1], "keys": f"path:{place.folder}/other.json"}]
    new = await place.keyrings.prepare(place.gateway)
    os.close(new.sealed.fd)
    assert kids(new.keyring) == [[], ["evil"]]
    assert not await place.keyrings.look()
    assert kids(await place.keyrings_now()) == kids(first.keyring)
    place.issuers = served
    assert kids((await place.apply()).keyring) == kids(first.keyring)


async def test_keys_that_are_not_used_are_warned_of(place: Place) -> None:
    jwks = {"keys": [SigningKey("a").jwk(), SigningKey("b").jwk(use="enc")]}
    (place.folder / "keys.json").write_text(json.dumps(jwks))
    assert (await place.apply()).warnings == ["issuers[1].keys: the key 'b' is for encryption"]


async def test_keys_that_workers_cannot_use(place: Place) -> None:
    """All of them go back to what they had."""
    await place.apply()
    await place.fetch()
    place.keys, place.refuse = (key("odd"),), KeyringError("a key cannot be parsed")
    place.source.service._states["corp"].keys = place.keys
    with pytest.raises(KeyringError):
        await place.keyrings.look()
    refused, back = place.brought[-2:]
    assert (kids(refused)[0], kids(back)[0]) == (["odd"], ["one"])
    assert not await place.keyrings.look()  # it is not tried again and again


async def test_a_successor_without_its_files(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.issuers += [
        {"name": "shared", "issuer": "shared", "secret": "env:SHARED"},
        {
            "name": "asked",
            "issuer": "https://asked.example.com",
            "authority": "internal",
            "introspection": {"client_id": "a", "client_secret": "env:ASKED"},
        },
    ]
    kept = (await place.apply()).keyring
    after = Place(tmp_path, kept)
    after.issuers = place.issuers
    after.environ.clear()
    (tmp_path / "keys.json").unlink()
    new = await after.apply()
    assert "what workers have stays in use instead" in caplog.text
    assert new.keyring.issuers == kept.issuers
    # A later configuration must be right.
    with pytest.raises(ConfigurationError):
        await after.keyrings.prepare(after.gateway)


async def test_rows_of_counters_stay_with_their_issuers(place: Place, tmp_path: Path) -> None:
    def rows(new: NewKeyring) -> dict[str, int]:
        return {issuer.name: issuer.row for issuer in new.keyring.issuers}

    assert rows(await place.apply()) == {"corp": 1, "svc": 2}
    place.issuers = [{"name": "new", "issuer": "https://new"}, place.issuers[1]]
    last = await place.apply()
    assert rows(last) == {"new": 3, "svc": 2}
    after = Place(tmp_path, last.keyring)
    after.issuers = [{"name": "other", "issuer": "https://other"}, *place.issuers]
    assert rows(await after.apply()) == {"other": 1, "new": 3, "svc": 2}


async def test_a_successor_that_needs_what_workers_do_not_have(
    place: Place, tmp_path: Path
) -> None:
    kept = (await place.apply()).keyring
    after = Place(tmp_path, kept)
    after.issuers = [*place.issuers, {"name": "new", "issuer": "new", "keys": "env:NEW"}]
    with pytest.raises(ConfigurationError) as caught:
        await after.apply()
    assert caught.value.path == "issuers[2].keys"


async def test_what_control_trusts_when_it_asks(place: Place) -> None:
    await place.apply()
    internal = place.keyrings.authority_context("internal")
    assert len(internal.get_ca_certs()) == 1
    system = place.keyrings.authority_context("system")
    assert len(system.get_ca_certs()) > 1
    for context in (internal, system):
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
