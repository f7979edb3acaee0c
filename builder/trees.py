"""Read a commit's directories and files straight from Git's object store.

One `git cat-file --batch` process per reader answers everything, so the same code serves a checkout and a bare,
blobless cache, and a 20,000-file commit costs no more than the directories asked for. It promises: nothing but
full object ids is ever sent to Git (no revision, path or option of foreign origin reaches a command line), every
answer is bounded in size and time, and the working tree is never looked at.

It must not know what the files mean.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from typing import TYPE_CHECKING, Self

from builder.entries import Entry, EntryType
from builder.errors import CommitNotFoundError, GitError, UsageError, capped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

SHA = re.compile(r"[0-9a-f]{40}")
OBJECT_LIMIT_BYTES = 64 * 1024 * 1024  # a guess: no control file comes near it
_INHERITED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "GIT_COMMON_DIR")


def checked_sha(sha: str) -> str:
    """Return the argument if it is a full lower-case SHA-1; UsageError otherwise."""
    if not SHA.fullmatch(sha):
        raise UsageError(f"“{capped(sha)}” is not a full commit SHA: 40 characters of 0-9 and a-f are needed.")
    return sha


def git_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build the environment in which Git asks nobody anything and looks at no other repository."""
    kept = {name: value for name, value in os.environ.items() if name not in _INHERITED}
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    return kept | quiet | dict(extra or {})


def find_git_dir(folder: Path) -> Path:
    """Find the Git directory of the checkout or bare repository at or above a folder; UsageError if there is none."""
    start = folder.resolve()
    for place in (start, *start.parents):
        marker = place / ".git"
        if marker.is_dir():
            return marker
        if marker.is_file():  # a worktree or submodule: "gitdir: <path>"
            target = marker.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
            return (place / target).resolve()
        if (place / "HEAD").is_file() and (place / "objects").is_dir():
            return place
    raise UsageError(f"{folder} is not inside a Git repository.")


