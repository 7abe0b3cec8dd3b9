"""The outbox: once each, in spite of refusals, crashes and rivals; real SMTP, real HTTP."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedulekit import BEGIN, BillingParts, ManualClock, ScriptedSender
from webhookkit import KEY, Receiver

from fastgate.billing.notices.mail import Mailer, compose
from fastgate.billing.notices.notices import Message
from fastgate.billing.notices.outbox import Delivered, DeliveryError, Outbox, Outgoing, backoff
from fastgate.billing.notices.webhooks import Webhooks, payload, sign, verify
from fastgate.errors import ConfigurationError
from fastgate.model.billing import Billing, Smtp
from fastgate.model.codec import decode
from fastgate.model.webhook import Webhook
from fastgate.store.engine import Store

pytest.importorskip("aiosmtpd", reason="install 'aiosmtpd' (dependency group dev)")
from aiosmtpd.smtp import SMTP, Envelope, Session

MAIL: dict[str, Any] = {"smtp": {"host": "mail.example", "sender": "Acme <bill@acme.example>"}}


def low(key: str, account: str) -> Message:
    return Message(
        kind="balance.low",
        account=account,
        key=key,
        data={"balance": "1.00 USD", "threshold": "5.00 USD"},
    )


async def parts_of(
    store: Store, *emails: str, billing: dict[str, Any] | None = None
) -> BillingParts:
    parts = BillingParts(store, billing or MAIL)
    account = await parts.account(emails=list(emails) or ["c@x.example"])
    await parts.notices.put(low("k", account))
    return parts


# ---- the table --------------------------------------------------------------------------


async def test_a_refusal_is_tried_again_ever_later_and_then_given_up(store: Store) -> None:
    parts = await parts_of(store, billing={**MAIL, "notices": {"retries": 4}})
    parts.sender.refusals = [DeliveryError("busy")] * 9
    tried: list[timedelta] = []
    while (due := await parts.schedule.next_at()) is not None:
        parts.clock.now = due
        tried.append(due - BEGIN)
        await parts.outbox.deliver()
    assert tried == [timedelta(seconds=s) for s in (0, 30, 90, 210, 450)]
    assert await parts.outbox.counts() == {"failed": 1}
    parts.sender.refusals = []
    rows = await parts.outbox.deliver()
    assert rows == Delivered(0, 0, 0)


async def test_a_permanent_refusal_ends_it_and_an_operator_may_retry(store: Store) -> None:
    parts = await parts_of(store)
    parts.sender.refusals = [DeliveryError("no such user", permanent=True)]
    assert await parts.outbox.deliver() == Delivered(0, 0, 1)
    parts.clock.pass_(days=2)
    assert await parts.outbox.deliver() == Delivered(0, 0, 0)
    async with store.read() as connection:
        ident = (await connection.exec_driver_sql("SELECT id, error FROM outbox")).one()
    assert ident.error == "no such user"
    assert await parts.outbox.retry(ident.id)
    assert await parts.outbox.deliver() == Delivered(1, 0, 0)
    assert not await parts.outbox.retry(ident.id)


async def test_two_gateways_send_each_notice_once(store: Store) -> None:
    parts = BillingParts(store, MAIL)
    account = await parts.account(emails=[f"m{n}@x.example" for n in range(7)])
    for number in range(5):
        await parts.notices.put(low(f"k{number}", account))
    slow = SlowSender()
    boxes = [Outbox(store, parts.clock, parts.billing, {"mail": slow}) for _ in range(3)]
    done = await asyncio.gather(*(box.deliver(limit=20) for box in boxes for _ in range(2)))
    assert sum(one.sent for one in done) == 35
    assert len(slow.taken) == len({outgoing.id for outgoing in slow.taken}) == 35
    assert await parts.outbox.counts() == {"sent": 35}


class SlowSender(ScriptedSender):
    """Gives others every chance to come between."""

    async def send(self, outgoing: Outgoing) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await super().send(outgoing)


async def test_a_sender_that_was_killed_sends_again_after_its_lease(store: Store) -> None:
    parts = await parts_of(store)
    box = parts.outbox

    async def killed(*given: object) -> None:
        raise KeyboardInterrupt

    note, box._note = box._note, killed  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        await box.deliver()
    box._note = note  # type: ignore[method-assign]
    assert await box.deliver() == Delivered(0, 0, 0)
    parts.clock.pass_(minutes=2)
    assert await box.deliver() == Delivered(1, 0, 0)
    first, second = parts.sender.taken
    assert first.id == second.id  # by which a receiver knows it
    assert payload(first) == payload(second._replace(attempts=9))


async def test_a_way_that_is_no_longer_configured_is_kept_for_later(store: Store) -> None:
    parts = await parts_of(store)
    nothing = Outbox(store, parts.clock, parts.billing, {})
    assert await nothing.deliver() == Delivered(0, 1, 0)
    parts.clock.pass_(minutes=1)
    assert await parts.outbox.deliver() == Delivered(1, 0, 0)


@given(st.integers(1, 10_000))
def test_backoff_grows_to_six_hours(attempts: int) -> None:
    assert timedelta(seconds=30) <= backoff(attempts) <= timedelta(hours=6)
    assert backoff(attempts) <= backoff(attempts + 1)


# ---- mail -------------------------------------------------------------------------------


def outgoing(**more: Any) -> Outgoing:
    values: dict[str, Any] = {
        "id": "out_1",
        "channel": "mail",
        "target": "customer@x.example",
        "account": "acc_1",
        "kind": "payment.failed",
        "title": "Payment of 5.00 € failed",
        "body": "First <b>.\n\nSecond & last.",
        "data": {"amount": "5.00 EUR"},
        "created": BEGIN,
        "attempts": 1,
    }
    return Outgoing(**(values | more))


class Mailbox:
    """What an SMTP server's handler does: takes mail, or answers as told."""

    def __init__(self) -> None:
        self.answer: str | None = None
        self.recipient: str | None = None
        self.taken: list[EmailMessage] = []
        self.talks = 0
        self.over = asyncio.Event()
        self.over.set()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.recipient is not None:
            return self.recipient
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.answer is not None:
            return self.answer
        assert isinstance(envelope.content, bytes)
        parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        self.taken.append(parsed)
        return "250 OK"


