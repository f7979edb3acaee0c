"""The demo's projects: three histories, pushed as a person would, and hooks that tell the spawner.

Promises: idempotent over one data folder; the projects come by real pushes, so that they have pipelines.
Must not know: processes, the stand-in's insides.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from spawner import testing
from spawner.cli.connection import as_given
from spawner.errors import ForgeUnavailable

SAMPLES = Path(testing.__file__).parent / "samples"
SAMPLE_NAMES = ("requirements", "locked", "failing")
OWNER, MEMBER = "alice", "bob"
_GIT_SECONDS = 60.0
_HTTP_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededUser:
    """A person of the demo and a GitLab token of theirs."""

    username: str
    token: str = field(repr=False)
    password: str = field(repr=False)
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededProject:
    """A sample project; `commits` are full SHAs, newest first."""

    name: str
    path: str
    id: int
    default_branch: str
    commits: tuple[str, ...]


def push_samples(gitlab_url: str, owner: SeededUser) -> tuple[SeededProject, ...]:
    """Push each sample that has no commits yet; return them all. Raises ForgeUnavailable."""
    return tuple(_project(gitlab_url, owner, name) for name in SAMPLE_NAMES)


def add_hooks(gitlab_url: str, owner: SeededUser, projects: Sequence[SeededProject], *, url: str, secret: str) -> None:
    """Have GitLab tell the spawner of pipelines and jobs; a project that has a hook keeps it."""
    for project in projects:
        address = f"{gitlab_url}/api/v4/projects/{project.id}/hooks"
        headers = {"PRIVATE-TOKEN": owner.token}
        known = requests.get(address, headers=headers, auth=as_given, timeout=_HTTP_SECONDS)
        if known.ok and any(row["url"] == url for row in known.json()):
            continue
        body = {"url": url, "token": secret, "push_events": False, "pipeline_events": True, "job_events": True}
        answer = requests.post(address, headers=headers, json=body, auth=as_given, timeout=_HTTP_SECONDS)
        if not answer.ok:
            raise ForgeUnavailable(f"The stand-in refused a hook of {project.path}: {answer.text[:200]}")


def _project(gitlab_url: str, owner: SeededUser, name: str) -> SeededProject:
    path = f"{owner.username}/{name}"
    shown = _get(gitlab_url, owner, f"/projects/{quote(path, safe='')}")
    branch = str(shown["default_branch"] or "main")
    with tempfile.TemporaryDirectory(prefix="slipway-seed-") as folder:
        copy = _Copy(Path(folder), str(shown["http_url_to_repo"]), owner, branch)
        if not copy.fetched():
            copy.write_history(SAMPLES / name)
            copy.push()
        commits = copy.commits()
    return SeededProject(name=name, path=path, id=int(shown["id"]), default_branch=branch, commits=commits)


def _get(gitlab_url: str, owner: SeededUser, path: str) -> dict[str, Any]:
    headers = {"PRIVATE-TOKEN": owner.token}
    answer = requests.get(f"{gitlab_url}/api/v4{path}", headers=headers, auth=as_given, timeout=_HTTP_SECONDS)
    if not answer.ok:
        raise ForgeUnavailable(f"The stand-in answered {answer.status_code} to {path}: {answer.text[:200]}")
    found: dict[str, Any] = answer.json()
    return found


class _Copy:
    """A repository to push from; the token stands in a private file beside it."""

    def __init__(self, folder: Path, url: str, owner: SeededUser, branch: str) -> None:
        parts = urlsplit(url)
        kept = folder / "credentials"
        kept.touch(mode=0o600)
        kept.write_text(f"{parts.scheme}://oauth2:{owner.token}@{parts.netloc}\n")
        self._owner, self._branch = owner, branch
        self._path = folder / "copy"
        self._settings = ["-c", "credential.helper=", "-c", f"credential.helper=store --file={kept}"]
        self._path.mkdir()
        self._git("init", "--quiet", f"--initial-branch={branch}")
        self._git("remote", "add", "origin", url)

    def fetched(self) -> bool:
        """Take what the remote has; False when that is nothing."""
        self._git("fetch", "--quiet", "origin")
        if not self._git("for-each-ref", f"refs/remotes/origin/{self._branch}"):
            return False
        self._git("reset", "--quiet", "--hard", f"origin/{self._branch}")
        return True

    def write_history(self, sample: Path) -> None:
        """Commit what `history.json` lists; each commit's folder lies over the files of the one before."""
        for commit in json.loads((sample / "history.json").read_text(encoding="utf-8"))["commits"]:
            shutil.copytree(sample / str(commit["folder"]), self._path, dirs_exist_ok=True)
            for path in commit.get("remove", ()):
                (self._path / path).unlink()
            self._git("add", "--all")
            self._git("commit", "--quiet", "--message", str(commit["message"]), at=str(commit["at"]))

    def push(self) -> None:
        """Push the branch."""
        self._git("push", "--quiet", "origin", self._branch)

    def commits(self) -> tuple[str, ...]:
        """Return the commits, newest first."""
        return tuple(self._git("log", "--format=%H").split())

    def _git(self, *arguments: str, at: str | None = None) -> str:
        name, email = self._owner.username, f"{self._owner.username}@example.com"
        environment = {
            **os.environ,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_NAME": name for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": email for who in ("AUTHOR", "COMMITTER")},
            **({"GIT_AUTHOR_DATE": at, "GIT_COMMITTER_DATE": at} if at else {}),
        }
        command = ["git", "-C", str(self._path), *self._settings, *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
        if done.returncode != 0:
            raise ForgeUnavailable(f"git {arguments[0]} failed against the stand-in: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()
