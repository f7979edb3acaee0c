"""The default image is at hand before anybody launches.

Covered: a small default of a public project's registry, on both ways. Left out: how an environment is installed
(tests/unit/runtimes), what a session on it looks like (test_session_life).
"""

import pytest

from spawner.testing.gitlab.client import UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.functional.conftest import WAYS, Maker
from tests.functional.environment_images import push_image
from tests.installation import wait_for
from tests.surroundings import Folder


@pytest.mark.parametrize("way", WAYS)
def test_the_default_is_installed_from_the_start_on(
    way: str, make: Maker, folder: Folder, stand_in: StandIn, alice: UserHandle
) -> None:
    """A spawner that starts installs its default environment, although nobody asked for a session."""
    project = stand_in.add_project(f"alice/default-{way}", owner=alice, visibility="public")
    digest = push_image(stand_in, project, "0" * 40, tags=["stable"], lock="")
    root = folder("standalone")
    reference = f"{stand_in.registry_url.partition('://')[2]}/{project.path}:stable"
    wanted = {"SESSIONS__PREPARE_DEFAULT_IMAGE": "true", "IMAGES__DEFAULT_ENVIRONMENT": reference}
    made = make(way, root=root, settings=wanted)
    installed = root / "environments" / digest.removeprefix("sha256:") / "slipway-environment.json"
    try:
        made.start()
        wait_for(lambda: installed.is_file() or None, seconds=30, what=f"the default below {root}")
    finally:
        made.stop()