@pytest.fixture
async def mailbox() -> AsyncIterator[tuple[Mailbox, Smtp]]:
    """A server on the test's own loop. aiosmtpd's `Controller` has a thread that must be ready in
    time, and leaves its listening socket to the garbage collector when it is not."""
    box = Mailbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Talk(box, loop=loop), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield box, Smtp(host="127.0.0.1", port=port, tls="none", sender="Acme <bill@acme.example>")
    finally:
        server.close()
        await box.over.wait()  # the clients have left, which their conversations are to be told
        await server.wait_closed()


class Talk(SMTP):
    """One client's conversation, of which its mailbox knows until it has ended."""

    event_handler: Mailbox

    def connection_made(self, transport: Any) -> None:
        self.event_handler.talks += 1
        self.event_handler.over.clear()
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.event_handler.talks -= 1
        if not self.event_handler.talks:
            self.event_handler.over.set()
        super().connection_lost(error)


async def test_a_mail_arrives_whole(mailbox: tuple[Mailbox, Smtp]) -> None:
    box, smtp = mailbox
    await Mailer(smtp, "https://api.acme.example/").send(outgoing())
    (mail,) = box.taken
    assert mail["From"] == "Acme <bill@acme.example>"
    assert mail["To"] == "customer@x.example"
    assert mail["Subject"] == "Payment of 5.00 € failed"
    assert mail["Message-ID"] == "<out_1@acme.example>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime == BEGIN
    plain, rich = (mail.get_body((kind,)) for kind in ("plain", "html"))
    assert plain is not None
    assert rich is not None
    link = "https://api.acme.example/_fastgate/account/pay"
    assert plain.get_content().split() == f"First <b>. Second & last. {link}".split()
    assert "First &lt;b&gt;." in rich.get_content()
    assert f'href="{link}"' in rich.get_content()


