"""Keys: the format of API keys and of tokens for the control API.

```
fg_live_4eC39HqLyjWDarjtT1zdp7dcS3XxQm0aUHhCBn
│  │    └ 32 random characters of base 62, then 6 of checksum (CRC-32 of all before)
│  └ environment, if one was given
└ kind: fg for a key, fgt for a token of the control API
```

With 190 random bits, a key cannot be guessed, and its plain SHA-256 is safe to store. With the
checksum, leak scanners recognize keys, and typing errors are found without a lookup.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_LENGTH = 32
CHECK_LENGTH = 6
_TAIL = f"[0-9A-Za-z]{{{RANDOM_LENGTH + CHECK_LENGTH}}}"
_KEY = re.compile(rf"(fgt?)_(?:([a-z0-9]{{1,16}})_)?({_TAIL})")
_ENVIRONMENT = re.compile(r"[a-z0-9]{1,16}")


def _checksum(text: str) -> str:
    value = zlib.crc32(text.encode("ascii"))
    digits = []
    for _ in range(CHECK_LENGTH):
        value, digit = divmod(value, 62)
        digits.append(BASE62[digit])
    return "".join(reversed(digits))


def new_key(environment: str | None = None, *, kind: str = "fg") -> str:
    """A new key. `environment`: 1 to 16 lower-case letters and digits. Raises ValueError."""
    if environment is not None and not _ENVIRONMENT.fullmatch(environment):
        raise ValueError("an environment is 1 to 16 lower-case letters and digits")
    head = f"{kind}_{environment}_" if environment else f"{kind}_"
    body = head + "".join(secrets.choice(BASE62) for _ in range(RANDOM_LENGTH))
    return body + _checksum(body)


def is_key(text: str) -> bool:
    """Whether the text has the form of our keys or tokens, including the checksum."""
    if not _KEY.fullmatch(text):
        return False
    return secrets.compare_digest(_checksum(text[:-CHECK_LENGTH]), text[-CHECK_LENGTH:])


def shown_prefix(key: str) -> str:
    """The part of a key that may be shown and stored, to distinguish keys: "fg_live_4eC39H"."""
    found = _KEY.fullmatch(key)
    return key[: found.start(3) + 6] if found else key[:4]


def key_digest(key: str) -> bytes:
    """The SHA-256 of a key, which is stored instead of it: 32 bytes."""
    return hashlib.sha256(key.encode()).digest()
