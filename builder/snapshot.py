"""Walk a commit the way a build would, and remember every entry that mattered.

Pure over the caller's `Tree` and `Read`. `Snapshot` looks entries up (each directory listed once); `Inputs` collects
what the key counts: a file or folder, every symbolic link on the way to it, the `.gitattributes` above it, the commit
of a submodule. It promises never to leave the repository: a link or path that points outside leads nowhere.
It must not know recipes.
"""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from builder.attributes import Written, relevant
from builder.declared import Declaration, Rule, canonical_json, declared
from builder.entries import LINK_MODE, TREE_MODE, Entry, EntryType, Read, Tree

MOST_FILES_LISTED = 500  # of a folder, to see which attributes concern it; a guess
LONGEST_LINK_CHAIN = 40  # as Linux' own limit, path_resolution(7)

Memory = MutableMapping[tuple[Rule, str], Declaration | None]
"""What files declare, by rule and blob SHA: it never changes, so a caller may keep it as long as it likes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One thing that decides the build: its path, Git mode, and fingerprint.

    The fingerprint is a Git object id (40 hex), or the SHA-256 of what the file declares (64 hex).
    """

    path: str
    mode: str
    fingerprint: str


def normal(path: str, *, start: str = "") -> str | None:
    """Resolve `.` and `..` in a path relative to a directory; None if it leaves the repository."""
    parts: list[str] = []
    if path.startswith("/"):
        return None
    for part in PurePosixPath(start, path).parts:
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


class Snapshot:
    """A commit's entries, each directory listed at most once."""

    def __init__(self, tree: Tree, read: Read) -> None:
        self._tree = tree
        self._read = read
        self._directories: dict[str, dict[str, Entry]] = {}

    def entries(self, directory: str) -> dict[str, Entry]:
        """Return a directory's entries by name; empty if there is none such."""
        if directory not in self._directories:
            self._directories[directory] = {entry.name: entry for entry in self._tree(directory)}
        return self._directories[directory]

    def entry(self, path: str) -> Entry | None:
        """Look a path up without following links."""
        directory, _, name = path.rpartition("/")
        return self.entries(directory).get(name)

    def read(self, path: str) -> bytes:
        """Return a file's bytes as committed."""
        return self._read(path)

    def content(self, path: str) -> bytes | None:
        """Follow links to a file and return its bytes; None if there is no such file."""
        found = self.resolved(path)
        return self.read(found[0]) if found is not None and found[1].type is EntryType.BLOB else None

    def trail(self, path: str) -> tuple[tuple[str, Entry], ...]:
        """Follow a path: every link (and submodule) passed on the way, then the thing itself, last, if it exists."""
        passed: list[tuple[str, Entry]] = []
        waiting = path.split("/") if path else []
        here = ""
        links = 0
        while waiting:
            step = f"{here}/{waiting.pop(0)}".lstrip("/")
            entry = self.entry(step)
            if entry is None:
                return tuple(passed)
            if entry.mode == LINK_MODE:
                links += 1
                passed.append((step, entry))
                target = normal(self.read(step).decode("utf-8", "surrogateescape"), start=here)
                if target is None or links > LONGEST_LINK_CHAIN:
                    return tuple(passed)
                waiting = [*(target.split("/") if target else []), *waiting]
                here = ""
                continue
            if entry.type is EntryType.COMMIT or not waiting:
                return (*passed, (step, entry))
            here = step
        return tuple(passed)

    def resolved(self, path: str) -> tuple[str, Entry] | None:
        """Follow links to the file or folder itself; None if it is not in this commit."""
        trail = self.trail(path)
        return trail[-1] if trail and trail[-1][1].mode != LINK_MODE else None


