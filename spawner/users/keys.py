"""What the service's key file makes: our own tokens' signatures and the sessions' credentials.

For: `spawner.users.service`. Keys come newest first; the first writes, all read, so that a key can be rotated.
Promises: every purpose has a sub-key of its own (HKDF-SHA256), so nothing made for one is good for another; everything
is compared in constant time; a text that is no signature of ours is None, never an error.
Must not know: the key file, the database, HTTP.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from spawner.errors import Misconfigured
from spawner.names import WorkloadName

ISSUER = "slipway"
SESSION_PREFIX = "slws_"
_MAX_TOKEN_LENGTH = 4096
_MAX_GENERATION_DIGITS = 9
_JWT_PARTS = 3


def derive(key: bytes, purpose: str) -> bytes:
    """Return the 32-byte sub-key of `key` for one purpose."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"slipway {purpose}".encode()).derive(key)


def claimed_issuer(token: str) -> str | None:
    """Return who a JWT says made it, without believing it; None for any other text."""
    parts = token.split(".")
    if len(parts) != _JWT_PARTS or len(token) > _MAX_TOKEN_LENGTH:
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    issuer = payload.get("iss") if isinstance(payload, dict) else None
    return issuer if isinstance(issuer, str) else None


def looks_like_ours(token: str) -> bool:
    """Say whether a token claims to be one of our own, without believing it: such a one is never shown to a forge."""
    return claimed_issuer(token) == ISSUER


class Keyring:
    """Signs with the newest key and believes every key."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or not all(keys):
            raise Misconfigured(
                "There is no secret key.", remedy="Write at least one line of random text to SPAWNER_SECRETS__KEY_FILE."
            )
        self._token_keys = [OctKey.import_key(derive(key, "own tokens")) for key in keys]
        self._session_keys = [derive(key, "session credentials") for key in keys]

    def sign_token(self, claims: Mapping[str, Any]) -> str:
        """Return a JWT (HS256) of the claims and our issuer."""
        return jwt.encode({"alg": "HS256"}, {**claims, "iss": ISSUER}, self._token_keys[0], algorithms=["HS256"])

    def read_token(self, token: str) -> Mapping[str, Any] | None:
        """Return the claims of a JWT that we signed, whether or not it has expired; None for any other text."""
        if len(token) > _MAX_TOKEN_LENGTH:
            return None
        for key in self._token_keys:
            try:
                claims = jwt.decode(token, key, algorithms=["HS256"]).claims
            except (JoseError, ValueError):
                continue
            return claims if claims.get("iss") == ISSUER else None
        return None

    def session_credential(self, workload: WorkloadName, generation: int) -> str:
        """Return `slws_<workload>.<generation>.<HMAC>`: the same text each time, kept nowhere."""
        subject = f"{workload}.{generation}"
        return f"{SESSION_PREFIX}{subject}.{_mac(self._session_keys[0], subject)}"

    def read_session_credential(self, text: str) -> tuple[WorkloadName, int] | None:
        """Return the workload and generation of a credential that we made, else None."""
        if not text.startswith(SESSION_PREFIX) or len(text) > _MAX_TOKEN_LENGTH or not text.isascii():
            return None
        subject, _, mac = text.removeprefix(SESSION_PREFIX).rpartition(".")
        workload, _, generation = subject.rpartition(".")
        # Every key is tried, whichever fits: the time taken tells nothing.
        fits = [hmac.compare_digest(_mac(key, subject), mac) for key in self._session_keys]
        if not any(fits) or not workload or not generation.isdecimal() or len(generation) > _MAX_GENERATION_DIGITS:
            return None
        return WorkloadName(workload), int(generation)


def _mac(key: bytes, subject: str) -> str:
    digest = hmac.new(key, subject.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
