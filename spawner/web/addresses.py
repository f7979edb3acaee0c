"""What a person names by a URL: a project, perhaps a revision, perhaps a file.

For: `/launch/<project path>[/-/tree|blob|commit/…]` and any GitLab URL that somebody pastes. Pure.
Promises: only http(s) and SSH forms of the forges in the settings are read; nothing of a URL but its path and the
words of its query is used; a revision that could be read in several ways gives every reading, shortest first.
Must not know: Flask, services, which revisions exist.
Source: GitLab's routes for repository pages, 17.x.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from spawner.context import ForgeAddress
from spawner.errors import InvalidInput
from spawner.names import ProjectPath

READINGS_LIMIT = 6  # segments of a branch's name that are tried
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PROJECT = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})+")
_PAGES = frozenset({"tree", "blob", "raw", "blame", "edit", "commits", "commit"})
_FILE_PAGES = frozenset({"blob", "raw", "blame", "edit"})
_SSH = re.compile(r"(?:ssh://)?git@(?P<host>[A-Za-z0-9.-]+)(?::\d+)?[:/](?P<path>[^\s]+)")
_URL_LIMIT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way to read what follows `tree/` or `blob/`: a revision, and the path below it."""

    revision: str
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a URL names; no reading means the project's default branch."""

    project: ProjectPath
    readings: Sequence[Reading] = ()

    @property
    def launch_path(self) -> str:
        """The path of the launch page for this target, in its longest reading."""
        return f"/launch/{self.project}" + (f"/-/tree/{quote(self.readings[0].revision)}" if self.readings else "")


def parse_target(text: str) -> Target:
    """Read `<project path>[.git][/-/<page>/<revision>[/<path>]]`; raises InvalidInput."""
    project, separator, page = text.strip("/").partition("/-/")
    project = project.removesuffix(".git")
    if _PROJECT.fullmatch(project) is None or any(part.endswith(".") or ".." in part for part in project.split("/")):
        raise InvalidInput(
            "This address names no project.", remedy="Paste the address of a GitLab project, branch, commit or file."
        )
    if not separator:
        return Target(project=ProjectPath(project))
    return Target(project=ProjectPath(project), readings=tuple(_readings(page)))


def _readings(page: str) -> Iterator[Reading]:
    kind, _, rest = page.partition("/")
    parts = [part for part in rest.split("/") if part]
    if kind not in _PAGES or not parts:
        raise InvalidInput(
            "This GitLab page is no branch, commit or file.",
            remedy="Paste the address of a project, branch, commit or file; of a merge request, its source branch.",
        )
    if kind == "commit":
        yield Reading(revision=parts[0])
        return
    longest = len(parts) - (1 if kind in _FILE_PAGES else 0)
    for length in range(1, min(longest, READINGS_LIMIT) + 1):
        yield Reading(revision="/".join(parts[:length]), path="/".join(parts[length:]))


def parse_pasted(text: str, forges: Sequence[ForgeAddress]) -> str:
    """Return the launch page's path for what somebody pasted: a URL, an SSH address or a project's path.

    Raises InvalidInput for anything else, and for a URL of another GitLab.
    """
    text = text.strip()
    if len(text) > _URL_LIMIT or not text.isprintable():
        raise InvalidInput("This is no address.", remedy="Paste the address of a GitLab project.")
    path = _path_of(text, forges)
    target = parse_target(path)
    _, separator, page = path.strip("/").partition("/-/")
    return f"/launch/{target.project}" + (f"/-/{quote(page)}" if separator else "")


def _path_of(text: str, forges: Sequence[ForgeAddress]) -> str:
    ssh = _SSH.fullmatch(text)
    if ssh is not None:
        hosts = {urlsplit(forge.web_url).hostname for forge in forges}
        if ssh["host"].lower() not in hosts:
            raise _stranger(forges)
        return ssh["path"]
    if "://" not in text:
        return text
    wanted = urlsplit(text)
    for forge in forges:
        ours = urlsplit(forge.web_url)
        root = ours.path.rstrip("/") + "/"
        if wanted.netloc.rpartition("@")[2].lower() == ours.netloc.lower() and wanted.path.startswith(root):
            return unquote(wanted.path[len(root) :])
    raise _stranger(forges)


def _stranger(forges: Sequence[ForgeAddress]) -> InvalidInput:
    known = ", ".join(forge.web_url for forge in forges)
    return InvalidInput("This address is of another server.", remedy=f"Paste an address of {known}.")


def default_url_of(path: str, *, otherwise: str) -> str:
    """Return where a session opens for a file or folder of the repository; raises InvalidInput for none inside it."""
    if not path:
        return otherwise
    parts = path.split("/")
    if (
        not path.isprintable()
        or "\\" in path
        or len(path) > _URL_LIMIT
        or any(part in {"", ".", ".."} for part in parts)
    ):
        raise InvalidInput("This path is none inside the repository.", remedy="Give it relative to the project's root.")
    return f"/lab/tree/{quote(path)}"
