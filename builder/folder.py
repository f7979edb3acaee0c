"""A folder seen as a commit: what `builder init` reads before there is one.

It promises the same shapes as `builder.trees`, so that a recipe is chosen as a build would choose it. Names that Git
never tracks are left out; what `.gitignore` says is not asked. It must not be used for keys that anybody compares.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from builder.entries import LINK_MODE, Entry, EntryType

if TYPE_CHECKING:
    from pathlib import Path

_NEVER = frozenset({".git", ".venv", "__pycache__", "node_modules"})


class Folder:
    """A folder's entries and bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def tree(self, directory: str) -> tuple[Entry, ...]:
        """List a directory, sorted by name; empty if there is none such."""
        place = self._path / directory
        if not place.is_dir():
            return ()
        return tuple(_entry(path) for path in sorted(place.iterdir()) if path.name not in _NEVER)

    def read(self, path: str) -> bytes:
        """Return a file's bytes; of a symbolic link its target."""
        place = self._path / path
        return str(place.readlink()).encode() if place.is_symlink() else place.read_bytes()


def _entry(path: Path) -> Entry:
    sha = hashlib.sha1(str(path).encode(), usedforsecurity=False).hexdigest()
    if path.is_symlink():
        return Entry(name=path.name, mode=LINK_MODE, type=EntryType.BLOB, sha=sha)
    if path.is_dir():
        return Entry(name=path.name, mode="040000", type=EntryType.TREE, sha=sha)
    mode = "100755" if path.stat().st_mode & 0o100 else "100644"
    return Entry(name=path.name, mode=mode, type=EntryType.BLOB, sha=sha)
