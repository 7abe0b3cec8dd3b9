"""The descriptions of a configuration: read, compiled and checked in the control process.

A description whose files have not changed since it was last read is not read again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fastgate.errors import ConfigurationError
from fastgate.imports import importing
from fastgate.model.gateway import Gateway
from fastgate.validation.describe import describe
from fastgate.validation.program import Program, encode
from fastgate.validation.source import Sources


class Description(NamedTuple):
    """A description that was read."""

    text: str
    """Its program, for workers."""
    stamps: dict[str, tuple[int, ...]]
    """Its files, and what identifies their content."""

    def is_current(self) -> bool:
        """Whether none of its files has changed."""
        return all(_stamp(path) == stamp for path, stamp in self.stamps.items())


Descriptions = dict[str, Description]
"""By the path of the file that the configuration names."""


def load(gateway: Gateway, known: Mapping[str, Description] | None = None) -> Descriptions:
    """The descriptions that a configuration names. known: those that were read earlier.

    Raises ConfigurationError with the faults of all of them.
    """
    found: Descriptions = {}
    errors: list[ConfigurationError] = []
    for path, place in named(gateway):
        if path in found:
            continue
        old = (known or {}).get(path)
        try:
            found[path] = old if old is not None and old.is_current() else read(path)
        except ConfigurationError as error:
            if error.file == path and error.line is None and not error.path:
                # There is no place in the file to report.
                error = ConfigurationError(f"{path} {error.message}", place, hint=error.hint)
            errors.extend(error)
    if errors:
        errors[0].others = tuple(errors[1:])
        raise errors[0]
    return found


def named(gateway: Gateway) -> Iterator[tuple[str, str]]:
    """The paths of descriptions in a configuration, with their places in it."""
    for section in ("routes", "services", "policies"):
        for index, owner in enumerate(getattr(gateway, section)):
            if owner.validate is not None and owner.validate.openapi is not None:
                yield owner.validate.openapi.path, f"{section}[{index}].validate.openapi"


def read(path: str) -> Description:
    """Read, compile and check a description. Raises ConfigurationError."""
    sources = Sources()
    program = _program(sources, path)
    stamps = {file: stamp for file in sources.files if (stamp := _stamp(file)) is not None}
    return Description(encode(program), stamps)


def _program(sources: Sources, path: str) -> Program:
    try:
        with importing():
            from fastgate.validation.checks import check
    except ImportError as error:
        raise ConfigurationError(
            f"cannot be used: validation needs the package jsonschema-rs ({error})",
            hint="pip install 'fastgate[validation]'.",
            file=path,
        ) from None
    described = describe(sources, path)
    check(described, sources)
    return described.program


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
