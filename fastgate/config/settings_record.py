"""The image's settings of the whole gateway: limits, timeouts, names, switches, trusted proxies."""

from __future__ import annotations

from collections.abc import Iterable

from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.snapshot import SettingFlag, stable_hash
from fastgate.config.public_route import LINK_PARAM
from fastgate.model.gateway import Gateway

_UNDERSCORES = {"drop": 0, "reject": 1, "allow": 2}  # snapshot_header.underscores


def put_settings(image: ImageBuilder, gateway: Gateway, key_params: Iterable[str]) -> None:
    """`key_params`: the query parameters that routes read API keys from."""
    caps, timeouts, headers = gateway.caps, gateway.timeouts, gateway.headers
    shedding = gateway.shedding
    shown = headers.rate_limits and all(r.limit_headers is not False for r in gateway.routes)
    logged = gateway.observability.access_log.to != "off" or gateway.observability.recent > 0
    image.set_settings(
        identity=stable_hash(headers.via),
        via=headers.via,
        server=headers.server or "",
        trusted_proxies=image.table(
            [
                image.address_rule(str(peer), True)
                for peer in gateway.trusted_proxies
                if not peer.is_unix
            ]
        ),
        max_line=caps.line.bytes,
        max_head=caps.head.bytes,
        max_fields=caps.fields,
        max_field=caps.field.bytes,
        handshake_ms=timeouts.handshake.ms,
        head_ms=timeouts.head.ms,
        body_ms=timeouts.body.ms,
        idle_ms=timeouts.idle.ms,
        write_ms=timeouts.write.ms,
        min_rate=timeouts.min_rate.bytes,
        max_requests=caps.requests,
        max_connections=caps.connections,
        max_upcalls=caps.upcalls,
        max_streams=caps.streams,
        max_handshakes=caps.handshakes,
        underscores=_UNDERSCORES[headers.underscores],
        loop_max=headers.max_loops,
        flags=(SettingFlag.LIMITS_ON_SUCCESS if shown else 0)
        | (SettingFlag.ACCESS_LOG if logged else 0)
        | (SettingFlag.HALF_CLOSE if gateway.half_close else 0)
        | (SettingFlag.LOG_QUERY if gateway.observability.access_log.query else 0)
        | (SettingFlag.TRUST_UNIX if any(p.is_unix for p in gateway.trusted_proxies) else 0)
        | (SettingFlag.KEEP_SLASHES if not gateway.merge_slashes else 0),
        hidden_params=_hidden_params(gateway, key_params),
        shed_lag_ns=shedding.lag.ns if shedding and shedding.lag else 0,
        shed_buffers=shedding.buffers.bytes if shedding and shedding.buffers else 0,
    )


def _hidden_params(gateway: Gateway, key_params: Iterable[str]) -> list[str]:
    """Query parameters that are never logged: the configured ones, and all that may have a key."""
    log = gateway.observability.access_log
    if not log.query:
        return []
    return sorted({name.lower() for name in (*log.hide_params, *key_params, LINK_PARAM)})
