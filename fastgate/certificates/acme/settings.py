"""What is to be ordered where: the input of the service, without the rest of the configuration."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ChallengeType = Literal["http-01", "tls-alpn-01"]

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.A)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,55}", re.A)


@dataclass(frozen=True, slots=True)
class ExternalAccount:
    """An account with the authority that exists outside ACME (RFC 8555, 7.3.4)."""

    kid: str
    key: str = field(repr=False)
    """The HMAC key, in base64url."""


@dataclass(frozen=True, slots=True)
class Authority:
    """An ACME authority. Naming one in the configuration accepts its terms of service."""

    name: str
    directory: str
    """The URL of its directory; `https` only."""
    challenge: ChallengeType = "http-01"
    email: str | None = None
    external_account: ExternalAccount | None = None
    ca: bytes | None = None
    """Certificates in PEM form that verify its server; None: those of the operating system."""

    @property
    def account_id(self) -> str:
        """The name of the account's folder. Another directory, or another external account, is
        another account."""
        kid = "" if self.external_account is None else self.external_account.kid
        return f"{self.name}-{_digest(self.directory, kid)}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate to have."""

    name: str
    hosts: tuple[str, ...]
    authority: str
    """The name of an authority."""


@dataclass(frozen=True, slots=True)
class AcmeSettings:
    """Everything that the service needs from the configuration."""

    authorities: Mapping[str, Authority] = field(default_factory=dict)
    """By name."""
    certificates: tuple[Wanted, ...] = ()


def basis_of(wanted: Wanted, authority: Authority) -> str:
    """A digest of everything that an order depends on. When it changes, earlier failures say
    nothing about the next attempt."""
    external = authority.external_account
    return _digest(
        *sorted(wanted.hosts),
        authority.directory,
        authority.challenge,
        authority.email or "",
        "" if external is None else external.kid,
        "" if external is None else external.key,
        "" if authority.ca is None else authority.ca.hex(),
    )


def _digest(*parts: str) -> str:
    text = "\0".join(parts)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# ---- what cannot be ordered -------------------------------------------------------------


def host_fault(host: str) -> str | None:
    """Why no certificate can be ordered for this host; None if one can."""
    if host.startswith("*."):
        return (
            f"{host!r} is a wildcard. Authorities issue certificates for wildcards by dns-01 only, "
            "which is not supported. List the hosts, or use a certificate from files"
        )
    if _is_address(host):
        return (
            f"{host!r} is an IP address. Certificates for addresses are not ordered; use one from "
            "files"
        )
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        return f"{host!r} is not a host name in lower case and ASCII form"
    return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def fault_of(wanted: Wanted, settings: AcmeSettings) -> str | None:
    """Why this certificate cannot be ordered at all; None if it can."""
    if not _NAME.fullmatch(wanted.name):
        return f"{wanted.name!r} cannot be the name of a certificate"
    authority = settings.authorities.get(wanted.authority)
    if authority is None:
        return f"there is no ACME authority {wanted.authority!r}"
    if not authority.directory.startswith("https://"):
        return f"the directory {authority.directory!r} must begin with 'https://'"
    if not wanted.hosts:
        return f"the certificate {wanted.name!r} names no host"
    return next((fault for host in wanted.hosts if (fault := host_fault(host))), None)
