"""The build store on both databases.

Covered: round trips, the poller's lease, versions, hints, orders, what is due, logs. Left out: many pollers at once
(`test_concurrency`).
"""

from dataclasses import replace

import pytest

from spawner.images.model import Build
from spawner.ports import JobStatus
from spawner.store.builds import BuildRows
from tests.contract.store.values import AT, BUILD, JOB, SHA, at

PLAIN = Build(id="default/1/x", forge="default", project_id=1, sha=SHA, job_name="image_build", first_asked_at=AT)


@pytest.mark.parametrize("build", [BUILD, PLAIN], ids=["full", "plain"])
def test_round_trip(builds: BuildRows, build: Build) -> None:
    """A build comes back as it went in."""
    assert build == builds.add(build)
    assert build == builds.get(build.id)


@pytest.mark.parametrize("status", list(JobStatus))
def test_statuses(builds: BuildRows, status: JobStatus) -> None:
    """Every status of a job comes back."""
    build = replace(BUILD, job=replace(JOB, status=status))
    assert build == builds.add(build)


def test_added_twice(builds: BuildRows) -> None:
    """Adding a build that is there returns it as it is."""
    builds.add(BUILD)
    assert builds.add(replace(BUILD, trouble="other")) == BUILD


def test_projects_of_late(builds: BuildRows) -> None:
    """The projects of builds that were asked for of late, each once, the newest first, no more than wanted."""
    for number, (project, asked) in enumerate([(1, -50), (2, 10), (1, 20), (3, 5), (4, 30)]):
        builds.add(replace(PLAIN, id=f"b{number}", project_id=project, first_asked_at=at(asked)))
    assert (list(builds.projects(AT, limit=9)), list(builds.projects(AT, limit=2))) == ([4, 1, 2, 3], [4, 1])


def test_every_field_is_saved(builds: BuildRows) -> None:
    """A save writes every field, raises the version and frees the lease; an older version changes nothing."""
    builds.add(PLAIN)
    assert builds.claim(PLAIN.id, seconds=30)
    changed = replace(BUILD, id=PLAIN.id)
    assert replace(changed, version=1) == builds.save(changed)
    assert replace(changed, version=1) == builds.get(PLAIN.id)
    assert builds.claim(PLAIN.id, seconds=30)
    assert builds.save(PLAIN) is None


def test_lease(builds: BuildRows) -> None:
    """A lease keeps other pollers out until it runs out."""
    builds.add(BUILD)
    assert builds.claim(BUILD.id, seconds=-1)
    assert (builds.claim(BUILD.id, seconds=30), builds.claim(BUILD.id, seconds=30)) == (True, False)


def test_hint(builds: BuildRows) -> None:
    """A hint makes a build due now and reopens one that was over."""
    builds.add(replace(BUILD, is_over=True, due_at=None))
    assert builds.due(at(99), limit=9) == []
    assert builds.hint(BUILD.id, at(50))
    after = builds.get(BUILD.id)
    assert after is not None
    assert (False, at(50), [BUILD.id]) == (after.is_over, after.due_at, builds.due(at(50), limit=9))


def test_hint_during_a_look(builds: BuildRows) -> None:
    """A hint during a look is not lost: the look's save does not stand, and the next may begin at once."""
    builds.add(BUILD)
    assert builds.claim(BUILD.id, seconds=30)
    builds.hint(BUILD.id, at(1))
    assert builds.save(replace(BUILD, is_over=True, due_at=None)) is None
    assert [BUILD.id] == builds.due(at(1), limit=9)
    assert builds.claim(BUILD.id, seconds=30)


def test_order(builds: BuildRows) -> None:
    """An order forgets what was seen and makes the build due and free; a look that began before does not stand."""
    builds.add(replace(BUILD, is_over=True, due_at=None))
    assert builds.claim(BUILD.id, seconds=30)
    builds.order(BUILD.id, at(50))
    forgotten = {"checked_at": None, "finished_at": None, "looks": 0, "log_bytes": 0, "trouble": "", "version": 1}
    after = replace(BUILD, is_over=False, due_at=at(50), ordered_at=at(50), **forgotten)  # type: ignore[arg-type]
    assert after == builds.get(BUILD.id)
    assert builds.save(replace(BUILD, is_over=True)) is None
    assert builds.claim(BUILD.id, seconds=30)


def test_due(builds: BuildRows) -> None:
    """Due are those whose time has come, that are not over and that nobody polls, oldest first."""
    rows = {"now": (0, False), "late": (-5, False), "over": (-9, True), "later": (1, False), "polled": (-7, False)}
    for name, (seconds, is_over) in rows.items():
        builds.add(replace(PLAIN, id=name, due_at=at(seconds), is_over=is_over))
    builds.add(replace(PLAIN, id="never"))
    builds.claim("polled", seconds=30)
    assert builds.due(AT, limit=9) == ["late", "now"]
    assert builds.due(AT, limit=1) == ["late"]


def test_unknown(builds: BuildRows) -> None:
    """What does not exist is None, False or empty."""
    assert (
        builds.get("x"),
        builds.claim("x", seconds=1),
        builds.hint("x", AT),
        builds.save(replace(BUILD, id="x")),
        builds.log("x"),
    ) == (None, False, False, None, "")


def test_log(builds: BuildRows) -> None:
    """A log is replaced whole, whatever it is made of."""
    builds.replace_log(BUILD.id, "one\n")
    builds.replace_log(BUILD.id, "zwei ü\x1b[0m \x00\ud800 \U0001f600\n" * 10_000)
    assert builds.log(BUILD.id) == "zwei ü\x1b[0m \ufffd\ufffd \U0001f600\n" * 10_000
