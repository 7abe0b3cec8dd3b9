"""References in the text of a document: to the environment and to files, so that secrets need not
be in the document.

    ${NAME}            the environment variable NAME; an error if it is not set
    ${NAME:-default}   the same, or the default if it is unset or empty
    $${NAME}           the text "${NAME}" itself
    file:path          as a whole text: the content of the file, without its last line break
    {file: path}       the same, as a mapping
    $file:path         the text "file:path" itself

A relative path is relative to the document. The inserted text is not searched for references.

References are only for files. Data sent to the control API may not contain them: the gateway would
read its own environment and files for the caller. There, `literal` refuses references, and
`escaped` escapes outgoing data so that it can be sent back unchanged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from fastgate.errors import ConfigurationError

__all__ = ["References", "escaped", "literal"]

_REFERENCE = re.compile(r"\$(\$?)\{([^{}]*)\}")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-)(.*))?", re.S)
_FILE = "file:"
_NO_FILE = re.compile(r"\$+file:")
_MAX_FILE = 1 << 20


class References:
    """Replaces references with their values."""

    def __init__(self, environ: Mapping[str, str], folder: str) -> None:
        self._environ = environ
        self._folder = folder
        self.files: list[str] = []

    def resolve(self, value: Any, path: str = "") -> Any:
        """`value`, at `path`, with all references replaced.

        Raises ConfigurationError for the first invalid one, with the rest in its `others`.
        """
        return _Texts(self._text).replaced(value, path)

    def _text(self, text: str) -> str:
        if text.startswith(_FILE):
            return self._file(self._environment(text[len(_FILE) :]))
        plain = self._environment(text)
        return plain[1:] if _NO_FILE.match(text) else plain

    def _environment(self, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[1]:
                return match[0][1:]
            variable = _VARIABLE.fullmatch(match[2])
            if variable is None:
                raise ConfigurationError(
                    f"{match[0]!r} is not a reference",
                    hint="Write ${NAME} or ${NAME:-default}; $${ for the characters themselves.",
                )
            found = self._environ.get(variable[1])
            if variable[2] and not found:
                return variable[3]
            if found is None:
                raise ConfigurationError(
                    f"the environment has no {variable[1]}",
                    hint=f"Set it, or write ${{{variable[1]}:-default}}.",
                )
            return found

        return _REFERENCE.sub(replace, text)

    def _file(self, name: str) -> str:
        place = os.path.join(self._folder, name)
        try:
            with open(place, encoding="utf-8") as file:
                text = file.read(_MAX_FILE + 1)
        except OSError as error:
            raise ConfigurationError(
                f"the file {name!r} cannot be read: {error.strerror}"
            ) from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"the file {name!r} is not UTF-8") from None
        if len(text) > _MAX_FILE:
            raise ConfigurationError(f"the file {name!r} is larger than 1 MiB")
        self.files.append(place)
        return text.removesuffix("\n").removesuffix("\r")


def literal(value: Any) -> Any:
    """`value` where references are not allowed: `$${NAME}` and `$file:` are unescaped.

    Raises ConfigurationError for the first reference, with the rest in its `others`.
    """
    return _Texts(_literal).replaced(value, "")


def _literal(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        name = match[2].partition(":")[0]  # not the default, which may be a secret
        raise _refused(f"${{{name}}}", "$${ for the characters themselves")

    if text.startswith(_FILE):
        raise _refused(_FILE, "$file: for the characters themselves")
    unescaped = _REFERENCE.sub(plain, text)
    return unescaped[1:] if _NO_FILE.match(text) else unescaped


def _refused(reference: str, instead: str) -> ConfigurationError:
    return ConfigurationError(
        f"references such as {reference} are allowed in the configuration file, not in the API",
        hint=f"Send the value itself. Write {instead}.",
    )


def escaped(value: Any) -> Any:
    """`value`, escaped so that `literal`, or reading it from a file, returns it unchanged."""
    return _Texts(_escaped).replaced(value, "")


def _escaped(text: str) -> str:
    plain = _REFERENCE.sub(lambda match: f"${match[0]}", text)
    return f"${plain}" if text.lstrip("$").startswith(_FILE) else plain


class _Texts:
    """Replaces text in plain data; a mapping {file: path} is treated as the text "file:path"."""

    def __init__(self, replace: Callable[[str], str]) -> None:
        self._replace = replace
        self._faults: list[ConfigurationError] = []

    def replaced(self, value: Any, path: str) -> Any:
        """A copy of `value`. Raises the first error of `replace`, the rest in its `others`."""
        copy = self._value(value, path)
        if self._faults:
            self._faults[0].others = tuple(self._faults[1:])
            raise self._faults[0]
        return copy

    def _value(self, value: Any, path: str) -> Any:
        if isinstance(value, str):
            if "${" not in value and _FILE not in value:
                return value
            try:
                return self._replace(value)
            except ConfigurationError as error:
                error.path = path
                self._faults.append(error)
                return value
        if isinstance(value, list):
            return [self._value(one, f"{path}[{index}]") for index, one in enumerate(value)]
        if isinstance(value, dict):
            if len(value) == 1 and isinstance(name := value.get("file"), str):
                return self._value(f"{_FILE}{name}", path)
            return {
                key: self._value(one, f"{path}.{key}" if path else key)
                for key, one in value.items()
            }
        return value
