"""Checks the JWT that the forge's `/jwt/auth` issued, and says what is missing.

Promises: RS256 only, with issuer, audience and times checked; a token never widens what its `access` list says.
Must not know: how tokens are issued, what repositories hold.
Source: https://distribution.github.io/distribution/spec/auth/jwt/
"""

import base64
import binascii
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from spawner.testing.gitlab.registry.faults import RefusalError

_LEEWAY_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGate:
    """Lets a request pass when its Bearer token grants the actions that it needs."""

    public_key_pem: bytes
    issuer: str
    service: str
    realm: str

    def require(self, authorization: str, *, scope: str, actions: Sequence[str]) -> None:
        """Refuse unless the header carries a valid token that grants all `actions` on `scope` (`repository:a/b`).

        With an empty `scope`, any valid token passes.

        Raises:
            RefusalError: UNAUTHORIZED with a challenge that names the missing scope.
        """
        claims = self._claims(authorization)
        asked = f"{scope}:{','.join(actions)}" if scope else ""
        if claims is None:
            raise self._challenge(asked, error="invalid_token" if authorization else "")
        if scope and not set(actions) <= _granted(claims, scope):
            raise self._challenge(asked, error="insufficient_scope")

    def grants(self, authorization: str, *, scope: str, action: str) -> bool:
        """Say whether the token grants one action on `scope`."""
        claims = self._claims(authorization)
        return claims is not None and action in _granted(claims, scope)

    def _challenge(self, scope: str, *, error: str) -> RefusalError:
        parts = [f'realm="{self.realm}"', f'service="{self.service}"']
        parts += [f'scope="{scope}"'] if scope else []
        parts += [f'error="{error}"'] if error else []
        return RefusalError("UNAUTHORIZED", scope or None, headers={"WWW-Authenticate": f"Bearer {','.join(parts)}"})

    def _claims(self, authorization: str) -> dict[str, Any] | None:
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer" or token.count(".") != 2:  # noqa: PLR2004 - a JWT has three parts
            return None
        try:
            signed, _, signature = token.rpartition(".")
            header, claims = (json.loads(_decoded(part)) for part in signed.split("."))
            key = load_pem_public_key(self.public_key_pem)
            if header.get("alg") != "RS256" or not isinstance(key, RSAPublicKey):
                return None
            key.verify(_decoded(signature), signed.encode(), PKCS1v15(), SHA256())
        except (InvalidSignature, ValueError, AttributeError, binascii.Error):
            return None
        return claims if self._is_current(claims) else None

    def _is_current(self, claims: Any) -> bool:
        if not isinstance(claims, dict) or claims.get("iss") != self.issuer:
            return False
        audience = claims.get("aud")
        if self.service not in (audience if isinstance(audience, list) else [audience]):
            return False
        now = time.time()
        return float(claims.get("nbf", 0)) - _LEEWAY_SECONDS <= now < float(claims.get("exp", 0))


def _granted(claims: dict[str, Any], scope: str) -> set[str]:
    kind, _, name = scope.partition(":")
    granted: set[str] = set()
    for entry in claims.get("access") or ():
        if entry.get("type") == kind and entry.get("name") == name:
            granted.update(entry.get("actions") or ())
    return granted if "*" not in granted else granted | {"pull", "push", "delete"}


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
