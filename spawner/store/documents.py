"""Values that live in JSON columns, and back: what a person asked for, an image, a project, a job.

For: `mapping`, field by field. Promises: what goes in comes out equal; a key that this release does not know is left
aside and a missing one gets the field's default, so that two releases can share a database during an upgrade.
Must not know: tables, statements.
"""

from datetime import datetime
from typing import Any

from spawner.images.model import BuildPolicy, ChosenImage, FallbackPolicy, Found, ImageSource
from spawner.names import CommitSha, ProjectPath
from spawner.ports import BuildJob, ImageKind, JobStatus, Pipeline, Project, RegistryImage, Visibility
from spawner.sessions.model import Failure, LaunchRequest

JSON = dict[str, Any]


def time_to_json(at: datetime | None) -> str | None:
    """Return ISO 8601 text."""
    return None if at is None else at.isoformat()


def time_from_json(text: str | None) -> datetime | None:
    """Return the aware datetime that ISO 8601 text names."""
    return None if text is None else datetime.fromisoformat(text)


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
