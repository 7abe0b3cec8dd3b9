"""What docs/acme.md says and no other test of ACME shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from acmefaultkit import Between, problem
from acmekit import HOST, FakeClock, authority, make_stored, settings, world
from pebblekit import Pebble, pebble
from waitkit import free_port

from fastgate.certificates.acme.client import NONCE_TRIES
from fastgate.certificates.acme.configured import settings_of
from fastgate.certificates.acme.service import AT_ONCE
from fastgate.certificates.acme.settings import AcmeSettings, Wanted, fault_of
from fastgate.certificates.acme.storage import Storage
from fastgate.model import check
from fastgate.model.codec import decode

GUIDE = Path(__file__).parents[2] / "docs" / "acme.md"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with pebble(tmp_path_factory.mktemp("pebble")) as running:
        yield running


def blocks() -> list[dict[str, Any]]:
    """The configurations that it shows."""
    found = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.S)
    return [block for text in found if isinstance(block := yaml.safe_load(text), dict)]


def test_the_configurations_it_shows_are_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, email, other = blocks()
    gateway = decode(first)
    check.require(gateway)
    assert not list(check.warnings(gateway))
    found = settings_of(gateway)
    assert found.authorities["letsencrypt"].directory.startswith("https://acme-v02.api.letsencr")
    assert found.certificates[0].hosts == ("shop.example.com", "www.shop.example.com")
    with_email = settings_of(decode({**first, **email}))
    assert with_email.authorities["letsencrypt"].email == "ops@example.com"
    staging = {
        **first,
        "certificates": [{**first["certificates"][0], "acme": "letsencrypt-staging"}],
    }
    assert "staging" in settings_of(decode(staging)).authorities["letsencrypt-staging"].directory

    monkeypatch.setenv("EAB_KEY", "c2VjcmV0")
    (tmp_path / "internal.pem").write_text("a certificate")
    other["acme"][0]["ca"] = f"path:{tmp_path}/internal.pem"
    gateway = decode({**first, **other})
    check.require(gateway)
    found = settings_of(gateway)
    one = found.authorities["internal"]
    assert one.external_account is not None
    assert (one.external_account.kid, one.external_account.key) == ("k1", "c2VjcmV0")
    assert (one.challenge, one.ca) == ("tls-alpn-01", b"a certificate")
    assert all(fault_of(each, found) is None for each in found.certificates)


async def test_a_proxy_is_heeded(
    plain: Pebble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        (failure,) = one.failures
        assert failure.error.startswith("pebble cannot be reached at ")
        monkeypatch.delenv("HTTPS_PROXY")
        await one.service.renew("shop", wait=True)


async def test_a_host_that_is_proved_already_is_not_proved_again(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    clock = FakeClock()
    with pebble(tmp_path / "pebble", {"PEBBLE_AUTHZREUSE": "100"}) as remembering:
        async with world(remembering, tmp_path / "state", clock) as one:
            wanted = authority(remembering, challenge="tls-alpn-01")
            await one.service.reload(settings(wanted))
            await one.service.renew("shop", wait=True)
            shown = len(one.proofs.log)
            await one.service.renew("shop", wait=True)
            assert len(one.proofs.log) == shown


async def test_certificates_are_ordered_a_few_at_a_time(plain: Pebble, tmp_path: Path) -> None:
    clock, wanted = FakeClock(), authority(plain, challenge="tls-alpn-01")
    certificates = [Wanted(f"c{i}", (f"c{i}.example",), "pebble") for i in range(AT_ONCE * 2)]
    seen = []
    async with world(plain, tmp_path, clock) as one:
        publish = one.proofs.publish

        async def counted(host: str, certificate: bytes, key: bytes) -> None:
            seen.append(sum(row.ordering for row in one.service.status()))
            await publish(host, certificate, key)

        one.proofs.publish = counted  # type: ignore[method-assign]
        await one.service.reload(AcmeSettings({"pebble": wanted}, tuple(certificates)))
        await clock.idle(len(certificates))
    assert max(seen) == AT_ONCE
    assert len(seen) == len(certificates)


async def test_nonces_are_not_replaced_forever(plain: Pebble, tmp_path: Path) -> None:
    clock, between = FakeClock(), Between(plain)
    between.faults = [("order-plz", lambda *_: problem("badNonce", "old", 400))] * 100
    async with between.served(), world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain, directory=between.directory)))
        await clock.idle()
        (failure,) = one.failures
        assert failure.error == f"pebble refused the order for {HOST}: old (badNonce)."
        assert between.asked.count("POST /order-plz") == 2 * NONCE_TRIES


def test_openssl_reads_the_file(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("install the Debian package 'openssl' to run this")
    storage, now = Storage(tmp_path), datetime.now(UTC)
    storage.prepare()
    stored = make_stored("https://a.example", [HOST], now, now + timedelta(days=90))
    storage.write_certificate("shop", stored)
    for command in (["x509", "-noout", "-text"], ["pkey", "-noout", "-text"]):
        ran = subprocess.run(
            ["openssl", *command, "-in", storage.file_of("shop")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert (HOST if command[0] == "x509" else "Private-Key: (256 bit)") in ran.stdout
