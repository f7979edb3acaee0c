"""Starts what trigger jobs start: child pipelines, and pipelines of other projects.

Promises: a trigger job that waits gets its pipeline once, also when the stand-in is killed in between; one that cannot
have it fails with GitLab's reason.
Must not know: how YAML is read, hooks.
Source: https://docs.gitlab.com/ci/pipelines/downstream_pipelines/ (18.x).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spawner.testing.gitlab.access import find_project, level
from spawner.testing.gitlab.ci import create, lifecycle
from spawner.testing.gitlab.records import Job, Level, Pipeline, Project, Status, User
from spawner.testing.gitlab.repository import ZERO_SHA

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance

# A child of a child is the last: https://docs.gitlab.com/ci/pipelines/downstream_pipelines/#nested-child-pipelines
_DEEPEST = 2


def waiting(instance: Instance) -> list[Job]:
    """Return the trigger jobs whose pipeline is to be made."""
    return instance.store.all(Job, lambda row: row.trigger is not None and row.status is Status.PENDING)


def settle(instance: Instance, bridge: Job) -> None:
    """Make the pipeline of a trigger job."""
    parent = instance.store.get(Pipeline, bridge.pipeline_id)
    user = instance.store.get(User, bridge.user_id)
    if parent is None or user is None or bridge.trigger is None:
        return
    try:
        create.by_hand(instance, _order(instance, bridge, parent, user))
    except create.NoPipelineError:
        lifecycle.move(instance, bridge, Status.FAILED, reason="downstream_pipeline_creation_failed")


def _order(instance: Instance, bridge: Job, parent: Pipeline, user: User) -> create.Order:
    project = instance.store.get(Project, bridge.project_id)
    trigger = bridge.trigger
    if project is None or trigger is None:
        raise create.NoPipelineError("The trigger job has lost its project.")
    if trigger.include is None:
        return _elsewhere(instance, bridge, user)
    if _depth(instance, parent) >= _DEEPEST:
        raise create.NoPipelineError("The pipelines are nested too deep.")
    return create.Order(
        project=project,
        user=user,
        ref=parent.ref,
        is_tag=parent.tag,
        sha=parent.sha,
        before_sha=parent.before_sha,
        source="parent_pipeline",
        given=bridge.variables,
        bridge=bridge,
        config_path=trigger.include,
    )


def _elsewhere(instance: Instance, bridge: Job, user: User) -> create.Order:
    """Order a pipeline of another project's branch, with the rights of whoever runs the trigger job."""
    trigger = bridge.trigger
    project = find_project(instance, trigger.project or "") if trigger else None
    if project is None or level(instance, project, user) < Level.DEVELOPER:
        raise create.NoPipelineError("The other project could not be found, or its pipelines may not be run.")
    branch = (trigger.branch if trigger else None) or project.default_branch
    sha = instance.repository(project).head(branch)
    if sha is None:
        raise create.NoPipelineError("Reference not found")
    return create.Order(
        project=project,
        user=user,
        ref=branch,
        is_tag=False,
        sha=sha,
        before_sha=ZERO_SHA,
        source="pipeline",
        given=bridge.variables,
        bridge=bridge,
    )


def _depth(instance: Instance, pipeline: Pipeline) -> int:
    bridge = instance.store.get(Job, pipeline.bridge_id) if pipeline.bridge_id else None
    parent = instance.store.get(Pipeline, bridge.pipeline_id) if bridge else None
    return 1 + _depth(instance, parent) if parent and pipeline.source == "parent_pipeline" else 0
