"""Reading projects, code and CI with python-gitlab, one test or more per row marked P in the reference.

Covered: version, user, project, members, commits, refs, statuses, branches, tags, pipelines, jobs, bridges, traces,
tree, files, archives; offset and keyset pages; who may see what. Left out: hooks, badges, registry, OAuth (own files).
"""

from __future__ import annotations

import base64
import io
import tarfile
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import gitlab
import pytest
import requests
from gitlab.exceptions import GitlabAuthenticationError, GitlabGetError

if TYPE_CHECKING:
    from spawner.testing.gitlab import UserHandle
    from tests.contract.forge.conftest import Cast


def _raw(cast: Cast, path: str, user: UserHandle | None = None, **headers: str) -> requests.Response:
    token = (user or cast.owner).token
    return requests.get(f"{cast.forge.url}/api/v4{path}", headers={"PRIVATE-TOKEN": token, **headers}, timeout=20)


def test_version_and_user(cast: Cast) -> None:
    """A client learns what GitLab this is and who it is."""
    client = cast.client()
    client.auth()
    assert client.version()[0].split(".")[0].isdigit()
    assert client.user is not None
    assert (client.user.id, client.user.username, client.user.state) == (cast.owner.id, cast.owner.username, "active")


def test_administrator_flag_is_shown_to_administrators_only(cast: Cast) -> None:
    """`is_admin` is there for an administrator and absent for others."""
    assert "is_admin" not in _raw(cast, "/user").json()
    assert _raw(cast, "/user", cast.forge.admin).json()["is_admin"] is True


def test_project_by_id_and_by_path(cast: Cast) -> None:
    """A project is the same by number and by encoded path."""
    by_path = cast.client().projects.get(cast.project.path)
    assert by_path.attributes == cast.client().projects.get(cast.project.id).attributes
    assert by_path.default_branch == "main"
    assert by_path.permissions["project_access"]["access_level"] == 50
    assert by_path.visibility == "private"
    assert by_path.empty_repo is False
    assert by_path.http_url_to_repo == cast.project.http_url


def test_empty_project_has_no_default_branch(cast: Cast) -> None:
    """Before the first push the default branch is null and the tree is an empty list."""
    made = cast.forge.add_project(cast.path("empty"), owner=cast.owner)
    found = cast.client().projects.get(made.id)
    assert (found.default_branch, found.empty_repo) == (None, True)


@pytest.mark.parametrize("what", ["/projects/{0}", "/projects/{0}/pipelines", "/projects/{0}/repository/tree"])
def test_what_one_may_not_see_does_not_exist(cast: Cast, what: str) -> None:
    """A stranger's answer for a private project is the one for a project that does not exist."""
    hidden = _raw(cast, what.format(cast.project.id), cast.stranger)
    absent = _raw(cast, what.format(999_999_999), cast.stranger)
    assert (hidden.status_code, hidden.json()) == (404, {"message": "404 Project Not Found"})
    assert (absent.status_code, absent.json()) == (404, {"message": "404 Project Not Found"})


def test_wrong_token_is_unauthorized(cast: Cast) -> None:
    """An unknown token is refused wherever it is used."""
    with pytest.raises(GitlabAuthenticationError) as caught:
        gitlab.Gitlab(cast.forge.url, private_token="glpat-wrong", timeout=20).auth()
    assert caught.value.response_code == 401


def test_too_small_a_scope_is_forbidden(cast: Cast) -> None:
    """A token that reads only cannot write, and one for repositories cannot read the API."""
    reading = cast.forge.add_token(cast.owner.id, scopes=["read_api"])
    headers = {"PRIVATE-TOKEN": reading}
    base = f"{cast.forge.url}/api/v4"
    assert requests.get(f"{base}/projects/{cast.project.id}", headers=headers, timeout=20).ok
    refused = requests.post(f"{base}/projects", headers=headers, json={"name": "x"}, timeout=20)
    assert (refused.status_code, refused.json()["error"]) == (403, "insufficient_scope")
    narrow = cast.forge.add_token(cast.owner.id, scopes=["read_repository"])
    refused = requests.get(f"{base}/projects/{cast.project.id}", headers={"PRIVATE-TOKEN": narrow}, timeout=20)
    assert (refused.status_code, refused.json()["error"]) == (403, "insufficient_scope")


def test_membership_answers_the_level(cast: Cast) -> None:
    """`members/all/:user_id` gives the level, and 404 to who has none."""
    project = cast.client().projects.get(cast.project.id)
    assert project.members_all.get(cast.owner.id).access_level == 50
    with pytest.raises(GitlabGetError) as caught:
        project.members_all.get(cast.stranger.id)
    assert caught.value.response_code == 404


