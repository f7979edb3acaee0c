"""The registry's token service and its rows in the REST API, with a real push.

Covered: the challenge, Basic sign-in, dropped scopes, denial, job tokens, repositories and tags over REST.
Left out: the distribution API itself (`tests/unit/testing/registry`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from spawner.testing.gitlab import StandIn, UserHandle
    from tests.contract.forge.conftest import Cast

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def _auth(cast: Cast, scope: str, user: UserHandle | None, name: str = "") -> requests.Response:
    signed_in = (name or user.username, user.token) if user else None
    return requests.get(
        f"{cast.forge.url}/jwt/auth",
        params={"service": "container_registry", "scope": scope},
        auth=signed_in,
        timeout=20,
    )


def _claims(answer: requests.Response) -> dict[str, Any]:
    part = answer.json()["token"].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def _push(stand_in: StandIn, cast: Cast, name: str, tag: str) -> str:
    token = _auth(cast, f"repository:{name}:pull,push", cast.owner).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    base = f"{stand_in.registry_url}/v2/{name}"
    blobs = []
    for content in (b"{}", b"layer"):
        mark = "sha256:" + hashlib.sha256(content).hexdigest()
        start = requests.post(f"{base}/blobs/uploads/", headers=headers, timeout=20)
        location = start.headers["Location"]
        where = location if location.startswith("http") else stand_in.registry_url + location
        done = requests.put(where, params={"digest": mark}, data=content, headers=headers, timeout=20)
        assert done.status_code == 201
        blobs.append({"mediaType": "application/octet-stream", "digest": mark, "size": len(content)})
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": blobs[0], "layers": blobs[1:]}
    kept = requests.put(
        f"{base}/manifests/{tag}",
        data=json.dumps(manifest),
        headers=headers | {"Content-Type": _MANIFEST},
        timeout=20,
    )
    assert kept.status_code == 201
    return kept.headers["Docker-Content-Digest"]


def test_challenge_names_the_token_service(stand_in: StandIn, cast: Cast) -> None:
    """Without a token the registry says where to get one."""
    answer = requests.get(f"{stand_in.registry_url}/v2/", timeout=20)
    assert answer.status_code == 401
    assert f'realm="{cast.forge.url}/jwt/auth"' in answer.headers["WWW-Authenticate"]
    assert 'service="container_registry"' in answer.headers["WWW-Authenticate"]


def test_scopes_are_granted_or_dropped_silently(cast: Cast) -> None:
    """The owner gets what they ask; a stranger gets 200 and nothing."""
    scope = f"repository:{cast.project.path}/image:pull,push"
    granted = _auth(cast, scope, cast.owner)
    (entry,) = _claims(granted)["access"]
    assert (entry["type"], entry["name"], entry["actions"]) == (
        "repository",
        f"{cast.project.path}/image",
        ["pull", "push"],
    )
    assert entry["meta"]["project_id"] == cast.project.id
    dropped = _auth(cast, scope, cast.stranger)
    assert (dropped.status_code, _claims(dropped)["access"]) == (200, [])
    assert _claims(_auth(cast, scope, cast.owner, "oauth2"))["sub"] == cast.owner.username


def test_wrong_credentials_are_denied(cast: Cast) -> None:
    """Wrong or absent credentials are refused with the registry's error body."""
    answer = requests.get(
        f"{cast.forge.url}/jwt/auth",
        params={"service": "container_registry", "scope": f"repository:{cast.project.path}:pull"},
        auth=("nobody", "glpat-wrong"),
        timeout=20,
    )
    assert answer.status_code in {401, 403}
    assert answer.json()["errors"][0]["code"] == "DENIED"


def test_reporters_pull_and_developers_push(cast: Cast) -> None:
    """The level decides the actions."""
    project = cast.forge.add_project(cast.path("levels"), owner=cast.owner)
    scope = f"repository:{project.path}:pull,push"
    for level, actions in ((10, []), (20, ["pull"]), (30, ["pull", "push"])):
        body = {"user_id": cast.stranger.id, "access_level": level}
        if level == 10:
            cast.forge.api("POST", f"/projects/{project.id}/members", body=body)
        else:
            cast.forge.api("PUT", f"/projects/{project.id}/members/{cast.stranger.id}", body=body)
        entries = _claims(_auth(cast, scope, cast.stranger))["access"]
        assert [action for entry in entries for action in entry["actions"]] == actions


def test_pushed_image_is_listed(stand_in: StandIn, cast: Cast) -> None:
    """A pushed tag shows in REST with its digest; a repository only authorized for a push is listed empty."""
    made = cast.forge.add_project(cast.path("image"), owner=cast.owner)
    digest = _push(stand_in, cast, f"{made.path}/app", "v1")
    _auth(cast, f"repository:{made.path}/empty:push", cast.owner)
    project = cast.client().projects.get(made.id)
    rows = {row.name: row for row in project.repositories.list(tags_count=True, get_all=True)}
    assert {name: row.tags_count for name, row in rows.items()} == {"app": 1, "empty": 0}
    assert rows["app"].location.endswith(f"/{made.path}/app")
    assert [tag.name for tag in rows["app"].tags.list(get_all=True)] == ["v1"]
    tag = rows["app"].tags.get("v1")
    assert (tag.digest, tag.revision) == (digest, digest.removeprefix("sha256:"))
    answer = requests.get(
        f"{cast.forge.url}/api/v4/projects/{made.id}/registry/repositories/{rows['app'].id}/tags/nope",
        headers={"PRIVATE-TOKEN": cast.owner.token},
        timeout=20,
    )
    assert (answer.status_code, answer.json()) == (404, {"message": "404 Tag Not Found"})


def test_a_job_pushes_to_its_own_project_only(cast: Cast) -> None:
    """A job's token is good for its project's registry, and for nothing once the job has ended."""
    made = cast.forge.add_project(cast.path("jobtoken"), owner=cast.owner)
    configuration = """
image_build:
  script:
    - ask() { curl -sf -u "$CI_REGISTRY_USER:$CI_REGISTRY_PASSWORD"
      "$CI_SERVER_URL/jwt/auth?service=container_registry&scope=repository:$1:push" | cut -d. -f2 | tr '_-' '/+'; }
    - ask "$CI_PROJECT_PATH" > own.txt
    - ask OTHER > other.txt
    - echo "$CI_JOB_TOKEN" > token.txt
  artifacts: {paths: ["*.txt"]}
""".replace("OTHER", cast.project.path)
    sha = cast.forge.commit(made, {".gitlab-ci.yml": configuration}, "Ask.")
    done = cast.forge.wait_for_job(made, sha, "image_build")
    job = cast.client().projects.get(made.id).jobs.get(done["id"])
    assert done["status"] == "success", job.trace()

    def granted(name: str) -> list[str]:
        part = job.artifact(name).decode().strip()
        access = json.loads(base64.b64decode(part + "=" * (-len(part) % 4)))["access"]
        return [entry["name"] for entry in access]

    assert granted("own.txt") == [made.path]
    assert granted("other.txt") == []
    token = job.artifact("token.txt").decode().strip()
    late = requests.get(
        f"{cast.forge.url}/jwt/auth",
        params={"service": "container_registry", "scope": f"repository:{made.path}:pull"},
        auth=("gitlab-ci-token", token),
        timeout=20,
    )
    assert late.status_code in {401, 403}
