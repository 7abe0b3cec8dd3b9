"""The exceptions that a Python handler's calls raise."""

from __future__ import annotations

from fastgate._core.reason import Reason


def reason_name(number: int) -> str:
    """The code of a reason, e.g. "upstream_timeout"."""
    try:
        return Reason(number).name.lower()
    except ValueError:
        return Reason.UPSTREAM_RESET.name.lower()


class ClientDisconnected(ConnectionError):
    """The client left while its handler was running."""


class PaymentRefused(RuntimeError):
    """The caller cannot pay for the request. `reason` is the code, e.g. "insufficient_balance".

    `balance` and `required` are micro-units; `number` is the reason's number in `Reason`. `fits`:
    if units of a meter were asked for, how many of them could be held.
    """

    def __init__(self, number: int, balance: int, required: int, fits: int | None = None) -> None:
        self.number = number
        self.reason = reason_name(number)
        self.balance = balance
        self.required = required
        self.fits = fits
        super().__init__(f"{self.reason}: {required} micro-units needed, {balance} available")


class TooManyStreams(RuntimeError):
    """This worker has too many handlers that answer as streams; uncaught, a 503 `overloaded`."""


class UpstreamError(ConnectionError):
    """A call to an upstream failed. `reason` is the code, e.g. "upstream_timeout"."""

    def __init__(self, reason: str, upstream: str) -> None:
        super().__init__(f"upstream {upstream!r}: {reason}")
        self.reason = reason
        self.upstream = upstream
