"""How a gateway was started. This stays the same when its processes are replaced."""

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
    started: Gateway | None = None  # its start-only settings apply

    def read(self, *, first: bool = False) -> tuple[Gateway, str, Loaded | None]:
        """The current configuration: gateway, digest, and the file as read.

        first: use the one that was read before the fork. Raises ConfigurationError.
        """
        if self.config is None:
            gateway: Gateway = codec.decode(self.document)
            return gateway, codec.digest(gateway), None
        loaded = self.first if first and self.first is not None else load(self.config)
        return loaded.gateway, loaded.digest, loaded

    def settled(self, gateway: Gateway) -> Gateway:
        """The file's configuration, with the start-only settings that will be in force: changes
        made through the API apply as long as the file has not changed."""
        served = StateDirectory(self.state).read_served()
        if self.first is None or served is None or served.file_digest != self.first.digest:
            return gateway
        wanted = ("version", *SETTLED)  # the other fields may be large
        part = {name: served.document[name] for name in wanted if name in served.document}
        try:
            kept: Gateway = codec.decode(part)
        except ConfigurationError:
            return gateway  # control reports it
        return msgspec.structs.replace(gateway, **{name: getattr(kept, name) for name in SETTLED})

    def located(self, error: ConfigurationError) -> ConfigurationError:
        """The error with file and line, if they are known. The demonstration has no file: its
        addresses are options."""
        if self.config is None:
            if option := _OPTIONS.get(error.path):
                free = f"`fastgate demo {option} 127.0.0.1:0` uses a free one."
                error.hint = f"{error.hint or ''} {free}".lstrip()
            return error
        if error.file is not None:
            return error
        try:
            return load(self.config).locate(error)
        except ConfigurationError:
            return error

    def handler_paths(self) -> list[str]:
        """The directories in which handlers are searched, in addition to PYTHONPATH."""
        here = str(Path.cwd())
        if self.config is None:
            return [here]
        beside = str(self.config.resolve().parent)
        return [beside] if beside == here else [beside, here]


def costs_money(gateway: Gateway) -> bool:
    """Whether a configuration has prices, including x402, or any billing settings."""
    return (
        gateway.billing != Billing()
        or any(route.price is not None or route.x402 is not None for route in gateway.routes)
        or any(plan.price is not None for plan in gateway.plans)
    )


def check_free(gateway: Gateway) -> None:
    """Raise ConfigurationError for prices if the gateway was started without any: its workers have
    no shared memory for holds, and paid requests must not be served for free."""
    if costs_money(gateway):
        raise ConfigurationError(
            "the gateway was started without prices and cannot start charging",
            path="billing",
            hint="Restart it with this configuration. Later changes of prices need only a reload.",
        )
