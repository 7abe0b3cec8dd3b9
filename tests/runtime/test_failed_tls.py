"""What the log says about TLS connections to upstreams that could not be made, and how often."""

from __future__ import annotations

import pytest

from fastgate.runtime.worker.failed_tls import FailedTlsLog


class Counted:
    """What an engine would report, and the time."""

    def __init__(self) -> None:
        self.noted = (0, "", "", "")
        self.now = 100.0

    def take(self) -> tuple[int, str, str, str]:
        noted, self.noted = self.noted, (0, *self.noted[1:])
        return noted


def test_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    engine = Counted()
    failed = FailedTlsLog(3, engine.take, lambda: engine.now)
    failed.look()
    assert caplog.messages == []
    engine.noted = (1, "orders", "https://10.0.0.5:8443", "certificate has expired")
    failed.look()
    assert caplog.messages == [
        "worker 3: upstream orders: no trusted TLS connection to https://10.0.0.5:8443: "
        "certificate has expired"
    ]
    engine.now += 0.99
    engine.noted = (20, "orders", "https://10.0.0.5:8443", "")
    failed.look()
    assert len(caplog.messages) == 1
    engine.now += 0.02
    failed.look()
    assert caplog.messages[1] == (
        "worker 3: upstream orders: no trusted TLS connection to https://10.0.0.5:8443: "
        "the handshake failed (20 handshakes failed since the last such line)"
    )
    engine.now += 10
    failed.look()
    assert len(caplog.messages) == 2
