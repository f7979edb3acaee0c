"""`GitLabForge` against the stand-in: people, projects, commits, refs, CI, rights, failures, and its number of calls.

Left out: keys and Git (test_trees, test_relay), sign-in (test_oauth), where a commit's jobs may be (test_builds).
"""

import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from spawner.errors import (
    Conflict,
    Forbidden,
    ForgeUnavailable,
    MissingScope,
    ProjectNotFound,
    RevisionNotFound,
    TokenRejected,
)
from spawner.gitlab.client import GitLabForge
from spawner.names import CommitSha, ProjectPath
from spawner.ports import AccessLevel, ForgeUser, JobStatus, NumberedPage, PageKind, Ref, RefKind, Shown, Visibility
from tests.contract.forge_port.conftest import CI, FAILING_CI, MANUAL_CI, MATRIX_CI, personal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.forge_port.conftest import World

NO_COMMIT = CommitSha("0123456789" * 4)


def calls(world: "World", do: "Callable[[], object]") -> dict[str, int]:
    """Return the API calls that something made, by route."""
    before = world.standin.requests()
    do()
    after = world.standin.requests()
    return {
        route: count - before.get(route, 0)
        for route, count in after.items()
        if "/-/stand-in" not in route and count != before.get(route, 0)
    }


def test_a_credential_is_somebody(world: "World") -> None:
    """A token's person is known by id, name and administration."""
    ada = world.forge().user(personal(world.ada.token))
    assert ada == ForgeUser(id=world.ada.id, username="ada", name=ada.name, email=ada.email)
    assert world.forge().user(personal(world.standin.admin.token)).is_admin


@pytest.mark.parametrize("token", ["glpat-unknown", "x"])
def test_an_unknown_token_is_rejected(world: "World", token: str) -> None:
    """GitLab's 401 is TokenRejected, whatever is asked."""
    with pytest.raises(TokenRejected):
        world.forge().user(personal(token))
    with pytest.raises(TokenRejected):
        world.forge().project(personal(token), ProjectPath(world.private.path))


def test_a_project_is_found_by_path_and_id(world: "World") -> None:
    """A subgroup's project reads the same by either name, with its image's name in lower case."""
    forge, ada = world.forge(), personal(world.ada.token)
    found = forge.project(ada, ProjectPath("lab/sub/flights"))
    host = world.standin.registry_url.partition("//")[2]
    assert (found.id, found.visibility, found.default_branch, found.registry_image, found.is_archived) == (
        world.private.id,
        Visibility.PRIVATE,
        "main",
        f"{host}/lab/sub/flights",
        False,
    )
    assert forge.project(ada, world.private.id) == found


@pytest.mark.parametrize(
    "path", ["lab/sub/flights", "lab/sub/absent", "lab/../ada/public", "x", "ada/..", "a b/c", 987654]
)
def test_hidden_and_absent_projects_are_the_same(world: "World", path: str | int) -> None:
    """A stranger learns nothing from the error of a project they may not see."""
    with pytest.raises(ProjectNotFound) as caught:
        world.forge().project(personal(world.bob.token), path if isinstance(path, int) else ProjectPath(path))
    assert caught.value.message == "There is no such project, or you may not see it."


def test_access_levels_are_the_persons_own(world: "World") -> None:
    """An owner, a member and a stranger have their levels; a stranger to a visible project has none."""
    forge, ada = world.forge(), personal(world.ada.token)
    carl = world.standin.add_user("carl")
    world.standin.add_member(world.private, carl, AccessLevel.REPORTER)
    found = [
        forge.access_level(ada, world.private.id, world.ada.id),
        forge.access_level(personal(carl.token), ProjectPath(world.private.path), carl.id),
        forge.access_level(personal(world.bob.token), world.public.id, world.bob.id),
    ]
    assert found == [AccessLevel.OWNER, AccessLevel.REPORTER, AccessLevel.NONE]


def test_a_revision_is_a_commit(world: "World") -> None:
    """A branch, a short SHA and a full one name the same commit, with its parents."""
    forge, ada = world.forge(), personal(world.ada.token)
    found = [forge.commit(ada, world.private.id, name) for name in ("main", world.second[:8], world.second)]
    assert found[0] is not None
    assert (found[0].sha, found[0].title, found[0].parents) == (world.second, "Second.", (world.first,))
    assert found == [found[0]] * 3


@pytest.mark.parametrize(
    "name",
    ["absent", NO_COMMIT, "", "..", "a/../b", "-x", "a b", "x" * 300, "a\x00", "main~1", "/", "HEAD@{1}", "a.lock"],
)
def test_what_names_no_commit_is_none(world: "World", name: str) -> None:
    """Unknown and impossible names are None; none of them becomes another address."""
    assert world.forge().commit(personal(world.ada.token), world.private.id, name) is None
    assert world.forge().ref(personal(world.ada.token), world.private.id, name) is None


def test_a_commit_of_a_hidden_project_is_a_hidden_project(world: "World") -> None:
    """Asking below a project that one may not see says only that it is not there."""
    with pytest.raises(ProjectNotFound):
        world.forge().commit(personal(world.bob.token), world.private.id, world.first)


