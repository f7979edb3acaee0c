"""Public histories, recorded: what a key and an oracle need to know of each commit, and nothing else.

For: `reuse`. `CHOICES` says which histories, and why; they were chosen, and committed, before any was measured. Of each
commit on the first-parent line of the newest snapshot at hand are kept: the listings of the folders that are named,
and the text of the files that declare an environment, each once, by its Git object id. No notebook, code or data is
kept. Promises: a folder or file that was not recorded is an error, never an empty answer; `declares` and the oracle's
files are read here by other means than the builder's (`packaging`, `tomllib`, BuildKit's parser in Go), so that a
wrong reuse would be seen.
Must not know: keys.

`python -m tests.bench.public NAME GIT_DIR` records a history anew.
"""

import json
import lzma
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import sha1
from pathlib import Path
from typing import Any

import dockerfile as buildkit

from builder.entries import Entry, EntryType, Kind

PLACE = Path(__file__).parent / "public"
FIXED = "slipway.toml"


class Way(StrEnum):
    """How a history declares its environment."""

    DOCKERFILE = "dockerfile"
    REQUIREMENTS = "requirements"
    POETRY = "poetry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One public history: where it is from, why it was chosen, and what of it declares an environment.

    `folders` are listed, with those in them but for the root, and `texts` kept. `dockerfiles` are looked for in this
    order; for one that is not where a Dockerfile is found by itself, the commit is read as if its slipway.toml named
    it. Only the `newest` commits count.
    """

    name: str
    origin: str
    licence: str
    kind: Kind
    way: Way
    reason: str
    folders: tuple[str, ...]
    texts: tuple[str, ...]
    dockerfiles: tuple[str, ...] = ()
    newest: int = 1000


CHOICES = (
    Choice(
        name="renku",
        origin="github.com/lpego/mzb-suite",
        licence="BSD-3-Clause",
        kind=Kind.CONTAINER,
        way=Way.DOCKERFILE,
        reason=(
            "Made from Renku's Python template, whose Dockerfile it keeps for 232 of 234 commits and edits in 22; "
            "environment.yml changes in 36; towards the end the project's own code is copied into the image."
        ),
        folders=("", "mzbsuite"),
        texts=(
            "Dockerfile",
            ".dockerignore",
            "environment.yml",
            "requirements.txt",
            "pyproject.toml",
            "setup.py",
            ".gitattributes",
        ),
        dockerfiles=("Dockerfile",),
    ),
    Choice(
        name="requirements",
        origin="github.com/GLAM-Workbench/trove-newspapers",
        licence="MIT",
        kind=Kind.ENVIRONMENT,
        way=Way.REQUIREMENTS,
        reason=(
            "Notebooks for readers, launched from Binder for years; requirements.txt is compiled from a shorter file, "
            "with comments that change on their own; environment.yml before that, and a runtime.txt."
        ),
        folders=("", "binder"),
        texts=(
            "requirements.txt",
            "requirements-dev.txt",
            "requirements-unpinned.txt",
            "runtime.txt",
            "pyproject.toml",
            "environment.yml",
            "postBuild",
        ),
    ),
    Choice(
        name="dockerfile",
        origin="github.com/ageron/handson-ml2",
        licence="Apache-2.0",
        kind=Kind.CONTAINER,
        way=Way.DOCKERFILE,
        reason=(
            "The notebooks of a widely read book: 641 commits, most of them of notebooks, and a Dockerfile that is "
            "edited, moves into a folder, and copies environment.yml and a shell script."
        ),
        folders=("", "docker"),
        texts=(
            "Dockerfile",
            "docker/Dockerfile",
            ".dockerignore",
            "environment.yml",
            "requirements.txt",
            "requirements_macosx.txt",
            "apt.txt",
        ),
        dockerfiles=("Dockerfile", "docker/Dockerfile"),
    ),
    Choice(
        name="version bumps",
        origin="github.com/Deltares/HYDROLIB-core",
        licence="MIT",
        kind=Kind.ENVIRONMENT,
        way=Way.POETRY,
        reason=(
            "A library with notebooks whose pyproject.toml is edited in 104 of 491 commits, many of them raising its "
            "version or setting a tool, with a poetry.lock that follows. The newest 100 commits, for the locks' size."
        ),
        folders=("", "binder"),
        texts=("pyproject.toml", "poetry.lock", "setup.cfg", "setup.py"),
        newest=100,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A history as recorded: listings and texts by object id, commits oldest first with the listing of each folder."""

    choice: Choice
    trees: Mapping[str, Sequence[Sequence[str]]]
    texts: Mapping[str, str]
    commits: Sequence[tuple[str, Mapping[str, str]]]

    def at(self, number: int) -> "RecordedCommit":
        """Open a commit."""
        return RecordedCommit(history=self, folders=self.commits[number][1])


