"""What somebody who runs a GitLab, a group or a project sets up in it for us: the operator's calls.

For: `spawner connect` and `spawner disconnect`; nothing on a request path. Promises: every call has the rights of the
one token it was given, a timeout, and no retry; lists are whole; a thing that is gone already is no error to remove.
Must not know: which things are wanted, what is kept of them, the spawner's database.
Source: GitLab REST v4, 17.x to 19.x: applications, project and group hooks, project and group badges, commits,
branches, merge requests, members.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import requests

from spawner.errors import Conflict, ForgeUnavailable, InvalidInput, NotFound, ProjectNotFound
from spawner.gitlab import shapes
from spawner.gitlab.transport import Transport
from spawner.ports import AccessLevel, Credential

_PAGE = 100  # GitLab's largest
_MOST_PAGES = 100  # 10,000 projects of one group; more are named one by one


class PlaceKind(StrEnum):
    """Where a hook or a badge hangs; the value is GitLab's own word in its addresses."""

    PROJECT = "projects"
    GROUP = "groups"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A project or a group, as this token sees it; `level` is its owner's access level there."""

    kind: PlaceKind
    id: int
    path: str
    level: int
    default_branch: str | None = None
    is_empty: bool = False
    has_registry: bool = True

    @property
    def address(self) -> str:
        """Where its own things stand below `/api/v4`."""
        return f"/{self.kind}/{self.id}"

    @classmethod
    def read(cls, kind: PlaceKind, body: shapes.Body, level: int) -> Self:
        """Read GitLab's answer about a project or group."""
        is_project = kind is PlaceKind.PROJECT
        return cls(
            kind=kind,
            id=shapes.whole(body, "id"),
            path=shapes.text(body, "path_with_namespace" if is_project else "full_path"),
            level=level,
            default_branch=shapes.optional(body, "default_branch"),
            is_empty=bool(body.get("empty_repo")),
            has_registry=not is_project or shapes.optional(body, "container_registry_image_prefix") is not None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """An OAuth application; GitLab tells its secret once, when it is made or renewed."""

    id: int
    client_id: str
    name: str
    callback_url: str
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A branch with one file written, from which a merge request is made."""

    branch: str
    start_branch: str
    title: str
    description: str
    path: str
    content: str
    is_new_file: bool


class Administration:
    """One GitLab as one operator's token sees it."""

    def __init__(self, url: str, credential: Credential, *, timeout_seconds: float, ca_file: Path | None) -> None:
        self._transport = Transport(
            url, timeout_seconds=timeout_seconds, ca_file=None if ca_file is None else str(ca_file)
        )
        self._credential = credential
        self._operator: shapes.Body | None = None
        self.url = self._transport.url

    # ---------------------------------------------------------------- who and where

    def version(self) -> str:
        """Return GitLab's version; raises TokenRejected, or ForgeUnavailable where no GitLab answers."""
        return shapes.text(self._object("get", "/version"), "version")

    def operator(self) -> shapes.Body:
        """Return the token's owner: `id`, `username`, and `is_admin` where GitLab says so."""
        if self._operator is None:
            self._operator = self._object("get", "/user")
        return self._operator

    def scopes(self) -> frozenset[str]:
        """Return the token's scopes; raises TokenRejected for one that is no personal, project or group token."""
        found = self._object("get", "/personal_access_tokens/self").get("scopes")
        return frozenset(str(scope) for scope in found) if isinstance(found, list) else frozenset()

    def place(self, kind: PlaceKind, path: str) -> Place:
        """Return a project or group and the operator's level there; raises NotFound, hidden or absent alike."""
        body = self._object("get", f"/{kind}/{quote(path, safe='')}")
        user = shapes.whole(self.operator(), "id")
        try:
            member = self._object("get", f"/{kind}/{shapes.whole(body, 'id')}/members/all/{user}")
            level = shapes.whole(member, "access_level")
        except NotFound:
            level = AccessLevel.NONE
        return Place.read(kind, body, level)

    def projects_of(self, group: Place) -> Sequence[str]:
        """Return the paths of a group's projects and its subgroups', archived ones left out."""
        rows = self._list(f"{group.address}/projects", include_subgroups="true", archived="false", order_by="id")
        return [shapes.text(row, "path_with_namespace") for row in rows]

    def create_project(self, path: str) -> Place:
        """Make a private project at `namespace/name`; raises Conflict or Forbidden in GitLab's words."""
        namespace, _, name = path.rpartition("/")
        body: dict[str, Any] = {"name": name, "path": name, "visibility": "private"}
        if namespace and namespace != self.operator().get("username"):
            body["namespace_id"] = shapes.whole(self._object("get", f"/groups/{quote(namespace, safe='')}"), "id")
        return Place.read(PlaceKind.PROJECT, self._object("post", "/projects", body), AccessLevel.OWNER)

    def remove_project(self, id: int) -> bool:  # noqa: A002 - GitLab's own name for it
        """Remove a project; False when it was gone."""
        return self._remove(f"/projects/{id}")

    # ---------------------------------------------------------------- the OAuth application

    def applications(self) -> Sequence[Application]:
        """Return the instance's OAuth applications, without secrets; raises Forbidden unless an administrator asks."""
        return [_application(row) for row in self._list("/applications")]

    def create_application(self, name: str, callback_url: str, scopes: Sequence[str]) -> Application:
        """Register a confidential OAuth application; its secret is told now and never again."""
        body = {"name": name, "redirect_uri": callback_url, "scopes": " ".join(scopes), "confidential": True}
        return _application(self._object("post", "/applications", body))

    def renew_secret(self, application: Application) -> Application:
        """Give an application a new secret, and end the old one; GitLab 16.11 and newer."""
        return _application(self._object("post", f"/applications/{application.id}/renew-secret"))

    def remove_application(self, id: int) -> bool:  # noqa: A002
        """Remove an application; False when it was gone."""
        return self._remove(f"/applications/{id}")

    # ---------------------------------------------------------------- hooks and badges

    def hooks(self, place: Place) -> Sequence[shapes.Body]:
        """Return the hooks of a project or group; raises NotFound or Forbidden where the plan has no group hooks."""
        return self._list(f"{place.address}/hooks")

    def badges(self, place: Place) -> Sequence[shapes.Body]:
        """Return a place's own badges."""
        return [row for row in self._list(f"{place.address}/badges") if f"{row.get('kind', '')}s" == place.kind]

    def add(self, place: Place, things: str, body: Mapping[str, object]) -> int:
        """Make a hook or badge (`things` is GitLab's plural) and return its id."""
        return shapes.whole(self._object("post", f"{place.address}/{things}", body), "id")

    def change(self, place: Place, things: str, id: int, body: Mapping[str, object]) -> None:  # noqa: A002
        """Set fields of a hook or badge; what is not named stays."""
        self._object("put", f"{place.address}/{things}/{id}", body)

    def remove(self, address: str, things: str, id: int) -> bool:  # noqa: A002
        """Remove a hook or badge of the place at `address`; False when it was gone."""
        return self._remove(f"{address}/{things}/{id}")

    def find(self, address: str, things: str, mark: str) -> int | None:
        """Return what GitLab calls a hook, badge or merge request by its URL, link or branch; None if it is not there.

        A merge request's is its number within the project.
        """
        named = {"hooks": ("url", "id"), "badges": ("link_url", "id"), "merge_requests": ("source_branch", "iid")}
        field_, number = named[things]
        found = next((row for row in self._list(f"{address}/{things}") if row.get(field_) == mark), None)
        return None if found is None else shapes.whole(found, number)

    def keep_tags(self, project: Place, pattern: str) -> bool:
        """Have the registry's clean-up keep tags that match, where it is on and keeps none; say whether that was so."""
        policy = shapes.part(self._object("get", project.address), "container_expiration_policy")
        if not policy.get("enabled") or policy.get("name_regex_keep"):
            return False
        given = {"container_expiration_policy_attributes": {"name_regex_keep": pattern}}
        self._object("put", project.address, given)
        return True

    # ---------------------------------------------------------------- the merge request

    def file(self, project: Place, path: str) -> str | None:
        """Return a file's text on the default branch, or None; raises InvalidInput for one that is no UTF-8 text."""
        query = {"ref": project.default_branch or "HEAD"}
        try:
            answer = self._transport.request(
                self._credential, "get", f"{project.address}/repository/files/{quote(path, safe='')}", query=query
            )
        except ProjectNotFound:
            raise
        except NotFound:
            return None
        try:
            return base64.b64decode(shapes.text(_object(answer), "content")).decode("utf-8")
        except ValueError as error:
            raise InvalidInput(f"{path} of {project.path} is no text that can be added to.") from error

    def propose(self, project: Place, change: Change) -> shapes.Body:
        """Commit a file to a new branch and open a merge request, or find the one that is open; its `iid`, `web_url`.

        Idempotent: a branch of an earlier try is used as it is.
        """
        open_ones = self._list(
            f"{project.address}/merge_requests", state="opened", source_branch=change.branch, per_page=1
        )
        if open_ones:
            return open_ones[0]
        self.commit(project, change)
        body = {
            "source_branch": change.branch,
            "target_branch": change.start_branch,
            "title": change.title,
            "description": change.description,
            "remove_source_branch": True,
        }
        return self._object("post", f"{project.address}/merge_requests", body)

    def commit(self, project: Place, change: Change) -> None:
        """Write the file as one commit on the branch, which is made from `start_branch` where it is not there."""
        action = {
            "action": "create" if change.is_new_file else "update",
            "file_path": change.path,
            "content": change.content,
        }
        body: dict[str, Any] = {"branch": change.branch, "commit_message": change.title, "actions": [action]}
        if change.branch != change.start_branch:
            if self._has_branch(project, change.branch):
                return
            body["start_branch"] = change.start_branch
        self._object("post", f"{project.address}/repository/commits", body)

    def withdraw(self, address: str, number: int, branch: str) -> bool:
        """Close a merge request that is still open and remove its branch; False when it was merged or gone."""
        try:
            found = self._object("get", f"{address}/merge_requests/{number}")
        except NotFound:
            return False
        if found.get("state") != "opened":
            return False
        self._object("put", f"{address}/merge_requests/{number}", {"state_event": "close"})
        self._remove(f"{address}/repository/branches/{quote(branch, safe='')}")
        return True

    def _has_branch(self, project: Place, name: str) -> bool:
        try:
            self._object("get", f"{project.address}/repository/branches/{quote(name, safe='')}")
        except ProjectNotFound:
            raise
        except NotFound:
            return False
        return True

    # ---------------------------------------------------------------- asking

    def _object(self, method: str, path: str, body: Mapping[str, object] | None = None) -> shapes.Body:
        given = None if body is None else dict(body)
        return _object(self._transport.request(self._credential, method, path, body=given))

    def _list(self, path: str, **query: object) -> list[shapes.Body]:
        rows: list[shapes.Body] = []
        for page in range(1, _MOST_PAGES + 1):
            asked = {"per_page": _PAGE, **query, "page": page}
            found = self._transport.request(self._credential, "get", path, query=asked).json()
            if not isinstance(found, list):
                raise ForgeUnavailable("GitLab answered what is no list.", remedy="It is tried again.")
            rows += found
            if len(found) < int(str(asked["per_page"])):
                return rows
        raise Conflict(f"{path} has more than {len(rows)} rows.", remedy="Name projects one by one with --project.")

    def _remove(self, path: str) -> bool:
        try:
            self._transport.request(self._credential, "delete", path)
        except NotFound:
            return False
        return True


def _application(body: shapes.Body) -> Application:
    return Application(
        id=shapes.whole(body, "id"),
        client_id=shapes.text(body, "application_id"),
        name=shapes.text(body, "application_name"),
        callback_url=shapes.text(body, "callback_url"),
        secret=shapes.optional(body, "secret"),
    )


def _object(answer: requests.Response) -> shapes.Body:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ForgeUnavailable("GitLab answered what is no object.", remedy="It is tried again.")
    return found
