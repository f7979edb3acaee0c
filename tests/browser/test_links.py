"""Links and pasted addresses: what they lead to, and which of them ask first.

Covered: projects, branches, commits and files as GitLab writes them, the query of a launch link, an image of the
link's choosing, a project one is no member of, addresses that name nothing.
Left out: every malformed address (tests/unit/web, tests/functional/api).
"""

from dataclasses import dataclass

import pytest

from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.browser.chromium import Browser
from tests.browser.conftest import Album, Person
from tests.installation import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A public project of Grace's, with two branches."""

    project: ProjectHandle
    main: str
    feature: str


@pytest.fixture(scope="module")
def public(stand_in: StandIn, grace: Person) -> Open:
    """A project that Ada can read and is no member of."""
    project = stand_in.add_project("grace/compiler", owner=grace.handle, visibility="public")
    main = stand_in.commit(project, {"README.md": "A-0", "notes/first.md": "one"}, "Compile the first program.")
    feature = stand_in.commit(project, {"notes/first.md": "two"}, "Try a linker.", branch="feature/linker")
    return Open(project=project, main=main, feature=feature)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("", ["main", "Compile the first program."]),
        (".git", ["main", "Compile the first program."]),
        ("/-/tree/feature/linker", ["feature/linker", "Try a linker."]),
        ("/-/commit/{feature}", ["{feature}", "Try a linker."]),
        ("/-/blob/feature/linker/notes/first.md", ["feature/linker", "Try a linker.", "notes/first.md"]),
        ("/-/blob/{main}/notes/first.md?ref_type=heads#L1", ["{main}", "notes/first.md"]),
        ("/-/compare/main...feature/linker", ["feature/linker", "Try a linker."]),
        ("/-/issues/1", ["main", "Compile the first program."]),
    ],
)
def test_paste(stand_in: StandIn, browser: Browser, public: Open, page: str, expected: list[str]) -> None:
    """What GitLab shows in the address bar, pasted on the first page, leads to that commit."""
    shas = {"main": public.main, "feature": public.feature}
    browser.go("/")
    browser.fill({"url": f"{stand_in.url}/{public.project.path}{page.format(**shas)}"})
    browser.press("Launch", within=".paste")

    browser.see("Launch this commit?", public.project.path, *(each.format(**shas) for each in expected))


def test_a_binder_link(browser: Browser, public: Open) -> None:
    """A badge made for Binder leads to the same question, with its file."""
    project = public.project.path.replace("/", "%2F")
    browser.go(f"/v2/gl/{project}/feature%2Flinker?urlpath=lab/tree/notes/first.md")
    browser.see("Launch this commit?", public.project.path, "feature/linker", "Try a linker.", "notes/first.md")


def test_a_badge(browser: Browser, public: Open) -> None:
    """A public project's badge is a picture that a browser shows; that of a private one is the plain button."""
    for path, width in ((public.project.path, 160), ("ada/absent", 67)):
        browser.go(f"/badge/{path}.svg")
        assert browser.find("svg")[0].get_attribute("width") == str(width)


def test_a_stranger_is_asked(browser: Browser, public: Open, at_ada: Client, album: Album) -> None:
    """A project one is no member of is shown first, and one button starts it."""
    browser.go(f"/launch/{public.project.path}/-/tree/feature/linker")
    browser.see("You are no member of this project.", public.feature, "Stand-in", "feature/linker", "public")
    assert browser.labels("main") == ["Launch"]
    assert at_ada.call("GET", "/api/notebooks/servers").json()["servers"] == {}
    album.take(browser, "ask")

    browser.press("Launch", within="main")
    browser.see_page(r"/sessions/")
    browser.see(public.feature[:8], "Stop", within="main")


def test_an_image_of_the_links_own_is_asked(
    stand_in: StandIn, project: ProjectHandle, browser: Browser, at_ada: Client, album: Album
) -> None:
    """A link that names an image asks its own members too, and says so."""
    sha = stand_in.commit(project, {"README.md": "hello"}, "Say hello.")
    browser.go(f"/launch/{project.path}?sha={sha}&ref=main&path=README.md&image=registry.example.org/some/image:1")
    shown = browser.see("asks for an image of its own choosing", "registry.example.org/some/image:1", "README.md", sha)
    assert "You are no member" not in shown
    assert browser.labels("main") == ["Launch"]
    assert at_ada.call("GET", "/api/notebooks/servers").json()["servers"] == {}
    album.take(browser, "ask-image")


@pytest.mark.parametrize(
    ("pasted", "expected"),
    [
        ("https://gitlab.elsewhere.example/group/project", "This address is of another server."),
        ("no address at all", "This address names no project."),
    ],
)
def test_an_address_of_nothing(browser: Browser, album: Album, pasted: str, expected: str) -> None:
    """What cannot be launched is told beside the field, and what was pasted stays there."""
    browser.go("/")
    browser.fill({"url": pasted})
    browser.press("Launch", within=".paste")
    browser.see(expected, within="#paste-error")
    assert browser.find("#url")[0].get_attribute("value") == pasted
    browser.complaints()  # the answer is 422, which Chromium writes into its console
    album.take(browser, "bad-address")


def test_what_is_not_there(browser: Browser, public: Open, album: Album) -> None:
    """A project, a branch and a page that are not there are told on a page, with a way on."""
    for path, said in {
        f"/launch/{public.project.path}/-/tree/nothing": "nothing",
        "/nothing": "",
        "/launch/nobody/nothing": "There is no project nobody/nothing, or you may not see it.",
    }.items():
        browser.go(path)
        browser.see("Not found", said, "Go to the first page", within="main")
    browser.complaints()  # as above, 404
    album.take(browser, "not-found")
