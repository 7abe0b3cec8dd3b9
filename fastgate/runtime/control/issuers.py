"""Issuers of tokens in the control process: their keys, fetched and brought to the workers.

    configuration ─▶ source ──entries──▶ keyring (`keyrings.py`) ─▶ workers
                       │ ▲
             files ────┘ └── service: asks the issuers, keeps the last good keys on disk

A gateway without issuers imports nothing of it (`joserfc`, `httpx`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgate._core.shared.counters import token_counts
from fastgate._core.shared.segment import Segment
from fastgate.api.ports import IssuerKeyStatus, IssuerStatus
from fastgate.errors import ApplyError, KeyringError, NotFoundError
from fastgate.imports import import_late
from fastgate.issuers.rows import OTHERS
from fastgate.observability.families import Family, Sample
from fastgate.observability.metrics import escape
from fastgate.runtime.control.certificates import Certificates
from fastgate.runtime.control.publisher import Publisher

if TYPE_CHECKING:
    from fastgate.issuers.discovery import Found
    from fastgate.issuers.service import Failure, IssuerService, Row
    from fastgate.issuers.source import IssuerSource
    from fastgate.model.gateway import Issuer

log = logging.getLogger("fastgate.issuers")

AGE = Family(
    "fastgate_jwks_age_seconds",
    "gauge",
    "Seconds since the keys of an issuer were last fetched; no sample before the first time.",
)
FETCHES = Family(
    "fastgate_jwks_fetches_total",
    "counter",
    "Fetches of the keys of an issuer, by result. `held_back`: an unknown key that came too soon "
    "after another one.",
)
TOKENS = Family(
    "fastgate_tokens_total",
    "counter",
    "Tokens of callers, by issuer and result: `known` and `verified` ones are good; `refused`, "
    "`revoked`. Without an issuer: tokens that name none of the configuration.",
)
ISSUER_FAMILIES = (AGE, FETCHES, TOKENS)
_RESULTS = ("known", "verified", "refused", "revoked")
"""In the order of TokenResult."""


class Issuers:
    """The issuers of the served configuration."""

    def __init__(
        self, state: Path, segment: Segment, certificates: Certificates, publisher: Publisher
    ) -> None:
        self.on_failed: Callable[[Failure], None] = lambda failure: None
        """Called with each fetch that failed."""
        self._state = state
        self._segment = segment
        self._certificates = certificates
        self._publisher = publisher
        self._source: IssuerSource | None = None
        self._discovery: Any = None  # the module
        self._there = asyncio.Event()
        certificates.issuers = self.source

    async def source(self) -> IssuerSource:
        """All issuers, for the keyring; made on use."""
        if self._source is None:
            module = await import_late("fastgate.issuers.source")
            self._discovery = await import_late("fastgate.issuers.discovery")
            service = await import_late("fastgate.issuers.service")
            storage = await import_late("fastgate.issuers.storage")
            made: IssuerService = service.IssuerService(storage.Storage(self._state), self._ask)
            made.on_keys = self._bring
            made.on_failed = lambda failure: self.on_failed(failure)
            self._source = module.IssuerSource(made)
            self._there.set()
        return self._source

    async def run(self) -> None:
        """Until cancelled."""
        await self._there.wait()
        assert self._source is not None
        await self._source.service.run()

    async def _ask(self, issuer: Issuer, now: float) -> Found:
        found: Found = await self._discovery.ask(
            issuer, lambda: self._certificates.authority_context(issuer.authority), now
        )
        return found

    async def _bring(self) -> None:
        """Bring keys that have changed to the workers."""
        try:
            await self._certificates.look()
        except (KeyringError, ApplyError) as error:
            log.error("the keys of issuers cannot be used by the workers: %s", error)

    async def question(self, issuer: int, kid: str) -> bool:
        """See `IssuerService.question`."""
        return self._source is not None and await self._source.service.question(issuer, kid)

    async def refresh(self, name: str) -> None:
        """Fetch the keys of an issuer now. Raises NotFoundError; FastGateError if that fails."""
        if self._source is None:
            raise NotFoundError(f"There is no issuer {name!r} whose keys are fetched.")
        await self._source.service.refresh(name)

    # ---- reports -------------------------------------------------------------------------

    def status(self) -> list[IssuerStatus]:
        """The issuers of the configuration, in its order."""
        gateway, source = self._publisher.gateway, self._source
        if gateway is None or source is None:
            return []
        rows = source.service.rows()
        return [
            _fetched(issuer, rows[issuer.name]) if issuer.name in rows else _read(issuer, source)
            for issuer in gateway.issuers
        ]

    def samples(self) -> Iterator[Sample]:
        """Metrics, as they are now."""
        if self._source is None:
            return
        service = self._source.service
        for name, age in service.ages().items():
            yield Sample(AGE, f'issuer="{escape(name)}"', round(age))
        for name, counts in service.counts().items():
            for result, count in counts.items():
                yield Sample(FETCHES, f'issuer="{escape(name)}",result="{result}"', count)
        names = {**self._source.rows.names(), OTHERS: "(others)"}
        for row, numbers in enumerate(token_counts(self._segment)):
            labels = f'issuer="{escape(names.get(row, ""))}"'
            for result, count in zip(_RESULTS, numbers, strict=True):
                if count:
                    yield Sample(TOKENS, f'{labels},result="{result}"', count)


def _fetched(issuer: Issuer, row: Row) -> IssuerStatus:
    """An issuer whose keys are fetched."""
    return IssuerStatus(
        name=issuer.name,
        issuer=issuer.issuer,
        source="discovery" if issuer.discovers else str(issuer.jwks_uri),
        state="missing" if not row.keys else "stale" if row.failures else "ok",
        keys=[
            IssuerKeyStatus(
                kid=key.kid, kind=key.kind, algorithms=list(key.algorithms), since=int(since)
            )
            for key, since in zip(row.keys, row.since, strict=True)
        ],
        jwks_uri=row.jwks_uri or None,
        introspection=_endpoint(issuer, row.introspection),
        fetched=int(row.fetched) or None,
        next_fetch=int(row.due) or None,
        failures=row.failures,
        problem=row.error or None,
        notes=list(row.notes),
    )


def _read(issuer: Issuer, source: IssuerSource) -> IssuerStatus:
    """An issuer whose keys are in a file or variable, or that shares a secret."""
    loaded = source.loaded[issuer.name]
    keys = [
        IssuerKeyStatus(kid=key.kid, kind=key.kind, algorithms=list(key.algorithms))
        for key in loaded.keys
    ]
    if issuer.secret is not None and loaded.secret:
        keys = [IssuerKeyStatus(kid="", kind="secret", algorithms=issuer.accepted)]
    state = "missing" if not keys else "stale" if loaded.problem else "ok"
    return IssuerStatus(
        name=issuer.name,
        issuer=issuer.issuer,
        source=str(issuer.keys or issuer.secret),
        state=state,
        keys=keys,
        introspection=_endpoint(issuer, ""),
        problem=None if loaded.problem is None else str(loaded.problem),
        notes=list(loaded.remarks),
    )


def _endpoint(issuer: Issuer, discovered: str) -> str | None:
    if issuer.introspection is None:
        return None
    return issuer.introspection.endpoint_url or discovered or None
