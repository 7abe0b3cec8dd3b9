"""One attempt to obtain a certificate: from the directory to the file on disk.

    begin     ─▶ directory, account; continue the order on disk, or place one
    prove     ─▶ show the proofs, ask the authority to look, wait until it has
    finalize  ─▶ send the request, wait until the certificate is issued
    collect   ─▶ download, check, store; then the order is over

`begin` and `collect` run completely in the client's thread: what the authority answers is on disk
before anything else can happen. An order that ended without a certificate is dropped; one that was
interrupted, by a network fault or the end of the process, stays, and the next attempt continues it;
if that is refused, it places another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from acme import challenges, messages
from josepy.json_util import field

from fastgate.certificates.acme import keys
from fastgate.certificates.acme.account import Account
from fastgate.certificates.acme.challenges import proof_of
from fastgate.certificates.acme.client import Client
from fastgate.certificates.acme.common import Common
from fastgate.certificates.acme.problems import AcmeError, RateLimited, Refused
from fastgate.certificates.acme.settings import Wanted
from fastgate.certificates.acme.storage import Metadata, OrderRecord, Stored
from fastgate.certificates.pairs import read_pair
from fastgate.certificates.sources import Content

log = logging.getLogger("fastgate.acme")

PROVE_S, ISSUE_S = 300.0, 600.0
"""How long to wait for the authority in one attempt."""
FIRST_POLL_S, LONGEST_POLL_S, MOST_RETRY_AFTER_S = 0.25, 10.0, 60.0
OLDEST = timedelta(hours=24)
"""An order that is not finished by then is given up; authorities keep them for about a week."""

_NOT_ABOUT_REPLACES = {
    "",  # the authority gave no answer
    "accountDoesNotExist",
    "externalAccountRequired",
    "rateLimited",
    "rejectedIdentifier",
    "unsupportedIdentifier",
    "userActionRequired",
}


class NewOrder(messages.NewOrder):
    """An order, with the certificate that it replaces (RFC 9773, 5)."""

    replaces: str | None = field("replaces", omitempty=True)


class _Order(NamedTuple):
    record: OrderRecord
    body: messages.Order
    continued: bool = False
    """Whether it was placed by an earlier attempt."""


class _Authorization(NamedTuple):
    url: str
    body: messages.Authorization
    retry_after: float | None

    @property
    def host(self) -> str:
        return str(self.body.identifier.value)


class Attempt:
    """One attempt. `run` once."""

    def __init__(self, wanted: Wanted, client: Client, common: Common) -> None:
        self._wanted = wanted
        self._client = client
        self._storage = common.storage
        self._shown = common.shown
        self._now = common.clock.now
        self._kind = client.authority.challenge
        self._account = Account(client, common.storage)
        self._hosts = ", ".join(wanted.hosts[:3]) + (", …" if len(wanted.hosts) > 3 else "")

    async def run(self, replaces: str | None) -> None:
        """Obtain the certificate and store it. `replaces`: the renewal id of the one that it
        replaces. Raises AcmeError."""
        order = await self._client.call(partial(self._begin, replaces))
        try:
            await self._complete(order)
        except RateLimited:
            raise
        except Refused as error:
            if not order.continued:
                raise
            # The authority may have looked at its proofs while there were none.
            log.info("%s It was interrupted, and another order is placed.", error)
            await self._complete(await self._client.call(partial(self._placed, replaces)))

    async def _complete(self, order: _Order) -> None:
        """From an order to the certificate on disk."""
        try:
            if order.body.status == messages.STATUS_PENDING:
                await self._prove(order)
            order = await self._finalize(order)
            await self._client.call(partial(self._collect, order))
        except RateLimited:
            raise
        except Refused:
            self._storage.drop_order(self._wanted.name)
            raise

    # ---- begin ------------------------------------------------------------------------------

    def _begin(self, replaces: str | None) -> _Order:
        self._client.connect()
        self._account.open()
        try:
            return self._continued() or self._placed(replaces)
        except Refused as error:
            if error.code != "accountDoesNotExist":
                raise
            log.warning(
                "%s does not know our account any more; registering it again", self._client.name
            )
        self._account.forget()
        self._account.open()
        return self._placed(replaces)

    def _continued(self) -> _Order | None:
        """The order on disk, if it can still become the certificate that is wanted."""
        record = self._storage.order(self._wanted.name)
        if record is None:
            return None
        if (
            (record.directory, record.account)
            == (self._client.authority.directory, self._account.url)
            and set(record.hosts) == set(self._wanted.hosts)
            and self._now() - record.placed < OLDEST
        ):
            try:
                body, _ = self._look_up(record.url)
            except RateLimited:
                raise
            except Refused as error:
                log.info("The order of %s cannot be continued: %s", self._wanted.name, error)
            else:
                if body.status != messages.STATUS_INVALID:
                    return _Order(record, body, continued=True)
        self._storage.drop_order(self._wanted.name)
        return None

    def _look_up(self, url: str) -> tuple[messages.Order, float | None]:
        response = self._client.post(url, "refused to show an order")
        body = self._client.read(_order_of, response)
        return body, self._client.retry_after(response)

    def _placed(self, replaces: str | None) -> _Order:
        if "renewalInfo" not in self._client.directory:
            replaces = None
        if replaces is not None:
            try:
                return self._place(replaces)
            except AcmeError as error:
                if error.code in _NOT_ABOUT_REPLACES:
                    raise
                log.info("%s; ordering without naming the certificate that it replaces", error)
        return self._place(None)

    def _place(self, replaces: str | None) -> _Order:
        client, hosts = self._client, self._wanted.hosts
        key = keys.new_key()
        identifiers = [
            messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=host) for host in hosts
        ]
        response = client.post(
            client.directory["newOrder"],
            f"refused the order for {self._hosts}",
            NewOrder(identifiers=identifiers, replaces=replaces),
        )
        url = response.headers.get("Location", "")
        body = client.read(_order_of, response)
        if not url.startswith("https://"):
            raise AcmeError(f"{client.name} accepted the order but gave no address for it.")
        record = OrderRecord(
            directory=client.authority.directory,
            account=self._account.url,
            url=url,
            hosts=list(hosts),
            key=key,
            placed=self._now(),
        )
        self._storage.write_order(self._wanted.name, record)
        return _Order(record, body)

    # ---- prove ------------------------------------------------------------------------------

    async def _prove(self, order: _Order) -> None:
        """Prove every host that the authority wants to be proved."""
        found = [
            await self._client.call(partial(self._authorization, url))
            for url in order.body.authorizations
        ]
        pending = [each for each in found if not self._is_proved(each)]
        offers = {each.host: self._challenge_of(each) for each in pending}
        proofs = {
            host: proof_of(host, offer.chall, self._account.key) for host, offer in offers.items()
        }
        async with self._shown.shown(self._kind, proofs):
            for host, offer in offers.items():
                await self._client.call(partial(self._answer, host, offer))
            deadline = _loop_time() + PROVE_S
            for each in pending:
                await self._until_proved(each, deadline)

    def _authorization(self, url: str) -> _Authorization:
        response = self._client.post(url, f"refused to say how to prove {self._hosts}")
        body = self._client.read(_authorization_of, response)
        return _Authorization(url, body, self._client.retry_after(response))

    def _is_proved(self, found: _Authorization) -> bool:
        """Whether the host is proved already. Raises Refused if it cannot be proved any more."""
        if found.body.status == messages.STATUS_VALID:
            return True
        if found.body.status != messages.STATUS_PENDING:
            raise self._failed(found)
        return False

    def _challenge_of(self, found: _Authorization) -> messages.ChallengeBody:
        offered = [_type_of(each) for each in found.body.challenges]
        if self._kind not in offered:
            raise Refused(
                f"{self._client.name} does not accept {self._kind} as proof of {found.host}, only "
                f"{' or '.join(sorted(filter(None, offered))) or 'nothing'}. Choose another "
                "`challenge`, or use a certificate from files."
            )
        return found.body.challenges[offered.index(self._kind)]

    def _answer(self, host: str, offer: messages.ChallengeBody) -> None:
        """Ask the authority to look, unless it does already."""
        if offer.status == messages.STATUS_PENDING:
            response = offer.chall.response(self._account.key)
            self._client.post(offer.uri, f"refused to verify {host}", response)

    async def _until_proved(self, found: _Authorization, deadline: float) -> None:
        for wait in _waits():
            found = await self._client.call(partial(self._authorization, found.url))
            if self._is_proved(found):
                return
            await self._pause(found.retry_after, wait, deadline, f"has not verified {found.host}")

    def _failed(self, found: _Authorization) -> AcmeError:
        doing = f"could not verify {found.host} by {self._kind}"
        for each in found.body.challenges:
            if each.error is not None:
                return self._client.refused(doing, each.error, self._kind)
        return Refused(f"{self._client.name} {doing}: it is {found.body.status.name}.")

    # ---- finalize ---------------------------------------------------------------------------

    async def _finalize(self, order: _Order) -> _Order:
        """Request the certificate, and wait until it is there."""
        deadline, client = _loop_time() + ISSUE_S, self._client
        missing = f"has not issued the certificate of {self._hosts}"
        for wait in _waits():
            body, after = await client.call(partial(self._look_up, order.record.url))
            if body.status == messages.STATUS_READY:
                body, after = await client.call(partial(self._request, order, body))
            if body.status == messages.STATUS_VALID:
                return _Order(order.record, body)
            if body.status == messages.STATUS_INVALID:
                raise self._not_issued(body)
            await self._pause(after, wait, deadline, missing)
        raise AssertionError  # `_pause` raises

    def _request(self, order: _Order, body: messages.Order) -> tuple[messages.Order, float | None]:
        csr = keys.request(order.record.key, order.record.hosts)
        request = messages.CertificateRequest(csr=csr)
        doing = f"refused the request for the certificate of {self._hosts}"
        try:
            response = self._client.post(body.finalize, doing, request)
        except Refused as error:
            if error.code != "orderNotReady":
                raise
            return body, error.retry_after
        found = self._client.read(_order_of, response)
        return found, self._client.retry_after(response)

    def _not_issued(self, body: messages.Order) -> AcmeError:
        doing = f"did not issue the certificate of {self._hosts}"
        if body.error is not None:
            return self._client.refused(doing, body.error)
        return Refused(f"{self._client.name} {doing} and gave no reason.")

    # ---- collect ----------------------------------------------------------------------------

    def _collect(self, order: _Order) -> None:
        client, record = self._client, order.record
        if not order.body.certificate:
            raise Refused(f"{client.name} issued the certificate but gave no address for it.")
        response = client.post(order.body.certificate, "refused to give the certificate")
        chain = response.text.strip() + "\n"
        pem = f"{record.key}{chain}"
        try:
            pair = read_pair(Content("it", pem.encode()), None)
        except ValueError as error:
            raise Refused(f"What {client.name} issued cannot be used: {error}.") from error
        if not all(map(pair.covers, record.hosts)):
            raise Refused(f"What {client.name} issued cannot be used: it is for other hosts.")
        metadata = Metadata(
            directory=record.directory,
            account=record.account,
            order=record.url,
            hosts=record.hosts,
            obtained=self._now(),
        )
        self._storage.write_certificate(self._wanted.name, Stored(metadata, pem))
        self._storage.drop_order(self._wanted.name)

    # ---- waiting ----------------------------------------------------------------------------

    async def _pause(
        self, retry_after: float | None, wait: float, deadline: float, what: str
    ) -> None:
        """Wait before the next look, as long as the authority asks for. Raises AcmeError at the
        deadline."""
        if retry_after is not None:
            wait = min(max(retry_after, FIRST_POLL_S), MOST_RETRY_AFTER_S)
        if _loop_time() + wait > deadline:
            raise AcmeError(f"{self._client.name} {what} yet. The next attempt continues.")
        await asyncio.sleep(wait)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _waits() -> Iterator[float]:
    """Seconds between looks."""
    wait = FIRST_POLL_S
    while True:
        yield wait
        wait = min(wait * 2, LONGEST_POLL_S)


def _order_of(found: Any) -> messages.Order:
    """An order that has what is used of it. Raises ValueError or josepy's errors."""
    order: messages.Order = messages.Order.from_json(found)
    if None in (order.status, order.authorizations, order.finalize):
        raise ValueError
    return order


def _authorization_of(found: Any) -> messages.Authorization:
    """The same for an authorization."""
    authorization: messages.Authorization = messages.Authorization.from_json(found)
    if None in (authorization.status, authorization.identifier, authorization.challenges):
        raise ValueError
    return authorization


def _type_of(offer: messages.ChallengeBody) -> str:
    challenge = offer.chall
    if isinstance(challenge, challenges.UnrecognizedChallenge):
        return str(challenge.jobj.get("type", ""))
    return str(challenge.typ)
