"""Revisions: applies, records, compares and undoes changes of the configuration.

```
 API, file, rollback ──▶ edit(current) ──▶ check ──▶ control.apply ──▶ revision in the store
                            one at a time             every worker serves it
```

- Changes run one at a time. Each is an edit of the configuration that is served at that time, so
  two callers that each change one route both succeed. `If-Match` is checked during the change.
- **Recording.** A change through the API needs the store; if the store is unavailable, the change
  is refused before it has any effect. A change of the file does not need it: a gateway must be able
  to reload while its database is down. Revisions that could not be recorded are kept and recorded
  later. If a crash loses them, the served document is still recorded later, because it is compared
  with the newest revision.
- A change without any difference creates no revision.
- **A document does not contain** `store` (it may have a password, and is read only at start). Keys
  and tokens are digests in it. A rollback restores everything except `control.tokens`: an old
  revision must not restore a revoked token.

The digest is the SHA-256 of the canonical JSON of that document; it is also the ETag of the
configuration.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from fastgate.config.diff import Change, diff_data, overridden
from fastgate.errors import ApplyError, ConfigurationError, ConflictError, StoreError
from fastgate.imports import importing
from fastgate.model import check, codec
from fastgate.model.gateway import Gateway
from fastgate.serial import Serial

if TYPE_CHECKING:
    from fastgate.store.engine import Store
    from fastgate.store.history import History, Revision, Source
    from fastgate.store.pages import Page

Edit = Callable[[Gateway], Gateway]

log = logging.getLogger("fastgate.revisions")

KEEP = 1000
"""The number of revisions that are kept; older ones are deleted."""


class Applier(Protocol):
    """The interface to the control process: see `fastgate.api.ports.ControlPort`."""

    @property
    def gateway(self) -> Gateway: ...

    @property
    def generation(self) -> int: ...

    async def apply(self, gateway: Gateway, *, dry_run: bool = False) -> int: ...

    async def load_file(self) -> Gateway: ...

    @property
    def file_before(self) -> Gateway | None: ...

    def pending_restart(self, gateway: Gateway) -> list[str]: ...


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a change."""

    generation: int
    """The generation that all workers serve; for a dry run, the one that it would have been."""
    digest: str
    """The digest of the current configuration."""
    revision: int | None = None
    """The revision that was created; None if nothing changed, for a dry run, and if it is not
    recorded yet."""
    changes: list[Change] = []
    dropped: list[Change] = []
    """Changes made through the API that a later change of the file undoes or replaces."""
    pending_restart: list[str] = []
    """Settings that take effect only after a restart, such as `workers`."""
    dry_run: bool = False


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of two revisions."""

    before: int
    after: int
    changes: list[Change]
    text: str
    """The unified diff of their YAML."""


class NeedsAdminError(ConflictError):
    """The change affects `control.tokens` or `store`, which only an admin may change."""


class _Pending(msgspec.Struct, frozen=True):
    """A revision that waits for the store."""

    document: bytes
    digest: str
    author: str
    source: Source
    note: str
    created: datetime


def document_of(gateway: Gateway) -> dict[str, Any]:
    """The canonical plain data of a configuration, in the form of revisions."""
    data: dict[str, Any] = codec.encode(gateway)
    data.pop("store", None)
    return data


def canonical(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document, order="deterministic")


def digest_of(gateway: Gateway) -> str:
    """64 hex digits: equal for configurations with the same meaning."""
    global _last_digest
    known, digest = _last_digest
    if known is not gateway:  # cached: a large document takes a second
        digest = hashlib.sha256(canonical(document_of(gateway))).hexdigest()
        _last_digest = (gateway, digest)
    return digest


_last_digest: tuple[Gateway | None, str] = (None, "")


def yaml_of(document: dict[str, Any]) -> str:
    """A document as YAML, in the form that people write."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100))


def _prepare(
    before: Gateway, edit: Edit, *, checked: bool
) -> tuple[Gateway, list[Change], bytes, str]:
    """The edited configuration, its changes, its document and its digest."""
    gateway = edit(before)
    if checked:
        check.require(gateway)
    old, new = document_of(before), document_of(gateway)
    packed = canonical(new)
    return gateway, diff_data(old, new), packed, hashlib.sha256(packed).hexdigest()


