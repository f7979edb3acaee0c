"""ID tokens of CI jobs and of sign-ins: RS256 JWTs that others check with `/oauth/discovery/keys`.

Promises: claims as in https://docs.gitlab.com/ci/secrets/id_token_authentication/ (18.x).
Must not know: who asks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from spawner.testing.gitlab import protection
from spawner.testing.gitlab.ci import requests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric import rsa

    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import Job, Pipeline, Project, User


def public_keys(instance: Instance) -> dict[str, Any]:
    """Return the key set that verifies what this stand-in signs."""
    return {"keys": [_public(instance.key) | {"use": "sig", "alg": "RS256", "kid": key_id(instance.key)}]}


def key_id(key: rsa.RSAPrivateKey) -> str:
    """Return the key's thumbprint (RFC 7638)."""
    return _encoded(hashlib.sha256(_json(_public(key))).digest())


def sign(instance: Instance, claims: Mapping[str, Any], *, kid: str = "") -> str:
    """Return a JWT signed with RS256 (RFC 7515); `kid` names the key where its thumbprint is not what is looked for."""
    header = {"alg": "RS256", "kid": kid or key_id(instance.key), "typ": "JWT"}
    signed = f"{_encoded(_json(header))}.{_encoded(_json(claims))}"
    signature = instance.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{_encoded(signature)}"


def of_job(instance: Instance, job: Job, pipeline: Pipeline, project: Project, user: User) -> dict[str, str]:
    """Return the ID tokens that a job asked for, by variable name."""
    found: dict[str, str] = {}
    for name, wish in job.id_tokens.items():
        audience = wish.get("aud") if isinstance(wish, dict) else None
        found[name] = sign(instance, _claims(instance, job, pipeline, project, user) | {"aud": audience})
    return found


def _claims(instance: Instance, job: Job, pipeline: Pipeline, project: Project, user: User) -> dict[str, Any]:
    moment = int(time.time())
    kind = "tag" if pipeline.tag else "branch"
    config = project.settings.get("ci_config_path") or ".gitlab-ci.yml"
    ref = requests.source_ref(instance, pipeline)
    path = pipeline.ref if pipeline.ref.startswith("refs/") else f"refs/{'tags' if pipeline.tag else 'heads'}/{ref}"
    host = instance.url.split("://", 1)[-1]
    return {
        "iss": instance.url,
        "sub": f"project_path:{project.path}:ref_type:{kind}:ref:{ref}",
        "iat": moment,
        "nbf": moment - 5,
        "exp": moment + job.timeout_seconds + 300,
        "jti": str(uuid.uuid4()),
        "project_id": str(project.id),
        "project_path": project.path,
        "namespace_path": project.path.rpartition("/")[0],
        "user_id": str(user.id),
        "user_login": user.username,
        "user_email": user.email,
        "ref": ref,
        "ref_type": kind,
        "ref_path": path,
        "ref_protected": str(protection.is_protected(instance, project, ref)).lower(),
        "sha": pipeline.sha,
        "pipeline_id": str(pipeline.id),
        "pipeline_source": pipeline.source,
        "job_id": str(job.id),
        "runner_id": job.runner_id,
        "runner_environment": "self-hosted",
        "project_visibility": project.visibility.value,
        "ci_config_ref_uri": f"{host}/{project.path}//{config}@{path}",
        "ci_config_sha": pipeline.sha,
    }


def _public(key: rsa.RSAPrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    modulus = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
    exponent = numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big")
    return {"e": _encoded(exponent), "kty": "RSA", "n": _encoded(modulus)}


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
