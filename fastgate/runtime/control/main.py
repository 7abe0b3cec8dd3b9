"""The main function of a control process.

Modules that only control needs are imported here, after the fork. If the supervisor imported them,
their pages would be shared at first, but each process would soon have its own copies, because every
use of an object changes its reference count. The workers and the supervisor would then use memory
for modules that they never use.
"""

from __future__ import annotations

from collections.abc import Callable

from fastgate._core.money.money_map import MoneyMap
from fastgate._core.shared.segment import Segment
from fastgate.runtime.launch import Launch
from fastgate.runtime.wire.plan import ControlStart


def control_main(
    launch: Launch, segment: Segment, money_map: MoneyMap | None = None
) -> Callable[[ControlStart], int]:
    """The function that a control process runs. `money_map`: set if anything costs money."""

    def main(start: ControlStart) -> int:
        from fastgate.runtime.control.control import run_control  # no threads are running yet

        return run_control(start, launch, segment, money_map)

    return main
