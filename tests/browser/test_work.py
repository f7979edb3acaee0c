"""The main job in a browser: sign in, follow a link to a notebook, run a cell, save, stop, sign out.

Covered: GitLab's own sign-in and consent, the launch page until ready, the way into the session's own origin, a cell
run in JupyterLab, a file saved and found in the workspace, stop, sign-out in every tab.
Left out: waits for builds (test_waiting), links (test_links), lists (test_lists).
"""

import json
from urllib.parse import urlsplit

import requests
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.browser.chromium import Browser, Theme
from tests.browser.conftest import Album, Person, sign_in
from tests.installation import Client

READY_SECONDS = 120.0


def notebook(*cells: str) -> str:
    """Return a notebook with code cells."""
    document = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "cells": [
            {
                "id": f"cell-{number}", "cell_type": "code", "source": cell,
                "metadata": {}, "outputs": [], "execution_count": None,
            }
            for number, cell in enumerate(cells)
        ],
    }  # fmt: skip
    return json.dumps(document, indent=1)


def test_a_day_of_work(
    stand_in: StandIn, project: ProjectHandle, stranger: Browser, ada: Person, at_ada: Client, album: Album
) -> None:
    """From a link to a file, through GitLab's sign-in, a cell runs and a save arrives; then stop, and sign out."""
    browser = stranger
    sha = stand_in.commit(project, {"work/sum.ipynb": notebook("print('the sum is', 40 + 2)")}, "Add up the day.")

    browser.go(f"/launch/{project.path}/-/blob/main/work/sum.ipynb")
    browser.see("Sign in with GitLab", "Afterwards you go on to")
    album.take(browser, "sign-in")
    sign_in(browser, ada)

    session_page = urlsplit(browser.see_page(r"/sessions/[^/]+$")).path
    name = session_page.rpartition("/")[2]
    entered = browser.see_page(
        rf"^http://{name}\.localhost:\d+/lab/tree/work/sum\.ipynb", unless="#now.bad", seconds=READY_SECONDS
    )
    _is_let_in_by_its_cookie_alone(browser, at_ada, name)
    _run_the_cell(browser)
    for theme in (Theme.DARK, Theme.LIGHT):
        _prefer(browser, theme)
    assert "official Jupyter news" not in browser.text()
    album.take(browser, "jupyterlab", is_whole=False, prefer=_prefer)
    _save(browser, at_ada, name)

    browser.go(session_page)
    browser.see("Running", sha[:8], project.path, within="main")
    album.take(browser, "running")
    browser.press("Stop", within="#now")
    browser.see("Ended", "launching again opens it", within="#now", seconds=30)
    album.take(browser, "ended")
    assert _does_not_answer(entered)


def _is_let_in_by_its_cookie_alone(browser: Browser, at_ada: Client, name: str) -> None:
    """The session knows this browser by one cookie that scripts cannot read; following a link sets no such cookie."""
    kept = [each for each in browser.driver.get_cookies() if each["name"].startswith("slipway-session-")]
    assert [(each["httpOnly"], each["domain"]) for each in kept] == [(True, f"{name}.localhost")]
    parts = urlsplit(at_ada.call("POST", f"/api/notebooks/servers/{name}/open").json()["url"])
    root, own = f"http://127.0.0.1:{parts.port}", {"Host": f"{name}.localhost:{parts.port}"}
    followed = requests.get(f"{root}{parts.path}?{parts.query}", headers=own, timeout=30)
    assert followed.ok
    assert not any(each.startswith("slipway-session-") for each in followed.cookies.keys())  # noqa: SIM118 - a jar
    stranger = requests.get(f"{root}/lab", headers=own, timeout=30)
    assert stranger.status_code == requests.codes.forbidden


def _run_the_cell(browser: Browser) -> None:
    """Run the first cell from the keyboard and see what it prints."""
    browser.wait(lambda: browser.find(".jp-Notebook .jp-CodeCell") or None, "the notebook", READY_SECONDS)
    browser.see("Python 3 (ipykernel) | Idle", within="#jp-main-statusbar", seconds=READY_SECONDS)
    browser.find(".jp-CodeCell .cm-content")[0].click()
    ActionChains(browser.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    browser.see("the sum is 42", within=".jp-OutputArea-output", seconds=READY_SECONDS)


def _prefer(browser: Browser, theme: Theme) -> None:
    """Prefer a theme, and see JupyterLab follow it."""
    browser.prefer(theme)
    wanted = "true" if theme is Theme.LIGHT else "false"
    browser.wait(
        lambda: browser.run("return document.body.dataset.jpThemeLight") == wanted or None, f"JupyterLab in {theme}"
    )


def _save(browser: Browser, at_ada: Client, name: str) -> None:
    """Save from the keyboard, and find what was printed in the workspace."""
    ActionChains(browser.driver).key_down(Keys.CONTROL).send_keys("s").key_up(Keys.CONTROL).perform()
    base_url, headers = at_ada.enter(name)

    def saved() -> bool | None:
        kept = requests.get(f"{base_url}api/contents/work/sum.ipynb", headers=headers, timeout=30)
        if not kept.ok:
            return None  # it is being written just now
        outputs = kept.json()["content"]["cells"][0]["outputs"]
        return True if any("the sum is 42" in str(each) for each in outputs) else None

    browser.wait(saved, "the saved notebook in the workspace")


def _does_not_answer(address: str) -> bool:
    parts = urlsplit(address)
    try:
        requests.get(f"http://127.0.0.1:{parts.port}/", timeout=2)
    except requests.ConnectionError:
        return True
    return False


def test_sign_out_reaches_every_tab(stranger: Browser, grace: Person, album: Album) -> None:
    """Whoever signs out in one tab is out in the others."""
    browser = stranger
    browser.see("Not signed in")
    album.take(browser, "welcome")
    browser.press("Sign in with GitLab", within="main")
    browser.see("never sees your password")
    sign_in(browser, grace)
    browser.go("/")
    browser.see("Your sessions")

    first = browser.new_tab("/tokens")
    browser.press("Sign out")
    browser.see("Not signed in")
    browser.close_tab(first)

    browser.go("/tokens")
    browser.see("Sign in", "Afterwards you go on to", "/tokens")
