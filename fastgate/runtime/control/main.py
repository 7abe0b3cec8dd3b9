"""The main function of a control process.

What only control needs is imported here, after the fork. If the supervisor imported it, its pages
would be shared at first; then each process writes to its own copies, for every use of an object
counts its references. A worker, and the supervisor, would pay for what they never use.
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
        from fastgate.runtime.control.control import run_control  # no thread is there yet

        return run_control(start, launch, segment, money_map)

    return main
