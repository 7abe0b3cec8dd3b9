"""Authorities that are trusted, with their revocation lists, and those of the operating system."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from fastgate.certificates import facts
from fastgate.certificates.pem import CERTIFICATES, CRL, PemError, blocks
from fastgate.certificates.sources import MOST, Content, read_file

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem", "/var/lib/ca-certificates/ca-bundle.pem",
)  # fmt: skip
"""Where distributions keep the root certificates in one file."""


class Trusted(NamedTuple):
    """Certificates that may issue others."""

    certificates: tuple[bytes, ...]
    """DER."""
    crls: tuple[bytes, ...] = ()
    """DER."""
    not_after: int = 0
    """Unix seconds: when the last of the certificates expires; 0: not looked at."""
    crls_until: int = 0
    """Unix seconds: when the first of the lists expires, and everything is refused; 0: none."""
    remarks: tuple[str, ...] = ()


def read_authority(ca: Content, crl: Content | None) -> Trusted:
    """The certificates and lists in these files. Raises PemError."""
    try:
        return _read(ca, crl)
    except PemError as error:
        error.field = error.field or "ca"
        raise
    except ValueError as error:
        raise PemError(f"{ca.where}: a certificate cannot be used: {error}", "", "ca") from None


def _read(ca: Content, crl: Content | None) -> Trusted:
    certificates = facts.certificates_in(blocks(ca.data, ca.where), ca.where)
    if not certificates:
        raise PemError(f"{ca.where} has no certificate", "`ca` is the authority's certificate.")
    for each in certificates:
        if not facts.is_authority(each) and not facts.self_issued(each):
            raise PemError(
                f"{ca.where}: {facts.name_of(each)} is not an authority: its certificate may not "
                f"issue others",
                f"Use the certificate of its issuer, {facts.issuer_of(each)}.",
            )
    lists = [] if crl is None else _lists(crl, certificates)
    return Trusted(
        certificates=tuple(map(facts.der_of, certificates)),
        crls=tuple(der for der, _ in lists),
        not_after=max(map(facts.ends, certificates)),
        crls_until=min((_until(each) for _, each in lists), default=0),
        remarks=tuple(_unlisted(crl, certificates, [each for _, each in lists])),
    )


def _lists(
    crl: Content, certificates: Sequence[x509.Certificate]
) -> list[tuple[bytes, x509.CertificateRevocationList]]:
    """The revocation lists in a file, each verified."""
    found = []
    try:
        for block in blocks(crl.data, crl.where):
            if block.label == CRL:
                found.append((block.der, x509.load_der_x509_crl(block.der)))
        if not found:
            raise PemError(
                f"{crl.where} has no revocation list",
                "One in PEM form begins with the line -----BEGIN X509 CRL-----.",
            )
        for _, each in found:
            _check_issuer(each, certificates, crl.where)
    except PemError as error:
        error.field = "crl"
        raise
    except ValueError as error:
        raise PemError(f"{crl.where}: a list cannot be read: {error}", "", "crl") from None
    return found


def _check_issuer(
    crl: x509.CertificateRevocationList, certificates: Sequence[x509.Certificate], where: str
) -> None:
    named = [each for each in certificates if each.subject == crl.issuer]
    if not named:
        raise PemError(
            f"{where}: a list was issued by {crl.issuer.rfc4514_string()}, whose certificate is "
            "not in `ca`",
            "Add the certificate to `ca`, or use the lists of these authorities.",
        )
    if not any(crl.is_signature_valid(each.public_key()) for each in named):  # type: ignore[arg-type]
        raise PemError(
            f"{where}: the list of {facts.name_of(named[0])} is not signed with its key",
            "Download it again.",
        )


def _until(crl: x509.CertificateRevocationList) -> int:
    following = crl.next_update_utc
    return 1 << 62 if following is None else int(following.timestamp())


def _unlisted(
    crl: Content | None,
    certificates: Sequence[x509.Certificate],
    lists: Sequence[x509.CertificateRevocationList],
) -> list[str]:
    """Remarks about authorities without a list: certificates from them cannot be accepted."""
    if crl is None:
        return []
    listed = {each.issuer.public_bytes() for each in lists}
    return [
        f"{crl.where} has no list of {facts.name_of(each)}, so certificates that it has issued are "
        "refused"
        for each in certificates
        if facts.is_authority(each) and each.subject.public_bytes() not in listed
    ]


# ---- the operating system's -------------------------------------------------------------


def system_roots(
    environ: Mapping[str, str] = os.environ,
) -> tuple[Trusted, list[Content]]:
    """The root certificates of the operating system, and the files they are in: those of
    SSL_CERT_FILE and SSL_CERT_DIR if they are set, else where OpenSSL or the distribution has them.

    Raises PemError."""
    given = [environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if environ.get(name)]
    usual = ssl.get_default_verify_paths()
    places = given or [usual.openssl_cafile, *_BUNDLES, usual.openssl_capath]
    for place in places:
        found, contents = _in_place(place)
        if found:
            return Trusted(tuple(dict.fromkeys(found))), contents
    raise PemError(
        f"there are no root certificates in {' or '.join(given)}"
        if given
        else "this machine has no root certificates",
        "Install the package ca-certificates, or set SSL_CERT_FILE to a file with them, or name an "
        "authority of `authorities`.",
    )


def _in_place(place: str) -> tuple[list[bytes], list[Content]]:
    """The certificates in a file, or in all files of a directory."""
    path = Path(place)
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix in (".pem", ".crt", ".0"))
    elif not path.is_file():
        return [], []
    ders: list[bytes] = []
    contents: list[Content] = []
    for file in files:
        try:
            if file.stat().st_size > MOST:
                continue
            content = read_file(str(file))
            found = blocks(content.data, content.where)
        except (OSError, PemError):
            continue  # a directory of certificates has other files too
        contents.append(content)
        ders += [block.der for block in found if block.label in CERTIFICATES]
    return ders, contents
