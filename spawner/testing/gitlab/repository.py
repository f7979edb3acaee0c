"""Bare Git repositories: what the REST API and CI read from them, by calling `git`.

Promises: reads never change a repository; every call has a time limit; an unknown name is None, never an exception.
Must not know: users, projects, HTTP.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ZERO_SHA = "0" * 40
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_LIMIT_SECONDS = 60.0
_FIELDS = "%H%x00%P%x00%an%x00%ae%x00%aI%x00%cn%x00%ce%x00%cI%x00%B%x1e"

# A push is refused as GitLab refuses it. STAND_IN_REFUSED holds refs that this person may not touch,
# STAND_IN_PROTECTED refs that nobody rewrites.
_PRE_RECEIVE = """#!/bin/sh
zero=0000000000000000000000000000000000000000
while read -r old new ref; do
  case " $STAND_IN_REFUSED " in
    *" $ref "*) echo "GitLab: You are not allowed to push code to protected branches on this project." >&2; exit 1 ;;
  esac
  case " $STAND_IN_PROTECTED " in
    *" $ref "*)
      if [ "$new" = "$zero" ]; then
        echo "GitLab: You can only delete protected branches using the web interface." >&2; exit 1
      fi
      if [ "$old" != "$zero" ] && ! git merge-base --is-ancestor "$old" "$new"; then
        echo "GitLab: You are not allowed to force push code to a protected branch on this project." >&2; exit 1
      fi ;;
  esac
