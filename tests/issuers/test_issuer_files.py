"""What issuers have in files and variables: public keys, secrets; read strictly, then kept."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pkikit import Authority
from providerkit import SigningKey

from fastgate.errors import ConfigurationError
from fastgate.issuers.files import NOTHING, LoadedIssuer, load, problems, refresh, remarks
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway

ONE, TWO = SigningKey("one"), SigningKey("two", "RS256")
LONG = "x" * 64


def document(**issuer: Any) -> Gateway:
    return decode({"version": 1, "issuers": [{"name": "svc", "issuer": "svc", **issuer}]})


def write(path: Path, content: bytes, mode: int = 0o644) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def loaded(gateway: Gateway, environ: dict[str, str] | None = None) -> LoadedIssuer:
    return load(gateway, {}, environ or {})["svc"]


def refused(gateway: Gateway, environ: dict[str, str] | None = None) -> tuple[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        load(gateway, {}, environ or {})
    return caught.value.path, str(caught.value)


# ---- public keys ------------------------------------------------------------------------


def test_a_jwks(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.json", b"\n " + jwks(ONE.jwk(), TWO.jwk()))
    found = loaded(document(keys=f"path:{path}"))
    assert [(key.kid, key.spki) for key in found.keys] == [("one", ONE.spki), ("two", TWO.spki)]
    assert loaded(document(keys="env:KEYS"), {"KEYS": path.read_text()}).keys == found.keys


def test_keys_and_certificates_in_pem(tmp_path: Path) -> None:
    issued = Authority.root().issue("svc.example")
    path = write(tmp_path / "keys.pem", ONE.pem + issued.pem + TWO.pem)
    found = loaded(document(keys=f"path:{path}"))
    assert [(key.kid, key.kind) for key in found.keys] == [
        ("", "ECDSA P-256"),
        ("", "ECDSA P-256"),
        ("", "RSA 2048"),
    ]
    assert found.keys[0].spki == ONE.spki
    assert found.keys[2].algorithms[0] == "RS256"


def test_keys_that_are_not_used_are_remarked(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.json", jwks(ONE.jwk(), ONE.jwk(kid="enc", use="enc")))
    gateway = document(keys=f"path:{path}")
    [remark] = remarks(gateway, load(gateway, {}, {}))
    assert str(remark) == "issuers[0].keys: the key 'enc' is for encryption"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"{", "it is not JSON"),
        (b"no keys", "has no PEM block"),
        (jwks(ONE.jwk(use="enc")), "it has no key that can be used; the key 'one' is for encryp"),
        (jwks(ONE.jwk(), {**TWO.jwk(), "d": "AQAB"}), "the key 'two' is a private key"),
        (jwks(ONE.jwk(), {"kty": "oct", "k": "AAAA"}), "is a secret, which must not be among"),
        (ONE.private_pem, "block 1 (PRIVATE KEY) is a private key. Write the public key alone"),
        (ONE.pem + TWO.private_pem, "block 2 (PRIVATE KEY) is a private key"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "is no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "block 1 (PUBLIC KEY)"),
    ],
)
def test_what_is_no_file_of_public_keys(tmp_path: Path, content: bytes, why: str) -> None:
    path = write(tmp_path / "keys", content)
    place, text = refused(document(keys=f"path:{path}"))
    assert place == "issuers[0].keys"
    assert why in text
    assert base64.b64encode(ONE.private_pem).decode()[:20] not in text


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    place, text = refused(document(keys=f"path:{tmp_path}/none"))
    assert (place, "cannot be read: No such file" in text) == ("issuers[0].keys", True)
    assert "the variable KEYS is empty or not set" in refused(document(keys="env:KEYS"))[1]


# ---- secrets ----------------------------------------------------------------------------


def test_a_shared_secret(tmp_path: Path) -> None:
    path = write(tmp_path / "secret", f"  {LONG}\n".encode(), 0o600)
    assert loaded(document(secret=f"path:{path}")).secret == LONG.encode()
    assert loaded(document(secret="env:S"), {"S": LONG}).secret == LONG.encode()


@pytest.mark.parametrize(
    ("algorithms", "least"), [([], 32), (["HS384"], 48), (["HS256", "HS512"], 64)]
)
def test_a_secret_that_could_be_guessed(algorithms: list[str], least: int) -> None:
    gateway = document(secret="env:S", algorithms=algorithms)
    assert loaded(gateway, {"S": "x" * least}).secret
    place, text = refused(gateway, {"S": "x" * (least - 1)})
    assert place == "issuers[0].secret"
    assert f"has {least - 1} bytes; " in text
    assert f"needs at least {least}" in text
    assert "xxx" not in text


def test_a_secret_that_others_can_read(tmp_path: Path) -> None:
    path = write(tmp_path / "secret", LONG.encode(), 0o644)
    place, text = refused(document(secret=f"path:{path}"))
    assert (place, "its mode 0644 lets others" in text) == ("issuers[0].secret", True)


ENDPOINT = "https://svc.example/ask"


def asked(**more: Any) -> Gateway:
    introspection = {"endpoint": ENDPOINT, **more}
    return document(keys="env:KEYS", introspection=introspection)


def test_how_the_gateway_asks_about_tokens(tmp_path: Path) -> None:
    """The parts of the pair are encoded (RFC 6749, 2.3.1): a ':' in them is not the one between."""
    environ = {"KEYS": ONE.pem.decode(), "S": "p:a ss%\n", "T": " tok.en "}
    basic = loaded(asked(client_id="a:b", client_secret="env:S"), environ).authorization
    kind, _, text = basic.partition(" ")
    assert (kind, base64.b64decode(text)) == ("Basic", b"a%3Ab:p%3Aa+ss%25")
    assert loaded(asked(token="env:T"), environ).authorization == "Bearer tok.en"
    path = write(tmp_path / "token", b"from-a-file\n", 0o444)
    assert loaded(asked(token=f"path:{path}"), environ).authorization == "Bearer from-a-file"


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "a\x00b"])
def test_what_is_no_secret_for_asking(value: str) -> None:
    environ = {"KEYS": ONE.pem.decode(), "S": value}
    for field in ("token", "client_secret"):
        more = {"client_id": "a"} if field == "client_secret" else {}
        place, text = refused(asked(**{field: "env:S"}, **more), environ)
        assert place == f"issuers[0].introspection.{field}"
        assert "empty" in text


# ---- later ------------------------------------------------------------------------------


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.pem", ONE.pem)
    gateway = document(keys=f"path:{path}")
    first = load(gateway, {}, {})
    assert refresh(gateway, first, {})["svc"] is first["svc"]
    write(path, TWO.pem)
    assert first["svc"].changed()
    second = refresh(gateway, first, {})
    assert [key.spki for key in second["svc"].keys] == [TWO.spki]
    assert not second["svc"].changed()


def test_one_that_cannot_be_used_keeps_its_last_content(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.pem", ONE.pem)
    gateway = document(keys=f"path:{path}")
    first = load(gateway, {}, {})
    for bad in (b"", TWO.private_pem):
        write(path, bad)
        broken = refresh(gateway, first, {})
        assert [key.spki for key in broken["svc"].keys] == [ONE.spki]
        [problem] = problems(gateway, broken)
        assert problem.path == "issuers[0].keys"
        assert refresh(gateway, broken, {})["svc"] is broken["svc"]  # not read again and again
        with pytest.raises(ConfigurationError):
            load(gateway, first, {})
    path.unlink()
    gone = refresh(gateway, first, {})
    assert [key.spki for key in gone["svc"].keys] == [ONE.spki]
    write(path, TWO.pem)
    assert problems(gateway, refresh(gateway, gone, {})) == []


def test_all_errors_at_once() -> None:
    issuers = [
        {"name": "a", "issuer": "a", "keys": "env:A"},
        {"name": "b", "issuer": "https://b"},
        {"name": "c", "issuer": "c", "secret": "env:C"},
    ]
    gateway = decode({"version": 1, "issuers": issuers})
    with pytest.raises(ConfigurationError) as caught:
        load(gateway, {}, {})
    assert [error.path for error in caught.value] == ["issuers[0].keys", "issuers[2].secret"]
    assert refresh(gateway, {}, {})["b"] == NOTHING
