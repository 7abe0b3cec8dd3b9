"""The served keyring: prepared with a configuration, kept up to date with files and time."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from pkikit import Authority, Issued

from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import Challenge, Keyring
from fastgate.certificates.pairs import Pair, read_pair
from fastgate.certificates.rings import ROTATE_S
from fastgate.certificates.sources import Content
from fastgate.errors import ApplyError, ConfigurationError, KeyringError
from fastgate.model.codec import decode
from fastgate.model.gateway import Certificate, Gateway
from fastgate.runtime.control.keyrings import Keyrings, NewKeyring, read_kept
from fastgate.runtime.control.worker_channels import SealedKeyring

ROOT = Authority.root()
DAY = 86_400


class Place:
    """A document with one certificate, and workers that take every keyring."""

    def __init__(self, folder: Path, kept: Keyring | None = None) -> None:
        self.folder = folder
        self.issued = ROOT.issue("api.example", end=90)
        self.now = self.issued.certificate.not_valid_before_utc.timestamp() + DAY
        self.document: dict[str, Any] = {
            "version": 1,
            "listeners": [{"bind": "127.0.0.1:8443", "tls": True}],
            "certificates": [
                {"name": "api", "cert": f"path:{folder}/api.pem", "key": f"path:{folder}/api.key"}
            ],
        }
        self.write(self.issued)
        self.brought: list[Keyring] = []
        self.refuse: Exception | None = None
        self.keyrings = Keyrings(self._distribute, kept, lambda: self.now)

    def write(self, issued: Issued) -> None:
        issued.write(self.folder / "api")

    async def _distribute(self, sealed: SealedKeyring) -> None:
        ring = keyring.read(sealed.fd)
        os.close(sealed.fd)
        assert ring.serial == sealed.serial
        self.brought.append(ring)
        refuse, self.refuse = self.refuse, None
        if refuse is not None:
            raise refuse

    @property
    def gateway(self) -> Gateway:
        return decode(self.document)

    async def apply(self) -> NewKeyring:
        """As the publisher does. Raises ConfigurationError."""
        new = await self.keyrings.prepare(self.gateway)
        sent = keyring.read(new.sealed.fd)
        os.close(new.sealed.fd)
        assert sent == new.keyring
        self.keyrings.keep(new)
        return new


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def leaf(ring: Keyring, number: int = 0) -> bytes:
    return bytes(ring.certificates[number].chain[0])


async def test_a_configuration_has_its_keyring(place: Place) -> None:
    first = await place.apply()
    assert leaf(first.keyring) == place.issued.der
    assert first.warnings == []
    assert len(first.keyring.tickets) == 1
    second = await place.apply()
    assert second.keyring.serial > first.keyring.serial
    assert second.keyring.tickets == first.keyring.tickets
    assert not await place.keyrings.look()
    assert place.brought == []


async def test_one_that_is_refused_changes_nothing(place: Place) -> None:
    first = await place.apply()
    (place.folder / "api.key").chmod(0o644)
    with pytest.raises(ConfigurationError) as caught:
        await place.keyrings.prepare(place.gateway)
    assert caught.value.path == "certificates[0].key"
    assert place.keyrings.material is first.material
    # One that is prepared and then not kept, because a worker cannot serve its snapshot.
    (place.folder / "api.key").chmod(0o600)
    place.document["listeners"][0]["bind"] = "127.0.0.1:9443"
    os.close((await place.keyrings.prepare(place.gateway)).sealed.fd)
    assert not await place.keyrings.look()


async def test_doubtful_certificates_are_served_with_a_warning(place: Place) -> None:
    place.write(ROOT.issue("api.example", start=-9, end=-1))
    (warning,) = (await place.apply()).warnings
    assert warning.startswith("certificates[0]: the certificate 'api' (path:")
    assert "expired on" in warning


# ---- files that change ------------------------------------------------------------------


async def test_a_changed_file_is_brought_to_the_workers(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = await place.apply()
    renewed = ROOT.issue("api.example")
    place.write(renewed)
    assert await place.keyrings.look()
    (ring,) = place.brought
    assert leaf(ring) == renewed.der
    assert ring.serial > first.keyring.serial
    assert ring.tickets == first.keyring.tickets
    assert "the certificate api is a new one, valid until" in caplog.text
    assert not await place.keyrings.look()


async def test_a_certificate_that_only_control_uses_is_new_too(place: Place) -> None:
    """Its workers have nothing to do with it."""
    own, key = ROOT.issue("control.example").write(place.folder / "own")
    place.document["listeners"][0]["tls"] = {"certificates": ["api"]}
    place.document["certificates"] += [{"name": "own", "cert": f"path:{own}", "key": f"path:{key}"}]
    place.document["control"] = {"bind": "127.0.0.1:8081", "tls": "own"}
    first = await place.apply()
    assert [each.name for each in first.keyring.certificates] == ["api"]
    renewed = ROOT.issue("control.example")
    renewed.write(place.folder / "own")
    assert await place.keyrings.look()
    assert place.brought == []
    assert dict(place.keyrings.pairs())["own"].chain == (renewed.der,)


async def test_a_touched_file_is_not(place: Place) -> None:
    await place.apply()
    os.utime(place.folder / "api.pem", ns=(1, 1))
    assert not await place.keyrings.look()
    assert place.brought == []


async def test_a_file_that_cannot_be_used_is_reported_once(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.apply()
    renewed = ROOT.issue("api.example")
    (place.folder / "api.pem").write_bytes(renewed.pem)
    for _ in range(3):
        assert not await place.keyrings.look()
    (error,) = [each.message for each in caplog.records if "does not belong" in each.message]
    assert "certificates[0].key" in error
    (status,) = place.keyrings.status()
    assert status.state == "valid"
    assert "does not belong to the certificate" in (status.problem or "")
    assert status.fingerprint != ""
    place.write(renewed)  # the rest of it
    assert await place.keyrings.look()
    assert leaf(place.brought[-1]) == renewed.der
    (status,) = place.keyrings.status()
    assert status.problem is None


async def test_an_authority_that_changes(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ca = place.folder / "ca.pem"
    ca.write_bytes(ROOT.pem)
    place.document["authorities"] = [{"name": "partners", "ca": f"path:{ca}"}]
    place.document["listeners"][0]["tls"] = {"client": "partners"}
    await place.apply()
    other = Authority.root("Other")
    ca.write_bytes(ROOT.pem + other.pem)
    assert await place.keyrings.look()
    assert len(place.brought[0].authorities[0].certificates) == 2
    assert "the authority partners has changed" in caplog.text


async def test_nothing_is_looked_at_before_there_is_a_configuration(place: Place) -> None:
    assert not await place.keyrings.look()
    assert place.keyrings.status() == []


# ---- workers that refuse, or are late ---------------------------------------------------


async def test_a_keyring_that_workers_cannot_use_is_taken_back(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.apply()
    place.write(ROOT.issue("api.example"))
    place.refuse = KeyringError("a key cannot be parsed")
    with pytest.raises(KeyringError):
        await place.keyrings.look()
    refused, back = place.brought
    assert leaf(refused) != place.issued.der
    assert leaf(back) == place.issued.der
    assert back.serial > refused.serial
    assert "cannot use the new certificates or keys: a key cannot be parsed" in caplog.text
    assert not await place.keyrings.look()  # it is not tried again and again
    better = ROOT.issue("api.example")
    place.write(better)
    assert await place.keyrings.look()
    assert leaf(place.brought[-1]) == better.der
    serials = [ring.serial for ring in place.brought]
    assert serials == sorted(set(serials))


async def test_a_late_worker_makes_no_difference(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.apply()
    place.write(ROOT.issue("api.example"))
    place.refuse = ApplyError("worker 1 does not use the new certificates after 20 s")
    assert await place.keyrings.look()
    assert "worker 1 does not use the new certificates" in caplog.text
    assert not await place.keyrings.look()


# ---- time -------------------------------------------------------------------------------


async def test_ticket_keys_rotate(place: Place) -> None:
    first = await place.apply()
    place.now += ROTATE_S - 1
    assert not await place.keyrings.look()
    place.now += 1
    assert await place.keyrings.look()
    (ring,) = place.brought
    assert ring.tickets[1:] == first.keyring.tickets
    assert ring.certificates == first.keyring.certificates


async def test_warnings_of_certificates_that_will_expire(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.apply()
    end = place.issued.certificate.not_valid_after_utc.timestamp()
    states = []
    for days in (31, 29, 28, 6, 5, 0.5, -1, -2):
        place.now = end - days * DAY
        await place.keyrings.look()
        states.append(place.keyrings.status()[0].state)
    assert states == ["valid", *["expiring"] * 5, *["expired"] * 2]
    said = [each.getMessage() for each in caplog.records]
    assert len([text for text in said if "the certificate api expires on" in text]) == 3
    assert len([text for text in said if "the certificate api expired on" in text]) == 1
    caplog.clear()
    place.now = end - DAY / 2
    place.write(ROOT.issue("api.example", end=200))
    await place.keyrings.look()
    assert caplog.records == []


# ---- a new control process --------------------------------------------------------------


def kept_of(ring: Keyring) -> Keyring | None:
    """As the supervisor hands it over."""
    return read_kept(keyring.write(ring))


async def test_a_successor_goes_on_with_serial_and_tickets(place: Place, tmp_path: Path) -> None:
    first = (await place.apply()).keyring
    successor = Place(tmp_path, kept_of(first))
    successor.now = place.now
    second = (await successor.apply()).keyring
    assert second.serial > first.serial
    assert second.tickets == first.tickets
    assert not await successor.keyrings.look()


async def test_a_successor_uses_what_workers_have_where_files_cannot_be_used(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = place.folder / "ca.pem"
    ca.write_bytes(ROOT.pem)
    place.document["authorities"] = [{"name": "partners", "ca": f"path:{ca}"}]
    place.document["listeners"][0]["tls"] = {"client": "partners"}
    first = (await place.apply()).keyring
    successor = Place(tmp_path, kept_of(first))
    successor.document = place.document
    for name in ("api.pem", "ca.pem"):
        (place.folder / name).unlink()
    second = (await successor.apply()).keyring
    assert leaf(second) == place.issued.der
    assert second.authorities == first.authorities
    assert "api.pem cannot be read" in caplog.text
    assert "what workers have stays in use instead" in caplog.text
    (status,) = successor.keyrings.status()
    assert "cannot be read" in (status.problem or "")
    with pytest.raises(ConfigurationError):  # later changes are judged as ever
        await successor.apply()
    renewed = ROOT.issue("api.example")
    successor.write(renewed)
    ca.write_bytes(ROOT.pem)
    assert await successor.keyrings.look()
    assert leaf(successor.brought[-1]) == renewed.der


async def test_a_successor_cannot_serve_what_no_worker_has(place: Place, tmp_path: Path) -> None:
    first = (await place.apply()).keyring
    successor = Place(tmp_path, kept_of(first))
    successor.document["certificates"] += [{"name": "b", "cert": f"path:{tmp_path}/none.pem"}]
    with pytest.raises(ConfigurationError, match=r"none\.pem cannot be read"):
        await successor.apply()


def test_no_keyring_was_kept_or_it_cannot_be_used(caplog: pytest.LogCaptureFixture) -> None:
    assert read_kept(-1) is None
    assert read_kept(os.memfd_create("junk")) is None
    assert "session tickets of clients become invalid" in caplog.text


# ---- ACME -------------------------------------------------------------------------------


def pair_of(issued: Issued) -> Pair:
    return read_pair(Content("c", issued.chain), Content("k", issued.key_pem))


async def test_issued_certificates_come_when_they_are_there(place: Place) -> None:
    place.document["listeners"] += [{"name": "web", "bind": "127.0.0.1:8080"}]
    place.document["certificates"] = [
        {"name": "shop", "hosts": ["shop.example"], "acme": "letsencrypt"}
    ]
    found: dict[str, Pair] = {}

    def issued(certificate: Certificate) -> Pair | None:
        return found.get(certificate.name)

    place.keyrings.issued = issued
    first = await place.apply()
    assert (first.keyring.certificates, first.keyring.listeners[0].certificates) == ([], [])
    (status,) = place.keyrings.status()
    assert (status.state, status.source) == ("pending", "acme: letsencrypt")
    assert (status.hosts, status.used_by) == (["shop.example"], ["listener public"])
    shop = ROOT.issue("shop.example")
    found["shop"] = pair_of(shop)
    assert not await place.keyrings.look()
    assert await place.keyrings.look(everything=True)
    assert leaf(place.brought[0]) == shop.der
    assert place.keyrings.status()[0].state == "valid"


async def test_challenges_are_answered_until_they_are_taken_back(place: Place) -> None:
    await place.apply()
    challenge = Challenge(host="a.example", certificate=memoryview(b"c"), key=memoryview(b"k"))
    await place.keyrings.challenge([challenge])
    assert place.brought[-1].challenges == [challenge]
    assert (await place.apply()).keyring.challenges == [challenge]  # a reload keeps it
    await place.keyrings.challenge([])
    assert place.brought[-1].challenges == []
    assert len(place.brought) == 2


async def test_what_the_status_says(place: Place) -> None:
    place.document["upstreams"] = [
        {"name": "u", "targets": "https://a", "tls": {"verify": False, "certificate": "api"}}
    ]
    place.document["control"] = {"bind": "127.0.0.1:8081", "tls": "api"}
    await place.apply()
    (status,) = place.keyrings.status()
    pair = pair_of(place.issued)
    assert status.used_by == ["listener public", "upstream u", "control"]
    assert (status.name, status.source) == ("api", f"path:{place.folder}/api.pem")
    assert (status.subject, status.issuer) == ("api.example", "Test Root")
    assert (status.not_before, status.not_after) == (pair.not_before, pair.not_after)
    assert (status.key_type, status.fingerprint) == ("ECDSA P-256", pair.fingerprint)
