"""The demo's sample projects.

Covered: histories that can be played, which of their commits share an environment, CI files that GitLab's own schema
accepts, and that all of them run the job that the spawner waits for. Left out: running them (the demo's check), the
template (tests/unit/templates).
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.builder.commits import key_of

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "spawner" / "testing" / "samples"
NAMES = ["requirements", "locked", "failing"]


def _commits(name: str) -> list[dict[str, bytes]]:
    """Play a sample's history: the files of each commit, oldest first."""
    history = json.loads((SAMPLES / name / "history.json").read_text())
    files: dict[str, bytes] = {}
    commits = []
    for commit in history["commits"]:
        folder = SAMPLES / name / commit["folder"]
        files |= {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        files = {path: content for path, content in files.items() if path not in commit["remove"]}
        commits.append(dict(files))
    return commits


@pytest.mark.parametrize(("name", "groups"), [("requirements", [1, 1, 1, 1, 2]), ("locked", [1, 1]), ("failing", [1])])
def test_samples_share_environments_as_their_readme_says(name: str, groups: list[int]) -> None:
    """Which commits of a sample declare the same environment is what the demo shows."""
    digests = [key_of(files).digest for files in _commits(name)]
    order = list(dict.fromkeys(digests))
    assert [order.index(digest) + 1 for digest in digests] == groups


@pytest.mark.parametrize("name", NAMES)
def test_every_commit_changes_something_and_holds_valid_notebooks(name: str) -> None:
    """No commit is empty, and every notebook is one."""
    commits = _commits(name)
    assert all(before != after for before, after in itertools.pairwise(commits))
    notebooks = {path: json.loads(content) for path, content in commits[-1].items() if path.endswith(".ipynb")}
    assert notebooks
    for notebook in notebooks.values():
        assert notebook["nbformat"] == 4
        assert all(cell["cell_type"] in {"code", "markdown"} for cell in notebook["cells"])


def _ci_files() -> dict[str, dict[str, Any]]:
    return {name: yaml.safe_load(_commits(name)[0][".gitlab-ci.yml"]) for name in NAMES}


def test_gitlabs_schema_accepts_every_ci_file(tmp_path: Path) -> None:
    """The samples' files are valid by GitLab's published schema."""
    paths = []
    for name, document in _ci_files().items():
        path = tmp_path / f"{name}.yml"
        path.write_text(yaml.safe_dump(document))
        paths.append(str(path))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.gitlab-ci", *paths]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_ci_file_has_the_one_job() -> None:
    """All of them define `image_build`, nothing global, and run the builder's environment engine."""
    for document in _ci_files().values():
        assert list(document) == ["image_build"]
        assert document["image_build"]["script"] == ["builder build --engine environment"]
        assert document["image_build"]["artifacts"]["reports"] == {"dotenv": "slipway.env"}
