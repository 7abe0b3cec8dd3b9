"""All issuers of a configuration, for its keyring: from files, and from the issuers themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import msgspec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from fastgate._core.tls.keyring import IssuerEntry
from fastgate.errors import ConfigurationError
from fastgate.issuers import files
from fastgate.issuers.entries import entry_of
from fastgate.issuers.files import NOTHING, LoadedIssuer
from fastgate.issuers.jwks import IssuerKey, algorithms_of
from fastgate.issuers.rows import IssuerRows
from fastgate.issuers.service import IssuerService
from fastgate.model.gateway import Gateway, Issuer
from fastgate.model.issuer import SYMMETRIC


class IssuerSource:
    """Like certificates: files are read in a thread (`load`, `load_kept`, `refresh`), the rest is
    used on the event loop."""

    def __init__(self, service: IssuerService, environ: Mapping[str, str] = os.environ) -> None:
        self.service = service
        self.loaded: dict[str, LoadedIssuer] = {}
        """What is in files, by name; of the served configuration."""
        self.rows = IssuerRows()
        self._environ = environ
        self._new: dict[str, LoadedIssuer] = {}  # of the one that may be served next

    # ---- a configuration that may be served ----------------------------------------------

    def load(self, gateway: Gateway) -> None:
        """Read what a configuration needs. Raises ConfigurationError."""
        self._new = files.load(gateway, self.loaded, self._environ)
        self.service.restore(gateway.issuers)

    def load_kept(self, gateway: Gateway, kept: Iterable[IssuerEntry]) -> bool:
        """The same, where what cannot be read is what workers have from an earlier control process.
        Returns whether nothing is missing."""
        before = {entry.name: _loaded(entry) for entry in kept}
        self._new = files.refresh(gateway, before, self._environ)
        self.service.restore(gateway.issuers)
        return all(_complete(issuer, self._new[issuer.name]) for issuer in gateway.issuers)

    def entries(self, gateway: Gateway, *, new: bool) -> list[IssuerEntry]:
        """The keyring's entries. new: of the configuration that was loaded last, not the served
        one."""
        loaded = self._new if new else self.loaded
        rows = self.rows.allot(issuer.name for issuer in gateway.issuers)
        return [
            msgspec.structs.replace(
                entry_of(issuer, loaded.get(issuer.name, NOTHING), self.service.known(issuer)),
                row=rows[issuer.name],
            )
            for issuer in gateway.issuers
        ]

    def remarks(self, gateway: Gateway) -> list[ConfigurationError]:
        """Keys that are not used, of the configuration that was loaded last."""
        return files.remarks(gateway, self._new)

    # ---- the served configuration ---------------------------------------------------------

    def keep(self, gateway: Gateway) -> None:
        """The configuration that was loaded last is served from now on."""
        self.loaded, self._new = self._new, {}
        self.service.serve(gateway.issuers)

    def changed(self) -> bool:
        """Whether a file has changed since it was read."""
        return any(each.changed() for each in self.loaded.values())

    def refresh(self, gateway: Gateway) -> None:
        """Read what has changed."""
        self._new = {}
        self.loaded = files.refresh(gateway, self.loaded, self._environ)

    def problems(self, gateway: Gateway) -> list[ConfigurationError]:
        """What cannot be used at the moment."""
        return files.problems(gateway, self.loaded)


def _complete(issuer: Issuer, loaded: LoadedIssuer) -> bool:
    """Whether everything that is in files or variables is there."""
    return (
        (issuer.keys is None or bool(loaded.keys))
        and (issuer.secret is None or bool(loaded.secret))
        and (issuer.introspection is None or bool(loaded.authorization))
    )


def _loaded(entry: IssuerEntry) -> LoadedIssuer:
    """What an entry of a keyring was made of."""
    keys, secret = [], b""
    for key in entry.keys:
        if key.algorithms and key.algorithms[0] in SYMMETRIC:
            secret = bytes(key.key)
        else:
            spki = bytes(key.key)
            kind, _ = algorithms_of(load_der_public_key(spki))
            keys.append(
                IssuerKey(kid=key.kid, kind=kind, algorithms=tuple(key.algorithms), spki=spki)
            )
    return LoadedIssuer(tuple(keys), secret, entry.authorization)
