"""What a registry needs to trust the stand-in's tokens: the signing key's certificate and its name.

Source: docker/libtrust `fingerprint.go`, as docker-registry 2.8 checks it: it takes a token whose `kid` names a key of
its `rootcertbundle`; GitLab names its key so too (`lib/json_web_token/rsa_token.rb`).
Promises: the same key always has the same name; the certificate is the key's own, signed by itself.
Must not know: tokens.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

_NAME_BYTES = 30
_GROUP = 4
_LIFE = timedelta(days=3650)


def key_id(key: rsa.RSAPrivateKey) -> str:
    """Return a key's name: 240 bits of its public key's hash, in twelve groups of letters and digits."""
    plain = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(plain).digest()[:_NAME_BYTES]).decode()
    return ":".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))


def certificate(key: rsa.RSAPrivateKey) -> bytes:
    """Return the key's certificate as PEM, for a registry's `rootcertbundle`."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "GitLab stand-in")])
    moment = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(days=1))
        .not_valid_after(moment + _LIFE)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)
