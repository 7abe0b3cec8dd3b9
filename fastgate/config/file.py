"""Loading the configuration: a file's text → a checked `Gateway`, or errors with their lines.

    text --parse--> plain data --references--> texts --codec.decode--> Gateway --check--> Loaded

Text may contain references, so that secrets need not be in the file: see
`fastgate.config.references`. Top-level keys that begin with "x-" are for the author (for YAML
anchors), and "$schema" is for editors.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fastgate.config import documents
from fastgate.config.references import References
from fastgate.errors import ConfigurationError
from fastgate.model import check, codec
from fastgate.model.gateway import Gateway
from fastgate.model.schema import json_schema
from fastgate.model.validation import relative_to

__all__ = ["Loaded", "json_schema", "load", "loads"]


class Loaded(NamedTuple):
    """A document that was read and checked."""

    gateway: Gateway
    digest: str
    """SHA-256 of the canonical document, in hex: equal for documents with the same meaning."""
    text: str
    """As read."""
    lines: documents.Lines
    """Maps paths to lines, for errors that are found later (by the compiler)."""
    file: str
    """The file's name; "" if it is not a file."""
    files: tuple[str, ...]
    """The files that it refers to."""
    warnings: tuple[ConfigurationError, ...]
    """Warnings about values that are valid but look unintended."""

    def locate(self, error: ConfigurationError) -> ConfigurationError:
        """The error and its `others`, with file and line filled in."""
        return _locate(error, self.file, self.lines)


def load(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Loaded:
    """Read and check a configuration file ("-": standard input, as YAML).

    Raises ConfigurationError with file, path and line, if they are known; `others` has all other
    errors between resources.
    """
    name = os.fspath(path)
    if name == "-":
        return loads(sys.stdin.read(), "yaml", file="<stdin>", environ=environ)
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError("there is no such file", file=name) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", file=name) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"is not UTF-8: {error.reason}", file=name) from None
    return loads(
        text,
        documents.format_of(name),
        file=name,
        folder=str(Path(name).resolve().parent),
        environ=environ,
    )


def loads(
    text: str,
    kind: documents.Format = "yaml",
    *,
    file: str = "",
    folder: str = ".",
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Like `load`, from text. Relative `file:` references are relative to `folder`."""
    with _no_collections():
        return _loads(text, kind, file, folder, environ)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Pause the cycle collector: it would repeatedly visit every node and value of a large
    document, none of which is garbage (measured: two and a half times as long)."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _loads(
    text: str,
    kind: documents.Format,
    file: str,
    folder: str,
    environ: Mapping[str, str] | None,
) -> Loaded:
    lines = documents.Lines(text, kind)
    references = References(os.environ if environ is None else environ, folder)
    try:
        data = documents.parse(text, kind)
        if data is None:
            raise ConfigurationError("the document is empty", hint="Begin with `version: 1`.")
        if isinstance(data, dict):
            data = {k: v for k, v in data.items() if k != "$schema" and not k.startswith("x-")}
        with relative_to(folder):
            gateway = codec.decode(references.resolve(data), Gateway)
        check.require(gateway)
    except ConfigurationError as error:
        raise _locate(error, file, lines) from None
    return Loaded(
        gateway,
        codec.digest(gateway),
        text,
        lines,
        file,
        tuple(references.files),
        tuple(_locate(warning, file, lines) for warning in check.warnings(gateway)),
    )


def _locate(error: ConfigurationError, file: str, lines: documents.Lines) -> ConfigurationError:
    for one in error:
        if one.file is not None and one.file != file:
            continue  # it is about another file
        one.file = file or None
        if one.line is None and one.path:
            one.line = lines.of(one.path)
    return error
