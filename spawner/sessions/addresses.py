"""What a person names by a URL: a launch link's path, or whatever GitLab address they paste. Pure.

For: the launch page, the Binder links, the badge and the command line (through the API) read addresses here only.
Promises: only http(s) and SSH forms of the forges in the settings are read; nothing of a URL but its path and one
word of its query is used; a revision that could be read in several ways gives every reading, shortest first; a page
that is of no commit (issues, settings …) means the project's default branch.
Must not know: Flask, services, which revisions exist.
Source: GitLab's `config/routes/repository.rb`, `project.rb` and its reserved names, 17.x-19.x.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from spawner.errors import InvalidInput
from spawner.names import ProjectPath, is_full_sha
from spawner.ports import NumberedPage, PageKind
from spawner.sessions.launching import Named

READINGS_LIMIT = 6  # segments of a branch's name that are tried
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PROJECT = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})+")
# Pages `<page>/<revision>[/<path>]`, and those where at least a file's name follows the revision.
_TREE_PAGES = frozenset({"tree", "commits", "new", "network", "graphs"})
_FILE_PAGES = frozenset({"blob", "raw", "blame", "edit", "archive"})
# Pages whose whole rest is the revision.
_WHOLE_PAGES = frozenset({"tags", "releases", "find_file"})
_WITHOUT_FILE = frozenset({"archive", "new", "network", "graphs"})
_NUMBERED_PAGES = {
    "merge_requests": PageKind.MERGE_REQUEST,
    "pipelines": PageKind.PIPELINE,
    "jobs": PageKind.JOB,
    "builds": PageKind.JOB,
}
_FORMATS = re.compile(r"\.(?:diff|patch)$")
_COMPARED = re.compile(r"\.\.\.?")
# Before GitLab 12 these pages had no `/-/`; no project may have such a name.
_OLD_PAGE = re.compile(
    rf"(?P<project>{_SEGMENT}(?:/{_SEGMENT})+?)/(?P<page>(?:tree|blob|raw|blame|commits|edit|find_file|builds)/.+)"
)
_IDE = re.compile(
    r"-/ide/project/(?P<project>.+?)/(?:(?P<request>merge_requests/\d+)|(?:edit|tree|blob)/(?P<revision>.+?))"
    r"(?:/-)?(?:/-/(?P<path>.*))?"
)
_NOT_GROUPS = frozenset(
    {"-", "admin", "dashboard", "explore", "groups", "help", "projects", "search", "snippets", "users"}
)
_SSH = re.compile(r"(?:(?:git\+)?ssh://)?[A-Za-z0-9_.-]+@(?P<host>[A-Za-z0-9.-]+)(?::\d+(?=/))?[:/](?P<path>[^\s]+)")
_CLONE = "git clone "
_PORTS = {"http": 80, "https": 443}
_URL_LIMIT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way to read what follows `tree/` or `blob/`: a revision, and the path below it."""

    revision: str
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """What a URL names: a merge request, pipeline or job, or a revision; neither means the default branch.

    `page` is what follows `/-/` in the launch page's own address.
    """

    project: ProjectPath
    readings: Sequence[Reading] = ()
    numbered: NumberedPage | None = None
    page: str = ""

    @property
    def launch_path(self) -> str:
        """The path of the launch page for this target."""
        return f"/launch/{self.project}" + (f"/-/{quote(self.page)}" if self.page else "")


def parse_path(text: str) -> Destination:
    """Read `<project path>[.git][/-/<page>/…]`; raises InvalidInput where it names no project."""
    project, separator, page = _with_dash(text.strip("/")).partition("/-/")
    project = project.removesuffix(".git")
    if _PROJECT.fullmatch(project) is None or any(part.endswith(".") or ".." in part for part in project.split("/")):
        raise InvalidInput(
            "This address names no project.",
            remedy="Paste the address of a GitLab project, branch, commit, file, merge request, pipeline or job.",
        )
    path = ProjectPath(project)
    if project.partition("/")[0] in _NOT_GROUPS:
        raise InvalidInput(
            "This GitLab page is of no project.", remedy="Paste the address of a project, or of its code."
        )
    return _page(path, page) if separator else Destination(project=path)


def _with_dash(text: str) -> str:
    """Return an address of the Web IDE, or one as GitLab wrote them before 12.0, as of today's pages."""
    ide = _IDE.fullmatch(text)
    if ide is not None:
        rest = ide["request"] or (f"blob/{ide['revision']}/{ide['path']}" if ide["path"] else f"tree/{ide['revision']}")
        return f"{ide['project']}/-/{rest}"
    old = None if "/-/" in text else _OLD_PAGE.fullmatch(text)
    return text if old is None else f"{old['project']}/-/{old['page']}"


