"""Plain data ↔ structs, and the faults of data in words.

    plain data --expand--> full forms --msgspec.convert--> structs --encode--> plain data

`decode` takes what YAML, JSON or TOML give (dicts, lists, texts, numbers) and every short form.
`encode` gives the canonical form: full structs, values in their canonical texts, nothing that
equals its default; decoding it gives an equal struct, encoding that the same data. The digest is
taken over it, so two documents that mean the same have the same digest.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

from fastgate.errors import ConfigurationError
from fastgate.model.base import Model
from fastgate.model.faults import PASSWORD, dec_hook, explain
from fastgate.model.gateway import Gateway
from fastgate.model.shape import Shape, fields_of, shape_of
from fastgate.model.short import ONE_MAPPING, concurrency_of, expand_one
from fastgate.model.values import Value

T = TypeVar("T")

# ---- decode -----------------------------------------------------------------------------


class _ShortFault(ValueError):
    """A short form that cannot be expanded."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


def _expand(struct: type[Model], value: Any, path: str) -> Any:
    try:
        value = expand_one(struct, value)
    except ValueError as error:
        raise _ShortFault(str(error), path) from None
    if not isinstance(value, dict):
        return value
    fields = fields_of(struct)
    result: dict[Any, Any] = {}
    for key, entry in value.items():
        field = fields.get(key) if isinstance(key, str) else None
        if field is None:
            result[key] = entry
            continue
        if key == "concurrency" and not isinstance(entry, list):
            entry = concurrency_of(struct, entry)
        elif key == "concurrency":
            entry = [concurrency_of(struct, one) for one in entry]
        result[key] = _expand_shape(field.shape, entry, key, f"{path}.{key}" if path else key)
    return result


def _expand_shape(shape: Shape, value: Any, key: str, path: str) -> Any:
    if shape.kind == "struct":
        assert shape.struct is not None
        return _expand(shape.struct, value, path)
    if shape.kind == "list":
        lone = isinstance(value, str | int | float) and not isinstance(value, bool)
        if lone or (isinstance(value, dict) and key in ONE_MAPPING):
            value = [value]
        inner = shape_of(shape.item)
        if isinstance(value, list) and inner.kind == "struct":
            return [_expand_shape(inner, one, key, f"{path}[{i}]") for i, one in enumerate(value)]
        return value
    if shape.kind == "dict" and isinstance(value, dict):
        inner = shape_of(shape.item)
        if inner.kind == "struct":
            return {k: _expand_shape(inner, v, key, f"{path}.{k}") for k, v in value.items()}
    return value


def decode(data: Any, struct: type[T] = Gateway) -> T:  # type: ignore[assignment]
    """The struct that plain data stands for, in full or short forms.

    Raises ConfigurationError with the path of the first fault.
    """
    assert issubclass(struct, Model)
    try:
        full = _expand(struct, data, "")
    except _ShortFault as fault:
        raise ConfigurationError(str(fault), path=fault.path) from None
    try:
        return msgspec.convert(full, struct, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        raise explain(str(error), struct, full) from None


# ---- encode -----------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """The canonical plain data of a struct, list or value."""
    if isinstance(value, Value):
        return str(value)
    if isinstance(value, msgspec.Struct):
        return {
            field.name: encode(entry)
            for field in fields_of(type(value)).values()
            if (entry := getattr(value, field.attribute)) != field.default or field.required
        }
    if isinstance(value, list):
        return [encode(entry) for entry in value]
    if isinstance(value, dict):
        return {key: encode(entry) for key, entry in value.items()}
    return value


def digest(value: Any) -> str:
    """SHA-256, in hex, of the canonical data: equal for documents that mean the same."""
    data = msgspec.json.encode(encode(value), order="deterministic")
    return hashlib.sha256(data).hexdigest()


def redact(data: Any) -> Any:
    """Canonical data with passwords in addresses masked, to be shown. Keys are digests already."""
    if isinstance(data, dict):
        return {key: redact(entry) for key, entry in data.items()}
    if isinstance(data, list):
        return [redact(entry) for entry in data]
    return PASSWORD.sub(r"\1***\2", data) if isinstance(data, str) else data
