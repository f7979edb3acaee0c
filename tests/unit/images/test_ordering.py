"""What `build: now` does at GitLab, by what is there, and that it does it once.

Covered: each state of the commit's job, a launch that has had its build, an answer that was lost, a crash before the
order was noted, a build that somebody else began meanwhile, a refusal, two at once. Left out: when a launch asks for
it (the ladder's scenarios), whether GitLab then builds (the same).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from spawner.errors import Conflict, Forbidden, ForgeUnavailable
from spawner.images.model import Build
from spawner.images.ordering import BuildOrders
from spawner.names import CommitSha
from spawner.ports import (
    BuildJob,
    CommitBuilds,
    Credential,
    CredentialKind,
    Forge,
    JobStatus,
    Pipeline,
    Ref,
    RefKind,
)
from spawner.store.builds import BuildRows
from spawner.store.engine import open_engine

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=1)
SHA = CommitSha("a" * 40)
ID = f"default/1/{SHA}"
ME = Credential(forge="default", token="t", kind=CredentialKind.OAUTH)
HEAD = Ref(kind=RefKind.BRANCH, name="main", sha=SHA)


def job(status: JobStatus, **changes: object) -> BuildJob:
    made = BuildJob(
        id=7,
        name="image_build",
        status=status,
        status_text=status.value,
        failure_reason=None,
        allow_failure=False,
        web_url="",
        ref="main",
        pipeline_id=3,
        created_at=LONG_AGO,
        started_at=None,
        finished_at=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # a table's row changes what it names


def pipeline(created_at: datetime) -> Pipeline:
    return Pipeline(id=3, status="success", source="push", ref="main", web_url="", created_at=created_at)


@dataclass
class GitLab:
    """A GitLab that does what it is asked and writes it down; `faults` are raised in turn, after the deed."""

    jobs: list[BuildJob] = field(default_factory=list)
    pipelines: list[Pipeline] = field(default_factory=list)
    heads: list[Ref] = field(default_factory=lambda: [HEAD])
    done: list[str] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)

    def now(self) -> datetime:
        return NOW

    def builds(self, credential: Credential, project_id: int, sha: CommitSha, *, job_name: str) -> CommitBuilds:
        del credential, project_id, sha, job_name
        return CommitBuilds(pipelines=tuple(self.pipelines), jobs=tuple(self.jobs))

    def refs_of(self, credential: Credential, project: int, sha: CommitSha) -> Sequence[Ref]:
        del credential, project, sha
        return [HEAD]

    def ref(self, credential: Credential, project: int, name: str) -> Ref | None:
        del credential, project
        return next((head for head in self.heads if head.name == name), None)

    def play(self, credential: Credential, project_id: int, job_id: int) -> None:
        del credential, project_id
        self._do(f"play {job_id}", job(JobStatus.PENDING))

    def retry(self, credential: Credential, project_id: int, job_id: int) -> None:
        del credential, project_id
        self._do(f"retry {job_id}", job(JobStatus.PENDING, id=job_id + 1, created_at=NOW))

    def create_pipeline(self, credential: Credential, project_id: int, ref: str) -> Pipeline:
        del credential, project_id
        self._do(f"pipeline {ref}", job(JobStatus.CREATED, created_at=NOW))
        return pipeline(NOW)

    def _do(self, deed: str, after: BuildJob) -> None:
        self.done.append(deed)
        self.jobs = [after]
        if self.faults:
            raise self.faults.pop(0)


@pytest.fixture
def rows(sqlite_url: str) -> Iterator[BuildRows]:
    """The builds of a database, with a row that was looked at and is over."""
    engine = open_engine(sqlite_url)
    found = BuildRows(engine)
    found.add(
        Build(
            id=ID, forge="default", project_id=1, sha=SHA, job_name="image_build", first_asked_at=LONG_AGO,
            checked_at=LONG_AGO, finished_at=LONG_AGO, is_over=True, job=job(JobStatus.FAILED),
        )
    )  # fmt: skip
    yield found
    engine.dispose()


def order(gitlab: GitLab, rows: BuildRows, asked_at: datetime = NOW) -> bool:
    """Ask for a build, as a launch of that time."""
    build = rows.get(ID)
    assert build is not None
    orders = BuildOrders(forge=cast("Forge", gitlab), builds=rows, clock=gitlab)
    return orders.place(build, ME, asked_at=asked_at)


DEEDS: Mapping[str, tuple[GitLab, list[str]]] = {
    "no pipeline": (GitLab(), ["pipeline main"]),
    "an old pipeline without the job": (GitLab(pipelines=[pipeline(LONG_AGO)]), ["pipeline main"]),
    "a push that skipped CI": (GitLab(pipelines=[replace(pipeline(NOW), status="skipped")]), ["pipeline main"]),
    "a new pipeline without the job": (GitLab(pipelines=[pipeline(NOW)]), []),
    "manual": (GitLab(jobs=[job(JobStatus.MANUAL)]), ["play 7"]),
    "delayed": (GitLab(jobs=[job(JobStatus.SCHEDULED)]), ["play 7"]),
    "pending": (GitLab(jobs=[job(JobStatus.PENDING)]), []),
    "running": (GitLab(jobs=[job(JobStatus.RUNNING)]), []),
    "failed": (GitLab(jobs=[job(JobStatus.FAILED, finished_at=LONG_AGO)]), ["retry 7"]),
    "failed since it was asked for": (GitLab(jobs=[job(JobStatus.FAILED, finished_at=NOW)]), []),
    "cancelled": (GitLab(jobs=[job(JobStatus.CANCELED)]), ["retry 7"]),
    "skipped": (GitLab(jobs=[job(JobStatus.SKIPPED)]), ["pipeline main"]),
    "done, and its image lost": (GitLab(jobs=[job(JobStatus.SUCCESS, finished_at=LONG_AGO)]), ["retry 7"]),
}


@pytest.mark.parametrize("case", DEEDS)
def test_a_build_is_begun_as_the_job_wants_it(rows: BuildRows, case: str) -> None:
    """Each state has its one deed, after which the row knows nothing old and is looked at."""
    template, expected = DEEDS[case]
    gitlab = replace(template, done=[])

    assert order(gitlab, rows)

    after = rows.get(ID)
    assert after is not None
    assert gitlab.done == expected
    assert (after.checked_at, after.finished_at, after.due_at, after.is_over) == (None, None, NOW, False)
    assert rows.due(NOW, limit=1) == [ID], "the lease is free again"


def test_a_launch_has_one_build(rows: BuildRows) -> None:
    """However often a launch asks, and whatever became of its build, GitLab is asked once; a later launch asks anew."""
    gitlab = GitLab(jobs=[job(JobStatus.FAILED)])

    assert order(gitlab, rows)
    gitlab.jobs = [job(JobStatus.FAILED, id=8)]
    assert not order(gitlab, rows)
    assert order(gitlab, rows, NOW + timedelta(hours=1))

    assert gitlab.done == ["retry 7", "retry 8"]


@pytest.mark.parametrize("start", [[], [job(JobStatus.MANUAL)], [job(JobStatus.FAILED)]])
def test_a_lost_answer_makes_no_second_build(rows: BuildRows, start: list[BuildJob]) -> None:
    """An order that GitLab carried out, and whose answer was lost, is found again by the next one; so after a crash."""
    gitlab = GitLab(jobs=start, faults=[ForgeUnavailable("502")])

    with pytest.raises(ForgeUnavailable):
        order(gitlab, rows)
    assert order(gitlab, rows)

    assert len(gitlab.done) == 1


def test_an_order_that_was_not_carried_out_is_repeated(rows: BuildRows) -> None:
    """An order that never reached GitLab is made by the next one."""
    gitlab = GitLab(jobs=[job(JobStatus.MANUAL)], faults=[ForgeUnavailable("502")])

    with pytest.raises(ForgeUnavailable):
        order(gitlab, rows)
    gitlab.jobs = [job(JobStatus.MANUAL)]
    assert order(gitlab, rows)

    assert gitlab.done == ["play 7", "play 7"]


def test_who_was_quicker_is_let_be(rows: BuildRows) -> None:
    """A manual job that somebody else has just started is awaited."""
    assert order(GitLab(jobs=[job(JobStatus.MANUAL)], faults=[Conflict("Unplayable Job")]), rows)


@pytest.mark.parametrize(
    ("gitlab", "error"),
    [
        (GitLab(jobs=[job(JobStatus.FAILED)], faults=[Forbidden("You may not.")]), Forbidden),
        (GitLab(heads=[replace(HEAD, sha=CommitSha("b" * 40))]), Conflict),
    ],
)
def test_a_refusal_is_said_and_leaves_the_row_free(rows: BuildRows, gitlab: GitLab, error: type[Exception]) -> None:
    """Where GitLab will not build, the caller learns why, and another person may still have it built."""
    with pytest.raises(error):
        order(gitlab, rows)

    assert rows.claim(ID, seconds=1)
    assert (found := rows.get(ID)) is not None
    assert found.ordered_at is None


def test_two_at_once_make_one_build(rows: BuildRows) -> None:
    """Who finds somebody at the commit's build waits for what they do."""
    gitlab = GitLab()
    rows.claim(ID, seconds=60)

    assert order(gitlab, rows)

    assert gitlab.done == []
