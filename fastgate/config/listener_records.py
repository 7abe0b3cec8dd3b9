"""The image's records of listeners: TLS, redirects, HSTS, PROXY headers, limits of connections."""

from __future__ import annotations

from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.snapshot import ListenerFlag
from fastgate._core.tls.keyring import listener_id
from fastgate.model.gateway import Gateway, Listener
from fastgate.model.resolve_tls import redirect_port
from fastgate.sockaddr import listener_key


def put_listeners(image: ImageBuilder, gateway: Gateway) -> None:
    """Add the records. A listener that only speaks clear HTTP to anyone has none."""
    for listener in gateway.listeners:
        if not any(
            (
                listener.tls,
                listener.redirect,
                listener.proxy_protocol,
                listener.connections,
                listener.handshakes,
            )
        ):
            continue
        handshakes = listener.handshakes
        hsts = listener.tls.hsts if listener.tls is not None else None
        image.add_listener(
            listener_id(key_of(listener)),
            flags=_flags(listener),
            hsts_s=None if hsts is None else int(hsts.max_age.seconds),
            redirect_port=redirect_port(gateway, listener) if listener.redirect else 0,
            proxies=image.table(
                [
                    image.address_rule(str(peer), True)
                    for peer in listener.proxy_protocol
                    if not peer.is_unix
                ]
            ),
            max_connections=listener.connections.max if listener.connections else 0,
            handshake_ns=handshakes.rate.interval_ns if handshakes else 0,
            handshake_tolerance_ns=handshakes.tolerance_ns if handshakes else 0,
        )


def key_of(listener: Listener) -> str:
    """The key by which processes and the keyring know a listener."""
    return listener_key(listener.name, str(listener.bind))


def _flags(listener: Listener) -> int:
    flags = ListenerFlag(0)
    if listener.redirect is not None:
        flags |= ListenerFlag.LISTENER_REDIRECT_HTTPS
    if any(peer.is_unix for peer in listener.proxy_protocol):
        flags |= ListenerFlag.LISTENER_PROXY_UNIX
    if listener.tls is not None:
        flags |= ListenerFlag.LISTENER_TLS
        if listener.tls.hsts is not None and listener.tls.hsts.include_subdomains:
            flags |= ListenerFlag.LISTENER_HSTS_SUBDOMAINS
        if listener.tls.hsts is not None and listener.tls.hsts.preload:
            flags |= ListenerFlag.LISTENER_HSTS_PRELOAD
    return int(flags)
