"""Commits for the builder's tests: written down as tables, or made in real repositories."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from builder.entries import Entry, EntryType
from builder.key import Key, environment_key
from builder.trees import GitTree

if TYPE_CHECKING:
    from pathlib import Path

Files = Mapping[str, str | bytes]
LINK = "link:"  # a file whose text begins so is a symbolic link
EXECUTABLE = "exec:"  # and so an executable
SUBMODULE = "submodule:"  # and so a submodule's commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A commit written down as a table: what a `Tree` and a `Read` give."""

    files: Files

    def tree(self, directory: str) -> tuple[Entry, ...]:
        """List a directory as Git would, subtrees by a hash of their whole content."""
        prefix = f"{directory}/" if directory else ""
        found: dict[str, Entry] = {}
        for path in self.files:
            if path.startswith(prefix):
                name, separator, _ = path[len(prefix) :].partition("/")
                found[name] = self._subtree(prefix, name) if separator else self._blob(path, name)
        return tuple(found[name] for name in sorted(found))

    def read(self, path: str) -> bytes:
        """Return a file's bytes; of a link its target."""
        content = self._bytes(path)
        for mark in (LINK, EXECUTABLE):
            content = content.removeprefix(mark.encode())
        return content

    def _bytes(self, path: str) -> bytes:
        content = self.files[path]
        return content if isinstance(content, bytes) else content.encode()

    def _blob(self, path: str, name: str) -> Entry:
        content = self._bytes(path)
        if content.startswith(SUBMODULE.encode()):
            sha = content.decode().removeprefix(SUBMODULE)
            return Entry(name=name, mode="160000", type=EntryType.COMMIT, sha=sha)
        mode = "120000" if content.startswith(LINK.encode()) else "100644"
        mode = "100755" if content.startswith(EXECUTABLE.encode()) else mode
        read = self.read(path)
        sha = hashlib.sha1(b"blob %d\0" % len(read) + read, usedforsecurity=False).hexdigest()
        return Entry(name=name, mode=mode, type=EntryType.BLOB, sha=sha)

    def _subtree(self, prefix: str, name: str) -> Entry:
        whole = sorted((path, self._bytes(path)) for path in self.files if path.startswith(f"{prefix}{name}/"))
        sha = hashlib.sha1(repr(whole).encode(), usedforsecurity=False).hexdigest()
        return Entry(name=name, mode="040000", type=EntryType.TREE, sha=sha)


def key_of(files: Files) -> Key:
    """Compute the key of a commit written down as a table."""
    table = Table(files=files)
    return environment_key(table.tree, table.read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A real Git repository with a work tree."""

    path: Path

    def git(self, *arguments: str) -> str:
        """Run Git in it; what it printed."""
        identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a"}
        environment = os.environ | identity | {"GIT_COMMITTER_EMAIL": "a@example.com", "GIT_CONFIG_GLOBAL": os.devnull}
        command = ["git", "-C", str(self.path), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=60)
        return done.stdout.strip()

    def commit(self, files: Files, *, removed: tuple[str, ...] = ()) -> str:
        """Write files over what is there and commit; the SHA."""
        self.write(files)
        for path in removed:
            (self.path / path).unlink()
        self.git("add", "--all", "--force")
        for path, content in files.items():
            if isinstance(content, str) and content.startswith(EXECUTABLE):
                self.git("update-index", "--chmod=+x", path)
        self.git("commit", "--quiet", "--allow-empty", "--message", "A commit.")
        return self.git("rev-parse", "HEAD")

    def write(self, files: Files) -> None:
        """Write files over what is there, and no more."""
        for path, content in files.items():
            self._write(self.path / path, content if isinstance(content, bytes) else content.encode())

    def tree(self, sha: str) -> GitTree:
        """Open a commit."""
        return GitTree(self.path / ".git", sha)

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith(LINK.encode()):
            path.symlink_to(content.decode().removeprefix(LINK))
        else:
            path.write_bytes(content.removeprefix(EXECUTABLE.encode()))


def await_true(is_there: Callable[[], bool], what: str) -> None:
    """Look until something is so; the test fails after 20 s."""
    deadline = time.monotonic() + 20
    while not is_there():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within 20 s")
        time.sleep(0.02)