def test_membership_comes_from_groups_too(cast: Cast) -> None:
    """A member of a group above, or of an invited group, is found; `permissions` shows the first only."""
    path = cast.path("team").split("/")[1]
    group = cast.forge.add_group(path, owner=cast.owner)
    below = cast.forge.add_group(f"{path}/below", owner=cast.owner)
    cast.forge.api("POST", f"/groups/{group}/members", body={"user_id": cast.stranger.id, "access_level": 30})
    inherited = cast.forge.add_project(f"{path}/below/inner", owner=cast.owner)
    invited = cast.forge.add_project(cast.path("shared"), owner=cast.owner)
    cast.forge.api("POST", f"/projects/{invited.id}/share", body={"group_id": group, "group_access": 20})
    client = cast.client(cast.stranger)
    assert below != group
    assert client.projects.get(inherited.id).members_all.get(cast.stranger.id).access_level == 30
    assert client.projects.get(inherited.id).permissions["group_access"]["access_level"] == 30
    assert client.projects.get(invited.id).members_all.get(cast.stranger.id).access_level == 20
    assert client.projects.get(invited.id).permissions == {"project_access": None, "group_access": None}


@pytest.mark.parametrize(("visibility", "seen"), [("private", False), ("internal", True), ("public", True)])
def test_visibility(cast: Cast, visibility: str, seen: bool) -> None:  # noqa: FBT001 - a table's column
    """A stranger sees internal and public projects; only public ones need no token."""
    made = cast.forge.add_project(cast.path(visibility), owner=cast.owner, visibility=visibility)
    assert _raw(cast, f"/projects/{made.id}", cast.stranger).ok is seen
    nobody = requests.get(f"{cast.forge.url}/api/v4/projects/{made.id}", timeout=20)
    assert nobody.ok is (visibility == "public")


@pytest.mark.parametrize("name", ["main", "full", "short"])
def test_commit_by_any_name(cast: Cast, name: str) -> None:
    """A branch, a full and a short SHA all answer the full id."""
    asked = {"main": "main", "full": cast.sha, "short": cast.sha[:8]}[name]
    found = cast.client().projects.get(cast.project.id).commits.get(asked)
    assert (found.id, found.short_id, found.title) == (cast.sha, cast.sha[:8], "Build.")
    assert found.parent_ids == [cast.first]
    assert found.last_pipeline["sha"] == cast.sha
    assert found.stats["additions"] > 0


def test_commit_without_pipeline(cast: Cast) -> None:
    """A commit that has no pipeline says so with nulls."""
    found = cast.client().projects.get(cast.project.id).commits.get(cast.first)
    assert (found.status, found.last_pipeline) == (None, None)
    assert found.message == "Begin.\n\nWith a body.\n"


@pytest.mark.parametrize("sha", ["f" * 40, "no-such-branch"])
def test_unknown_commit(cast: Cast, sha: str) -> None:
    """An unknown commit is 404 in GitLab's words."""
    answer = _raw(cast, f"/projects/{cast.project.id}/repository/commits/{sha}")
    assert (answer.status_code, answer.json()) == (404, {"message": "404 Commit Not Found"})


def test_refs_of_a_commit(cast: Cast) -> None:
    """The branches and tags that hold a commit are listed with their kind."""
    project = cast.client().projects.get(cast.project.id)
    assert project.commits.get(cast.sha).refs("branch") == [{"type": "branch", "name": "main"}]
    assert project.commits.get(cast.sha).refs("tag") == []


def test_statuses_of_a_commit_by_job_name(cast: Cast) -> None:
    """One call answers how `image_build` stands for a commit; its id is the job's."""
    project = cast.client().projects.get(cast.project.id)
    rows = project.commits.get(cast.sha).statuses.list(name="image_build", get_all=True)
    assert [(row.name, row.status, row.sha, row.ref) for row in rows] == [
        ("image_build", "success", cast.sha, "main"),
    ]
    assert project.jobs.get(rows[0].id).name == "image_build"


def test_branches(cast: Cast) -> None:
    """A branch with a slash is found by its encoded name; the default one is protected."""
    cast.forge.commit(cast.project, {"b.txt": "b"}, "Branch. [skip ci]", branch="feature/one")
    project = cast.client().projects.get(cast.project.id)
    assert {row.name for row in project.branches.list(get_all=True)} == {"main", "feature/one"}
    main, other = project.branches.get("main"), project.branches.get("feature/one")
    assert (main.default, main.protected, main.can_push) == (True, True, True)
    assert (other.default, other.protected) == (False, False)
    assert main.commit["id"] == cast.sha


