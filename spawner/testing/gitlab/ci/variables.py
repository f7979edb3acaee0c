"""The predefined variables of pipelines and jobs.

Source: https://docs.gitlab.com/ci/variables/predefined_variables/ (18.x).
Promises: those that our template and usual scripts read, with GitLab's values; CI_COMMIT_BRANCH and CI_COMMIT_TAG
exclude each other, and a merge request's pipeline has neither.
Must not know: how a runner gets them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from spawner.testing.gitlab import protection
from spawner.testing.gitlab.ci import requests
from spawner.testing.gitlab.instance import REVISION, VERSION
from spawner.testing.gitlab.repository import ZERO_SHA

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import Job, Pipeline, Project, User

_SLUG_LENGTH = 63


def slug(text: str) -> str:
    """Return a ref as it may stand in a host name or tag."""
    return re.sub(r"[^a-z0-9]", "-", text.lower())[:_SLUG_LENGTH].strip("-")


def of_server(instance: Instance) -> dict[str, str]:
    """Return what is the same for every job."""
    address = urlsplit(instance.url)
    major, minor, patch = VERSION.split(".")
    return {
        "CI": "true",
        "GITLAB_CI": "true",
        "CI_SERVER": "yes",
        "CI_SERVER_URL": instance.url,
        "CI_SERVER_HOST": address.hostname or "",
        "CI_SERVER_PORT": str(address.port or (443 if address.scheme == "https" else 80)),
        "CI_SERVER_PROTOCOL": address.scheme,
        "CI_SERVER_FQDN": address.netloc,
        "CI_SERVER_NAME": "GitLab",
        "CI_SERVER_VERSION": VERSION,
        "CI_SERVER_VERSION_MAJOR": major,
        "CI_SERVER_VERSION_MINOR": minor,
        "CI_SERVER_VERSION_PATCH": patch,
        "CI_SERVER_REVISION": REVISION,
        "CI_API_V4_URL": f"{instance.url}/api/v4",
        "CI_DEPENDENCY_PROXY_SERVER": address.netloc,
        "GITLAB_FEATURES": "",
    }


def of_project(instance: Instance, project: Project) -> dict[str, str]:
    """Return what is the same for every pipeline of a project."""
    namespace, _, name = project.path.rpartition("/")
    return {
        "CI_PROJECT_ID": str(project.id),
        "CI_PROJECT_NAME": name,
        "CI_PROJECT_TITLE": project.name,
        "CI_PROJECT_PATH": project.path,
        "CI_PROJECT_PATH_SLUG": slug(project.path),
        "CI_PROJECT_NAMESPACE": namespace,
        "CI_PROJECT_ROOT_NAMESPACE": project.path.split("/", 1)[0],
        "CI_PROJECT_URL": f"{instance.url}/{project.path}",
        "CI_PROJECT_VISIBILITY": project.visibility.value,
        "CI_PROJECT_DESCRIPTION": project.description or "",
        "CI_DEFAULT_BRANCH": project.default_branch,
        "CI_CONFIG_PATH": str(project.settings.get("ci_config_path") or ".gitlab-ci.yml"),
        **of_registry(instance, project),
    }


def of_registry(instance: Instance, project: Project) -> dict[str, str]:
    """Return where the project's images are; nothing when its registry is off."""
    if project.settings.get("container_registry_access_level") == "disabled":
        return {}
    return {
        "CI_REGISTRY": instance.registry_host,
        "CI_REGISTRY_IMAGE": f"{instance.registry_host}/{project.path.lower()}",
    }


