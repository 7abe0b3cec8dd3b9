"""The objects of an APISIX document: `apisix.yaml`, or what the Admin API answers, as JSON.

routes: [{...}]                                       apisix.yaml
{"list": [{"key": "/apisix/routes/1", "value": {...}}]}   the Admin API, version 3
{"node": {"nodes": [{"key": ..., "value": {...}}]}}       version 2
{"key": "/apisix/routes/1", "value": {...}}               one object
{"routes": {"list": [...]}, "consumers": {...}}           several answers together
"""

from __future__ import annotations

from collections.abc import Iterator

from fastgate.errors import ConfigurationError
from fastgate.importers.source import Fields

WHAT = "a document of APISIX"
KINDS = (
    "routes", "services", "upstreams", "consumers", "credentials", "plugin_configs", "global_rules",
)  # fmt: skip
_OTHERS = (
    "ssls", "ssl", "stream_routes", "consumer_groups", "secrets", "protos", "plugin_metadata",
    "plugins", "config",
)  # fmt: skip
_ANSWER = ("list", "node", "nodes", "value")
_META = ("total", "count", "action", "key", "createdIndex", "modifiedIndex", "dir", "has_more")

Objects = dict[str, list[Fields]]


def objects(root: Fields) -> Objects:
    """The objects of each kind. Raises ConfigurationError if it is no document of APISIX."""
    found: Objects = {kind: [] for kind in KINDS}
    if not root.data.keys() & {*KINDS, *_OTHERS, *_ANSWER}:
        raise ConfigurationError(
            f"this is not {WHAT}: it has no routes",
            hint="Give the file `apisix.yaml`, or an answer of the Admin API such as that of "
            "/apisix/admin/routes.",
        )
    for kind in KINDS:
        if isinstance(root.data.get(kind), dict):
            answer = root.section(kind)
            assert answer is not None
            for what, one in _answered(answer, kind):
                found.setdefault(what, []).append(one)
        else:
            found[kind] += root.sections(kind)
    if root.data.keys() & set(_ANSWER):
        for what, one in _answered(root, ""):
            found.setdefault(what, []).append(one)
    for kind in ("ssls", "ssl"):
        root.lost((kind,), "certificates of listeners; write them under `certificates`")
    root.lost(_OTHERS, "FastGate has nothing like it")
    for kind in found.keys() - set(KINDS):
        for one in found[kind]:
            one.note("lost", f"{kind}: FastGate has nothing like it")
    return found


def _answered(answer: Fields, kind: str) -> Iterator[tuple[str, Fields]]:
    """The objects of an answer, each with its kind. `kind`: if no key says it."""
    answer.skip(*_META)
    key = answer.text("key") or ""
    parts = key.strip("/").split("/")
    value = answer.section("value")
    if value is not None:
        what = parts[-2] if len(parts) > 1 else kind
        if not what:
            raise ConfigurationError(
                "it is not known what this object is",
                answer.path,
                hint='Keep its "key", such as "/apisix/routes/1".',
            )
        if what == "credentials" and len(parts) > 2:
            value.data.setdefault("consumer", parts[-3])
        if what != "consumers" and len(parts) > 1:
            value.data.setdefault("id", parts[-1])
        yield what, value
    node = answer.section("node")
    inner = [] if node is None else [node]
    for one in (*inner, *answer.sections("nodes"), *answer.sections("list")):
        yield from _answered(one, kind)
