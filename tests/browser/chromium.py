"""A person at a real Chromium: goes to pages, reads them, fills them in, and takes pictures of them.

For: the browser suite. Promises: a profile of its own per browser, new and empty; every wait is bounded, and one that
fails names a picture of what the person saw; nothing is read but what is shown.
Must not know: the spawner's addresses and words.
Source: https://chromedevtools.github.io/devtools-protocol/tot/Emulation/ and /Page/ for sizes, themes and pictures.
"""

import base64
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

T = TypeVar("T")
WIDE_PIXELS = 1280
NARROW_PIXELS = 390  # a telephone, held upright
HEIGHT_PIXELS = 800
SHORTEST_PIXELS = 400
TALLEST_PIXELS = 1600
WAIT_SECONDS = 60.0
PRESS_AGAIN_SECONDS = 5.0  # a page may be long in coming
_LOOK_SECONDS = 0.1
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the suite may run as root, where Chromium's sandbox does not start
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_GET = ("chromium", "chromedriver")


class Theme(StrEnum):
    """What the person's system prefers."""

    LIGHT = "light"
    DARK = "dark"


def programs() -> tuple[str, str]:
    """Return Chromium and its driver; skips the test where one is missing, saying how to get it."""
    found = [shutil.which(name) for name in _GET]
    if None in found:
        pytest.skip("Chromium is missing: `apt-get install chromium chromium-driver` brings it and its driver")
    return str(found[0]), str(found[1])


