"""What a person names by a URL.

Covered: every page of GitLab's that is of some commit, those that are of none, branches with slashes, sub-paths, clone
URLs, foreign servers, hostile text. Left out: whether it exists.
"""

import pytest

from spawner.errors import InvalidInput
from spawner.names import ProjectPath
from spawner.ports import NumberedPage, PageKind
from spawner.sessions.addresses import Reading, default_url_of, namings, parse_pasted, parse_path
from spawner.sessions.launching import Named

FORGES = ["https://gitlab.test", "https://forge.test:8443/gitlab"]
SHA = "172a784d465a7bd45bacc165df2b64a591ac6b18"
BRANCH = [Reading(revision="feature", path="x"), Reading(revision="feature/x")]


@pytest.mark.parametrize(
    ("text", "project", "readings"),
    [
        ("grp/proj", "grp/proj", []),
        ("grp/sub/proj.git", "grp/sub/proj", []),
        ("grp/proj/-/tree/main", "grp/proj", [Reading(revision="main")]),
        ("grp/proj/-/tree/feature/x", "grp/proj", BRANCH),
        ("grp/proj/-/commits/feature/x", "grp/proj", BRANCH),
        (
            "grp/proj/-/blob/main/a/b.ipynb",
            "grp/proj",
            [Reading(revision="main", path="a/b.ipynb"), Reading(revision="main/a", path="b.ipynb")],
        ),
        ("grp/proj/-/raw/main/b.ipynb", "grp/proj", [Reading(revision="main", path="b.ipynb")]),
        ("grp/proj/-/blame/main/b.ipynb", "grp/proj", [Reading(revision="main", path="b.ipynb")]),
        ("grp/proj/-/edit/main/b.ipynb", "grp/proj", [Reading(revision="main", path="b.ipynb")]),
        ("grp/proj/-/new/main/folder", "grp/proj", [Reading(revision="main"), Reading(revision="main/folder")]),
        ("grp/proj/-/archive/v1.0/proj-v1.0.zip", "grp/proj", [Reading(revision="v1.0")]),
        ("grp/proj/-/commit/abc", "grp/proj", [Reading(revision="abc")]),
        ("grp/proj/-/commit/abc.diff", "grp/proj", [Reading(revision="abc")]),
        ("grp/proj/-/commit/abc/pipelines", "grp/proj", [Reading(revision="abc")]),
        ("grp/proj/-/tags/release/1", "grp/proj", [Reading(revision="release/1")]),
        ("grp/proj/-/releases/v1.0", "grp/proj", [Reading(revision="v1.0")]),
        ("grp/proj/-/find_file/feature/x", "grp/proj", [Reading(revision="feature/x")]),
        ("grp/proj/-/network/main", "grp/proj", [Reading(revision="main")]),
        ("grp/proj/-/graphs/main/charts", "grp/proj", [Reading(revision="main"), Reading(revision="main/charts")]),
        ("grp/proj/-/compare/main...feature/x", "grp/proj", [Reading(revision="feature/x")]),
        ("grp/proj/-/compare/main..feature/x", "grp/proj", [Reading(revision="feature/x")]),
        ("grp/proj/tree/main", "grp/proj", [Reading(revision="main")]),
        ("grp/sub/proj/blob/main/a.py", "grp/sub/proj", [Reading(revision="main", path="a.py")]),
        ("-/ide/project/grp/proj/tree/main", "grp/proj", [Reading(revision="main")]),
        ("-/ide/project/grp/sub/proj/edit/main/-/", "grp/sub/proj", [Reading(revision="main")]),
        ("-/ide/project/grp/proj/edit/main/-/a.py", "grp/proj", [Reading(revision="main", path="a.py")]),
    ],
)
def test_code(text: str, project: str, readings: list[Reading]) -> None:
    """A page of a project's code names it, and what follows is read in every way it can be, shortest first."""
    found = parse_path(text)
    assert (project, readings, None) == (found.project, list(found.readings), found.numbered)


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        ("merge_requests/7", PageKind.MERGE_REQUEST),
        ("merge_requests/7/diffs", PageKind.MERGE_REQUEST),
        ("merge_requests/7.patch", PageKind.MERGE_REQUEST),
        ("pipelines/7/builds", PageKind.PIPELINE),
        ("jobs/7", PageKind.JOB),
        ("jobs/7/raw", PageKind.JOB),
        ("builds/7", PageKind.JOB),
    ],
)
def test_numbered(page: str, kind: PageKind) -> None:
    """A merge request, pipeline or job is named by its number, whichever of its pages is pasted."""
    found = parse_path(f"grp/proj/-/{page}")
    assert (found.numbered, list(found.readings)) == (NumberedPage(kind=kind, number=7), [])
    assert parse_path(found.launch_path.removeprefix("/launch/")) == found


