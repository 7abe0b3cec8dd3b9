"""Publishing: brings a configuration to all workers, or fails without any change.

::

    check plans ─ resolve names ─ compile, read certificates ─ bind addresses ─ prepare workers
        │             │               │                   │                    │
        └─────────────┴───────────────┴─── ConfigurationError: nothing was changed
                                                                               │
          hand over to the supervisor ─ commit ─ every worker serves it ─ generation advances

One apply at a time; a second one waits for the first. Slot numbers are assigned in a copy of the
book, so a configuration that is refused uses none.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot
from fastgate.config.compiler import CompiledImage, compile_gateway
from fastgate.config.public_route import PublicSide, wanted
from fastgate.config.slots import SlotBook
from fastgate.errors import ApplyError, ConfigurationError
from fastgate.identity.identity import Identity
from fastgate.model.gateway import Gateway, Upstream
from fastgate.model.resolve_auth import all_upstreams
from fastgate.runtime.control.certificates import Certificates
from fastgate.runtime.control.descriptions import Descriptions
from fastgate.runtime.control.health import PROXY_HEADERS, Check, HealthChecks, ask
from fastgate.runtime.control.resolver import Resolver
from fastgate.runtime.control.supervisor_channel import SupervisorChannel
from fastgate.runtime.control.target_rows import claim_rows, targets_of
from fastgate.runtime.control.worker_channels import Image, WorkerChannels
from fastgate.runtime.persist import StateDirectory
from fastgate.runtime.supervisor.listeners import BindError
from fastgate.runtime.wire.messages import PRIVATE, Listener, Published
from fastgate.sockaddr import unpack_sockaddr

if TYPE_CHECKING:
    from fastgate.runtime.control.keyrings import NewKeyring

log = logging.getLogger("fastgate.control")

_PRIVATE = {"control": "control.bind", "pages": "billing.public"}  # for errors of a listener

CONTROL = "control"  # the name of the control API's listener
PUBLIC = "pages"  # and of that of the gateway's own pages
PATIENCE_S = 5.0  # for names that are new in an apply


File = tuple[Gateway, str]
"""The configuration file: its content and digest."""


class _Compiled(NamedTuple):
    """What is made of a configuration. The descriptors are closed by who made it."""

    image: CompiledImage
    slots: SlotBook
    ring: NewKeyring | None
    """None: the workers keep the keyring that they have."""


class Publisher:
    """The current configuration; publishes new ones."""

    def __init__(
        self,
        segment: Segment,
        workers: WorkerChannels,
        supervisor: SupervisorChannel,
        resolver: Resolver,
        identity: Identity,
        *,
        slots: SlotBook,
        certificates: Certificates,
        key: bytes,
        descriptions: Descriptions,
        bound: Sequence[tuple[Listener, list[socket.socket], str]] = (),
        public: PublicSide | None = None,
    ) -> None:
        """key: the gateway's. bound: the existing listeners, with their sockets and addresses.
        public: the socket and key of our own pages."""
        self._segment = segment
        self._workers = workers
        self._supervisor = supervisor
        self._resolver = resolver
        self._identity = identity
        self._slots = slots
        self._last = 0
        self._sockets = {listener.key: sockets for listener, sockets, _ in bound}
        self._addresses = {listener.key: address for listener, _, address in bound}
        self._public = public
        self._certificates = certificates
        self._key = key
        self._descriptions = descriptions
        self._bound = {listener.key: listener for listener, _, _ in bound}
        self.started: Gateway | None = None  # start-only settings
        self.health = HealthChecks(partial(ask, contexts=certificates))
        self.gateway: Gateway | None = None
        self.snapshot: Snapshot | None = None
        self.generation = 0  # that every worker serves or will serve
        self.file: Gateway | None = None  # the file's, when it was last applied
        self.file_digest = ""  # of that
        self.checks: list[Callable[[Gateway], None]] = []  # raise ConfigurationError
        self.before_served: list[Callable[[], None]] = []
        """Called after the point of no return and before any worker serves it: other data that
        workers use must match the snapshot from its first request on."""
        self.on_served: list[Callable[[], None]] = []

    @property
    def slots(self) -> SlotBook:
        """The slot numbers in use."""
        return self._slots

    def address_of(self, listener: Listener) -> str:
        """A listener's address as bound (with the actual port instead of 0)."""
        return self._addresses.get(listener.key, listener.bind)

    def control_socket(self) -> socket.socket | None:
        """The control API's listening socket, as configured now."""
        if self.gateway is None:
            return None
        sockets = self._sockets.get(control_of(self.gateway).key)
        return sockets[0] if sockets else None

    def public_socket(self) -> socket.socket | None:
        """The listening socket of the gateway's own pages; None while they are off."""
        if self.gateway is None or self._public is None:
            return None
        sockets = self._sockets.get(_public_listener(self._public).key)
        return sockets[0] if sockets else None

    def stop_accepting(self) -> None:
        """Close the clients' listening sockets; the control API's stays."""
        self._drop([key for key in self._sockets if not key.startswith(PRIVATE)])

    def use_generations_above(self, generation: int) -> None:
        """Earlier processes have used numbers up to this one."""
        self._last = max(self._last, generation)

    async def apply(
        self,
        gateway: Gateway,
        *,
        file: File | None = None,
        dry_run: bool = False,
        patience: float = PATIENCE_S,
    ) -> int:
        """See `fastgate.api.ports.ControlPort.apply`.

        file: the file that it is from, including files with later changes. patience: seconds for
        name servers.
        """
        async with self._certificates.lock:
            try:
                return await self._apply(gateway, file, dry_run, patience)
            finally:
                self._resolver.configure((self.gateway or gateway).dns)

    async def republish(self) -> None:
        """Publish the served configuration again, with the current addresses."""
        async with self._certificates.lock:
            if self.gateway is not None:
                await self._apply(self.gateway, None, False, 0.0, again=True)

    async def _apply(
        self,
        gateway: Gateway,
        file: File | None,
        dry_run: bool,
        patience: float,
        again: bool = False,
    ) -> int:
        """again: only addresses have changed, and workers keep their keyring."""
        if self._segment.draining:
            raise ApplyError("the gateway is draining and accepts no new configuration")
        generation = self._last + 1
        self._identity.check_plans(gateway)
        for check in self.checks:
            check(gateway)
        self._resolver.configure(gateway.dns)
        await self._resolver.add(names_of(gateway), patience)
        descriptions = await self._descriptions.prepare(gateway, again=again)
        slots = self._slots.copy()
        image = await asyncio.to_thread(
            compile_gateway,
            gateway,
            generation=generation,
            slots=slots,
            addresses=self._resolver.addresses(),
            public=self._public,
            key=self._key,
            descriptions=descriptions,
        )
        ring: NewKeyring | None = None
        try:
            if not again:
                ring = await self._certificates.prepare(gateway)
            if dry_run:
                return generation
            self._last = generation
            await self._bring(gateway, file, _Compiled(image, slots, ring))
        finally:
            os.close(image.fd)
            if ring is not None:
                os.close(ring.sealed.fd)
        if pending := self.pending_restart(gateway):
            log.warning("%s: takes effect at the next start", ", ".join(pending))
        for name, why in self._resolver.unresolved().items():
            log.warning("target %s has no address yet: %s", name, why)
        for warning in (*image.warnings, *(ring.warnings if ring is not None else ())):
            log.warning("%s", warning)
        return generation

    def pending_restart(self, gateway: Gateway) -> list[str]:
        """The settings of a configuration that take effect only after a restart."""
        started = self.started or gateway
        pending = [
            name
            for name, before, now in (
                ("workers", started.workers, gateway.workers),
                ("memory", started.memory, gateway.memory),
                ("store", started.store, gateway.store),
                (
                    "observability.recent",
                    started.observability.recent,
                    gateway.observability.recent,
                ),
            )
            if before != now
        ]
        for listener in listeners_of(gateway):
            bound = self._bound.get(listener.key, listener)
            if bound.backlog != listener.backlog:
                pending.append(f"listeners[{listener.name}].backlog")
            if bound.mode != listener.mode and listener.bind.startswith("unix:/"):
                pending.append(f"listeners[{listener.name}].permissions")
        return pending

    async def _bring(self, gateway: Gateway, file: File | None, made: _Compiled) -> None:
        listeners = listeners_of(gateway)
        private = [control_of(gateway)]
        if (public := wanted(gateway, self._public)) is not None:
            private.append(_public_listener(public))
        new = await self._bind_new([*listeners, *private])
        snapshot = Snapshot(made.image.fd)
        sealed = None if made.ring is None else made.ring.sealed
        kept = False

        async def keep() -> None:
            nonlocal kept
            kept = True
            if file is not None:
                self.file, self.file_digest = file
            self._take_over(gateway, snapshot, made, [*listeners, *private])

        sockets = {listener.key: self._sockets[listener.key] for listener in listeners}
        try:
            copy = None if sealed is None else sealed._replace(fd=os.dup(sealed.fd))
            image = Image(snapshot.generation, os.dup(made.image.fd), listeners, sockets, copy)
            await self._workers.install(image, keep)
        except ConfigurationError as error:
            _place_handlers(error, gateway)
            raise
        finally:
            if not kept:
                self._drop(new)
                self._supervisor.release(new)
            else:
                self._segment.generation = snapshot.generation
                self._resolver.keep_only(names_of(gateway))
                self.health.update(self._checks(gateway, snapshot))
                for callback in self.on_served:
                    callback()

    def _take_over(
        self, gateway: Gateway, snapshot: Snapshot, made: _Compiled, listeners: list[Listener]
    ) -> None:
        """All workers are ready: this is the point of no return."""
        self._slots = made.slots
        self.gateway = gateway
        claim_rows(self._segment, snapshot, before=self.snapshot)
        self.snapshot = snapshot
        self.generation = snapshot.generation
        self._identity.configure(gateway, made.slots.plans)
        self._descriptions.keep()
        if made.ring is not None:
            self._certificates.keep(made.ring)
        for callback in self.before_served:
            callback()
        binds = [listener.key for listener in listeners]
        self._supervisor.send(
            Published(
                generation=snapshot.generation,
                binds=binds,
                drain_s=gateway.drain_timeout.seconds,
                keyring=0 if made.ring is None else made.ring.sealed.serial,
            ),
            (snapshot.fd,) if made.ring is None else (snapshot.fd, made.ring.sealed.fd),
        )
        self._drop([bind for bind in self._sockets if bind not in binds])

    async def _bind_new(self, listeners: list[Listener]) -> list[str]:
        """Bind the new addresses, all or none. Raises ConfigurationError."""
        new: list[str] = []
        seen: dict[str, str] = {}
        try:
            for i, listener in enumerate(listeners):
                path = _PRIVATE.get(listener.name if listener.private else "", "")
                path = path or f"listeners[{i}].bind"
                if other := seen.get(listener.key.removeprefix(PRIVATE)):
                    raise ConfigurationError(
                        f"{listener.bind} is already the address of {other}", path=path
                    )
                seen[listener.key.removeprefix(PRIVATE)] = listener.name
                if listener.key in self._sockets:
                    continue
                try:
                    sockets, address = await self._supervisor.bind(listener)
                except BindError as error:
                    raise ConfigurationError(error.message, path=path, hint=error.hint) from error
                self._sockets[listener.key] = sockets
                self._addresses[listener.key] = address
                self._bound[listener.key] = listener
                new.append(listener.key)
        except BaseException:
            self._drop(new)
            self._supervisor.release(new)
            raise
        return new

    def _drop(self, binds: Iterable[str]) -> None:
        for bind in list(binds):
            for sock in self._sockets.pop(bind, []):
                sock.close()
            self._addresses.pop(bind, None)
            self._bound.pop(bind, None)

    # ---- targets -------------------------------------------------------------------------

    def _checks(self, gateway: Gateway, snapshot: Snapshot) -> list[tuple[int, Check, Any]]:
        """The configured active checks."""
        upstreams = {upstream.name: upstream for upstream in all_upstreams(gateway)}
        checks = []
        for target in targets_of(snapshot):
            upstream = upstreams.get(target["upstream_name"])
            where = unpack_sockaddr(target["sockaddr"])
            if upstream is None or where is None or target["slot"] >= self._segment.targets:
                continue
            check = check_of(upstream, target, *where)
            if check is not None:
                row = self._segment.target_row(target["slot"])
                checks.append((target["identity"], check, row))
        return checks


