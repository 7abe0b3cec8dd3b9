"""The control API as a server: composed and listening, after the gateway serves.

Importing the API takes far longer than publishing a configuration, so it is done in a thread,
and nothing waits for it. The listening socket is the supervisor's: a new control process
goes on at the same address, and callers wait in its queue meanwhile. When the configuration
moves the API to another address, the old one finishes what it has and closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastgate.errors import FastGateError
from fastgate.runtime.messages import Listener
from fastgate.runtime.publisher import Publisher, control_of
from fastgate.runtime.serving import serve_until

if TYPE_CHECKING:
    from fastgate.identity import Identity
    from fastgate.revisions import Revisions
    from fastgate.runtime.control import Control
    from fastgate.runtime.launch import Launch

log = logging.getLogger("fastgate.control")

STORE_S = 5  # for the store, before the API listens without it


class ApiServer:
    """The control API. `on_revisions` is told of the revisions as soon as they can be made."""

    def __init__(
        self,
        control: Control,
        identity: Identity,
        launch: Launch,
        publisher: Publisher,
        on_revisions: Callable[[Revisions], None],
    ) -> None:
        self._control = control
        self._identity = identity
        self._launch = launch
        self._publisher = publisher
        self._on_revisions = on_revisions
        self._moved = asyncio.Event()
        self._listener: Listener | None = None

    async def run(self) -> None:
        """Compose the API and serve it, until cancelled."""
        app, store = await self._compose()
        self._publisher.on_served.append(self._on_served)
        await store.start()
        # Who asks in the first second wants an answer, not "not yet"; but the API has to listen
        # also while there is no store.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(store.wait_tried(), STORE_S)
        try:
            while True:
                self._moved.clear()
                await self._serve(app)
        finally:
            await store.stop()

    async def _compose(self) -> tuple[Any, Any]:
        module = await asyncio.to_thread(importlib.import_module, "fastgate.api.app")
        from fastgate.api.auth import Tokens
        from fastgate.revisions import Revisions

        store = self._control.open_store(self._control.gateway)
        self._identity.attach(store)
        revisions = Revisions(self._control, store)
        self._on_revisions(revisions)
        tokens = Tokens(self._control, store, self._launch.state)
        try:
            path, new = tokens.ensure_admin_token()
        except OSError as error:
            raise FastGateError(f"the admin token cannot be made: {error}") from error
        if new:
            log.info("made the first admin token: %s", path)
        app = module.create_app(
            self._control,
            store=store,
            identity=self._identity,
            revisions=revisions,
            bearers=tokens,
        )
        return app, store

    async def _serve(self, app: Any) -> None:
        """Serve at the present address until it changes."""
        sock = self._publisher.control_socket()
        assert sock is not None, "the control API starts after the first publish"
        self._listener = control_of(self._control.gateway)
        log.info("control API at %s", self._publisher.address_of(self._listener))
        await serve_until(self._moved, app, sock)

    def _on_served(self) -> None:
        if control_of(self._control.gateway) != self._listener:
            self._moved.set()
