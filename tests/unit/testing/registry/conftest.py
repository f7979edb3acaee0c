"""A registry on a free port, and a client that mints its own tokens."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

from spawner.testing.gitlab.registry import registry_blueprint

ISSUER, SERVICE = "test-issuer", "container_registry"


@dataclass(kw_only=True)
class Issuer:
    """Signs tokens as a forge does."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    @property
    def public_pem(self) -> bytes:
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.PEM, kind)

    def token(self, *scopes: str, header: dict[str, Any] | None = None, **claims: object) -> str:
        """Return a token that grants scopes written as `repository:a/b:pull,push`."""
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        body = {"iss": ISSUER, "aud": SERVICE, "exp": time.time() + 60, "access": access, **claims}
        parts = [_encoded(json.dumps(part).encode()) for part in (header or {"alg": "RS256", "typ": "JWT"}, body)]
        signature = self.key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
        return ".".join([*parts, _encoded(signature)])


@dataclass(kw_only=True)
class Registry:
    """A running registry, with a client's few verbs."""

    url: str
    data: Path
    issuer: Issuer
    intercepted: list[tuple[str, str, str]]
    answers: list[Response]

    def call(
        self, method: str, path: str, *scopes: str, body: bytes | None = None, **headers: str
    ) -> requests.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent.setdefault("Authorization", f"Bearer {self.issuer.token(*scopes)}")
        return requests.request(method, f"{self.url}{path}", data=body, headers=sent, timeout=30, allow_redirects=False)

    def push_blob(self, name: str, content: bytes) -> dict[str, Any]:
        """Push a blob in one request and return its descriptor."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        answer = self.call(
            "POST", f"/v2/{name}/blobs/uploads/?digest={digest}", f"repository:{name}:pull,push", body=content
        )
        assert answer.status_code == 201
        return {"digest": digest, "size": len(content)}

    def push_image(self, name: str, tag: str, *, media_type: str, layers: Sequence[bytes] = (b"layer",)) -> bytes:
        """Push an image and return its manifest's exact bytes."""
        config = self.push_blob(name, json.dumps({"created": "2026-01-02T03:04:05.123456789Z"}).encode())
        document = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", **self.push_blob(name, layer)}
                for layer in layers
            ],
        }
        content = json.dumps(document, indent=3).encode()
        self.push_manifest(name, tag, content, media_type=media_type)
        return content

    def push_manifest(self, name: str, reference: str, content: bytes, *, media_type: str) -> requests.Response:
        return self.call(
            "PUT", f"/v2/{name}/manifests/{reference}", f"repository:{name}:pull,push",
            body=content, Content_Type=media_type,
        )  # fmt: skip


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def registry(tmp_path: Path, issuer: Issuer) -> Iterator[Registry]:
    app = Flask(__name__)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    url = f"http://127.0.0.1:{server.server_port}"
    intercepted: list[tuple[str, str, str]] = []
    answers: list[Response] = []

    def intercept(method: str, repository: str, reference: str) -> Response | None:
        intercepted.append((method, repository, reference))
        return answers.pop() if answers else None

    @app.get("/jwt/auth")
    def auth() -> Response:
        return jsonify(token=issuer.token(*request.args.getlist("scope")))

    app.register_blueprint(
        registry_blueprint(
            data=tmp_path / "registry", public_key_pem=issuer.public_pem, issuer=ISSUER, service=SERVICE,
            realm=f"{url}/jwt/auth", intercept=intercept,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Registry(url=url, data=tmp_path / "registry", issuer=issuer, intercepted=intercepted, answers=answers)
    finally:
        server.shutdown()
        thread.join(timeout=30)
        server.server_close()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