DROPPED = "the file has changed; it undoes changes made through the API: %s"


def is_same(before: Gateway | None, now: Gateway) -> bool:
    """Whether the file has the same content as when it was last applied."""
    return before is not None and codec.digest(before) == codec.digest(now)


def dropped_by(base: Gateway, served: Gateway, wanted: Gateway) -> list[Change]:
    """The changes since the file was applied (`base`) that the current file undoes."""
    return overridden(document_of(base), document_of(served), document_of(wanted))


def say_dropped(base: Gateway, served: Gateway, wanted: Gateway) -> None:
    """Log them."""
    if dropped := dropped_by(base, served, wanted):
        log.warning(DROPPED, _paths(dropped))


def _paths(changes: list[Change]) -> str:
    more = f" and {len(changes) - 10} more" if len(changes) > 10 else ""
    return ", ".join(change.path for change in changes[:10]) + more


async def _served(gateway: Gateway) -> _Pending:
    """The configuration that is served at the start, as a revision."""
    # In a thread, so that the API continues: 100,000 routes take half a second.
    packed = await asyncio.to_thread(lambda: canonical(document_of(gateway)))
    digest = hashlib.sha256(packed).hexdigest()
    return _Pending(packed, digest, "gateway", "file", "at start", datetime.now(UTC))


