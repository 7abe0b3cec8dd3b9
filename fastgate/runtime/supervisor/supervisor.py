"""The supervisor: owns the sockets and the shared segment, and restarts the children.

It is small enough that it never needs a restart: one `select` loop, no event loop, no threads, no
user code, no configuration. Everything that can fail in complex ways is in a child, and a child can
be replaced.

::

    starting ──Ready──▶ serving ──SIGTERM, SIGINT, DrainWanted──▶ draining ──▶ stopping ──▶ over
        │                  │                                         │
        └──── Fatal ───────┴─────────────── SIGQUIT ─────────────────┴───▶ stopping

    draining    readiness is 503; after `drain_delay_s` the listening sockets are closed and
                the workers finish their requests; after `drain_s`, the remaining ones are killed
    stopping    all workers have ended: control writes the remaining data, then ends

Signals arrive through the wake-up descriptor as bytes, so that a handler never interrupts other
code. Everything that must survive a child is kept here: the listening sockets (a dead worker's
connections wait in its queue until the next worker, or before that another one, takes them), the
last published snapshot, credential index and keyring (a worker that is forked while control is dead
starts with them), and control's ends of the worker channels (so that a new control process can use
them).
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec

from fastgate.runtime.supervisor import listeners
from fastgate.runtime.supervisor.children import LOOK_S, Child, Watchdog, WorkerPlace, send_signal
from fastgate.runtime.supervisor.kept import Kept
from fastgate.runtime.supervisor.notify import Notifier
from fastgate.runtime.supervisor.process import SIGNALS, describe_status, spawn
from fastgate.runtime.wire.channel import Channel, ChannelClosed, ChannelFull, socket_pair
from fastgate.runtime.wire.messages import (
    Bind,
    Bound,
    DrainWanted,
    Fatal,
    KeepCredentials,
    KeepKeyring,
    Message,
    Published,
    Ready,
    Release,
    Reload,
    ReloadDone,
    ReopenLogs,
    StopAccepting,
    ToSupervisor,
    WorkerStarted,
    WorkerStopped,
)
from fastgate.runtime.wire.plan import Companion, ControlStart, Plan, WorkerStart

log = logging.getLogger("fastgate.supervisor")

QUICK_DRAIN_S = 3.0  # SIGINT: a person is waiting
ERROR_S = 0.1  # so that a repeated error does not use a whole processor
CONTROL_END_S = 5.0  # for control to write the remaining data


class Supervisor:
    """Runs a plan until it is stopped; `run` returns the exit code."""

    def __init__(self, plan: Plan, notifier: Notifier | None = None) -> None:
        self._plan = plan
        self._notifier = notifier or Notifier({})
        self._selector = selectors.DefaultSelector()
        self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        self._state = "starting"
        self._exit_code = 0
        self._control = Child("control")
        self._workers = [
            WorkerPlace(f"worker {index}", index=index) for index in range(plan.workers)
        ]
        self._companions = [(Child(item.name), item) for item in plan.companions]
        self._channel: Channel[ToSupervisor] | None = None
        self._control_starts = 0
        self._bound: dict[str, listeners.Bound] = {}
        self._pending: dict[str, listeners.Bound] = {}  # bound for an apply in progress
        self._kept = Kept()
        self._drain_s = plan.drain_s
        self._close_due = 0.0  # draining: when accepting stops
        self._kill_due = 0.0  # draining, stopping: the deadline
        self._alive_due = 0.0
        self._reload_due = False  # requested while control was not running
        self._heard = 0.0  # time of control's last message
        self._watchdog = Watchdog(self._control, self._workers, plan.segment, plan.hang_s)

    # ---- the loop ------------------------------------------------------------------------

    def run(self) -> int:
        """Start everything and run until the end. Returns the process's exit code."""
        self._selector.register(self._wake[0], selectors.EVENT_READ, self._on_signals)
        previous = {number: signal.signal(number, _no_operation) for number in SIGNALS}
        signal.set_wakeup_fd(self._wake[1].fileno(), warn_on_full_buffer=False)
        try:
            self._start_companions()
            for place in self._workers:
                self._start(place, partial(self._start_worker, place))
            self._start(self._control, self._start_control)
            while self._state != "over":
                for key, _ in self._selector.select(self._timeout()):
                    self._survive(key.data)
                self._survive(self._on_time)
        finally:
            self._end_all()
            signal.set_wakeup_fd(-1)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._close()
        return self._exit_code

    def _survive(self, work: Callable[[], None]) -> None:
        """Log an error and continue, because everything would end with this process."""
        try:
            work()
        except Exception:
            log.exception("the supervisor continues after an internal error")
            time.sleep(ERROR_S)

    def _timeout(self) -> float | None:
        now = time.monotonic()
        dues = [child.due for child in self._children() if not child.pid and child.due]
        dues += [due for due in (self._close_due, self._kill_due, self._alive_due) if due]
        if self._plan.hang_s and self._state in ("starting", "serving"):
            dues.append(now + min(LOOK_S, self._plan.hang_s / 4))
        return max(0.0, min(dues) - now) if dues else None

    def _on_time(self) -> None:
        now = time.monotonic()
        if self._alive_due <= now and self._notifier.watchdog_s:
            self._notifier.alive()
            self._alive_due = now + self._notifier.watchdog_s
        if self._close_due and self._close_due <= now:
            self._stop_accepting()
        if self._kill_due and self._kill_due <= now:
            self._lose_patience()
        if self._state in ("starting", "serving"):
            self._start_due(now)
            self._watchdog.look(self._heard if self._control.pid else None)
        elif not any(place.pid for place in self._workers):
            self._finish()

    def _start_due(self, now: float) -> None:
        if not self._control.pid and self._control.due <= now:
            self._start(self._control, self._start_control)
        for place in self._workers:
            if not place.pid and place.due <= now:
                self._start(place, partial(self._start_worker, place))
        for child, item in self._companions:
            if not child.pid and child.due <= now:
                self._start(child, partial(self._start_companion, child, item))

    def _start(self, child: Child, start: Callable[[], None]) -> None:
        """Start a child; if the system has no resources for it, try again later."""
        try:
            start()
        except OSError as error:
            wait = max(0.1, child.backoff.after(0.0))
            child.due = time.monotonic() + wait
            log.error("%s cannot be started: %s; trying again in %.1f s", child.name, error, wait)
            self._give_up(child, str(error))

    # ---- signals -------------------------------------------------------------------------

    def _on_signals(self) -> None:
        while True:
            try:
                received = self._wake[0].recv(256)
            except BlockingIOError:
                break
            for number in dict.fromkeys(received):
                self._on_signal(number)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGTERM:
            self._drain("SIGTERM", self._drain_s, self._plan.drain_delay_s)
        elif number == signal.SIGINT:
            if self._state == "draining":
                self._stop_now("SIGINT again")
            else:
                self._drain("SIGINT", min(QUICK_DRAIN_S, self._drain_s), 0.0)
        elif number == signal.SIGQUIT:
            self._stop_now("SIGQUIT")
        elif number == signal.SIGHUP:
            log.info("reload requested (SIGHUP)")
            self._notifier.reloading()
            self._reload_due = not self._send_to_control(Reload())
        elif number == signal.SIGUSR1:
            self._send_to_control(ReopenLogs())
        elif number == signal.SIGUSR2:
            log.warning("SIGUSR2: starting a new binary beside this one is not supported yet")

    def _reap(self) -> None:
        for child in self._children():
            if not child.pid:
                continue
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = child.pid, 0
            if pid:
                self._on_death(child, status)

    def _on_death(self, child: Child, status: int) -> None:
        now = time.monotonic()
        words = describe_status(status)
        pid, child.pid, child.killed = child.pid, 0, False
        wait = child.backoff.after(now - child.started)
        child.due = now + wait
        if self._state in ("starting", "serving"):
            after = f" in {wait:.1f} s" if wait else ""
            log.error("%s (pid %d) ended: %s; starting another%s", child.name, pid, words, after)
        if isinstance(child, WorkerPlace):
            self._plan.segment.worker_stopped(child.index)
            if self._plan.money_map is not None:
                self._plan.money_map.stopped(child.index)  # before the next one starts
            self._send_to_control(WorkerStopped(index=child.index, pid=pid, status=words))
        elif child is self._control:
            self._on_control()  # its last messages are still valid
            self._drop_channel()
        self._give_up(child, f"the last one ended with {words}")

    def _give_up(self, child: Child, why: str) -> None:
        """End the gateway if its start fails repeatedly."""
        if self._state == "starting" and child.backoff.failures >= self._plan.start_failures:
            self._fail(f"{child.name} cannot be started: {why}", 1)

    # ---- children ------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        return [self._control, *self._workers, *(child for child, _ in self._companions)]

    def _start_worker(self, place: WorkerPlace) -> None:
        theirs, ours = socket_pair()
        start = WorkerStart(
            index=place.index,
            generation=self._kept.generation,
            snapshot_fd=self._kept.snapshot,
            credentials_fd=self._kept.credentials,
            keyring_fd=self._kept.keyring,
            listeners=[
                (bound.listener, bound.socket_for(place.index))
                for bound in self._bound.values()
                if not bound.listener.private
            ],
            channel=theirs,
            peers={
                bound.listener.key: bound.sockets
                for bound in self._bound.values()
                if len(bound.sockets) > 1
            },
        )
        if place.control_end is not None:
            place.control_end.close()
        place.control_end = ours
        try:
            self._spawn(place, f"fg-worker-{place.index}", partial(self._worker_child, start))
        except OSError:
            theirs.close()
            raise
        self._plan.segment.worker_started(place.index, place.pid)
        theirs.close()
        self._send_to_control(
            WorkerStarted(
                index=place.index,
                pid=place.pid,
                generation=self._kept.generation,
                keyring=self._kept.serial,
                binds=[listener.key for listener, _ in start.listeners],
            ),
            [ours.fileno()],
        )

    def _worker_child(self, start: WorkerStart) -> int:
        mine = {sock.fileno() for _, sock in start.listeners}
        mine |= {sock.fileno() for sockets in start.peers.values() for sock in sockets}
        mine |= {start.channel.fileno(), *self._kept.fds}
        self._let_go(mine)
        return self._plan.worker_main(start)

    def _start_control(self) -> None:
        theirs, ours = socket_pair()
        start = ControlStart(
            starts=self._control_starts,
            channel=theirs,
            workers=[
                (place.index, place.pid, place.control_end)
                for place in self._workers
                if place.control_end is not None
            ],
            listeners=[
                (bound.listener, bound.sockets, bound.address) for bound in self._bound.values()
            ],
            pending_reload=self._reload_due,
            keyring_fd=self._kept.keyring,
        )
        for bound in self._pending.values():  # of an apply of the last control process
            bound.close(remove=True)
        self._pending.clear()
        try:
            self._spawn(self._control, "fg-control", partial(self._control_child, start, ours))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._reload_due = False
        self._control_starts += 1
        self._heard = time.monotonic()
        self._channel = Channel(ours, ToSupervisor)
        self._selector.register(ours, selectors.EVENT_READ, self._on_control)

    def _control_child(self, start: ControlStart, ours: socket.socket) -> int:
        mine = {start.channel.fileno(), start.keyring_fd}
        mine |= {end.fileno() for _, _, end in start.workers}
        mine |= {sock.fileno() for _, sockets, _ in start.listeners for sock in sockets}
        ours.close()
        self._let_go(mine)
        return self._plan.control_main(start)

    def _start_companions(self) -> None:
        for child, item in self._companions:
            self._start_companion(child, item)

    def _start_companion(self, child: Child, item: Companion) -> None:
        def main() -> int:
            self._let_go(set())
            return item.main()

        self._spawn(child, f"fg-{item.name}", main)

    def _spawn(self, child: Child, name: str, main: Callable[[], int]) -> None:
        child.pid = spawn(name, main)
        child.started = time.monotonic()
        child.due = 0.0

    def _let_go(self, mine: set[int]) -> None:
        """In a child: close all descriptors of the supervisor that the child does not use."""
        self._selector.close()
        for sock in self._wake:
            sock.close()
        self._notifier.close()
        if self._channel is not None:
            self._channel.close()
        for place in self._workers:
            if place.control_end is not None and place.control_end.fileno() not in mine:
                place.control_end.close()
        for bound in (*self._bound.values(), *self._pending.values()):
            for sock in bound.sockets:
                if sock.fileno() not in mine:
                    sock.close()
        for _, sock in self._plan.inherited:
            sock.close()
        self._kept.close(mine)

    # ---- messages of control -------------------------------------------------------------

    def _send_to_control(self, message: Message, fds: list[int] | None = None) -> bool:
        """Send to control; False if it is not running."""
        if self._channel is None:
            return False
        try:
            self._channel.send(message, fds or [])
        except ChannelClosed:
            return False
        except ChannelFull:
            log.error("control does not read its messages; killing it")
            send_signal(self._control.pid, signal.SIGKILL)
            return False
        except (OSError, ValueError) as error:
            log.error("%s could not be sent to control: %s", type(message).__name__, error)
            return False
        self._watch_channel()
        return True

    def _watch_channel(self) -> None:
        assert self._channel is not None
        events = selectors.EVENT_READ
        if self._channel.waiting:
            events |= selectors.EVENT_WRITE
        self._selector.modify(self._channel, events, self._on_control)

    def _on_control(self) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            channel.flush()
            while self._take(channel):
                pass
            if channel is self._channel:
                self._watch_channel()
        except ChannelClosed:
            self._drop_channel()  # its death follows as SIGCHLD

    def _take(self, channel: Channel[ToSupervisor]) -> bool:
        """Handle the next message; False if there is no message."""
        try:
            received = channel.receive()
        except msgspec.DecodeError as error:
            log.error("ignored a message from control: %s", error)
            return True
        if received is None:
            return False
        self._heard = time.monotonic()
        message, fds = received
        kept: set[int] = set()
        try:
            kept = self._on_message(message, fds)
        except Exception:
            log.exception("could not handle the message %s from control", type(message).__name__)
        for fd in fds:
            if fd not in kept:
                os.close(fd)
        return True

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = None

    def _on_message(self, message: ToSupervisor, fds: list[int]) -> set[int]:
        """Handle a message; returns the descriptors that were kept."""
        if isinstance(message, Bind):
            self._bind(message)
        elif isinstance(message, Release):
            self._release(message.binds)
        elif isinstance(message, Published):
            return self._on_published(message, fds)
        elif isinstance(message, KeepCredentials):
            self._kept.keep_credentials(fds[0])
            return {fds[0]}
        elif isinstance(message, KeepKeyring):
            self._kept.keep_keyring(fds[0], message.serial)
            return {fds[0]}
        elif isinstance(message, Ready):
            self._on_ready(message)
        elif isinstance(message, ReloadDone):
            if message.error:
                self._notifier.ready(f"the last reload was refused: {message.error}")
            else:
                self._notifier.ready(f"serving generation {self._kept.generation}")
        elif isinstance(message, Fatal):
            self._fail(message.error, message.code)
        elif isinstance(message, DrainWanted):
            self._drain("the control API", self._drain_s, self._plan.drain_delay_s)
        return set()

    def _bind(self, message: Bind) -> None:
        listener = message.listener
        try:
            if listener.key in self._bound:  # a new control process asks for an existing one
                bound = self._bound[listener.key]
            else:
                bound = listeners.bind(listener, self._plan.workers, self._plan.inherited)
                self._pending[listener.key] = bound
        except listeners.BindError as error:
            self._send_to_control(Bound(id=message.id, error=error.message, hint=error.hint))
            return
        except (OSError, ValueError) as error:  # an invalid host name, or no descriptor left
            self._send_to_control(Bound(id=message.id, error=f"listener {listener.name}: {error}"))
            return
        self._send_to_control(
            Bound(id=message.id, address=bound.address),
            [sock.fileno() for sock in bound.sockets],
        )

    def _release(self, binds: list[str]) -> None:
        for name in binds:
            bound = self._pending.pop(name, None)
            if bound is not None:
                bound.close(remove=True)

    def _on_published(self, message: Published, fds: list[int]) -> set[int]:
        everything = {**self._bound, **self._pending}
        self._bound = {name: everything.pop(name) for name in message.binds if name in everything}
        self._pending.clear()
        for bound in everything.values():
            bound.close(remove=True)
        self._kept.keep_snapshot(fds[0], message.generation)
        if message.keyring:
            self._kept.keep_keyring(fds[1], message.keyring)
        self._drain_s = message.drain_s
        return set(fds)

    def _on_ready(self, message: Ready) -> None:
        if self._state == "starting":
            self._state = "serving"
            if self._plan.on_ready is not None:
                self._plan.on_ready(message)
        if self._state == "serving":
            where = ", ".join(message.listeners)
            self._notifier.ready(f"serving generation {message.generation} on {where}")

    # ---- the end -------------------------------------------------------------------------

    def _fail(self, error: str, code: int) -> None:
        log.critical("%s", error)
        self._exit_code = code
        self._stop_now("")

    def _drain(self, why: str, patience: float, delay: float) -> None:
        if self._state not in ("starting", "serving"):
            return
        log.info("draining (%s): at most %.0f s", why, delay + patience)
        self._state = "draining"
        self._plan.segment.draining = 1
        self._notifier.stopping()
        now = time.monotonic()
        self._close_due = now + delay
        self._kill_due = now + delay + patience

    def _stop_accepting(self) -> None:
        self._close_due = 0.0
        self._send_to_control(StopAccepting())
        for place in self._workers:
            send_signal(place.pid, signal.SIGTERM)
        # Each worker empties its queue before it closes its descriptor. The queue ends with the
        # last descriptor, so we close ours now, and new connections are refused.
        for bound in self._bound.values():
            if not bound.listener.private:
                bound.close(remove=True)

    def _lose_patience(self) -> None:
        self._kill_due = 0.0
        if self._state == "stopping":
            send_signal(self._control.pid, signal.SIGKILL)
            self._state = "over"
            return
        late = [place for place in self._workers if place.pid]
        for place in late:
            log.warning("%s (pid %d) has not finished in time: killed", place.name, place.pid)
            send_signal(place.pid, signal.SIGKILL)

    def _stop_now(self, why: str) -> None:
        if why:
            log.info("stopping at once (%s)", why)
        self._notifier.stopping("stopping")
        self._plan.segment.draining = 1
        self._close_due = self._kill_due = 0.0
        if self._state != "stopping":
            self._state = "draining"
        for place in self._workers:
            send_signal(place.pid, signal.SIGKILL)

    def _finish(self) -> None:
        """All workers have ended: let control write the remaining data, then end."""
        if self._state == "draining":
            self._state = "stopping"
            self._kill_due = time.monotonic() + CONTROL_END_S
            send_signal(self._control.pid, signal.SIGTERM)
        if not self._control.pid:
            self._state = "over"

    def _end_all(self) -> None:
        """Kill the remaining children, at the very end or after an internal error."""
        for child in self._children():
            if child.pid:
                send_signal(child.pid, signal.SIGKILL)
        for child in self._children():
            if child.pid:
                with suppress(ChildProcessError):
                    os.waitpid(child.pid, 0)
                child.pid = 0

    def _close(self) -> None:
        self._drop_channel()
        for bound in (*self._bound.values(), *self._pending.values()):
            bound.close(remove=True)
        for place in self._workers:
            if place.control_end is not None:
                place.control_end.close()
        self._kept.close()
        self._selector.close()
        for sock in self._wake:
            sock.close()


def _no_operation(number: int, frame: object) -> None:
    """A handler must be set for the wake-up descriptor to be written to."""
