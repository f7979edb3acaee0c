"""A runner that others wrote serves the stand-in: gitlab-python-runner from PyPI, over the real Runner protocol.

Covered: registration, a job of each end, its log and its archive. Left out: what that runner does not do (reasons,
reports, exit codes, cancelling gracefully) and its own reading of `.gitlab-ci.yml`, which dies of a second document.
The runner pins old versions of what we use newer, so it lives in an environment of its own, kept outside the tree.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import requests
import uv

from spawner.testing.gitlab import StandIn

if TYPE_CHECKING:
    from collections.abc import Sequence

# The newest pair that works together: later emulators lack names that the runner imports.
REQUIREMENTS = ("gitlab-emulator==1.4.0", "gitlab-python-runner==14.3.20")
CI = """
image_build:
  script:
    - echo "building $CI_COMMIT_SHORT_SHA"
    - echo content > result.txt
  artifacts: {paths: [result.txt]}
broken:
  script: [exit 3]
"""


def _runner() -> Path:
    """Return the runner's Python, installing it where this machine has none of these versions yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"
    mark = hashlib.sha256(" ".join((*REQUIREMENTS, sys.version)).encode()).hexdigest()[:16]
    place = cache / f"python-runner-{mark}"
    if not (place / "bin" / "gitlab-runner.py").exists():
        cache.mkdir(parents=True, exist_ok=True)
        program = uv.find_uv_bin()
        python = place / "bin" / "python"
        subprocess.run([program, "venv", "--quiet", "--allow-existing", "-p", sys.executable, place], check=True)
        subprocess.run([program, "pip", "install", "--quiet", "-p", python, *REQUIREMENTS], check=True, timeout=240)
    return place / "bin" / "python"


def _run(folder: Path, *arguments: str) -> int:
    """Run the runner; return its exit code, which is 1 where the one job that it was to run has failed."""
    python = _runner()
    command: Sequence[str | Path] = [python, python.with_name("gitlab-runner.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.returncode


def test_a_runner_of_others_runs_jobs(tmp_path: Path) -> None:
    """It registers, takes one job at a time, sends log and archive, and reports success and failure."""
    with StandIn.start(data=tmp_path / "gitlab", runner=False) as stand_in:
        ada = stand_in.add_user("ada")
        project = stand_in.add_project("ada/demo", owner=ada)
        sha = stand_in.commit(project, {".gitlab-ci.yml": CI})
        stand_in.wait_for_job(project, sha, "image_build", statuses=["pending"])
        token = (stand_in.data / "runner.token").read_text().strip()
        register = ("--register", stand_in.url, "--regtoken", token, "--type", "shell", "--desc", "of others")
        ended = [_run(tmp_path, *register)]
        ended += [_run(tmp_path, "--start", "gitlab-runner.yml", "--once") for _ in range(2)]
        built, broken = (stand_in.wait_for_job(project, sha, name) for name in ("image_build", "broken"))
        path = f"{stand_in.url}/api/v4/projects/{project.id}/jobs/{built['id']}"
        headers = {"PRIVATE-TOKEN": ada.token}
        log = requests.get(f"{path}/trace", headers=headers, timeout=20).text
        file = requests.get(f"{path}/artifacts/result.txt", headers=headers, timeout=20).text
        assert ended == [0, 0, 1]
        assert (built["status"], broken["status"], broken["failure_reason"]) == ("success", "failed", "unknown_failure")
        assert (f"building {sha[:8]}" in log, file) == (True, "content\n")