@pytest.mark.parametrize(
    ("place", "answer", "permanent"),
    [
        ("answer", "554 No", True),
        ("answer", "451 Later", False),
        ("recipient", "550 Unknown", True),
        ("recipient", "450 Busy", False),
    ],
)
async def test_what_a_mail_server_refuses(
    mailbox: tuple[Mailbox, Smtp], place: str, answer: str, permanent: bool
) -> None:
    box, smtp = mailbox
    setattr(box, place, answer)
    with pytest.raises(DeliveryError) as caught:
        await Mailer(smtp).send(outgoing())
    assert caught.value.permanent is permanent
    assert box.taken == []


async def test_a_mail_server_that_is_not_there_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    smtp = Smtp(host="127.0.0.1", port=port, tls="none", sender="bill@acme.example")
    with pytest.raises(DeliveryError) as caught:
        await Mailer(smtp).send(outgoing())
    assert not caught.value.permanent


async def test_clear_text_is_not_used_where_encryption_is_asked_for(
    mailbox: tuple[Mailbox, Smtp],
) -> None:
    box, smtp = mailbox
    with pytest.raises(DeliveryError) as caught:
        await Mailer(decode({"host": smtp.host, "port": smtp.port, "sender": "a@b"}, Smtp)).send(
            outgoing()
        )
    assert not caught.value.permanent
    assert box.taken == []


def test_no_header_can_be_slipped_in() -> None:
    mail = compose(outgoing(title="Hello\r\nBcc: spy@x.example"), "a@b.example", None)
    assert mail["Bcc"] is None
    assert mail["Subject"] == "Hello Bcc: spy@x.example"
    with pytest.raises((ValueError, IndexError)):
        compose(outgoing(target="a@b\r\nBcc: spy@x.example"), "a@b.example", None)


async def test_the_whole_way_by_mail(store: Store, mailbox: tuple[Mailbox, Smtp]) -> None:
    box, smtp = mailbox
    parts = await parts_of(store, "one@x.example", "two@x.example")
    senders = {"mail": Mailer(smtp)}
    real = Outbox(store, parts.clock, parts.billing, senders)
    box.answer = "451 Later"
    assert await real.deliver() == Delivered(0, 2, 0)
    box.answer = None
    parts.clock.pass_(seconds=30)
    assert await real.deliver() == Delivered(2, 0, 0)
    assert sorted(mail["To"] for mail in box.taken) == ["one@x.example", "two@x.example"]
    assert len({mail["Message-ID"] for mail in box.taken}) == 2


# ---- webhooks ---------------------------------------------------------------------------


@asynccontextmanager
async def webhooks(url: str, **more: Any) -> AsyncIterator[Webhooks]:
    hook = decode({"name": "shop", "url": url, "secret": "env:HOOK_SECRET", **more}, Webhook)
    sender = Webhooks([hook], ManualClock())
    try:
        yield sender
    finally:
        await sender.close()


async def test_a_webhook_arrives_signed(receiver: Receiver) -> None:
    async with webhooks(receiver.url) as sender:
        await sender.send(outgoing(target="shop"))
    ((headers, body),) = receiver.got
    assert headers["FastGate-Id"] == "out_1"
    assert headers["Content-Type"] == "application/json"
    now = int(BEGIN.timestamp())
    assert verify([KEY], headers["FastGate-Signature"], body, now)
    assert json.loads(body) == {
        "id": "out_1",
        "type": "payment.failed",
        "created": "2026-11-01T10:00:00Z",
        "account": "acc_1",
        "title": "Payment of 5.00 € failed",
        "body": "First <b>.\n\nSecond & last.",
        "data": {"amount": "5.00 EUR"},
    }