def test_unknown_tag_and_branch(cast: Cast) -> None:
    """Unknown names are 404 in GitLab's words."""
    base = f"/projects/{cast.project.id}/repository"
    assert _raw(cast, f"{base}/branches/nope").json() == {"message": "404 Branch Not Found"}
    assert _raw(cast, f"{base}/tags/nope").json() == {"message": "404 Tag Not Found"}


def test_pipelines_of_a_commit(cast: Cast) -> None:
    """Pipelines are found by SHA, newest first; one in full says more."""
    project = cast.client().projects.get(cast.project.id)
    (listed,) = project.pipelines.list(sha=cast.sha, get_all=True)
    assert (listed.sha, listed.ref, listed.source, listed.project_id) == (cast.sha, "main", "push", cast.project.id)
    full = project.pipelines.get(listed.id)
    assert (full.status, full.tag, full.yaml_errors, full.user["username"]) == (
        "success",
        False,
        None,
        cast.owner.username,
    )
    assert full.before_sha == cast.first
    assert project.pipelines.list(sha="f" * 40, get_all=True) == []
    assert [row.id for row in project.pipelines.list(sha=cast.sha, status="success", get_all=True)] == [listed.id]


def test_latest_pipeline_of_nothing_is_forbidden(cast: Cast) -> None:
    """`pipelines/latest` answers 403 when there is none."""
    made = cast.forge.add_project(cast.path("none"), owner=cast.owner)
    assert _raw(cast, f"/projects/{made.id}/pipelines/latest").status_code == 403


def test_jobs_of_a_pipeline(cast: Cast) -> None:
    """Jobs are listed newest first, in scope, with their pipeline and commit."""
    project = cast.client().projects.get(cast.project.id)
    pipeline = project.pipelines.list(sha=cast.sha, get_all=True)[0]
    rows = pipeline.jobs.list(get_all=True)
    ids = [row.id for row in rows]
    assert ids == sorted(ids, reverse=True)
    assert {(row.name, row.stage, row.status) for row in rows} == {
        ("image_build", "build", "success"),
        ("use", "test", "success"),
        ("ask", "test", "manual"),
    }
    assert {row.name for row in pipeline.jobs.list(scope=["manual"], get_all=True)} == {"ask"}
    assert pipeline.bridges.list(get_all=True) == []


def test_a_wrong_scope_is_refused(cast: Cast) -> None:
    """A word that is no status is 400."""
    answer = _raw(cast, f"/projects/{cast.project.id}/jobs?scope[]=nonsense")
    assert answer.status_code == 400
    assert answer.json()["error"].lower().startswith("scope")


def test_one_job(cast: Cast) -> None:
    """A job shows its commit, pipeline, times and artifacts."""
    project = cast.client().projects.get(cast.project.id)
    pipeline = project.pipelines.list(sha=cast.sha, get_all=True)[0]
    identifier = next(row.id for row in pipeline.jobs.list(get_all=True) if row.name == "image_build")
    job = project.jobs.get(identifier)
    assert job.commit["id"] == cast.sha
    assert job.pipeline["id"] == pipeline.id
    assert job.duration > 0
    assert job.allow_failure is False
    assert job.artifacts_file["filename"].endswith(".zip")
    assert {"archive", "dotenv", "trace"} <= {row["file_type"] for row in job.attributes["artifacts"]}
    assert job.web_url.endswith(f"/-/jobs/{identifier}")


def test_trace(cast: Cast) -> None:
    """A log is plain text with its sections; a job that never ran has an empty one."""
    project = cast.client().projects.get(cast.project.id)
    jobs = {row.name: row.id for row in project.jobs.list(get_all=True)}
    answer = _raw(cast, f"/projects/{cast.project.id}/jobs/{jobs['image_build']}/trace")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert f"building for {cast.sha[:8]}" in answer.text
    assert "section_start:" in answer.text
    empty = _raw(cast, f"/projects/{cast.project.id}/jobs/{jobs['ask']}/trace")
    assert (empty.status_code, empty.content) == (200, b"")


def test_artifacts(cast: Cast) -> None:
    """An archive is downloaded whole or by file."""
    project = cast.client().projects.get(cast.project.id)
    identifier = next(row.id for row in project.jobs.list(get_all=True) if row.name == "image_build")
    job = project.jobs.get(identifier)
    assert job.artifact("result.txt") == b"content\n"
    whole: Any = job.artifacts()
    assert whole[:2] == b"PK"


