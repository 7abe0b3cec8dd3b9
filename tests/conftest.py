"""Fixtures that the tests of several packages share."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from storekit import (  # noqa: F401
    postgres_cluster,
    sqlite_migrated,
    sqlite_store,
    sqlite_url,
    store,
    store_url,
)
from webhookkit import receiver  # noqa: F401

if TYPE_CHECKING:
    from certkit import Material

# No deadline for an example, and no check of how long it takes to make one: that says how busy the
# machine is.
settings.register_profile("fastgate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fastgate")

# Tests bind Unix sockets in their folders, and such a path has 107 bytes at most: a TMPDIR deep
# below leaves no room for it. This is where pytest makes all folders, if it is set.
if len(tempfile.gettempdir()) > 20:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/tmp")


LONGEST_FIRST = frozenset({"integration", "certificates", "benchmarks", "test_lint.py"})
"""Folders and files whose tests take the longest. They begin first, so that no process is left with
one of them when the others have nothing to do any more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first; otherwise the order stays."""
    items.sort(key=lambda item: LONGEST_FIRST.isdisjoint(item.path.parts))


@pytest.fixture(scope="session")
def tls_material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Certificates of all kinds, made when first asked for: `certkit`."""
    from certkit import Material  # `cryptography` takes time to import

    return Material(tmp_path_factory.mktemp("tls"))
