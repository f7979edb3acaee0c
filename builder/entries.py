"""The words in which a commit's files are talked about: entries, kinds, and the two functions that read them.

Pure values. Whoever computes a key supplies a `Tree` and a `Read`; where they come from (a checkout, a bare
cache, a table in a test) is not known here. Paths are relative to the repository's root, with `/`, without a
leading or trailing slash; the root directory is the empty string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a build produces."""

    CONTAINER = "container"
    ENVIRONMENT = "environment"


class EntryType(StrEnum):
    """What Git keeps under a name (`git help ls-tree`); a symbolic link is a blob of mode 120000."""

    BLOB = "blob"
    TREE = "tree"
    COMMIT = "commit"


FILE_MODE = "100644"
EXECUTABLE_MODE = "100755"
LINK_MODE = "120000"
TREE_MODE = "040000"
SUBMODULE_MODE = "160000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name in one directory: its Git mode (six digits), type and object id (40 hex)."""

    name: str
    mode: str
    type: EntryType
    sha: str


Tree = Callable[[str], Sequence[Entry]]
"""The entries of a directory; empty where the directory does not exist."""

Read = Callable[[str], bytes]
"""The bytes of a file, as committed (of a symbolic link: its target)."""
