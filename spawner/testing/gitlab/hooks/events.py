"""Says that something happened; those hooks that want to know are told by the delivery threads.

Promises: never blocks and never fails: bodies are built and sent elsewhere, from the records as they were at the
moment; nobody is told of what is undone in the end.
Must not know: HTTP.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING

from spawner.testing.gitlab.access import groups_above
from spawner.testing.gitlab.letters import Letter, Subject
from spawner.testing.gitlab.records import Hook, Job, Pipeline, Project, Push, User

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance

TITLES = {
    "push_events": "Push Hook",
    "tag_push_events": "Tag Push Hook",
    "job_events": "Job Hook",
    "pipeline_events": "Pipeline Hook",
}


def job_changed(instance: Instance, job: Job) -> None:
    """Tell that a job has a new state; external statuses and trigger jobs have no hook of their own."""
    if not job.external and not job.trigger:
        _tell(instance, job.project_id, "job_events", (job,))


def pipeline_changed(instance: Instance, pipeline: Pipeline) -> None:
    """Tell that a pipeline has a new state."""
    _tell(instance, pipeline.project_id, "pipeline_events", (pipeline,))


def pushed(instance: Instance, project: Project, user: User, push: Push) -> None:
    """Tell that a ref was pushed."""
    event = "tag_push_events" if push.ref.startswith("refs/tags/") else "push_events"
    _tell(instance, project.id, event, (project, user, push))


def _tell(instance: Instance, project_id: int, event: str, about: tuple[Subject, ...]) -> None:
    event_uuid = str(uuid.uuid4())
    project = instance.store.get(Project, project_id)
    above = {group.id for group in groups_above(instance, project.path)} if project else set()

    def hears(hook: Hook) -> bool:
        is_near = hook.group_id in above if hook.group_id else hook.project_id == project_id
        return is_near and event in hook.events

    for hook in instance.store.all(Hook, hears):
        letter = Letter(hook_id=hook.id, event=event, event_uuid=event_uuid, about=about)
        instance.store.afterwards(partial(instance.outbox.put, letter))