def test_refs_tell_what_holds_a_commit(world: "World") -> None:
    """Branches and tags that contain a commit are listed; a commit on none has none; a tag is found after branches."""
    forge, ada, standin = world.forge(), personal(world.ada.token), world.standin
    project = standin.add_project("ada/refs", owner=world.ada)
    base = CommitSha(standin.commit(project, {"a": "1"}))
    top = CommitSha(standin.commit(project, {"a": "2"}))
    lost = CommitSha(standin.commit(project, {"a": "3"}, branch="side/x"))
    standin.commit(project, {"a": "4"}, branch="side/x", parent=top)
    by_name = {(ref.kind, ref.name) for ref in forge.refs_of(ada, project.id, base)}
    assert by_name == {(RefKind.BRANCH, "main"), (RefKind.BRANCH, "side/x")}
    assert forge.refs_of(ada, project.id, lost) == []
    assert forge.refs_of(ada, project.id, NO_COMMIT) == []
    main = forge.ref(ada, project.id, "main")
    assert main == Ref(kind=RefKind.BRANCH, name="main", sha=top, is_default=True, is_protected=True)
    side = forge.ref(ada, project.id, "side/x")
    assert side is not None
    assert (side.kind, side.is_default, side.is_protected) == (RefKind.BRANCH, False, False)
    assert forge.first_parents(ada, project.id, top, limit=100) == [base]
    assert forge.first_parents(ada, project.id, base, limit=100) == []
    assert forge.open_merge_request(ada, project.id, lost) is None


def test_first_parents_come_nearest_first_and_no_more_than_asked(world: "World") -> None:
    """Ancestors follow first parents from the commit, without it."""
    standin = world.standin
    project = standin.add_project("ada/line", owner=world.ada)
    line = [CommitSha(standin.commit(project, {"a": str(number)})) for number in range(4)]
    found = world.forge().first_parents(personal(world.ada.token), project.id, line[3], limit=2)
    assert found == [line[2], line[1]]


def test_a_commits_job_is_one_call(world: "World") -> None:
    """Where CI has the job, one call tells it, with its pipeline; the job reads back alone."""
    forge, ada, standin = world.forge(), personal(world.ada.token), world.standin
    standin.wait_for_pipeline(world.private, world.second)
    found = forge.builds(ada, world.private.id, world.second, job_name="image_build")
    assert [(job.name, job.status) for job in found.jobs] == [("image_build", JobStatus.PENDING)]
    assert [pipeline.id for pipeline in found.pipelines] == [found.jobs[0].pipeline_id]
    made = calls(world, lambda: forge.builds(ada, world.private.id, world.second, job_name="image_build"))
    assert sum(made.values()) == 1, made
    job = forge.job(ada, world.private.id, found.jobs[0].id)
    assert job is not None
    assert (job.id, job.web_url, job.pipeline_id, job.created_at) == (
        found.jobs[0].id,
        found.jobs[0].web_url,
        found.jobs[0].pipeline_id,
        found.jobs[0].created_at,
    )
    assert forge.job_log(ada, world.private.id, job.id) == b""


def test_a_commit_without_pipeline_and_one_without_the_job_differ(world: "World") -> None:
    """No pipeline is no pipeline; a pipeline without the job shows as a pipeline."""
    forge, ada = world.forge(), personal(world.ada.token)
    none = forge.builds(ada, world.private.id, world.first, job_name="image_build")
    other = forge.builds(ada, world.private.id, world.second, job_name="something_else")
    assert (none.pipelines, none.jobs, len(other.pipelines), other.jobs) == ((), (), 1, ())
    assert (other.pipelines[0].source, other.pipelines[0].ref) == ("push", "main")
    with pytest.raises(RevisionNotFound):
        forge.builds(ada, world.private.id, NO_COMMIT, job_name="image_build")


def test_parallel_jobs_count_by_their_name_before_the_suffix(world: "World") -> None:
    """`image_build 1/2` and `2/2` are found where no job has the exact name."""
    standin, ada = world.standin, personal(world.ada.token)
    project = standin.add_project("ada/parallel", owner=world.ada)
    sha = CommitSha(standin.commit(project, {".gitlab-ci.yml": MATRIX_CI}))
    standin.wait_for_pipeline(project, sha)
    found = world.forge().builds(ada, project.id, sha, job_name="image_build")
    assert sorted(job.name for job in found.jobs) == ["image_build 1/2", "image_build 2/2"]


def test_a_pipelines_and_a_jobs_page_show_their_commit(world: "World") -> None:
    """Either page names the commit and its branch, in one call; one of another project, or none, is not there."""
    forge, ada = world.forge(), personal(world.ada.token)
    builds = forge.builds(ada, world.private.id, world.second, job_name="image_build")
    for kind, number in ((PageKind.PIPELINE, builds.pipelines[0].id), (PageKind.JOB, builds.jobs[0].id)):
        page = NumberedPage(kind=kind, number=number)
        assert forge.shown(ada, world.private.id, page) == Shown(sha=world.second, ref="main")
        assert sum(calls(world, partial(forge.shown, ada, world.private.id, page)).values()) == 1
        assert forge.shown(ada, world.public.id, page) is None
        assert forge.shown(ada, world.private.id, NumberedPage(kind=kind, number=987654)) is None


