"""The stand-in's answers beside GitLab's OpenAPI document.

Covered: method, path, status and every field of every row marked P that the document knows; that each deviation is in
`openapi_overlay.yaml` with its reason; that the overlay says nothing that is no longer so; that no deviation of ours is
on a field that we read. Left out: rows that the document lacks (`/user`), bodies that are no JSON.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests
import yaml

from tests.contract.forge.openapi import Document

if TYPE_CHECKING:
    from spawner.testing.gitlab import StandIn
    from tests.contract.forge.conftest import Cast

pytestmark = pytest.mark.gitlab_openapi

_ROOT = Path(__file__).parents[3]
_OVERLAY = Path(__file__).with_name("openapi_overlay.yaml")

# Method, path as the document has it, query or body.
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "/api/v4/version", {}),
    ("GET", "/api/v4/metadata", {}),
    ("GET", "/api/v4/projects/{id}", {}),
    ("GET", "/api/v4/projects", {"simple": "true", "membership": "true"}),
    ("GET", "/api/v4/projects/{id}/members/all/{user_id}", {}),
    ("GET", "/api/v4/projects/{id}/repository/commits", {}),
    ("GET", "/api/v4/projects/{id}/repository/commits/{sha}", {}),
    ("GET", "/api/v4/projects/{id}/repository/commits/{sha}/refs", {}),
    ("GET", "/api/v4/projects/{id}/repository/commits/{sha}/statuses", {}),
    ("POST", "/api/v4/projects/{id}/statuses/{sha}", {"state": "success", "name": "outside"}),
    ("GET", "/api/v4/projects/{id}/repository/commits/{sha}/merge_requests", {}),
    ("GET", "/api/v4/projects/{id}/merge_requests", {}),
    ("GET", "/api/v4/projects/{id}/merge_requests/{merge_request_iid}", {}),
    ("GET", "/api/v4/projects/{id}/merge_requests/{merge_request_iid}/pipelines", {}),
    ("GET", "/api/v4/projects/{id}/repository/branches", {}),
    ("GET", "/api/v4/projects/{id}/repository/branches/{branch}", {}),
    ("GET", "/api/v4/projects/{id}/repository/tags", {}),
    ("GET", "/api/v4/projects/{id}/repository/tags/{tag_name}", {}),
    ("GET", "/api/v4/projects/{id}/pipelines", {}),
    ("GET", "/api/v4/projects/{id}/pipelines/{pipeline_id}", {}),
    ("GET", "/api/v4/projects/{id}/pipelines/{pipeline_id}/jobs", {}),
    ("GET", "/api/v4/projects/{id}/pipelines/{pipeline_id}/bridges", {}),
    ("GET", "/api/v4/projects/{id}/jobs", {}),
    ("GET", "/api/v4/projects/{id}/jobs/{job_id}", {}),
    ("POST", "/api/v4/projects/{id}/jobs/{job_id}/play", {}),
    ("POST", "/api/v4/projects/{id}/jobs/{job_id}/cancel", {}),
    ("POST", "/api/v4/projects/{id}/jobs/{job_id}/retry", {}),
    ("POST", "/api/v4/projects/{id}/jobs/{job_id}/erase", {}),
    ("POST", "/api/v4/projects/{id}/pipeline", {"ref": "topic"}),
    ("GET", "/api/v4/projects/{id}/repository/tree", {}),
    ("GET", "/api/v4/projects/{id}/repository/files/{file_path}", {"ref": "topic"}),
    ("GET", "/api/v4/projects/{id}/registry/repositories", {"tags": "true", "tags_count": "true"}),
    ("GET", "/api/v4/projects/{id}/registry/repositories/{repository_id}/tags/{tag_name}", {}),
    ("POST", "/api/v4/projects/{id}/hooks", {"url": "http://127.0.0.1:9/"}),
    ("GET", "/api/v4/projects/{id}/hooks", {}),
    ("GET", "/api/v4/projects/{id}/hooks/{hook_id}", {}),
    ("POST", "/api/v4/projects/{id}/badges", {"link_url": "http://a.example/", "image_url": "http://a.example/b"}),
    ("GET", "/api/v4/projects/{id}/badges", {}),
    ("GET", "/api/v4/projects/{id}/badges/{badge_id}", {}),
    (
        "GET",
        "/api/v4/projects/{id}/badges/render",
        {"link_url": "http://a.example/", "image_url": "http://a.example/b"},
    ),
    ("POST", "/api/v4/projects/{id}/deploy_tokens", {"name": "pull", "scopes": ["read_registry"]}),
    ("GET", "/api/v4/projects/{id}/deploy_tokens", {}),
    ("GET", "/api/v4/projects/{id}/deploy_tokens/{token_id}", {}),
)

# What the product reads of GitLab's answers, by definition; "Response fields used" of the reference.
READ: dict[str, frozenset[str]] = {
    "API_Entities_Metadata": frozenset({"version", "revision"}),
    "API_Entities_ProjectWithAccess": frozenset(
        {
            "id",
            "path_with_namespace",
            "default_branch",
            "visibility",
            "archived",
            "empty_repo",
            "http_url_to_repo",
            "web_url",
            "permissions",
            "container_registry_image_prefix",
            "container_registry_access_level",
            "builds_access_level",
            "ci_config_path",
            "ci_job_token_scope_enabled",
            "marked_for_deletion_at",
        }
    ),
    "API_Entities_Member": frozenset({"id", "access_level", "expires_at", "membership_state"}),
    "API_Entities_CommitDetail": frozenset(
        {"id", "short_id", "title", "parent_ids", "last_pipeline", "status", "web_url"}
    ),
    "API_Entities_BasicRef": frozenset({"type", "name"}),
    "API_Entities_CommitStatus": frozenset(
        {"id", "sha", "ref", "status", "name", "target_url", "allow_failure", "pipeline_id"}
    ),
    "API_Entities_Branch": frozenset({"name", "commit", "protected", "default", "can_push"}),
    "API_Entities_Tag": frozenset({"name", "commit", "target", "message", "release"}),
    "API_Entities_Ci_PipelineBasic": frozenset(
        {"id", "iid", "project_id", "sha", "ref", "status", "source", "web_url", "created_at", "updated_at"}
    ),
    "API_Entities_Ci_Job": frozenset(
        {
            "id",
            "name",
            "stage",
            "status",
            "allow_failure",
            "failure_reason",
            "ref",
            "tag",
            "commit",
            "pipeline",
            "created_at",
            "started_at",
            "finished_at",
            "erased_at",
            "duration",
            "queued_duration",
            "runner",
            "web_url",
            "user",
        }
    ),
    "API_Entities_TreeObject": frozenset({"id", "name", "type", "path", "mode"}),
    "API_Entities_ContainerRegistry_Repository": frozenset({"id", "name", "path", "location", "tags_count", "status"}),
    "API_Entities_ContainerRegistry_TagDetails": frozenset({"name", "path", "location", "digest", "created_at"}),
    "API_Entities_MergeRequestBasic": frozenset({"iid", "state", "source_branch"}),
    "API_Entities_Ci_Bridge": frozenset({"name", "status", "downstream_pipeline"}),
    "API_Entities_ProjectHook": frozenset({"id", "url", "alert_status", "disabled_until"}),
    "API_Entities_DeployTokenWithToken": frozenset({"id", "username", "token"}),
    "API_Entities_Badge": frozenset({"id", "name", "link_url", "image_url", "rendered_link_url", "kind"}),
}


@pytest.fixture(scope="module")
def document(request: pytest.FixtureRequest) -> Document:
    """GitLab's document, where it is."""
    named = request.config.getoption("--openapi", default=None)
    path = Path(named) if named else _ROOT.parent / "shared" / "gitlab" / "openapi_v2.yaml"
    if not path.exists():
        where = f"at {named}" if named else "here"
        sentence = f"GitLab's OpenAPI document is not {where}: the comparison is left out. Name it with --openapi."
        print(sentence)  # noqa: T201 - left out aloud
        pytest.skip(sentence)
    return Document.read(path)


