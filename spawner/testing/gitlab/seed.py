"""Plants people, groups and projects from a JSON file, at the start of a stand-in.

The file: `{"users": [{"username", "admin"?, "password"?, "token_file"?}], "groups": [{"path", "owner",
"visibility"?}], "projects": [{"path", "owner", "visibility"?, "members": {username: level}?}]}`. A `token_file` is
written with a new token, mode 0600.
Promises: what is there already is left as it is, so that a restart plants nothing twice.
Must not know: servers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spawner.testing.gitlab import people, tokens
from spawner.testing.gitlab.access import find_group, find_project, user_by_name
from spawner.testing.gitlab.records import Level, User, Visibility

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance


def plant(instance: Instance, document: dict[str, Any]) -> None:
    """Make what the document names and is not there.

    Raises:
        TakenError: a name is not allowed.
        LookupError: an owner or member is nobody.
    """
    for row in document.get("users", []):
        _user(instance, row)
    for row in document.get("groups", []):
        if find_group(instance, row["path"]) is None:
            visibility = Visibility(row.get("visibility", "private"))
            people.add_group(instance, row["path"], owner=_named(instance, row["owner"]), visibility=visibility)
    for row in document.get("projects", []):
        _project(instance, row)


def _user(instance: Instance, row: dict[str, Any]) -> None:
    if user_by_name(instance, row["username"]):
        return
    user = people.add_user(
        instance, row["username"], is_admin=bool(row.get("admin")), password=row.get("password"), name=row.get("name")
    )
    if row.get("token_file"):
        path = Path(row["token_file"])
        path.touch(mode=0o600)
        path.write_text(tokens.personal(instance, user, name="seed")[1])


def _project(instance: Instance, row: dict[str, Any]) -> None:
    if find_project(instance, row["path"]):
        return
    visibility = Visibility(row.get("visibility", "private"))
    owner = _named(instance, row["owner"])
    project = people.add_project(instance, row["path"], creator=owner, visibility=visibility)
    for username, level in (row.get("members") or {}).items():
        people.add_member(instance, project, _named(instance, username), Level(level))


def _named(instance: Instance, username: str) -> User:
    user = user_by_name(instance, username)
    if user is None:
        raise LookupError(f"The seed names {username}, but there is no such user. List them under users first.")
    return user