def test_a_manual_job_is_played_once(world: "World") -> None:
    """A manual job starts on demand; a second click is a Conflict; a reader may not, nor may a token without `api`."""
    standin, forge, ada = world.standin, world.forge(), personal(world.ada.token)
    project = standin.add_project("ada/manual", owner=world.ada)
    dora = standin.add_user("dora")
    standin.add_member(project, dora, AccessLevel.REPORTER)
    sha = CommitSha(standin.commit(project, {".gitlab-ci.yml": MANUAL_CI}))
    standin.wait_for_pipeline(project, sha)
    job = forge.builds(ada, project.id, sha, job_name="image_build").jobs[0]
    assert (job.status, job.allow_failure) == (JobStatus.MANUAL, True)
    narrow = standin.add_token(world.ada.id, scopes=["read_api"])
    with pytest.raises(MissingScope, match="api"):
        forge.play(personal(narrow), project.id, job.id)
    with pytest.raises(Forbidden):
        forge.play(personal(dora.token), project.id, job.id)
    forge.play(ada, project.id, job.id)
    after = forge.job(ada, project.id, job.id)
    assert after is not None
    assert after.status is JobStatus.PENDING
    with pytest.raises(Conflict):
        forge.play(ada, project.id, job.id)


def test_a_pipeline_is_made_for_a_branch(world: "World") -> None:
    """A branch with CI gets a pipeline; one without any job is a Conflict."""
    standin, forge, ada = world.standin, world.forge(), personal(world.ada.token)
    project = standin.add_project("ada/pipelines", owner=world.ada)
    standin.commit(project, {".gitlab-ci.yml": CI}, "Begin. [skip ci]")
    made = forge.create_pipeline(ada, project.id, "main")
    assert (made.ref, made.source) == ("main", "api")
    with pytest.raises(Conflict):
        forge.create_pipeline(ada, project.id, "absent")


def test_a_job_that_one_may_not_see_is_none(world: "World") -> None:
    """Absent jobs and hidden ones are None."""
    forge = world.forge()
    job = forge.builds(personal(world.ada.token), world.private.id, world.second, job_name="image_build").jobs[0]
    assert forge.job(personal(world.bob.token), world.private.id, job.id) is None
    assert forge.job(personal(world.ada.token), world.private.id, 987654) is None
    assert forge.job_log(personal(world.bob.token), world.private.id, job.id) == b""


def test_scopes_are_those_of_the_token(world: "World") -> None:
    """A personal token's scopes are read however it is presented."""
    narrow = world.standin.add_token(world.ada.id, scopes=["read_api", "read_repository"])
    assert world.forge().scopes(personal(narrow)) == {"read_api", "read_repository"}


@pytest.mark.parametrize(
    ("fault", "expected"), [("bad_gateway_html", ForgeUnavailable), ("token_expired", TokenRejected)]
)
def test_gitlabs_own_troubles_are_told_apart(world: "World", fault: str, expected: type[Exception]) -> None:
    """A proxy's HTML page is "unavailable", an expired token is rejected, and the next call is well."""
    world.standin.arm(fault, times=1)
    try:
        with pytest.raises(expected):
            world.forge().project(personal(world.ada.token), world.private.id)
    finally:
        world.standin.clear_faults()
    assert world.forge().project(personal(world.ada.token), world.private.id).id == world.private.id


def test_one_forge_serves_many_threads(world: "World") -> None:
    """Sixteen threads of two people each get their own person's answer."""
    forge = world.forge()
    found: list[bool] = []

    def ask(name: str, token: str) -> None:
        found.extend(forge.user(personal(token)).username == name for _ in range(5))

    people = [("ada", world.ada.token), ("bob", world.bob.token)] * 8
    threads = [threading.Thread(target=ask, args=person) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 80


def test_a_failed_job_has_its_reason_and_its_log(tmp_path: "Path") -> None:
    """With a real runner, a failing job says why, and its log is there."""
    from spawner.testing.gitlab import StandIn  # noqa: PLC0415 - this test alone needs a runner

    with StandIn.start(data=tmp_path / "gitlab") as standin:
        ada = standin.add_user("ada")
        project = standin.add_project("ada/failing", owner=ada)
        sha = CommitSha(standin.commit(project, {".gitlab-ci.yml": FAILING_CI}))
        standin.wait_for_job(project, sha, "image_build")
        forge = GitLabForge(standin.url, key_cache=tmp_path / "keys")
        job = forge.builds(personal(ada.token), project.id, sha, job_name="image_build").jobs[0]
        assert (job.status, job.failure_reason) == (JobStatus.FAILED, "script_failure")
        assert b"exit 3" in forge.job_log(personal(ada.token), project.id, job.id)
