"""The control process: everything that is not a request. Composition root and `ControlPort`.

It publishes first: it reads and compiles the configuration and sends it to the workers. Only then
does it import the store and the server of its API, which takes longer than all the rest. So a
gateway serves well within a second after its start and does not wait for a database. Except for
health and metrics, the API is imported with the first request for it.

::

    read ─ compile ─ publish ─▶ serving        then: health checks, names, quotas, access log
                                    └─▶ import and open the store, listen

It may die at any time. The workers continue with the configuration that they have. The next control
process gets the segment (counters, quotas, health), the ends of the workers' channels and the
sockets, and publishes a generation above all earlier ones.

**Which configuration?** The file's, unless the file is unchanged since it was last read: then the
one last served, so that changes made through the API survive a restart. A changed file overrides.
An invalid file stops a first start with an error; a successor, and a reload, keep serving the last
configuration.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import uvloop

from fastgate import settings
from fastgate._core.money.money_map import MoneyMap
from fastgate._core.shared.credentials import CredentialIndex
from fastgate._core.shared.segment import Segment
from fastgate.api.ports import (
    CertificateStatus,
    IssuerStatus,
    LimitUse,
    Readiness,
    RouteUse,
    WorkerStatus,
)
from fastgate.config.revisions import is_same, say_dropped
from fastgate.errors import ConfigurationError, FastGateError, OwnedError
from fastgate.identity.identity import Identity
from fastgate.identity.overrides import rows
from fastgate.imports import import_late, importing
from fastgate.model import codec
from fastgate.model.gateway import Gateway
from fastgate.runtime.control import view
from fastgate.runtime.control.acme import Acme
from fastgate.runtime.control.api_server import ApiServer
from fastgate.runtime.control.certificates import Certificates
from fastgate.runtime.control.descriptions import Descriptions
from fastgate.runtime.control.evidence import EvidenceOf
from fastgate.runtime.control.issuers import Issuers
from fastgate.runtime.control.names import Names
from fastgate.runtime.control.operator_notices import OperatorNotices
from fastgate.runtime.control.pages import Pages, gateway_key, public_side
from fastgate.runtime.control.publisher import (
    File,
    Publisher,
    control_of,
    listeners_of,
    read_slots,
)
from fastgate.runtime.control.questions import Questions
from fastgate.runtime.control.quotas import QuotaSaver
from fastgate.runtime.control.status_metrics import ReloadMetrics, TargetMetrics
from fastgate.runtime.control.subjects import Subjects
from fastgate.runtime.control.supervisor_channel import SupervisorChannel
from fastgate.runtime.control.telemetry import Telemetry
from fastgate.runtime.control.worker_channels import WorkerChannels
from fastgate.runtime.launch import Launch, check_free
from fastgate.runtime.persist import Running, Served, StateDirectory, StateError
from fastgate.runtime.wire.messages import (
    Alive,
    DrainWanted,
    Fatal,
    KeepCredentials,
    Ready,
    Reload,
    ReloadDone,
    ReopenLogs,
    StopAccepting,
    ToControl,
    WorkerStarted,
    WorkerStopped,
)
from fastgate.runtime.wire.plan import ControlStart
from fastgate.tasks import keep_running
from fastgate.ticks import next_tick

if TYPE_CHECKING:
    from fastgate.api.billing_api import BillingApi
    from fastgate.billing.diagnosis.evidence import Evidence
    from fastgate.config.revisions import Revisions
    from fastgate.runtime.control.money import MoneySide
    from fastgate.runtime.control.ownership import Ownership
    from fastgate.store.engine import Store

log = logging.getLogger("fastgate.control")

EXIT_FAILED, EXIT_CONFIGURATION = 1, 4
ALIVE_S = 5.0
FIRST_PATIENCE_S = 0.3  # for name servers, before the first publish


class _Choice(NamedTuple):
    """The initial state of a control process."""

    gateway: Gateway
    file: File  # the file of it, or of what it was before changes through the API
    newest: int  # generation ever used


class Control:
    """The control process, while its event loop runs."""

    def __init__(
        self,
        start: ControlStart,
        launch: Launch,
        segment: Segment,
        money_map: MoneyMap | None = None,
    ) -> None:
        self._start = start
        self._launch = launch
        self._segment = segment
        self._money_map = money_map
        self._money: MoneySide | None = None
        self._store: Store | None = None
        self._owner: Ownership | None = None
        self._state = StateDirectory(launch.state)
        self._quotas = QuotaSaver(segment, self._state)
        self._limits = view.LimitsView(segment)
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._file: File | None = None  # as last read
        self._revisions: Revisions | None = None  # once the API is ready
        self._workers = WorkerChannels(segment.workers, segment.heartbeat_age)
        self._supervisor = SupervisorChannel(start.channel, self._on_message, self._ended.set)
        self._names = Names(self._state)
        self._identity = Identity(
            CredentialIndex.create(epoch=time.time_ns()),
            cache=launch.state / "credentials.cache",
            on_index=self._on_index,
        )
        self._public = public_side(launch.state)
        self._certificates = Certificates(self._workers, self._supervisor, start.keyring_fd)
        self._publisher = Publisher(
            segment,
            self._workers,
            self._supervisor,
            self._names.resolver,
            self._identity,
            slots=read_slots(self._state),
            certificates=self._certificates,
            key=gateway_key(launch.state),
            descriptions=Descriptions(self._state, successor=bool(start.starts)),
            bound=start.listeners,
            public=self._public,
        )
        self._publisher.started = launch.started
        if money_map is None:
            self._publisher.checks.append(check_free)
        self._acme = Acme(launch.state, self._certificates, self._publisher, self._public)
        self._issuers = Issuers(launch.state, segment, self._certificates, self._publisher)
        self._questions = Questions(self._workers)
        self._questions.answers["keys"] = self._issuers.question
        subjects = Subjects(self._identity, lambda: self._publisher.gateway)
        self._questions.answers["subject"] = subjects.question
        self._notices = OperatorNotices(self._publisher)
        self._issuers.on_failed = self._notices.issuer_failed
        self._certificates.on_expiring = self._notices.certificate_expiring
        self._acme.on_failed = self._notices.certificate_failed
        self._telemetry = Telemetry(segment, self._publisher)
        self._reloads = ReloadMetrics()
        self._telemetry.sources += [
            TargetMetrics(segment, self._publisher).samples,
            self._reloads.samples,
            self._certificates.samples,
            self._acme.samples,
            self._issuers.samples,
            self._names.samples,
        ]
        self._evidence = EvidenceOf(
            segment,
            self._state,
            self._identity,
            lambda: self.gateway,
            lambda: self._publisher.snapshot,
        )
        self._publisher.on_served.append(self._on_served)
        self._certificates.on_change.append(self._on_certificates)

    # ---- life ----------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until stopped. Returns the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ended.set)
        try:
            if not await self._begin():
                await self._ended.wait()
                return EXIT_FAILED
            self._keep(lambda: self._names.run(self._publisher.republish), "following names")
            self._keep(self._send_heartbeats, "the heartbeat")
            self._keep(self._quotas.run, "saving quotas")
            self._keep(self._telemetry.run, "the access log")
            self._keep(self._certificates.run, "watching certificates")
            self._keep(self._acme.run, "ordering certificates")
            self._keep(self._issuers.run, "fetching keys of issuers")
            self._keep(self._notices.run, "notices to operators")
            if self._money is not None:
                assert self._owner is not None
                self._keep(self._owner.run, "the store's ownership")
                self._money.start()
                self._telemetry.sources.append(self._money.samples)
            api = ApiServer(self, self._identity, self._launch, self._publisher, self._certificates)
            self._keep(api.run, "the control API")
            if self._public is not None:
                pages = Pages(self, self._publisher, self._public, self._acme, api.attempted)
                self._keep(pages.run, "the server of the gateway's own pages")
            await self._ended.wait()
        finally:
            await self._end()
        return 0

    async def _begin(self) -> bool:
        """Publish the first configuration. False if there is nothing to serve."""
        # Before any await: later messages of the supervisor about workers are newer.
        for index, pid, sock in self._start.workers:
            self._workers.add(index, pid, sock, generation=0, binds=set())
        if not self._start.starts:
            self._quotas.restore()
        try:
            gateway, file, newest = self._choose()
            if self._money_map is not None:
                await self._begin_money(self._money_map, gateway)
            if not self._start.starts:
                self._publisher.slots.forget_retired()  # the shared memory is new
            self._identity.load_cache()
            self._publisher.use_generations_above(newest)
            await self._publisher.apply(gateway, file=file, patience=FIRST_PATIENCE_S)
        except FastGateError as error:
            if isinstance(error, ConfigurationError):
                error = self._launch.located(error)
            if not self._start.starts or isinstance(error, OwnedError):
                code = EXIT_FAILED
                # An address that cannot be bound is not an error of the document.
                if isinstance(error, ConfigurationError) and error.__cause__ is None:
                    code = EXIT_CONFIGURATION
                self._supervisor.send(Fatal(error=str(error), code=code))
                return False
            log.error("%s", error)
            raise
        self._reloads.started()
        self._questions.begin()
        running = self._running()
        self._supervisor.send(
            Ready(
                generation=running.generation,
                listeners=list(running.listeners.values()),
                control=running.control,
            )
        )
        if self._start.starts:
            log.info("control is back: generation %d", self._publisher.generation)
        if self._start.pending_reload:
            self._supervisor.send(ReloadDone())
        return True

    async def _begin_money(self, money_map: MoneyMap, gateway: Gateway) -> None:
        """Prepare charging before anything is served, so that paying accounts are not refused."""
        module = await import_late("fastgate.runtime.control.money")
        self._money = module.MoneySide(
            self._segment,
            money_map,
            self._state,
            self._identity,
            self._publisher,
            self.limits_of,
        )
        store = self.open_store(gateway)
        ownership = await import_late("fastgate.runtime.control.ownership")
        me = ownership.this_gateway(self._state, self._segment.boot_id)
        self._owner = ownership.Ownership(store, money_map, me, self._on_lost)
        await self._owner.begin()
        await self._money.begin(store, gateway)

    def _on_lost(self, why: str) -> None:
        self._supervisor.send(Fatal(error=why, code=EXIT_FAILED))

    def open_store(self, gateway: Gateway) -> Store:
        """The store, not connected yet; the same object for all callers. Its URL is that of the
        gateway's start, even if the configuration was reloaded since."""
        if self._store is None:
            with importing():
                from fastgate.store.engine import Store  # heavy

            url = str((self._launch.started or gateway).store.url or "")
            self._store = Store(url or f"sqlite:///{self._launch.state}/fastgate.db")
        return self._store

    def _choose(self) -> _Choice:
        """The initial configuration."""
        served = self._state.read_served()
        newest = max(
            served.generation if served else 0,
            self._segment.generation,
            *(self._segment.worker_row(i).generation for i in range(self._segment.workers)),
        )
        first = not self._start.starts
        try:
            gateway, digest, _ = self._launch.read(first=first)
        except ConfigurationError as error:
            if first or served is None:
                raise
            log.error("%s", error)
            log.error("the file is not used: keeping generation %d", served.generation)
            self._reloads.count("file", False)
            kept: Gateway = codec.decode(served.document)
            before = codec.decode(served.file_document) if served.file_document else kept
            return _Choice(kept, (before, served.file_digest), newest)
        file = gateway, digest
        if served is None:
            return _Choice(gateway, file, newest)
        try:
            kept = codec.decode(served.document)
            if served.file_digest == digest:
                if first and codec.digest(kept) != digest:
                    log.info("serving the changes made through the API since the file was read")
                return _Choice(kept, file, newest)
            if served.file_document is not None:
                say_dropped(codec.decode(served.file_document), kept, gateway)
        except ConfigurationError as error:
            log.error("what was served last cannot be used (%s); the file is", error)
        return _Choice(gateway, file, newest)

    async def _send_heartbeats(self) -> None:
        while True:
            self._supervisor.send(Alive())
            await next_tick(ALIVE_S)

    async def _end(self) -> None:
        if self._money is not None:
            await self._money.end()  # while the store is still open
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._questions.stop()
        if self._owner is not None:
            await self._owner.end()
        if self._store is not None:
            await self._store.stop()
        await self._publisher.health.stop()
        self._telemetry.finish()
        self._quotas.save()
        self._identity.close()
        self._workers.close()
        self._supervisor.close()

    def _keep(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        """Run it for the life of this process."""
        self._spawn(keep_running(what, work, log), what)

    def _spawn(self, work: Coroutine[Any, Any, Any], what: str) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("%s ended by an error", what, exc_info=error)

        task.add_done_callback(done)

    def use_revisions(self, revisions: Revisions) -> None:
        """Use these revisions for reloads by signal too, from now on."""
        self._revisions = revisions
        revisions.on_change.append(self._reloads.count)

    # ---- messages ------------------------------------------------------------------------

    def _on_message(self, message: ToControl, fds: list[int]) -> None:
        if isinstance(message, WorkerStarted):
            self._workers.add(
                message.index,
                message.pid,
                socket.socket(fileno=fds[0]),
                generation=message.generation,
                binds=set(message.binds),
                keyring=message.keyring,
            )
        elif isinstance(message, WorkerStopped):
            self._workers.remove(message.index)
            if self._money is not None:
                self._spawn(self._money.worker_died(message.index), "settling holds")
        elif isinstance(message, Reload):
            self._spawn(self._reload_by_signal(), "a reload")
        elif isinstance(message, ReopenLogs):
            self._telemetry.reopen()
        elif isinstance(message, StopAccepting):
            self._publisher.stop_accepting()

    def _on_index(self, index: CredentialIndex) -> None:
        """Send a new credential index to all present and future workers."""
        self._supervisor.send(KeepCredentials(), (index.fd,))
        self._workers.use_credentials(os.dup(index.fd))

    def _on_certificates(self) -> None:
        if self._publisher.generation and self.gateway.control.tls is not None:
            self._tell_running()

    def _on_served(self) -> None:
        """After each publish: store what is served, for the next start."""
        running, file = self._running(), self._publisher.file
        served = Served(
            generation=running.generation,
            file_digest=self._publisher.file_digest,
            document=codec.encode(self.gateway),
            file_document=None if file is None or file is self.gateway else codec.encode(file),
        )
        try:
            self._names.save()
            self._state.write("slots.json", msgspec.json.encode(self._publisher.slots))
            self._state.write_served(served)
        except StateError as error:
            log.error("%s; a restart would not know this generation", error)
        self._tell_running()
        where = ", ".join(running.listeners.values())
        log.info("serving generation %d on %s", running.generation, where)

    def _tell_running(self) -> None:
        """Tell tools where the gateway is, and which certificate its API presents."""
        try:
            self._state.write(settings.RUNNING, msgspec.json.encode(self._running()))
        except StateError as error:
            log.error("%s; tools do not find this gateway", error)

    def _running(self) -> Running:
        gateway, address_of = self.gateway, self._publisher.address_of
        tls, pair = gateway.control.tls, None
        if tls is not None:
            pair = self._certificates.pair(tls.certificate)
        scheme = "" if tls is None else "https://"
        return Running(
            pid=os.getppid(),
            generation=self._publisher.generation,
            listeners={each.name: address_of(each) for each in listeners_of(gateway)},
            control=scheme + address_of(control_of(gateway)),
            control_certificate="" if pair is None else pair.fingerprint,
        )

    @property
    def billing(self) -> BillingApi | None:
        return self._money.billing if self._money is not None else None

    def evidence(self) -> Evidence:
        money = self._money
        return self._evidence(self.billing, None if money is None else money.money_map)

    # ---- ControlPort ---------------------------------------------------------------------

    @property
    def gateway(self) -> Gateway:
        gateway = self._publisher.gateway
        assert gateway is not None, "the API listens after the first publish"
        return gateway

    @property
    def generation(self) -> int:
        return self._publisher.generation

    async def apply(self, gateway: Gateway, *, dry_run: bool = False) -> int:
        file = self._file if self._file is not None and gateway is self._file[0] else None
        try:
            return await self._publisher.apply(gateway, file=file, dry_run=dry_run)
        except ConfigurationError as error:
            # A reload of a file that has not changed applies what is served, which may be the same.
            if self._file is None or not is_same(self._file[0], gateway):
                raise
            raise self._launch.located(error) from None

    async def load_file(self) -> Gateway:
        if self._launch.config is None:
            raise ConfigurationError(
                "this gateway was started without a configuration file",
                hint="Start it with one: `fastgate run FILE`.",
            )
        gateway, digest, _ = await asyncio.to_thread(self._launch.read)
        self._file = gateway, digest
        return gateway

    @property
    def file_before(self) -> Gateway | None:
        return self._publisher.file

    def pending_restart(self, gateway: Gateway) -> list[str]:
        return self._publisher.pending_restart(gateway)

    async def _reload_by_signal(self) -> None:
        try:
            if self._revisions is not None:
                await self._revisions.reload(author="SIGHUP")
            else:
                before, gateway = self.file_before, await self.load_file()
                if is_same(before, gateway):
                    gateway = self.gateway
                elif before is not None:
                    say_dropped(before, self.gateway, gateway)
                await self.apply(gateway)
                self._reloads.count("file", True)
        except FastGateError as error:
            if self._revisions is None:
                self._reloads.count("file", False)
            log.error("the reload was refused: %s", error)
            log.error("generation %d keeps serving", self.generation)
            self._supervisor.send(ReloadDone(error=str(error)[:4000]))
        else:
            self._supervisor.send(ReloadDone())

    def workers(self) -> list[WorkerStatus]:
        return view.workers(self._segment)

    def readiness(self) -> Readiness:
        return view.readiness(self._segment)

    def metrics(self) -> bytes:
        return self._telemetry.metrics()

    def request(self, request_id: str) -> dict[str, Any] | None:
        return self._telemetry.request(request_id)

    def recent_requests(self, limit: int) -> list[dict[str, Any]]:
        return self._telemetry.latest(limit)

    def limits_of(self, consumer_id: str, plan: str | None) -> list[LimitUse]:
        snapshot = self._publisher.snapshot
        if snapshot is None:
            return []
        party = self._identity.directory.parties.get(consumer_id)
        if self._money is not None and party is not None and party.record.account is not None:
            plan = self._money.rows.plan_of(party.record.account) or plan
        slot = self._publisher.slots.plans.get(plan) if plan is not None else None
        own = [] if party is None else rows(party.record.limits)
        return self._limits.of(snapshot, consumer_id, slot, own)

    def usage(self) -> list[RouteUse]:
        return self._telemetry.usage()

    def certificates(self) -> list[CertificateStatus]:
        return self._acme.completed(self._certificates.status())

    async def renew_certificate(self, name: str, *, wait: bool) -> None:
        await self._acme.renew(name, wait=wait)

    def issuers(self) -> list[IssuerStatus]:
        return self._issuers.status()

    async def refresh_issuer(self, name: str) -> None:
        await self._issuers.refresh(name)

    async def drain(self) -> None:
        self._supervisor.send(DrainWanted())


def run_control(
    start: ControlStart, launch: Launch, segment: Segment, money_map: MoneyMap | None
) -> int:
    """Run a control process until it is stopped. Returns the exit code. `money_map`: set if
    anything costs money."""
    gc.enable()  # imported modules stay

    async def run() -> int:
        return await Control(start, launch, segment, money_map).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
