"""Values to rows and back, column by column; what lives in a JSON column is `documents`'.

For: the repositories. Promises: what goes in comes out equal.
Must not know: engines, statements, transactions.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from spawner.images.model import Build
from spawner.names import CommitSha, SessionName, UserId, WorkloadName
from spawner.ports import Health, Observation, RefKind
from spawner.sessions.model import Event, EventKind, Phase, Session, Target, WorkloadRow
from spawner.store import documents

JSON = dict[str, Any]
Columns = Mapping[str, Any]


def session_to_columns(session: Session) -> JSON:
    """Return every column that `Session` decides, the people's among them; not version, events or lease."""
    namespace, _, slug = session.project_path.lower().rpartition("/")
    return {
        "name": session.name,
        "instance": session.instance,
        "forge": session.forge,
        "user_id": session.user_id,
        "username": session.username,
        "project_id": session.project_id,
        "project": documents.project_to_json(session.project),
        "namespace": namespace,
        "project_slug": slug,
        "branch": session.branch,
        "ref_kind": session.ref_kind.value,
        "sha": session.sha,
        "request": documents.request_to_json(session.request),
        "runtime": session.runtime,
        "target": session.target.value,
        "phase": session.phase.value,
        "is_gone": session.phase is Phase.GONE,
        "phase_since": session.phase_since,
        "created_at": session.created_at,
        "generation": session.generation,
        "workload": session.workload,
        "workspace": session.workspace,
        "image": documents.image_to_json(session.image),
        "build_id": session.build_id,
        "is_start_now": session.is_start_now,
        "wants_built_image": session.wants_built_image,
        "reason": session.reason,
        "step": session.step,
        "failure": documents.failure_to_json(session.failure),
        "warnings": list(session.warnings),
        "restarts": [documents.time_to_json(at) for at in session.restarts],
        "image_asked_at": session.image_asked_at,
        "launched_at": session.launched_at,
        "ready_at": session.ready_at,
        "due_at": session.due_at,
        "retain_until": session.retain_until,
        "has_workspace": session.has_workspace,
        "trouble": session.trouble,
        "trouble_since": session.trouble_since,
    }


def session_from_columns(row: Columns) -> Session:
    """Return the session that a row of `sessions` holds."""
    return Session(
        name=SessionName(row["name"]),
        instance=row["instance"],
        forge=row["forge"],
        user_id=UserId(row["user_id"]),
        username=row["username"],
        project=documents.project_from_json(row["project"]),
        branch=row["branch"],
        ref_kind=RefKind(row["ref_kind"]),
        sha=CommitSha(row["sha"]),
        request=documents.request_from_json(row["request"]),
        runtime=row["runtime"],
        target=Target(row["target"]),
        phase=Phase(row["phase"]),
        phase_since=row["phase_since"],
        created_at=row["created_at"],
        generation=row["generation"],
        workload=None if row["workload"] is None else WorkloadName(row["workload"]),
        workspace=row["workspace"],
        image=documents.image_from_json(row["image"]),
        build_id=row["build_id"],
        is_start_now=row["is_start_now"],
        wants_built_image=row["wants_built_image"],
        reason=row["reason"],
        step=row["step"],
        failure=documents.failure_from_json(row["failure"]),
        warnings=tuple(row["warnings"]),
        restarts=tuple(datetime.fromisoformat(text) for text in row["restarts"]),
        image_asked_at=row["image_asked_at"],
        launched_at=row["launched_at"],
        ready_at=row["ready_at"],
        due_at=row["due_at"],
        retain_until=row["retain_until"],
        has_workspace=row["has_workspace"],
        trouble=row["trouble"],
        trouble_since=row["trouble_since"],
        version=row["version"],
        events=row["events"],
    )


def event_from_columns(row: Columns) -> Event:
    """Return the event that a row of `events` holds."""
    return Event(
        session=SessionName(row["session"]),
        id=row["id"],
        at=row["at"],
        phase=Phase(row["phase"]),
        kind=EventKind(row["kind"]),
        message=row["message"],
        data=row["data"],
    )


def workload_to_columns(row: WorkloadRow) -> JSON:
    """Return the columns of a workload."""
    return {
        "name": row.name,
        "owner_kind": row.owner_kind,
        "owner_name": row.owner_name,
        "site": row.site,
        "image": row.image,
        "state": dict(row.state),
        "generation": row.generation,
    }


def workload_from_columns(row: Columns) -> WorkloadRow:
    """Return the workload that a row of `workloads` holds."""
    return WorkloadRow(
        name=WorkloadName(row["name"]),
        owner_kind=row["owner_kind"],
        owner_name=row["owner_name"],
        site=row["site"],
        image=row["image"],
        state=row["state"],
        generation=row["generation"],
    )


def observation_to_columns(observation: Observation) -> JSON:
    """Return the columns of an observation, without the workload it is of."""
    return {
        "health": observation.health.value,
        "message": observation.message,
        "exit_code": observation.exit_code,
        "is_out_of_memory": observation.is_out_of_memory,
        "memory_bytes": observation.memory_bytes,
        "cpu_cores": observation.cpu_cores,
    }


def observation_from_columns(row: Columns) -> Observation:
    """Return the observation that a row of `observations` holds."""
    return Observation(
        health=Health(row["health"]),
        message=row["message"],
        exit_code=row["exit_code"],
        is_out_of_memory=row["is_out_of_memory"],
        memory_bytes=row["memory_bytes"],
        cpu_cores=row["cpu_cores"],
    )


def build_to_columns(build: Build) -> JSON:
    """Return every column that `Build` decides; not version or lease."""
    return {
        "id": build.id,
        "forge": build.forge,
        "project_id": build.project_id,
        "sha": build.sha,
        "job_name": build.job_name,
        "first_asked_at": build.first_asked_at,
        "job": documents.job_to_json(build.job),
        "pipelines": [documents.pipeline_to_json(pipeline) for pipeline in build.pipelines],
        "checked_at": build.checked_at,
        "due_at": build.due_at,
        "looks": build.looks,
        "log_bytes": build.log_bytes,
        "trouble": build.trouble,
        "is_over": build.is_over,
        "finished_at": build.finished_at,
        "found": documents.found_to_json(build.found),
        "ordered_at": build.ordered_at,
    }


def build_from_columns(row: Columns) -> Build:
    """Return the build that a row of `builds` holds."""
    return Build(
        id=row["id"],
        forge=row["forge"],
        project_id=row["project_id"],
        sha=CommitSha(row["sha"]),
        job_name=row["job_name"],
        first_asked_at=row["first_asked_at"],
        job=documents.job_from_json(row["job"]),
        pipelines=tuple(documents.pipeline_from_json(each) for each in row["pipelines"]),
        checked_at=row["checked_at"],
        due_at=row["due_at"],
        looks=row["looks"],
        log_bytes=row["log_bytes"],
        trouble=row["trouble"],
        is_over=row["is_over"],
        finished_at=row["finished_at"],
        found=documents.found_from_json(row["found"]),
        ordered_at=row["ordered_at"],
        version=row["version"],
    )