@dataclass(frozen=True, kw_only=True)
class RecordedCommit:
    """What is known of one commit: `tree` and `read`, as the builder asks; what it declares, read otherwise."""

    history: Recorded
    folders: Mapping[str, str]

    def tree(self, directory: str) -> tuple[Entry, ...]:
        """List a folder. LookupError if it is there and was not recorded."""
        listing = self._listings.get(directory)
        if listing is not None:
            return tuple(listing.values())
        above, _, name = directory.rpartition("/")
        if any(entry.name == name and entry.type is EntryType.TREE for entry in self.tree(above)):
            raise LookupError(f"{directory} of {self.history.choice.name} was not recorded")
        return ()

    def read(self, path: str) -> bytes:
        """Return a file's text. LookupError if it was not recorded."""
        found = self._entry(path)
        if found is None:
            raise LookupError(f"{path} of {self.history.choice.name} is not there")
        if path == FIXED:
            return self._settings
        return self.history.texts[found.sha].encode("utf-8", "surrogateescape")

    def files(self) -> tuple[tuple[str, str], ...]:
        """Return the files that declare the environment, byte for byte: what the oracle compares."""
        choice = self.history.choice
        paths = choice.texts if self._dockerfile is None else (self._dockerfile, *_copied(self._text(self._dockerfile)))
        found = (
            (path, self._entry(path)) for path in sorted({*paths, *([".dockerignore"] if choice.dockerfiles else [])})
        )
        is_whole = (
            "." in paths or "" in paths or (choice.dockerfiles and self._dockerfile is None and self._is_installed)
        )
        whole = [(".", self.folders[""])] if is_whole else []
        return (*whole, *((path, entry.sha) for path, entry in found if entry is not None))

    def declares(self) -> str:
        """Return what is declared, in words of its own."""
        if self._dockerfile is not None:
            said = [
                (one.cmd.upper(), one.flags, one.value, [(each.name, each.content) for each in one.heredocs])
                for one in buildkit.parse_string(self._text(self._dockerfile))
            ]
            return repr((said, [found for found in self.files() if found[0] != self._dockerfile]))
        return repr([_DECLARED.get(path, str)(self._text(path)) if path != "." else sha for path, sha in self.files()])

    @cached_property
    def _listings(self) -> Mapping[str, Mapping[str, Entry]]:
        found = {
            folder: {
                name: Entry(name=name, mode=mode, type=EntryType(kind), sha=sha)
                for mode, kind, sha, name in self.history.trees[tree]
            }
            for folder, tree in self.folders.items()
        }
        if self._settings:
            sha = sha1(self._settings, usedforsecurity=False).hexdigest()
            found[""][FIXED] = Entry(name=FIXED, mode="100644", type=EntryType.BLOB, sha=sha)
        return found

    @cached_property
    def _settings(self) -> bytes:
        named = self._dockerfile
        return f'[image]\ndockerfile = "{named}"\n'.encode() if named is not None and "/" in named else b""

    @cached_property
    def _dockerfile(self) -> str | None:
        for path in self.history.choice.dockerfiles:
            folder, _, name = path.rpartition("/")
            if any(row[3] == name for row in self.history.trees.get(self.folders.get(folder, ""), ())):
                return path
        return None

    @property
    def _is_installed(self) -> bool:
        """Tell whether environment.yml installs the repository itself."""
        text = self._text("environment.yml") if self._entry("environment.yml") is not None else ""
        return bool(re.search(r"^\s*- (-e )?\.\s*$", text, re.MULTILINE))

    def _entry(self, path: str) -> Entry | None:
        folder, _, name = path.rpartition("/")
        return self._listings.get(folder, {}).get(name)

    def _text(self, path: str) -> str:
        return self.read(path).decode("utf-8", "surrogateescape")


