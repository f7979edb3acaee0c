"""Projects that move, and projects that are copied.

Promises: after a move the old path leads to the project (a redirect for who asks, a note for Git), until another
project takes it; a fork holds its origin's branches and tags, and knows it.
Must not know: routes.
Source: https://docs.gitlab.com/api/rest/#redirects and https://docs.gitlab.com/api/project_forks/ (18.x).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from spawner.testing.gitlab import people, protection, registry
from spawner.testing.gitlab.access import find_group, find_project, user_by_name
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Project, User

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance


class ImagesInTheWayError(Exception):
    """A project whose registry holds images does not move: their names would break."""


def move(instance: Instance, project: Project, path: str) -> Project:
    """Give a project another path.

    Raises:
        TakenError: the path is taken, or its namespace does not exist.
        ImagesInTheWayError: its registry holds images.
    """
    parent = path.rpartition("/")[0]
    if user_by_name(instance, parent) is None and find_group(instance, parent) is None:
        raise people.TakenError("namespace", "is not valid")
    if find_project(instance, path) or find_group(instance, path):
        raise people.TakenError("path", "has already been taken")
    if _has_tags(instance, project):
        raise ImagesInTheWayError
    former = (*(one for one in project.former_paths if one != path), project.path)
    return instance.store.change(project, path=path, former_paths=former, updated_at=now())


def _has_tags(instance: Instance, project: Project) -> bool:
    base, store = project.path.lower(), instance.data / "registry"
    own = [name for name in registry.repositories(store) if name == base or name.startswith(base + "/")]
    return any(registry.tags(store, name) for name in own)


def moved_from(instance: Instance, path: str) -> Project | None:
    """Return the project that was at a path before, or None."""
    wanted = path.lower()
    return instance.store.first(Project, lambda row: wanted in {one.lower() for one in row.former_paths})


def fork(instance: Instance, origin: Project, path: str, *, user: User) -> Project:
    """Copy a project.

    Raises:
        TakenError: the path is taken, or its namespace does not exist.
    """
    with instance.store as store:
        made = people.add_project(
            instance, path, creator=user, visibility=origin.visibility, default_branch=origin.default_branch
        )
        instance.repository(origin).copy_to(instance.repository(made))
        protection.protect(instance, made, origin.default_branch)
        return store.put(replace(made, forked_from_id=origin.id, settings=dict(origin.settings)))