@pytest.mark.parametrize(
    "page",
    [
        "issues",
        "issues/1",
        "boards/3",
        "branches",
        "branches/active",
        "tags",
        "pipelines",
        "pipelines/charts",
        "jobs/artifacts/main/raw/a?job=b",
        "merge_requests",
        "merge_requests/new",
        "environments/4",
        "settings/ci_cd",
        "wikis/home",
        "tree",
        "tree/",
        "compare",
    ],
)
def test_default_branch(page: str) -> None:
    """A page that is of no commit means the project as it is today."""
    found = parse_path(f"grp/proj/-/{page}")
    assert (found.project, list(found.readings), found.numbered) == ("grp/proj", [], None)
    assert found.launch_path == "/launch/grp/proj"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proj",
        "grp//proj",
        "../etc/passwd",
        "grp/..",
        "grp/pr oj",
        "-grp/--upload-pack=x",
        "groups/grp",
        "groups/grp/-/epics/1",
        "-/ide/project/",
        "explore/projects",
    ],
)
def test_no_project(text: str) -> None:
    """What names no project is refused, in words."""
    with pytest.raises(InvalidInput):
        parse_path(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://gitlab.test/grp/proj", "/launch/grp/proj"),
        ("  https://gitlab.test/grp/proj/ ", "/launch/grp/proj"),
        ("http://gitlab.test/grp/proj", "/launch/grp/proj"),
        ("https://GitLab.test:443/grp/proj", "/launch/grp/proj"),
        ("gitlab.test/grp/proj", "/launch/grp/proj"),
        ("https://gitlab.test/grp/proj.git", "/launch/grp/proj"),
        ("git clone https://gitlab.test/grp/proj.git", "/launch/grp/proj"),
        ("https://gitlab.test/grp/proj/-/tree/feature/x?ref_type=heads", "/launch/grp/proj/-/tree/feature/x"),
        ("https://gitlab.test/grp/proj/-/blob/main/a%20b.ipynb#L3", "/launch/grp/proj/-/blob/main/a%20b.ipynb"),
        ("https://gitlab.test/grp/proj/-/merge_requests/5/diffs", "/launch/grp/proj/-/merge_requests/5"),
        (
            f"https://gitlab.test/grp/proj/-/merge_requests/5/diffs?commit_id={SHA}",
            f"/launch/grp/proj/-/commit/{SHA}",
        ),
        ("https://gitlab.test/grp/proj/-/issues/5", "/launch/grp/proj"),
        ("https://gitlab.test/-/ide/project/grp/proj/edit/main/-/a.py", "/launch/grp/proj/-/blob/main/a.py"),
        ("https://forge.test:8443/gitlab/grp/proj", "/launch/grp/proj"),
        ("https://forge.test:8443/gitlab/grp/proj/-/jobs/9", "/launch/grp/proj/-/jobs/9"),
        ("https://user:secret@gitlab.test/grp/proj", "/launch/grp/proj"),
        ("git@gitlab.test:grp/proj.git", "/launch/grp/proj"),
        ("git@forge.test:grp/sub/proj.git", "/launch/grp/sub/proj"),
        ("ssh://git@gitlab.test:22/grp/proj.git", "/launch/grp/proj"),
        ("ssh://git@gitlab.test/grp/proj", "/launch/grp/proj"),
        ("git+ssh://git@gitlab.test/grp/proj.git", "/launch/grp/proj"),
        ("grp/proj", "/launch/grp/proj"),
    ],
)
def test_pasted(text: str, expected: str) -> None:
    """Whatever GitLab shows as an address leads to its launch page."""
    assert expected == parse_pasted(text, FORGES).launch_path


@pytest.mark.parametrize(
    "text",
    [
        "https://gitlab.test.evil.test/grp/proj",
        "https://evil.test/grp/proj",
        "https://evil.test/https://gitlab.test/grp/proj",
        "https://gitlab.test@evil.test/grp/proj",
        "https://forge.test:8443/grp/proj",
        "https://forge.test/gitlab/grp/proj",
        "https://gitlab.test:port/grp/proj",
        "https://[masked]/grp/proj",
        "[masked]/grp/proj",
        "git@evil.test:grp/proj",
        "javascript:alert(1)",
        "https://gitlab.test/grp/proj\n/x",
        "https://gitlab.test/" + "a/" * 2000,
        "file:///etc/passwd",
        "ftp://gitlab.test/grp/proj",
        "https://gitlab.test/",
        "",
    ],
)
def test_not_pasted(text: str) -> None:
    """An address of another server, or none at all, is refused."""
    with pytest.raises(InvalidInput):
        parse_pasted(text, FORGES)


def test_a_stranger_is_told_whose_addresses_count() -> None:
    """The sentence about another server names those that we know."""
    with pytest.raises(InvalidInput) as caught:
        parse_pasted("https://evil.test/grp/proj", FORGES)
    assert caught.value.message == "This address is of another server."
    assert caught.value.remedy == f"Paste an address of {FORGES[0]}, {FORGES[1]}."


def test_namings() -> None:
    """A full SHA is a commit, anything else a revision to be read; what is given beside the address wins."""
    project = ProjectPath("grp/proj")
    found = parse_path("grp/proj/-/tree/feature/x")
    assert list(namings(found)) == [
        (Named(project=project, revision="feature"), "x"),
        (Named(project=project, revision="feature/x"), ""),
    ]
    assert list(namings(parse_path(f"grp/proj/-/commit/{SHA}"))) == [(Named(project=project, sha=SHA), "")]
    assert list(namings(parse_path("grp/proj"))) == [(Named(project=project), "")]
    page = NumberedPage(kind=PageKind.PIPELINE, number=9)
    assert list(namings(parse_path("grp/proj/-/pipelines/9"))) == [(Named(project=project, page=page), "")]
    for address in ("grp/proj/-/tree/other", "grp/proj/-/pipelines/9"):
        assert list(namings(parse_path(address), sha=SHA, ref="main")) == [
            (Named(project=project, sha=SHA, branch="main"), "")
        ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("", "/lab"), ("a/b c.ipynb", "/lab/tree/a/b%20c.ipynb"), ("ä?#.py", "/lab/tree/%C3%A4%3F%23.py")],
)
def test_default_url(path: str, expected: str) -> None:
    """A file of the repository opens in its own tab."""
    assert expected == default_url_of(path, otherwise="/lab")


@pytest.mark.parametrize("path", ["../x", "a/../x", "/etc", "a\\b", "a\x00b", "a//b", "./x"])
def test_no_default_url(path: str) -> None:
    """A path that could lead out of the repository is refused."""
    with pytest.raises(InvalidInput):
        default_url_of(path, otherwise="/lab")
