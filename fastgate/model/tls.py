# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""TLS: certificates, authorities, and how listeners, upstreams and routes use them.

The document names certificates and authorities and says where their files are; it contains none of
them, and no key. The files are read by `fastgate.certificates`.

    certificates  ◀── listeners[].tls, upstreams[].tls.certificate, control.tls
    authorities   ◀── listeners[].tls.client, upstreams[].tls.authority, routes[].client_certificate
    acme          ◀── certificates[].acme
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

from msgspec import Meta

from fastgate.model.base import Model, Name, worded
from fastgate.model.places import host_name
from fastgate.model.secret import PemPlace, Secret
from fastgate.model.units import Duration

SYSTEM = "system"
"""The authority that consists of the root certificates of the operating system."""

DIRECTORIES = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}
"""The directories of ACME authorities that need no section in the document."""

PRELOAD_LEAST = Duration.parse("365d")
"""What browsers require of `max_age` before they preload a host (https://hstspreload.org)."""

TlsVersion = Annotated[
    Literal["1.2", "1.3"],
    Meta(extra_json_schema={"enum": ["1.2", "1.3", 1.2, 1.3]}),
]
AuthorityName = Annotated[str, Meta(min_length=1)]
Pin = Annotated[
    str,
    Meta(
        pattern=worded(
            r"^sha256/[A-Za-z0-9+/]{43}=$",
            "a pin: 'sha256/' and the SHA-256 of a public key in base64",
        )
    ),
]
"""A public key, by its SHA-256."""

# ---- certificates and authorities -------------------------------------------------------


