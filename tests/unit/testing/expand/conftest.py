"""A bare repository with a short history, and a way to expand a configuration at its head."""

import subprocess
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from spawner.testing.gitlab.expand import Expansion, JobSpec, Origin, expand


@dataclass(frozen=True, kw_only=True)
class History:
    """A bare repository and its commits, newest first."""

    bare: Path
    commits: tuple[str, ...]

    def expand(
        self,
        text: str,
        *,
        since: str | None = None,
        variables: Mapping[str, str] | None = None,
        origin: Origin | None = None,
    ) -> Expansion:
        """Expand a configuration, by default for a push to `main`."""
        told = {"CI_COMMIT_BRANCH": "main", "CI_PIPELINE_SOURCE": "push", "CI_COMMIT_REF_SLUG": "main"}
        return expand(
            yaml_bytes=textwrap.dedent(text).encode(),
            repository=self.bare,
            sha=self.commits[0],
            variables=told if variables is None else variables,
            changes_since=since,
            origin=origin,
        )

    def jobs(
        self, text: str, *, since: str | None = None, variables: Mapping[str, str] | None = None
    ) -> dict[str, JobSpec]:
        """Expand and return the jobs by name; errors are the test's failure."""
        found = self.expand(text, since=since, variables=variables)
        assert found.errors == ()
        return {job.name: job for job in found.jobs}


def make_bare(folder: Path, commits: tuple[Mapping[str, str], ...]) -> History:
    """Make a bare repository with one commit per mapping of paths to contents."""
    work, bare = folder / "work", folder / "bare.git"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(work), "-c", "user.name=n", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

    work.mkdir(parents=True)
    git("init", "-q", "-b", "main")
    for files in commits:
        for name, content in files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(textwrap.dedent(content))
        git("add", "-A")
        git("commit", "-q", "--allow-empty", "-m", "change")
    git("clone", "-q", "--bare", ".", str(bare))
    for setting in ("allowFilter", "allowAnySHA1InWant"):
        subprocess.run(["git", "-C", str(bare), "config", f"uploadpack.{setting}", "true"], check=True, timeout=20)
    return History(bare=bare, commits=tuple(git("log", "--format=%H").split()))


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Two commits: the second changes `notebooks/deep/a.ipynb` and nothing else."""
    return make_bare(
        tmp_path_factory.mktemp("history"),
        (
            {
                "requirements.txt": "numpy",
                "notebooks/deep/a.ipynb": "1",
                "ci/local.yml": "included: {script: [echo local]}\n",
            },
            {"notebooks/deep/a.ipynb": "2"},
        ),
    )
