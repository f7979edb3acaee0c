"""Makes people, groups, projects and memberships.

Promises: names follow GitLab's rules; a thing that is there already is refused in GitLab's words.
Must not know: routes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from spawner.testing.gitlab.access import find_group, find_project, user_by_name
from spawner.testing.gitlab.instance import digest, now
from spawner.testing.gitlab.records import Group, Level, Member, Project, User, Visibility

if TYPE_CHECKING:
    from datetime import date

    from spawner.testing.gitlab.instance import Instance

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class TakenError(Exception):
    """A name is taken or not allowed; `field` says which."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message


def add_user(
    instance: Instance, username: str, *, is_admin: bool = False, password: str | None = None, name: str | None = None
) -> User:
    """Make a person.

    Raises:
        TakenError: the user name is taken or not allowed.
    """
    with instance.store as store:
        if not _NAME.fullmatch(username):
            raise TakenError("username", "can contain only letters, digits, '_', '-', '.'.")
        if user_by_name(instance, username) or find_group(instance, username):
            raise TakenError("username", "has already been taken")
        return store.put(
            User(
                id=store.next_id(User),
                username=username,
                name=name or username.capitalize(),
                email=f"{username}@example.com",
                password_digest=digest(password) if password else None,
                is_admin=is_admin,
                state="active",
                created_at=now(),
            )
        )


def add_group(
    instance: Instance, path: str, *, owner: User, name: str | None = None, visibility: Visibility = Visibility.PRIVATE
) -> Group:
    """Make a group or subgroup; the maker owns it.

    Raises:
        TakenError: the path is taken.
    """
    with instance.store as store:
        taken = find_group(instance, path) or find_project(instance, path) or user_by_name(instance, path)
        if taken or path.isdigit():
            raise TakenError("path", "has already been taken")
        group = store.put(
            Group(
                id=store.next_id(Group),
                path=path,
                name=name or path.rsplit("/", 1)[-1],
                visibility=visibility,
                created_at=now(),
            )
        )
        add_member(instance, group, owner, Level.OWNER)
        return group


def add_project(
    instance: Instance,
    path: str,
    *,
    creator: User,
    visibility: Visibility = Visibility.PRIVATE,
    default_branch: str = "main",
) -> Project:
    """Make a project with an empty repository in a person's own namespace or a group.

    Raises:
        TakenError: the path is taken or its namespace does not exist.
    """
    parent = path.rpartition("/")[0]
    owner = user_by_name(instance, parent)
    if owner is None and find_group(instance, parent) is None:
        raise TakenError("namespace", "is not valid")
    with instance.store as store:
        if find_project(instance, path) or find_group(instance, path):
            raise TakenError("path", "has already been taken")
        moment = now()
        project = Project(
            id=store.next_id(Project),
            path=path,
            name=path.rsplit("/", 1)[-1],
            description=None,
            visibility=visibility,
            default_branch=default_branch,
            creator_id=creator.id,
            created_at=moment,
            updated_at=moment,
        )
        instance.repository(project).create(default_branch=default_branch)
        store.put(project)
        if owner:
            add_member(instance, project, owner, Level.OWNER)
        return project


def add_member(
    instance: Instance, target: Project | Group, user: User, level: Level, *, expires_at: date | None = None
) -> Member:
    """Give a person a level in a project or group, replacing the one they had there."""
    source = "project" if isinstance(target, Project) else "group"
    with instance.store as store:
        present = direct_member(instance, target, user.id)
        return store.put(
            Member(
                id=present.id if present else store.next_id(Member),
                source=source,
                source_id=target.id,
                user_id=user.id,
                level=level,
                created_at=present.created_at if present else now(),
                expires_at=expires_at,
            )
        )


def direct_member(instance: Instance, target: Project | Group, user_id: int) -> Member | None:
    """Return a person's own membership in a project or group, or None."""
    source = "project" if isinstance(target, Project) else "group"
    return instance.store.first(
        Member, lambda row: (row.source, row.source_id, row.user_id) == (source, target.id, user_id)
    )
