"""Authentication: a bearer token → a principal with a role.

Tokens come from three places, all known by their SHA-256 only:

| from | id | withdrawn by |
| --- | --- | --- |
| `<state>/admin-token`, made at first start, mode 0600 | `admin-token` | removing the file |
| `control.tokens` of the configuration | `config:<name>` | changing the configuration |
| the store, made through the API | `tok_…` | DELETE /v1/tokens/{id} |

The first two work while the store is unavailable. Of the third kind those are known that were there
when the store was last seen; while it has not been seen since the start, a token that is not known
might be one, so the answer is 503 and not 401.
"""

from __future__ import annotations

import contextlib
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from fastgate.api.problems import Problem, unavailable
from fastgate.api.roles import NEEDS, Permission, Role, allows
from fastgate.errors import NotFoundError
from fastgate.files import replace_file
from fastgate.model.keys import key_digest, new_key, shown_prefix
from fastgate.settings import ADMIN_TOKEN
from fastgate.store.tokens import TOPIC, TokenRow, TokenTable

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

    from fastgate.api.ports import ControlPort
    from fastgate.store.engine import Store
    from fastgate.store.pages import Page


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The caller. `secret` is the token itself, for sealing; it is never stored or shown."""

    id: str
    name: str
    role: Role
    secret: str

    def __repr__(self) -> str:
        return f"Principal({self.id!r}, {self.role!r})"


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new token: `token` is shown only this once."""

    row: TokenRow
    token: str


class Tokens:
    """All tokens of the control API."""

    def __init__(self, control: ControlPort, store: Store, state: Path) -> None:
        """`state`: the directory of the gateway's state, where `admin-token` is."""
        self._control = control
        self._file = state / ADMIN_TOKEN
        self._seen: tuple[int, int, int] | None = None
        self._file_digest: bytes | None = None
        self._table = TokenTable(store)
        self._rows: dict[bytes, TokenRow] | None = None
        self._count = -1
        store.on_ready.append(self.load)
        store.on_change.append(self._changed)

    def ensure_admin_token(self) -> tuple[Path, bool]:
        """Create the first admin token unless it exists. Returns its file, and whether it is new.

        It appears with the token in it, at one stroke: others wait for it. An empty file is as good
        as none. Raises OSError when it can neither be read nor written.
        """
        with contextlib.suppress(FileNotFoundError):
            if self._file.stat().st_size:
                return self._file, False
        replace_file(self._file, [f"{new_key(kind='fgt')}\n".encode()])
        return self._file, True

    # ---- who is it ----------------------------------------------------------------------

    def authenticate(self, token: str) -> Principal:
        """The token's principal. Raises Problem: unauthenticated, or store_unavailable."""
        digest = key_digest(token)
        if (known := self._admin_digest()) and secrets.compare_digest(known, digest):
            return Principal(id=ADMIN_TOKEN, name="admin", role="admin", secret=token)
        for one in self._control.gateway.control.tokens:
            if secrets.compare_digest(one.token.digest, digest):
                return Principal(
                    id=f"config:{one.name}", name=one.name, role=one.role, secret=token
                )
        if self._rows is None:
            raise unavailable(
                "This token is not known yet, and the store, which may know it, cannot be reached."
            )
        row = self._rows.get(digest)
        if row is None:
            raise unauthenticated("The token is unknown. It may have been deleted.", True)
        if row.expires_at is not None and row.expires_at <= datetime.now(UTC):
            raise unauthenticated(f"The token expired at {row.expires_at.isoformat()}.", True)
        return Principal(
            id=row.id, name=row.label or row.id, role=cast(Role, row.role), secret=token
        )

    def _admin_digest(self) -> bytes | None:
        """The digest of the token now in the file, so removing the file revokes the token."""
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                text = self._file.read_text().strip()
                self._file_digest = key_digest(text) if text else None
                self._seen = seen
        except (OSError, ValueError):
            self._seen = self._file_digest = None
        return self._file_digest

    # ---- the store's --------------------------------------------------------------------

    async def load(self) -> None:
        """Read all tokens of the store. Raises StoreError."""
        rows, self._count = await self._table.everything()
        self._rows = {row.digest: row for row in rows}

    async def _changed(self, counts: dict[str, int]) -> None:
        if counts.get(TOPIC) != self._count:
            await self.load()

    async def create(
        self, *, role: Role, label: str, created_by: str, expires_at: datetime | None
    ) -> NewToken:
        """Raises StoreError."""
        token = new_key(kind="fgt")
        row = await self._table.add(
            digest=key_digest(token),
            prefix=shown_prefix(token),
            role=role,
            label=label,
            created_by=created_by,
            expires_at=expires_at,
        )
        await self.load()
        return NewToken(row=row, token=token)

    async def page(self, *, cursor: str | None, limit: int) -> Page[TokenRow]:
        return await self._table.page(cursor=cursor, limit=limit)

    async def get(self, ident: str) -> TokenRow:
        """Raises NotFoundError, StoreError."""
        return await self._table.get(ident)

    async def delete(self, ident: str) -> None:
        """Delete a token; it is refused at once. Raises NotFoundError, Problem, StoreError."""
        if ident == ADMIN_TOKEN:
            raise Problem("conflict", f"Remove the file {self._file} to delete this token.")
        if ident.startswith("config:"):
            raise Problem("conflict", "This token belongs to the configuration; change it there.")
        row = await self._table.get(ident)
        await self._table.delete(ident)
        if self._rows is None:
            raise NotFoundError(f"There is no token {ident!r}.")
        self._rows.pop(row.digest, None)
        await self.load()


def unauthenticated(detail: str, bad: bool) -> Problem:
    """A 401. `bad`: a token was sent and is not valid."""
    challenge = 'Bearer realm="fastgate"' + (', error="invalid_token"' if bad else "")
    return Problem("unauthenticated", detail, headers={"WWW-Authenticate": challenge})


def bearer_of(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The token in the Authorization field; None without one. Raises Problem for another scheme."""
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        return None
    scheme, _, token = values[0].partition(b" ")
    if len(values) > 1 or scheme.lower() != b"bearer" or not token.strip():
        raise unauthenticated("Authorization must be: Bearer TOKEN", True)
    return token.strip().decode("latin-1")


def permit(
    tokens: Tokens, control: ControlPort, scope: Any, permission: Permission
) -> Principal | None:
    """Who asks for something that takes the permission; None if it is open to all. Raises Problem.

    scope: ASGI's, of the request.
    """
    if permission == "open" or (permission == "metrics" and control.gateway.control.metrics_open):
        return None
    token = bearer_of(scope["headers"])
    if token is None:
        raise unauthenticated("Send Authorization: Bearer TOKEN.", False)
    principal = tokens.authenticate(token)
    if not allows(principal.role, permission):
        raise Problem(
            "forbidden",
            f"This needs the role {NEEDS[permission]}; the token has {principal.role}.",
            role=principal.role,
            required_role=NEEDS[permission],
        )
    return principal


def authentication(tokens: Tokens, control: ControlPort) -> Any:
    """The middleware that lets a request through when its token's role allows the handler."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            if cast(Any, scope)["type"] != "http":
                await app(scope, receive, send)
                return
            permission = cast(Any, scope)["route_handler"].opt.get("permission", "read")
            principal = permit(tokens, control, scope, permission)
            if principal is not None:
                scope["user"] = principal
            await app(scope, receive, send)

        return call

    return wrap