class Certificate(Model, frozen=True, kw_only=True):
    """A certificate that the gateway presents: from files, or from an ACME authority."""

    name: Annotated[Name, Meta(description="The name that listeners and upstreams use.")]
    hosts: Annotated[
        list[str],
        Meta(
            max_length=100,
            description="Hosts it is for: `shop.example.com`, `*.example.com` (one label in "
            "front). Required with `acme`. With files: default, those in the certificate; it must "
            "be valid for each one that is given.",
        ),
    ] = []
    cert: Annotated[
        PemPlace | None,
        Meta(
            description="The certificate and the intermediate certificates in PEM form, in any "
            "order. The file may contain the key too."
        ),
    ] = None
    key: Annotated[
        PemPlace | None,
        Meta(
            description="The private key in PEM form: RSA, ECDSA or Ed25519, not encrypted. The "
            "file must belong to the gateway's user or root and have mode 0640 or less. Default: "
            "the key in `cert`."
        ),
    ] = None
    acme: Annotated[
        str | None,
        Meta(
            description="The ACME authority that issues it instead, by name: `letsencrypt`, "
            "`letsencrypt-staging`, or one of `acme`."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.acme is not None:
            for name in ("cert", "key"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: the ACME authority issues it; leave out {name}")
            if not self.hosts:
                raise ValueError("hosts: write the hosts that the certificate is for")
        elif self.cert is None:
            raise ValueError("give cert (and key), or acme")
        seen: set[str] = set()
        for index, host in enumerate(self.hosts):
            check_certificate_host(f"hosts[{index}]", host)
            if host in seen:
                raise ValueError(f"hosts[{index}]: {host!r} is there twice")
            seen.add(host)


def check_certificate_host(field: str, host: str) -> None:
    """Raise ValueError unless `host` can be in a certificate: a name, or a wildcard for a label."""
    if not host.isascii():
        raise ValueError(
            f"{field}: {host!r}: write international names in their ASCII form, 'xn--…'"
        )
    if host != host.lower():
        raise ValueError(f"{field}: {host!r}: write hosts in lower case")
    if not host_name(host.removeprefix("*.")):
        raise ValueError(
            f"{field}: {host!r} is not a host such as 'shop.example.com' or '*.example.com'"
        )


class Authority(Model, frozen=True, kw_only=True):
    """An authority whose certificates are accepted: of clients, or of upstreams."""

    name: Annotated[
        Name,
        Meta(
            description="The name that listeners, routes and upstreams use. `system` is built in: "
            "the root certificates of the operating system, for upstreams."
        ),
    ]
    ca: Annotated[
        PemPlace,
        Meta(description="Its certificates in PEM form: the root, and intermediate ones."),
    ]
    crl: Annotated[
        PemPlace | None,
        Meta(
            description="Its revocation lists (CRL) in PEM form, one for each authority in a "
            "chain. Certificates in them are refused; so is everything once a list has expired."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.name == SYSTEM:
            raise ValueError(
                f"name: {SYSTEM!r} is the name of the operating system's root certificates; "
                "choose another one"
            )


class AcmeBinding(Model, frozen=True, kw_only=True):
    """The external account that an ACME authority requires (RFC 8555, 7.3.4)."""

    kid: Annotated[str, Meta(min_length=1, description="The key identifier it has given you.")]
    key: Annotated[Secret, Meta(description="Where the HMAC key is, in base64url.")]


class Acme(Model, frozen=True, kw_only=True):
    """An ACME authority (RFC 8555), which issues and renews certificates by itself.

    Using it means accepting its terms of service. `letsencrypt` needs no section.
    """

    name: Annotated[Name, Meta(description="The name that certificates use.")]
    email: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^[^\s@,;<>]{1,64}@[^\s@,;<>]{1,255}$", "an address such as 'ops@example.com'"
                )
            ),
        ]
        | None,
        Meta(description="Where the authority may write about problems."),
    ] = None
    challenge: Annotated[
        Literal["http-01", "tls-alpn-01"],
        Meta(
            description="How control of a host is proved: `http-01` needs port 80 of the host to "
            "lead to a listener without TLS; `tls-alpn-01` port 443 to one with TLS."
        ),
    ] = "http-01"
    directory: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^https://[\x21\x23-\x3b\x3d\x3f-\x7e]{1,500}$",
                    "an address that begins with 'https://', without spaces or quotes",
                )
            ),
        ]
        | None,
        Meta(
            description="The address of its directory. Default: for the names `letsencrypt` and "
            "`letsencrypt-staging`, theirs."
        ),
    ] = None
    eab: Annotated[
        AcmeBinding | None,
        Meta(description="The external account, if the authority requires one."),
    ] = None
    ca: Annotated[
        PemPlace | None,
        Meta(
            description="Certificates in PEM form that verify the authority's own server. Default: "
            "those of the operating system."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.directory is None and self.name not in DIRECTORIES:
            raise ValueError(
                "directory: only known for "
                f"{' and '.join(DIRECTORIES)}; write the address of the authority's directory"
            )

    @property
    def url(self) -> str:
        """The address of its directory."""
        return self.directory or DIRECTORIES[self.name]


# ---- listeners and routes ---------------------------------------------------------------


class Hsts(Model, frozen=True, kw_only=True):
    """`Strict-Transport-Security` (RFC 6797): browsers use nothing but HTTPS from then on."""

    max_age: Annotated[Duration, Meta(description="For how long. `0s`: no longer.")]
    include_subdomains: Annotated[
        bool, Meta(description="Whether it is for all subdomains of the host too.")
    ] = False
    preload: Annotated[
        bool,
        Meta(
            description="Whether browsers may include the host in their lists. Needs "
            "`include_subdomains` and a `max_age` of a year, and cannot be undone quickly."
        ),
    ] = False

    def __post_init__(self) -> None:
        if self.max_age.ns % 1_000_000_000:
            raise ValueError(f"max_age: {self.max_age} is not a whole number of seconds")
        if self.preload and not self.include_subdomains:
            raise ValueError("preload: needs include_subdomains")
        if self.preload and self.max_age.ns < PRELOAD_LEAST.ns:
            raise ValueError(f"preload: needs a max_age of at least {PRELOAD_LEAST}")


class ListenerClient(Model, frozen=True, kw_only=True):
    """Client certificates, asked for in every handshake of a listener."""

    authorities: Annotated[
        list[AuthorityName],
        Meta(min_length=1, description="Who may have issued them, by name."),
    ]
    required: Annotated[
        bool,
        Meta(
            description="Whether a handshake without a valid certificate fails. `false`: routes "
            "decide, with `client_certificate`."
        ),
    ] = True


class ListenerTls(Model, frozen=True, kw_only=True):
    """TLS at a listener."""

    certificates: Annotated[
        list[str],
        Meta(
            description="Certificates, by name. A client gets the first one that is valid for the "
            "host it asks for, or else the first of all. Default: all that are configured, in "
            "their order."
        ),
    ] = []
    min: Annotated[TlsVersion, Meta(description="The lowest version of TLS: `1.2` or `1.3`.")] = (
        "1.2"
    )
    hsts: Annotated[
        Hsts | None,
        Meta(description="Send `Strict-Transport-Security`. Default: it is not sent."),
    ] = None
    client: Annotated[
        ListenerClient | None,
        Meta(
            description="Ask for client certificates. Default: only for hosts of routes with "
            "`client_certificate`."
        ),
    ] = None
    strict_names: Annotated[
        bool,
        Meta(
            description="Refuse handshakes for hosts without a certificate, and those without a "
            "host, instead of presenting the first certificate."
        ),
    ] = False


class ClientCertificate(Model, frozen=True, kw_only=True):
    """The client certificate that a route asks for."""

    authorities: Annotated[
        list[AuthorityName],
        Meta(min_length=1, description="Who may have issued it, by name."),
    ]
    required: Annotated[
        bool,
        Meta(description="Refuse requests without one (403). `false`: they pass."),
    ] = True
    forward: Annotated[
        bool,
        Meta(
            description="Send the certificate to the upstream, in `Client-Cert` and "
            "`Client-Cert-Chain` (RFC 9440). What clients send in these fields is always removed."
        ),
    ] = False


# ---- upstreams and control --------------------------------------------------------------


class UpstreamTls(Model, frozen=True, kw_only=True):
    """TLS to the `https` targets of an upstream."""

    name: Annotated[
        Annotated[str, Meta(max_length=253)] | None,
        Meta(
            description="The host to ask for, which the certificate must be valid for. Default: "
            "the target's own host or IP address."
        ),
    ] = None
    authority: Annotated[
        AuthorityName,
        Meta(
            description="Who must have issued the certificate, by name. `system`: any authority "
            "that the operating system trusts."
        ),
    ] = SYSTEM
    certificate: Annotated[
        str | None, Meta(description="The certificate that we present, by name. Default: none.")
    ] = None
    pins: Annotated[
        list[Pin],
        Meta(
            max_length=16,
            description="Public keys, one of which must be in the chain: `sha256/` and the SHA-256 "
            "of the SubjectPublicKeyInfo in base64. Default: any.",
        ),
    ] = []
    min: Annotated[TlsVersion, Meta(description="The lowest version of TLS: `1.2` or `1.3`.")] = (
        "1.2"
    )
    verify: Annotated[
        bool,
        Meta(
            description="`false`: accept any certificate, also that of an attacker. For tests "
            "alone; there is a warning at each start and reload."
        ),
    ] = True

    def __post_init__(self) -> None:
        if self.name is not None and not host_name(self.name):
            raise ValueError(f"name: {self.name!r} is not a host name in lower case")
        if not self.verify:
            for name, given in (("authority", self.authority != SYSTEM), ("pins", self.pins)):
                if given:
                    raise ValueError(f"{name}: nothing is verified; leave out verify or {name}")


def pin_digest(pin: str) -> bytes:
    """The SHA-256 of a public key that a pin of `UpstreamTls` is."""
    return base64.b64decode(pin.removeprefix("sha256/"))


class ControlTls(Model, frozen=True, kw_only=True):
    """TLS of the control API."""

    certificate: Annotated[str, Meta(min_length=1, description="Its certificate, by name.")]
