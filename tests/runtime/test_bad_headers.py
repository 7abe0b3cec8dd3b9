"""What the log says about bad PROXY headers, and how often."""

from __future__ import annotations

import pytest

from fastgate._core.io.proxy_faults import PROXY_FAULT_TEXTS
from fastgate._core.io.proxy_header import ProxyFault
from fastgate.runtime.worker.bad_headers import BadHeaderLog

ABSENT = int(ProxyFault.PROXY_ABSENT)


class Counted:
    """What an engine would report, and the time."""

    def __init__(self) -> None:
        self.noted = (0, 0, "", "")
        self.now = 100.0

    def take(self) -> tuple[int, int, str, str]:
        noted, self.noted = self.noted, (0, *self.noted[1:])
        return noted


def test_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    engine = Counted()
    bad = BadHeaderLog(3, engine.take, lambda: engine.now)
    bad.look()
    assert caplog.messages == []
    engine.noted = (1, ABSENT, "10.0.0.5", "0.0.0.0:443")
    bad.look()
    assert caplog.messages == [
        "worker 3: 0.0.0.0:443: closed a connection without a valid PROXY header, which was from "
        f"10.0.0.5: {PROXY_FAULT_TEXTS[ABSENT]}. According to the listener's `proxy_protocol`, "
        "this peer begins with one"
    ]
    for count in (7, 20):  # at two heartbeats; the engine adds up
        engine.now += 0.49
        engine.noted = (count, ABSENT, "", "unix:/run/s")
        bad.look()
    assert len(caplog.messages) == 1
    engine.now += 0.49
    bad.look()
    assert caplog.messages[1].startswith(
        "worker 3: unix:/run/s: closed 20 connections without a valid PROXY header, the last of "
        "them from a Unix socket: "
    )
    engine.now += 10
    bad.look()
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("fault", list(ProxyFault)[:-1])
def test_each_fault_can_be_logged(fault: ProxyFault, caplog: pytest.LogCaptureFixture) -> None:
    engine = Counted()
    engine.noted = (1, int(fault), "10.0.0.5", "0.0.0.0:443")
    BadHeaderLog(0, engine.take, lambda: engine.now).look()
    assert PROXY_FAULT_TEXTS[fault] in caplog.text