done
"""

# What Git took of a push, told by Git itself: of two pushes at once each learns its own.
_POST_RECEIVE = """#!/bin/sh
[ -z "$STAND_IN_TAKEN" ] || cat > "$STAND_IN_TAKEN"
"""

_CONFIG = {
    "http.receivepack": "true",
    "receive.advertisePushOptions": "true",
    "receive.denyDeleteCurrent": "refuse",
    "uploadpack.allowFilter": "true",
    "uploadpack.allowAnySHA1InWant": "true",
    "transfer.hideRefs": "refs/keep-around",
    "gc.auto": "0",
    "receive.autogc": "false",
}


def environment() -> dict[str, str]:
    """Return the environment for a git process: no person's or system's configuration, no prompt."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit; times are ISO-8601 with the author's offset."""

    id: str
    parents: tuple[str, ...]
    author_name: str
    author_email: str
    authored: str
    committer_name: str
    committer_email: str
    committed: str
    message: str

    @property
    def title(self) -> str:
        """The first line of the message."""
        return self.message.split("\n", 1)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of a tree."""

    mode: str
    type: str
    id: str
    path: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Repository:
    """One bare repository at `path`."""

    path: Path

    def create(self, *, default_branch: str) -> None:
        """Make an empty repository; making it twice is no error."""
        self._run("init", "--quiet", "--bare", f"--initial-branch={default_branch}", str(self.path))
        for key, value in _CONFIG.items():
            self._run("-C", str(self.path), "config", key, value)
        self.put_hooks()

    def put_hooks(self) -> None:
        """Put Git's hooks in place; those that are there stay."""
        hooks = self.path / "hooks"
        hooks.mkdir(exist_ok=True)
        for name, script in (("pre-receive", _PRE_RECEIVE), ("post-receive", _POST_RECEIVE)):
            if not (hooks / name).exists():
                partial = hooks / f"{name}.{secrets.token_hex(4)}"
                partial.write_text(script)
                partial.chmod(0o755)
                partial.rename(hooks / name)

    def refs(self) -> dict[str, str]:
        """Return every ref and the object it names, hidden ones left out."""
        lines = self._git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags") or b""
        return dict(line.split(" ", 1) for line in lines.decode().splitlines())

    def head(self, branch: str) -> str | None:
        """Return the commit of a branch, or None."""
        return self.resolve(f"refs/heads/{branch}")

    def resolve(self, name: str) -> str | None:
        """Return the full SHA of the commit that a branch, else a tag, else a SHA (full or short) names, or None."""
        candidates = [name] if name.startswith("refs/") else [f"refs/heads/{name}", f"refs/tags/{name}", name]
        for candidate in candidates:
            found = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", candidate + "^{commit}")
            if found is not None:
                return found.decode().strip()
        return None

    def commit(self, sha: str) -> Commit | None:
        """Return a commit by its full SHA, or None."""
        found = self.log(sha, limit=1)
        return found[0] if found else None

    def log(
        self, start: str, *, limit: int, skip: int = 0, options: Sequence[str] = (), path: str = ""
    ) -> list[Commit]:
        """Return commits reachable from `start`, newest first."""
        paths = ["--", path] if path else []
        out = self._git("log", f"--format={_FIELDS}", f"-n{limit}", f"--skip={skip}", *options, start, *paths)
        return [_commit(chunk) for chunk in (out or b"").decode(errors="replace").split("\x1e") if chunk.strip()]

    def count(self, start: str, *, options: Sequence[str] = (), path: str = "") -> int:
        """Return how many commits `log` would give without a limit."""
        out = self._git("rev-list", "--count", *options, start, *(["--", path] if path else []))
        return int(out or b"0")

    def tree(self, sha: str, path: str, *, recursive: bool) -> list[Entry] | None:
        """Return the rows below `path`, folders first as GitLab sorts them, or None when there is no such folder."""
        where = sha + ":" + path.strip("/")
        if (self._git("cat-file", "-t", where) or b"").strip() != b"tree":
            return None
        out = self._git("ls-tree", "-z", *(["-r", "-t"] if recursive else []), where) or b""
        prefix = path.strip("/") + "/" if path.strip("/") else ""
        rows = [_entry(line, prefix) for line in out.decode(errors="surrogateescape").split("\0") if line]
        return sorted(rows, key=lambda row: row.type == "blob") if not recursive else rows

    def entry(self, sha: str, path: str) -> Entry | None:
        """Return one file's row, or None."""
        out = self._git("ls-tree", "-z", sha, "--", path)
        rows = [_entry(line, "") for line in (out or b"").decode(errors="surrogateescape").split("\0") if line]
        return next((row for row in rows if row.path == path), None)

    def blob(self, sha: str, path: str) -> bytes | None:
        """Return the bytes of a file at a commit, or None."""
        return self._git("cat-file", "blob", f"{sha}:{path}")

    def changed(self, before: str, after: str) -> list[tuple[str, str]]:
        """Return (letter, path) of what differs between two commits: A added, M modified, D deleted."""
        base = before if before != ZERO_SHA else _EMPTY_TREE
        out = self._git("diff-tree", "-r", "-z", "--name-status", "--no-renames", base, after) or b""
        parts = out.decode(errors="surrogateescape").split("\0")
        return [(letter[:1], path) for letter, path in zip(parts[0::2], parts[1::2], strict=False)]

    def line_counts(self, commit: Commit) -> dict[str, int]:
        """Return how many lines a commit added and deleted."""
        base = commit.parents[0] if commit.parents else _EMPTY_TREE
        out = self._git("diff-tree", "-r", "--numstat", base, commit.id) or b""
        rows = [line.split("\t", 2) for line in out.decode(errors="replace").splitlines()]
        added = sum(int(row[0]) for row in rows if row[0].isdigit())
        deleted = sum(int(row[1]) for row in rows if row[1].isdigit())
        return {"additions": added, "deletions": deleted, "total": added + deleted}

    def containing(self, sha: str, kind: str) -> list[str]:
        """Return the branches (`heads`) or `tags` that a commit is reachable from."""
        out = self._git("for-each-ref", "--format=%(refname:strip=2)", f"--contains={sha}", f"refs/{kind}") or b""
        return out.decode().splitlines()

    def tag_object(self, name: str) -> tuple[str, str]:
        """Return the object a tag ref names and its message (empty for a light tag)."""
        out = (
            self._git("for-each-ref", "--format=%(objectname)%00%(objecttype)%00%(contents)", f"refs/tags/{name}")
            or b""
        )
        target, kind, message = (out.decode(errors="replace").rstrip("\n") + "\0\0").split("\0")[:3]
        return target, message if kind == "tag" else ""

    def update(self, ref: str, sha: str) -> bool:
        """Point a ref at an object; report whether Git agreed."""
        arguments = ["update-ref", "-d", ref] if sha == ZERO_SHA else ["update-ref", ref, sha]
        return self._git(*arguments) is not None

    def take_over(self, other: Repository, sha: str, *, ref: str) -> None:
        """Bring a commit of another repository (or of this one) here, under a ref."""
        if other.path != self.path:
            self._git("fetch", "--quiet", "--no-tags", str(other.path), sha)
        self.update(ref, sha)

    def copy_to(self, other: Repository) -> None:
        """Make another repository of this one's branches and tags."""
        specs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        other._git("fetch", "--quiet", str(self.path), *specs)

    def merge_base(self, one: str, other: str) -> str | None:
        """Return the nearest common ancestor of two commits, or None."""
        found = self._git("merge-base", one, other)
        return found.decode().strip() if found else None

    def merged(self, base: str, head: str, *, message: str) -> str | None:
        """Return a new commit that merges `head` into `base`, or None where they conflict; no ref is moved."""
        tree = self._git("merge-tree", "--write-tree", base, head)
        if tree is None:
            return None
        person = ("-c", "user.name=GitLab", "-c", "user.email=gitlab@example.com")
        tree_sha = tree.decode().splitlines()[0]
        made = self._git(*person, "commit-tree", tree_sha, "-p", base, "-p", head, "-m", message)
        return made.decode().strip() if made else None

    def is_between(self, sha: str, *, base: str, head: str) -> bool:
        """Tell whether a commit is one of those that `head` has and `base` has not."""
        found = self._git("rev-list", f"{base}..{head}")
        return sha in (found or b"").decode().split()

    def point_head(self, branch: str) -> None:
        """Make a branch the default one."""
        self._git("symbolic-ref", "HEAD", f"refs/heads/{branch}")

    def archive(self, sha: str, *, archive_format: str, prefix: str, path: str = "") -> bytes:
        """Return an archive (`tar`, `tar.gz`, `zip`) of a commit."""
        paths = ["--", path] if path else []
        return self._git("archive", f"--format={archive_format}", f"--prefix={prefix}/", sha, *paths) or b""

    def size_bytes(self) -> int:
        """Return the bytes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def _git(self, *arguments: str) -> bytes | None:
        command = ["git", "--git-dir", str(self.path), *arguments]
        done = subprocess.run(command, capture_output=True, check=False, timeout=_LIMIT_SECONDS, env=environment())
        return done.stdout if done.returncode == 0 else None

    @staticmethod
    def _run(*arguments: str) -> None:
        subprocess.run(["git", *arguments], capture_output=True, check=True, timeout=_LIMIT_SECONDS, env=environment())


def push_environment(*, refused: Sequence[str], protected: Sequence[str], taken: Path) -> Mapping[str, str]:
    """Return what the hooks need to know of one push; what Git took is in the file `taken` when it ends."""
    return {
        "STAND_IN_REFUSED": " ".join(refused),
        "STAND_IN_PROTECTED": " ".join(protected),
        "STAND_IN_TAKEN": str(taken),
    }


def taken_changes(taken: Path) -> list[tuple[str, str, str]]:
    """Return (ref, before, after) of what Git took of a push, and remove the file that told it."""
    if not taken.exists():
        return []
    rows = [line.split(" ", 2) for line in taken.read_text().splitlines()]
    taken.unlink()
    return [(ref, before, after) for before, after, ref in rows]


def _commit(chunk: str) -> Commit:
    sha, parents, author, author_email, authored, committer, committer_email, committed, message = chunk.lstrip(
        "\n"
    ).split("\0", 8)
    return Commit(
        id=sha,
        parents=tuple(parents.split()),
        author_name=author,
        author_email=author_email,
        authored=authored,
        committer_name=committer,
        committer_email=committer_email,
        committed=committed,
        message=message,
    )


def _entry(line: str, prefix: str) -> Entry:
    head, path = line.split("\t", 1)
    mode, kind, identifier = head.split()
    return Entry(mode=mode, type=kind, id=identifier, path=prefix + path)
