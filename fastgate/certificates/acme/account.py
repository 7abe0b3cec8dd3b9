"""The account at an authority: a key that is kept, registered once.

The key is on disk before the authority hears of it, so a registration that is interrupted is
repeated with the same key, and the authority answers with the account that exists already.
"""

from __future__ import annotations

import msgspec
from acme import errors, messages
from josepy.errors import Error as JoseError
from josepy.jwk import JWK, JWKEC

from fastgate.certificates.acme import keys
from fastgate.certificates.acme.client import Client
from fastgate.certificates.acme.problems import AcmeError, one_line
from fastgate.certificates.acme.settings import Authority
from fastgate.certificates.acme.storage import AccountRecord, Storage


class Account:
    """An account, opened for a client."""

    def __init__(self, client: Client, storage: Storage) -> None:
        self._client = client
        self._storage = storage
        self._ident = client.authority.account_id
        self.url = ""
        """Its address, once it is open."""

    @property
    def key(self) -> JWK:
        """Its key, once it is open."""
        key: JWK | None = self._client.net.key
        assert key is not None
        return key

    def open(self) -> None:
        """Load or register it, and let the client use it. Blocks. Raises AcmeError."""
        authority = self._client.authority
        record = self._storage.account(self._ident)
        if record is None:
            record = AccountRecord(directory=authority.directory, key=keys.new_key())
            self._write(record)
        self._client.net.key = self._load(record.key)
        if not record.url:
            record = self._register(record)
        self._use(record.url)
        if record.email != authority.email:
            self._write(self._update(record))

    def _load(self, pem: str) -> JWK:
        try:
            key = JWK.load(pem.encode())
        except (JoseError, ValueError):
            key = None
        if isinstance(key, JWKEC):  # anything that is not PEM is loaded as a symmetric key
            return key
        raise AcmeError(
            f"The key of the account at {self._client.name} cannot be read. Restore the file "
            f"{self._ident}/account.json, or delete it to register a new account."
        )

    def forget(self) -> None:
        """The authority does not know it any more; it is registered again when it is opened."""
        record = self._storage.account(self._ident)
        if record is not None:
            self._write(msgspec.structs.replace(record, url=""))

    def _write(self, record: AccountRecord) -> None:
        self._storage.write_account(self._ident, record)

    def _use(self, url: str) -> None:
        self.url = url
        self._client.net.account = messages.RegistrationResource(
            body=messages.Registration(), uri=url
        )

    def _register(self, record: AccountRecord) -> AccountRecord:
        """Register the key, or find the account that it has already."""
        client, email = self._client, self._client.authority.email
        wanted = messages.NewRegistration.from_data(
            email=email,
            terms_of_service_agreed=True,
            external_account_binding=self._binding(client.authority),
        )
        existed = False

        def register() -> str:
            nonlocal existed
            try:
                return str(client.acme.new_account(wanted).uri)
            except errors.ConflictError as error:
                existed = True
                return str(error.location)

        client.net.account = None  # this request has the key instead of the account's address
        url = client.guarded("refused to register an account", register)
        # An account that existed may have another contact.
        record = msgspec.structs.replace(record, url=url, email=None if existed else email)
        self._write(record)
        return record

    def _binding(self, authority: Authority) -> dict[str, object] | None:
        """The proof that the external account is ours."""
        external = authority.external_account
        if external is None:
            meta = self._client.directory.get("meta")
            if isinstance(meta, dict) and meta.get("externalAccountRequired"):
                raise AcmeError(
                    f"{authority.name} requires an external account. Add `eab: {{kid: …, key: …}}` "
                    "with the values that it has given you."
                )
            return None
        try:
            return messages.ExternalAccountBinding.from_data(
                self.key.public_key(), external.kid, external.key, self._client.acme.directory
            )
        except (ValueError, TypeError, JoseError):
            # Without the cause, which may quote the key.
            raise AcmeError(
                f"The key of the external account {one_line(external.kid)!r} at {authority.name} "
                "is not base64url. Check `eab.key`."
            ) from None

    def _update(self, record: AccountRecord) -> AccountRecord:
        """Tell the authority the address where it may write."""
        client, email = self._client, self._client.authority.email
        contact = messages.Registration(contact=() if email is None else (f"mailto:{email}",))
        doing = "refused to change the address of the account"
        client.post(record.url, doing, messages.UpdateRegistration(**dict(contact)))
        return msgspec.structs.replace(record, email=email)
