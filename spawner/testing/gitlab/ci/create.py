"""Makes pipelines: from a push, by hand through the API, or around an external status.

Promises: what GitLab would make of the same commit, or a sentence why there is none; a pipeline and its jobs appear
together.
Must not know: how YAML is read (`expand`), how jobs run.
"""

from __future__ import annotations

import base64
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spawner.testing.gitlab.access import signed_token
from spawner.testing.gitlab.ci import lifecycle, triggers, variables
from spawner.testing.gitlab.ci.machine import names_of
from spawner.testing.gitlab.expand import Expansion, InstallError, JobSpec, Origin, expand
from spawner.testing.gitlab.expand.model import ConfigurationError
from spawner.testing.gitlab.expand.program import RefusedError
from spawner.testing.gitlab.hooks import events
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Job, MergeRequest, Pipeline, Project, Push, Status, Trigger, User
from spawner.testing.gitlab.repository import ZERO_SHA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from spawner.testing.gitlab.instance import Instance

_SKIP_WORDS = ("[skip ci]", "[ci skip]", "[skip-ci]", "[ci-skip]")
_DEFAULT_TIMEOUT_SECONDS = 3600
_INCLUDE_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a pipeline is wanted for; `push`, `bridge` and `merge_request` are the records that are settled with it.

    `config_path` names the configuration where it is not the project's own: a child pipeline's file. `compared_sha` is
    what `rules:changes` compares with where that is not the commit before.
    """

    project: Project
    user: User
    ref: str
    is_tag: bool
    sha: str
    before_sha: str
    source: str
    options: tuple[str, ...] = ()
    given: tuple[tuple[str, str], ...] = ()
    push: Push | None = None
    bridge: Job | None = None
    merge_request: MergeRequest | None = None
    config_path: str | None = None
    compared_sha: str | None = None


class NoPipelineError(Exception):
    """There is no pipeline, for a reason said in GitLab's words."""


def for_push(instance: Instance, order: Order) -> Pipeline | None:
    """Make the pipeline of a push or a merge request, or None when it wants none; a broken configuration fails one.

    The push is forgotten with it; on any other error it stays, to be tried again.
    """
    try:
        return _create(instance, order, keep_failed=True)
    except NoPipelineError:
        _let_go(instance, order)
        return None


def by_hand(instance: Instance, order: Order) -> Pipeline:
    """Make a pipeline that somebody asked for.

    Raises:
        NoPipelineError: there is nothing to run.
    """
    return _create(instance, order, keep_failed=False)


def for_external_status(instance: Instance, order: Order) -> Pipeline:
    """Make an empty pipeline that an external status can hang on."""
    with instance.store as store:
        return store.put(replace(_blank(instance, order), status=Status.PENDING))


def _create(instance: Instance, order: Order, *, keep_failed: bool) -> Pipeline:
    if order.project.settings.get("builds_access_level") == "disabled":
        raise NoPipelineError("Pipelines are disabled!")
    repository = instance.repository(order.project)
    path = order.config_path or str(order.project.settings.get("ci_config_path") or ".gitlab-ci.yml")
    content = repository.blob(order.sha, path)
    if content is None:
        raise NoPipelineError("Missing CI config file")
    repository.update(f"refs/keep-around/{order.sha}", order.sha)
    if _is_skipped(instance, order):
        return _settled(instance, order, _finished(_blank(instance, order), Status.SKIPPED))
    blank = _blank(instance, order)
    try:
        content, started = triggers.separated(content)
        expansion = _expanded(instance, order, blank, content)
    except ConfigurationError as exc:
        expansion, started = Expansion(errors=(str(exc),)), {}
    if expansion.filtered:
        raise NoPipelineError(expansion.reason)
    if expansion.errors:
        if not keep_failed:
            raise NoPipelineError("; ".join(expansion.errors))
        failed = replace(_finished(blank, Status.FAILED), yaml_errors="; ".join(expansion.errors))
        return _settled(instance, order, failed)
    return _kept(instance, order, blank, expansion, started)


def _expanded(instance: Instance, order: Order, blank: Pipeline, content: bytes) -> Expansion:
    known = variables.of_pipeline(instance, order.project, blank, order.user) | dict(order.given)
    before = order.before_sha if order.source == "push" and not order.is_tag else None
    since = order.compared_sha or before
    try:
        with _credentials(instance, order.user) as git_config:
            return expand(
                yaml_bytes=content,
                repository=instance.repository(order.project).path,
                sha=order.sha,
                variables=known,
                changes_since=since,
                origin=Origin(url=f"{instance.url}/{order.project.path}.git", git_config=git_config),
            )
    except (InstallError, RefusedError) as exc:
        return Expansion(errors=(str(exc),))


