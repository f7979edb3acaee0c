"""Commits made without a clone, by Git's own plumbing.

For: what the REST API writes. Promises: all of a commit's files or none; a ref moves only from where it was seen; the
repository's own index, which it has not, is never made.
Must not know: users, projects, HTTP.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spawner.testing.gitlab.repository import ZERO_SHA, environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from spawner.testing.gitlab.repository import Repository

_LIMIT_SECONDS = 60.0
_ROLES = ("AUTHOR", "COMMITTER")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A commit to be: its files (None: removed), its message, who made it, and the commit it stands upon."""

    files: Mapping[str, bytes | None]
    message: str
    name: str
    email: str
    parent: str | None


def write(repository: Repository, ref: str, draft: Draft, *, expected: str | None) -> str | None:
    """Make the commit and move a ref from `expected` (None: it is new) to it; None if it was elsewhere."""
    with tempfile.TemporaryDirectory(prefix="index-", dir=repository.path) as folder:
        git = _Plumbing(path=repository.path, folder=folder, draft=draft)
        if draft.parent is not None:
            git("read-tree", draft.parent)
        for path, content in draft.files.items():
            git.put(path, content)
        parents = ["-p", draft.parent] if draft.parent is not None else []
        made = git("commit-tree", git("write-tree"), *parents, given=draft.message.encode())
        try:
            git("update-ref", ref, made, expected or ZERO_SHA)
        except subprocess.CalledProcessError:
            return None
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plumbing:
    """Git with an index of its own, which goes with the folder."""

    path: Path
    folder: str
    draft: Draft

    def __call__(self, *arguments: str, given: bytes = b"") -> str:
        person = {f"GIT_{role}_NAME": self.draft.name for role in _ROLES}
        person |= {f"GIT_{role}_EMAIL": self.draft.email for role in _ROLES}
        done = subprocess.run(
            ["git", "--git-dir", str(self.path), *arguments], input=given, capture_output=True, check=True,
            timeout=_LIMIT_SECONDS,
            env=environment() | person | {"GIT_INDEX_FILE": f"{self.folder}/index", "GIT_WORK_TREE": self.folder},
        )  # fmt: skip
        return done.stdout.decode().strip()

    def put(self, path: str, content: bytes | None) -> None:
        """Put a file into the index, or take it out."""
        if content is None:
            self("update-index", "--force-remove", "--", path)
            return
        blob = self("hash-object", "-w", "--stdin", given=content)
        self("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
