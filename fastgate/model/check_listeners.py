"""Checks of listeners, apart from TLS. Part of `check`, which reports what is found here."""

from __future__ import annotations

from collections.abc import Iterator

from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Gateway


def warnings(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Valid configuration that is dangerous."""
    for i, listener in enumerate(gateway.listeners):
        for j, peer in enumerate(listener.proxy_protocol):
            if peer.cidr is not None and peer.cidr.network.prefixlen == 0:
                yield ConfigurationError(
                    f"{str(peer)!r}: anyone who can connect may say who the client is, so limits, "
                    "lists and logs by address cannot be relied on",
                    f"listeners[{i}].proxy_protocol[{j}]",
                    hint="List the networks of your load balancers.",
                )
