"""A project as REST v4 shows it; it has so many fields that it has a module.

Promises: all switches of a GitLab Free project are there with GitLab's defaults; those that were set win.
Must not know: who may see a project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spawner.testing.gitlab.access import can_see, groups_above
from spawner.testing.gitlab.records import Member, Project, User
from spawner.testing.gitlab.rest import shapes

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance

_LINKS = ("issues", "merge_requests", "labels", "events", "members", "cluster_agents")
# Switches as GitLab 18 sets them for a new project.
DEFAULTS: dict[str, object] = {
    "packages_enabled": True,
    "issues_enabled": True,
    "merge_requests_enabled": True,
    "wiki_enabled": True,
    "snippets_enabled": True,
    "service_desk_enabled": False,
    "can_create_merge_request_in": True,
    "resolve_outdated_diff_discussions": False,
    "issues_access_level": "enabled",
    "repository_access_level": "enabled",
    "merge_requests_access_level": "enabled",
    "forking_access_level": "enabled",
    "wiki_access_level": "enabled",
    "builds_access_level": "enabled",
    "snippets_access_level": "enabled",
    "pages_access_level": "private",
    "analytics_access_level": "enabled",
    "container_registry_access_level": "enabled",
    "security_and_compliance_access_level": "private",
    "releases_access_level": "enabled",
    "environments_access_level": "enabled",
    "feature_flags_access_level": "enabled",
    "infrastructure_access_level": "enabled",
    "monitor_access_level": "enabled",
    "model_experiments_access_level": "enabled",
    "model_registry_access_level": "enabled",
    "emails_disabled": False,
    "emails_enabled": True,
    "shared_runners_enabled": True,
    "lfs_enabled": True,
    "ci_default_git_depth": 20,
    "ci_delete_pipelines_in_seconds": None,
    "ci_forward_deployment_enabled": True,
    "ci_forward_deployment_rollback_allowed": True,
    "ci_job_token_scope_enabled": False,
    "ci_separated_caches": True,
    "ci_allow_fork_pipelines_to_run_in_parent_project": True,
    "ci_id_token_sub_claim_components": ["project_path", "ref_type", "ref"],
    "build_git_strategy": "fetch",
    "keep_latest_artifact": True,
    "restrict_user_defined_variables": True,
    "ci_pipeline_variables_minimum_override_role": "developer",
    "runner_token_expiration_interval": None,
    "group_runners_enabled": True,
    "auto_cancel_pending_pipelines": "enabled",
    "build_timeout": 3600,
    "auto_devops_enabled": False,
    "auto_devops_deploy_strategy": "continuous",
    "ci_push_repository_for_job_token_allowed": False,
    "ci_config_path": None,
    "public_jobs": True,
    "only_allow_merge_if_pipeline_succeeds": False,
    "allow_merge_on_skipped_pipeline": None,
    "request_access_enabled": True,
    "only_allow_merge_if_all_discussions_are_resolved": False,
    "remove_source_branch_after_merge": True,
    "printing_merge_request_link_enabled": True,
    "merge_method": "merge",
    "squash_option": "default_off",
    "enforce_auth_checks_on_uploads": True,
    "suggestion_commit_message": None,
    "merge_commit_template": None,
    "squash_commit_template": None,
    "issue_branch_template": None,
    "warn_about_potentially_unwanted_characters": True,
    "autoclose_referenced_issues": True,
    "max_artifacts_size": None,
    "external_authorization_classification_label": None,
}


def basic(instance: Instance, project: Project) -> dict[str, object]:
    """Return what everybody who sees a project sees, also of `simple=true`."""
    url = f"{instance.url}/{project.path}"
    head = instance.repository(project).head(project.default_branch)
    names = project.path.split("/")[:-1]
    return {
        "id": project.id,
        "description": project.description,
        "name": project.name,
        "name_with_namespace": " / ".join([*names, project.name]),
        "path": project.path.rsplit("/", 1)[-1],
        "path_with_namespace": project.path,
        "created_at": shapes.moment(project.created_at),
        "default_branch": project.default_branch if head else None,
        "tag_list": [],
        "topics": [],
        "ssh_url_to_repo": f"git@gitlab.invalid:{project.path}.git",
        "http_url_to_repo": f"{url}.git",
        "web_url": url,
        "readme_url": f"{url}/-/blob/{project.default_branch}/README.md" if head else None,
        "forks_count": len(instance.store.all(Project, lambda row: row.forked_from_id == project.id)),
        "avatar_url": None,
        "star_count": 0,
        "last_activity_at": shapes.moment(project.updated_at),
        "namespace": shapes.namespace(instance, project),
        "repository_storage": "default",
    }


def full(instance: Instance, project: Project, user: User | None) -> dict[str, object]:
    """Return a project in full; `permissions` holds the caller's direct and inherited levels."""
    switches = DEFAULTS | dict(project.settings)
    api = f"{instance.url}/api/v4/projects/{project.id}"
    shape = {
        **basic(instance, project),
        "visibility": project.visibility.value,
        "container_registry_image_prefix": f"{instance.registry_host}/{project.path.lower()}",
        "_links": {name: f"{api}/{name}" for name in _LINKS}
        | {"self": api, "repo_branches": f"{api}/repository/branches"},
        "empty_repo": not instance.repository(project).refs(),
        "archived": project.archived,
        "container_expiration_policy": project.settings.get("container_expiration_policy"),
        "repository_object_format": "sha1",
        **switches,
        "jobs_enabled": switches["builds_access_level"] != "disabled",
        "container_registry_enabled": switches["container_registry_access_level"] != "disabled",
        "creator_id": project.creator_id,
        "import_url": None,
        "import_type": None,
        "import_status": "none",
        "import_error": None,
        "mr_default_target_self": False,
        "open_issues_count": 0,
        "description_html": project.description or "",
        "updated_at": shapes.moment(project.updated_at),
        "shared_with_groups": [],
        "marked_for_deletion_at": None,
        "marked_for_deletion_on": None,
    }
    origin = instance.store.get(Project, project.forked_from_id) if project.forked_from_id else None
    if origin and can_see(instance, origin, user):
        shape["forked_from_project"] = basic(instance, origin)
    owner = instance.store.first(User, lambda row: row.username == project.path.split("/", 1)[0])
    if owner:
        shape["owner"] = shapes.user_basic(instance, owner)
    return shape | ({"permissions": _permissions(instance, project, user)} if user else {})


def _permissions(instance: Instance, project: Project, user: User) -> dict[str, object]:
    """Return direct and inherited levels; access through an invited group shows in neither, as in GitLab."""
    above = {group.id for group in groups_above(instance, project.path)}
    rows = instance.store.all(Member, lambda row: row.user_id == user.id)
    direct = [row for row in rows if row.source == "project" and row.source_id == project.id]
    inherited = [row for row in rows if row.source == "group" and row.source_id in above]
    return {"project_access": _highest(direct), "group_access": _highest(inherited)}


def _highest(rows: list[Member]) -> dict[str, object] | None:
    best = max((int(row.level) for row in rows), default=None)
    return None if best is None else {"access_level": best, "notification_level": 3}
