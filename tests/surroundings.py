"""What suites of whole processes share: a GitLab stand-in, and a folder of environments.

For: any suite; registered once for all. Promises: one stand-in and one folder per run (per worker of a parallel run);
nothing starts unless a test asks for it; a suite may define a fixture of the same name for itself.
Must not know: the spawner.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from spawner.testing.gitlab.standin import StandIn


def passable(folder: Path) -> Path:
    """Let the sessions' users pass through pytest's private folders, and not list them."""
    for each in (folder, folder.parent, folder.parent.parent):
        each.chmod(each.stat().st_mode | 0o011)
    return folder


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A GitLab stand-in with its runner and registry."""
    with StandIn.start(data=passable(tmp_path_factory.mktemp("gitlab"))) as started:
        yield started


@pytest.fixture(scope="session")
def standalone_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of environments and workspaces, shared by a run's spawners."""
    return passable(tmp_path_factory.mktemp("standalone"))
