"""load_sample: the measure of a loop's lag, driven by hand (see load_sample.pyx)."""

from typing import final

from fastgate._core.engine import Engine

@final
class Lag:
    def round(self, now: int, n: int = 1, *, before: int = 0, members: int = 1000) -> float: ...

def hold_lag(engine: Engine, ns: int) -> None: ...
def buffer_bytes(engine: Engine) -> int: ...
