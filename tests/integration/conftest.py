"""Fixtures over real processes and sockets. What they give is in `gatewaykit`.

`keycloak` and `oidc_provider` are identity providers (`identitykit`), for all tests together.
`gateway` starts gateways for one test, `shared_gateway` for all tests of a module; both stop
them, by their pid. `upstream` and `shared_upstream` are a server that misbehaves on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emptystorekit import put_store
from gatewaykit import Gateway, Upstream
from identitykit import IdentityProvider, Keycloak, OidcProvider

StartGateway = Callable[..., Gateway]
StartUpstream = Callable[..., Upstream]


def _gateways(folder_of: Callable[[], Path]) -> Iterator[StartGateway]:
    started: list[Gateway] = []

    def start(
        config: dict[str, Any] | str | None,
        workers: int = 2,
        *,
        wait: bool = True,
        state: Path | None = None,
        **more: Any,
    ) -> Gateway:
        """wait: until it serves. Other arguments as `Gateway` takes them."""
        folder = folder_of()
        if config is not None:
            put_store(state or folder / "state")
        gateway = Gateway(config, folder, workers=workers, state=state, **more)
        started.append(gateway)
        return gateway.wait_serving() if wait else gateway

    yield start
    for gateway in started:
        gateway.stop()


def _upstreams() -> Iterator[StartUpstream]:
    started: list[Upstream] = []

    def start(unix: str | None = None) -> Upstream:
        started.append(Upstream(unix))
        return started[-1]

    yield start
    for upstream in started:
        upstream.stop()


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """`gateway(config, workers=2)` starts a `fastgate run` on free ports and waits for it."""
    yield from _gateways(lambda: tmp_path_factory.mktemp("gateway"))


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """As `gateway`, and it lives as long as the module's tests."""
    yield from _gateways(lambda: tmp_path_factory.mktemp("gateway"))


@pytest.fixture
def upstreams() -> Iterator[StartUpstream]:
    """`upstreams()` starts another upstream."""
    yield from _upstreams()


@pytest.fixture
def upstream(upstreams: StartUpstream) -> Upstream:
    """An upstream that does what the path says."""
    return upstreams()


@pytest.fixture(scope="module")
def shared_upstream() -> Iterator[Upstream]:
    """As `upstream`, and it lives as long as the module's tests."""
    found = Upstream()
    yield found
    found.stop()


def _provider(kind: type[Keycloak | OidcProvider], folder: Path) -> Iterator[IdentityProvider]:
    if why := kind.missing():
        pytest.skip(why)
    with kind(folder) as provider:
        yield provider


@pytest.fixture(scope="session")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    """Keycloak, with a realm for tests. A test that stops it starts it again."""
    yield from _provider(Keycloak, tmp_path_factory.mktemp("keycloak"))


@pytest.fixture(scope="session")
def oidc_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    """npm's oidc-provider. A test that stops it starts it again."""
    yield from _provider(OidcProvider, tmp_path_factory.mktemp("oidc-provider"))
