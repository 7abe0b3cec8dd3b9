"""Notices to operators, by signed webhook: a certificate expires or could not be obtained, the keys
of an issuer of tokens could not be fetched for long.

    put ──▶ notices ──▶ a delivery for each webhook that wants the kind ──▶ posted
                               ▲                                            │
                               └──────────── again, after a back-off ◀──────┘ not accepted

They are kept in memory. After a restart, what they are about is found again: the same notice has
the same id then (`FastGate-Id`), by which receivers drop what they have already. The log has each
of them in any case.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from fastgate.imports import import_late, importing
from fastgate.runtime.control.publisher import Publisher

if TYPE_CHECKING:
    from fastgate.billing.notices.outbox import Outgoing
    from fastgate.billing.notices.webhooks import Webhooks
    from fastgate.certificates.acme.events import Failure
    from fastgate.certificates.pairs import Pair
    from fastgate.issuers.service import Failure as KeysFailure
    from fastgate.model.webhook import Webhook

log = logging.getLogger("fastgate.control")

EXPIRING, FAILED = "certificate.expiring", "certificate.failed"
ISSUER_FAILED = "issuer.failed"
ISSUER_S, NO_KEYS_S = 3600.0, 300.0
"""Seconds for which keys could not be fetched until it is announced: while there are some; while
there are none."""
KEPT = 256
"""Notices that a webhook which is configured later still gets."""
TRIES = 12
"""Of a delivery, in half an hour and more."""


class Notice(NamedTuple):
    """`key`: two with the same one are the same notice."""

    kind: str
    key: str
    title: str
    body: str
    data: dict[str, str]
    created: datetime


class _Delivery(NamedTuple):
    outgoing: Outgoing
    due: float


def _now() -> datetime:
    return datetime.now(UTC)


class OperatorNotices:
    """`put` and what calls it may be called at any time; `run` delivers."""

    def __init__(self, publisher: Publisher, clock: Callable[[], datetime] = _now) -> None:
        self._publisher = publisher
        self._clock = clock
        self._notices: dict[str, Notice] = {}
        self._begun: set[tuple[str, str]] = set()  # notice's key, webhook's name
        self._waiting: list[_Delivery] = []
        self._wake = asyncio.Event()
        self._webhooks: list[Webhook] = []
        self._sender: Webhooks | None = None
        publisher.on_served.append(self._wake.set)

    # ---- what is noticed ------------------------------------------------------------------

    def certificate_expiring(self, name: str, pair: Pair, days: int) -> None:
        """days: at most so many are left; below 0: it has expired."""
        ends = datetime.fromtimestamp(pair.not_after, UTC)
        title = f"The certificate {name} expires on {ends:%Y-%m-%d}"
        if days < 0:
            title = f"The certificate {name} expired on {ends:%Y-%m-%d}"
        self.put(
            Notice(
                EXPIRING,
                f"{EXPIRING}:{name}:{pair.not_after}:{days}",
                title,
                f"It is for {', '.join(pair.hosts) or 'no host'}. Replace its files, or see why it "
                "was not renewed: fastgate certificates list.",
                {"certificate": name, "hosts": " ".join(pair.hosts), "expires": ends.isoformat()},
                self._clock(),
            )
        )

    def certificate_failed(self, failure: Failure) -> None:
        """An attempt to obtain a certificate has failed. Not each of many in a row is announced:
        the first, the second, the fourth, and so on."""
        if failure.failures & (failure.failures - 1):
            return
        name, following = failure.name, failure.next_attempt.isoformat(timespec="seconds")
        data = {
            "certificate": name,
            "hosts": " ".join(failure.hosts),
            "error": failure.error,
            "failures": str(failure.failures),
            "next_attempt": following,
        }
        if failure.expires is not None:
            data["expires"] = failure.expires.isoformat(timespec="seconds")
        self.put(
            Notice(
                FAILED,
                f"{FAILED}:{name}:{following}",
                f"The certificate {name} could not be obtained",
                f"{failure.error} The next attempt is at {following}.",
                data,
                self._clock(),
            )
        )

    def issuer_failed(self, failure: KeysFailure) -> None:
        """The keys of an issuer could not be fetched. Announced once, when it has lasted."""
        if failure.at - failure.since < (ISSUER_S if failure.keys else NO_KEYS_S):
            return
        name, since = failure.name, datetime.fromtimestamp(failure.since, UTC)
        said = since.isoformat(timespec="seconds")
        self.put(
            Notice(
                ISSUER_FAILED,
                f"{ISSUER_FAILED}:{name}:{said}",
                f"The keys of the issuer {name} cannot be fetched",
                f"{failure.error}. The {failure.keys} known keys stay in use; tokens with newer "
                "ones are refused."
                if failure.keys
                else f"{failure.error}. No keys are known, so its tokens are refused.",
                {
                    "issuer": name,
                    "error": failure.error,
                    "since": said,
                    "keys": str(failure.keys),
                },
                self._clock(),
            )
        )

    def put(self, notice: Notice) -> None:
        """Deliver it, unless the same one was put before."""
        if notice.key not in self._notices:
            self._notices[notice.key] = notice
            while len(self._notices) > KEPT:
                oldest = next(iter(self._notices))
                del self._notices[oldest]
                self._begun = {each for each in self._begun if each[0] != oldest}
            self._wake.set()

    # ---- delivering -----------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._wake.clear()
                await self._begin()
                for each in [d for d in self._waiting if d.due <= self._time()]:
                    await self._try(each)
                due = min((each.due for each in self._waiting), default=None)
                try:
                    async with asyncio.timeout_at(due):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            if self._sender is not None:
                await self._sender.close()

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()

    async def _begin(self) -> None:
        """A delivery of each notice for each webhook that wants it and had none."""
        gateway = self._publisher.gateway
        webhooks = [] if gateway is None else gateway.observability.webhooks
        if not self._notices or (not webhooks and self._sender is None):
            return
        module: Any = await import_late(
            "fastgate.billing.notices.webhooks", "fastgate.billing.notices.notices"
        )
        with importing():  # at once: it was just imported in a thread
            from fastgate.billing.notices.notices import wants
            from fastgate.billing.notices.outbox import Outgoing

        if webhooks != self._webhooks:
            if self._sender is not None:
                await self._sender.close()
            self._webhooks, self._sender = list(webhooks), module.Webhooks(webhooks, self._clock)
        for notice in list(self._notices.values()):
            for webhook in webhooks:
                begun = (notice.key, webhook.name)
                if begun in self._begun or not wants(webhook.events, notice.kind):
                    continue
                self._begun.add(begun)
                digest = hashlib.sha256("\n".join(begun).encode()).hexdigest()
                outgoing = Outgoing(
                    id=f"op_{digest[:26]}",
                    channel="webhook",
                    target=webhook.name,
                    account="",
                    kind=notice.kind,
                    title=notice.title,
                    body=notice.body,
                    data=notice.data,
                    created=notice.created,
                    attempts=1,
                )
                self._waiting.append(_Delivery(outgoing, 0.0))

    async def _try(self, delivery: _Delivery) -> None:
        """Once. A cancellation leaves it waiting."""
        with importing():
            from fastgate.billing.notices.outbox import DeliveryError, backoff

        assert self._sender is not None
        outgoing, following = delivery.outgoing, None
        try:
            await self._sender.send(outgoing)
        except DeliveryError as error:
            if error.permanent or outgoing.attempts >= TRIES:
                log.error(
                    "The webhook %s did not take the notice '%s': %s It is not sent again.",
                    *(outgoing.target, outgoing.title, error),
                )
            else:
                log.warning(
                    "The webhook %s did not take the notice '%s': %s It is sent again.",
                    *(outgoing.target, outgoing.title, error),
                )
                wait = backoff(outgoing.attempts).total_seconds()
                again = outgoing._replace(attempts=outgoing.attempts + 1)
                following = _Delivery(again, self._time() + wait)
        self._waiting.remove(delivery)
        if following is not None:
            self._waiting.append(following)