@dataclass(slots=True, kw_only=True)
class Browser:
    """One browser with a window."""

    driver: Chrome
    root: str
    pictures: Path

    # ------------------------------------------------------------ where it is

    def go(self, address: str) -> None:
        """Go to an address; a path is one of the spawner's."""
        self.driver.get(address if "://" in address else self.root + address)

    @property
    def path(self) -> str:
        """The path of the page that is shown."""
        return urlsplit(self.driver.current_url).path

    @property
    def address(self) -> str:
        """The whole address of the page that is shown."""
        return str(self.driver.current_url)

    def see_page(self, pattern: str, *, unless: str = "", seconds: float = WAIT_SECONDS) -> str:
        """Wait until the address matches a pattern; returns it. `unless` is a selector that ends the wait."""

        def look() -> str | None:
            assert not unless or not self.find(unless), f"{unless} came first. {self.described()}"
            return self.address if re.search(pattern, self.address) else None

        return self.wait(look, f"an address like {pattern}", seconds)

    # ------------------------------------------------------------ what it shows

    def find(self, selector: str) -> list[WebElement]:
        """Return the visible elements of a CSS selector, in their order on the page."""
        return [each for each in self.driver.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()]

    def text(self, selector: str = "body") -> str:
        """Return the text of the first element of a selector; empty where there is none."""
        try:
            return next((each.text for each in self.driver.find_elements(By.CSS_SELECTOR, selector)), "")
        except StaleElementReferenceException:
            return ""

    def see(self, *texts: str, within: str = "body", seconds: float = WAIT_SECONDS) -> str:
        """Wait until an element shows all the texts; returns everything that it shows."""

        def look() -> str | None:
            shown = self.text(within)
            return shown if all(text in shown for text in texts) else None

        return self.wait(look, f"{' and '.join(map(repr, texts))} in {within}", seconds)

    def wait(self, look: Callable[[], T | None], what: str, seconds: float = WAIT_SECONDS) -> T:
        """Return the first answer that is not None.

        Raises:
            AssertionError: it did not come in time; the message says what was shown, and where its picture is.
        """
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            try:
                found = look()
            except StaleElementReferenceException:
                found = None  # the page has just put its live parts anew
            if found is not None:
                return found
            time.sleep(_LOOK_SECONDS)
        raise AssertionError(f"not within {seconds:g} s: {what}. {self.described()}")

    def described(self) -> str:
        """Return what the person sees now: address, text, and the path of a picture."""
        picture = self.pictures / f"failure-{time.monotonic_ns()}.png"
        try:
            self.driver.save_screenshot(str(picture))
            return f"The browser is at {self.address} ({picture}) and shows: {self.text()[:1500]}"
        except WebDriverException as error:
            return f"The browser itself failed: {error.msg}"

    # ------------------------------------------------------------ what one does

    def button(self, label: str, *, within: str = "body", seconds: float = WAIT_SECONDS) -> WebElement:
        """Wait for a visible button or link of a label, and return it."""

        def look() -> WebElement | None:
            every = self.find(f"{within} button, {within} a")
            return next((each for each in every if each.text.strip() == label), None)

        return self.wait(look, f"a button or link {label!r} in {within}", seconds)

    def press(self, label: str, *, within: str = "body", seconds: float = WAIT_SECONDS) -> None:
        """Press a button, or follow a link, by its label, until another page comes.

        Live parts move while they are read: a click may miss, as a person's does.
        """
        pressed_at = -PRESS_AGAIN_SECONDS

        def look() -> bool | None:
            nonlocal pressed_at
            if self.run("return document.isOfPress === undefined"):
                return True
            if time.monotonic() - pressed_at >= PRESS_AGAIN_SECONDS:
                self.button(label, within=within, seconds=seconds).click()
                pressed_at = time.monotonic()
            return None

        self.button(label, within=within, seconds=seconds)
        self.run("document.isOfPress = true")
        self.wait(look, f"a page after {label!r} was pressed")

    def unfold(self, selector: str) -> None:
        """Unfold what is folded under a summary."""
        self.find(selector)[0].click()

    def fill(self, values: Mapping[str, str]) -> None:
        """Write into fields, by their ids."""
        for name, value in values.items():
            field = self.driver.find_element(By.ID, name)
            field.clear()
            field.send_keys(value)

    def labels(self, within: str = "body") -> list[str]:
        """Return the labels of the visible buttons."""
        return [each.text.strip() for each in self.find(f"{within} button")]

    def new_tab(self, address: str) -> str:
        """Open an address in another tab and look at it; returns the first tab's handle."""
        first = str(self.driver.current_window_handle)
        self.driver.switch_to.new_window("tab")
        self.go(address)
        return first

    def close_tab(self, back_to: str) -> None:
        """Close this tab and look at another."""
        self.driver.close()
        self.driver.switch_to.window(back_to)

    # ------------------------------------------------------------ how it looks

    def command(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol."""
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(name, parameters)
        return answer

    def resize(self, width_pixels: int, height_pixels: int = HEIGHT_PIXELS) -> None:
        """Give the page another size."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width_pixels, height=height_pixels, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def prefer(self, theme: Theme) -> None:
        """Prefer light or dark."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme.value}])

    def overflow_pixels(self) -> int:
        """Return by how much the page is wider than its window."""
        return int(self.run("const page = document.documentElement; return page.scrollWidth - page.clientWidth"))

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script on the page and return its value."""
        return self.driver.execute_script(script, *arguments)

    def photograph(self, path: Path, *, is_whole: bool = True) -> None:
        """Write a picture of the page, or of its visible part."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        content = self.run("return Math.ceil(document.body.getBoundingClientRect().height)")
        height = min(max(content, SHORTEST_PIXELS), TALLEST_PIXELS) if is_whole else HEIGHT_PIXELS
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1}
        made = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(made["data"]))

    def complaints(self) -> list[str]:
        """Return what the browser's console has reported as errors since the last call."""
        every = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [str(each["message"]) for each in every if each["level"] == "SEVERE"]

    def close(self) -> None:
        """End the browser and its driver."""
        self.driver.quit()


def open_browser(*, root: str, profile: Path, pictures: Path) -> Browser:
    """Start a browser with an empty profile; skips the test where Chromium is missing."""
    chromium, chromedriver = programs()
    options = Options()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDE_PIXELS},{HEIGHT_PIXELS}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(chromedriver))
    driver.set_page_load_timeout(WAIT_SECONDS)
    driver.set_script_timeout(WAIT_SECONDS)
    browser = Browser(driver=driver, root=root, pictures=pictures)
    browser.resize(WIDE_PIXELS)
    browser.prefer(Theme.LIGHT)
    return browser
