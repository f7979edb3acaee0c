"""What a merge request does: it takes its source's head over, has its pipeline made, and is merged.

Source: https://docs.gitlab.com/ci/pipelines/merged_results_pipelines/ (18.x).
Promises: each head of an open merge request is followed up once, also over a crash. A fork's pipeline runs in the
fork, unless a member of the target has it run there. With `merge_pipelines_enabled` it runs on the merged result,
where there is no conflict.
Must not know: HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spawner.testing.gitlab import pushes
from spawner.testing.gitlab.ci import create, requests
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import MergeRequest, Pipeline, Project, User
from spawner.testing.gitlab.repository import ZERO_SHA

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance


class UnmergeableError(Exception):
    """A merge request cannot be merged: it is not open, or conflicts."""


def stale(instance: Instance) -> list[MergeRequest]:
    """Return the open merge requests whose head is to be followed up."""
    return instance.store.all(MergeRequest, lambda row: row.is_stale and row.state == "opened")


def settle(instance: Instance, request: MergeRequest) -> None:
    """Take over the source's head, and make the pipeline that its configuration wants."""
    fresh = refreshed(instance, request)
    author = instance.store.get(User, request.author_id)
    source = instance.store.get(Project, request.source_project_id)
    if fresh is None or author is None or source is None:
        instance.store.change(request, is_stale=False)
        return
    create.for_push(instance, _order(fresh, source, author))


def by_hand(instance: Instance, request: MergeRequest, project: Project, user: User) -> Pipeline:
    """Make a merge request's pipeline in one of its two projects, because a person asked.

    Raises:
        NoPipelineError: there is nothing to run.
    """
    return create.by_hand(instance, _order(refreshed(instance, request) or request, project, user))


def refreshed(instance: Instance, request: MergeRequest) -> MergeRequest | None:
    """Bring a merge request's refs up to its source branch; None when that is gone."""
    target = instance.store.get(Project, request.project_id)
    source = instance.store.get(Project, request.source_project_id)
    head = instance.repository(source).head(request.source_branch) if source else None
    if target is None or source is None or head is None:
        return None
    repository = instance.repository(target)
    repository.take_over(instance.repository(source), head, ref=requests.ref_path(request))
    base = repository.head(request.target_branch)
    merged = repository.merged(base, head, message=_message(request)) if base else None
    if merged:
        repository.update(requests.ref_path(request, "merge"), merged)
    common = repository.merge_base(base, head) if base else None
    return instance.store.change(request, sha=head, base_sha=common, merge_ref_sha=merged, updated_at=now())


def merge(instance: Instance, request: MergeRequest, user: User) -> MergeRequest:
    """Merge into the target branch, as a push of the merge commit.

    Raises:
        UnmergeableError: it cannot be merged.
    """
    fresh = refreshed(instance, request)
    target = instance.store.get(Project, request.project_id)
    if fresh is None or target is None or fresh.state != "opened" or fresh.merge_ref_sha is None:
        raise UnmergeableError
    branch = f"refs/heads/{request.target_branch}"
    before = instance.repository(target).head(request.target_branch) or ZERO_SHA
    with instance.store as store:
        instance.repository(target).update(branch, fresh.merge_ref_sha)
        pushes.record(instance, target, user, [(branch, before, fresh.merge_ref_sha)])
        return store.change(
            fresh,
            state="merged",
            is_stale=False,
            merged_at=now(),
            merged_by_id=user.id,
            merge_commit_sha=fresh.merge_ref_sha,
        )


def _order(request: MergeRequest, project: Project, user: User) -> create.Order:
    in_target = project.id == request.project_id
    is_merged = in_target and bool(project.settings.get("merge_pipelines_enabled")) and bool(request.merge_ref_sha)
    ref = requests.ref_path(request, "merge" if is_merged else "head") if in_target else request.source_branch
    return create.Order(
        project=project,
        user=user,
        ref=ref,
        is_tag=False,
        sha=request.merge_ref_sha if is_merged and request.merge_ref_sha else request.sha,
        before_sha=ZERO_SHA,
        source="merge_request_event",
        merge_request=request,
        compared_sha=request.base_sha,
    )


def _message(request: MergeRequest) -> str:
    return f"Merge branch '{request.source_branch}' into '{request.target_branch}'\n\n{request.title}\n"