class Inputs:
    """The inputs found so far, and why all of the repository counts, if it does.

    `is_reading_attributes`: a `.gitattributes` above inputs counts by the lines that concern them, else as it is.
    """

    def __init__(self, snapshot: Snapshot, memory: Memory) -> None:
        self.snapshot = snapshot
        self.is_reading_attributes = False
        self.everything: str | None = None
        self.contents: dict[str, bytes] = {}
        self._memory = memory
        self._found: dict[str, Input] = {}
        self._above: dict[str, Entry] = {}  # the .gitattributes above inputs, which may be no inputs themselves

    def add(self, path: str, rule: Rule | None = None) -> str | None:
        """Count a file (by what it declares, if a rule is given) or a whole folder; its real path, None if absent."""
        trail = self.snapshot.trail(path)
        for place, entry in trail:
            if entry.mode == LINK_MODE or entry.type is EntryType.COMMIT:
                self.put(place, entry, entry.sha)
        if not trail or trail[-1][1].mode == LINK_MODE:
            return None
        place, entry = trail[-1]
        if entry.type is EntryType.COMMIT:
            self.add(".gitmodules")
            return None
        self.put(place, entry, self._fingerprint(place, entry, rule))
        return place

    def put(self, path: str, entry: Entry, fingerprint: str) -> None:
        """Count an entry by a fingerprint, with the `.gitattributes` above it."""
        self._found[path] = Input(path=path, mode=entry.mode, fingerprint=fingerprint)
        directory = path
        while directory:
            directory = directory.rpartition("/")[0]
            attributes = f"{directory}/.gitattributes".lstrip("/")
            above = self.snapshot.entry(attributes)
            if above is not None and above.type is EntryType.BLOB:
                self._above[attributes] = above

    def count_everything(self, reason: str) -> None:
        """Let the whole repository count; the first reason is kept."""
        self.everything = self.everything or reason

    def collected(self) -> tuple[Input, ...]:
        """Return the inputs sorted by path; all of the root's entries if everything counts."""
        if self.everything is not None:
            root = self.snapshot.entries("").values()
            whole = [Input(path=entry.name, mode=entry.mode, fingerprint=entry.sha) for entry in root]
            return tuple(sorted(whole, key=lambda found: found.path))
        above = {path: self._attributes(path, entry) for path, entry in self._above.items() if path not in self._found}
        found = self._found | {path: one for path, one in above.items() if one is not None}
        return tuple(found[path] for path in sorted(found))

    def _below(self, one: Input) -> list[tuple[str, bool]]:
        """List an input's files; of a folder with very many, the folder itself, marked as one."""
        found: list[tuple[str, bool]] = []
        waiting = [(one.path, one.mode)]
        while waiting:
            if len(found) + len(waiting) > MOST_FILES_LISTED:
                return [(one.path, True)]
            path, mode = waiting.pop()
            if mode == TREE_MODE:
                waiting += [(f"{path}/{name}", entry.mode) for name, entry in self.snapshot.entries(path).items()]
            else:
                found.append((path, False))
        return found

    def _attributes(self, path: str, entry: Entry) -> Input | None:
        """Count a `.gitattributes` above inputs: as it is, or, where that is asked for, by what concerns them."""
        whole = Input(path=path, mode=entry.mode, fingerprint=entry.sha)
        if not self.is_reading_attributes or entry.mode == LINK_MODE:
            return whole
        folder = path.removesuffix(".gitattributes")
        concerned = [
            Written(path=place.removeprefix(folder), is_folder=is_folder)
            for one in self._found.values() if one.path.startswith(folder) for place, is_folder in self._below(one)
        ]  # fmt: skip
        try:
            lines = relevant(self.snapshot.read(path).decode("utf-8"), concerned)
        except ValueError:
            return whole
        digest = hashlib.sha256(canonical_json(["attributes", lines])).hexdigest()
        return Input(path=path, mode=entry.mode, fingerprint=digest) if lines else None

    def declaration(self, path: str, rule: Rule) -> Declaration | None:
        """Return what a file declares; None if it is not understood."""
        entry = self.snapshot.entry(path)
        if entry is None or entry.type is not EntryType.BLOB:
            return None
        remembered = (rule, entry.sha)
        if remembered not in self._memory:
            self._memory[remembered] = declared(rule, self.snapshot.read(path))
        return self._memory[remembered]

    def _fingerprint(self, path: str, entry: Entry, rule: Rule | None) -> str:
        found = self.declaration(path, rule) if rule is not None and entry.type is EntryType.BLOB else None
        if found is None:
            self.contents.pop(path, None)
            return entry.sha
        self.contents[path] = found.content
        return found.fingerprint