def of_pipeline(instance: Instance, project: Project, pipeline: Pipeline, user: User) -> dict[str, str]:
    """Return what is the same for every job of a pipeline, server and project included."""
    commit = instance.repository(project).commit(pipeline.sha)
    message = commit.message if commit else ""
    ref = requests.source_ref(instance, pipeline)
    ref_kind = {"CI_COMMIT_TAG": ref} if pipeline.tag else {"CI_COMMIT_BRANCH": ref}
    return {
        **of_server(instance),
        **of_project(instance, project),
        "CI_PIPELINE_ID": str(pipeline.id),
        "CI_PIPELINE_IID": str(pipeline.sequence),
        "CI_PIPELINE_SOURCE": pipeline.source,
        "CI_PIPELINE_URL": f"{instance.url}/{project.path}/-/pipelines/{pipeline.id}",
        "CI_PIPELINE_CREATED_AT": pipeline.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "CI_COMMIT_SHA": pipeline.sha,
        "CI_COMMIT_SHORT_SHA": pipeline.sha[:8],
        "CI_COMMIT_BEFORE_SHA": pipeline.before_sha or ZERO_SHA,
        "CI_COMMIT_REF_NAME": ref,
        "CI_COMMIT_REF_SLUG": slug(ref),
        "CI_COMMIT_REF_PROTECTED": str(protection.is_protected(instance, project, ref)).lower(),
        **({} if pipeline.merge_request_id else ref_kind),
        **requests.variables(instance, pipeline),
        "CI_COMMIT_MESSAGE": message,
        "CI_COMMIT_TITLE": message.split("\n", 1)[0],
        "CI_COMMIT_DESCRIPTION": message.partition("\n")[2].strip(),
        "CI_COMMIT_AUTHOR": f"{commit.author_name} <{commit.author_email}>" if commit else "",
        "CI_COMMIT_TIMESTAMP": commit.committed if commit else "",
        "GITLAB_USER_ID": str(user.id),
        "GITLAB_USER_LOGIN": user.username,
        "GITLAB_USER_NAME": user.name,
        "GITLAB_USER_EMAIL": user.email,
    }


def of_job(instance: Instance, project: Project, job: Job, user: User) -> dict[str, str]:
    """Return what is one job's own, the secret ones left to `secrets_of_job`."""
    return {
        "CI_JOB_ID": str(job.id),
        "CI_JOB_NAME": job.name,
        "CI_JOB_NAME_SLUG": slug(job.name),
        "CI_JOB_STAGE": job.stage,
        "CI_JOB_STATUS": "running",
        "CI_JOB_URL": f"{instance.url}/{project.path}/-/jobs/{job.id}",
        "CI_JOB_STARTED_AT": job.started_at.strftime("%Y-%m-%dT%H:%M:%SZ") if job.started_at else "",
        "CI_JOB_TIMEOUT": str(job.timeout_seconds),
        "CI_JOB_MANUAL": str(job.when == "manual").lower(),
        "CI_NODE_TOTAL": "1",
        "CI_RUNNER_ID": str(job.runner_id or ""),
        "GITLAB_USER_LOGIN": user.username,
        **_of_environment(job),
    }


def _of_environment(job: Job) -> dict[str, str]:
    if not job.environment:
        return {}
    name = str(job.environment.get("name") or "")
    return {"CI_ENVIRONMENT_NAME": name, "CI_ENVIRONMENT_SLUG": slug(name)}


def secrets_of_job(instance: Instance, project: Project, job: Job) -> dict[str, str]:
    """Return the variables of a job that hold its token."""
    token = job.token or ""
    found = {
        "CI_JOB_TOKEN": token,
        "CI_BUILD_TOKEN": token,
        "CI_REPOSITORY_URL": repository_url(instance, project, token),
    }
    if of_registry(instance, project):
        found |= {"CI_REGISTRY_USER": "gitlab-ci-token", "CI_REGISTRY_PASSWORD": token}
    return found


def repository_url(instance: Instance, project: Project, token: str) -> str:
    """Return the clone URL with a job's token in it, as runners are given it."""
    scheme, _, rest = instance.url.partition("://")
    return f"{scheme}://gitlab-ci-token:{token}@{rest}/{project.path}.git"
