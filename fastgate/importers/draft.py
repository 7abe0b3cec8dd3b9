"""A document in the making: names, sections, and the check that the result is valid.

Parts that the check refuses are taken out and reported. A route that names a part that was taken
out goes, too: it would be served without what the part says.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from fastgate.config.compiler import compile_gateway
from fastgate.config.file import loads
from fastgate.config.references import escaped
from fastgate.config.slots import SlotBook
from fastgate.errors import ConfigurationError
from fastgate.importers.report import Report
from fastgate.model import check, codec
from fastgate.model.gateway import Gateway
from fastgate.model.validation import relative_to
from fastgate.model.values import KEY_PATTERN, KeyDigest, masked

SECTIONS = ("upstreams", "services", "policies", "routes", "consumers")
_PART = re.compile(rf"({'|'.join(SECTIONS)})\[(\d+)\]\.?(.*)")
_DECK_VARIABLE = re.compile(r"""\$\{\{\s*env\s+["']([A-Za-z_]\w*)["']\s*\}\}""", re.A)
_NAME_MOST, _PARTY_MOST = 56, 95


class Draft:
    """The sections of a document, and where each part comes from."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.parts: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
        self._places: dict[tuple[str, str], tuple[str, str]] = {}
        self._names: dict[str, set[str]] = {section: set() for section in SECTIONS}
        self._variables: dict[str, str] = {}

    def name(self, section: str, wanted: str) -> str:
        """A valid name that no other part of the section has, as near as possible to `wanted`."""
        party = section == "consumers"
        unfit = r"[^A-Za-z0-9._@+ -]+" if party else r"[^A-Za-z0-9._-]+"
        plain = re.sub(unfit, "-", wanted).strip("-._@+ ") or section[:-1]
        most = _PARTY_MOST if party else _NAME_MOST
        plain = plain[:most]
        taken = self._names[section]
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain[: most - 1 - len(str(number))]}-{number}"
        taken.add(name)
        return name

    def add(self, section: str, part: dict[str, Any], path: str, whose: str) -> None:
        """Add a part that has a name. `path`, `whose`: where it comes from, for the report."""
        self.parts[section].append(part)
        self._places[section, part["name"]] = (path, whose)

    def key(self, key: str, path: str, whose: str) -> str | None:
        """An API key for the document: its digest, or the variable that decK would fill in. None:
        it cannot be one (reported)."""
        variable = _DECK_VARIABLE.fullmatch(key.strip())
        if variable is not None:
            digest = str(KeyDigest.of(f"variable {variable[1]}"))
            self._variables[digest] = f"${{{variable[1]}}}"
            return digest
        if not re.fullmatch(KEY_PATTERN, key):
            self.report.add(
                "lost", path, whose, f"a key: it is not {KeyDigest.WHAT.partition(',')[0]}"
            )
            return None
        return str(KeyDigest.of(key))

    def document(self) -> dict[str, Any]:
        """The document as plain data that `fastgate check` accepts."""
        most = 10 + sum(map(len, self.parts.values()))
        for _ in range(most):
            try:
                self._check()
            except ConfigurationError as error:
                self._take_out(error)
            else:
                break
        document = escaped(self._data())
        for consumer in document.get("consumers", []):
            keys = consumer.get("keys", [])
            consumer["keys"] = [self._variables.get(key, key) for key in keys]
            if not keys:
                del consumer["keys"]
        return dict(document)

    @property
    def environment(self) -> dict[str, str]:
        """Values for the variables that the document refers to, to check it."""
        return {text[2:-1]: f"variable-{text[2:-1]}" for text in self._variables.values()}

    def _data(self) -> dict[str, Any]:
        return {"version": 1, **{name: parts for name, parts in self.parts.items() if parts}}

    def _check(self) -> None:
        with relative_to("."):
            gateway = codec.decode(self._data(), Gateway)
        check.require(gateway)
        compile_gateway(gateway, generation=1, slots=SlotBook(), addresses={})

    def _take_out(self, error: ConfigurationError) -> None:
        out: dict[str, dict[int, str]] = {}
        for one in error:
            found = _PART.match(one.path)
            if found is None:
                raise one
            if self._without_limit(found[1], int(found[2]), found[3]):
                continue
            reason = f"{found[3]}: {one.message}" if found[3] else one.message
            out.setdefault(found[1], {}).setdefault(int(found[2]), masked(reason))
        for section, reasons in out.items():
            kept = []
            for index, part in enumerate(self.parts[section]):
                if index not in reasons:
                    kept.append(part)
                    continue
                path, whose = self._places[section, part["name"]]
                kind = section[:-1].replace("policie", "policy")
                self.report.add(
                    "lost", path, whose, f"the {kind} {part['name']!r}: {reasons[index]}"
                )
            self.parts[section] = kept

    def _without_limit(self, section: str, index: int, place: str) -> bool:
        """Take out a consumer's own limit that replaces no other. False: it is none."""
        part = self.parts[section][index]
        name = place.removeprefix("limits.")
        if section != "consumers" or name == place or name not in part.get("limits", {}):
            return False
        del part["limits"][name]
        if not part["limits"]:
            del part["limits"]
        path, whose = self._places[section, part["name"]]
        self.report.add("open", path, whose, f"its limit {name!r}: no route counts it by consumer")
        return True


def dump(document: dict[str, Any], environment: dict[str, str]) -> str:
    """The document as YAML, read again to be sure that it says the same."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
            return super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = '"' if _looks_like_a_number(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    parts = []
    for key, value in document.items():
        said = yaml.dump(
            {key: value}, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100
        )
        parts.append(said)
    written = "\n".join(parts)
    loads(written, "yaml", environ=environment)
    return written


def _looks_like_a_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
