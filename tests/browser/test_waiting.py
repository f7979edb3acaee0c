"""What a person sees while a commit's image is awaited, when it comes, and when it does not.

Covered: what is awaited and since when, the build's log as it grows, "start now", the reason for the image, a build
that fails with its failing lines and its remedies, the way into JupyterLab by itself once the image is there.
Left out: every other way a job may stand (tests/unit/images), what runs in the session (test_work).
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.browser.chromium import Browser
from tests.browser.conftest import Album
from tests.installation import Client

READY_SECONDS = 150.0


def job(*lines: str, **variables: str) -> str:
    """Return a CI configuration whose build job runs these lines."""
    document = {"image_build": {"variables": variables, "script": list(lines)}}
    return json.dumps(document, indent=1)  # which is YAML too


@pytest.fixture
def paused(stand_in: StandIn) -> Iterator[None]:
    """No runner takes a job."""
    stand_in.pause_runner()
    yield
    stand_in.pause_runner(paused=False)


@pytest.mark.usefixtures("paused")
def test_wait_for_a_runner(stand_in: StandIn, project: ProjectHandle, browser: Browser, album: Album) -> None:
    """A wait says what is awaited and since when; "start now" ends it with what there is, and says that."""
    sha = stand_in.commit(project, {".gitlab-ci.yml": job("true")}, "Build an image.")
    stand_in.wait_for_job(project, sha, "image_build", statuses=["pending"])

    browser.go(f"/launch/{project.path}?sha={sha}&ref=main")
    shown = browser.see("Waiting for its image", "image_build", "waits for a runner", within="#now")
    assert re.search(r"for \d+ s, since \S+", shown), shown
    assert "It opens here by itself when it is ready." in shown
    first = int(re.findall(r"for (\d+) s", shown)[0])
    browser.wait(
        lambda: any(int(each) > first for each in re.findall(r"for (\d+) s", browser.text("#now"))) or None,
        "time to pass on the page",
    )
    album.take(browser, "waiting")

    browser.press("Start now, with what there is", within="#now")
    browser.see("This is the default image, not this commit's.", within="#warnings")
    assert "the default image" in browser.see("It runs in", within="#image")
    browser.press("Stop", within="#now")
    browser.see("Ended", within="#now")


@pytest.mark.network
def test_a_build_to_its_end(
    stand_in: StandIn, project: ProjectHandle, browser: Browser, album: Album, tmp_path: Path
) -> None:
    """The log grows on the page as the job writes it, and the session opens by itself in the image it built."""
    gate = tmp_path / "go-on"
    configuration = job(
        'echo "Reading requirements.txt of $CI_COMMIT_SHORT_SHA"',
        "builder build --engine environment",
        "sh ci/check.sh",
        GATE=str(gate),
        PATH=f"{Path(sys.executable).parent}:{os.defpath}",
    )
    files = {
        ".gitlab-ci.yml": configuration,
        "requirements.txt": "cowsay==6.1\n",
        "ci/check.sh": 'while [ ! -e "$GATE" ]; do sleep 0.1; done\n',
    }
    sha = stand_in.commit(project, files, "Say it with a cow.")
    stand_in.wait_for_job(project, sha, "image_build", statuses=["running"])

    browser.go(f"/launch/{project.path}/-/tree/main")
    browser.see("Waiting for its image", "image_build", "running", within="#now")
    browser.see(f"Reading requirements.txt of {sha[:8]}", within="#build-log")
    browser.run("window.isSamePage = true")
    browser.see("sh ci/check.sh", within="#build-log", seconds=READY_SECONDS)
    assert browser.run("return window.isSamePage")
    album.take(browser, "launch")

    name = browser.path.rpartition("/")[2]
    gate.touch()
    browser.see_page(rf"^http://{name}\.localhost:\d+/lab", unless="#now.bad", seconds=READY_SECONDS)
    browser.go(f"/sessions/{name}")
    browser.see("It runs in this commit's own image, just built.", sha[:8], within="#image")
    album.take(browser, "built")
    browser.unfold("#build summary")
    browser.see("Built in", within="#build-log")


def test_a_build_that_fails(
    stand_in: StandIn, project: ProjectHandle, browser: Browser, at_ada: Client, album: Album
) -> None:
    """A failed build is a sentence, its failing lines, what to do, and buttons that do it."""
    configuration = job(
        'echo "Resolving requirements.txt"',
        'echo "error: no version of numpy matches numpy==99" >&2',
        "exit 1",
    )
    sha = stand_in.commit(project, {".gitlab-ci.yml": configuration}, "Ask for the future.")
    stand_in.wait_for_job(project, sha, "image_build")
    name = at_ada.launch(project, sha, fallback="fail")["name"]

    browser.go(f"/sessions/{name}")
    shown = browser.see("Failed", "image_build", "What to do:", within="#now", seconds=60)
    assert sha[:8] in shown or sha[:8] in browser.text("main")
    browser.see("error: no version of numpy matches numpy==99", within=".log.bad")
    assert {"Launch again", "Remove", "Launch on the default image"} <= set(browser.labels("#now"))
    album.take(browser, "failed")

    browser.press("Launch on the default image", within="#now")
    browser.see("This is the default image, not this commit's.", within="#warnings")
