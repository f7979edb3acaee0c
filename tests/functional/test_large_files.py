"""Git LFS as a person uses it in a session: the real client, through the relay, at a real forge.

Covered: locks by path. Left out: objects and secrets (test_isolation), what the edge passes on (api/test_git).
"""

import json
import shutil
from contextlib import closing
from typing import Any

import pytest

from spawner.testing.democheck import Kernel
from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.standin import StandIn
from tests.installation import Client

pytestmark = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="Install the package git-lfs.")

# Prints what `git lfs locks` lists in the end; every command must succeed.
_LOCKING = """
import subprocess
for arguments in (["lock", "first.bin"], ["lock", "second two.bin"], ["unlock", "second two.bin"], ["locks", "--json"]):
    done = subprocess.run(["git", "lfs", *arguments], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
print(done.stdout.decode())
"""


def test_a_lock_is_undone_by_its_path(stand_in: StandIn, project: ProjectHandle, at_alice: Client) -> None:
    """Unlocking one of two files leaves the other's lock."""
    files = {"first.bin": "1", "second two.bin": "2", ".gitattributes": "*.bin filter=lfs lockable\n"}
    name = at_alice.launch(project, stand_in.commit(project, files), build="never")["name"]
    at_alice.reaches(name, "RUNNING", seconds=180)
    base_url, headers = at_alice.enter(name)
    with closing(Kernel(base_url.rstrip("/"), headers)) as kernel:
        left: list[dict[str, Any]] = json.loads(kernel.run(_LOCKING))
    at_alice.stop(name)
    at_alice.reaches(name, "GONE")

    assert [lock["path"] for lock in left] == ["first.bin"]
