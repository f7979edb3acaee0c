"""Values to rows and back, field by field.

For: the repositories. A value that lives in a JSON column has its two functions here.
Promises: what goes in comes out equal; a key that this release does not know is left aside and a missing one
gets the field's default, so that two releases can share a database during an upgrade.
Must not know: engines, statements, transactions.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from spawner.images.model import Build, BuildPolicy, ChosenImage, FallbackPolicy, Found, ImageSource
from spawner.names import CommitSha, ProjectPath, SessionName, UserId, WorkloadName
from spawner.ports import (
    BuildJob,
    Health,
    ImageKind,
    JobStatus,
    Observation,
    Pipeline,
    Project,
    RefKind,
    RegistryImage,
    Visibility,
)
from spawner.sessions.model import (
    Event,
    EventKind,
    Failure,
    LaunchRequest,
    Phase,
    Session,
    Target,
    WorkloadRow,
)

JSON = dict[str, Any]
Columns = Mapping[str, Any]

# ---------------------------------------------------------------- times within JSON


def time_to_json(at: datetime | None) -> str | None:
    """Return ISO 8601 text."""
    return None if at is None else at.isoformat()


def time_from_json(text: str | None) -> datetime | None:
    """Return the aware datetime that ISO 8601 text names."""
    return None if text is None else datetime.fromisoformat(text)


# ---------------------------------------------------------------- sessions


def request_to_json(request: LaunchRequest) -> JSON:
    """Return the request as JSON."""
    return {
        "image": request.image,
        "build": request.build.value,
        "fallback": None if request.fallback is None else request.fallback.value,
        "runtime": request.runtime,
        "resource_class_id": request.resource_class_id,
        "storage_gigabytes": request.storage_gigabytes,
        "default_url": request.default_url,
        "fetches_lfs": request.fetches_lfs,
        "environment": dict(request.environment),
        "notebook": request.notebook,
    }


def request_from_json(data: JSON) -> LaunchRequest:
    """Return the request that `request_to_json` wrote."""
    plain = LaunchRequest()
    fallback = data.get("fallback")
    return LaunchRequest(
        image=data.get("image"),
        build=BuildPolicy(data.get("build", plain.build)),
        fallback=None if fallback is None else FallbackPolicy(fallback),
        runtime=data.get("runtime"),
        resource_class_id=data.get("resource_class_id", plain.resource_class_id),
        storage_gigabytes=data.get("storage_gigabytes", plain.storage_gigabytes),
        default_url=data.get("default_url", plain.default_url),
        fetches_lfs=data.get("fetches_lfs", plain.fetches_lfs),
        environment=data.get("environment", {}),
        notebook=data.get("notebook"),
    )


def image_to_json(image: ChosenImage | None) -> JSON | None:
    """Return the chosen image as JSON."""
    if image is None:
        return None
    return {
        "reference": image.reference,
        "digest": image.digest,
        "kind": image.kind.value,
        "source": image.source.value,
        "reason": image.reason,
        "tag": image.tag,
        "environment_key": image.environment_key,
        "built_for_commit": image.built_for_commit,
    }


def image_from_json(data: JSON | None) -> ChosenImage | None:
    """Return the image that `image_to_json` wrote."""
    if data is None:
        return None
    commit = data.get("built_for_commit")
    return ChosenImage(
        reference=data["reference"],
        digest=data["digest"],
        kind=ImageKind(data["kind"]),
        source=ImageSource(data["source"]),
        reason=data.get("reason", ""),
        tag=data.get("tag"),
        environment_key=data.get("environment_key"),
        built_for_commit=None if commit is None else CommitSha(commit),
    )


def failure_to_json(failure: Failure | None) -> JSON | None:
    """Return the failure as JSON."""
    if failure is None:
        return None
    return {"code": failure.code, "message": failure.message, "remedy": failure.remedy}


def failure_from_json(data: JSON | None) -> Failure | None:
    """Return the failure that `failure_to_json` wrote."""
    if data is None:
        return None
    return Failure(code=data["code"], message=data["message"], remedy=data.get("remedy", ""))


def project_to_json(project: Project) -> JSON:
    """Return the project, as it was seen at launch, as JSON."""
    return {
        "id": project.id,
        "path": project.path,
        "name": project.name,
        "default_branch": project.default_branch,
        "visibility": project.visibility.value,
        "web_url": project.web_url,
        "git_url": project.git_url,
        "registry_image": project.registry_image,
        "is_archived": project.is_archived,
        "forked_from_id": project.forked_from_id,
    }


def project_from_json(data: JSON) -> Project:
    """Return the project that `project_to_json` wrote."""
    return Project(
        id=data["id"],
        path=ProjectPath(data["path"]),
        name=data["name"],
        default_branch=data.get("default_branch"),
        visibility=Visibility(data["visibility"]),
        web_url=data["web_url"],
        git_url=data["git_url"],
        registry_image=data.get("registry_image"),
        is_archived=data.get("is_archived", False),
        forked_from_id=data.get("forked_from_id"),
    )


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
        "project": project_to_json(session.project),
        "namespace": namespace,
        "project_slug": slug,
        "branch": session.branch,
        "ref_kind": session.ref_kind.value,
        "sha": session.sha,
        "request": request_to_json(session.request),
        "runtime": session.runtime,
        "target": session.target.value,
        "phase": session.phase.value,
        "is_gone": session.phase is Phase.GONE,
        "phase_since": session.phase_since,
        "created_at": session.created_at,
        "generation": session.generation,
        "workload": session.workload,
        "workspace": session.workspace,
        "image": image_to_json(session.image),
        "build_id": session.build_id,
        "is_start_now": session.is_start_now,
        "wants_built_image": session.wants_built_image,
        "reason": session.reason,
        "step": session.step,
        "failure": failure_to_json(session.failure),
        "warnings": list(session.warnings),
        "restarts": [time_to_json(at) for at in session.restarts],
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
        project=project_from_json(row["project"]),
        branch=row["branch"],
        ref_kind=RefKind(row["ref_kind"]),
        sha=CommitSha(row["sha"]),
        request=request_from_json(row["request"]),
        runtime=row["runtime"],
        target=Target(row["target"]),
        phase=Phase(row["phase"]),
        phase_since=row["phase_since"],
        created_at=row["created_at"],
        generation=row["generation"],
        workload=None if row["workload"] is None else WorkloadName(row["workload"]),
        workspace=row["workspace"],
        image=image_from_json(row["image"]),
        build_id=row["build_id"],
        is_start_now=row["is_start_now"],
        wants_built_image=row["wants_built_image"],
        reason=row["reason"],
        step=row["step"],
        failure=failure_from_json(row["failure"]),
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


# ---------------------------------------------------------------- builds


def job_to_json(job: BuildJob | None) -> JSON | None:
    """Return the CI job as JSON."""
    if job is None:
        return None
    return {
        "id": job.id,
        "name": job.name,
        "status": job.status.value,
        "status_text": job.status_text,
        "failure_reason": job.failure_reason,
        "allow_failure": job.allow_failure,
        "web_url": job.web_url,
        "ref": job.ref,
        "pipeline_id": job.pipeline_id,
        "created_at": time_to_json(job.created_at),
        "started_at": time_to_json(job.started_at),
        "finished_at": time_to_json(job.finished_at),
        "scheduled_at": time_to_json(job.scheduled_at),
        "is_protected_ref": job.is_protected_ref,
    }


def job_from_json(data: JSON | None) -> BuildJob | None:
    """Return the job that `job_to_json` wrote."""
    if data is None:
        return None
    return BuildJob(
        id=data["id"],
        name=data["name"],
        status=JobStatus(data["status"]),
        status_text=data["status_text"],
        failure_reason=data.get("failure_reason"),
        allow_failure=data.get("allow_failure", False),
        web_url=data["web_url"],
        ref=data["ref"],
        pipeline_id=data["pipeline_id"],
        created_at=time_from_json(data.get("created_at")),
        started_at=time_from_json(data.get("started_at")),
        finished_at=time_from_json(data.get("finished_at")),
        scheduled_at=time_from_json(data.get("scheduled_at")),
        is_protected_ref=data.get("is_protected_ref", False),
    )


def pipeline_to_json(pipeline: Pipeline) -> JSON:
    """Return the pipeline as JSON."""
    return {
        "id": pipeline.id,
        "status": pipeline.status,
        "source": pipeline.source,
        "ref": pipeline.ref,
        "web_url": pipeline.web_url,
        "created_at": time_to_json(pipeline.created_at),
    }


def pipeline_from_json(data: JSON) -> Pipeline:
    """Return the pipeline that `pipeline_to_json` wrote."""
    return Pipeline(
        id=data["id"],
        status=data["status"],
        source=data["source"],
        ref=data["ref"],
        web_url=data["web_url"],
        created_at=time_from_json(data.get("created_at")),
    )


def found_to_json(found: Found | None) -> JSON | None:
    """Return an image that was found as JSON."""
    if found is None:
        return None
    return {
        "name": found.image.name,
        "digest": found.image.digest,
        "labels": dict(found.image.labels),
        "created_at": time_to_json(found.image.created_at),
        "kind": found.kind.value,
        "tag": found.tag,
        "note": found.note,
        "environment_key": found.environment_key,
        "built_for_commit": found.built_for_commit,
    }


def found_from_json(data: JSON | None) -> Found | None:
    """Return the image that `found_to_json` wrote."""
    if data is None:
        return None
    commit = data.get("built_for_commit")
    return Found(
        image=RegistryImage(
            name=data["name"],
            digest=data["digest"],
            labels=data["labels"],
            created_at=time_from_json(data.get("created_at")),
        ),
        kind=ImageKind(data["kind"]),
        tag=data["tag"],
        note=data.get("note", ""),
        environment_key=data.get("environment_key"),
        built_for_commit=CommitSha(commit) if commit else None,
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
        "job": job_to_json(build.job),
        "pipelines": [pipeline_to_json(pipeline) for pipeline in build.pipelines],
        "checked_at": build.checked_at,
        "due_at": build.due_at,
        "looks": build.looks,
        "log_bytes": build.log_bytes,
        "trouble": build.trouble,
        "is_over": build.is_over,
        "finished_at": build.finished_at,
        "found": found_to_json(build.found),
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
        job=job_from_json(row["job"]),
        pipelines=tuple(pipeline_from_json(each) for each in row["pipelines"]),
        checked_at=row["checked_at"],
        due_at=row["due_at"],
        looks=row["looks"],
        log_bytes=row["log_bytes"],
        trouble=row["trouble"],
        is_over=row["is_over"],
        finished_at=row["finished_at"],
        found=found_from_json(row["found"]),
        ordered_at=row["ordered_at"],
        version=row["version"],
    )
