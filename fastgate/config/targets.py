"""The targets of an upstream: one for each address that its hosts stand for.

A target's *identity* is its address: its health and ejection stay with it when anything else about
the upstream changes. Its *pool* is the address, how TLS is spoken to it, and the PROXY header that
it expects: a connection is only used again for what it was made and verified for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fastgate._core.snapshot.snapshot import stable_hash
from fastgate._core.tls.keyring import upstream_id
from fastgate.config.rendering import Address, sockaddrs
from fastgate.errors import ConfigurationError
from fastgate.model.gateway import TargetUrl, Upstream, UpstreamTls
from fastgate.model.upstream import CLIENT_HOST, TARGET_HOST

TARGETS_AN_UPSTREAM = 64
"""Maximum addresses of one upstream."""


class TargetAddress(NamedTuple):
    """One address of an upstream."""

    key: str
    """In the slot book."""
    url: TargetUrl
    sockaddr: bytes
    """Packed; empty: not resolved yet."""
    weight: int
    authority: str
    """The Host to send."""
    tls: int
    """See `tls_id`."""
    priority: int = 0
    """Those of the lowest number are used as long as one of them can be used."""
    proxy: int = 0
    """The version of the PROXY header that connections begin with; 0: none."""

    @property
    def place(self) -> str:
        """Its URL and address, which upstreams may share."""
        return self.key.partition(" ")[2]

    @property
    def identity(self) -> int:
        return stable_hash(f"target:{self.key}")

    @property
    def pool(self) -> int:
        if not self.tls and not self.proxy:
            return self.identity
        return stable_hash(
            f"pool:{self.key} {self.tls}" + f" proxy v{self.proxy}" * bool(self.proxy)
        )


def proxy_version(upstream: Upstream) -> int:
    """The version of the PROXY header that its connections begin with; 0: none."""
    return 0 if upstream.proxy_protocol is None else int(upstream.proxy_protocol[1:])


def tls_id(profile: UpstreamTls | None) -> int:
    """The id of a way to speak TLS, in snapshot and keyring; 0: in clear."""
    if profile is None:
        return 0
    return upstream_id(
        profile.name,
        profile.verify,
        profile.authority,
        profile.certificate,
        sorted(profile.pins),
        profile.min,
    )


def targets_of(
    place: str,
    upstream: Upstream,
    addresses: Mapping[str, Sequence[Address]],
    warnings: list[str],
) -> list[TargetAddress]:
    """The targets of an upstream, at `place` in the document.

    addresses: "host:port" → resolved addresses. Adds to `warnings`. Raises ConfigurationError.
    """
    if len(upstream.targets) > TARGETS_AN_UPSTREAM:
        raise ConfigurationError(
            f"an upstream has at most {TARGETS_AN_UPSTREAM} targets", f"{place}.targets"
        )
    named = upstream.host not in (TARGET_HOST, CLIENT_HOST)
    tls, proxy = tls_id(upstream.profile), proxy_version(upstream)
    found = []
    for target in upstream.targets:
        url = target.url
        authority = upstream.host if named else url.authority
        known = addresses.get(f"{url.host}:{url.port}", ())
        for text, packed in sockaddrs(url, known) or [("", b"")]:
            key = f"{upstream.name} {url} {text}"
            found.append(
                TargetAddress(key, url, packed, target.weight, authority, tls, proxy=proxy)
            )
    if len(found) > TARGETS_AN_UPSTREAM:
        warnings.append(
            f"{place}: its names stand for {len(found)} addresses; {TARGETS_AN_UPSTREAM} of them "
            "are used"
        )
    return found[:TARGETS_AN_UPSTREAM]
