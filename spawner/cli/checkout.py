"""A checkout on this machine: which project it is of, whether its work is pushed, and pushing what is not.

For: `spawner launch .`. Promises: the person's index, working tree and branches are never touched: uncommitted work is
committed through an index of its own, and pushed to a branch that nothing else uses; the same work makes the same
commit, so that launching twice is launching once; nothing is pushed unasked; what Git ignores stays here.
Must not know: the spawner; Git alone is asked.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from spawner.cli.exits import CommandFailed, ExitCode

BRANCH_PREFIX = "slipway"
_GIT_SECONDS = 60.0
_PUSH_SECONDS = 1800.0  # of large files, over a slow line
UNCOMMITTED_BYTES = 100_000_000  # a guess: forgotten data sets are larger, work is not
_SHORT = 7
_UNMERGED = frozenset({"DD", "AU", "UD", "UA", "DU", "AA", "UU"})  # git-status(1)
_MESSAGE = "Uncommitted work on {branch}, launched from a checkout."


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A remote by name and URL, as Git would push to it."""

    name: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What would be launched: a commit, and the files that it holds beside HEAD's (none: it is HEAD)."""

    sha: str
    uncommitted: tuple[str, ...] = ()


class Checkout:
    """One working tree."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("git") is None:
            raise CommandFailed("Git is not installed.", code=ExitCode.UNAVAILABLE, remedy="Install Git.")
        if not folder.is_dir():
            raise CommandFailed(f"{folder} is no folder.", code=ExitCode.USAGE)
        self._folder = folder
        top = self._maybe("rev-parse", "--show-toplevel")
        if not top:
            raise CommandFailed(
                f"{folder} is no Git checkout.",
                code=ExitCode.USAGE,
                remedy="Name a folder of one, or group/project, or an address in GitLab.",
            )
        self._folder = Path(top)
        head = self._maybe("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if not head:
            raise CommandFailed(f"{top} has no commit yet.", code=ExitCode.USAGE, remedy="Commit something first.")
        self.head = head
        self.branch = self._maybe("symbolic-ref", "--quiet", "--short", "HEAD")  # None: detached

    # ------------------------------------------------------------ looking

    def remotes(self) -> Iterator[Remote]:
        """Yield the remotes, the one that the branch follows first, then `origin`."""
        followed = self._maybe("config", "--get", f"branch.{self.branch}.remote") if self.branch else None
        names = (self._maybe("remote") or "").split()
        for name in sorted(names, key=lambda name: (name != followed, name != "origin", name)):
            url = self._maybe("remote", "get-url", "--push", name)
            if url:
                yield Remote(name=name, url=url)

    def branch_at(self, remote: Remote) -> str | None:
        """Return what the branch is called at a remote: as it follows it, else as it is called here."""
        if self.branch is None:
            return None
        followed = self._maybe("config", "--get", f"branch.{self.branch}.remote")
        merged = self._maybe("config", "--get", f"branch.{self.branch}.merge")
        return merged.removeprefix("refs/heads/") if merged and followed == remote.name else self.branch

    def work(self) -> Work:
        """Return HEAD, or a commit on top of it of everything that is neither committed nor ignored.

        Raises CommandFailed in the middle of a merge (half of a conflict is nobody's work yet), or for too much.
        """
        changed = list(_changed(self._git("status", "--porcelain=v1", "-z", "--untracked-files=all")))
        if not changed:
            return Work(sha=self.head)
        if any(code in _UNMERGED for code, _ in changed):
            raise CommandFailed(
                "There are conflicts in this checkout.", code=ExitCode.USAGE, remedy="Finish the merge, then launch."
            )
        size_bytes = sum(_size_bytes(self._folder / path) for _, path in changed)
        if size_bytes > UNCOMMITTED_BYTES:
            raise CommandFailed(
                f"{len(changed)} uncommitted files are {size_bytes // 1_000_000} MB, too much to be pushed in passing.",
                code=ExitCode.USAGE,
                remedy="Name what does not belong there in .gitignore, or commit and push it.",
            )
        sha = self._committed()
        return Work(sha=self.head) if sha is None else Work(sha=sha, uncommitted=tuple(path for _, path in changed))

    def _committed(self) -> str | None:
        """Commit the working tree through an index of its own; None where that changes nothing of HEAD."""
        with tempfile.TemporaryDirectory(prefix="slipway-index-") as place:
            index = Path(place, "index")
            own = Path(self._git("rev-parse", "--git-path", "index").strip())
            own = own if own.is_absolute() else self._folder / own
            if own.exists():  # what it knows of unchanged files saves reading them again
                shutil.copyfile(own, index)
            private = {"GIT_INDEX_FILE": str(index)}
            self._git("add", "--all", more=private)
            tree = self._git("write-tree", more=private).strip()
        if tree == self._git("rev-parse", f"{self.head}^{{tree}}").strip():
            return None
        when = self._git("show", "--no-patch", "--format=%cI", self.head).strip()  # the same work, the same commit
        dates = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        message = _MESSAGE.format(branch=self.branch or "no branch")
        return self._git("commit-tree", "-p", self.head, "-m", message, tree, more=dates).strip()

    # ------------------------------------------------------------ pushing

    def own_branch(self, username: str, work: Work) -> str:
        """Return the branch that work is pushed to: one that nothing else uses."""
        return f"{BRANCH_PREFIX}/{username}/{self.branch or 'detached'}/{work.sha[:_SHORT]}"

    def push(self, remote: Remote, work: Work, branch: str) -> None:
        """Push a commit to a branch of a remote; hooks run, as one of them uploads large files.

        Raises CommandFailed with what Git said.
        """
        self._git(
            "-c",
            "push.followTags=false",
            "push",
            "--quiet",
            "--recurse-submodules=no",
            remote.name,
            f"{work.sha}:refs/heads/{branch}",
            timeout_seconds=_PUSH_SECONDS,
        )

    # ------------------------------------------------------------ Git

    def _maybe(self, *arguments: str) -> str | None:
        done = self._run(arguments, {}, _GIT_SECONDS)
        return done.stdout.strip() if done.returncode == 0 else None

    def _git(
        self, *arguments: str, more: Mapping[str, str] | None = None, timeout_seconds: float = _GIT_SECONDS
    ) -> str:
        done = self._run(arguments, more or {}, timeout_seconds)
        if done.returncode != 0:
            command = next(word for word in arguments if not word.startswith("-") and "=" not in word)
            raise CommandFailed(f"git {command} failed: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _run(
        self, arguments: tuple[str, ...], more: Mapping[str, str], timeout_seconds: float
    ) -> "subprocess.CompletedProcess[str]":
        asks = sys.stdin.isatty()
        environment = {**os.environ, **more, "GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(
            ["git", *arguments],
            cwd=self._folder,
            env=environment if asks else {**environment, "GIT_TERMINAL_PROMPT": "0"},
            stdin=None if asks else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=timeout_seconds,
        )


def _size_bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # deleted, which is work too
        return 0


def _changed(status: str) -> Iterator[tuple[str, str]]:
    """Yield (code, path) of `git status -z`; a renamed file's former path follows its entry, and is passed over."""
    fields = iter(status.split("\0"))
    for field in fields:
        if field:
            code, path = field[:2], field[3:]
            if "R" in code or "C" in code:
                next(fields, None)
            yield code, path
