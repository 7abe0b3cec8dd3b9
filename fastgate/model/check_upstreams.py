"""Checks of upstreams, apart from TLS. Part of `check`, which reports what is found here."""

from __future__ import annotations

from collections.abc import Iterator

from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Gateway, Upstream


def warnings(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Valid configuration that is probably not meant."""
    seen: dict[tuple[str, str], Upstream] = {}
    for i, upstream in enumerate(gateway.upstreams):
        sticky = upstream.sticky
        if sticky is None:
            continue
        other = seen.setdefault((sticky.cookie, sticky.path), upstream)
        if _urls(other) != _urls(upstream):
            yield ConfigurationError(
                f"the upstream {other.name!r} has other targets and a cookie of the same name and "
                "path: for a client that uses both, each replaces the cookie of the other",
                f"upstreams[{i}].sticky",
                hint="Give it another name or path, unless their routes have different hosts.",
            )


def _urls(upstream: Upstream) -> set[str]:
    return {str(target.url) for target in upstream.targets}
