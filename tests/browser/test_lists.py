"""My sessions and my tokens, and what is not mine.

Covered: the list as it changes, stop and open from it, a token made, shown once, used and revoked, another person's
session.
Left out: what a maintainer sees of others (tests/functional/api).
"""

import requests

from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.browser.chromium import Browser
from tests.browser.conftest import Album, Person, sign_in
from tests.installation import Client, Installation

READY_SECONDS = 120.0


def test_my_sessions(stand_in: StandIn, project: ProjectHandle, browser: Browser, at_ada: Client, album: Album) -> None:
    """A session appears in the open list by itself, is opened from it, and is stopped from it."""
    first = stand_in.commit(project, {"README.md": "one"}, "Measure rain.")
    second = stand_in.commit(project, {"README.md": "two"}, "Measure wind.")
    browser.go("/")
    browser.see("None yet.", within="#sessions")
    browser.run("window.isSamePage = true")

    running = at_ada.launch(project, first, build="never")["name"]
    browser.see(first[:8], "Running", within="#sessions", seconds=READY_SECONDS)
    assert browser.run("return window.isSamePage")
    waiting = at_ada.launch(project, second, build="never")["name"]
    browser.see(second[:8], within="#sessions")
    album.take(browser, "sessions")
    at_ada.stop(waiting)

    browser.press("Open", within="#sessions")
    browser.see_page(rf"^http://{running}\.localhost:\d+/lab", seconds=READY_SECONDS)
    browser.go("/")
    browser.press("Stop", within="#sessions")
    browser.see_page(rf"/sessions/{running}$")
    browser.see("Ended", within="#now")


def test_my_tokens(browser: Browser, spawner: Installation, album: Album) -> None:
    """A token works until it is revoked, and is shown once."""
    browser.go("/tokens")
    browser.see("None yet.")
    album.take(browser, "tokens-none")
    browser.fill({"name": "my laptop", "days": "7"})
    browser.press("Make it")
    browser.see("Copy it now: it is not shown again.", "my laptop")
    token = str(browser.find("#made")[0].get_attribute("value"))
    assert _status(spawner, token) == requests.codes.ok

    browser.run("document.getElementById('made').value = 'slipway-example-of-a-token'")
    album.take(browser, "token-made")
    browser.go("/tokens")
    browser.see("my laptop", "s ago", "good", within="table")
    assert token not in browser.driver.page_source
    album.take(browser, "tokens")

    browser.press("Revoke")
    browser.see("revoked", within="table")
    assert _status(spawner, token) == requests.codes.unauthorized


def _status(spawner: Installation, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{spawner.url}/api/notebooks/servers", headers=headers, timeout=30).status_code


def test_anothers_session(
    stand_in: StandIn, project: ProjectHandle, stranger: Browser, grace: Person, at_ada: Client, album: Album
) -> None:
    """Somebody else's session reads like one that does not exist."""
    sha = stand_in.commit(project, {"README.md": "mine"}, "Keep it private.")
    name = at_ada.launch(project, sha, build="never")["name"]
    stranger.go("/login")
    sign_in(stranger, grace)

    stranger.go(f"/sessions/{name}")
    theirs = stranger.see("There is no session", name)
    stranger.go("/sessions/nothing-at-all")
    nothing = stranger.see("There is no session", "nothing-at-all")

    assert theirs.replace(name, "nothing-at-all") == nothing
    stranger.complaints()  # 404, which Chromium writes into its console
    album.take(stranger, "no-session")
