"""The core's tests run on uvloop, as workers do, and those of HTTP over several transports."""

from __future__ import annotations

from collections.abc import Iterator

import enginekit
import lawkit
import pytest
import uvloop
from tlsrelaykit import TlsRelay


def pytest_asyncio_loop_factories():
    return {"uvloop": uvloop.new_event_loop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = lawkit.transports(metafunc.module.__name__, metafunc.function.__name__)
    if names != lawkit.CLEAR:
        metafunc.parametrize("transport", names, indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What is between the planes of the test and their peers: `lawkit`."""
    name = getattr(request, "param", "clear")
    if name == "clear":
        yield name
        return
    material = request.getfixturevalue("tls_material")
    test = request.function.__name__
    fins = test in lawkit.FINS.get(request.module.__name__, ())
    with TlsRelay(lawkit.CUTS[name], fins=fins) as relay:
        monkeypatch.setattr(enginekit, "TRANSPORT", lawkit.TlsTransport(material, relay))
        yield name
