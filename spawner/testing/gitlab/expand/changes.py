"""Decides `rules:changes` from the bare repository, because gitlab-ci-local compares with a work tree.

GitLab compares a branch's push with the commit before it, and holds every `changes` true where there is
nothing to compare with: new branches, tags, schedules, pipelines started by hand.

Promises: the same answer as GitLab's `File.fnmatch?` with FNM_PATHNAME, FNM_DOTMATCH and FNM_EXTGLOB.
Must not know: jobs.
Source: https://docs.gitlab.com/ci/yaml/#ruleschanges (18.x).
"""

import functools
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from spawner.testing.gitlab.expand.model import ConfigurationError

_GIT_SECONDS = 30
_SPECIAL = {"*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")"}
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def changed_paths(repository: Path, *, before: str, sha: str) -> tuple[str, ...]:
    """Return the paths that differ between two commits, both sides of a rename included.

    Raises:
        ConfigurationError: Git does not know one of the commits, or did not answer.
    """
    command = ["git", "--git-dir", str(repository), "diff", "--name-only", "--no-renames", "-z", before, sha, "--"]
    return tuple(_git(command).split("\0")[:-1])


def compared_commit(repository: Path, *, compare_to: str, sha: str) -> str:
    """Return the merge base of `sha` and the branch, tag or commit that `changes:compare_to` names.

    Raises:
        ConfigurationError: there is no such branch, tag or commit.
    """
    try:
        return _git(["git", "--git-dir", str(repository), "merge-base", compare_to, sha]).strip()
    except ConfigurationError as exc:
        raise ConfigurationError(f"rules:changes:compare_to is not a valid ref: {compare_to}.") from exc


def any_matches(patterns: Sequence[str], paths: Sequence[str], *, variables: Mapping[str, str]) -> bool:
    """Say whether any path fits any pattern; `$NAME` and `${NAME}` in patterns are filled in first."""
    fitted = [_expression(_filled(pattern, variables)) for pattern in patterns]
    return any(expression.fullmatch(path) for expression in fitted for path in paths)


def _filled(pattern: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[2], ""), pattern)


@functools.lru_cache(maxsize=512)
def _expression(pattern: str) -> re.Pattern[str]:
    out, position, depth = [], 0, 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/"):
            out.append("(?:[^/]+/)*")
            position += 3
            continue
        closing = rest.find("]", 2)
        if rest[0] == "[" and closing > 0:
            inside = rest[1:closing].replace("\\", "\\\\")
            out.append("[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]")
            position += closing + 1
            continue
        depth += {"{": 1, "}": -1}.get(rest[0], 0)
        out.append(_single(rest, in_braces=depth > 0))
        position += 2 if rest[0] == "\\" else 1
    return re.compile("".join(out) if depth == 0 else re.escape(pattern), re.DOTALL)


def _single(rest: str, *, in_braces: bool) -> str:
    if rest[0] == "\\":
        return re.escape(rest[1:2])
    if rest[0] == "," and in_braces:
        return "|"
    return _SPECIAL.get(rest[0]) or re.escape(rest[0])


def _git(command: Sequence[str]) -> str:
    try:
        return subprocess.run(list(command), capture_output=True, text=True, timeout=_GIT_SECONDS, check=True).stdout
    except subprocess.CalledProcessError as exc:
        raise ConfigurationError(f"Git cannot compare these commits: {exc.stderr.strip()[:256]}") from exc
    except subprocess.TimeoutExpired as exc:
        raise ConfigurationError(f"Git did not compare these commits within {_GIT_SECONDS} s.") from exc