class Revisions:
    """Makes all changes of the configuration. Used on one event loop."""

    def __init__(self, control: Applier, store: Store, *, keep: int = KEEP) -> None:
        with importing():
            from fastgate.store.history import History

        self._control = control
        self._store = store
        self._history: History = History(store)
        self._keep = keep
        self.on_change: list[Callable[[Source, bool], None]] = []
        """Called after each attempted change: its source, and whether it was applied."""
        self._changes = Serial()
        self._pending: list[_Pending] = []
        self._start: _Pending | None = None  # before a change that came too early
        self._caught_up = False  # once; later, what is served is always recorded or waiting
        store.on_ready.append(self.catch_up)

    # ---- changing -----------------------------------------------------------------------

    async def change(
        self,
        edit: Edit,
        *,
        author: str,
        source: Source = "api",
        note: str = "",
        dry_run: bool = False,
        as_admin: bool = False,
    ) -> Applied:
        """Apply `edit(current)`; returns when every worker serves it.

        `edit` runs in a thread when it is the change's turn; its errors are raised here. Raises
        ConfigurationError and ApplyError (the old configuration stays), StoreError if it cannot be
        recorded (nothing was changed), NeedsAdminError.
        """

        async def change() -> Applied:
            if source != "file":  # first the store must be available and have all earlier revisions
                await (self._history.newest() if self._caught_up else self._catch_up())
            before = self._control.gateway
            # In a thread, since documents may have 100,000 routes.
            work = await asyncio.to_thread(_prepare, before, edit, checked=source != "file")
            gateway, changes, packed, digest = work
            dropped: list[Change] = []
            said = note
            if source == "file" and gateway is not before and self._control.file_before:
                base = self._control.file_before
                dropped = await asyncio.to_thread(dropped_by, base, before, gateway)
                if dropped:
                    said = f"{note} undoes {_paths(dropped)}".strip()
            if (
                source != "file"
                and not as_admin
                and (gateway.control.tokens, gateway.store) != (before.control.tokens, before.store)
            ):
                raise NeedsAdminError("Changing control.tokens or store needs the role admin.")
            if not changes and gateway.store == before.store and source != "file":
                return Applied(
                    generation=self._control.generation,
                    digest=digest,
                    pending_restart=self._control.pending_restart(gateway),
                    dry_run=dry_run,
                )
            if not self._caught_up and self._start is None and not dry_run:
                self._start = await _served(before)
            generation = await self._control.apply(gateway, dry_run=dry_run)
            if dropped and not dry_run:
                log.warning(DROPPED, _paths(dropped))
            number = None
            if changes and not dry_run:
                self._pending.append(
                    _Pending(packed, digest, author, source, said, datetime.now(UTC))
                )
                number = await self._try_to_record()
            return Applied(
                generation=generation,
                digest=digest,
                revision=number,
                changes=changes,
                dropped=dropped,
                pending_restart=self._control.pending_restart(gateway),
                dry_run=dry_run,
            )

        try:
            applied = await self._changes.run(change)
        except (ConfigurationError, ApplyError):
            self._report(source, False, dry_run)
            raise
        self._report(source, True, dry_run)
        return applied

    def _report(self, source: Source, applied: bool, dry_run: bool) -> None:
        if not dry_run:
            for callback in self.on_change:
                callback(source, applied)

    async def reload(self, *, author: str, dry_run: bool = False) -> Applied:
        """Read the file again. If it has changed, it is applied and overrides changes made through
        the API; otherwise the served configuration stays. In both cases names are resolved and
        handlers looked up again. Raises ConfigurationError, ApplyError."""
        try:
            gateway = await self._control.load_file()
        except ConfigurationError:
            self._report("file", False, dry_run)
            raise

        def edit(current: Gateway) -> Gateway:
            return current if is_same(self._control.file_before, gateway) else gateway

        return await self.change(edit, author=author, source="file", dry_run=dry_run)

    async def rollback(self, number: int, *, author: str, dry_run: bool = False) -> Applied:
        """Apply an old revision as a new one. Raises NotFoundError, and the errors of `change`."""
        _, document = await self.get(number)
        old = codec.decode(document, Gateway)

        def edit(current: Gateway) -> Gateway:
            control = msgspec.structs.replace(old.control, tokens=current.control.tokens)
            return msgspec.structs.replace(old, store=current.store, control=control)

        return await self.change(
            edit,
            author=author,
            source="rollback",
            note=f"rollback to revision {number}",
            dry_run=dry_run,
        )

    # ---- recording ----------------------------------------------------------------------

    async def _try_to_record(self) -> int | None:
        """Record waiting revisions. Returns the last number; None if the store is unavailable."""
        try:
            return await (self._record() if self._caught_up else self._catch_up())
        except StoreError as error:
            log.warning(
                "The revision is served; it will be recorded when the store is back: %s", error
            )
            return None

    async def _record(self) -> int | None:
        number = None
        while self._pending:
            waits = self._pending[0]
            revision = await self._history.add(
                waits.document,
                digest=waits.digest,
                author=waits.author,
                source=waits.source,
                note=waits.note,
                created=waits.created,
                keep=self._keep,
            )
            self._pending.pop(0)
            number = revision.number
        return number

    async def catch_up(self) -> None:
        """Record waiting revisions, and the served one if it is not recorded. Raises StoreError."""
        await self._changes.run(self._catch_up)

    async def _catch_up(self) -> int | None:
        """Record them; returns the number of the last one, if there was one."""
        if self._start is not None:
            newest = await self._history.newest()
            if newest is None or newest.digest != self._start.digest:
                self._pending.insert(0, self._start)
            self._start = None
        number = await self._record()
        served = await _served(self._control.gateway)
        newest = await self._history.newest()
        if newest is None or newest.digest != served.digest:
            self._pending.append(served)
            number = await self._record()
        self._caught_up = True
        return number

    # ---- reading ------------------------------------------------------------------------

    async def page(self, *, cursor: str | None, limit: int) -> Page[Revision]:
        """Newest first. Raises StoreError, BadCursor."""
        return await self._history.page(cursor=cursor, limit=limit)

    async def newest(self) -> Revision | None:
        return await self._history.newest()

    async def get(self, number: int) -> tuple[Revision, dict[str, Any]]:
        """A revision and its document. Raises NotFoundError, StoreError."""
        revision, packed = await self._history.get(number)
        return revision, msgspec.json.decode(packed)

    async def difference(self, before: int, after: int) -> Difference:
        """The differences between two revisions.

        Revision 0 is the empty document. Raises NotFoundError, StoreError.
        """
        old = (await self.get(before))[1] if before else {}
        new = (await self.get(after))[1] if after else {}
        left, right = (codec.redact(document) for document in (old, new))
        lines = difflib.unified_diff(
            yaml_of(left).splitlines(keepends=True) if left else [],
            yaml_of(right).splitlines(keepends=True) if right else [],
            f"revision {before}",
            f"revision {after}",
        )
        return Difference(
            before=before, after=after, changes=diff_data(old, new), text="".join(lines)
        )
