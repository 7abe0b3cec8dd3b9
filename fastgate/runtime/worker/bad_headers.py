"""Bad PROXY headers in the log."""

from __future__ import annotations

from fastgate._core.io.proxy_faults import PROXY_FAULT_TEXTS
from fastgate.runtime.worker.engine_log import EngineLog


class BadHeaderLog(EngineLog[tuple[int, int, str, str]]):
    """`take`: `Engine.take_bad_headers`."""

    def text(self, noted: tuple[int, int, str, str]) -> str:
        """The line."""
        count, fault, peer, listener = noted
        closed = "a connection" if count == 1 else f"{count} connections"
        which = "which was" if count == 1 else "the last of them"
        return (
            f"{listener}: closed {closed} without a valid PROXY header, {which} from "
            f"{peer or 'a Unix socket'}: {PROXY_FAULT_TEXTS[fault]}. According to the listener's "
            "`proxy_protocol`, this peer begins with one"
        )
