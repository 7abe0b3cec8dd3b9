"""Orders at a real authority (pebble): accounts, challenges, and when an order is placed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from acmekit import HOST, FakeClock, World, authority, settings, world
from pebblekit import Pebble, pebble

from fastgate.certificates.acme.keys import facts_of
from fastgate.certificates.acme.problems import AcmeError
from fastgate.certificates.acme.settings import AcmeSettings, ExternalAccount, Wanted
from fastgate.errors import NotFoundError

BOTH = pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
MAC = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with pebble(tmp_path_factory.mktemp("pebble"), domainBlocklist=["blocked.example"]) as running:
        yield running


# ---- orders -----------------------------------------------------------------------------


@BOTH
async def test_a_certificate_is_ordered_and_kept(
    plain: Pebble, tmp_path: Path, challenge: str
) -> None:
    clock, before = FakeClock(), plain.orders
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain, challenge=challenge), HOST, "b.example"))
        await clock.idle()
        pair = one.service.pair("shop")
        assert pair is not None
        assert pair == one.on_disk()
        assert set(pair.hosts) == {HOST, "b.example"}
        assert len(pair.chain) == 2  # with the intermediate certificate
        assert one.issued == ["shop"]
        assert not one.failures
        assert one.service.orders["issued"] == 1
        (row,) = one.service.status()
        assert (row.state, row.ordering, row.failures, row.error) == ("valid", False, 0, "")
        assert row.not_after is not None
        assert row.not_after.timestamp() == pair.not_after
        if challenge == "tls-alpn-01":
            both = ["b.example", HOST]
            assert one.proofs.log[:2] == [("publish", host) for host in both]
            assert sorted(one.proofs.log[2:]) == [("withdraw", host) for host in both]
    assert plain.orders == before + 1
    assert one.storage.order("shop") is None


async def test_a_start_orders_nothing_that_is_valid_on_disk(plain: Pebble, tmp_path: Path) -> None:
    clock, wanted = FakeClock(), settings(authority(plain))
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(wanted)
        await clock.idle()
    before = plain.orders
    async with world(plain, tmp_path, clock) as two:
        await two.service.reload(wanted)
        assert two.service.pair("shop") == one.on_disk()  # at once
        await clock.idle()
        assert not two.issued  # it is the one that control found at its start
    assert plain.orders == before


async def test_other_hosts_are_another_order_and_the_old_certificate_stays_until_then(
    plain: Pebble, tmp_path: Path
) -> None:
    clock, wanted = FakeClock(), authority(plain)
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(wanted, HOST))
        await clock.idle()
        old, before = one.service.pair("shop"), plain.orders
        await one.service.reload(settings(wanted, HOST, "blocked.example"))
        await clock.idle()
        assert one.service.pair("shop") == old
        (row,) = one.service.status()
        assert (row.state, row.failures) == ("outdated", 1)
        await one.service.reload(settings(wanted, HOST, "more.example"))
        await clock.idle()
        assert set(one.on_disk().hosts) == {HOST, "more.example"}
        assert one.issued == ["shop", "shop"]
        # The same hosts in another order are the same certificate.
        await one.service.reload(settings(wanted, "more.example", HOST))
        await clock.idle()
    assert plain.orders == before + 1


async def test_a_name_that_was_taken_out_is_not_renewed_and_its_files_stay(
    plain: Pebble, tmp_path: Path
) -> None:
    clock, wanted = FakeClock(), authority(plain)
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(wanted))
        await clock.idle()
        before = plain.orders
        await one.service.reload(settings(wanted, "other.example", name="other"))
        await clock.idle()
        assert one.service.pair("shop") is None
        expired = facts_of(one.on_disk()).not_after + timedelta(days=1)
        clock_only = [row.name for row in one.service.status()]
        assert clock_only == ["other"]
        await one.service.reload(AcmeSettings())
        assert one.service.status() == []
        with pytest.raises(NotFoundError):
            await one.service.renew("other")
        assert plain.orders == before + 1
        # It is back after it has expired: ordered at once.
        clock._now = expired
        await one.service.reload(settings(wanted))
        assert one.service.pair("shop") is not None
        await clock.idle()
    assert plain.orders == before + 2


async def test_an_unchanged_certificate_is_not_disturbed_by_a_reload(
    plain: Pebble, tmp_path: Path
) -> None:
    clock, wanted = FakeClock(), authority(plain)
    both = AcmeSettings(
        {wanted.name: wanted},
        (Wanted("shop", (HOST,), wanted.name), Wanted("other", ("other.example",), wanted.name)),
    )
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(wanted))
        await clock.idle()
        before = one.service._kept["shop"].task
        await one.service.reload(both)
        await clock.idle(2)
        assert one.service._kept["shop"].task is before
        assert one.issued == ["shop", "other"]


async def test_another_authority_is_another_order(plain: Pebble, tmp_path: Path) -> None:
    clock = FakeClock()
    (tmp_path / "state").mkdir()
    with pebble(tmp_path / "second") as second:
        async with world(plain, tmp_path / "state", clock) as one:
            await one.service.reload(settings(authority(plain)))
            await clock.idle()
        async with world(second, tmp_path / "state", clock) as two:
            # Another name for the same directory is the same authority.
            await two.service.reload(settings(authority(plain, name="renamed")))
            await clock.idle()
            assert not two.issued
            await two.service.reload(settings(authority(second, name="renamed")))
            await clock.idle()
            assert two.issued == ["shop"]
        assert second.orders == 1


async def test_many_certificates_at_once(plain: Pebble, tmp_path: Path) -> None:
    """Two of them for the same host, which cannot be proved twice at the same time."""
    clock, wanted = FakeClock(), authority(plain, challenge="tls-alpn-01")
    hosts = ["a.example", "a.example", "b.example", "c.example", "d.example", "e.example"]
    certificates = [Wanted(f"c{i}", (host,), "pebble") for i, host in enumerate(hosts)]
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(AcmeSettings({"pebble": wanted}, tuple(certificates)))
        await clock.idle(len(hosts))
        assert not one.failures
        assert sorted(one.issued) == [each.name for each in certificates]
        shown = [what for what, host in one.proofs.log if host == "a.example"]
        assert shown == ["publish", "withdraw"] * 2


async def test_files_are_for_the_gateway_alone(plain: Pebble, tmp_path: Path) -> None:
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
    found = list((tmp_path / "acme").rglob("*"))
    assert {path.name for path in found if path.is_file()} == {
        "account.json",
        "ca.pem",
        "certificate.pem",
        "schedule.json",
    }
    for path in [tmp_path / "acme", *found]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    pem = (tmp_path / "acme/certificates/shop/certificate.pem").read_text()
    assert pem.count("-----BEGIN PRIVATE KEY-----") == 1
    assert json.loads(pem.splitlines()[0])["hosts"] == [HOST]


# ---- accounts ---------------------------------------------------------------------------


async def test_the_account_is_registered_once_and_kept(plain: Pebble, tmp_path: Path) -> None:
    clock = FakeClock()
    registered = plain.log.count("POST /sign-me-up")
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain, email="a@example.com")))
        await clock.idle()
        path = next((tmp_path / "acme/accounts").iterdir()) / "account.json"
        before = json.loads(path.read_bytes())
        assert before["email"] == "a@example.com"
        assert plain.log.count("POST /sign-me-up") == registered + 1
        await one.service.reload(settings(authority(plain, email="b@example.com")))
        await one.service.renew("shop", wait=True)
        after = json.loads(path.read_bytes())
        assert after == {**before, "email": "b@example.com"}
        assert plain.log.count("POST /sign-me-up") == registered + 1
        assert await contact_of(one) == ["mailto:b@example.com"]
        await one.service.reload(settings(authority(plain)))
        await one.service.renew("shop", wait=True)
        assert json.loads(path.read_bytes()) == {**before, "email": None}
        assert await contact_of(one) == []


async def contact_of(one: World) -> list[str]:
    """The addresses that the authority has."""
    client = one.service._kept["shop"].keeper._client
    response = await client.call(lambda: client.post(client.net.account.uri, "refused"))
    return response.json().get("contact") or []


async def test_an_account_that_exists_already_is_found_by_its_key(
    plain: Pebble, tmp_path: Path
) -> None:
    """The gateway was killed between the registration and the file."""
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain, email="a@example.com")))
        await clock.idle()
        path = next((tmp_path / "acme/accounts").iterdir()) / "account.json"
        whole = path.read_bytes()
        path.write_bytes(json.dumps({**json.loads(whole), "url": "", "email": None}).encode())
        await one.service.renew("shop", wait=True)
        assert json.loads(path.read_bytes()) == json.loads(whole)


async def test_an_authority_that_has_forgotten_the_account(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    clock = FakeClock()
    with pebble(tmp_path / "pebble") as forgetful:
        async with world(forgetful, tmp_path / "state", clock) as one:
            await one.service.reload(settings(authority(forgetful)))
            await clock.idle()
            old = one.on_disk()
            forgetful.stop()
            forgetful.start()
            # It does not know the certificate either, which the order would replace.
            await one.service.renew("shop", wait=True)
            assert one.on_disk() != old
            assert not one.failures


async def test_nonces_that_are_refused_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    clock = FakeClock()
    with pebble(tmp_path / "pebble", {"PEBBLE_WFE_NONCEREJECT": "25"}) as picky:
        async with world(picky, tmp_path / "state", clock) as one:
            await one.service.reload(settings(authority(picky)))
            for _ in range(3):
                await one.service.renew("shop", wait=True)
            # A fresh one is needed at the start, and after each that was refused.
            assert picky.log.count("HEAD /nonce-plz") > 3
            assert not one.failures


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority that requires an external account."""
    with pebble(
        tmp_path_factory.mktemp("bound"),
        externalAccountBindingRequired=True,
        externalAccountMACKeys={"kid-1": MAC},
    ) as running:
        yield running


