"""Skips are loud. Covered: a skip with and without CI, the one exception. Left out: skips at collection."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_plain() -> None:
    pytest.skip("no Redis here")

@pytest.mark.gitlab_openapi
def test_excepted() -> None:
    pytest.skip("no document here")
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"CI": "true"}, "1 failed, 1 skipped"), ({}, "2 skipped")],
    ids=["in CI", "at a desk"],
)
def test_skip_fails_in_ci(tmp_path: Path, environment: dict[str, str], expected: str) -> None:
    """With CI=true a skipped test fails unless it compares with GitLab's document; elsewhere it is only told."""
    (tmp_path / "test_one.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text((Path(__file__).parents[1] / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gitlab_openapi: as in pyproject.toml\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    printed = subprocess.run(
        command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, timeout=60,
        check=False,
    ).stdout  # fmt: skip
    assert expected in printed
