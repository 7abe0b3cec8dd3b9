"""The small parts: keys, sentences, tokens, the clock, the thread, proofs that are shown."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fastgate.certificates.acme import call_thread, challenges, keys
from fastgate.certificates.acme.call_thread import CallThread
from fastgate.certificates.acme.challenges import Proof, Shown
from fastgate.certificates.acme.clock import SystemClock
from fastgate.certificates.acme.problems import (
    AcmeError,
    Problem,
    RateLimited,
    Refused,
    one_line,
    refusal,
)
from fastgate.certificates.acme.tokens import Tokens
from fastgate.errors import KeyringError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


# ---- keys -------------------------------------------------------------------------------


def test_the_identifier_for_renewal_information() -> None:
    """The example of RFC 9773, 4.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    identifier = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0x8765_4321)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.AuthorityKeyIdentifier(identifier, None, None), critical=False)
        .sign(key, keys.hashes.SHA256())
    )
    assert keys._renewal_id(certificate) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def test_a_certificate_without_an_identifier_has_none() -> None:
    der, _ = keys.challenge_certificate("a.example", "token.thumbprint")
    assert keys._renewal_id(x509.load_der_x509_certificate(der)) is None


def test_a_request_has_the_hosts_and_no_subject() -> None:
    made = keys.request(keys.new_key(), ["a.example", "b.example"])
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example", "b.example"]
    assert not list(made.subject)
    assert made.is_signature_valid


# ---- sentences --------------------------------------------------------------------------


def test_problems_of_several_hosts_are_one_sentence() -> None:
    parts = (
        Problem("caa", "CAA of a.example", "a.example"),
        Problem("dns", "no such\r\n\x1b[31mname.", "b.example"),
    )
    error = refusal("it refused the order", Problem("compound", "see below", "", parts))
    assert str(error) == (
        "it refused the order: see below (compound); a.example: CAA of a.example (caa); "
        "b.example: no such [31mname (dns). A CAA record of the host's domain forbids it. Change "
        "the record, or use the authority that it names."
    )
    assert isinstance(error, Refused)


def test_kinds_of_problems() -> None:
    limited = refusal("it refused", Problem("rateLimited", "slowly"), retry_after=5)
    assert isinstance(limited, RateLimited)
    assert (limited.result, limited.retry_after, limited.code) == ("limited", 5, "rateLimited")
    own = refusal("it refused", Problem("serverInternal", ""))
    assert not isinstance(own, Refused)
    assert (own.result, str(own)) == (
        "failed",
        "it refused: it gave no reason (serverInternal). The fault is the authority's.",
    )
    assert "port 80" in str(refusal("x", Problem("connection", "no"), challenge="http-01"))
    assert "port" not in str(refusal("x", Problem("connection", "no")))
    long = one_line("a" * 1000)
    assert len(long) == 400
    assert long.endswith("…")


# ---- the clock --------------------------------------------------------------------------


async def test_the_clock_waits_for_an_event_or_a_time() -> None:
    clock, event = SystemClock(), asyncio.Event()
    await clock.wait(event, clock.now())
    soon = clock.now() + timedelta(milliseconds=20)
    await clock.wait(event, soon)
    assert clock.now() >= soon
    for until in (None, clock.now() + timedelta(days=400)):
        waiting = asyncio.create_task(clock.wait(event, until))
        await asyncio.sleep(0)
        assert not waiting.done()
        event.set()
        await waiting
        event.clear()


async def test_the_clock_looks_again_since_it_may_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgate.certificates.acme.clock.LOOK_S", 0.001)
    clock = SystemClock()
    now = clock.now()
    looks = iter([now, now, now + timedelta(days=2)])
    monkeypatch.setattr(clock, "now", lambda: next(looks))
    await clock.wait(asyncio.Event(), now + timedelta(days=1))
    assert next(looks, None) is None


# ---- the thread -------------------------------------------------------------------------


