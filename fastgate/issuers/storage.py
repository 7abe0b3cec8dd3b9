"""The last good keys of each issuer, in `issuers/` of the state directory (0700).

    issuers/NAME.json    0600, replaced atomically: whose keys they are, the keys, when to ask again

So a restart while an issuer is down harms nobody whose key is known. A file is only used for the
issuer and the address of keys that it was written for. A damaged file is dropped: the keys are
fetched again.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from fastgate.files import replace_file, sync_folder
from fastgate.issuers.jwks import IssuerKey
from fastgate.model.gateway import Issuer

log = logging.getLogger("fastgate.issuers")

FOLDER = "issuers"
VERSION = 1


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an issuer. Times in Unix seconds."""

    version: int = VERSION
    issuer: str
    """`iss`."""
    configured: str
    """The address of its keys in the configuration; empty: discovery."""
    fetched: float
    due: float
    """When the keys are fetched again."""
    jwks_uri: str
    introspection: str = ""
    keys: tuple[IssuerKey, ...]
    since: tuple[float, ...]
    """When each of the keys was first seen."""


class Storage:
    """The files. Errors of the disk are logged, never raised: keys in memory are as good."""

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER

    def read(self, issuer: Issuer) -> Stored | None:
        """What was known of an issuer last; None if there is nothing that can be used."""
        path = self._path(issuer.name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("%s cannot be read: %s", path, error.strerror)
            return None
        try:
            stored = msgspec.json.decode(content, type=Stored)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("%s is damaged (%s); the keys are fetched again", path, error)
            return None
        mine = (VERSION, issuer.issuer, issuer.jwks_uri or "")
        if (stored.version, stored.issuer, stored.configured) != mine:
            return None
        return stored if len(stored.keys) == len(stored.since) else None

    def write(self, name: str, stored: Stored) -> None:
        """Replace what is known of an issuer."""
        path = self._path(name)
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(mode=0o700, exist_ok=True)
                sync_folder(self._folder.parent)
            replace_file(path, [msgspec.json.encode(stored), b"\n"])
        except OSError as error:
            log.error(
                "%s cannot be written (%s); a restart while %s is down would not know its keys",
                *(path, error.strerror, name),
            )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
