"""From the configuration to the settings of the service."""

from __future__ import annotations

from importlib.util import find_spec

from fastgate.certificates.acme.settings import (
    AcmeSettings,
    Authority,
    ExternalAccount,
    Wanted,
)
from fastgate.certificates.pem import PemError
from fastgate.certificates.sources import read
from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Acme, Gateway
from fastgate.model.resolve_tls import acme_of
from fastgate.model.secret import Secret

PACKAGES = ("acme", "josepy", "requests")


def settings_of(gateway: Gateway) -> AcmeSettings:
    """What is to be ordered, with the secrets that it needs. Raises ConfigurationError."""
    wanted, authorities = [], {}
    for i, certificate in enumerate(gateway.certificates):
        if certificate.acme is None:
            continue
        _check_packages(f"certificates[{i}].acme")
        wanted.append(Wanted(certificate.name, tuple(certificate.hosts), certificate.acme))
        if certificate.acme not in authorities:
            acme = acme_of(gateway, certificate.acme)
            assert acme is not None, "references are checked before"
            authorities[certificate.acme] = _authority(acme, _place_of(gateway, acme))
    return AcmeSettings(authorities, tuple(wanted))


def _check_packages(place: str) -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"ordering certificates needs packages that are not installed: {', '.join(missing)}",
            place,
            hint="pip install 'fastgate[acme]'.",
        )


def _place_of(gateway: Gateway, acme: Acme) -> str:
    return next(
        (f"acme[{i}]" for i, each in enumerate(gateway.acme) if each.name == acme.name), "acme"
    )


def _authority(acme: Acme, place: str) -> Authority:
    external = None
    if acme.eab is not None:
        external = ExternalAccount(acme.eab.kid, _revealed(acme.eab.key, f"{place}.eab.key"))
    ca = None
    if acme.ca is not None:
        try:
            ca = read(acme.ca).data
        except PemError as error:
            raise ConfigurationError(str(error), f"{place}.ca", hint=error.hint) from None
    return Authority(acme.name, acme.url, acme.challenge, acme.email, external, ca)


def _revealed(secret: Secret, place: str) -> str:
    try:
        return secret.reveal()
    except ConfigurationError as error:
        raise ConfigurationError(error.message, place, hint=error.hint) from None
