"""Plain data ↔ structs, and the faults of data in words.

    plain data --expand--> full forms --msgspec.convert--> structs --encode--> plain data

`decode` takes what YAML, JSON or TOML give (dicts, lists, texts, numbers) and every short form.
`encode` gives the canonical form: full structs, values in their canonical texts, nothing that
equals its default; decoding it gives an equal struct, encoding that the same data. The digest is
taken over it, so two documents that mean the same have the same digest.
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
from fastgate.model.faults import PASSWORD, dec_hook, explain
from fastgate.model.gateway import Gateway
from fastgate.model.shape import Shape, fields_of, shape_of
from fastgate.model.short import ONE_MAPPING, concurrency_of, expand_one
from fastgate.model.values import Value

T = TypeVar("T")
M = TypeVar("M", bound=Model)

MOST_FAULTS = 100  # that are told beside the first

# ---- decode -----------------------------------------------------------------------------


class _ShortFault(ValueError):
    """A short form that cannot be expanded; `path` grows as it is passed up."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path

    def below(self, place: str) -> _ShortFault:
        """The same, seen from the parent, which has it at `place`."""
        self.path = _joined(place, self.path)
        return self


def _joined(place: str, path: str) -> str:
    return f"{place}{'' if not path or path.startswith('[') else '.'}{path}"


@cache
def _work(struct: type[Model]) -> dict[str, Shape]:
    """The fields of a struct that expansion has something to do with."""
    return {
        field.name: field.shape
        for field in fields_of(struct).values()
        if field.shape.kind in ("struct", "list")
        or (field.shape.kind == "dict" and shape_of(field.shape.item).kind == "struct")
    }


def _expand(struct: type[Model], value: Any) -> Any:
    """`value`, meant as `struct`, in full forms all the way down. `value` is not changed."""
    try:
        value = expand_one(struct, value)
    except ValueError as error:
        raise _ShortFault(str(error)) from None
    if not isinstance(value, dict):
        return value
    work = _work(struct)
    result = None
    for key, entry in value.items():
        shape = work.get(key) if isinstance(key, str) else None
        if shape is None:
            continue
        if key == "concurrency":
            many = isinstance(entry, list)
            entry = (
                [concurrency_of(struct, one) for one in entry]
                if many
                else concurrency_of(struct, entry)
            )
        try:
            full = _expand_shape(shape, entry, key)
        except _ShortFault as fault:
            raise fault.below(key) from None
        if full is not entry or key == "concurrency":
            if result is None:
                result = dict(value)
            result[key] = full
    return value if result is None else result


def _expand_shape(shape: Shape, value: Any, key: str) -> Any:
    if shape.kind == "struct":
        assert shape.struct is not None
        return _expand(shape.struct, value)
    if shape.kind == "list":
        lone = isinstance(value, str | int | float) and not isinstance(value, bool)
        if lone or (isinstance(value, dict) and key in ONE_MAPPING):
            value = [value]
        struct = shape_of(shape.item).struct
        if struct is None or not isinstance(value, list):
            return value
        built = []
        for index, one in enumerate(value):
            try:
                built.append(_expand(struct, one))
            except _ShortFault as fault:
                raise fault.below(f"[{index}]") from None
        return built
    if not isinstance(value, dict):
        return value
    struct = shape_of(shape.item).struct
    assert struct is not None
    entries = {}
    for name, one in value.items():
        try:
            entries[name] = _expand(struct, one)
        except _ShortFault as fault:
            raise fault.below(str(name)) from None
    return entries


def decode(data: Any, struct: type[T] = Gateway) -> T:  # type: ignore[assignment]
    """The struct that plain data stands for, in full or short forms.

    Raises ConfigurationError with the path of the first fault; in its `others`, the first of every
    further part that can be judged for itself (another route, another plan, ...).
    """
    assert issubclass(struct, Model)
    try:
        return _decode(data, struct)
    except ConfigurationError as error:
        others = (one for one in _faults(data, struct) if one.path != error.path)
        error.others = tuple(islice(others, MOST_FAULTS))
        raise


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
    """The faults of the parts of `data`, which is not a sound `struct`, in their order."""
    for place, part, kind in _parts(data, struct):
        if part is None:
            continue  # which a field may have instead
        try:
            decode(part, kind)
        except ConfigurationError as error:
            for one in error:
                yield ConfigurationError(one.message, _joined(place, one.path), hint=one.hint)


def _parts(data: Any, struct: type[Model]) -> Iterator[tuple[str, Any, type[Model]]]:
    """The structs in a struct's plain data: where they are, their data, their types."""
    if not isinstance(data, dict):
        return
    for name, value in data.items():
        shape = _work(struct).get(name) if name != "concurrency" else None
        if shape is None:
            continue
        if shape.struct is not None:
            yield name, value, shape.struct
        elif (kind := shape_of(shape.item).struct) is not None:
            if shape.kind == "list" and isinstance(value, list):
                yield from ((f"{name}[{at}]", one, kind) for at, one in enumerate(value))
            elif shape.kind == "dict" and isinstance(value, dict):
                yield from ((f"{name}.{key}", one, kind) for key, one in value.items())


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
    """Canonical data with passwords in addresses masked, to be shown. Keys are digests already."""
    if isinstance(data, dict):
        return {key: redact(entry) for key, entry in data.items()}
    if isinstance(data, list):
        return [redact(entry) for entry in data]
    return PASSWORD.sub(r"\1***\2", data) if isinstance(data, str) else data