async def test_an_external_account(bound: Pebble, tmp_path: Path) -> None:
    clock, external = FakeClock(), ExternalAccount("kid-1", MAC)
    async with world(bound, tmp_path, clock) as one:
        await one.service.reload(settings(authority(bound, external_account=external)))
        await clock.idle()
        assert one.issued == ["shop"]
    assert MAC not in repr(external)


@pytest.mark.parametrize(
    ("external", "text"),
    [
        (
            None,
            "pebble requires an external account. Add `eab: {kid: …, key: …}` with the values that "
            "it has given you.",
        ),
        (
            ExternalAccount("kid-1", "not base64url, but secret"),
            "The key of the external account 'kid-1' at pebble is not base64url. Check `eab.key`.",
        ),
        (ExternalAccount("kid-2", MAC), "pebble refused to register an account: "),
        (ExternalAccount("kid-1", MAC.lower()), "pebble refused to register an account: "),
    ],
)
async def test_a_wrong_external_account(
    bound: Pebble, tmp_path: Path, external: ExternalAccount | None, text: str
) -> None:
    clock = FakeClock()
    async with world(bound, tmp_path, clock) as one:
        await one.service.reload(settings(authority(bound, external_account=external)))
        await clock.idle()
        (failure,) = one.failures
        assert failure.error.startswith(text)
        assert "secret" not in failure.error
        assert MAC.lower() not in failure.error.lower()
        # Another key is another attempt, at once.
        right = ExternalAccount("kid-1", MAC)
        await one.service.reload(settings(authority(bound, external_account=right)))
        await clock.idle()
        assert one.issued == ["shop"]


