"""What the run is made on, and which core each part gets."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare.schema import Machine


@dataclass(frozen=True)
class Placement:
    """Cores by part. A part that shares a core with another says so in `describe`."""

    backend: tuple[int, ...]
    load: tuple[int, ...]
    driver: tuple[int, ...]
    proxy: tuple[int, ...]

    @property
    def load_is_alone(self) -> bool:
        """Whether the generator may spin without taking time from another part."""
        others = {*self.backend, *self.proxy, *self.driver}
        return not others & set(self.load)

    @property
    def proxy_is_alone(self) -> bool:
        """Whether the proxy shares its cores with no other part."""
        others = {*self.backend, *self.load, *self.driver}
        return not others & set(self.proxy)

    def describe(self) -> dict[str, str]:
        """For the result: each part's cores."""
        text = {
            part: ",".join(map(str, getattr(self, part)))
            for part in ("proxy", "backend", "load", "driver")
        }
        text["shared"] = "no" if self.proxy_is_alone and self.load_is_alone else "yes"
        return text


def place(cores: list[int], workers: int = 1) -> Placement | None:
    """Shares `cores` out for a proxy of `workers` workers; None when they do not suffice.

    The proxy's cores are never shared, except on a machine with a single core. The backend and
    the generator get one each where there are enough, this program what is left (it sleeps while
    a window is measured, but for a sample at each end).
    """
    n = len(cores)
    if n == 1:
        only = (cores[0],)
        return Placement(only, only, only, only) if workers == 1 else None
    if n < workers + 1:
        return None
    proxy = tuple(cores[1 : 1 + workers])
    rest = [c for c in cores if c not in proxy]
    backend = (rest[0],)
    load = (rest[1],) if len(rest) > 1 else backend
    driver = (rest[2],) if len(rest) > 2 else backend
    return Placement(backend, load, driver, proxy)


def available_cores() -> list[int]:
    """The cores this program may run on."""
    return sorted(os.sched_getaffinity(0))


def facts() -> Machine:
    """The machine, as the result describes it."""
    info: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(
        cpu=info.get("model name") or info.get("CPU part") or "unknown",
        cores=len(available_cores()),
        architecture=platform.machine(),
        kernel=platform.release(),
        hypervisor="yes" if "hypervisor" in info.get("flags", "").split() else "",
        memory_gib=round(memory, 1),
        python=platform.python_version(),
        load_average=round(os.getloadavg()[0], 2),
    )
