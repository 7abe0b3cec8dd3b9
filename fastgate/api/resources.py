"""Routes, services, upstreams, plans, policies: one named resource of the configuration at a
time. Each change is a change of the whole document: validated, applied on every worker, recorded.

One set of handlers is made for each kind, from the table at the end.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from litestar import Response, delete, get, patch, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from fastgate.api.bodies import etag_of, forbid_existing, json_data, require_match
from fastgate.api.config import shown
from fastgate.api.context import AnyRequest, Ctx, principal
from fastgate.api.describe import spec
from fastgate.api.paging import LIMIT, DryRun, Limit, Text, page_in_memory
from fastgate.api.problems import Problem, invalid
from fastgate.config import references
from fastgate.config.revisions import Applied, Edit
from fastgate.model import codec
from fastgate.model.base import Model
from fastgate.model.gateway import Gateway, Plan, Policy, Route, Service, Upstream
from fastgate.store.pages import Page

Data = dict[str, Any]


class AppliedResource(Applied, frozen=True, kw_only=True):
    """The result of a change, and the resource as it is now (null if deleted)."""

    resource: dict[str, Any] | None


def merge(old: Any, change: Any) -> Any:
    """JSON merge patch (RFC 7396): null removes, objects merge, anything else replaces."""
    if not isinstance(change, dict):
        return change
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


class ResourceKind:
    """One kind of resource: how to find it in a document and put it there."""

    def __init__(self, plural: str, singular: str, struct: type[Model]) -> None:
        self.plural = plural
        self.singular = singular
        self.struct = struct
        self.one = f"{'an' if singular[0] in 'aeiou' else 'a'} {singular}"

    def all(self, gateway: Gateway) -> list[Any]:
        return list(getattr(gateway, self.plural))

    def find(self, gateway: Gateway, name: str) -> Any | None:
        return next((one for one in getattr(gateway, self.plural) if one.name == name), None)

    def get(self, gateway: Gateway, name: str) -> Any:
        """Raises Problem."""
        found = self.find(gateway, name)
        if found is None:
            near = _nearest(name, (one.name for one in getattr(gateway, self.plural)))
            raise Problem("not_found", f"There is no {self.singular} {name!r}.{near}")
        return found

    def put(self, gateway: Gateway, resource: Any) -> Gateway:
        """The document with the resource in place of the one with its name, or at the end."""
        items = self.all(gateway)
        at = next((i for i, one in enumerate(items) if one.name == resource.name), len(items))
        items[at : at + 1] = [resource]
        return msgspec.structs.replace(gateway, **{self.plural: items})

    def remove(self, gateway: Gateway, name: str) -> Gateway:
        items = [one for one in self.all(gateway) if one.name != name]
        return msgspec.structs.replace(gateway, **{self.plural: items})

    def decode(self, data: Data, name: str | None = None) -> Any:
        """Plain data as the struct; `name`: from the path. Raises ConfigurationError, Problem."""
        if name is not None and data.setdefault("name", name) != name:
            raise invalid("name", f"The path says {name!r}; {self.one} keeps its name.")
        return codec.decode(data, self.struct)


def _nearest(name: str, names: Any) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(names), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


async def _given(request: AnyRequest, *more: str) -> Data:
    """The body: an object without references. Raises Problem, ConfigurationError."""
    data = await json_data(request, *more)
    if not isinstance(data, dict):
        raise invalid("", "The body must be an object.")
    return cast(Data, references.literal(data))


async def _change(
    ctx: Ctx, request: AnyRequest, edit: Edit, kind: ResourceKind, name: str, dry_run: bool
) -> tuple[AppliedResource, dict[str, str]]:
    """Make a change; its answer and headers."""
    made: list[Gateway] = []

    def noting(current: Gateway) -> Gateway:
        made.append(edit(current))
        return made[-1]

    applied = await ctx.revisions.change(noting, author=principal(request).name, dry_run=dry_run)
    found = kind.find(made[-1], name)
    data = None if found is None else codec.encode(found)
    headers = {} if data is None else {"ETag": etag_of(data)}
    resource = None if data is None else shown(request, data)
    answer = AppliedResource(**msgspec.structs.asdict(applied), resource=resource)
    return answer, headers


def handlers(kind: ResourceKind) -> list[HTTPRouteHandler]:
    """The six handlers of one kind."""
    plural, singular = kind.plural, kind.singular
    collection, one = f"/v1/{plural}", f"/v1/{plural}/{{name:str}}"
    titled: dict[str, Any] = {"tags": [plural]}

    @get(
        collection,
        name=f"list_{plural}",
        summary=f"List the {plural}",
        opt=spec("read", answer=Page[kind.struct]),  # type: ignore[name-defined]
        **titled,
    )
    async def listed(
        ctx: Ctx, request: AnyRequest, cursor: Text = None, limit: Limit = LIMIT
    ) -> Page[Data]:
        items = kind.all(ctx.control.gateway)
        page = page_in_memory(items, lambda item: str(item.name), cursor, limit)
        return page.map(lambda item: shown(request, codec.encode(item)))

    @post(
        collection,
        name=f"create_{singular}",
        summary=f"Create {kind.one}",
        opt=spec(
            "configure", body=kind.struct, answer=AppliedResource, status=201, etag=True, also=[200]
        ),
        **titled,
    )
    async def create(ctx: Ctx, request: AnyRequest, dry_run: DryRun = False) -> Response[Any]:
        resource = kind.decode(await _given(request))

        def edit(current: Gateway) -> Gateway:
            if kind.find(current, resource.name) is not None:
                raise Problem("conflict", f"There is a {singular} {resource.name!r} already.")
            return kind.put(current, resource)

        answer, headers = await _change(ctx, request, edit, kind, resource.name, dry_run)
        headers["Location"] = f"{collection}/{resource.name}"
        return Response(answer, status_code=200 if dry_run else 201, headers=headers)

    @get(
        one,
        name=f"get_{singular}",
        summary=f"Read {kind.one}",
        opt=spec("read", answer=kind.struct, etag=True),
        **titled,
    )
    async def single(ctx: Ctx, request: AnyRequest, name: FromPath[str]) -> Response[Any]:
        data = codec.encode(kind.get(ctx.control.gateway, name))
        return Response(shown(request, data), headers={"ETag": etag_of(data)})

    @put(
        one,
        name=f"put_{singular}",
        summary=f"Replace {kind.one}, or create it",
        opt=spec(
            "configure",
            body=kind.struct,
            answer=AppliedResource,
            etag=True,
            match="required",
            also=[201],
        ),
        **titled,
    )
    async def replace(
        ctx: Ctx, request: AnyRequest, name: FromPath[str], dry_run: DryRun = False
    ) -> Response[Any]:
        resource = kind.decode(await _given(request), name)
        created = False

        def edit(current: Gateway) -> Gateway:
            nonlocal created
            old = kind.find(current, name)
            created = old is None
            forbid_existing(request, not created)
            if old is not None:
                require_match(request, etag_of(codec.encode(old)))
            elif request.headers.get("if-match") is not None:
                raise Problem("stale", f"There is no {singular} {name!r} now.")
            return kind.put(current, resource)

        answer, headers = await _change(ctx, request, edit, kind, name, dry_run)
        return Response(
            answer, status_code=201 if created and not dry_run else 200, headers=headers
        )

    @patch(
        one,
        name=f"patch_{singular}",
        summary=f"Change some members of {kind.one} (JSON merge patch)",
        opt=spec(
            "configure", body=dict[str, Any], answer=AppliedResource, etag=True, match="required"
        ),
        **titled,
    )
    async def change(
        ctx: Ctx, request: AnyRequest, name: FromPath[str], dry_run: DryRun = False
    ) -> Response[Any]:
        change = await _given(request, "application/merge-patch+json")

        def edit(current: Gateway) -> Gateway:
            old = codec.encode(kind.get(current, name))
            require_match(request, etag_of(old))
            return kind.put(current, kind.decode(merge(old, change), name))

        answer, headers = await _change(ctx, request, edit, kind, name, dry_run)
        return Response(answer, headers=headers)

    @delete(
        one,
        name=f"delete_{singular}",
        summary=f"Delete {kind.one}",
        status_code=200,
        opt=spec("configure", answer=AppliedResource, match="optional"),
        **titled,
    )
    async def remove(
        ctx: Ctx, request: AnyRequest, name: FromPath[str], dry_run: DryRun = False
    ) -> Response[Any]:
        def edit(current: Gateway) -> Gateway:
            old = codec.encode(kind.get(current, name))
            require_match(request, etag_of(old), required=False)
            return kind.remove(current, name)

        answer, headers = await _change(ctx, request, edit, kind, name, dry_run)
        return Response(answer, headers=headers)

    return [listed, create, single, replace, change, remove]


ROUTES = ResourceKind("routes", "route", Route)
KINDS = (
    ROUTES,
    ResourceKind("services", "service", Service),
    ResourceKind("upstreams", "upstream", Upstream),
    ResourceKind("plans", "plan", Plan),
    ResourceKind("policies", "policy", Policy),
)

HANDLERS = [handler for kind in KINDS for handler in handlers(kind)]
