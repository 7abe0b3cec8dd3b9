"""Fixtures that the tests of several packages share."""

from hypothesis import settings
from storekit import (  # noqa: F401
    postgres_cluster,
    sqlite_migrated,
    sqlite_store,
    sqlite_url,
    store,
    store_url,
)

# No deadline for an example: how long it takes says how busy the machine is.
settings.register_profile("fastgate", deadline=None)
settings.load_profile("fastgate")
