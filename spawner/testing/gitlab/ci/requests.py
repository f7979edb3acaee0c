"""Merge requests as their pipelines see them: refs, variables, who is open where.

Source: https://docs.gitlab.com/ci/pipelines/merge_request_pipelines/ (18.x).
Promises: GitLab's names; a detached pipeline runs on the head, a merged-results one on a commit that nobody pushed.
Must not know: how pipelines are made, HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spawner.testing.gitlab import protection
from spawner.testing.gitlab.records import MergeRequest, Pipeline, Project

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance

_SHOWN = 4


def of_pipeline(instance: Instance, pipeline: Pipeline) -> MergeRequest | None:
    """Return the merge request that a pipeline was made for, or None."""
    return instance.store.get(MergeRequest, pipeline.merge_request_id) if pipeline.merge_request_id else None


def open_from(instance: Instance, project_id: int, branch: str) -> list[MergeRequest]:
    """Return the open merge requests whose source is a branch."""
    return instance.store.all(
        MergeRequest,
        lambda row: row.state == "opened" and (row.source_project_id, row.source_branch) == (project_id, branch),
    )


def source_ref(instance: Instance, pipeline: Pipeline) -> str:
    """Return the branch or tag that people know a pipeline by; REST tells a merge request's ref instead."""
    request = of_pipeline(instance, pipeline)
    return request.source_branch if request else pipeline.ref


def ref_path(request: MergeRequest, kind: str = "head") -> str:
    """Return a ref of a merge request: its `head`, or the `merge` of it into its target."""
    return f"refs/merge-requests/{request.sequence}/{kind}"


def variables(instance: Instance, pipeline: Pipeline) -> dict[str, str]:
    """Return CI_MERGE_REQUEST_* of a merge request's pipeline, or CI_OPEN_MERGE_REQUESTS of a branch's."""
    request = of_pipeline(instance, pipeline)
    if request is None:
        return _open(instance, pipeline)
    target = instance.store.get(Project, request.project_id)
    source = instance.store.get(Project, request.source_project_id)
    is_merged = pipeline.ref == ref_path(request, "merge")
    name = "CI_MERGE_REQUEST_"
    found = {
        f"{name}ID": str(request.id),
        f"{name}IID": str(request.sequence),
        f"{name}TITLE": request.title,
        f"{name}REF_PATH": ref_path(request),
        f"{name}EVENT_TYPE": "merged_result" if is_merged else "detached",
        f"{name}SOURCE_BRANCH_NAME": request.source_branch,
        f"{name}SOURCE_BRANCH_SHA": request.sha if is_merged else "",
        f"{name}TARGET_BRANCH_NAME": request.target_branch,
        f"{name}DIFF_BASE_SHA": request.base_sha or "",
        **_of_project(instance, f"{name}PROJECT_", target),
        **_of_project(instance, f"{name}SOURCE_PROJECT_", source),
    }
    if source:
        is_protected = protection.is_protected(instance, source, request.source_branch)
        found[f"{name}SOURCE_BRANCH_PROTECTED"] = str(is_protected).lower()
    return found


def _of_project(instance: Instance, prefix: str, project: Project | None) -> dict[str, str]:
    if project is None:
        return {}
    return {
        f"{prefix}ID": str(project.id),
        f"{prefix}PATH": project.path,
        f"{prefix}URL": f"{instance.url}/{project.path}",
    }


def _open(instance: Instance, pipeline: Pipeline) -> dict[str, str]:
    found = [] if pipeline.tag else open_from(instance, pipeline.project_id, pipeline.ref)
    names = []
    for row in found[:_SHOWN]:
        target = instance.store.get(Project, row.project_id)
        names.append(f"{target.path if target else ''}!{row.sequence}")
    return {"CI_OPEN_MERGE_REQUESTS": ",".join(names)} if names else {}
