"""The validator of a route in a worker: a request → None, or what is wrong with it.

A snapshot names it with its settings and its program (`program`), as handlers are named. The
program is read with the first request, and the schema of each operation is compiled with the first
request for it: a reload costs workers nothing. A reload that changes nothing about a validation
goes on with the same validator and what it has compiled.

Parameters and body become one value, `{"query": {"limit": 10}, "body": {…}}`, which one schema
is about:

    request ─ Paths.find ─ values, bodies ─▶ value ─ is_valid ─┬─▶ None
                                                               └─▶ words ─▶ Faults
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol
from weakref import WeakValueDictionary

import jsonschema_rs
import msgspec

from fastgate.model.validation import Options
from fastgate.validation import bodies, program, values
from fastgate.validation.faults import Fault, Faults, listed
from fastgate.validation.formats import compiled
from fastgate.validation.paths import Paths
from fastgate.validation.program import READ_ONLY, Media, Operation, Parameter, Program
from fastgate.validation.words import faults_of

_EVERY_FAULT = 2000
"""Maximum values of a body whose faults are all found; of a larger one, only the first: finding one
takes about 20 µs."""
_COUNTED = 1000
"""Faults are counted up to this number."""
_CONTENT_TYPES = 32
"""Content-Types of an operation that are remembered: clients choose their spelling."""

_known: WeakValueDictionary[str, _Validator] = WeakValueDictionary()


class View(Protocol):
    """A request, as the core shows it to validators (`RequestView`)."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    def field(self, name: bytes) -> str | None: ...


def Validator(text: str) -> _Validator:
    """The validator with these settings, a line of JSON, and this program, the next line."""
    found = _known.get(text)
    if found is None:
        options, _, line = text.partition("\n")
        found = _Validator(msgspec.json.decode(options, type=Options), line)
        _known[text] = found
    return found


class _Compiled:
    """The schema of an operation with one media type of its body."""

    __slots__ = ("schema", "validator")

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = schema
        self.validator: jsonschema_rs.Draft202012Validator = compiled(schema)


class _Prepared:
    """An operation, with all that can be found out before a request."""

    __slots__ = ("body", "compiled", "cookie", "header", "known", "media", "path", "query")

    def __init__(self, operation: Operation) -> None:
        parameters = operation.parameters
        names = {one.name for one in parameters if one.place == "query"}
        self.path = [one for one in parameters if one.place == "path"]
        self.query = [(one, names - {one.name}) for one in parameters if one.place == "query"]
        self.header = [
            (one, one.name.lower().encode("latin-1", "replace"))
            for one in parameters
            if one.place == "header"
        ]
        self.cookie = [one for one in parameters if one.place == "cookie"]
        self.known = frozenset(operation.known)
        self.body = operation.body
        self.media: dict[str | None, Media] = {}  # by Content-Type
        self.compiled: dict[int, _Compiled] = {}  # by id() of the media type


