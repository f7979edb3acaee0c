"""A whole spawner, two people with passwords, and a browser for each.

Ada launches; Grace owns what Ada is no member of, so that the suite needs one session user only.
A page that is finished is shown to `album`: it must fit a telephone and a desk, and the browser must have nothing to
complain about. With `--pictures` the album also writes docs/images, wide, and the narrow ones beside the browser's
profile; without it nothing is written.
"""

import itertools
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.browser.chromium import NARROW_PIXELS, WIDE_PIXELS, Browser, Theme, open_browser
from tests.installation import Client, Installation, install
from tests.surroundings import Folder

IMAGES = Path(__file__).parents[2] / "docs" / "images"
LARGEST_BYTES = 200_000
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the wish for new pictures."""
    parser.addoption("--pictures", action="store_true", help="write the pictures of all pages into docs/images")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the suite, and keep it on one worker: its spawner is shared."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.xdist_group("browser"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with an account at GitLab."""

    handle: UserHandle
    password: str


@pytest.fixture(scope="session")
def ada(stand_in: StandIn) -> Person:
    """A person who launches."""
    return _person(stand_in, "ada")


@pytest.fixture(scope="session")
def grace(stand_in: StandIn) -> Person:
    """A person who owns what Ada is no member of."""
    return _person(stand_in, "grace")


def _person(stand_in: StandIn, username: str) -> Person:
    password = secrets.token_urlsafe(12)
    return Person(handle=stand_in.add_user(username, password=password), password=password)


@pytest.fixture(scope="session")
def spawner(folder: Folder, stand_in: StandIn, standalone_root: Path) -> Iterator[Installation]:
    """A running spawner, its tasks in the web process."""
    data = folder("spawner")
    made = install(
        data=data,
        stand_in=stand_in,
        database_url=f"sqlite:///{data}/slipway.db",
        root=standalone_root,
        settings={"IMAGES__GRACE_SECONDS": "2", "IMAGES__QUEUE_BUDGET_SECONDS": "120"},
    )
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def at_ada(spawner: Installation, ada: Person) -> Iterator[Client]:
    """Ada's client for programs; what the test leaves running is stopped."""
    client = spawner.client(ada.handle)
    yield client
    for name in client.call("GET", "/api/notebooks/servers").json()["servers"]:
        client.stop(name)
        client.reaches(name, "GONE", "FAILED")


@pytest.fixture(scope="session")
def open_one(spawner: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Browser]]:
    """Start a browser in which nobody is signed in."""
    started: list[Browser] = []

    def start() -> Browser:
        folder = tmp_path_factory.mktemp("browser")
        started.append(open_browser(root=spawner.url, profile=folder / "profile", pictures=folder))
        return started[-1]

    try:
        yield start
    finally:
        for browser in started:
            browser.close()


@pytest.fixture(scope="session")
def _stranger(open_one: Callable[[], Browser]) -> Browser:
    return open_one()


@pytest.fixture
def stranger(_stranger: Browser, album: "Album") -> Browser:
    """A browser in which nobody is signed in, here or at GitLab."""
    del album
    _stranger.command("Network.clearBrowserCookies")
    _stranger.go("/")
    _stranger.complaints()
    return _stranger


@pytest.fixture(scope="session")
def _ada_browser(open_one: Callable[[], Browser], ada: Person) -> Browser:
    browser = open_one()
    browser.go("/login")
    sign_in(browser, ada)
    return browser


@pytest.fixture
def browser(_ada_browser: Browser, at_ada: Client) -> Browser:
    """A browser in which Ada is signed in; the same for all tests."""
    del at_ada  # it stops what the test leaves running
    _ada_browser.go("/")
    _ada_browser.complaints()
    return _ada_browser


@pytest.fixture
def project(stand_in: StandIn, ada: Person) -> ProjectHandle:
    """A private project of Ada's, without CI."""
    return stand_in.add_project(f"ada/weather-{next(_numbers)}", owner=ada.handle)


def sign_in(browser: Browser, person: Person) -> None:
    """From the sign-in page through GitLab's pages and back."""
    browser.press("Sign in with GitLab", within="main")
    browser.see("Username", "Password")
    browser.fill({"user_login": person.handle.username, "user_password": person.password})
    browser.press("Sign in", within="main")
    browser.see_page(r"/oauth/authorize|^" + browser.root)
    if "/oauth/authorize" in browser.address:
        browser.see("requesting access to your account", person.handle.username)
        browser.press("Authorize")
    browser.see("Sign out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Album:
    """The pages of this run, looked at; and their pictures, where they are wanted."""

    folder: Path
    is_written: bool

    def take(
        self,
        browser: Browser,
        name: str,
        *,
        is_whole: bool = True,
        prefer: Callable[[Browser, Theme], None] = Browser.prefer,
    ) -> None:
        """Look at the page as it stands, narrow and wide, light and dark; `prefer` returns when a theme is shown.

        Raises:
            AssertionError: it is wider than its window, or the browser complained.
        """
        complaints = [each for each in browser.complaints() if browser.root in each]  # JupyterLab has its own
        assert complaints == [], f"{name}: {complaints}"
        for width in (NARROW_PIXELS, WIDE_PIXELS):
            browser.resize(width)
            over = browser.overflow_pixels()
            assert over <= 0, f"{name} is {over} pixels wider than a window of {width}. {browser.described()}"
            if self.is_written:
                folder = self.folder if width == WIDE_PIXELS else browser.pictures
                self._write(browser, folder / name, is_whole=is_whole, prefer=prefer)

    def _write(
        self, browser: Browser, place: Path, *, is_whole: bool, prefer: Callable[[Browser, Theme], None]
    ) -> None:
        for theme in Theme:
            prefer(browser, theme)
            path = place.with_name(f"{place.name}{'-dark' if theme is Theme.DARK else ''}.png")
            browser.photograph(path, is_whole=is_whole)
            assert path.stat().st_size < LARGEST_BYTES, f"{path} is {path.stat().st_size} bytes"
        prefer(browser, Theme.LIGHT)


@pytest.fixture(scope="session")
def album(request: pytest.FixtureRequest) -> Album:
    """Every page that a test has finished, looked at."""
    return Album(folder=IMAGES, is_written=bool(request.config.getoption("--pictures", default=False)))
