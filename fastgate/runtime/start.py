"""Starting a gateway: from a configuration to a running supervisor.

Modules for the workers are imported before the first fork and frozen, so that the garbage collector
ignores them and the processes share their pages for life. Control imports the others.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fastgate._core.money.money_map import MoneyMap
from fastgate._core.shared.segment import Segment
from fastgate.model.gateway import Gateway
from fastgate.runtime.control.main import control_main
from fastgate.runtime.launch import Launch, costs_money
from fastgate.runtime.persist import StateDirectory
from fastgate.runtime.supervisor.notify import Notifier, inherited_sockets
from fastgate.runtime.supervisor.supervisor import Supervisor
from fastgate.runtime.trim import trim
from fastgate.runtime.wire.messages import Ready
from fastgate.runtime.wire.plan import Companion, Plan
from fastgate.runtime.worker.worker import worker_main

log = logging.getLogger("fastgate.supervisor")

# The children's code imports these late, but they should be loaded before the fork.
SHARED = ("fastgate._core.engine", "asyncio", "uvloop")
MAX_WORKERS = 64
MONEY_FILE = "money.map"


@dataclass(slots=True)
class Extras:
    """Options that are not in the configuration."""

    companions: list[Companion] = field(default_factory=list)
    on_ready: Callable[[Ready], None] | None = None


def run_gateway(
    launch: Launch, gateway: Gateway, workers: int | None = None, extras: Extras | None = None
) -> int:
    """Run a gateway in this process until it is stopped. Returns the exit code.

    gateway: the configuration that was read, for start-only settings. workers: their number, which
    overrides the configuration. Raises StateError, SegmentError.
    """
    StateDirectory(launch.state).claim()  # if that is not possible, report it before anything runs
    launch.started = gateway = launch.settled(gateway)
    count = workers or workers_of(gateway)
    extras = extras or Extras()
    notifier = Notifier()
    segment = make_segment(gateway, count)
    money_map = open_money_map(launch.state, gateway, segment)
    plan = Plan(
        workers=count,
        segment=segment,
        money_map=money_map,
        worker_main=worker_main(
            segment, launch.handler_paths(), money=money_map, state=launch.state
        ),
        control_main=control_main(launch, segment, money_map),
        companions=extras.companions,
        inherited=inherited_sockets(),
        drain_s=gateway.drain_timeout.seconds,
        on_ready=partial(_ready, extras),
    )
    raise_descriptor_limit()
    prepare_to_fork()
    log.info("fastgate %s starts with %d workers (pid %d)", _version(), count, os.getpid())
    return Supervisor(plan, notifier).run()


def _ready(extras: Extras, ready: Ready) -> None:
    """The gateway serves for the first time: from now on the supervisor only waits."""
    if extras.on_ready is not None:
        extras.on_ready(ready)
    trim()


def workers_of(gateway: Gateway) -> int:
    """The configured number of workers; `auto`: one for each usable processor."""
    if gateway.workers == "auto":
        return min(MAX_WORKERS, len(os.sched_getaffinity(0)))
    return gateway.workers


def make_segment(gateway: Gateway, workers: int) -> Segment:
    """The shared segment, with the configured sizes."""
    memory = gateway.memory
    return Segment.create(
        workers,
        limiter_cells=power_of_two(memory.limit_cells),
        quota_cells=power_of_two(memory.quota_cells),
        concurrency_cells=power_of_two(memory.concurrency_cells),
        targets=memory.targets,
        route_rows=memory.route_rows + 1,  # and one for all the others
        log_records=power_of_two(memory.log_records),
    )


def open_money_map(state: Path, gateway: Gateway, segment: Segment) -> MoneyMap | None:
    """The money map, if anything costs money, or did when the gateway last ran.

    Its content from an earlier run stays until the ledger has it. Raises SegmentError.
    """
    path = state / MONEY_FILE
    if not costs_money(gateway) and not path.exists():
        return None
    money_map = MoneyMap.open(path, segment.workers)
    money_map.bind(segment)
    return money_map


def power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << max(0, count - 1).bit_length()


def raise_descriptor_limit() -> None:
    """Raise the limit of descriptors to its maximum, since each connection needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warning("at most %d connections and files: %s", soft, error)


def prepare_to_fork() -> None:
    """Import the modules that children share, and freeze them. No threads are running yet."""
    for name in SHARED:
        importlib.import_module(name)
    # The little garbage left by imports is not worth a collection of 10 to 20 ms.
    gc.freeze()
    gc.disable()  # the supervisor creates no garbage; children enable it again


def _version() -> str:
    from fastgate import __version__

    return __version__
