"""Who may pull and push images, and the rows GitLab keeps of registry repositories.

Promises: a repository's path begins with its project's path; authorizing a push makes its row at once, image or not.
Must not know: the registry's storage format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spawner.testing.gitlab import registry
from spawner.testing.gitlab.access import can_see, find_project, level
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Level, Project, RegistryRow, User, Visibility

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance


def project_of(instance: Instance, path: str) -> Project | None:
    """Return the project that a repository path belongs to: the longest that is a prefix of it."""
    parts = path.split("/")
    for size in range(len(parts), 1, -1):
        found = find_project(instance, "/".join(parts[:size]))
        if found:
            return found
    return None


def may_read(instance: Instance, project: Project, user: User | None) -> bool:
    """Tell whether a person may pull."""
    access = project.settings.get("container_registry_access_level", "enabled")
    if access == "disabled" or not can_see(instance, project, user):
        return False
    if access == "private" or project.visibility is Visibility.PRIVATE:
        return level(instance, project, user) >= Level.REPORTER
    return True


def may_write(instance: Instance, project: Project, user: User | None) -> bool:
    """Tell whether a person may push."""
    return may_read(instance, project, user) and level(instance, project, user) >= Level.DEVELOPER


def note_repository(instance: Instance, project: Project, path: str) -> RegistryRow:
    """Make the row of a repository; making it twice is no error."""
    with instance.store as store:
        present = store.first(RegistryRow, lambda row: row.path == path)
        return present or store.put(
            RegistryRow(id=store.next_id(RegistryRow), project_id=project.id, path=path, created_at=now())
        )


def rows_of(instance: Instance, project: Project) -> list[RegistryRow]:
    """Return a project's registry repositories."""
    base = project.path.lower()
    for path in registry.repositories(instance.data / "registry"):
        if (path == base or path.startswith(base + "/")) and project_of(instance, path) == project:
            note_repository(instance, project, path)
    return instance.store.all(RegistryRow, lambda row: row.project_id == project.id)