def read_slots(state: StateDirectory) -> SlotBook:
    """The slot numbers of the last publish; none if there is no file, or it is damaged."""
    content = state.read("slots.json")
    if content is None:
        return SlotBook()
    try:
        return msgspec.json.decode(content, type=SlotBook)
    except msgspec.DecodeError as error:
        kept = state.set_aside("slots.json")
        log.error("slots.json cannot be used (%s; kept as %s)", error, kept)
        return SlotBook()


def listeners_of(gateway: Gateway) -> list[Listener]:
    """The listeners of a configuration, in the form for the supervisor."""
    return [
        Listener(
            name=listener.name,
            bind=str(listener.bind),
            mode=listener.permissions,
            backlog=listener.backlog,
        )
        for listener in gateway.listeners
    ]


def control_of(gateway: Gateway) -> Listener:
    """The control API's listener."""
    return Listener(name=CONTROL, bind=str(gateway.control.bind), private=True)


def _public_listener(public: PublicSide) -> Listener:
    """The listener of the gateway's own pages, which workers forward to."""
    return Listener(name=PUBLIC, bind=f"unix:{public.socket}", mode=0o600, private=True)


def names_of(gateway: Gateway) -> list[tuple[str, int]]:
    """The host names of targets, each with its port; with the port 0, those of SRV records."""
    return [
        (target.url.host, target.url.port)
        for upstream in all_upstreams(gateway)
        for target in upstream.targets
        if not target.url.is_ip
    ]


