"""TLS in the document: forms, short forms, what a struct refuses by itself."""

from typing import Any

import pytest

from fastgate.errors import ConfigurationError
from fastgate.model.codec import decode, encode
from fastgate.model.gateway import (
    Acme,
    Authority,
    Certificate,
    ClientCertificate,
    Control,
    Hsts,
    Listener,
    Upstream,
    UpstreamTls,
)

PIN = "sha256/" + "A" * 43 + "="
FILES = {"cert": "path:/etc/fastgate/api.pem", "key": "env:API_KEY"}


def refused(struct: Any, data: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        decode(data, struct)
    return "; ".join(str(error) for error in caught.value)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ({"tls": True}, {"tls": {}}),
        ({"tls": None}, {"tls": {}}),
        ({"tls": {"min": 1.3}}, {"tls": {"min": "1.3"}}),
        ({"tls": {"certificates": "api"}}, {"tls": {"certificates": ["api"]}}),
        ({"tls": {"hsts": "180d"}}, {"tls": {"hsts": {"max_age": "180d"}}}),
        (
            {"tls": {"client": "partners"}},
            {"tls": {"client": {"authorities": ["partners"], "required": True}}},
        ),
        ({"tls": {"client": ["a", "b"]}}, {"tls": {"client": {"authorities": ["a", "b"]}}}),
        ({"redirect": "https", "https_port": 8443}, {"redirect": "https", "https_port": 8443}),
    ],
)
def test_short_forms_of_listeners(short: dict[str, Any], full: dict[str, Any]) -> None:
    """`tls:` without a value is TLS: it must never mean clear HTTP."""
    listener = decode({"bind": ":443", **short}, Listener)
    assert listener == decode({"bind": ":443", **full}, Listener)
    assert (listener.tls is None) is ("tls" not in full)
    assert decode(encode(listener), Listener) == listener


def test_other_short_forms() -> None:
    required = ClientCertificate(authorities=["partners"])
    assert decode("partners", ClientCertificate) == required
    assert decode(["partners"], ClientCertificate) == required
    assert (required.required, required.forward) == (True, False)
    control = decode({"bind": ":8081", "tls": "api"}, Control)
    assert control.tls is not None
    assert control.tls.certificate == "api"


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        ({"tls": False}, "tls: leave `tls` out for a listener without TLS"),
        ({"tls": {"min": "1.1"}}, "tls.min: '1.1' is not one of the choices"),
        ({"tls": {"min": 1.0}}, "tls.min: '1.0' is not one of the choices"),
        ({"tls": {"certificate": ["a"]}}, "Did you mean 'certificates'?"),
        ({"tls": True, "redirect": "https"}, "redirect: this listener has `tls`"),
        ({"redirect": "http"}, "redirect: 'http' is not one of the choices"),
        ({"https_port": 443}, "https_port: needs `redirect: https`"),
        ({"tls": {"client": {"authorities": []}}}, "expected at least 1 entry"),
        ({"tls": {"hsts": "1ms"}}, "max_age: 1ms is not a whole number of seconds"),
    ],
)
def test_listeners_that_are_refused(listener: dict[str, Any], words: str) -> None:
    assert words in refused(Listener, {"bind": ":443", **listener})


def test_preloading_is_for_hosts_that_mean_it() -> None:
    whole = {"max_age": "365d", "include_subdomains": True, "preload": True}
    assert decode(whole, Hsts).preload
    assert "needs include_subdomains" in refused(Hsts, {**whole, "include_subdomains": False})
    assert "needs a max_age of at least 365d" in refused(Hsts, {**whole, "max_age": "364d"})


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ({}, "give cert (and key), or acme"),
        ({"key": "env:KEY"}, "give cert (and key), or acme"),
        ({**FILES, "acme": "letsencrypt", "hosts": ["a.example"]}, "leave out cert"),
        ({"acme": "letsencrypt"}, "hosts: write the hosts that the certificate is for"),
        ({**FILES, "hosts": ["A.example"]}, "hosts[0]: 'A.example': write hosts in lower case"),
        ({**FILES, "hosts": ["a.example", "ä.example"]}, "hosts[1]: 'ä.example': write"),
        ({**FILES, "hosts": ["a.*.example"]}, "is not a host such as"),
        ({**FILES, "hosts": ["*"]}, "is not a host such as"),
        ({**FILES, "hosts": ["10.0.0.1"]}, "is not a host such as"),
        ({**FILES, "hosts": ["a.example", "a.example"]}, "hosts[1]: 'a.example' is there twice"),
        ({**FILES, "cert": "/etc/api.pem"}, "a file's absolute path after 'path:'"),
        ({**FILES, "cert": "path:api.pem"}, "expected the place of a PEM file"),
    ],
)
def test_certificates_that_are_refused(certificate: dict[str, Any], words: str) -> None:
    assert words in refused(Certificate, {"name": "api", **certificate})


def test_a_key_in_the_document_is_refused_and_not_repeated() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----"
    said = refused(Certificate, {"name": "api", "cert": "path:/x", "key": key})
    assert "never write certificates or keys themselves into the document" in said
    assert "MC4CAQ" not in said


def test_the_systems_authority_has_its_name_to_itself() -> None:
    assert "the operating system's root" in refused(Authority, {"name": "system", "ca": "env:CA"})


def test_directories_of_acme_authorities() -> None:
    assert "letsencrypt.org" in decode({"name": "letsencrypt"}, Acme).url
    own = {"name": "internal", "directory": "https://ca.internal/dir"}
    assert decode(own, Acme).url == "https://ca.internal/dir"
    assert "only known for letsencrypt and" in refused(Acme, {"name": "internal"})
    assert "https://" in refused(Acme, {**own, "directory": "http://ca.internal/dir"})
    assert "'dns-01' is not one of the choices" in refused(Acme, {**own, "challenge": "dns-01"})
    assert "'ops' is not an address" in refused(Acme, {**own, "email": "ops"})


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        ({"name": "Orders.internal"}, "name: 'Orders.internal' is not a host name in lower case"),
        ({"name": "10.0.0.1"}, "is not a host name"),
        ({"name": "*.internal"}, "is not a host name"),
        ({"pins": ["sha256/short"]}, "is not a pin"),
        ({"pins": ["sha1/" + "A" * 43 + "="]}, "is not a pin"),
        ({"verify": False, "authority": "internal"}, "authority: nothing is verified"),
        ({"verify": False, "pins": [PIN]}, "pins: nothing is verified"),
    ],
)
def test_upstream_tls_that_is_refused(tls: dict[str, Any], words: str) -> None:
    assert words in refused(UpstreamTls, tls)


def test_targets_of_an_upstream_are_all_encrypted_or_none() -> None:
    def upstream(*targets: str, **more: Any) -> dict[str, Any]:
        return {"name": "up", "targets": list(targets), **more}

    assert decode(upstream("http://a"), Upstream).profile is None
    assert decode(upstream("unix:/run/a"), Upstream).profile is None
    assert decode(upstream("https://a", "https://b"), Upstream).profile == UpstreamTls()
    named = decode(upstream("https://a", tls={"name": "b.internal", "pins": [PIN]}), Upstream)
    assert named.profile is named.tls
    said = refused(Upstream, upstream("https://a", "http://b"))
    assert "targets: https://a is encrypted and http://b is not" in said
    assert "unix:/run/a is not" in refused(Upstream, upstream("https://a", "unix:/run/a"))
    said = refused(Upstream, upstream("http://a", tls={"name": "a.internal"}))
    assert "tls: the target http://a has no TLS; write `https://`" in said
