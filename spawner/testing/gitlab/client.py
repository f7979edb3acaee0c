"""A GitLab as a test or a demo uses it: people, projects, commits and waiting, through REST and Git only.

Promises: everything is done as anybody with an administrator's token would do it, so it works on the stand-in and
on a real GitLab alike.
Must not know: the stand-in's insides, or that it is one.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CALL_SECONDS = 30.0
_GIT_SECONDS = 120.0
_POLL_SECONDS = 0.1


class StandInError(Exception):
    """The stand-in did not do what was asked; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserHandle:
    """A person of the stand-in and their token."""

    username: str
    id: int
    token: str = field(repr=False)
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectHandle:
    """A project of the stand-in; `owner` pushes to it."""

    path: str
    id: int
    http_url: str
    owner: UserHandle


@dataclass(slots=True, kw_only=True)
class Forge:
    """A GitLab that answers at `url`."""

    url: str
    admin: UserHandle
    _projects: dict[str, ProjectHandle] = field(default_factory=dict)

    def api(self, method: str, path: str, *, user: UserHandle | None = None, body: object = None) -> Any:
        """Call the REST API (`/projects/1`) as a person, by default the administrator; return the JSON answer.

        Raises:
            StandInError: the answer was no success.
        """
        headers = {"PRIVATE-TOKEN": (user or self.admin).token}
        return self._call(method, f"/api/v4{path}", headers=headers, body=body)

    def add_user(
        self, username: str, *, admin: bool = False, password: str | None = None, scopes: Sequence[str] = ("api",)
    ) -> UserHandle:
        """Make a person with a token."""
        body = {
            "username": username,
            "name": username.capitalize(),
            "email": f"{username}@example.com",
            "admin": admin,
            "password": password,
            "force_random_password": True if password is None else None,
            "skip_confirmation": True,
        }
        made = self.api("POST", "/users", body={key: value for key, value in body.items() if value is not None})
        token = self.add_token(made["id"], scopes=scopes)
        return UserHandle(username=username, id=made["id"], token=token, is_admin=admin)

    def add_token(self, user_id: int, *, scopes: Sequence[str] = ("api",), expires_at: str | None = None) -> str:
        """Make a personal access token; `expires_at` is an ISO date."""
        body = {"name": "made by stand-in", "scopes": list(scopes), "expires_at": expires_at}
        made = self.api("POST", f"/users/{user_id}/personal_access_tokens", body=body)
        token: str = made["token"]
        return token

    def add_group(self, path: str, *, owner: UserHandle, visibility: str = "private") -> int:
        """Make a group, or a subgroup of one that is there; return its id."""
        parent, _, name = path.rpartition("/")
        body: dict[str, Any] = {"path": name, "name": name, "visibility": visibility}
        if parent:
            body["parent_id"] = self.api("GET", f"/groups/{quote(parent, safe='')}", user=owner)["id"]
        made: int = self.api("POST", "/groups", user=owner, body=body)["id"]
        return made

    def add_project(self, path: str, *, owner: UserHandle, visibility: str = "private") -> ProjectHandle:
        """Make an empty project `namespace/name`; the namespace is the owner's name or a group."""
        namespace, _, name = path.rpartition("/")
        body: dict[str, Any] = {"path": name, "name": name, "visibility": visibility}
        if namespace != owner.username:
            body["namespace_id"] = self.api("GET", f"/groups/{quote(namespace, safe='')}", user=owner)["id"]
        made = self.api("POST", "/projects", user=owner, body=body)
        handle = ProjectHandle(path=path, id=made["id"], http_url=made["http_url_to_repo"], owner=owner)
        self._projects[path] = handle
        return handle

    def add_member(
        self, project: ProjectHandle, user: UserHandle, level: int, *, expires_at: str | None = None
    ) -> None:
        """Give a person a level in a project."""
        body = {"user_id": user.id, "access_level": level, "expires_at": expires_at}
        self.api("POST", f"/projects/{project.id}/members", body=body)

    def add_application(
        self, redirect_uri: str, *, name: str = "slipway", scopes: Sequence[str] = ("api",), **more: bool
    ) -> tuple[str, str]:
        """Make an OAuth application; return its id and secret."""
        body = {"name": name, "redirect_uri": redirect_uri, "scopes": " ".join(scopes), **more}
        made = self.api("POST", "/applications", body=body)
        return made["application_id"], made["secret"]

    def commit(  # noqa: PLR0913 - every part of a commit and its push can be given
        self,
        project: ProjectHandle | str,
        files: Mapping[str, str | bytes | None],
        message: str = "Change files.",
        *,
        branch: str = "main",
        parent: str | None = None,
        push_options: Sequence[str] = (),
        user: UserHandle | None = None,
    ) -> str:
        """Commit files (None deletes) on a branch and push; return the commit's full SHA.

        Without `parent` the commit goes on top of the branch, or of the default branch where the branch is new.

        Raises:
            StandInError: Git refused.
        """
        handle = self._projects[project] if isinstance(project, str) else project
        with tempfile.TemporaryDirectory() as folder:
            git = _Git(folder=Path(folder), token=(user or handle.owner).token)
            git("init", "--quiet", "--initial-branch", branch)
            git("remote", "add", "origin", handle.http_url)
            git("fetch", "--quiet", "origin")
            start = parent or git.known(f"origin/{branch}") or git.known("origin/main")
            if start:
                git("reset", "--quiet", "--hard", start)
            for name, content in files.items():
                _place(Path(folder) / name, content)
            git("add", "--all")
            git("commit", "--quiet", "--allow-empty", "--message", message)
            options = [f"--push-option={option}" for option in push_options]
            git(
                "push",
                "--quiet",
                "--force" if parent else "--no-force",
                *options,
                "origin",
                f"HEAD:refs/heads/{branch}",
            )
            return git("rev-parse", "HEAD").strip()

    def tag(self, project: ProjectHandle, name: str, sha: str, *, message: str = "") -> None:
        """Push a tag; with a message, an annotated one.

        Raises:
            StandInError: Git refused.
        """
        with tempfile.TemporaryDirectory() as folder:
            git = _Git(folder=Path(folder), token=project.owner.token)
            git("init", "--quiet")
            git("remote", "add", "origin", project.http_url)
            git("fetch", "--quiet", "origin", sha)
            git("tag", *(["--annotate", "--message", message] if message else []), name, sha)
            git("push", "--quiet", "origin", f"refs/tags/{name}")

    def wait_for_job(
        self,
        project: ProjectHandle | str,
        sha: str,
        name: str,
        *,
        statuses: Sequence[str] = ("success", "failed", "canceled", "skipped", "manual"),
        timeout_seconds: float = 60.0,
    ) -> dict[str, Any]:
        """Wait until the newest job of a name for a commit has one of the statuses; return the job.

        Raises:
            StandInError: the time is over; the message says how the job stood.
        """
        handle = self._projects[project] if isinstance(project, str) else project
        ends, last = time.monotonic() + timeout_seconds, "no job"
        while time.monotonic() < ends:
            path = f"/projects/{handle.id}/repository/commits/{sha}/statuses?name={quote(name)}"
            rows = self.api("GET", path)
            if rows:
                last = rows[-1]["status"]
                if last in statuses:
                    job: dict[str, Any] = self.api("GET", f"/projects/{handle.id}/jobs/{rows[-1]['id']}")
                    return job
            time.sleep(_POLL_SECONDS)
        raise StandInError(f"Job {name} of {sha} in {handle.path} stood at {last!r} after {timeout_seconds} s.")

    def wait_for_pipeline(self, project: ProjectHandle, sha: str, *, timeout_seconds: float = 30.0) -> dict[str, Any]:
        """Wait until a commit has a pipeline; return it.

        Raises:
            StandInError: the time is over.
        """
        ends = time.monotonic() + timeout_seconds
        while time.monotonic() < ends:
            rows = self.api("GET", f"/projects/{project.id}/pipelines?sha={sha}")
            if rows:
                newest: dict[str, Any] = rows[0]
                return newest
            time.sleep(_POLL_SECONDS)
        raise StandInError(f"{sha} in {project.path} has no pipeline after {timeout_seconds} s.")

    def _call(self, method: str, path: str, *, headers: dict[str, str], body: object) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(method, self.url + path, headers=headers, json=body, timeout=_CALL_SECONDS)
        if not answer.ok:
            raise StandInError(f"{method} {path} answered {answer.status_code}: {answer.text[:256]}")
        return answer.json() if answer.content else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Git:
    """Git in one folder, signed in by a header that is in no file and no argument."""

    folder: Path
    token: str

    def __call__(self, *arguments: str) -> str:
        done = self._run(*arguments)
        if done.returncode:
            raise StandInError(f"git {arguments[0]} failed: {done.stderr[-512:].strip()}")
        return done.stdout

    def known(self, name: str) -> str | None:
        """Return the commit of a name, or None."""
        done = self._run("rev-parse", "--verify", "--quiet", name)
        return done.stdout.strip() if done.returncode == 0 else None

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        pair = base64.b64encode(f"oauth2:{self.token}".encode()).decode()
        settings = {"http.extraHeader": f"Authorization: Basic {pair}", "protocol.version": "2"}
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_AUTHOR_NAME": "Stand-in",
            "GIT_AUTHOR_EMAIL": "stand-in@example.com",
            "GIT_COMMITTER_NAME": "Stand-in",
            "GIT_COMMITTER_EMAIL": "stand-in@example.com",
            "GIT_CONFIG_COUNT": str(len(settings)),
        }
        for index, (key, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
        return subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_GIT_SECONDS,
        )


def _place(path: Path, content: str | bytes | None) -> None:
    if content is None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