@pytest.fixture(scope="module")
def findings(stand_in: StandIn, cast: Cast, document: Document) -> dict[str, set[str]]:
    """The findings of every row, by method and path."""
    values = _values(stand_in, cast)
    found: dict[str, set[str]] = {}
    for method, template, given in ROWS:
        path = re.sub(r"\{(\w+)\}", lambda part, of=template: quote(str(values(part[1], of)), safe=""), template)  # type: ignore[misc]
        headers = {"PRIVATE-TOKEN": cast.owner.token}
        where = {"params": given} if method == "GET" else {"json": given}
        answer = requests.request(method, stand_in.url + path, headers=headers, timeout=20, **where)  # type: ignore[arg-type]
        assert answer.ok, f"{method} {path}: {answer.text}"
        found[f"{method} {template}"] = document.compare(method, template, answer.status_code, answer.json())
    return found


def _values(stand_in: StandIn, cast: Cast) -> Any:
    """Make one of everything; return what fills in a path's parameter."""
    made = stand_in.add_project(cast.path("openapi"), owner=cast.owner)
    configuration = """
child: {trigger: {include: child.yml}}
image_build:
  script: [echo "A=1" > a.env]
  artifacts: {paths: [a.env], reports: {dotenv: a.env}}
ask: {script: ["true"], when: manual}
"""
    stand_in.commit(made, {"README.md": "Begin."}, "Begin. [skip ci]")
    files = {".gitlab-ci.yml": configuration, "child.yml": "below: {script: ['true']}"}
    sha = stand_in.commit(made, files, "Everything.", branch="topic")
    stand_in.tag(made, "v1", sha, message="First.")
    built = stand_in.wait_for_job(made, sha, "image_build")
    asked = stand_in.wait_for_job(made, sha, "ask")
    headers = (cast.owner.username, cast.owner.token)
    scope = f"repository:{made.path}:pull,push"
    token = requests.get(
        f"{stand_in.url}/jwt/auth",
        params={"service": "container_registry", "scope": scope},
        auth=headers,
        timeout=20,
    ).json()["token"]
    _push_empty(f"{stand_in.registry_url}/v2/{made.path}", {"Authorization": f"Bearer {token}"})
    base = f"/projects/{made.id}"
    wanted = {"source_branch": "topic", "target_branch": "main", "title": "Everything."}
    request = stand_in.api("POST", f"{base}/merge_requests", user=cast.owner, body=wanted)
    hook = stand_in.api("POST", f"{base}/hooks", user=cast.owner, body={"url": "http://127.0.0.1:9/"})
    badge_body = {"link_url": "http://a.example/", "image_url": "http://a.example/b"}
    badge = stand_in.api("POST", f"{base}/badges", user=cast.owner, body=badge_body)
    token_body = {"name": "pull", "scopes": ["read_registry"]}
    token_row = stand_in.api("POST", f"{base}/deploy_tokens", user=cast.owner, body=token_body)
    (repository,) = stand_in.api("GET", f"{base}/registry/repositories", user=cast.owner)
    values = {
        "id": made.id,
        "sha": sha,
        "user_id": cast.owner.id,
        "branch": "main",
        "tag_name": "v1",
        "pipeline_id": built["pipeline"]["id"],
        "job_id": built["id"],
        "file_path": ".gitlab-ci.yml",
        "repository_id": repository["id"],
        "hook_id": hook["id"],
        "badge_id": badge["id"],
        "merge_request_iid": request["iid"],
        "token_id": token_row["id"],
    }
    played = values | {"job_id": asked["id"]}
    return lambda name, template: (played if template.endswith("/play") else values)[name]


