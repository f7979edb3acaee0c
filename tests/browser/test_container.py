"""A session in a container, in a browser: from the launch link to a cell of the commit's own image.

Covered: the launch page until ready, the way into the session's own origin, a cell that says where it runs, a push
from its terminal through the relay.
Left out: sign-in and everything around (test_work), what a container may do (functional/test_docker).
"""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from builder.entries import Kind
from builder.tags import commit_tag, repository
from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.browser.chromium import Browser, open_browser
from tests.browser.conftest import Person, sign_in
from tests.browser.test_work import READY_SECONDS, notebook
from tests.containers.daemon import Daemon
from tests.containers.layout import Image
from tests.functional.environment_images import registry
from tests.installation import Installation, install
from tests.surroundings import Folder

_CELL = "import os, sys; print('run by', os.getuid(), 'on', sys.executable)"
_SEND = """const line = arguments[0];
const channel = new WebSocket(`ws://${location.host}/terminals/websocket/1`);
channel.onopen = () => channel.send(JSON.stringify(["stdin", line + "\\r"]));"""
_PUSH = "date > said.txt && git add said.txt && git commit -qm Said && git push -q"


@pytest.fixture
def docked(folder: Folder, stand_in: StandIn, docker_daemon: Daemon, standalone_root: Path) -> Iterator[Installation]:
    """A spawner whose sessions are containers."""
    data = folder("spawner")
    made = install(
        data=data,
        stand_in=stand_in,
        database_url=f"sqlite:///{data}/slipway.db",
        root=standalone_root,
        settings={
            "SESSIONS__RUNTIME": "docker",
            "DOCKER__HOST": docker_daemon.address,
            "DOCKER__ROOT": str(folder("docker")),
        },
    )
    try:
        made.start()
        yield made
    finally:
        made.stop()
        docker_daemon.run("network", "prune", "--force")  # its bridge would outlive the daemon


def test_a_container_is_worked_in(
    stand_in: StandIn, ada: Person, docked: Installation, notebook_image: Image, tmp_path: Path
) -> None:
    """A link leads to the notebook in the image of its commit; a cell runs there, and its terminal pushes."""
    project = stand_in.add_project("ada/contained", owner=ada.handle)
    sha = stand_in.commit(project, {"work/where.ipynb": notebook(_CELL)}, "Say where.")
    with registry(stand_in, ada.handle) as client:
        notebook_image.push(client, repository(project.path), commit_tag(sha, Kind.CONTAINER))
    browser = open_browser(root=docked.url, profile=tmp_path / "profile", pictures=tmp_path)
    try:
        browser.go(f"/launch/{project.path}/-/blob/main/work/where.ipynb")
        sign_in(browser, ada)
        page = urlsplit(browser.see_page(r"/sessions/[^/]+$")).path
        name = page.rpartition("/")[2]
        browser.see_page(rf"^http://{name}\.localhost:\d+/lab", unless="#now.bad", seconds=READY_SECONDS)
        browser.see("Python 3 (ipykernel) | Idle", within="#jp-main-statusbar", seconds=READY_SECONDS)
        browser.find(".jp-CodeCell .cm-content")[0].click()
        ActionChains(browser.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
        browser.see("run by 1000 on /usr/bin/python3", within=".jp-OutputArea-output", seconds=READY_SECONDS)
        _type_in_a_terminal(browser, _PUSH)
        browser.wait(lambda: _head(stand_in, project, ada) != sha or None, "the push", READY_SECONDS)
    finally:
        browser.close()
        adas = docked.client(ada.handle)
        for name in adas.call("GET", "/api/notebooks/servers").json()["servers"]:
            adas.stop(name)
            adas.reaches(name, "GONE", "FAILED")


def _type_in_a_terminal(browser: Browser, line: str) -> None:
    """Open JupyterLab's terminal from its palette, and send it a line over its own channel, with the page's cookie."""
    keys = ActionChains(browser.driver)
    keys.key_down(Keys.CONTROL).key_down(Keys.SHIFT).send_keys("c").key_up(Keys.SHIFT).key_up(Keys.CONTROL).perform()
    browser.wait(lambda: browser.find("#modal-command-palette input") or None, "the palette")
    ActionChains(browser.driver).send_keys("new terminal").perform()
    browser.see("New Terminal", within="#modal-command-palette .lm-CommandPalette-item.lm-mod-active")
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    browser.see("/workspace/work/contained", within="#jp-main-statusbar", seconds=READY_SECONDS)  # the shell's prompt
    browser.run(_SEND, line)


def _head(stand_in: StandIn, project: ProjectHandle, ada: Person) -> str:
    branch = stand_in.api("GET", f"/projects/{project.id}/repository/branches/main", user=ada.handle)
    return str(branch["commit"]["id"])
