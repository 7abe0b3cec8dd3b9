"""Fixtures that the tests of several packages share."""

from storekit import (  # noqa: F401
    postgres_cluster,
    sqlite_migrated,
    sqlite_store,
    sqlite_url,
    store,
    store_url,
)