def _push_empty(base: str, headers: dict[str, str]) -> None:
    mark = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    start = requests.post(f"{base}/blobs/uploads/", headers=headers, timeout=20).headers["Location"]
    where = start if start.startswith("http") else base.partition("/v2/")[0] + start
    requests.put(where, params={"digest": mark}, data=b"{}", headers=headers, timeout=20)
    media = "application/vnd.oci.image.manifest.v1+json"
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": mark, "size": 2}
    manifest = {"schemaVersion": 2, "mediaType": media, "config": config, "layers": []}
    kept = requests.put(
        f"{base}/manifests/v1", data=json.dumps(manifest), headers=headers | {"Content-Type": media}, timeout=20
    )
    assert kept.status_code == 201


def _overlay() -> dict[str, dict[str, str]]:
    """Return each section's findings with their reasons."""
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load(_OVERLAY.read_text())
    return {
        section: {finding: row["reason"] for row in rows for finding in row["findings"]}
        for section, rows in found.items()
    }


@pytest.mark.parametrize("row", [f"{method} {template}" for method, template, _ in ROWS])
def test_answer_is_as_documented(findings: dict[str, set[str]], row: str) -> None:
    """An answer differs from the document only where the overlay says so."""
    known = {finding for section in _overlay().values() for finding in section}
    assert findings[row] - known == set()


def test_overlay_is_current(findings: dict[str, set[str]]) -> None:
    """The overlay names nothing that is no longer found."""
    seen = {finding for found in findings.values() for finding in found}
    known = {finding for section in _overlay().values() for finding in section}
    assert known - seen == set()


def test_every_deviation_has_its_reason() -> None:
    """No finding stands without a sentence."""
    for section in _overlay().values():
        assert all(len(reason) > 20 for reason in section.values())


def test_no_deviation_is_on_a_field_that_we_read() -> None:
    """What is not as in GitLab is nothing that the product looks at."""
    read = {f"{name}.{field}" for name, fields in READ.items() for field in fields}
    ours = {finding.rsplit(" ", 1)[0] for finding in _overlay()["deviations"]}
    assert ours & read == set()


def test_what_we_read_is_documented(document: Document) -> None:
    """The list of fields that we read names fields that GitLab documents, so that it cannot rot."""
    for name, fields in READ.items():
        unknown = fields - document.definitions[name]["properties"].keys()
        assert unknown == set(), name