def _copied(text: str) -> Iterator[str]:
    """Read the sources off a Dockerfile of these histories, which have no patterns and no variables in them."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = line.split()
        if words and words[0].upper() in {"COPY", "ADD"} and not any(word.startswith("--from") for word in words):
            yield from (word.strip("/") for word in words[1:-1] if not word.startswith("--"))


def _requirement_lines(text: str) -> str:
    return repr([line for line in (re.sub(r"(^|\s)#.*", "", one).strip() for one in text.splitlines()) if line])


def _poetry_tables(text: str) -> str:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return text
    poetry = document.get("tool", {}).get("poetry", {})
    kept = {name: poetry.get(name) for name in ("dependencies", "dev-dependencies", "group", "extras", "source")}
    return repr((kept, document.get("project", {}).get("dependencies"), document.get("build-system")))


def _poetry_lock(text: str) -> str:
    document = tomllib.loads(text)
    return repr((document.get("package"), document.get("metadata", {}).get("files"), document.get("extras")))


_DECLARED = {
    "requirements.txt": _requirement_lines,
    "requirements-dev.txt": _requirement_lines,
    "requirements-unpinned.txt": _requirement_lines,
    "pyproject.toml": _poetry_tables,
    "poetry.lock": _poetry_lock,
}


# ---------------------------------------------------------------- reading and recording


def public() -> Iterator[Recorded]:
    """Yield the histories, as they were recorded."""
    for choice in CHOICES:
        with lzma.open(_file(choice)) as packed:
            document = json.load(packed)
        yield Recorded(
            choice=choice,
            trees=document["trees"],
            texts=document["texts"],
            commits=[(commit, folders) for commit, folders in document["commits"]],
        )


def record(choice: Choice, git_dir: Path) -> None:
    """Record a history from a repository; the same repository gives the same file."""
    document: dict[str, Any] = {"origin": choice.origin, "licence": choice.licence, "trees": {}, "texts": {}}
    commits = _git(git_dir, "rev-list", "--first-parent", f"-{choice.newest}", "--reverse", "HEAD")
    document["commits"] = [[commit, _listed(choice, git_dir, commit, document)] for commit in commits.decode().split()]
    with lzma.open(_file(choice), "wb", preset=9 | lzma.PRESET_EXTREME) as packed:
        packed.write(json.dumps(document, separators=(",", ":"), sort_keys=True).encode("ascii"))


def _listed(choice: Choice, git_dir: Path, commit: str, document: dict[str, Any]) -> dict[str, str]:
    folders: dict[str, str] = {}
    waiting = list(choice.folders)
    while waiting:
        folder = waiting.pop()
        named = f"{commit}:{folder}" if folder else f"{commit}^{{tree}}"
        tree = _git(git_dir, "rev-parse", "--verify", "--quiet", named, is_optional=True).decode().strip()
        if not tree or _git(git_dir, "cat-file", "-t", tree).strip() != b"tree":
            continue
        folders[folder] = tree
        if tree not in document["trees"]:
            rows = _git(git_dir, "ls-tree", "-z", tree).decode("utf-8", "surrogateescape").split("\0")
            document["trees"][tree] = [[*one.split("\t")[0].split(), one.split("\t")[1]] for one in rows if one]
        waiting += [f"{folder}/{row[3]}" for row in document["trees"][tree] if folder and row[1] == "tree"]
        wanted = {path.rpartition("/")[2] for path in choice.texts if path.rpartition("/")[0] == folder}
        for _, _, sha, name in document["trees"][tree]:
            if name in wanted and sha not in document["texts"]:
                document["texts"][sha] = _git(git_dir, "cat-file", "blob", sha).decode("utf-8", "surrogateescape")
    return folders


def _file(choice: Choice) -> Path:
    return PLACE / f"{choice.name.replace(' ', '-')}.json.xz"


def _git(git_dir: Path, *arguments: str, is_optional: bool = False) -> bytes:
    command = ["git", f"--git-dir={git_dir}", *arguments]
    return subprocess.run(command, capture_output=True, check=not is_optional, timeout=60).stdout


if __name__ == "__main__":
    record(next(choice for choice in CHOICES if choice.name == sys.argv[1]), Path(sys.argv[2]))
