"""The gateway's own pages as a server: `fastgate.portal.app` on the socket that workers forward to,
and the answers to challenges of ACME authorities.

They are composed at the first request (`OnDemand`). The socket belongs to the supervisor, so
requests wait in its queue while control is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgate.billing.capability import KEY_BYTES, Capabilities, load_key
from fastgate.config.public_route import PublicSide
from fastgate.errors import ProcessError
from fastgate.imports import import_late, importing, in_thread
from fastgate.runtime.control.acme import Acme
from fastgate.runtime.control.on_demand import OnDemand
from fastgate.runtime.control.publisher import Publisher
from fastgate.sockaddr import UNIX_PATH_MOST

if TYPE_CHECKING:
    from fastgate.api.ports import ControlPort
    from fastgate.billing.self_service import SelfService

log = logging.getLogger("fastgate.control")

SOCKET = "public.sock"


def public_side(state: Path) -> PublicSide | None:
    """The socket and key of the pages; None, with a log message, if they cannot be served."""
    path = str(state / SOCKET)
    if len(path.encode()) > UNIX_PATH_MOST:
        log.warning("The path %s is too long for a socket; refusals have no links to pages.", path)
        return None
    try:
        return PublicSide(path, load_key(state))
    except ProcessError as error:
        log.error("%s; refusals have no links to pages", error)
        return None


def gateway_key(state: Path) -> bytes:
    """The gateway's secret key. If it cannot be kept, this process has one of its own."""
    try:
        return load_key(state)
    except ProcessError as error:
        log.error("%s; sticky cookies will change with the next start", error)
        return secrets.token_bytes(KEY_BYTES)


class Pages:
    """Serves the pages while the configuration has them."""

    def __init__(
        self,
        control: ControlPort,
        publisher: Publisher,
        public: PublicSide,
        acme: Acme,
        after: asyncio.Event,
    ) -> None:
        """`after`: the pages are served once this is set."""
        self._control = control
        self._publisher = publisher
        self._public = public
        self._acme = acme
        self._after = after
        self._changed = asyncio.Event()
        self._serving: socket.socket | None = None
        self._pages = OnDemand(self._compose)
        self._app = OnDemand(self._with_challenges)

    async def run(self) -> None:
        """Until cancelled."""
        await self._after.wait()
        if self._look not in self._publisher.on_served:
            self._publisher.on_served.append(self._look)
        while True:
            self._changed.clear()
            self._serving = self._publisher.public_socket()
            if self._serving is None:
                await self._changed.wait()
            else:
                serving = await import_late("fastgate.runtime.control.serving")
                await serving.serve_until(self._changed, self._app, self._serving)

    async def _compose(self) -> Any:
        module = await import_late(
            "fastgate.portal.app",
            "fastgate.billing.diagnosis.sources",
            "fastgate.runtime.control.dry_runs",
        )
        control = self._control
        public = module.Public(
            capabilities=Capabilities(self._public.key),
            evidence=control.evidence,
            service=self._service,
            receive=self._receive,
            request=control.request,
            gateway=lambda: control.gateway,
            clock=lambda: datetime.now(UTC),
        )
        return await in_thread(lambda: module.create_public_app(public))  # Litestar imports, too

    async def _with_challenges(self) -> Any:
        module = await import_late("fastgate.portal.challenges")
        return module.WithChallenges(self._acme.key_authorization, self._pages)

    def _look(self) -> None:
        if self._publisher.public_socket() is not self._serving:
            self._changed.set()

    def _service(self) -> SelfService | None:
        """Self-service; created for each request, since billing may have changed."""
        billing = self._control.billing
        if billing is None:
            return None
        with importing():
            from fastgate.billing.self_service import SelfService

        control = self._control
        return SelfService(
            wallets=billing.wallets,
            subscriptions=billing.subscriptions,
            invoices=billing.invoices,
            dunning=billing.dunning,
            providers=billing.providers,
            gateway=lambda: control.gateway,
            open_account=billing.open_account,
            clock=billing.subscriptions.clock,
        )

    async def _receive(self, provider: str, headers: Mapping[str, str], body: bytes) -> Any:
        """Store an event from a payment provider. Raises like `Inbox.receive`."""
        with importing():
            from fastgate.billing.payments.base import ProviderRefused

        billing = self._control.billing
        if billing is None:
            raise ProviderRefused("Nothing costs money at this gateway.")
        return await billing.inbox.receive(provider, headers, body)
