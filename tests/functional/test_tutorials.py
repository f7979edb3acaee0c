"""Tutorials are run as they stand: every block of shell, in order, in an empty folder.

Covered: docs/tutorial/connect.md, on a stand-in and spawner of its own, at free ports. Left out: clicks.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import free_port
from tests.surroundings import Folder

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "connect.md"
RUN_SECONDS = 900.0  # an end to a hang; 60 s on a quiet machine
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def script(page: Path) -> str:
    """Return a page's blocks as one script, with ports that are free."""
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    text = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n" + "\n".join(blocks)
    for port in ("8101", "8100"):
        text = text.replace(f"--port {port}", f"--port {port} --registry-port {free_port()}" if port == "8101" else "")
        text = text.replace(port, str(free_port()))
    return text


@pytest.mark.timeout(RUN_SECONDS + 60)
def test_connecting_is_done_as_the_page_says(folder: Folder) -> None:
    """From an empty folder to a launch, an empty project and back: no command fails, and the job was really built."""
    place = folder("tutorial")
    commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {name: os.environ[name] for name in ("UV_CACHE_DIR", "SSL_CERT_FILE") if name in os.environ}
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    given = {**os.environ, "PATH": commands, "XDG_CACHE_HOME": cache, **kept}
    given = {name: value for name, value in given.items() if not name.startswith(("CI", "SPAWNER_", "SLIPWAY_"))}
    with (place / "told.txt").open("wb") as told:
        done = subprocess.run(
            ["bash", "-c", script(PAGE)],
            cwd=place, env=given, stdout=told, stderr=subprocess.STDOUT, timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
    said = (place / "told.txt").read_text(errors="replace")
    assert done.returncode == 0, said[-4000:]
    assert "merge request" in said
    assert len(re.findall(r"just built", said)) >= 1, said[-4000:]
    assert len(re.findall(r"^removed", said, re.MULTILINE)) >= 5, said[-4000:]
