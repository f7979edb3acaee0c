"""Write exactly a key's inputs into an empty folder, which is all that an engine ever sees.

This is what makes a wrong reuse impossible by construction: a file that the key does not count is not there to be
read, so overlooking one makes a build fail and never makes an image wrong. Files are written as `git archive` writes
them from the commit's *tree* (attributes applied, nothing that depends on the commit substituted); a file counted by
what it declares is written in its canonical form. Of a Dockerfile's build, the context holds what its sources reach
and the ignore rules leave, and the Dockerfile lies beside it, so that an engine applies no ignore rules of its own. It
must not know what is built from them.
"""

from __future__ import annotations

import posixpath
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import context
from builder.declared import LFS_POINTER
from builder.entries import SUBMODULE_MODE, EntryType
from builder.errors import BuildFailedError, capped
from builder.snapshot import Snapshot
from builder.trees import git_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.key import Key
    from builder.trees import GitTree

ARCHIVE_SECONDS = 600.0
_PATHS_PER_CALL = 500
_MOST_PATHS_NAMED = 2000  # above, Git writes out the whole tree, and what is not wanted is passed over


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedContext:
    """What an engine is given for a Dockerfile: the file, and the folder that is its whole context."""

    dockerfile: Path
    context: Path


def stage(source: GitTree, key: Key, folder: Path) -> None:
    """Fill an empty folder with the key's inputs. BuildFailedError names an input that cannot be written.

    Not for a Dockerfile's key: its context is what `stage_context` writes.
    """
    if key.context is not None:
        raise BuildFailedError("A Dockerfile's inputs are staged as a context, and not as they lie in the commit.")
    submodules = [found.path for found in key.inputs if found.mode == SUBMODULE_MODE]
    if submodules and key.everything is None:
        raise BuildFailedError(
            f"{submodules[0]} is a submodule, and the environment is declared inside it: copy that file into "
            "the repository itself."
        )
    if key.everything is not None:
        _extract(source, [], folder)
        return
    paths = [found.path for found in key.inputs]
    _extract_named(source, paths, folder)
    for path, content in key.contents.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    for path in paths:
        _refuse_pointer(folder / path, path, "keep files that declare an environment in Git")


def stage_context(source: GitTree, key: Key, folder: Path) -> StagedContext:
    """Fill an empty folder with a Dockerfile and its context. BuildFailedError names what cannot be written."""
    if key.context is None:
        raise BuildFailedError("This commit's environment is built from no Dockerfile.")
    below = folder / "context"
    below.mkdir()
    found = list(context.leaves(Snapshot(source.tree, source.read), key.context))
    for leaf in found:
        if leaf.entry is None:
            (below / leaf.path).mkdir(parents=True, exist_ok=True)
        elif leaf.entry.type is EntryType.COMMIT:
            raise BuildFailedError(
                f"The Dockerfile copies {capped(leaf.path)}, a submodule, and a build gets only what is in this "
                "repository: fetch it in the Dockerfile by its commit, or let an ignore file hide it."
            )
    paths = [leaf.path for leaf in found if leaf.entry is not None]
    folders = {leaf.path for leaf in found if leaf.entry is not None and leaf.entry.type is EntryType.TREE}
    if len(paths) > _MOST_PATHS_NAMED:
        _extract(source, [], below, is_wanted=_among(set(paths), folders))
    else:
        _extract_named(source, paths, below)
    for path in below.rglob("*"):
        _refuse_pointer(path, str(path.relative_to(below)), "let an ignore file hide it, or fetch it in the Dockerfile")
    content = key.contents.get(key.context.dockerfile)
    dockerfile = folder / "Dockerfile"
    dockerfile.write_bytes(source.read(key.context.dockerfile) if content is None else content)
    (below / key.context.folder).mkdir(parents=True, exist_ok=True)
    return StagedContext(dockerfile=dockerfile, context=below / key.context.folder)


def _among(paths: set[str], folders: set[str]) -> Callable[[str], bool]:
    def is_wanted(name: str) -> bool:
        steps = name.rstrip("/").split("/")
        return name in paths or any("/".join(steps[:length]) in folders for length in range(1, len(steps)))

    return is_wanted


def _extract_named(source: GitTree, paths: Sequence[str], folder: Path) -> None:
    for start in range(0, len(paths), _PATHS_PER_CALL):
        _extract(source, paths[start : start + _PATHS_PER_CALL], folder)


def _extract(
    source: GitTree, paths: Sequence[str], folder: Path, *, is_wanted: Callable[[str], bool] | None = None
) -> None:
    """Write paths of the commit (none named: all of it) as `git archive` does, those of them that are wanted."""
    literal = [f":(top,literal){path}" for path in paths]
    command = ["git", f"--git-dir={source.git_dir}", "archive", "--format=tar", source.root_sha(), "--", *literal]
    with tempfile.TemporaryFile() as archive, tempfile.TemporaryFile() as complaints:
        try:
            done = subprocess.run(
                command, stdout=archive, stderr=complaints, stdin=subprocess.DEVNULL, check=False,
                timeout=ARCHIVE_SECONDS, env=git_environment(),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise BuildFailedError(
                f"Git did not write out the files that declare the environment within {ARCHIVE_SECONDS:.0f} s."
            ) from error
        if done.returncode != 0:
            complaints.seek(0)
            said = capped(complaints.read().decode("utf-8", "replace"))
            raise BuildFailedError(f"Git could not write out the files that declare the environment: {said}")
        archive.seek(0)
        try:
            with tarfile.open(fileobj=archive, mode="r:") as members:
                chosen = [member for member in members if is_wanted is None or is_wanted(member.name)]
                for member in chosen:
                    _refuse_leaving(member)
                # Python 3.11.0 to 3.11.3 have no filters; `git archive` never writes below a symbolic link or outside.
                members.extraction_filter = getattr(tarfile, "data_filter", None)
                members.extractall(folder, members=chosen)  # noqa: S202 - our own archive of a Git tree, no link of which leaves it
        except (tarfile.TarError, OSError) as error:
            raise BuildFailedError(f"A file of this commit cannot be written out: {capped(str(error))}.") from error


def _refuse_leaving(member: tarfile.TarInfo) -> None:
    """Refuse a link that leaves the folder: an engine would read through it what no key counts."""
    if member.issym():
        target = posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname))
        if target.startswith(("/", "../")) or target == "..":
            raise BuildFailedError(
                f"{capped(member.name)} cannot be written out: it is a link to {capped(member.linkname)}, outside of "
                "the repository."
            )


def _refuse_pointer(path: Path, name: str, remedy: str) -> None:
    if path.is_symlink() or not path.is_file():
        return
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise BuildFailedError(f"{capped(name)} is kept in Git LFS, and only its pointer is here: {remedy}.")
