"""Plain data ↔ structs, with readable errors.

    plain data --expand--> full forms --msgspec.convert--> structs --encode--> plain data

`decode` accepts the data of YAML, JSON or TOML (dicts, lists, text, numbers) and all short forms.
`encode` returns the canonical form: full structs, canonical text for values, no defaults. Decoding
it gives an equal struct, and encoding that gives the same data. The digest is computed from it, so
documents with the same meaning have the same digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import msgspec

from fastgate.errors import ConfigurationError
from fastgate.model.base import Model
from fastgate.model.faults import below, dec_hook, explain
from fastgate.model.gateway import Gateway
from fastgate.model.shape import Field, fields_of, shape_of
from fastgate.model.short import CONCURRENCY, ONE_MAPPING, concurrency_of, expand_one
from fastgate.model.values import Value, masked

T = TypeVar("T")
M = TypeVar("M", bound=Model)

MOST_FAULTS = 100  # that are reported beside the first

# ---- decode -----------------------------------------------------------------------------


class _ShortFault(ValueError):
    """A short form that cannot be expanded; `path` grows as it is passed up."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path

    def below(self, place: str) -> _ShortFault:
        """The same error, with the path from the parent, which has it at `place`."""
        self.path = _joined(place, self.path)
        return self


def _joined(place: str, path: str) -> str:
    return f"{place}{'' if not path or path.startswith('[') else '.'}{path}"


@cache
def _work(struct: type[Model]) -> dict[str, Field]:
    """The fields of a struct that expansion may change."""
    return {
        field.name: field
        for field in fields_of(struct).values()
        if field.shape.kind in ("struct", "list")
        or (field.shape.kind == "dict" and shape_of(field.shape.item).kind in ("struct", "list"))
    }


def _expand(struct: type[Model], value: Any) -> Any:
    """`value`, as data of `struct`, in full forms at all levels. `value` is not changed."""
    try:
        value = expand_one(struct, value)
    except ValueError as error:
        raise _ShortFault(str(error)) from None
    if not isinstance(value, dict):
        return value
    work = _work(struct)
    result = None
    for key, entry in value.items():
        field = work.get(key) if isinstance(key, str) else None
        if field is None:
            continue
        try:
            full = _expand_field(struct, field, entry)
        except _ShortFault as fault:
            raise fault.below(key) from None
        if full is not entry:
            if result is None:
                result = dict(value)
            result[key] = full
    return value if result is None else result


def _expand_field(struct: type[Model], field: Field, value: Any) -> Any:
    """The value of a field of `struct`, in full forms."""
    shape = field.shape
    if shape.kind == "struct":
        assert shape.struct is not None
        return _expand(shape.struct, value)
    if shape.kind == "list":
        value = _listed(value, field.name)
        inner = shape_of(shape.item).struct
        if inner is None or not isinstance(value, list):
            return value
        if field.name == CONCURRENCY:
            value = [concurrency_of(struct, one) for one in value]
        built = []
        for index, one in enumerate(value):
            try:
                built.append(_expand(inner, one))
            except _ShortFault as fault:
                raise fault.below(f"[{index}]") from None
        return built
    if shape.kind != "dict" or not isinstance(value, dict):
        return value
    item = shape_of(shape.item)
    if item.kind == "list":
        return {name: _listed(one, "") for name, one in value.items()}
    inner = item.struct
    if inner is None:
        return value
    entries = {}
    for name, one in value.items():
        try:
            entries[name] = _expand(inner, one)
        except _ShortFault as fault:
            raise fault.below(str(name)) from None
    return entries


def _listed(value: Any, name: str) -> Any:
    """A list with the value, if a single value is allowed instead of a list."""
    lone = isinstance(value, str | int | float) and not isinstance(value, bool)
    return [value] if lone or (isinstance(value, dict) and name in ONE_MAPPING) else value


def decode(data: Any, struct: type[T] = Gateway) -> T:  # type: ignore[assignment]
    """The struct for plain data in full or short forms.

    Raises ConfigurationError for the first fault in the order of the data, with its path; up to
    `MOST_FAULTS` more are in its `others`.
    """
    assert issubclass(struct, Model)
    try:
        return _decode(data, struct)
    except ConfigurationError as error:
        first, *others = list(islice(_faults(data, struct), 1 + MOST_FAULTS)) or [error]
        first.others = tuple(others)
        raise first from None


