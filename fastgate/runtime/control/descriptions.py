"""Descriptions of APIs in the control process: read with each configuration, kept for the next one.

Most gateways validate nothing, so `fastgate.validation` is imported only if a configuration names a
description.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from fastgate.errors import ConfigurationError
from fastgate.imports import import_late, in_thread
from fastgate.model.gateway import Gateway
from fastgate.runtime.persist import StateDirectory, StateError

if TYPE_CHECKING:
    from fastgate.validation.load import Descriptions as Loaded

log = logging.getLogger("fastgate.control")

FILE = "descriptions.json"
"""The compiled descriptions that are served, in the state directory."""


class Descriptions:
    """The descriptions of the served configuration."""

    def __init__(self, state: StateDirectory, *, successor: bool) -> None:
        """successor: workers serve what an earlier control process published. This one must be able
        to publish it again, whatever has happened to the files in the meantime."""
        self._state = state
        self._kept = self._read_kept() if successor else {}
        self._loaded: Loaded = {}
        self._next: Loaded = {}
        self._texts: Mapping[str, str] = {}
        self._next_texts: Mapping[str, str] = {}

    async def prepare(self, gateway: Gateway, *, again: bool = False) -> Mapping[str, str]:
        """The compiled descriptions for a configuration, by the paths of their files.

        again: only addresses have changed, so no file is read. Raises ConfigurationError.
        """
        if again:
            self._next, self._next_texts = self._loaded, self._texts
        elif not _validates(gateway):
            self._next, self._next_texts = {}, {}
        else:
            module = await import_late("fastgate.validation.load")
            try:
                self._next = await in_thread(lambda: module.load(gateway, self._loaded))
                self._next_texts = {path: one.text for path, one in self._next.items()}
            except ConfigurationError as error:
                if not {path for path, _ in module.named(gateway)} <= self._kept.keys():
                    raise
                for each in error:
                    log.error("%s", each)
                log.error("the descriptions that workers have stay in use instead")
                self._next, self._next_texts = {}, self._kept
        return self._next_texts

    def keep(self) -> None:
        """The prepared ones are served from now on."""
        changed = self._texts != self._next_texts
        self._loaded, self._texts = self._next, self._next_texts
        self._kept = {}
        if changed:
            try:
                self._state.write(FILE, msgspec.json.encode(self._texts))
            except StateError as error:
                log.error("%s; the next control process would have to read the files", error)

    def _read_kept(self) -> Mapping[str, str]:
        content = self._state.read(FILE)
        if content is None:
            return {}
        try:
            return msgspec.json.decode(content, type=dict[str, str])
        except msgspec.DecodeError as error:
            log.error("%s cannot be used: %s", FILE, error)
            return {}


def _validates(gateway: Gateway) -> bool:
    return any(
        owner.validate is not None
        for section in (gateway.routes, gateway.services, gateway.policies)
        for owner in section
    )
