"""Failed TLS handshakes with upstreams in the log."""

from __future__ import annotations

from fastgate.runtime.worker.engine_log import EngineLog


class FailedTlsLog(EngineLog[tuple[int, str, str, str]]):
    """`take`: `Engine.take_failed_tls`."""

    def text(self, noted: tuple[int, str, str, str]) -> str:
        """The line."""
        count, upstream, target, why = noted
        more = "" if count == 1 else f" ({count} handshakes failed since the last such line)"
        return (
            f"upstream {upstream}: no trusted TLS connection to {target}: "
            f"{why or 'the handshake failed'}{more}"
        )
