"""create_app: the control API as an ASGI application.

    Exceptions ─▶ problems        authentication ─▶ idempotency ─▶ handler

The application owns nothing: the control process starts and stops the store, and calls
`Tokens.ensure_admin_token`. Import this module late: it costs half a second and 15 MiB besides
SQLAlchemy.
"""

from __future__ import annotations

from typing import Any

from litestar import Litestar
from litestar.di import Provide

from fastgate.api import (
    certificates,
    config,
    credentials,
    diagnosis,
    docs,
    exceptions,
    health,
    invoices,
    issuers,
    ledger,
    maintenance,
    operation,
    options,
    parties,
    payments,
    reports,
    resources,
    revocations,
    spending,
    subscriptions,
    tokens,
    wallets,
)
from fastgate.api.application import Application
from fastgate.api.auth import Tokens, authentication
from fastgate.api.context import Context
from fastgate.api.idempotent import idempotency
from fastgate.api.ports import ControlPort
from fastgate.config.revisions import Revisions
from fastgate.identity.identity import Identity
from fastgate.store.engine import Store
from fastgate.store.idempotency import IdempotencyKeys

BODY_CAP = 64 << 20
"""Bytes of a request's body; a document of 100,000 routes has about 20 MB."""


def all_handlers() -> list[Any]:
    """Every handler, each declaring what it takes and gives (`describe.spec`)."""
    found: list[Any] = [
        *health.HANDLERS,
        *config.HANDLERS,
        *resources.HANDLERS,
        *maintenance.HANDLERS,
        *parties.HANDLERS,
        *credentials.HANDLERS,
        *tokens.HANDLERS,
        *revocations.HANDLERS,
        *operation.HANDLERS,
        *certificates.HANDLERS,
        *issuers.HANDLERS,
        *wallets.HANDLERS,
        *ledger.HANDLERS,
        *subscriptions.HANDLERS,
        *invoices.HANDLERS,
        *payments.HANDLERS,
        *spending.HANDLERS,
        *reports.HANDLERS,
        *diagnosis.HANDLERS,
        *docs.handlers(),
    ]
    return [*options.options(found), *found]  # the first: Litestar would make its own


def create_app(
    control: ControlPort,
    *,
    store: Store,
    identity: Identity,
    revisions: Revisions,
    bearers: Tokens,
) -> Litestar:
    """The application. Everything it is given must live on the event loop that serves it."""
    context = Context(
        control=control, store=store, identity=identity, revisions=revisions, tokens=bearers
    )

    def provide() -> Context:
        return context

    return Application(
        route_handlers=all_handlers(),
        dependencies={"ctx": Provide(provide, sync_to_thread=False)},
        middleware=[
            authentication(bearers, control),
            idempotency(IdempotencyKeys(store), BODY_CAP),
        ],
        exception_handlers={Exception: exceptions.answer},
        request_max_body_size=BODY_CAP,
    )
