"""What a push means: who may push where, and the consequences that follow it.

Promises: a push is recorded before its client hears of it and settled afterwards, once, even when the stand-in is
killed in between; only the newest commit of each pushed ref gets a pipeline; a push of more than three refs sends
no push hook, as in GitLab.
Must not know: how Git moved the objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spawner.testing.gitlab import faults, protection
from spawner.testing.gitlab.ci import create, requests
from spawner.testing.gitlab.hooks import events
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Project, ProtectedBranch, Push, User
from spawner.testing.gitlab.repository import ZERO_SHA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spawner.testing.gitlab.instance import Instance

_HEADS = "refs/heads/"
_TAGS = "refs/tags/"
# GitLab's default of `push_event_hooks_limit`.
_HOOKED_REFS = 3


def record(
    instance: Instance,
    project: Project,
    user: User,
    changes: Sequence[tuple[str, str, str]],
    options: Sequence[str] = (),
) -> None:
    """Keep what was pushed, as (ref, before, after), so that `settle` can follow it up."""
    changes = [row for row in changes if row[0].startswith((_HEADS, _TAGS))]
    if not changes:
        return
    with instance.store as store:
        _adopt_default(instance, project, [ref for ref, _, after in changes if after != ZERO_SHA])
        store.change(project, updated_at=now())
        for ref, before, after in changes:
            for request in requests.open_from(instance, project.id, ref.removeprefix(_HEADS)):
                store.change(request, is_stale=True)
            store.put(
                Push(
                    id=store.next_id(Push),
                    project_id=project.id,
                    user_id=user.id,
                    ref=ref,
                    before=before,
                    after=after,
                    options=tuple(options),
                    created_at=now(),
                    announced=len(changes) > _HOOKED_REFS,
                )
            )


def settle(instance: Instance, push: Push) -> None:
    """Follow up a recorded push, if it is due: send hooks, make the pipeline, forget the push."""
    project = instance.store.get(Project, push.project_id)
    user = instance.store.get(User, push.user_id)
    if project is None or user is None:
        instance.store.drop(push)
        return
    if not push.announced:
        with instance.store as store:
            events.pushed(instance, project, user, push)
            push = store.change(push, announced=True)
    if push.after == ZERO_SHA:
        instance.store.drop(push)
    elif not _is_late(instance, project, push):
        _make_pipeline(instance, project, user, push)


def _is_late(instance: Instance, project: Project, push: Push) -> bool:
    late = faults.peek(instance, faults.Kind.PIPELINE_LATE, project)
    if late is None:
        return False
    due_seconds = faults.DEFAULT_LATE_SECONDS if late.seconds is None else late.seconds
    if (now() - push.created_at).total_seconds() < due_seconds:
        return True
    faults.strikes(instance, faults.Kind.PIPELINE_LATE, project)
    return False


def _make_pipeline(instance: Instance, project: Project, user: User, push: Push) -> None:
    is_tag = push.ref.startswith(_TAGS)
    sha = instance.repository(project).resolve(push.after)
    if sha is None:
        instance.store.drop(push)
        return
    order = create.Order(
        project=project,
        user=user,
        ref=push.ref.removeprefix(_TAGS if is_tag else _HEADS),
        is_tag=is_tag,
        sha=sha,
        before_sha=push.before,
        source="push",
        options=push.options,
        push=push,
    )
    create.for_push(instance, order)


def _adopt_default(instance: Instance, project: Project, refs: Sequence[str]) -> None:
    """Take the first branch of an empty project as its default, and protect it."""
    branches = [ref.removeprefix(_HEADS) for ref in refs if ref.startswith(_HEADS)]
    repository = instance.repository(project)
    if not branches or repository.head(project.default_branch):
        chosen = project.default_branch
    else:
        chosen = branches[0]
        repository.point_head(chosen)
        instance.store.change(project, default_branch=chosen)
    existing = instance.store.first(ProtectedBranch, lambda row: row.project_id == project.id)
    if branches and existing is None and chosen in branches:
        protection.protect(instance, project, chosen)
