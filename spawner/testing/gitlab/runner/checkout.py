"""Fetches the commit of a job.

The job's token travels as an HTTP header from a private file that only the runner's own Git reads: it is in no
address, no argument and not in the repository that the job sees.

Promises: a script that needs no terminal and asks for nothing.
Must not know: how scripts are run.
"""

import base64
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from spawner.testing.gitlab.runner.job import Source

_USER = "gitlab-ci-token"


def git_environment(private: Path, source: Source, token: str, *, surroundings: Mapping[str, str]) -> dict[str, str]:
    """Write the private Git configuration (mode 0600) and return the environment for the runner's Git."""
    parts = urlsplit(source.url)
    credentials = base64.b64encode(f"{_USER}:{token}".encode()).decode()
    config = private / "git.config"
    with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(
            f'[http "{parts.scheme}://{parts.netloc}"]\n\textraHeader = Authorization: Basic {credentials}\n'
            "[init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n[gc]\n\tauto = 0\n"
        )
    return {
        **surroundings,
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }


def fetch_script(source: Source, folder: Path, *, depth: int) -> str:
    """Return a shell script that brings the commit into the empty folder; a depth of 0 means the whole history."""
    git = ["git", "-C", str(folder)]
    specs = [*source.refspecs] or [f"+{source.sha}:refs/pipelines/head"]
    commands = [
        ["git", "init", "--quiet", str(folder)],
        [*git, "remote", "add", "origin", source.url],
        [
            *git, "fetch", "--quiet", "--no-tags", "--prune", "--force",
            *([f"--depth={depth}"] if depth else []), "origin", *specs,
        ],
        [*git, "-c", "core.hooksPath=/dev/null", "checkout", "--quiet", "--force", "--detach", source.sha],
    ]  # fmt: skip
    return "set -e\n" + "\n".join(map(shlex.join, commands)) + "\n"