def test_tree(cast: Cast) -> None:
    """Folders come first; a subfolder and an unknown one answer as they should."""
    project = cast.client().projects.get(cast.project.id)
    rows = project.repository_tree(ref=cast.sha, get_all=True)
    assert [(row["type"], row["path"]) for row in rows] == [
        ("tree", "data"),
        ("blob", ".gitlab-ci.yml"),
        ("blob", "README.md"),
    ]
    assert [row["path"] for row in project.repository_tree(path="data", get_all=True)] == ["data/a b.txt"]
    answer = _raw(cast, f"/projects/{cast.project.id}/repository/tree?path=nope")
    assert answer.json() == {"message": "404 Tree Not Found"}


def test_files(cast: Cast) -> None:
    """A file is read as JSON, raw and by HEAD, at any commit, whatever its name."""
    project = cast.client().projects.get(cast.project.id)
    found = project.files.get("data/a b.txt", ref=cast.sha)
    assert base64.b64decode(found.content) == b"x\n"
    assert found.commit_id == cast.sha
    assert found.last_commit_id == cast.first
    assert project.files.raw("README.md", ref=cast.first) == b"one\n"
    path = f"/projects/{cast.project.id}/repository/files/{quote('data/a b.txt', safe='')}?ref=main"
    head = requests.head(f"{cast.forge.url}/api/v4{path}", headers={"PRIVATE-TOKEN": cast.owner.token}, timeout=20)
    assert (head.headers["X-Gitlab-Blob-Id"], head.headers["X-Gitlab-Size"]) == (found.blob_id, "2")
    assert _raw(cast, f"/projects/{cast.project.id}/repository/files/nope?ref=main").json() == {
        "message": "404 File Not Found"
    }


def test_archive(cast: Cast) -> None:
    """An archive holds the files of its commit."""
    project = cast.client().projects.get(cast.project.id)
    content: Any = project.repository_archive(sha=cast.first)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = [name.split("/", 1)[-1] for name in archive.getnames()]
    assert "README.md" in names
    assert ".gitlab-ci.yml" not in names


def test_offset_pages(cast: Cast) -> None:
    """Pages have counts and links on the address that the client used; python-gitlab walks them."""
    answer = _raw(cast, f"/projects/{cast.project.id}/repository/commits?per_page=1")
    assert [row["id"] for row in answer.json()] == [cast.sha]
    assert (answer.headers["X-Page"], answer.headers["X-Next-Page"], answer.headers["X-Per-Page"]) == ("1", "2", "1")
    assert answer.links["next"]["url"].startswith(f"{cast.forge.url}/api/v4/projects/")
    walked = cast.client().projects.get(cast.project.id).commits.list(iterator=True, per_page=1)
    assert [row.id for row in walked] == [cast.sha, cast.first]


def test_too_many_rows_are_cut(cast: Cast) -> None:
    """A page has at most 100 rows, and one of no rows is refused."""
    path = f"/projects/{cast.project.id}/repository/commits"
    assert _raw(cast, f"{path}?per_page=1000").headers["X-Per-Page"] == "100"
    assert _raw(cast, f"{path}?per_page=0").status_code == 400


def test_jobs_tell_no_total(cast: Cast) -> None:
    """`/projects/:id/jobs` counts nothing and offers keyset pages."""
    answer = _raw(cast, f"/projects/{cast.project.id}/jobs?per_page=1")
    assert "X-Total" not in answer.headers
    walked = (
        cast.client()
        .projects.get(cast.project.id)
        .jobs.list(iterator=True, per_page=1, pagination="keyset", order_by="id", sort="desc")
    )
    ids = [row.id for row in walked]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) >= 3


def test_project_list_by_keyset(cast: Cast) -> None:
    """A person's projects are walked by keyset; strangers' private ones are not among them."""
    options: dict[str, Any] = {"pagination": "keyset", "order_by": "id", "sort": "asc", "per_page": 1}
    mine = [row.id for row in cast.client().projects.list(iterator=True, membership=True, **options)]
    assert cast.project.id in mine
    theirs = cast.client(cast.stranger).projects.list(iterator=True, **options)
    assert cast.project.id not in [row.id for row in theirs]


def test_every_answer_tells_the_rate(cast: Cast) -> None:
    """`RateLimit-*` headers are on answers good and bad."""
    names = {"RateLimit-Limit", "RateLimit-Name", "RateLimit-Observed", "RateLimit-Remaining", "RateLimit-Reset"}
    assert names <= set(_raw(cast, "/user").headers)
    assert names <= set(_raw(cast, "/projects/999999999").headers)


def test_unknown_route_is_json(cast: Cast) -> None:
    """A route that does not exist is 404 in JSON."""
    answer = _raw(cast, "/no/such/route")
    assert (answer.status_code, answer.json()) == (404, {"error": "404 Not Found"})
