"""The targets of an upstream: one for each address that its hosts stand for.

The addresses of a name share its weight. With SRV records, each record has its part of it, in
proportion to the records' weights; the records of the lowest priority number come first, as long as
one of them can be used. Weights in the snapshot are whole numbers: all of an upstream grow by one
factor.

A target's *identity* is its address: its health and ejection stay with it when anything else about
the upstream changes. Its *pool* is the address, how TLS is spoken to it, and the PROXY header that
it expects: a connection is only used again for what it was made and verified for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from fastgate._core.snapshot.snapshot import stable_hash
from fastgate._core.tls.keyring import upstream_id
from fastgate.config.rendering import Found, ServiceAddress, sockaddrs
from fastgate.errors import ConfigurationError
from fastgate.model.gateway import TargetUrl, Upstream, UpstreamTls
from fastgate.model.upstream import CLIENT_HOST, TARGET_HOST
from fastgate.sockaddr import address_text, pack_sockaddr

WEIGHT_MOST = 1_000_000
"""Of the weights in the snapshot: beyond it they are rounded."""

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
    addresses: Mapping[str, Sequence[Found]],
    warnings: list[str],
) -> list[TargetAddress]:
    """The targets of an upstream, at `place` in the document.

    addresses: "host:port" → resolved addresses; with the port 0: those of SRV records. Adds to
    `warnings`. Raises ConfigurationError.
    """
    if len(upstream.targets) > TARGETS_AN_UPSTREAM:
        raise ConfigurationError(
            f"an upstream has at most {TARGETS_AN_UPSTREAM} targets", f"{place}.targets"
        )
    named = upstream.host not in (TARGET_HOST, CLIENT_HOST)
    tls, proxy = tls_id(upstream.profile), proxy_version(upstream)
    places = [
        (target.url, place)
        for target in upstream.targets
        for place in _places(
            target.url,
            addresses.get(f"{target.url.host}:{target.url.port}", ()),
            target.weight,
        )
    ]
    weights = _whole([place.weight for _, place in places])
    found = [
        TargetAddress(
            f"{upstream.name} {url} {place.text}",
            url,
            place.sockaddr,
            weight,
            upstream.host if named else url.authority,
            tls,
            priority=place.priority,
            proxy=proxy,
        )
        for (url, place), weight in zip(places, weights, strict=True)
    ]
    if len(found) > TARGETS_AN_UPSTREAM:
        warnings.append(
            f"{place}: its names stand for {len(found)} addresses; {TARGETS_AN_UPSTREAM} of them "
            "are used"
        )
    return found[:TARGETS_AN_UPSTREAM]


class _Place(NamedTuple):
    text: str  # of its address
    sockaddr: bytes
    weight: Fraction
    priority: int = 0


def _places(url: TargetUrl, found: Sequence[Found], weight: int) -> list[_Place]:
    """The addresses of a target, which share its weight; if it has none yet, one without."""
    if url.srv:
        services = [one for one in found if isinstance(one, ServiceAddress)]
        return _of_services(services, weight) or [_Place("", b"", Fraction(weight))]
    plain = [one for one in found if not isinstance(one, ServiceAddress)]
    addresses = sockaddrs(url, plain) or [("", b"")]
    share = Fraction(weight, len(addresses))
    return [_Place(text, packed, share) for text, packed in addresses]


def _of_services(found: Sequence[ServiceAddress], weight: int) -> list[_Place]:
    """By priority, counted from 0. Several addresses of a host share its record's weight."""
    places: dict[str, _Place] = {}
    for tier, priority in enumerate(sorted({one.priority for one in found})):
        records: dict[tuple[str, int, int], list[ServiceAddress]] = {}
        for one in found:
            if one.priority == priority:
                records.setdefault((one.host, one.address[1], one.weight), []).append(one)
        # A weight of 0 means very little beside others, and the same for all if all have it.
        weighs = {record: record[2] * 100 or 1 for record in records}
        total = sum(weighs.values())
        for record, addresses in records.items():
            share = Fraction(weight * weighs[record], total * len(addresses))
            for one in addresses:
                packed = pack_sockaddr(one.family, one.address)
                text = f"{one.host} {address_text(one.family, one.address)}"
                if text not in places:
                    places[text] = _Place(text, packed, share, tier)
    return list(places.values())


def _whole(weights: Sequence[Fraction]) -> list[int]:
    """Whole numbers in the same proportions; beyond WEIGHT_MOST about the same, and at least 1."""
    factor = Fraction(math.lcm(*(weight.denominator for weight in weights)))
    factor = min(factor, WEIGHT_MOST / max(weights))
    return [max(1, round(weight * factor)) for weight in weights]