# ---- an attempt on request --------------------------------------------------------------


async def test_renewing_now_ignores_the_schedule(plain: Pebble, tmp_path: Path) -> None:
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        old = one.on_disk()
        await asyncio.gather(*(one.service.renew("shop", wait=True) for _ in range(3)))
        assert one.on_disk() != old
        assert one.service.pair("shop") == one.on_disk()
        assert one.service.orders["issued"] == 2  # all three are the same attempt
        await one.service.renew("shop")  # returns at once
        await one.service.renew("shop", wait=True)  # joins it
        assert one.service.orders["issued"] == 3


async def test_who_waits_for_a_renewal_hears_that_it_failed(plain: Pebble, tmp_path: Path) -> None:
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain), "blocked.example"))
        with pytest.raises(AcmeError, match=r"pebble refused the order for blocked\.example: "):
            await one.service.renew("shop", wait=True)
        await clock.idle()
        waiting = asyncio.create_task(one.service.renew("shop", wait=True))
        await asyncio.sleep(0)  # it waits now
        await one.service.reload(AcmeSettings())
        with pytest.raises(AcmeError, match="was changed, or the gateway stops"):
            await waiting


# ---- the disk ---------------------------------------------------------------------------


async def test_a_damaged_certificate_is_set_aside_and_ordered_again(
    plain: Pebble, tmp_path: Path
) -> None:
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        path = one.storage.file_of("shop")
        whole = path.read_bytes()
        others = [
            whole[:-200],
            whole[:100],
            b"",
            b"\xff\xfe\x00",
            whole.replace(b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN RSA PRIVATE KEY-----"),
            b"{}\n" + whole.partition(b"\n")[2],
        ]
        for damaged in others:
            path.write_bytes(damaged)
            issued = len(one.issued)
            await one.service.reload(AcmeSettings())
            await one.service.reload(settings(authority(plain)))
            await clock.idle()
            assert path.with_name("certificate.pem.damaged").read_bytes() == damaged
            assert len(one.issued) == issued + 1
            one.on_disk()


async def test_damaged_schedules_and_orders_are_replaced(plain: Pebble, tmp_path: Path) -> None:
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        folder = one.storage.file_of("shop").parent
        (folder / "order.json").write_bytes(b"{")
        (folder / "schedule.json").write_bytes(b'{"failures": "many"}')
        await one.service.reload(AcmeSettings())
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        assert one.storage.schedule("shop").fingerprint == one.on_disk().fingerprint
        await one.service.renew("shop", wait=True)
        assert not one.failures


@pytest.mark.parametrize("damage", [b"{", b'{"directory": "x", "key": "no key"}'])
async def test_a_damaged_account_is_an_error_and_stays(
    plain: Pebble, tmp_path: Path, damage: bytes
) -> None:
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        path = next((tmp_path / "acme/accounts").iterdir()) / "account.json"
        whole = path.read_bytes()
        path.write_bytes(damage)
        with pytest.raises(AcmeError, match="account") as caught:
            await one.service.renew("shop", wait=True)
        assert "delete it to register a new account" in str(caught.value)
        assert path.read_bytes() == damage
        path.write_bytes(whole)
        await one.service.renew("shop", wait=True)


async def test_a_disk_that_does_not_work(plain: Pebble, tmp_path: Path) -> None:
    (tmp_path / "acme").write_text("not a folder")
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        with pytest.raises(AcmeError, match=r"Cannot prepare .*/acme: "):
            await one.service.reload(settings(authority(plain)))
        (tmp_path / "acme").unlink()
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        # The folder of a certificate cannot be read: this one is refused, the others are kept.
        (tmp_path / "acme/certificates/bad").mkdir()
        (tmp_path / "acme/certificates/bad/certificate.pem").mkdir()
        wanted = authority(plain)
        certificates = (Wanted("shop", (HOST,), "pebble"), Wanted("bad", ("b.example",), "pebble"))
        await one.service.reload(AcmeSettings({"pebble": wanted}, certificates))
        bad, shop = one.service.status()
        assert (bad.state, shop.state) == ("refused", "valid")
        assert bad.error.startswith("Cannot read ")
        with pytest.raises(AcmeError, match="cannot be ordered: Cannot read"):
            await one.service.renew("bad")


async def test_what_a_killed_process_left_is_deleted(plain: Pebble, tmp_path: Path) -> None:
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
    left = tmp_path / "acme/certificates/shop/.certificate.pem.4711"
    left.write_text("half a key")
    async with world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
    assert not left.exists()
