"""How a gateway was started: what stays the same when its processes are replaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fastgate.config.file import Loaded, load
from fastgate.errors import ConfigurationError
from fastgate.model import codec
from fastgate.model.billing import Billing
from fastgate.model.gateway import Gateway
from fastgate.runtime.persist import StateDirectory

SETTLED = ("workers", "memory", "store", "observability")
_OPTIONS = {"listeners[0].bind": "--listen", "control.bind": "--control"}


@dataclass(slots=True)
class Launch:
    """`config` is the file; without one, `document` is served (the demonstration)."""

    state: Path
    config: Path | None = None
    document: dict[str, Any] = field(default_factory=dict)
    first: Loaded | None = None  # as read before the fork, so that it is not read twice
    started: Gateway | None = None  # whose `workers`, `memory` and so on hold until the end

    def read(self, *, first: bool = False) -> tuple[Gateway, str, Loaded | None]:
        """The configuration as it stands: gateway, digest, and the file as read.

        first: take what was read before the fork. Raises ConfigurationError.
        """
        if self.config is None:
            gateway: Gateway = codec.decode(self.document)
            return gateway, codec.digest(gateway), None
        loaded = self.first if first and self.first is not None else load(self.config)
        return loaded.gateway, loaded.digest, loaded

    def settled(self, gateway: Gateway) -> Gateway:
        """The file's configuration with what is settled at the start as it will be served: changes
        made through the API hold as long as the file has not changed."""
        served = StateDirectory(self.state).read_served()
        if self.first is None or served is None or served.file_digest != self.first.digest:
            return gateway
        wanted = ("version", *SETTLED)  # the rest may be large
        part = {name: served.document[name] for name in wanted if name in served.document}
        try:
            kept: Gateway = codec.decode(part)
        except ConfigurationError:
            return gateway  # control says so
        return msgspec.structs.replace(gateway, **{name: getattr(kept, name) for name in SETTLED})

    def located(self, error: ConfigurationError) -> ConfigurationError:
        """An error with file and line, if they are known. The demonstration has no file: its
        addresses are options."""
        if self.config is None:
            if option := _OPTIONS.get(error.path):
                free = f"`fastgate demo {option} 127.0.0.1:0` takes one that is free."
                error.hint = f"{error.hint or ''} {free}".lstrip()
            return error
        if error.file is not None:
            return error
        try:
            return load(self.config).locate(error)
        except ConfigurationError:
            return error

    def handler_paths(self) -> list[str]:
        """Where handlers are looked for besides PYTHONPATH."""
        here = str(Path.cwd())
        if self.config is None:
            return [here]
        beside = str(self.config.resolve().parent)
        return [beside] if beside == here else [beside, here]


def costs_money(gateway: Gateway) -> bool:
    """Whether a configuration has prices, also for x402, or says anything about billing."""
    return (
        gateway.billing != Billing()
        or any(route.price is not None or route.x402 is not None for route in gateway.routes)
        or any(plan.price is not None for plan in gateway.plans)
    )