async def test_calls_are_made_in_order_in_one_thread() -> None:
    made: list[tuple[int, str]] = []
    thread = CallThread("calls", lambda: made.append((-1, "")))

    def work(number: int) -> int:
        made.append((number, threading.current_thread().name))
        return number

    found = await asyncio.gather(*(thread.call(lambda n=n: work(n)) for n in range(20)))  # type: ignore[misc]
    assert found == list(range(20))
    assert made == [(n, "calls") for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 // 0)
    running = thread._thread
    assert running is not None
    assert running.daemon
    thread.close()
    await asyncio.to_thread(running.join)
    assert made[-1] == (-1, "")
    assert await thread.call(lambda: 5) == 5  # it starts again
    thread.close()


async def test_the_call_of_a_cancelled_caller_is_completed() -> None:
    thread = CallThread("calls", lambda: None)
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()
        done.set()

    first = asyncio.create_task(thread.call(work))
    await asyncio.to_thread(begun.wait)
    never = asyncio.create_task(thread.call(begun.clear))
    await asyncio.sleep(0)
    for task in (first, never):
        task.cancel()
    await asyncio.gather(first, never, return_exceptions=True)
    go_on.set()
    # A later call comes after it; one that was cancelled before it began is not made.
    assert await thread.call(done.is_set)
    assert begun.is_set()
    thread.close()


async def test_an_idle_thread_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_thread, "IDLE_S", 0.001)
    idle = threading.Semaphore(0)
    thread = CallThread("calls", idle.release)
    for _ in range(2):
        await thread.call(lambda: None)
        await asyncio.to_thread(idle.acquire)
    thread.close()


def test_a_loop_that_is_closed_is_no_error() -> None:
    thread, go_on = CallThread("calls", lambda: None), threading.Event()

    async def leave() -> None:
        task = asyncio.create_task(thread.call(go_on.wait))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    running = thread._thread
    assert running is not None
    thread.close()
    go_on.set()
    running.join()


# ---- proofs -----------------------------------------------------------------------------


class Answers:
    """Workers that acknowledge, or do not."""

    def __init__(self) -> None:
        self.tokens = Tokens()
        self.log: list[str] = []
        self.refuse = False
        self.hang = False
        self.fail = False

    async def publish(self, host: str, certificate: bytes, key: bytes) -> None:
        self.log.append(f"publish {host}")
        if self.refuse:
            raise KeyringError("no such curve")
        if self.hang:
            await asyncio.Event().wait()

    async def withdraw(self, host: str) -> None:
        self.log.append(f"withdraw {host}")
        if self.fail:
            raise OSError("gone")


PROOFS = {host: Proof(host, f"token-{host}", "authorization") for host in ("b", "a")}


async def test_proofs_are_shown_while_they_are_needed() -> None:
    answers = Answers()
    shown = Shown(answers)
    async with shown.shown("http-01", PROOFS):
        assert len(answers.tokens) == 2
        assert answers.tokens.find("token-a") == "authorization"
    assert not len(answers.tokens)
    assert not answers.log

    async def fail() -> None:
        async with shown.shown("tls-alpn-01", PROOFS):
            assert answers.log == ["publish a", "publish b"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert answers.log[2:] == ["withdraw b", "withdraw a"]


async def test_a_host_is_proved_once_at_a_time() -> None:
    answers = Answers()
    shown = Shown(answers)
    first, second = asyncio.Event(), asyncio.Event()

    async def attempt(proofs: dict[str, Proof], until: asyncio.Event) -> None:
        async with shown.shown("tls-alpn-01", proofs):
            await until.wait()

    one = asyncio.create_task(attempt(PROOFS, first))
    await asyncio.sleep(0)
    two = asyncio.create_task(attempt(PROOFS, second))
    await asyncio.sleep(0)
    assert len(answers.log) == 2
    first.set()
    await one
    second.set()
    await two
    assert answers.log[2:] == ["withdraw b", "withdraw a", *answers.log[:2], *answers.log[2:4]]


async def test_workers_that_do_not_acknowledge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(challenges, "ACKNOWLEDGED_S", 0.01)
    answers = Answers()
    answers.refuse = True
    with pytest.raises(AcmeError, match="The workers cannot present the certificate that proves a"):
        async with Shown(answers).shown("tls-alpn-01", PROOFS):
            pass
    assert answers.log == ["publish a", "withdraw a"]
    answers = Answers()
    answers.hang = answers.fail = True
    with pytest.raises(AcmeError, match="The workers did not take the certificate that proves a"):
        async with Shown(answers).shown("tls-alpn-01", PROOFS):
            pass
    assert answers.log == ["publish a", "withdraw a"]


def test_the_storage_creates_nothing_by_itself(tmp_path: Path) -> None:
    from fastgate.certificates.acme.storage import Storage

    storage = Storage(tmp_path)
    assert storage.certificate("shop") is None
    assert storage.order("shop") is None
    assert storage.account("a") is None
    assert storage.schedule("shop").failures == 0
    assert not list(tmp_path.iterdir())
