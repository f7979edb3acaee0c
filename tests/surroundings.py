"""What suites of whole processes share: a GitLab stand-in, and a folder of environments.

For: any suite; registered once for all. Promises: one stand-in and one folder per run (per worker of a parallel run);
nothing starts unless a test asks for it; a suite may define a fixture of the same name for itself.
Must not know: the spawner.
"""

import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spawner.testing.gitlab.standin import StandIn

Folder = Callable[[str], Path]


def passable(folder: Path) -> Path:
    """Let the sessions' users pass through pytest's private folders, and not list them; prefer the fixture `folder`."""
    for each in (folder, folder.parent, folder.parent.parent):
        each.chmod(each.stat().st_mode | 0o011)
    return folder


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Iterator[Folder]:
    """Makes folders that sessions' users may pass through; kept, and told, when a test failed.

    Not below pytest's own: each start of pytest closes that one to other users, and several may run at once.
    """
    root = Path(tempfile.mkdtemp(prefix="slipway-tests-"))
    root.chmod(0o711)

    def make(name: str) -> Path:
        made = root / f"{name}-{next(_numbers)}"
        made.mkdir(mode=0o711)
        return made

    yield make
    if request.session.testsfailed:
        sys.stderr.write(f"The logs are in {root}.\n")
    else:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def stand_in(folder: Folder) -> Iterator[StandIn]:
    """A GitLab stand-in with its runner and registry."""
    with StandIn.start(data=folder("gitlab")) as started:
        yield started


@pytest.fixture(scope="session")
def standalone_root(folder: Folder) -> Path:
    """The folder of environments and workspaces, shared by a run's spawners."""
    return folder("standalone")
