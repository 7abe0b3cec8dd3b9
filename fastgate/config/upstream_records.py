"""The image's records of upstreams and their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.snapshot import Balance, HashBy
from fastgate.config import sticky
from fastgate.config.public_route import PublicSide, target_key
from fastgate.config.rendering import Found
from fastgate.config.slots import MAX_TARGETS, SlotBook
from fastgate.config.targets import TargetAddress, proxy_version, targets_of
from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Gateway, Upstream
from fastgate.model.resolve_auth import all_upstreams
from fastgate.model.upstream import status_numbers

_BALANCE = {
    "round_robin": int(Balance.BALANCE_ROUND_ROBIN),
    "least_connections": int(Balance.BALANCE_LEAST_CONNECTIONS),
    "p2c_ewma": int(Balance.BALANCE_P2C_EWMA),
    "hash": int(Balance.BALANCE_HASH),
}
_HASH_BY = {
    "address": int(HashBy.HASH_BY_ADDRESS),
    "consumer": int(HashBy.HASH_BY_CONSUMER),
    "path": int(HashBy.HASH_BY_PATH),
    "header": int(HashBy.HASH_BY_HEADER),
}


class UpstreamRecords:
    """Adds the upstreams of a configuration to an image."""

    def __init__(
        self,
        image: ImageBuilder,
        slots: SlotBook,
        addresses: Mapping[str, Sequence[Found]],
        key: bytes | None,
        warnings: list[str],
    ) -> None:
        """addresses: see `targets_of`. key: the gateway's; None: the image will not be served.
        Adds to `warnings`."""
        self._image = image
        self._slots = slots
        self._addresses = addresses
        self._key = key
        self._warnings = warnings

    def put(
        self, gateway: Gateway, builtin: Sequence[str], public: PublicSide | None
    ) -> dict[str, int]:
        """Name → index. builtin: names of upstreams that others add. Raises ConfigurationError."""
        upstreams = all_upstreams(gateway)
        numbers = self._slots.allot(
            "upstreams", [upstream.name for upstream in upstreams] + list(builtin)
        )
        rows = [
            (upstream, targets_of(f"upstreams[{i}]", upstream, self._addresses, self._warnings))
            for i, upstream in enumerate(upstreams)
        ]
        keys = [target.key for _, targets in rows for target in targets]
        if len(keys) > MAX_TARGETS:
            raise ConfigurationError(
                f"the upstreams have {len(keys)} targets; the maximum is {MAX_TARGETS}", "upstreams"
            )
        if public is not None:
            keys.append(target_key(public))
        places = self._slots.allot("targets", keys)
        return {
            upstream.name: self._put(f"upstreams[{i}]", upstream, targets, numbers, places)
            for i, (upstream, targets) in enumerate(rows)
        }

    def _put(
        self,
        place: str,
        upstream: Upstream,
        targets: Sequence[TargetAddress],
        numbers: Mapping[str, int],
        places: Mapping[str, int],
    ) -> int:
        image = self._image
        by, _, header = (upstream.hash_by or "address").partition(":")
        cookie, secret = upstream.sticky, b""
        if cookie is not None:
            secret = sticky.secret_of(cookie, self._key, f"{place}.sticky")
        index = image.add_upstream(
            upstream.name,
            slot=numbers[upstream.name],
            balance=_BALANCE[upstream.balance],
            hash_by=_HASH_BY[by],
            hash_header=header.lower(),
            connect_ms=upstream.timeouts.connect.ms,
            write_ms=upstream.timeouts.write.ms,
            keepalive_idle_ms=upstream.keepalive.idle.ms,
            keepalive_max=upstream.keepalive.max,
            max_connections=upstream.max_connections,
            queue_max=upstream.queue.max if upstream.queue else 0,
            queue_ms=upstream.queue.timeout.ms if upstream.queue else 0,
            tiers=int(len({target.priority for target in targets}) > 1),
            eject_after=upstream.eject.after,
            eject_within_ms=upstream.eject.within.ms,
            eject_ms=upstream.eject.for_.ms,
            eject_statuses=status_numbers(upstream.eject.statuses),
            proxy_protocol=proxy_version(upstream),
            slow_start_ms=upstream.slow_start.ms,
            sticky=0
            if cookie is None
            else image.sticky(
                cookie.cookie,
                attributes=sticky.attributes_of(cookie),
                secure=int(sticky.SECURE[cookie.secure]),
            ),
        )
        for target in targets:
            image.add_target(
                str(target.url),
                identity=target.identity,
                pool=target.pool,
                tls=target.tls,
                slot=places[target.key],
                sockaddr=target.sockaddr,
                authority=target.authority,
                weight=target.weight,
                priority=target.priority,
                path=target.url.base,
                host=target.url.server_name,
                sticky="" if cookie is None else sticky.value_of(secret, target.place),
            )
        return index