def resolve_commit(git_dir: Path, revision: str, *, timeout_seconds: float = 30.0) -> str:
    """Resolve a branch, tag or SHA to a full commit SHA; CommitNotFoundError if there is none such, GitError."""
    command = ["git", f"--git-dir={git_dir}", "rev-parse", "--verify", "--quiet", "--end-of-options"]
    try:
        done = subprocess.run(
            [*command, f"{revision}^{{commit}}"],
            capture_output=True, text=True, check=False, timeout=timeout_seconds, env=git_environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise GitError(f"Git did not say within {timeout_seconds:.0f} s what “{capped(revision)}” is.") from error
    except OSError as error:
        raise GitError("Git is not installed, or not on PATH.") from error
    if done.returncode != 0:
        raise CommitNotFoundError(f"This repository has no commit “{capped(revision)}”. Is the clone deep enough?")
    return checked_sha(done.stdout.strip())


class GitTree:
    """The files of one commit. `tree` and `read` are what `builder.key.environment_key` asks for.

    `git_dir` is a `.git` directory or a bare repository, `sha` a full commit SHA, `environment` is added to
    Git's (where a blobless cache needs credentials to fetch what it lacks). Close it, or use it in a `with`.
    """

    def __init__(
        self, git_dir: Path, sha: str, *, environment: Mapping[str, str] | None = None, timeout_seconds: float = 30.0
    ) -> None:
        self.git_dir = git_dir
        self.sha = checked_sha(sha)
        self._environment = git_environment(environment)
        self._timeout_seconds = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = bytearray()
        self._directories: dict[str, tuple[Entry, ...]] = {}

    def tree(self, directory: str) -> tuple[Entry, ...]:
        """List a directory in Git's order; empty if the commit has none of that name. GitError, CommitNotFoundError."""
        if directory not in self._directories:
            self._directories[directory] = self._list(directory)
        return self._directories[directory]

    def read(self, path: str) -> bytes:
        """Return a file's committed bytes. KeyError if there is no such file, GitError if Git cannot say."""
        entry = self.entry(path)
        if entry is None or entry.type is not EntryType.BLOB:
            raise KeyError(path)
        found = self._object(entry.sha, "blob")
        if found is None:
            raise GitError(f"Git has lost the content of {capped(path)} ({entry.sha[:8]}).")
        return found

    def entry(self, path: str) -> Entry | None:
        """Look one path up; None if the commit does not have it."""
        directory, _, name = path.rpartition("/")
        return next((entry for entry in self.tree(directory) if entry.name == name), None)

    def root_sha(self) -> str:
        """Return the object id of the commit's root tree."""
        commit = self._object(self.sha, "commit")
        if commit is None:
            raise CommitNotFoundError(f"This repository has no commit {self.sha}. Is the clone deep enough?")
        return commit.split(b"\n", 1)[0].removeprefix(b"tree ").decode("ascii")

    def prefetch(self, paths: Iterable[str], *, remote: str = "origin") -> None:
        """Fetch the files' contents from a blobless cache's remote in one exchange; unknown paths are skipped."""
        entries = [self.entry(path) for path in paths]
        wanted = sorted({entry.sha for entry in entries if entry is not None and entry.type is EntryType.BLOB})
        if not wanted:
            return
        # The very command with which Git itself fetches what a partial clone lacks (promisor-remote.c).
        command = ["git", f"--git-dir={self.git_dir}", "-c", "fetch.negotiationAlgorithm=noop", "fetch", "--quiet"]
        command += ["--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--filter=blob:none", "--stdin"]
        try:
            done = subprocess.run(
                [*command, "--end-of-options", remote],
                input="\n".join(wanted) + "\n", text=True, capture_output=True, check=False,
                timeout=self._timeout_seconds, env=self._environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise GitError(f"Git fetched nothing within {self._timeout_seconds:.0f} s.") from error
        if done.returncode != 0:
            raise GitError(f"Git could not fetch {len(wanted)} files of {self.sha[:8]}: {capped(done.stderr)}")

    def close(self) -> None:
        """End the Git process; the reader may be used again and starts another."""
        process, self._process = self._process, None
        self._buffer.clear()
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _list(self, directory: str) -> tuple[Entry, ...]:
        if directory:
            entry = self.entry(directory)
            if entry is None or entry.type is not EntryType.TREE:
                return ()
            sha = entry.sha
        else:
            sha = self.root_sha()
        content = self._object(sha, "tree")
        if content is None:
            raise GitError(f"Git has lost the directory “{capped(directory)}” of {self.sha[:8]}.")
        return parse_tree(content)

    def _object(self, sha: str, kind: str) -> bytes | None:
        process = self._started()
        deadline = time.monotonic() + self._timeout_seconds
        try:
            if process.stdin is None:
                raise BrokenPipeError
            process.stdin.write(f"{sha}\n".encode("ascii"))
            process.stdin.flush()
            header = self._line(process, deadline).split()
            if header[-1:] == [b"missing"]:
                return None
            content = self._take(process, _bounded(int(header[2]), sha) + 1, deadline)[:-1]
        except (OSError, ValueError, IndexError) as error:
            self.close()
            raise GitError(f"Git gave no answer about {sha[:8]} in {self.git_dir.name}.") from error
        except GitError:
            self.close()
            raise
        if header[1].decode("ascii") != kind:
            raise CommitNotFoundError(f"{sha} is a {header[1].decode('ascii')}, not a {kind}.")
        return content

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    ["git", f"--git-dir={self.git_dir}", "cat-file", "--batch"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                    env=self._environment,
                )  # fmt: skip
            except OSError as error:
                raise GitError("Git is not installed, or not on PATH.") from error
        return self._process

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._fill(process, deadline)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _take(self, process: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
        while len(self._buffer) < count:
            self._fill(process, deadline)
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _fill(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        if process.stdout is None:
            raise BrokenPipeError
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise GitError(f"Git gave no answer within {self._timeout_seconds:.0f} s.")
        chunk = os.read(process.stdout.fileno(), 1 << 20)
        if not chunk:
            raise BrokenPipeError
        self._buffer += chunk


def _bounded(size_bytes: int, sha: str) -> int:
    if size_bytes > OBJECT_LIMIT_BYTES:
        raise GitError(f"Object {sha[:8]} is {size_bytes} bytes; at most {OBJECT_LIMIT_BYTES} are read.")
    return size_bytes


def parse_tree(content: bytes) -> tuple[Entry, ...]:
    """Parse a raw Git tree object, keeping its order (format: `mode SP name NUL sha1`, gitformat-pack, Git 2.39)."""
    entries: list[Entry] = []
    position = 0
    while position < len(content):
        space = content.index(b" ", position)
        null = content.index(b"\0", space)
        mode = content[position:space].decode("ascii").zfill(6)
        kind = {"04": EntryType.TREE, "16": EntryType.COMMIT}.get(mode[:2], EntryType.BLOB)
        name = content[space + 1 : null].decode("utf-8", "surrogateescape")
        entries.append(Entry(name=name, mode=mode, type=kind, sha=content[null + 1 : null + 21].hex()))
        position = null + 21
    return tuple(entries)
