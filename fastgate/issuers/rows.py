"""Which row of the workers' counters an issuer has: the same one for as long as the workers live.

    0         tokens of no issuer
    1 to 14   one issuer each, by its name
    15        all further ones

A row stays with a name that is taken out of the configuration, since what was counted is its own,
until there is no other row left. A new control process finds the rows in the workers' keyring.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastgate._core.tls.keyring import IssuerEntry

OTHERS = 15


class IssuerRows:
    """The rows in use."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}

    def take(self, kept: Iterable[IssuerEntry]) -> None:
        """Go on with the rows that workers have."""
        for entry in kept:
            if 0 < entry.row < OTHERS:
                self._rows[entry.name] = entry.row

    def allot(self, names: Iterable[str]) -> dict[str, int]:
        """The rows of these issuers."""
        wanted = list(names)
        for name in wanted:
            if name not in self._rows and (row := self._free(wanted)) is not None:
                self._rows[name] = row
        return {name: self._rows.get(name, OTHERS) for name in wanted}

    def _free(self, wanted: list[str]) -> int | None:
        """A row that nobody has, or has no more: then its old name gives it up. None: all are in
        use."""
        used = set(self._rows.values())
        for row in range(1, OTHERS):
            if row not in used:
                return row
        for name in self._rows:
            if name not in wanted:
                return self._rows.pop(name)
        return None

    def names(self) -> dict[int, str]:
        """The name of each row that has one."""
        return {row: name for name, row in self._rows.items()}
