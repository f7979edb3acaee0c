"""Encryption of grants at rest, with keys that rotate.

Promises: the first key writes, every key reads; what was sealed for one row opens for no other. The key file's
lines are not used as they are: each purpose derives its own key (HKDF-SHA256), so that the same file may sign
cookies elsewhere.
Must not know: where keys come from, any table.
"""

import base64
import json
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from spawner.errors import Misconfigured

SHORTEST_KEY_BYTES = 32
_PURPOSE = b"slipway: grants at rest, 1"


class Seal:
    """Seals two tokens for one row; `keys` are the key file's lines, newest first, 32 bytes or more each."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) < SHORTEST_KEY_BYTES for key in keys):
            raise Misconfigured(
                "The key file has no key, or one shorter than 32 characters.",
                remedy="Write one line of 32 or more random characters into the file that "
                "SPAWNER_SECRETS__KEY_FILE names, e.g. from `openssl rand -base64 48`.",
            )
        self._fernet = MultiFernet([Fernet(_derive(key)) for key in keys])

    def close(self, row: Sequence[str], access_token: str, refresh_token: str | None) -> str:
        """Return both tokens as one text that opens only for this row."""
        plain = json.dumps({"row": list(row), "access": access_token, "refresh": refresh_token})
        return self._fernet.encrypt(plain.encode()).decode("ascii")

    def open(self, row: Sequence[str], sealed: str) -> tuple[str, str | None] | None:
        """Return (access token, refresh token); None when no key opens it or it was sealed for another row."""
        try:
            plain = json.loads(self._fernet.decrypt(sealed.encode("ascii")))
        except InvalidToken:
            return None
        if plain["row"] != list(row):
            return None
        return plain["access"], plain["refresh"]

    def renew(self, sealed: str) -> str | None:
        """Return the same content under the first key; None when no key opens it."""
        try:
            return self._fernet.rotate(sealed.encode("ascii")).decode("ascii")
        except InvalidToken:
            return None


def _derive(key: bytes) -> bytes:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(key)
    return base64.urlsafe_b64encode(derived)
