"""Keeps the certificates of the configuration, each with a task of its own (`keeper`).

It needs the state directory, a place to show proofs, and two calls for what changes. A reload
disturbs only the certificates whose settings have changed. Files of a name that is not configured
any more stay, and nothing is done with them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastgate.certificates.acme.clock import Clock, SystemClock
from fastgate.certificates.acme.events import Events, Row
from fastgate.certificates.acme.problems import AcmeError, Result
from fastgate.certificates.acme.settings import AcmeSettings, Authority, Wanted, fault_of
from fastgate.certificates.acme.storage import Storage
from fastgate.errors import NotFoundError
from fastgate.imports import import_late
from fastgate.serial import Serial, serialized
from fastgate.tasks import keep_running

if TYPE_CHECKING:
    from fastgate.certificates.acme.challenges import Answers
    from fastgate.certificates.acme.client import Client
    from fastgate.certificates.acme.common import Common
    from fastgate.certificates.acme.keeper import Keeper
    from fastgate.certificates.pairs import Pair

log = logging.getLogger("fastgate.acme")

AT_ONCE = 4
"""Attempts at the same time."""
RESULTS: tuple[Result, ...] = ("issued", "refused", "limited", "failed")


class _Kept(NamedTuple):
    keeper: Keeper
    task: asyncio.Task[None]


class _Fault(NamedTuple):
    """A certificate that cannot be ordered."""

    wanted: Wanted
    challenge: str
    why: str


class AcmeService:
    """The certificates of one configuration after another. Used on one event loop."""

    def __init__(
        self, state: Path, answers: Answers, events: Events, clock: Clock | None = None
    ) -> None:
        """`state`: the state directory. Nothing is imported or created before `reload` is given a
        certificate to keep."""
        self.changes = Serial()
        self.orders: Counter[Result] = Counter(dict.fromkeys(RESULTS, 0))
        """Attempts, by result, for `fastgate_acme_orders_total`."""
        self._storage = Storage(state)
        self._answers = answers
        self._events = events
        self._clock = SystemClock() if clock is None else clock
        self._kept: dict[str, _Kept] = {}
        self._faults: dict[str, _Fault] = {}
        self._clients: dict[Authority, Client] = {}
        self._modules: tuple[Any, Any] | None = None  # keeper and client, once they are needed
        self._common: Common | None = None

    # ---- life -------------------------------------------------------------------------------

    @serialized
    async def reload(self, settings: AcmeSettings) -> None:
        """Keep these certificates from now on; the first time, this starts the service. When it
        returns, `pair` knows what is on disk. A certificate that cannot be kept is reported by
        `status` and the log. Raises AcmeError if none can: because packages are missing, or the
        state directory cannot be used."""
        wanted = {each.name: each for each in settings.certificates}
        self._faults = {}
        for each in settings.certificates:
            if (why := fault_of(each, settings)) is not None:
                del wanted[each.name]
                self._refuse(each, settings.authorities.get(each.authority), f"{why}.")
        await self._end(
            [
                name
                for name, (keeper, _) in self._kept.items()
                if wanted.get(name) != keeper.wanted
                or settings.authorities.get(keeper.wanted.authority) != keeper.authority
            ]
        )
        if wanted:
            await self._prepare()
        for name, each in wanted.items():
            if name not in self._kept:
                self._begin(each, settings.authorities[each.authority])
        in_use = {keeper.authority for keeper, _ in self._kept.values()}
        for authority in self._clients.keys() - in_use:
            self._clients.pop(authority).close()

    @serialized
    async def stop(self) -> None:
        """Keep nothing. An order in progress is continued when the service starts again."""
        await self._end(list(self._kept))
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    async def _prepare(self) -> None:
        if self._modules is not None:
            return
        try:
            keeper = await import_late("fastgate.certificates.acme.keeper")
            client = await import_late("fastgate.certificates.acme.client")
            common = await import_late("fastgate.certificates.acme.common")
        except ImportError as error:
            raise AcmeError(
                f"Certificates from ACME authorities need packages that are not installed "
                f"({error}). Install them with: pip install 'fastgate[acme]'."
            ) from error
        self._storage.prepare()
        self._common = common.Common(
            self._storage,
            common.Shown(self._answers),
            self._events,
            self._clock,
            asyncio.Semaphore(AT_ONCE),
            self.orders,
        )
        self._modules = keeper, client

    def _refuse(self, wanted: Wanted, authority: Authority | None, why: str) -> None:
        self._faults[wanted.name] = _Fault(wanted, authority.challenge if authority else "", why)
        log.error("The certificate %s is not kept: %s", wanted.name, why)

    def _begin(self, wanted: Wanted, authority: Authority) -> None:
        assert self._modules is not None
        try:
            keeper = self._modules[0].Keeper(wanted, self._client_of(authority), self._common)
        except AcmeError as error:
            self._refuse(wanted, authority, str(error))
            return
        work = keep_running(f"the keeper of the certificate {wanted.name}", keeper.run, log)
        self._kept[wanted.name] = _Kept(keeper, asyncio.create_task(work))

    def _client_of(self, authority: Authority) -> Client:
        assert self._modules is not None
        found = self._clients.get(authority)
        if found is None:
            ca = None
            if authority.ca is not None:
                ca = self._storage.write_ca(authority.account_id, authority.ca)
            found = self._clients[authority] = self._modules[1].Client(authority, ca)
        return found

    async def _end(self, names: list[str]) -> None:
        ended = [self._kept.pop(name) for name in names]
        for _, task in ended:
            task.cancel()
        await asyncio.gather(*(task for _, task in ended), return_exceptions=True)
        for keeper, _ in ended:
            keeper.end()

    # ---- questions --------------------------------------------------------------------------

    def pair(self, name: str) -> Pair | None:
        """The certificate with this name that is on disk, with its key, for the workers; None:
        there is none yet. It may have expired."""
        kept = self._kept.get(name)
        return None if kept is None else kept.keeper.pair

    async def renew(self, name: str, *, wait: bool = False) -> None:
        """Order a new certificate now, even if the last attempt failed a moment ago. `wait`: until
        it is there. Raises NotFoundError for a name that is not configured; AcmeError if it cannot
        be ordered and, with `wait`, if the attempt fails."""
        kept, fault = self._kept.get(name), self._faults.get(name)
        if fault is not None:
            raise AcmeError(f"The certificate {name} cannot be ordered: {fault.why}")
        if kept is None:
            raise NotFoundError(f"There is no certificate {name!r} from an ACME authority.")
        done = kept.keeper.order_now()
        if wait:
            await asyncio.shield(done)

    def status(self) -> list[Row]:
        """The state of all certificates, by name."""
        rows = [keeper.row() for keeper, _ in self._kept.values()]
        for wanted, challenge, why in self._faults.values():
            rows.append(
                Row(
                    name=wanted.name,
                    hosts=list(wanted.hosts),
                    authority=wanted.authority,
                    challenge=challenge,
                    state="refused",
                    error=why,
                )
            )
        return sorted(rows, key=lambda row: row.name)
