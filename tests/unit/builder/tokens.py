"""A small token service in front of a real registry: real signed tokens, real refusals.

It speaks the registry's token protocol (https://distribution.github.io/distribution/spec/auth/token/) and signs with
a certificate of its own, which the registry is told to trust. Who may do what is a table.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ISSUER = "test-issuer"
SERVICE = "test-registry"


@dataclass(kw_only=True)
class TokenService:
    """What the service knows and saw: passwords, the actions each user may do, and every request."""

    users: Mapping[str, str]
    rights: Mapping[str, frozenset[str]]
    certificate: bytes
    key: rsa.RSAPrivateKey = field(repr=False)
    port: int = 0
    life_seconds: int | None = 300
    clock_ahead_seconds: int = 0  # of the registry's
    ends_in_seconds: int = 300
    requests: list[tuple[str, list[str]]] = field(default_factory=list)

    def token(self, user: str, scopes: list[str]) -> str:
        """Sign a token with the scopes that the user has; what they have not is dropped silently, as GitLab does."""
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            allowed = sorted(set(actions.split(",")) & self.rights[user])
            if allowed:
                access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time()) + self.clock_ahead_seconds
        der = x509.load_pem_x509_certificate(self.certificate).public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": ISSUER, "aud": SERVICE, "sub": user, "exp": now + self.ends_in_seconds, "nbf": now - 10, "iat": now,
            "jti": "1", "access": access,
        }  # fmt: skip
        signed = f"{_part(header)}.{_part(claims)}"
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _part(document: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


@contextmanager
def token_service(users: Mapping[str, str], rights: Mapping[str, frozenset[str]]) -> Iterator[TokenService]:
    """Run a token service on loopback."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    service = TokenService(users=users, rights=rights, certificate=pem, key=key)

    class Answers(BaseHTTPRequestHandler):
        """Answers one token request."""

        def do_GET(self) -> None:
            """Check the password, then sign."""
            query = parse_qs(urlsplit(self.path).query)
            scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
            user, _, password = base64.b64decode(encoded).decode().partition(":") if scheme == "Basic" else ("", "", "")
            service.requests.append((user, query.get("scope", [])))
            is_known = user in service.users and service.users[user] == password
            body = {"errors": [{"code": "DENIED", "message": "access forbidden"}]}
            if is_known:
                token = service.token(user, query.get("scope", []))
                life = {} if service.life_seconds is None else {"expires_in": service.life_seconds}
                content = json.dumps({"token": token} | life).encode()
            else:
                content = json.dumps(body).encode()
            self.send_response(200 if is_known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name http.server has
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join(timeout=30)
        server.server_close()
