"""Loading the configuration: a file's text → a checked `Gateway`, or errors with their lines.

    text --parse--> plain data --references--> texts --codec.decode--> Gateway --check--> Loaded

**References** stand in texts, so that secrets need not be in the file:

    ${NAME}            the environment variable NAME; an error where there is none
    ${NAME:-default}   the same, or the default where it is unset or empty
    $${NAME}           the text "${NAME}" itself
    file:path          as a whole text: what the file holds, without its last line break
    {file: path}       the same, as a mapping

A relative path is relative to the document. What is put in is a text and is not looked at again.
Keys of the top level that begin with "x-" are left to the author (for YAML anchors), and
"$schema" to editors.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fastgate import documents
from fastgate.errors import ConfigurationError
from fastgate.model import check, codec
from fastgate.model.gateway import Gateway
from fastgate.model.schema import json_schema

__all__ = ["Loaded", "json_schema", "load", "loads"]

_REFERENCE = re.compile(r"\$(\$?)\{([^{}]*)\}")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-)(.*))?", re.S)
_MAX_FILE = 1 << 20


class Loaded(NamedTuple):
    """A document that was read and found sound."""

    gateway: Gateway
    digest: str
    """SHA-256 of the canonical document, in hex: the same for documents that mean the same."""
    text: str
    """As read."""
    lines: documents.Lines
    """From a path to its line, for errors that are found later (by the compiler)."""
    file: str
    """Its name, "" for one that is no file."""
    files: tuple[str, ...]
    """Files that it refers to."""
    warnings: tuple[ConfigurationError, ...]
    """What is sound and looks unintended."""

    def locate(self, error: ConfigurationError) -> ConfigurationError:
        """The error, and those with it, with file and line filled in."""
        return _locate(error, self.file, self.lines)


def load(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Loaded:
    """Read and check a configuration file ("-": standard input, as YAML).

    Raises ConfigurationError: with file, path and line where they are known; all faults between
    resources at once in `others`.
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
    """As `load`, from text. `folder` is what relative `file:` references are relative to."""
    with _no_collections():
        return _loads(text, kind, file, folder, environ)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Without the cycle collector: it would look, again and again, at every node and value of a
    large document, none of which is garbage (measured: two and a half times as long)."""
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
    references = _References(os.environ if environ is None else environ, folder)
    try:
        data = documents.parse(text, kind)
        if data is None:
            raise ConfigurationError("the document is empty", hint="Begin with `version: 1`.")
        if isinstance(data, dict):
            data = {k: v for k, v in data.items() if k != "$schema" and not k.startswith("x-")}
        gateway = codec.decode(references.resolve(data, ""), Gateway)
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
        one.file = one.file or file or None
        if one.line is None and one.path:
            one.line = lines.of(one.path)
    return error


class _References:
    """Puts in what texts refer to."""

    def __init__(self, environ: Mapping[str, str], folder: str) -> None:
        self._environ = environ
        self._folder = folder
        self.files: list[str] = []

    def resolve(self, value: Any, path: str) -> Any:
        """`value` with every reference in it replaced."""
        if isinstance(value, str):
            text = self._environment(value, path) if "${" in value else value
            return self._file(text[5:], path) if value.startswith("file:") else text
        if isinstance(value, list):
            return [self.resolve(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, dict):
            if len(value) == 1 and isinstance(name := value.get("file"), str):
                return self._file(self._environment(name, path), path)
            return {
                key: self.resolve(item, f"{path}.{key}" if path else key)
                for key, item in value.items()
            }
        return value

    def _environment(self, text: str, path: str) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[1]:
                return f"${{{match[2]}}}"
            variable = _VARIABLE.fullmatch(match[2])
            if variable is None:
                raise ConfigurationError(
                    f"{match[0]!r} is not a reference",
                    path,
                    hint="Write ${NAME} or ${NAME:-default}; $${ for the characters themselves.",
                )
            found = self._environ.get(variable[1])
            if variable[2] and not found:
                return variable[3]
            if found is None:
                raise ConfigurationError(
                    f"the environment has no {variable[1]}",
                    path,
                    hint=f"Set it, or write ${{{variable[1]}:-default}}.",
                )
            return found

        return _REFERENCE.sub(replace, text)

    def _file(self, name: str, path: str) -> str:
        place = os.path.join(self._folder, name)
        try:
            with open(place, encoding="utf-8") as file:
                text = file.read(_MAX_FILE + 1)
        except OSError as error:
            raise ConfigurationError(
                f"the file {name!r} cannot be read: {error.strerror}", path
            ) from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"the file {name!r} is not UTF-8", path) from None
        if len(text) > _MAX_FILE:
            raise ConfigurationError(f"the file {name!r} is larger than 1 MiB", path)
        self.files.append(place)
        return text.removesuffix("\n").removesuffix("\r")
