"""docs/identity.md and docs/identity-providers.md: their documents are valid, their tables true."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from providerkit import SigningKey

from fastgate.cli.app import ENTRIES
from fastgate.config import documents
from fastgate.errors import REASONS
from fastgate.issuers import fetching, files, freshness, jwks, service
from fastgate.model.auth import METHODS
from fastgate.model.check import check, warnings
from fastgate.model.codec import decode
from fastgate.runtime.control import operator_notices

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "identity.md").read_text()
PROVIDERS = (DOCS / "identity-providers.md").read_text()


def blocks(text: str, kind: str = "yaml") -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.S)


def around(parts: Any) -> Any:
    """A whole document with these parts."""
    whole = {
        "version": 1,
        "listeners": [{"bind": ":8443", "tls": True}],
        "certificates": [{"name": "c", "cert": "path:/c.pem"}],
        "upstreams": [{"name": "orders", "targets": "http://orders"}],
        "services": [{"name": "orders", "upstream": "orders"}],
        "plans": [{"name": "free"}],
        "issuers": [{"name": "corp", "issuer": "https://id.example.com"}],
    }
    return decode({**whole, **parts})


@pytest.mark.parametrize("text", [each for each in blocks(GUIDE) if "alert:" not in each])
def test_documents_of_the_guide(text: str) -> None:
    assert check(around(documents.parse(text, "yaml"))) == []


@pytest.mark.parametrize("text", blocks(PROVIDERS), ids=lambda text: text.split()[2])
def test_providers(text: str) -> None:
    issuers = documents.parse(text, "yaml")
    name = issuers[0]["name"]
    routes = [{"name": "r", "path": "/", "respond": 204, "auth": {"jwt": name}}]
    gateway = around({"issuers": issuers, "routes": routes})
    assert check(gateway) == []
    said = [each.path for each in warnings(gateway) if each.path.startswith("issuers")]
    assert said == (["issuers[0].audience"] if name == "cognito" else [])


def test_every_method_is_in_the_table() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", GUIDE.split("## Methods")[1], re.M)
    assert [word for row in rows for word in re.findall(r"`(\w+)`", row)][: len(METHODS)] == [
        "api_key", "jwt", "introspection", "mtls", "basic", "signature", "hmac", "forward",
    ]  # fmt: skip


def test_answers() -> None:
    """Every reason of the table exists, with this status."""
    rows = re.findall(r"^\| (\d{3}) \| (`[^|]*) \|", GUIDE.split("## Answers")[1], re.M)
    statuses = {reason.code: reason.status for reason in REASONS}
    assert len(rows) == 9
    for status, codes in rows:
        for code in re.findall(r"`(\w+)`", codes):
            assert statuses[code] == int(status), code


def test_every_command_exists() -> None:
    for name in re.findall(r"^(?:printf.*\| )?fastgate (\w+ [\w-]+)", GUIDE, re.M):
        group, command = name.split()
        found = ENTRIES[group].place.split(":")
        assert command in getattr(import_module(found[0]), found[1]).commands, name


def test_numbers() -> None:
    """What the guide says about times and sizes."""
    assert (freshness.LEAST_S, freshness.MOST_S, freshness.DEFAULT_S) == (300, 86_400, 3600)
    assert (freshness.BACKOFF_S, freshness.BACKOFF_MOST_S) == (5, 300)
    assert service.ASKED_S == 30
    assert (fetching.TIME_S, fetching.MOST, jwks.MOST_KEYS) == (10, 1 << 20, 100)
    assert (jwks.RSA_LEAST, jwks.RSA_MOST) == (2048, 8192)
    assert (operator_notices.ISSUER_S, operator_notices.NO_KEYS_S) == (3600, 300)


def test_a_key_of_ones_own(tmp_path: Path) -> None:
    """The commands are run; the result is what the block below them needs."""
    if shutil.which("openssl") is None:
        pytest.skip("install the Debian package 'openssl' to run this")
    make, config = blocks(PROVIDERS, "sh")[-1], blocks(PROVIDERS)[-1]
    done = subprocess.run(make, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = config.replace("/etc/fastgate", str(tmp_path))
    gateway = around({"issuers": documents.parse(config, "yaml")})
    [key] = files.load(gateway, {}, {})["reports"].keys
    assert (key.kind, key.algorithms) == ("Ed25519", ("EdDSA",))


def test_the_command_that_looks_into_a_token() -> None:
    [command] = re.findall(r"`(cut -d\. [^`]*)`", PROVIDERS)
    claims = {"sub": "user", "name": "Jürgen ~?>", "aud": ["a"]}
    token = SigningKey().token(claims)
    shown = subprocess.run(command, shell=True, input=token, capture_output=True, text=True)
    assert '"aud": ["a"]' in shown.stdout
