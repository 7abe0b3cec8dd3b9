"""TLS in a comparison: one certificate, one version, one cipher suite and one group for everybody.

The generator and the backend offer nothing else, so each proxy negotiates the same, and a run in
which something else came of it is void. So is one whose handshakes were not of the kind asked for:
full ones where sessions should have been resumed, or many over connections that are kept.

Certificates are made by `openssl`: self-signed, one file for each kind of key, which is authority
and certificate at once. Which libssl a proxy uses is read from the memory map of its workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.compare.subjects import NAME, Unavailable

KEYS = {
    "ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "rsa": ["-newkey", "rsa:2048"],
}
SEEN_KEYS = {"ecdsa": "EC-256", "rsa": "RSA-2048"}
SUITES = {
    ("ecdsa", "1.3"): "TLS_AES_256_GCM_SHA384",
    ("rsa", "1.3"): "TLS_AES_256_GCM_SHA384",
    ("ecdsa", "1.2"): "ECDHE-ECDSA-AES256-GCM-SHA384",
    ("rsa", "1.2"): "ECDHE-RSA-AES256-GCM-SHA384",
}
GROUP = "X25519"
WITH_CURVE = f"{GROUP}:P-256"  # TLS 1.2: the curve of an ECDSA key must be among the groups, too
OTHERWISE = (
    0.01  # so many of a window's handshakes may be of another kind, or of its requests have one
)


@dataclass(frozen=True)
class Files:
    """A certificate, which is its own authority, and its key: PEM."""

    cert: Path
    key: Path


def certificates(folder: Path) -> dict[str, Files]:
    """One for each kind of key. Raises Unavailable without `openssl`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise Unavailable("apt-get install openssl")
    folder.mkdir(exist_ok=True)
    made = {}
    for kind, key in KEYS.items():
        files = Files(folder / f"{kind}.pem", folder / f"{kind}.key")
        subprocess.run(
            [openssl, "req", "-x509", *key, "-nodes", "-days", "2", "-subj", f"/CN={NAME}",
             "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", files.key, "-out", files.cert],
            check=True, capture_output=True,
        )  # fmt: skip
        files.key.chmod(0o600)
        made[kind] = files
    return made


@dataclass(frozen=True)
class Tls:
    """How clients of a scenario speak TLS."""

    key: str = "ecdsa"  # of the certificate: one of KEYS
    version: str = "1.3"
    resume: bool = False  # handshakes offer the session of the last one

    @property
    def suite(self) -> str:
        return SUITES[self.key, self.version]

    def arguments(self, ca: Path) -> list[str]:
        """For the load generator."""
        group = GROUP if self.version == "1.3" else WITH_CURVE
        given = ["--tls", "--tls-ca", str(ca), "--tls-name", NAME]
        given += ["--tls-version", self.version, "--tls-cipher", self.suite, "--tls-group", group]
        return given + ["--tls-resume"] * self.resume


@dataclass(frozen=True)
class Agreed:
    """What the generator saw of TLS in a run."""

    version: str
    cipher: str
    group: str
    key: str
    error: str  # of the first handshake that failed
    full: int  # handshakes of the whole run
    resumed: int
    refused: int  # sessions that were offered, for which the server did a full one
    unoffered: int  # with resumption: handshakes for which the client had no session
    bare_ends: int  # connections that ended without close_notify
    window_full: int
    window_resumed: int

    @classmethod
    def read(cls, shape: dict[str, Any]) -> Agreed:
        """As the generator writes it. Raises KeyError."""
        return cls(**{name: shape[name] for name in cls.__dataclass_fields__})

    @property
    def handshakes(self) -> int:
        """In the window."""
        return self.window_full + self.window_resumed


def objection(agreed: Agreed, asked: Tls, responses: int, *, fresh: bool) -> str:
    """Why a run is not what was asked for; "" if it is. `fresh`: a connection for each request.
    `responses`: those in the window."""
    if not agreed.full:
        return f"no handshake: {agreed.error or 'nobody answered'}"
    seen = (agreed.version, agreed.cipher, agreed.group.lower(), agreed.key)
    meant = (f"TLSv{asked.version}", asked.suite, GROUP.lower(), SEEN_KEYS[asked.key])
    if seen != meant:
        return f"agreed on {', '.join(seen)}; asked for {', '.join(meant)}"
    if not fresh and agreed.handshakes > OTHERWISE * responses:
        return f"{agreed.handshakes} handshakes in the window, over connections that are kept"
    if fresh and not agreed.handshakes:
        return "no handshake in the window"
    wrong = agreed.window_full if asked.resume else agreed.window_resumed
    if fresh and wrong > OTHERWISE * agreed.handshakes:
        kind = "full" if asked.resume else "resumed"
        found = f"{wrong} of {agreed.handshakes} handshakes were {kind} ones"
        if asked.resume:
            found += f"; in all, {agreed.refused} sessions were refused, {agreed.unoffered} missing"
        return found
    return ""


@cache
def version_of(libcrypto: str) -> str:
    """What a libcrypto says it is; "" if it cannot be asked."""
    with contextlib.suppress(OSError, AttributeError):
        asked = ctypes.CDLL(libcrypto).OpenSSL_version
        asked.restype = ctypes.c_char_p
        return str(asked(0).decode())
    return ""


def libssl_of(pids: Iterable[int]) -> str:
    """The libssl that processes have loaded, and its version; "" when they have none."""
    found: dict[str, str] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                path = line.partition("/")[1:]
                name = "".join(path)
                for library in ("libssl", "libcrypto"):
                    if f"/{library}.so" in name or f"/{library}-" in name:
                        found[library] = name
    if "libssl" not in found:
        return ""
    return f"{version_of(found.get('libcrypto', ''))} ({found['libssl']})"