@pytest.mark.parametrize(
    ("status", "permanent"), [(500, False), (404, False), (301, False), (429, False), (410, True)]
)
async def test_what_a_receiver_refuses(receiver: Receiver, status: int, permanent: bool) -> None:
    receiver.statuses = [status]
    async with webhooks(receiver.url) as sender:
        with pytest.raises(DeliveryError, match=str(status)) as caught:
            await sender.send(outgoing(target="shop"))
    assert caught.value.permanent is permanent
    assert len(receiver.got) == 1  # a redirect is not followed


async def test_a_receiver_that_hangs_is_left(receiver: Receiver) -> None:
    receiver.hang.clear()
    async with webhooks(receiver.url, timeout="50ms") as sender:
        with pytest.raises(DeliveryError) as caught:
            await sender.send(outgoing(target="shop"))
    assert not caught.value.permanent


async def test_a_webhook_that_cannot_be_sent(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with webhooks(receiver.url) as sender:
        with pytest.raises(DeliveryError, match="no webhook 'gone'") as caught:
            await sender.send(outgoing(target="gone"))
        assert caught.value.permanent
        monkeypatch.delenv("HOOK_SECRET")
        with pytest.raises(DeliveryError, match="HOOK_SECRET") as caught:
            await sender.send(outgoing(target="shop"))
        assert not caught.value.permanent
    assert receiver.got == []


async def test_the_whole_way_by_webhook(store: Store, receiver: Receiver) -> None:
    hook = {"name": "shop", "url": receiver.url, "secret": "env:HOOK_SECRET"}
    parts = BillingParts(store, {"webhooks": [hook]})
    await parts.notices.put(low("k", "acc_1"))
    receiver.statuses = [500]
    sender = Webhooks(parts.billing.webhooks, parts.clock)
    box = Outbox(store, parts.clock, parts.billing, {"webhook": sender})
    assert await box.deliver() == Delivered(0, 1, 0)
    parts.clock.pass_(minutes=1)
    assert await box.deliver() == Delivered(1, 0, 0)
    await sender.close()
    (first, second) = receiver.got
    assert first[1] == second[1]
    assert first[0]["FastGate-Id"] == second[0]["FastGate-Id"]
    assert first[0]["FastGate-Signature"] != second[0]["FastGate-Signature"]


@given(
    st.binary(max_size=50),
    st.integers(0, 2**33),
    st.integers(-600, 600),
    st.sampled_from(["same", "other"]),
)
def test_a_signature_holds_for_its_body_secret_and_five_minutes(
    body: bytes, at: int, late: int, who: str
) -> None:
    header = sign("same", at, body)
    holds = who == "same" and abs(late) <= 300
    assert verify([who], header, body, at + late) is holds
    assert verify(["x", who], f"{header},v1={'0' * 64}", body, at + late) is holds
    assert not verify([who], header, body + b"x", at)
    assert not verify([who], header.replace("t=", "t=1"), body, at)


@pytest.mark.parametrize("header", ["", "t=1", "v1=00", "t=x,v1=y", "t=1,t=1,v1=" + "0" * 64])
def test_what_is_no_signature(header: str) -> None:
    assert not verify([KEY], header, b"", 1)


def test_what_is_sent_to_whom_is_configured() -> None:
    change: Callable[..., Billing] = lambda **more: decode(more, Billing)  # noqa: E731
    for bad in (
        {"smtp": {"host": "h", "sender": "a@b", "user": "u"}},
        {"smtp": {"host": "h", "sender": "a@b", "user": "u", "password": "env:P", "tls": "none"}},
        {"smtp": {"host": "h", "sender": "a@b\nBcc: c@d"}},
        {"webhooks": [{"name": "a", "url": "ftp://x", "secret": "env:S"}]},
        {"webhooks": [{"name": "a", "url": "http://x", "secret": "clear"}]},
        {"webhooks": [{"name": "a", "url": "http://x", "secret": "env:S"}] * 2},
    ):
        with pytest.raises(ConfigurationError, match=r"smtp|webhooks"):
            change(**bad)