@contextmanager
def _credentials(instance: Instance, user: User) -> Iterator[Path]:
    """Lend the rights of a pipeline's user to what it includes, in a file that is gone afterwards."""
    secret = signed_token(instance, user, writing=False, life_seconds=_INCLUDE_SECONDS)
    pair = base64.b64encode(f"{user.username}:{secret}".encode()).decode()
    with tempfile.NamedTemporaryFile("w", prefix="include-", suffix=".gitconfig") as file:
        file.write(f'[http "{instance.url}/"]\n\textraHeader = Authorization: Basic {pair}\n')
        file.flush()
        yield Path(file.name)


def _kept(
    instance: Instance, order: Order, blank: Pipeline, expansion: Expansion, started: Mapping[str, Trigger]
) -> Pipeline:
    stages = expansion.stages
    with instance.store as store:
        pipeline = store.put(replace(blank, stages=stages))
        events.pipeline_changed(instance, pipeline)
        for spec in _in_order(expansion.jobs, stages):
            job = _job(pipeline, spec, store.next_id(Job), stages)
            trigger = next((started[name] for name in names_of(spec.name) if name in started), None)
            events.job_changed(instance, store.put(replace(job, trigger=trigger)))
        lifecycle.advance(instance, pipeline.id)
        if order.project.settings.get("auto_cancel_pending_pipelines", "enabled") == "enabled":
            lifecycle.cancel_redundant(instance, pipeline)
        _follow(instance, order, pipeline)
        return store.get(Pipeline, pipeline.id) or pipeline


def _follow(instance: Instance, order: Order, pipeline: Pipeline) -> None:
    """Settle what the pipeline was made for, in the transaction that keeps it."""
    _let_go(instance, order)
    if order.bridge:
        lifecycle.bridged(instance, order.bridge, pipeline)


def _let_go(instance: Instance, order: Order) -> None:
    if order.push:
        instance.store.drop(order.push)
    request = instance.store.get(MergeRequest, order.merge_request.id) if order.merge_request else None
    if request and order.merge_request and request.sha == order.merge_request.sha:
        instance.store.change(request, is_stale=False)


def _settled(instance: Instance, order: Order, pipeline: Pipeline) -> Pipeline:
    """Keep a pipeline without jobs, and its push as done, in one step."""
    with instance.store as store:
        events.pipeline_changed(instance, store.put(pipeline))
        _follow(instance, order, pipeline)
    return pipeline


def _in_order(jobs: Sequence[JobSpec], stages: Sequence[str]) -> list[JobSpec]:
    return sorted(jobs, key=lambda spec: _position(spec.stage, stages))


def _position(stage: str, stages: Sequence[str]) -> int:
    if stage == ".pre":
        return -1
    return stages.index(stage) if stage in stages else len(stages)


def _blank(instance: Instance, order: Order) -> Pipeline:
    moment = now()
    with instance.store as store:
        earlier = store.all(Pipeline, lambda row: row.project_id == order.project.id)
        return Pipeline(
            id=store.next_id(Pipeline),
            sequence=max((row.sequence for row in earlier), default=0) + 1,
            project_id=order.project.id,
            sha=order.sha,
            before_sha=order.before_sha or ZERO_SHA,
            ref=order.ref,
            tag=order.is_tag,
            source=order.source,
            status=Status.CREATED,
            user_id=order.user.id,
            created_at=moment,
            updated_at=moment,
            variables=order.given,
            merge_request_id=order.merge_request.id if order.merge_request else None,
            bridge_id=order.bridge.id if order.bridge else None,
        )


def _finished(pipeline: Pipeline, status: Status) -> Pipeline:
    return replace(pipeline, status=status, finished_at=pipeline.created_at)


def _is_skipped(instance: Instance, order: Order) -> bool:
    if order.source != "push":
        return False
    if "ci.skip" in order.options:
        return True
    commit = instance.repository(order.project).commit(order.sha)
    message = commit.message.lower() if commit else ""
    return any(words in message for words in _SKIP_WORDS)


def _job(pipeline: Pipeline, spec: JobSpec, identifier: int, stages: Sequence[str]) -> Job:
    moment = now()
    return Job(
        id=identifier,
        pipeline_id=pipeline.id,
        project_id=pipeline.project_id,
        name=spec.name,
        stage=spec.stage,
        stage_index=_position(spec.stage, stages),
        status=Status.CREATED,
        user_id=pipeline.user_id,
        created_at=moment,
        updated_at=moment,
        script=spec.script,
        after_script=spec.after_script,
        variables=tuple(spec.variables.items()),
        needs=spec.needs,
        dependencies=spec.dependencies,
        when=spec.when,
        allow_failure=spec.allow_failure,
        allow_failure_exit_codes=spec.allow_failure_exit_codes,
        timeout_seconds=spec.timeout_seconds or _DEFAULT_TIMEOUT_SECONDS,
        retry_max=spec.retry_max,
        retry_when=spec.retry_when,
        resource_group=spec.resource_group,
        artifact_rules=spec.artifacts,
        environment=spec.environment,
        id_tokens=spec.id_tokens,
        image=spec.image,
        interruptible=spec.interruptible,
        tags=spec.tags,
        start_in_seconds=spec.start_in_seconds,
    )
