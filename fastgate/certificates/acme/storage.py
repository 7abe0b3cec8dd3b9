"""The files of ACME, in `acme/` of the state directory. All are replaced atomically.

    acme/                                0700
    ├── accounts/AUTHORITY-DIGEST/
    │   ├── account.json                 the account's key, its address once it is registered
    │   └── ca.pem                       what verifies the authority's server, if configured
    └── certificates/NAME/
        ├── certificate.pem              metadata, private key, certificate, intermediate ones
        ├── order.json                   an order in progress, with the key of its certificate
        └── schedule.json                when to renew; failures, and when to try again

Certificate, key and metadata are one file, so that no kill can separate them. It begins with the
metadata in a line of JSON, which programs that read PEM ignore.

Damaged files: a certificate is set aside (`.damaged`) and ordered again; an order or a schedule is
replaced; an account is an error, because its key cannot be replaced.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from fastgate.certificates.acme.problems import AcmeError
from fastgate.certificates.acme.schedule import Schedule
from fastgate.files import replace_file, sync_folder

FOLDER = "acme"
CERTIFICATE, ORDER, SCHEDULE = "certificate.pem", "order.json", "schedule.json"
ACCOUNT, AUTHORITY_CA = "account.json", "ca.pem"

T = TypeVar("T", bound=msgspec.Struct)


class AccountRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An account at an authority."""

    directory: str
    key: str
    """PEM, PKCS #8."""
    url: str = ""
    """Its address; empty: not registered yet."""
    email: str | None = None
    """As the authority has it."""


class OrderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An order in progress."""

    directory: str
    account: str
    """The account's address."""
    url: str
    hosts: list[str]
    key: str
    """The key of the certificate to come: PEM, PKCS #8."""
    placed: datetime


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """Where a certificate came from."""

    directory: str
    account: str
    order: str
    """The order's address."""
    hosts: list[str]
    """As configured when it was ordered."""
    obtained: datetime


class Stored(NamedTuple):
    """A certificate on disk."""

    metadata: Metadata
    pem: str
    """The key and the chain."""


class Storage:
    """The files. Every method may raise AcmeError if the disk does not work."""

    def __init__(self, state: Path) -> None:
        """`state`: the state directory; nothing is created yet."""
        self.path = state / FOLDER

    def prepare(self) -> None:
        """Create the folders, and delete what a killed process left half-written."""
        try:
            for folder in (self.path, self.path / "accounts", self.path / "certificates"):
                folder.mkdir(mode=0o700, exist_ok=True)
                folder.chmod(0o700)
            for leftover in self.path.glob("*/*/.*"):
                leftover.unlink()
        except OSError as error:
            raise _cannot("prepare", self.path, error) from error

    # ---- accounts ---------------------------------------------------------------------------

    def account(self, ident: str) -> AccountRecord | None:
        """The account; None if there is none. Raises AcmeError if its file is damaged."""
        path = self._account(ident) / ACCOUNT
        content = _read(path)
        if content is None:
            return None
        try:
            return msgspec.json.decode(content, type=AccountRecord)
        except msgspec.DecodeError as error:
            raise AcmeError(
                f"The account in {path} cannot be read: {error}. Restore the file, or delete it to "
                "register a new account."
            ) from error

    def write_account(self, ident: str, account: AccountRecord) -> None:
        _write(self._account(ident) / ACCOUNT, msgspec.json.encode(account))

    def write_ca(self, ident: str, content: bytes) -> Path:
        """Store the certificates that verify an authority's server; returns the file's path."""
        path = self._account(ident) / AUTHORITY_CA
        if _read(path) != content:
            _write(path, content)
        return path

    def _account(self, ident: str) -> Path:
        return self.path / "accounts" / ident

    # ---- certificates -----------------------------------------------------------------------

    def file_of(self, name: str) -> Path:
        """The file of a certificate."""
        return self.path / "certificates" / name / CERTIFICATE

    def certificate(self, name: str) -> Stored | None:
        """The certificate; None if there is none. Raises ValueError if its file is damaged."""
        content = _read(self.file_of(name))
        if content is None:
            return None
        line, _, pem = content.decode(errors="replace").partition("\n")
        try:
            return Stored(msgspec.json.decode(line, type=Metadata), pem)
        except msgspec.DecodeError as error:
            raise ValueError(f"its first line cannot be read: {error}") from error

    def write_certificate(self, name: str, stored: Stored) -> None:
        line = msgspec.json.encode(stored.metadata).decode()
        _write(self.file_of(name), f"{line}\n{stored.pem}".encode())

    def set_aside(self, name: str) -> Path:
        """Rename a damaged certificate so that it is kept; returns its new path."""
        path = self.file_of(name)
        damaged = path.with_name(f"{path.name}.damaged")
        with contextlib.suppress(OSError):
            path.rename(damaged)
        return damaged

    def order(self, name: str) -> OrderRecord | None:
        """The order in progress; None if there is none, or its file is damaged."""
        return _decode(self.file_of(name).with_name(ORDER), OrderRecord)

    def write_order(self, name: str, order: OrderRecord) -> None:
        _write(self.file_of(name).with_name(ORDER), msgspec.json.encode(order))

    def drop_order(self, name: str) -> None:
        """The order is over."""
        path = self.file_of(name).with_name(ORDER)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _cannot("delete", path, error) from error

    def schedule(self, name: str) -> Schedule:
        """The schedule; a new one if there is none, or its file is damaged."""
        found = _decode(self.file_of(name).with_name(SCHEDULE), Schedule)
        return Schedule() if found is None else found

    def write_schedule(self, name: str, schedule: Schedule) -> None:
        _write(self.file_of(name).with_name(SCHEDULE), msgspec.json.encode(schedule))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot("read", path, error) from error


def _decode(path: Path, kind: type[T]) -> T | None:
    content = _read(path)
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError:
        return None


def _write(path: Path, content: bytes) -> None:
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700)
            sync_folder(path.parent.parent)
        replace_file(path, [content])
    except OSError as error:
        raise _cannot("write", path, error) from error


def _cannot(do: str, path: Path, error: OSError) -> AcmeError:
    return AcmeError(f"Cannot {do} {path}: {error.strerror or error}.")
