"""What a person names by a URL.

Covered: every page kind, branches with slashes, foreign servers, hostile text. Left out: whether it exists.
"""

import pytest

from spawner.context import ForgeAddress
from spawner.errors import InvalidInput
from spawner.web.addresses import Reading, default_url_of, parse_pasted, parse_target

FORGES = [
    ForgeAddress(name="default", web_url="https://gitlab.test"),
    ForgeAddress(name="other", web_url="https://forge.test:8443/gitlab"),
]


@pytest.mark.parametrize(
    ("text", "project", "readings"),
    [
        ("grp/proj", "grp/proj", []),
        ("grp/sub/proj.git", "grp/sub/proj", []),
        ("grp/proj/-/tree/main", "grp/proj", [Reading(revision="main")]),
        (
            "grp/proj/-/tree/feature/x",
            "grp/proj",
            [Reading(revision="feature", path="x"), Reading(revision="feature/x")],
        ),
        (
            "grp/proj/-/blob/main/a/b.ipynb",
            "grp/proj",
            [Reading(revision="main", path="a/b.ipynb"), Reading(revision="main/a", path="b.ipynb")],
        ),
        ("grp/proj/-/commit/abc", "grp/proj", [Reading(revision="abc")]),
    ],
)
def test_target(text: str, project: str, readings: list[Reading]) -> None:
    """A path names a project, and what follows is read in every way it can be, shortest first."""
    found = parse_target(text)
    assert (project, readings) == (found.project, list(found.readings))


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
        "grp/proj/-/issues/1",
        "grp/proj/-/merge_requests/1",
        "grp/proj/-/tree",
        "grp/proj/-/tree/",
    ],
)
def test_no_target(text: str) -> None:
    """What names no project, or a page that is none of its code, is refused."""
    with pytest.raises(InvalidInput):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://gitlab.test/grp/proj", "/launch/grp/proj"),
        ("  https://gitlab.test/grp/proj/ ", "/launch/grp/proj"),
        ("https://gitlab.test/grp/proj.git", "/launch/grp/proj"),
        ("https://gitlab.test/grp/proj/-/tree/feature/x?ref_type=heads", "/launch/grp/proj/-/tree/feature/x"),
        ("https://gitlab.test/grp/proj/-/blob/main/a%20b.ipynb", "/launch/grp/proj/-/blob/main/a%20b.ipynb"),
        ("https://forge.test:8443/gitlab/grp/proj", "/launch/grp/proj"),
        ("https://user:secret@gitlab.test/grp/proj", "/launch/grp/proj"),
        ("git@gitlab.test:grp/proj.git", "/launch/grp/proj"),
        ("ssh://git@gitlab.test:22/grp/proj.git", "/launch/grp/proj"),
        ("grp/proj", "/launch/grp/proj"),
    ],
)
def test_pasted(text: str, expected: str) -> None:
    """Whatever GitLab shows as an address leads to its launch page."""
    assert expected == parse_pasted(text, FORGES)


@pytest.mark.parametrize(
    "text",
    [
        "https://gitlab.test.evil.test/grp/proj",
        "https://evil.test/grp/proj",
        "https://forge.test:8443/grp/proj",
        "git@evil.test:grp/proj",
        "javascript:alert(1)",
        "https://gitlab.test/grp/proj\n/x",
        "https://gitlab.test/" + "a/" * 2000,
        "file:///etc/passwd",
        "",
    ],
)
def test_not_pasted(text: str) -> None:
    """An address of another server, or none at all, is refused."""
    with pytest.raises(InvalidInput):
        parse_pasted(text, FORGES)


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
