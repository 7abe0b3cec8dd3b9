"""Schemas of a description as JSON Schema 2020-12, whatever the description's version.

- References become references to definitions: each referred schema is converted once.
- OpenAPI 3.0: `nullable`, boolean `exclusiveMinimum`, and nothing beside `$ref` counts.
- `readOnly` properties are not required: they belong to answers.
- Formats that JSON Schema does not have become bounds (`int32`, `int64`).
- What has no effect on validation is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fastgate.validation.program import DISCRIMINATOR, READ_ONLY, Schema
from fastgate.validation.source import Node, Sources

_ONE = (
    "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
"""Keywords with one schema."""
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("dependentSchemas", "patternProperties", "properties")
_PLAIN = (
    "const", "dependentRequired", "enum", "exclusiveMaximum", "exclusiveMinimum", "format",
    "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains", "minItems",
    "minLength", "minProperties", "minimum", "multipleOf", "pattern", "required", "type",
    "uniqueItems",
)  # fmt: skip
_UNSUPPORTED = {
    "$dynamicRef": "Use `$ref`.",
    "$recursiveRef": "Use `$ref`.",
    "$vocabulary": None,
}
_DIALECTS = re.compile(
    r"https://(json-schema\.org/draft/2020-12/schema|spec\.openapis\.org/oas/3\.\d/dialect/\S+)#?"
)
_INTEGERS = {"int32": 31, "int64": 63}
_WRAPPED = ("allOf", "anyOf", "oneOf")


class Schemas:
    """Converts the schemas of one description."""

    def __init__(self, sources: Sources, *, old: bool) -> None:
        """old: the description is of OpenAPI 3.0."""
        self.definitions: dict[str, Schema] = {}
        self.origins: dict[str, Node] = {}
        """Where each definition comes from."""
        self._sources = sources
        self._old = old
        self._names: dict[tuple[str, tuple[str | int, ...]], str] = {}
        self._waiting: list[tuple[str, Node]] = []

    def converted(self, node: Node) -> Schema:
        """A schema, and into `definitions` all that it refers to. Raises ConfigurationError."""
        schema = self._schema(node, ())
        while self._waiting:
            name, target = self._waiting.pop()
            self.definitions[name] = self._schema(target, ())
        return schema

    def _schema(self, node: Node, read_only: Iterable[str]) -> Schema:
        value = node.value
        if isinstance(value, bool):
            return value
        self._sources.mapping(node, "a schema")
        reference = node.get("$ref")
        if reference is not None and isinstance(reference.value, str):
            referred = {"$ref": f"#/$defs/{self._name(reference)}"}
            if self._old or not any(self._counts(key) for key in value if key != "$ref"):
                return referred
            return {**self._keywords(node, read_only), **referred}
        self._check(node)
        return self._keywords(node, read_only)

    @staticmethod
    def _counts(key: str) -> bool:
        return key in (*_ONE, *_MANY, *_NAMED, *_PLAIN)

    def _check(self, node: Node) -> None:
        for key, hint in _UNSUPPORTED.items():
            if key in node.value:
                raise self._sources.fault(
                    node.below([key]), f"{key} in schemas is not supported", hint
                )
        if "$id" in node.value and node.at and isinstance(node.value["$id"], str):
            raise self._sources.fault(
                node.below(["$id"]),
                "$id inside a file is not supported",
                "Leave it out: references are places in files.",
            )
        dialect = self._sources.text(node, "$schema")
        if dialect is not None and not _DIALECTS.fullmatch(dialect):
            raise self._sources.fault(
                node.below(["$schema"]),
                f"the schema is of {dialect!r}; only JSON Schema 2020-12 is supported",
                "Convert it, or leave out $schema if it is valid for 2020-12, too.",
            )

    def _name(self, reference: Node) -> str:
        """The name of the definition that a reference leads to."""
        target = self._sources.target(reference)
        key = (target.file, target.at)
        name = self._names.get(key)
        if name is None:
            last = target.at[-1] if target.at else re.sub(r".*/|\.\w+$", "", target.file)
            wanted = re.sub(r"[^A-Za-z0-9._-]+", "_", str(last)) or "schema"
            name, number = wanted, 1
            while name in self.origins:
                number += 1
                name = f"{wanted}-{number}"
            self._names[key] = name
            self.origins[name] = target
            self._waiting.append((name, target))
        return name

    # ---- keywords -------------------------------------------------------------------------

    def _keywords(self, node: Node, read_only: Iterable[str]) -> dict[str, Any]:
        value = node.value
        names = {*read_only, *self._read_only(node)}
        built: dict[str, Any] = {key: value[key] for key in _PLAIN if key in value}
        for key in _ONE:
            if (inner := node.get(key)) is not None:
                built[key] = self._schema(inner, ())
        for key in _MANY:
            if (inner := node.get(key)) is not None:
                shared = names if key == "allOf" else ()
                listed = self._sources.listed(inner, key)
                built[key] = [self._schema(one, shared) for one in listed]
        for key in _NAMED:
            if (inner := node.get(key)) is not None:
                found = self._sources.mapping(inner, key).value
                built[key] = {
                    name: self._schema(Node(inner.file, (*inner.at, name), one), ())
                    for name, one in found.items()
                }
        if own := sorted(names & value.get("properties", {}).keys()):
            built[READ_ONLY] = own
        if names and isinstance(required := built.get("required"), list):
            left = [name for name in required if name not in names]
            built["required"] = left
            if not left:
                del built["required"]
        self._format(built)
        self._discriminator(node, built)
        return self._old_keywords(value, built) if self._old else built

    def _read_only(self, node: Node) -> list[str]:
        """The properties that are `readOnly`: of the schema, and of those in its `allOf`."""
        found = []
        properties = node.get("properties")
        if properties is not None and isinstance(properties.value, dict):
            for name, one in properties.value.items():
                at = Node(properties.file, (*properties.at, name), one)
                if self._is_read_only(at):
                    found.append(name)
        parts = node.get("allOf")
        if parts is not None and isinstance(parts.value, list):
            for part in parts.elements():
                if isinstance(part.value, dict) and "$ref" not in part.value:
                    found += self._read_only(part)
                elif isinstance(part.value, dict):
                    target = self._sources.followed(part)
                    if isinstance(target.value, dict) and "allOf" not in target.value:
                        found += self._read_only(target)
        return found

    def _is_read_only(self, node: Node) -> bool:
        if not isinstance(node.value, dict):
            return False
        if node.value.get("readOnly") is True and not (self._old and "$ref" in node.value):
            return True
        target = self._sources.followed(node)
        return isinstance(target.value, dict) and target.value.get("readOnly") is True

    @staticmethod
    def _format(built: dict[str, Any]) -> None:
        """Integers of a format are bounded."""
        bits = _INTEGERS.get(str(built.get("format")))
        if bits is None:
            return
        least, most = -(1 << bits), (1 << bits) - 1
        low, high = built.get("minimum", least), built.get("maximum", most)
        if type(low) in (int, float) and type(high) in (int, float):
            built["minimum"], built["maximum"] = max(least, low), min(most, high)
        del built["format"]

    def _discriminator(self, node: Node, built: dict[str, Any]) -> None:
        """Which alternative a value names, so that errors are about that one."""
        owner = node.get("discriminator")
        key = "oneOf" if "oneOf" in built else "anyOf"
        if owner is None or key not in built:
            return
        name = self._sources.text(self._sources.mapping(owner, "discriminator"), "propertyName")
        if name is None:
            raise self._sources.fault(owner, "discriminator has no propertyName")
        numbers = {
            one["$ref"].removeprefix("#/$defs/"): number
            for number, one in enumerate(built[key])
            if isinstance(one, dict) and "$ref" in one
        }
        alternatives = {}
        for name_of, number in numbers.items():
            at = self.origins[name_of].at
            alternatives[str(at[-1]) if at else name_of] = number
        mapping = owner.get("mapping")
        if mapping is not None:
            for value, place in self._sources.mapping(mapping, "mapping").entries():
                alternatives.update(self._mapped(value, place, numbers))
        built[DISCRIMINATOR] = {"property": name, "alternatives": alternatives}

    def _mapped(self, value: str, place: Node, numbers: dict[str, int]) -> dict[str, int]:
        text = place.value
        if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9._-]+", text):
            plain = numbers.get(text)  # the name of a schema
            if plain is not None:
                return {value: plain}
            if not re.search(r"\.(ya?ml|json)$", text):
                return {}
        target = self._sources.target(place)
        name = self._names.get((target.file, target.at), "")
        return {value: numbers[name]} if name in numbers else {}

    @staticmethod
    def _old_keywords(value: dict[str, Any], built: dict[str, Any]) -> dict[str, Any]:
        """What OpenAPI 3.0 has of its own."""
        for bound in ("Minimum", "Maximum"):
            exclusive = built.get(f"exclusive{bound}")
            if isinstance(exclusive, bool):
                del built[f"exclusive{bound}"]
                if exclusive and bound.lower() in built:
                    built[f"exclusive{bound}"] = built.pop(bound.lower())
        if value.get("nullable") is not True:
            return built
        if isinstance(built.get("type"), str):
            return {**built, "type": [built["type"], "null"]}
        if any(key in built for key in _WRAPPED):
            return {"anyOf": [{"type": "null"}, built]}
        return built