class _Validator:
    def __init__(self, options: Options, line: str) -> None:
        self._options = options
        self._line = line
        self._program: Program | None = None
        self._prepared: dict[int, _Prepared] = {}

    def __call__(self, view: View) -> Faults | None:
        """None: the request is valid."""
        if self._program is None:
            self._begin()
        found = self._paths.find(view.path)
        if found is None:
            return self._unknown("The API's description has no such path")
        method = view.method
        operation = found.operations.get(method)
        if operation is None and method == "HEAD":
            operation = found.operations.get("GET")
        if operation is None:
            there = listed(sorted(found.operations)) if found.operations else "no"
            return self._unknown(
                f"The API's description has no such method for this path; it has {there}"
            )
        return self._checked(view, operation, found.parameters)

    def _begin(self) -> None:
        self._program = program.decode(self._line)
        if self._options.read_only == "refuse":
            _forbid_read_only(self._program.definitions)
        self._paths = Paths(self._program.paths, self._options.prefix)

    def _unknown(self, detail: str) -> Faults | None:
        return Faults([Fault(detail)]) if self._options.unknown == "refuse" else None

    # ---- one request ----------------------------------------------------------------------

    def _checked(
        self, view: View, operation: Operation, parameters: dict[str, str]
    ) -> Faults | None:
        prepared = self._prepared.get(id(operation))
        if prepared is None:
            prepared = self._prepared[id(operation)] = _Prepared(operation)
        faults: list[Fault] = []
        value = self._parameters(view, prepared, parameters, faults)
        media, size = None, 0
        try:
            media, size = self._body(view, prepared, value)
        except bodies.BadBody as error:
            faults.append(error.fault)
        known = prepared.compiled.get(id(media))
        if known is None:
            known = prepared.compiled[id(media)] = self._compile(operation, media)
        if not faults and known.validator.is_valid(value):
            return None
        if size > _EVERY_FAULT:
            try:
                known.validator.validate(value)
            except jsonschema_rs.ValidationError as error:
                faults += faults_of(iter([error]), known.schema)
        else:
            found = faults_of(known.validator.iter_errors(value), known.schema)
            faults += islice(_without(found, faults), _COUNTED)
        return Faults(faults or [Fault("The request is not valid")])

    def _parameters(
        self, view: View, prepared: _Prepared, raw: dict[str, str], faults: list[Fault]
    ) -> dict[str, Any]:
        """The values of the parameters, by place and name."""
        value: dict[str, Any] = {"path": {}, "query": {}, "header": {}, "cookie": {}}
        for one in prepared.path:
            self._put(value, one, faults, values.in_path, raw[one.name], one)
        for one, name in prepared.header:
            if (text := view.field(name)) is not None:
                self._put(value, one, faults, values.in_header, text, one)
        if prepared.query or self._options.unknown_query == "refuse":
            self._query(view.query, prepared, value, faults)
        if prepared.cookie:
            try:
                pairs = values.cookie_pairs(view.field(b"cookie") or "")
            except values.Bad as why:
                faults.append(Fault(str(why), place="header", name="Cookie"))
            else:
                for one in prepared.cookie:
                    self._put(value, one, faults, values.in_pairs, pairs, one, set())
        return value

    def _query(
        self, text: str, prepared: _Prepared, value: dict[str, Any], faults: list[Fault]
    ) -> None:
        try:
            pairs = values.query_pairs(text)
        except values.Bad as why:
            faults.append(Fault(f"The query {why}"))
            return
        known = set(prepared.known)
        for one, others in prepared.query:
            self._put(value, one, faults, values.in_pairs, pairs, one, others)
            known |= values.names_of(one, pairs)
        if self._options.unknown_query == "refuse":
            faults += [
                Fault("is not known", place="query", name=values.clip(name))
                for name in dict.fromkeys(name for name, _ in pairs)
                if name not in known
            ]

    @staticmethod
    def _put(
        value: dict[str, Any],
        one: Parameter,
        faults: list[Fault],
        read: Callable[..., Any],
        *arguments: Any,
    ) -> None:
        """Put the value of a parameter where its schema finds it, or note why it has none."""
        try:
            found = read(*arguments)
        except values.Bad as why:
            faults.append(values.fault(one, why))
            return
        if found is not values.MISSING:
            value[one.place][one.name] = found

    @staticmethod
    def _body(view: View, prepared: _Prepared, value: dict[str, Any]) -> tuple[Media | None, int]:
        """The media type of the body, and how many values it has; puts its data into `value`.

        Raises BadBody.
        """
        body, wanted = view.body, prepared.body
        if wanted is None:
            if body:
                raise bodies.BadBody(Fault("must be empty for this operation", pointer=""))
            return None, 0
        if not body:
            if wanted.required:
                raise bodies.BadBody(Fault("is required", pointer=""))
            return None, 0
        content_type = view.field(b"content-type")
        media = prepared.media.get(content_type)
        if media is None:
            media = bodies.media_of(wanted, content_type)
            if len(prepared.media) < _CONTENT_TYPES:
                prepared.media[content_type] = media
        if media.kind == "other":
            return None, 0
        value["body"], size = bodies.data_of(media, body, view.field(b"content-encoding"))
        return media, size

    def _compile(self, operation: Operation, media: Media | None) -> _Compiled:
        assert self._program is not None
        schema = schema_of(operation, media)
        if self._options.read_only == "refuse":
            _forbid_read_only(schema)
        return _Compiled(program.closed(schema, self._program.definitions))


def _without(found: Any, faults: list[Fault]) -> Any:
    """The faults that are not about a parameter or body whose fault is known already: it has no
    value, which the schema would call missing."""
    named = {(one.place, one.name) for one in faults}
    body = any(one.pointer is not None for one in faults)
    for one in found:
        if (one.place, one.name) not in named or (one.place is None and not body):
            yield one


def schema_of(operation: Operation, media: Media | None) -> dict[str, Any]:
    """The schema of the value that a request becomes."""
    places: dict[str, dict[str, Any]] = {}
    for one in operation.parameters:
        place = places.setdefault(one.place, {"properties": {}, "required": []})
        place["properties"][one.name] = one.schema
        if one.required:
            place["required"].append(one.name)
    properties: dict[str, Any] = dict(places)
    if media is not None:
        properties["body"] = media.schema
    return {"properties": properties}


def _forbid_read_only(schema: Any) -> None:
    """Properties that are `readOnly` match nothing."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            for name in one.get(READ_ONLY, ()) if isinstance(one.get(READ_ONLY), list) else ():
                one["properties"][name] = False
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
