"""Without JavaScript: forms and links alone do everything but the live parts; and forms that are not ours do nothing.

Covered: sign-in, launch, wait, open, stop, the list and tokens by a client that runs no script, then by Chromium with
scripts switched off; forgery.
Left out: JupyterLab, which is a script.
"""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest
import requests

from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.browser.chromium import Browser
from tests.browser.conftest import Person
from tests.installation import Client, Installation, wait_for

READY_SECONDS = 120.0


@dataclass(slots=True)
class Form:
    """A form of a page: where it goes, what it holds, and its buttons."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)
    label: str = ""


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Form] = []
        self._is_in_button = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(Form(action=given.get("action", "")))
        elif tag == "input" and self.found and given.get("name"):
            self.found[-1].fields[given["name"]] = given.get("value", "")
        elif tag == "button":
            self._is_in_button = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "button":
            self._is_in_button = False

    def handle_data(self, data: str) -> None:
        if self._is_in_button and self.found and not self.found[-1].label:
            self.found[-1].label = data.strip()


@dataclass(slots=True, kw_only=True)
class Reader:
    """A person with a browser that runs no script."""

    root: str
    http: requests.Session = field(default_factory=requests.Session)
    page: requests.Response = field(default_factory=requests.Response)

    def go(self, address: str) -> str:
        """Go to an address and return the page."""
        self.page = self.http.get(urljoin(self.root, address), headers={"Accept": "text/html"}, timeout=30)
        return self.page.text

    def form(self, label: str) -> Form:
        """Return the form of this page with a button of this label."""
        parser = _Forms()
        parser.feed(self.page.text)
        found = [each for each in parser.found if each.label == label]
        assert found, f"no button {label!r} at {self.page.url}: {[each.label for each in parser.found]}"
        return found[0]

    def press(self, label: str, **values: str) -> str:
        """Send the form with a button of this label and return the page that comes."""
        form = self.form(label)
        root = "/".join(self.page.url.split("/", 3)[:3])
        self.page = self.http.post(
            urljoin(self.page.url, form.action),
            data={**form.fields, **values},
            headers={"Accept": "text/html", "Origin": root},
            timeout=30,
        )
        assert self.page.ok, f"{label}: {self.page.status_code} {self.page.text}"
        return self.page.text


def _signed_in(spawner: Installation, person: Person) -> Reader:
    reader = Reader(root=spawner.url)
    assert 'href="/login/gitlab' in reader.go("/login")
    reader.go("/login/gitlab?next=/")
    reader.press("Sign in", **{"user[login]": person.handle.username, "user[password]": person.password})
    if "requesting access" in reader.page.text:
        reader.press("Authorize", decision="allow")
    assert "Sign out" in reader.page.text
    return reader


def test_everything_by_forms(
    stand_in: StandIn, project: ProjectHandle, spawner: Installation, ada: Person, at_ada: Client
) -> None:
    """Sign in, launch, wait by looking again, stop, see the list, make a token and sign out: by forms alone."""
    sha = stand_in.commit(project, {"README.md": "hello"}, "Say hello.")
    reader = _signed_in(spawner, ada)

    shown = reader.go(f"/go?url={stand_in.url}/{project.path}/-/commit/{sha}")
    name = reader.page.url.rpartition("/")[2]
    assert sha[:8] in shown
    assert '<noscript><meta http-equiv="refresh"' in shown
    assert f'href="/sessions/{name}"' in reader.go("/")

    at_ada.reaches(name, "RUNNING", seconds=READY_SECONDS)
    assert "Running" in reader.go(f"/sessions/{name}")
    assert f"http://{name}.localhost:" in reader.press("Open")
    reader.go(f"/sessions/{name}")
    reader.press("Stop")
    wait_for(lambda: True if "Ended" in reader.go(f"/sessions/{name}") else None, seconds=30, what="the session's end")

    reader.go("/tokens")
    assert "not shown again" in reader.press("Make it", name="a script", days="1")
    reader.go("/tokens")
    reader.press("Revoke")
    reader.press("Sign out")
    assert "Not signed in" in reader.page.text


def test_scripts_switched_off(stand_in: StandIn, project: ProjectHandle, browser: Browser, at_ada: Client) -> None:
    """With scripts off the page looks again by itself, and two buttons lead into the session."""
    sha = stand_in.commit(project, {"README.md": "hello"}, "Say hello.")
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.go(f"/launch/{project.path}?sha={sha}")
        browser.see(sha[:8], within="main")
        name = browser.path.rpartition("/")[2]
        at_ada.reaches(name, "RUNNING", seconds=READY_SECONDS)
        browser.see("Running", within="#now")
        browser.press("Open", within="#now")
        browser.press("Open JupyterLab")
        browser.see_page(rf"^http://{name}\.localhost:\d+/lab")
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("change", ["no token", "another site", "no origin told"])
def test_forged(spawner: Installation, ada: Person, change: str) -> None:
    """A form without the page's token, or sent from another site, makes nothing and is refused on a page."""
    reader = _signed_in(spawner, ada)
    reader.go("/tokens")
    data = {**reader.form("Make it").fields, "name": "forged", "days": "1"}
    headers = {"Accept": "text/html", "Origin": spawner.url, "Sec-Fetch-Site": "same-origin"}
    if change == "no token":
        del data["csrf_token"]
    else:
        headers["Origin"] = "https://evil.example" if change == "another site" else "null"
        headers["Sec-Fetch-Site"] = "cross-site"

    answer = reader.http.post(f"{spawner.url}/tokens", data=data, headers=headers, timeout=30)

    assert (answer.status_code, answer.headers["Content-Type"]) == (403, "text/html; charset=utf-8")
    assert "forged" not in reader.go("/tokens")
