"""Reading commits from Git.

Covered: a checkout and a blobless bare fetch give the same key, byte for byte, with and without prefetching; tree
objects; refusals; the cost of a commit with 20,000 files. Left out: what the files mean (test_key).
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from builder.errors import CommitNotFoundError, GitError, UsageError
from builder.key import control_files, environment_key
from builder.trees import GitTree, checked_sha, find_git_dir, resolve_commit
from tests.unit.builder.commits import EXECUTABLE, LINK, Files, Repository

if TYPE_CHECKING:
    from pathlib import Path

    from builder.entries import Entry

RICH: Files = {
    ".gitattributes": "*.txt text\n",
    "requirements.txt": "# all\n-r more/base.txt\n-c limits.txt\n./libs/gauge\n",
    "more/base.txt": f"{LINK}../config/real.txt",
    "config/real.txt": "six\n",
    "limits.txt": "six<2\n",
    "libs/gauge/pyproject.toml": '[project]\nname = "gauge"\nversion = "1"\n',
    "libs/gauge/gauge.py": "x = 1\n",
    "start": f"{EXECUTABLE}#!/bin/sh\n",
    "slipway.toml": '[image]\npython = "3.11"\n',
    "ä ö.txt": "umlauts\n",
    "notes/a/b.md": "deep\n",
}


def _bare(repository: Repository, sha: str, folder: Path) -> Path:
    """Fetch one commit's trees, without files, as the spawner does."""
    origin = f"file://{repository.path}"
    subprocess.run(["git", "init", "--quiet", "--bare", str(folder)], check=True, timeout=30)
    for arguments in (
        ["config", "remote.origin.url", origin],
        ["config", "remote.origin.promisor", "true"],
        ["config", "remote.origin.partialclonefilter", "blob:none"],
        ["fetch", "--quiet", "--filter=blob:none", "--depth=1", "origin", sha],
    ):
        subprocess.run(["git", f"--git-dir={folder}", *arguments], check=True, timeout=30)
    return folder