def _decode(data: Any, struct: type[M]) -> M:
    try:
        full = _expand(struct, data)
    except _ShortFault as fault:
        raise ConfigurationError(str(fault), path=fault.path) from None
    try:
        return msgspec.convert(full, struct, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        raise explain(str(error), struct, full) from None


def _faults(data: Any, struct: type[Model]) -> Iterator[ConfigurationError]:
    """All errors of `data` as `struct`: of its keys, of each field, and, if there are none of
    these, of the fields together."""
    try:
        full = expand_one(struct, data)
    except ValueError as error:
        yield ConfigurationError(str(error))
        return
    found = 0
    if isinstance(full, dict):
        for one in _faults_of_fields(full, struct):
            found += 1
            yield one
    if not found:
        try:
            _decode(full, struct)
        except ConfigurationError as error:
            yield error


def _faults_of_fields(data: dict[Any, Any], struct: type[Model]) -> Iterator[ConfigurationError]:
    fields = fields_of(struct)
    for key in data:
        if key in fields:
            yield from _faults_of_field(data, struct, fields[key])
        else:
            yield explain(f"Object contains unknown field `{key}`", struct, data)
    for name, field in fields.items():
        if field.required and name not in data:
            yield explain(f"Object missing required field `{name}`", struct, data)


def _faults_of_field(
    data: dict[Any, Any], struct: type[Model], field: Field
) -> Iterator[ConfigurationError]:
    parts = [] if data[field.name] is None else list(_structs_in(data, struct, field))
    for place, part, kind in parts:
        for one in _faults(part, kind):
            one.path = _joined(place, one.path)
            yield one
    if parts:
        return
    try:
        full = _expand_field(struct, field, data[field.name])
        msgspec.convert(full, field.annotation, dec_hook=dec_hook)
    except _ShortFault as fault:
        yield ConfigurationError(str(fault), path=fault.below(field.name).path)
    except msgspec.ValidationError as error:
        yield explain(below(str(error), field.name), struct, {**data, field.name: full})


def _structs_in(
    data: dict[Any, Any], struct: type[Model], field: Field
) -> Iterator[tuple[str, Any, type[Model]]]:
    """The structs in a field: their places, data and types."""
    shape, name, value = field.shape, field.name, data[field.name]
    if shape.struct is not None:
        yield name, value, shape.struct
    elif shape.kind in ("list", "dict") and (kind := shape_of(shape.item).struct) is not None:
        if shape.kind == "dict" and isinstance(value, dict):
            yield from ((f"{name}.{key}", one, kind) for key, one in value.items())
        elif shape.kind == "list" and isinstance(many := _listed(value, name), list):
            for at, one in enumerate(many):
                full = concurrency_of(struct, one) if name == CONCURRENCY else one
                yield f"{name}[{at}]", full, kind


# ---- encode -----------------------------------------------------------------------------


@cache
def _columns(struct: type[Model]) -> tuple[tuple[str, str, bool, Any], ...]:
    """(name, attribute, required, default) of each field."""
    fields = fields_of(struct).values()
    return tuple((f.name, f.attribute, f.required, f.default) for f in fields)


_LEAVES = frozenset({str, int, bool, float, type(None)})


def encode(value: Any) -> Any:
    """The canonical plain data of a struct, list or value."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if isinstance(value, Value):
        return str(value)
    if isinstance(value, Model):
        data = {}
        for name, attribute, required, default in _columns(type(value)):
            entry = getattr(value, attribute)
            if required or (entry is not default and entry != default):
                data[name] = entry if type(entry) in _LEAVES else encode(entry)
        return data
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
    """Canonical data for display: passwords in addresses are masked. Keys are already digests."""
    if isinstance(data, dict):
        return {key: redact(entry) for key, entry in data.items()}
    if isinstance(data, list):
        return [redact(entry) for entry in data]
    return masked(data) if isinstance(data, str) else data
