"""Others that trust the stand-in as they would GitLab: Debian's docker-registry, and whoever checks a job's ID token.

Covered: push and pull with a person's and a job's token against a real registry that asks `/jwt/auth`, refusals there;
the claims of `id_tokens` and their signature. Left out: the stand-in's own registry (`test_registry`).
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import zipfile
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import KeySet

from builder.errors import UnauthorizedError
from builder.oci import Credentials, Manifest, RegistryClient, digest_of
from tests.installation import wait_for
from tests.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spawner.testing.gitlab import StandIn, UserHandle
    from tests.contract.forge.conftest import Cast

MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
EMPTY = b"{}"
EMPTY_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.fixture(scope="module")
def registry(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's registry, which takes the stand-in's tokens and nobody else's; `host:port`."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no docker-registry: install Debian's package of that name (scripts/install does)")
    folder, address = tmp_path_factory.mktemp("registry"), f"127.0.0.1:{free_port()}"
    token = {
        "realm": f"{stand_in.url}/jwt/auth",
        "service": "container_registry",
        "issuer": "omnibus-gitlab-issuer",
        "rootcertbundle": str(stand_in.data / "registry-auth.crt"),
    }
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
        "auth": {"token": token},
    }
    (folder / "config.yml").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
        try:
            wait_for(lambda: _answers(address) or None, seconds=30, what="the registry")
            yield address
        finally:
            process.terminate()
            process.wait(10)


def _answers(address: str) -> bool:
    try:
        return requests.get(f"http://{address}/v2/", timeout=2).status_code == 401
    except requests.ConnectionError:
        return False


def _client(registry: str, stand_in: StandIn, name: str, secret: str) -> RegistryClient:
    trusted = stand_in.url.partition("://")[2]
    return RegistryClient(
        registry, credentials=lambda: Credentials(username=name, password=secret), trusted_hosts=[trusted]
    )


def _push(client: RegistryClient, repository: str) -> str:
    """Push the smallest image there is; return its digest."""
    client.upload(repository, EMPTY_DIGEST, EMPTY)
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": EMPTY_DIGEST, "size": len(EMPTY)}
    document = {"schemaVersion": 2, "mediaType": MEDIA_TYPE, "config": config, "layers": []}
    content = json.dumps(document).encode()
    manifest = Manifest(content=content, media_type=MEDIA_TYPE, digest=digest_of(content))
    client.put_manifest(repository, "v1", manifest)
    return manifest.digest


def test_a_real_registry_takes_its_tokens(stand_in: StandIn, cast: Cast, registry: str) -> None:
    """Who may push can, who may not cannot, and a token of nobody's is no token."""
    project = cast.project.path
    owner = _client(registry, stand_in, cast.owner.username, cast.owner.token)
    digest = _push(owner, project)
    found = owner.head(project, "v1")
    assert (found is not None, digest[:7]) == (True, "sha256:")
    with pytest.raises(UnauthorizedError):
        _push(_client(registry, stand_in, cast.stranger.username, cast.stranger.token), project)
    forged = base64.urlsafe_b64encode(b'{"alg":"none"}').decode()
    headers = {"Authorization": f"Bearer {forged}.e30.", "Accept": MEDIA_TYPE}
    assert requests.get(f"http://{registry}/v2/{project}/manifests/v1", headers=headers, timeout=10).status_code == 401


def _artifact(cast: Cast, job: dict[str, Any], name: str) -> str:
    owner: UserHandle = cast.owner
    url = f"{cast.forge.url}/api/v4/projects/{job['pipeline']['project_id']}/jobs/{job['id']}/artifacts"
    answer = requests.get(url, headers={"PRIVATE-TOKEN": owner.token}, timeout=20)
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        return archive.read(name).decode().strip()


def test_a_jobs_id_token_says_who_runs_it(cast: Cast) -> None:
    """A job's ID token is signed with a published key, for the audience it asked for, and names project and commit."""
    project = cast.forge.add_project(cast.path("identity"), owner=cast.owner)
    text = (
        "image_build:\n  id_tokens: {SLIPWAY: {aud: 'https://slipway.example'}}\n"
        '  script: [echo "$SLIPWAY" > token.txt]\n  artifacts: {paths: [token.txt]}\n'
    )
    sha = cast.forge.commit(project, {".gitlab-ci.yml": text})
    job = cast.forge.wait_for_job(project, sha, "image_build")
    discovery = requests.get(f"{cast.forge.url}/.well-known/openid-configuration", timeout=20).json()
    keys = KeySet.import_key_set(requests.get(discovery["jwks_uri"], timeout=20).json())
    claims = jwt.decode(_artifact(cast, job, "token.txt"), keys, algorithms=["RS256"]).claims
    wanted = {
        "iss": discovery["issuer"],
        "aud": "https://slipway.example",
        "sub": f"project_path:{project.path}:ref_type:branch:ref:main",
        "project_path": project.path,
        "user_login": cast.owner.username,
        "sha": sha,
        "ref": "main",
        "ref_protected": "true",
        "job_id": str(job["id"]),
        "pipeline_source": "push",
    }
    assert {name: claims[name] for name in wanted} == wanted