def _page(project: ProjectPath, page: str) -> Destination:
    kind, _, rest = page.partition("/")
    parts = [part for part in rest.split("/") if part]
    if kind in _NUMBERED_PAGES and parts:
        number = _FORMATS.sub("", parts[0])
        if number.isascii() and number.isdigit():
            numbered = NumberedPage(kind=_NUMBERED_PAGES[kind], number=int(number))
            return Destination(project=project, numbered=numbered, page=f"{kind}/{number}")
    readings = tuple(_readings(kind, parts))
    return Destination(project=project, readings=readings, page="/".join([kind, *parts]) if readings else "")


def _readings(kind: str, parts: Sequence[str]) -> Iterator[Reading]:
    if kind == "commit" and parts:
        yield Reading(revision=_FORMATS.sub("", parts[0]))
    elif kind in _WHOLE_PAGES and parts:
        yield Reading(revision="/".join(parts))
    elif kind == "compare" and parts:
        revision = _COMPARED.split("/".join(parts), maxsplit=1)[-1]  # what is new
        yield Reading(revision=revision)
    elif kind in _TREE_PAGES | _FILE_PAGES:
        longest = len(parts) - (1 if kind in _FILE_PAGES else 0)
        for length in range(1, min(longest, READINGS_LIMIT) + 1):
            path = "" if kind in _WITHOUT_FILE else "/".join(parts[length:])
            yield Reading(revision="/".join(parts[:length]), path=path)


def namings(destination: Destination, *, sha: str | None = None, ref: str | None = None) -> Iterator[tuple[Named, str]]:
    """Yield each way to read what is named, and the file it then opens; never none.

    A `sha` or `ref` given beside the address wins over what the address says.
    """
    if sha or ref or not (destination.readings or destination.numbered):
        yield Named(project=destination.project, sha=sha, branch=ref), ""
    elif destination.numbered is not None:
        yield Named(project=destination.project, page=destination.numbered), ""
    for reading in () if sha or ref else destination.readings:
        if is_full_sha(reading.revision):
            yield Named(project=destination.project, sha=reading.revision), reading.path
        else:
            yield Named(project=destination.project, revision=reading.revision), reading.path


def parse_pasted(text: str, forge_urls: Sequence[str]) -> Destination:
    """Read what somebody pasted: a URL, an SSH address or a project's path; `forge_urls` are the GitLabs known.

    Raises InvalidInput for anything else, and for a URL of another GitLab.
    """
    text = text.strip().removeprefix(_CLONE).strip()
    if len(text) > _URL_LIMIT or not text.isprintable():
        raise InvalidInput("This is no address.", remedy="Paste the address of a GitLab project.")
    return parse_path(_path_of(text, forge_urls))


def _path_of(text: str, forge_urls: Sequence[str]) -> str:
    ssh = _SSH.fullmatch(text)
    if ssh is not None:
        hosts = {urlsplit(forge).hostname for forge in forge_urls}
        if ssh["host"].lower() not in hosts:
            raise _stranger(forge_urls)
        return ssh["path"]
    for forge in forge_urls:
        found = _below(forge, text)
        if found is not None:
            return found
    if "://" in text:
        raise _stranger(forge_urls)
    return text


def _below(forge: str, text: str) -> str | None:
    """Return the path below a forge's own URL, whichever scheme the address has, or None for an address elsewhere."""
    ours = urlsplit(forge)
    root = ours.path.rstrip("/") + "/"
    try:
        wanted = urlsplit(text if "://" in text else f"{ours.scheme}://{text}")
        is_same = wanted.scheme in _PORTS and _host_and_port(wanted.geturl()) in _ways_in(forge)
    except ValueError:  # a host or a port that is none
        return None
    if not is_same or not wanted.path.startswith(root):
        return None
    path = unquote(wanted.path[len(root) :])
    shown = parse_qs(wanted.query).get("commit_id", [""])[0]  # one commit of a merge request
    if "/-/merge_requests/" in path and is_full_sha(shown):
        return f"{path.partition('/-/')[0]}/-/commit/{shown}"
    return path


def _ways_in(forge: str) -> set[tuple[str | None, int]]:
    """Return the hosts and ports of a forge: its own, and where it has the usual one, that of the other scheme."""
    host, port = _host_and_port(forge)
    return {(host, each) for each in ({*_PORTS.values()} if port in _PORTS.values() else {port})}


def _host_and_port(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)


def _stranger(forge_urls: Sequence[str]) -> InvalidInput:
    known = ", ".join(forge_urls)
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
