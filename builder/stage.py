"""Write exactly a key's inputs into an empty folder, which is all that an engine ever sees.

This is what makes a wrong reuse impossible by construction: a file that the key does not count is not there to be
read, so overlooking one makes a build fail and never makes an image wrong. Files are written as `git archive` writes
them from the commit's *tree* (attributes applied, nothing that depends on the commit substituted); a file counted by
what it declares is written in its canonical form. It must not know what is built from them.
"""

from __future__ import annotations

import posixpath
import subprocess
import tarfile
import tempfile
from typing import TYPE_CHECKING

from builder.declared import LFS_POINTER
from builder.entries import SUBMODULE_MODE
from builder.errors import BuildFailedError, capped
from builder.trees import git_environment

if TYPE_CHECKING:
    from pathlib import Path

    from builder.key import Key
    from builder.trees import GitTree

ARCHIVE_SECONDS = 600.0
_PATHS_PER_CALL = 500


def stage(source: GitTree, key: Key, folder: Path) -> None:
    """Fill an empty folder with the key's inputs. BuildFailedError names an input that cannot be written."""
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
    for start in range(0, len(paths), _PATHS_PER_CALL):
        _extract(source, paths[start : start + _PATHS_PER_CALL], folder)
    for path, content in key.contents.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    for path in paths:
        _refuse_pointer(folder / path, path)


def _extract(source: GitTree, paths: list[str], folder: Path) -> None:
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
                for member in members:
                    _refuse_leaving(member)
                # Python 3.11.0 to 3.11.3 have no filters; `git archive` never writes below a symbolic link or outside.
                members.extraction_filter = getattr(tarfile, "data_filter", None)
                members.extractall(folder)  # noqa: S202 - our own archive of a Git tree, no link of which leaves it
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


def _refuse_pointer(path: Path, name: str) -> None:
    if not path.is_file() or path.is_symlink():
        return
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise BuildFailedError(f"{capped(name)} is kept in Git LFS; keep files that declare an environment in Git.")
