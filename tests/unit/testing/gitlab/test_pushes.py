"""What follows a push.

Covered: a push whose pipeline cannot be made just now is kept and tried again, and holds up no other.
Left out: real pushes (the forge contract).
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from spawner.testing.gitlab import people
from spawner.testing.gitlab.background import Background
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Pipeline, Push, Status
from spawner.testing.gitlab.repository import ZERO_SHA, environment

if TYPE_CHECKING:
    from pathlib import Path

    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import Project, User

_IDENTITY = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@x.org", "GIT_COMMITTER_NAME": "A"}
_IDENTITY |= {"GIT_COMMITTER_EMAIL": "a@x.org"}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment() | _IDENTITY, capture_output=True, check=True, timeout=60
    )
    return done.stdout.decode().strip()


def _pushed(instance: Instance, project: Project, ada: User, work: Path) -> Push:
    """Put a commit that skips CI into a project, and record its push."""
    work.mkdir()
    _git(work, "init", "--quiet")
    (work / ".gitlab-ci.yml").write_text("job: {script: [date]}\n")
    _git(work, "add", ".")
    _git(work, "commit", "--quiet", "-m", "[skip ci]")
    _git(work, "push", "--quiet", str(instance.repository(project).path), "HEAD:refs/heads/main")
    push = Push(
        id=instance.store.next_id(Push),
        project_id=project.id,
        user_id=ada.id,
        ref="refs/heads/main",
        before=ZERO_SHA,
        after=_git(work, "rev-parse", "HEAD"),
        options=(),
        created_at=now(),
    )
    return instance.store.put(push)


def test_failing_push_is_tried_again(instance: Instance, project: Project, ada: User, tmp_path: Path) -> None:
    """An unforeseen failure loses no pipeline, and other pushes are followed up meanwhile."""
    other = people.add_project(instance, "ada/other", creator=ada)
    pushed = _pushed(instance, project, ada, tmp_path / "first")
    _pushed(instance, other, ada, tmp_path / "second")
    broken = instance.store.change(project, settings={"ci_config_path": "no\0path"})
    background = Background(instance)

    background._settle()

    assert [push.id for push in instance.store.all(Push)] == [pushed.id]
    assert [row.project_id for row in instance.store.all(Pipeline)] == [other.id]

    instance.store.change(broken, settings={})
    background._retry_at.clear()  # its pause has passed
    background._settle()

    assert instance.store.all(Push) == []
    made = instance.store.all(Pipeline, lambda row: row.project_id == project.id)
    assert [(row.sha, row.status) for row in made] == [(pushed.after, Status.SKIPPED)]
