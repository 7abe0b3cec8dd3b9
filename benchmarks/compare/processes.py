"""Process trees: started pinned, accounted for, ended by their ids.

Processor time comes from two files of the kernel. `schedstat` of every thread gives run time in
nanoseconds, exact; `stat` of the process gives user and system in ticks, of which only the
proportion is used. Memory is PSS (`smaps_rollup`): pages shared inside a tree count once, and a
page shared with another tree counts in part, so memory is measured with nothing else running.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cpu:
    """Processor time so far. `run_ns` is exact; the ticks only separate user from system.

    `wait_ns` is time spent ready to run while something else had the core.
    """

    run_ns: int = 0
    user_ticks: int = 0
    system_ticks: int = 0
    wait_ns: int = 0

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(
            self.run_ns + other.run_ns,
            self.user_ticks + other.user_ticks,
            self.system_ticks + other.system_ticks,
            self.wait_ns + other.wait_ns,
        )

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(
            self.run_ns - other.run_ns,
            self.user_ticks - other.user_ticks,
            self.system_ticks - other.system_ticks,
            self.wait_ns - other.wait_ns,
        )

    @property
    def user_share(self) -> float:
        """The user part of run_ns, 0..1."""
        ticks = self.user_ticks + self.system_ticks
        return self.user_ticks / ticks if ticks else 0.0


def parse_stat(text: str) -> tuple[int, int, int]:
    """Parent, user ticks, system ticks of a /proc/PID/stat line (a name may hold anything)."""
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), int(fields[11]), int(fields[12])


def cpu_of(pid: int) -> Cpu:
    """Processor time of one process with all its threads; zero when it is gone."""
    try:
        _, user, system = parse_stat(Path(f"/proc/{pid}/stat").read_text())
        run = wait = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                times = (task / "schedstat").read_text().split()
                run += int(times[0])
                wait += int(times[1])
    except (OSError, ValueError):
        return Cpu()
    return Cpu(run or (user + system) * TICK_NS, user, system, wait)


def pss_of(pid: int) -> int:
    """Proportional set size in bytes; 0 when it cannot be read."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def name_of(pid: int) -> str:
    """What ps calls it; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def runs(pid: int) -> bool:
    """Whether the process is there and more than a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def tree_of(root: int) -> list[int]:
    """`root` and all its living descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                parent = parse_stat((entry / "stat").read_text())[0]
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(sorted(children.get(pid, [])))
    return found


def raise_descriptors(wanted: int) -> int:
    """Raises this process's descriptor limit (children inherit it) towards `wanted`; what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted and os.geteuid() == 0:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, wanted))
            hard = wanted
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    return max(soft, limit)


def stolen_ns(cores: Iterable[int]) -> int:
    """Time that a hypervisor kept from these cores so far, as far as it reports this."""
    wanted = {f"cpu{core}" for core in cores}
    stolen = 0
    for line in Path("/proc/stat").read_text().splitlines():
        fields = line.split()
        if fields[0] in wanted and len(fields) > 8:
            stolen += int(fields[8])
    return stolen * TICK_NS


def _end_with_parent() -> None:
    """In a child: get SIGTERM when the parent dies, for whatever reason."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Tree:
    """A started program with all its children. A context manager: leaving ends them all."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cores: Iterable[int],
        folder: Path,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Starts `command` pinned to `cores`, in `folder`; its output goes to files there.

        Raises OSError when the program cannot be started.
        """
        pinned = ["taskset", "-c", ",".join(map(str, cores)), *command]
        self.folder = folder
        self.started = time.monotonic()
        self.served_after = 0.0  # seconds until its first answer, if that was waited for
        with (
            (folder / "stdout.log").open("ab") as out,
            (folder / "stderr.log").open("ab") as err,
        ):
            self.process = subprocess.Popen(
                pinned,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def pids(self) -> list[int]:
        """The root and its living descendants."""
        return tree_of(self.pid)

    def alive(self) -> bool:
        """Whether the root still runs."""
        return self.process.poll() is None

    def cpu(self) -> dict[int, Cpu]:
        """Processor time so far by process."""
        return {pid: cpu_of(pid) for pid in self.pids()}

    def pss(self) -> int:
        """Proportional set size of all of them, bytes."""
        return sum(pss_of(pid) for pid in self.pids())

    def last_words(self) -> str:
        """The end of what it wrote, for an error message."""
        text = b""
        for name in ("stdout.log", "stderr.log"):
            with contextlib.suppress(OSError):
                text += (self.folder / name).read_bytes()[-2000:]
        return text.decode(errors="replace").strip()[-2000:]

    def stop(self, patience: float = 10.0) -> None:
        """Asks (SIGTERM), waits up to `patience` seconds, then kills what is left of the tree."""
        family = self.pids()
        if self.alive():
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=patience)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                if pid == self.pid:
                    if self.alive():
                        self.process.kill()
                elif os.getsid(pid) == self.pid:  # still ours: ids are used again
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        end = time.monotonic() + 2.0
        while any(runs(pid) for pid in family) and time.monotonic() < end:
            time.sleep(0.002)  # orphans: they cannot be waited for here

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def spent(before: dict[int, Cpu], after: dict[int, Cpu]) -> dict[int, Cpu]:
    """What each process used between two samples; one that came meanwhile counts from zero."""
    return {pid: now - before.get(pid, Cpu()) for pid, now in after.items()}


def settle(trees: Sequence[Tree], patience: float = 15.0) -> None:
    """Waits until the trees use hardly any processor time (logs written, caches swept), bounded.

    A gateway goes on after it serves (writes what it serves to disk, opens its store); with many
    routes that takes seconds, and is no part of what a request costs.
    """

    def used() -> dict[int, Cpu]:
        return {pid: cpu for tree in trees for pid, cpu in tree.cpu().items()}

    end = time.monotonic() + patience
    quiet = 0
    before = used()
    while quiet < 2 and time.monotonic() < end:
        time.sleep(0.2)
        now = used()
        # By process: one that has ended takes its account with it, and that is no quiet.
        run_ns = sum(cpu.run_ns for cpu in spent(before, now).values())
        ended = before.keys() - now.keys()
        quiet = quiet + 1 if run_ns < 4_000_000 * len(trees) and not ended else 0  # 2 % of a core
        before = now