def check_of(upstream: Upstream, target: dict[str, Any], family: int, address: Any) -> Check | None:
    """The active check of a target; None if its upstream has none."""
    health = upstream.health
    if health is None:
        return None
    name = target["name"].decode()
    url = next(each.url for each in upstream.targets if str(each.url) == name)
    profile = upstream.profile
    if health.port is not None:
        address = (address[0], health.port, *address[2:])
    return Check(
        name=f"{upstream.name}: {name}",
        family=family,
        address=address,
        host=health.host_for(upstream.host, url),
        headers=tuple(health.headers.items()),
        path=health.path,
        interval=health.interval.seconds,
        timeout=health.timeout.seconds,
        unhealthy_after=health.unhealthy_after,
        healthy_after=health.healthy_after,
        expect=tuple(health.expect),
        tls=profile,
        server_name="" if profile is None else profile.name or url.server_name,
        # Another port belongs to another server, which expects nothing before a request.
        proxy_header=PROXY_HEADERS[None if health.port else upstream.proxy_protocol],
    )


def _place_handlers(error: ConfigurationError, gateway: Gateway) -> None:
    """The place of a handler in the document: workers report handlers only by name."""
    places = {
        f"handler {route.handler}": f"routes[{index}].handler"
        for index, route in reversed(list(enumerate(gateway.routes)))
        if route.handler is not None
    }
    for one in error:
        one.path = places.get(one.path, one.path)
