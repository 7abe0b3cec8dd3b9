"""The control API as a server: listens once the gateway serves, and is composed on demand.

Importing the store and the server takes far longer than publishing a configuration. So it is done
in a thread, and no traffic waits for it. Health and metrics are available then; the rest of the API
is imported with the first request for it (`OnDemand`). The listening socket belongs to the
supervisor: a new control process continues at the same address, and until then callers wait in the
socket's queue. If the configuration moves the API to another address, the old server finishes its
requests and closes. With TLS, a new certificate is presented from the next connection on.

If `run` fails at any point, it is called again (`Control._keep`); completed preparations are kept.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Any, Protocol

from fastgate.api.ports import ControlPort
from fastgate.errors import FastGateError
from fastgate.imports import import_late, importing, in_thread
from fastgate.runtime.control.certificates import Certificates
from fastgate.runtime.control.on_demand import OnDemand
from fastgate.runtime.control.publisher import Publisher, control_of
from fastgate.runtime.trim import trim
from fastgate.runtime.wire.messages import Listener

if TYPE_CHECKING:
    from fastgate.config.revisions import Revisions
    from fastgate.identity.identity import Identity
    from fastgate.model.gateway import ControlTls, Gateway
    from fastgate.runtime.launch import Launch
    from fastgate.store.engine import Store

log = logging.getLogger("fastgate.control")


class ApiHost(ControlPort, Protocol):
    """The part of the control process that the server of its API uses."""

    def open_store(self, gateway: Gateway) -> Store:
        """The store, not connected yet; the same for all callers."""

    def use_revisions(self, revisions: Revisions) -> None:
        """Use these revisions for reloads by signal from now on."""


class ApiServer:
    """The control API."""

    def __init__(
        self,
        control: ApiHost,
        identity: Identity,
        launch: Launch,
        publisher: Publisher,
        certificates: Certificates,
    ) -> None:
        self._control = control
        self._identity = identity
        self._launch = launch
        self._publisher = publisher
        self._certificates = certificates
        self.attempted = asyncio.Event()
        """Set when the API is prepared or has failed: slow work may start."""
        self._moved = asyncio.Event()
        self._app: Any = None
        self._serving: tuple[Listener, ControlTls | None] | None = None
        self._context: ssl.SSLContext | None = None  # with TLS, once there is a certificate

    async def run(self) -> None:
        """Prepare the API and serve it, until cancelled."""
        if self._app is None:
            try:
                self._app = await self._prepare()
            finally:
                self.attempted.set()
            self._publisher.on_served.append(self._on_served)
            self._certificates.on_change.append(self._on_certificates)
        store = self._control.open_store(self._control.gateway)
        await store.start()  # it connects in the background
        while True:
            self._moved.clear()
            await self._serve(self._app)

    async def _prepare(self) -> Any:
        """Build the application. The last steps, which connect it to the store, cannot fail."""
        module = await import_late(
            "fastgate.api.probes", "fastgate.store.engine", "fastgate.runtime.control.serving"
        )
        with importing():
            from fastgate.api.auth import Tokens
            from fastgate.config.revisions import Revisions

        store = self._control.open_store(self._control.gateway)
        tokens = Tokens(self._control, store, self._launch.state)
        try:
            path, new = tokens.ensure_admin_token()
        except OSError as error:
            raise FastGateError(f"the admin token cannot be created: {error}") from error
        if new:
            log.info("created the first admin token: %s", path)
        revisions = Revisions(self._control, store)
        self._identity.attach(store)
        store.on_ready.append(lambda: asyncio.to_thread(trim))  # the last step of the start
        self._control.use_revisions(revisions)

        async def compose() -> Any:
            app = await import_late(
                "fastgate.api.app",
                "fastgate.billing.diagnosis.sources",
                "fastgate.runtime.control.dry_runs",
            )
            composed = await in_thread(  # Litestar imports modules here too
                lambda: app.create_app(
                    self._control,
                    store=store,
                    identity=self._identity,
                    revisions=revisions,
                    bearers=tokens,
                )
            )
            await asyncio.to_thread(trim)
            return composed

        return module.Probes(self._control, tokens, OnDemand(compose))

    async def _serve(self, app: Any) -> None:
        """Serve at the current address until it changes."""
        sock = self._publisher.control_socket()
        assert sock is not None, "the control API starts after the first publish"
        serving = await import_late("fastgate.runtime.control.serving")
        self._serving = listener, tls = _place(self._control.gateway)
        self._context = None
        if tls is not None and (await self._with_certificate(tls.certificate)) is None:
            log.warning(
                "the control API waits for its certificate %s, which is not issued yet",
                tls.certificate,
            )
            await self._moved.wait()
            return
        log.info(
            "control API at %s%s",
            *("" if tls is None else "https://", self._publisher.address_of(listener)),
        )
        await serving.serve_until(self._moved, app, sock, self._context)

    async def _with_certificate(self, name: str) -> ssl.SSLContext | None:
        """Make the context for a certificate; None if it is not issued yet."""
        contexts = await import_late("fastgate.certificates.contexts")
        pair = self._certificates.pair(name)
        self._context = None if pair is None else contexts.server_context(pair)
        return self._context

    def _on_served(self) -> None:
        if _place(self._control.gateway) != self._serving:
            self._moved.set()

    def _on_certificates(self) -> None:
        """Present the current certificate from now on; open connections go on."""
        tls = self._control.gateway.control.tls
        pair = None if tls is None else self._certificates.pair(tls.certificate)
        if pair is None:
            return
        if self._context is None:
            self._moved.set()
            return
        with importing():
            from fastgate.certificates.contexts import load_pair

        load_pair(self._context, pair)


def _place(gateway: Gateway) -> tuple[Listener, ControlTls | None]:
    """Where the API is served, and how."""
    return control_of(gateway), gateway.control.tls
