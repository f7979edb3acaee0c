"""Removing a workspace, as an ordinary user whose sessions may leave anything behind.

Covers: folders closed to writers and readers, links out of the folder, what an earlier removal left, names that are no
folder's. Leaves out: who asks for it and when (tests/functional/api/test_housekeeping.py).
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from spawner.runtimes.standalone import StandaloneRuntime, create

if TYPE_CHECKING:
    from spawner.ports import Registry

NOBODY = 65534


@pytest.fixture
def root() -> Iterator[Path]:
    """A data folder of an ordinary user, who we are while the test runs."""
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    yield folder
    if is_root:
        os.seteuid(0)
    shutil.rmtree(folder)


@pytest.fixture
def runtime(root: Path) -> StandaloneRuntime:
    """A runtime over the folder, which asks no registry here."""
    return create(root=root, instance="tests", registry=cast("Registry", None))


def test_a_folder_closed_to_writers_goes(runtime: StandaloneRuntime) -> None:
    """Folders that may not be written or even listed, as a Go module cache or a notebook leaves them, are removed."""
    workspace = runtime.root / "workspaces" / "w-1"
    for mode, name in ((0o555, "listed"), (0o000, "hidden")):
        deep = workspace / name / "deep"
        deep.mkdir(parents=True)
        (deep / "file").write_text("x")
        deep.chmod(mode)
        deep.parent.chmod(mode)

    runtime.remove_workspace("w-1")
    runtime.remove_workspace("w-1")

    assert list((runtime.root / "workspaces").iterdir()) == []


def test_nothing_behind_a_link_is_touched(runtime: StandaloneRuntime) -> None:
    """A link in a workspace, or in its place, is not followed."""
    outside = runtime.root / "outside"
    outside.mkdir()
    outside.chmod(0o755)
    (outside / "file").write_text("x")
    workspaces = runtime.root / "workspaces"
    (workspaces / "w-1").mkdir()
    (workspaces / "w-1" / "link").symlink_to(outside)
    (workspaces / "w-2").symlink_to(outside)

    for name in ("w-1", "w-2", "../outside", "absent"):
        runtime.remove_workspace(name)

    assert ([path.name for path in workspaces.iterdir()], (outside / "file").read_text()) == (["w-2"], "x")
    assert outside.stat().st_mode & 0o777 == 0o755


def test_what_an_earlier_removal_left_goes(runtime: StandaloneRuntime) -> None:
    """A removal that was cut off leaves the place free at once, and its rest goes with the next."""
    workspaces = runtime.root / "workspaces"
    (workspaces / ".w-1" / "half").mkdir(parents=True)
    (workspaces / "w-1").mkdir()

    runtime.remove_workspace("w-1")

    assert list(workspaces.iterdir()) == []