def _blobs(folder: Path) -> int:
    """Count the files' contents that a repository holds, fetching none."""
    command = ["git", f"--git-dir={folder}", "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout.split().count("blob")


@pytest.mark.parametrize("is_prefetched", [True, False])
def test_checkout_and_blobless_cache_agree(repository: Repository, tmp_path: Path, *, is_prefetched: bool) -> None:
    """The key from a checkout and the key from a bare, blobless fetch are the same, inputs and contents included."""
    sha = repository.commit(RICH)
    bare = _bare(repository, sha, tmp_path / "bare.git")
    assert _blobs(bare) == 0
    with repository.tree(sha) as here, GitTree(bare, sha) as there:
        if is_prefetched:
            there.prefetch(control_files(there.tree, there.read))
            assert _blobs(bare) == 4  # .gitattributes, requirements.txt, slipway.toml, start
        mine, theirs = environment_key(here.tree, here.read), environment_key(there.tree, there.read)
    assert mine == theirs
    assert mine.contents == theirs.contents
    assert [found.path for found in mine.inputs] == [
        ".gitattributes", "config/real.txt", "libs/gauge", "limits.txt", "more/base.txt", "requirements.txt", "start",
    ]  # fmt: skip


def test_entries_are_what_git_lists(repository: Repository) -> None:
    """Names, modes, types and ids are those of `git ls-tree`, odd names included."""
    sha = repository.commit(RICH)
    listed = repository.git("-c", "core.quotePath=false", "ls-tree", sha).splitlines()
    with repository.tree(sha) as tree:
        mine = [f"{entry.mode} {entry.type} {entry.sha}\t{entry.name}" for entry in tree.tree("")]
        assert tree.tree("no/such") == ()
        assert tree.tree("requirements.txt") == ()
        with pytest.raises(KeyError):
            tree.read("libs")
    assert mine == listed


def test_the_work_tree_is_never_read(repository: Repository) -> None:
    """What lies in the work tree uncommitted does not count."""
    sha = repository.commit({"requirements.txt": "six\n"})
    (repository.path / "requirements.txt").write_text("numpy\n")
    with repository.tree(sha) as tree:
        assert tree.read("requirements.txt") == b"six\n"


def test_a_replaced_object_is_read_as_it_was(repository: Repository) -> None:
    """A `refs/replace` of the repository cannot make a commit's key that of another."""
    first = repository.commit({"requirements.txt": "six\n"})
    second = repository.commit({"requirements.txt": "attrs\n"})
    repository.git("replace", first, second)
    with repository.tree(first) as tree:
        assert tree.read("requirements.txt") == b"six\n"


@pytest.mark.parametrize("sha", ["", "HEAD", "main", "--help", "A" * 40, "1" * 39, "1" * 41, f"{'1' * 40}\n"])
def test_only_full_shas_are_taken(sha: str) -> None:
    """Nothing but 40 lower-case hexadecimal characters names a commit."""
    with pytest.raises(UsageError):
        checked_sha(sha)


def test_a_commit_that_is_not_there_is_not_found(repository: Repository) -> None:
    """An unknown commit, and an object that is no commit, are "not found"; a later question still works."""
    sha = repository.commit({"requirements.txt": "six\n"})
    blob = repository.git("rev-parse", f"{sha}:requirements.txt")
    for wrong in ("1" * 40, blob):
        with repository.tree(wrong) as tree, pytest.raises(CommitNotFoundError):
            tree.tree("")
    with pytest.raises(CommitNotFoundError):
        resolve_commit(repository.path / ".git", "--output=/tmp/x")


def test_a_cache_whose_remote_is_gone_is_an_error_of_git(repository: Repository, tmp_path: Path) -> None:
    """A file that a blobless cache lacks and cannot fetch is a GitError, for one file and for many."""
    sha = repository.commit({"requirements.txt": "six\n"})
    bare = _bare(repository, sha, tmp_path / "bare.git")
    repository.path.rename(tmp_path / "gone")
    with GitTree(bare, sha) as tree:
        with pytest.raises(GitError):
            tree.read("requirements.txt")
        with pytest.raises(GitError):
            tree.prefetch(["requirements.txt"])
        assert [entry.name for entry in tree.tree("")] == ["requirements.txt"]


def test_the_git_directory_is_found_from_below(repository: Repository, tmp_path: Path) -> None:
    """A folder inside a checkout, a worktree and a bare repository lead to their Git directory."""
    repository.commit({"a/b.txt": "x"})
    repository.git("worktree", "add", "--quiet", str(tmp_path / "other"))
    assert find_git_dir(repository.path / "a") == repository.path / ".git"
    assert find_git_dir(tmp_path / "other") == repository.path / ".git" / "worktrees" / "other"
    with pytest.raises(UsageError):
        find_git_dir(tmp_path)


class _Reading:
    """A tree, and what was asked of it."""

    def __init__(self, tree: GitTree) -> None:
        self._tree = tree
        self.folders: set[str] = set()
        self.files: set[str] = set()

    def tree(self, path: str) -> tuple[Entry, ...]:
        self.folders.add(path)
        return self._tree.tree(path)

    def read(self, path: str) -> bytes:
        self.files.add(path)
        return self._tree.read(path)


def test_a_large_commit_costs_its_root_only(repository: Repository) -> None:
    """The key of a commit with 20,000 files reads its root and the one file that declares something."""
    repository.git("commit", "--quiet", "--allow-empty", "--message", "Empty.")
    stream = "".join(f"100644 blob {'0' * 40}\tdata/{n % 100}/f{n}\n" for n in range(20_000))
    empty = subprocess.run(
        ["git", "-C", str(repository.path), "hash-object", "-w", "--stdin"], input="", text=True, capture_output=True,
        check=True, timeout=30,
    ).stdout.strip()  # fmt: skip
    subprocess.run(
        ["git", "-C", str(repository.path), "update-index", "--index-info"],
        input=stream.replace("0" * 40, empty), text=True, check=True, timeout=60,
    )  # fmt: skip
    (repository.path / "requirements.txt").write_text("six\n")
    repository.git("add", "requirements.txt")
    repository.git("commit", "--quiet", "--message", "Many.")
    sha = repository.git("rev-parse", "HEAD")
    with repository.tree(sha) as tree:
        read = _Reading(tree)
        found = environment_key(read.tree, read.read)
    assert [one.path for one in found.inputs] == ["requirements.txt"]
    assert (read.folders, read.files) == ({""}, {"requirements.txt"})


def test_a_git_that_says_nothing_is_an_error_of_git(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Git that hangs, and one that is not there, end in a sentence within their time."""
    repository.commit({"a": "b"})
    git_dir = find_git_dir(repository.path)
    hanging = tmp_path / "bin"
    hanging.mkdir()
    (hanging / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (hanging / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{hanging}:/usr/bin:/bin")
    with pytest.raises(GitError, match="did not say within"):
        resolve_commit(git_dir, "HEAD", timeout_seconds=0.2)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="not installed"):
        resolve_commit(git_dir, "HEAD")
