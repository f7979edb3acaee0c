"""What a pip requirements file declares: its logical lines, without comments, blank lines and line wraps.

Pure. The syntax is pip's (https://pip.pypa.io/en/stable/reference/requirements-file-format/, pip 25): lines join at
a trailing backslash before comments are cut, a comment starts at the line's start or after white space. The order is
kept, because it decides. It promises: two texts with the same `canonical` install the same things, and every local
file that a line names is in `references`. It must not know Git, keys or uv.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONGEST_LINE_CHARACTERS = 2000  # without hashes; keeps patterns from taking long over a hostile line
_COMMENT = re.compile(r"(^|\s)#.*$")
_QUOTED_OR_SPACE = re.compile(r"(\"[^\"]*\"|'[^']*')|\s+")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PATH_LIKE = re.compile(r"^(\.{1,2}(/|$|\[)|[^\s@=<>~!;]*/)|\.(whl|zip|tar\.gz|tgz|tar\.bz2|tar\.xz)(\s|;|#|$)")
_EXTRAS = re.compile(r"\[([^\]]*)\]$")


class Role(StrEnum):
    """Why a requirements file names another place."""

    REQUIREMENTS = "requirements"
    CONSTRAINTS = "constraints"
    LOCAL = "local"
    EDITABLE = "editable"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A file, folder or address that a line names; `extras` of a local project in the order written."""

    role: Role
    target: str
    extras: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A requirements file understood: logical lines in order, what they refer to, what they leave open."""

    lines: tuple[str, ...]
    references: tuple[Reference, ...]
    unpinned: tuple[str, ...]

    @property
    def canonical(self) -> str:
        """The lines as one text that pip reads to the same effect."""
        return "".join(f"{line}\n" for line in self.lines)


_FILE_OPTIONS = {
    "-r": Role.REQUIREMENTS, "--requirement": Role.REQUIREMENTS,
    "-c": Role.CONSTRAINTS, "--constraint": Role.CONSTRAINTS,
    "-e": Role.EDITABLE, "--editable": Role.EDITABLE,
    "-f": Role.LOCAL, "--find-links": Role.LOCAL,
}  # fmt: skip


@lru_cache(maxsize=64)  # commits of one project ask for the same texts, and a requirement's syntax is slow to check
def parse(text: str) -> Declared:
    """Understand a requirements file. ValueError where a line names something in a way that is not understood."""
    lines = tuple(_logical_lines(text))
    if any(len(line.split(" --", 1)[0]) > LONGEST_LINE_CHARACTERS for line in lines):
        raise ValueError(f"a line has more than {LONGEST_LINE_CHARACTERS} characters")
    references = tuple(reference for line in lines for reference in _references(line))
    unpinned = tuple(line for line in lines if not line.startswith("-") and "://" not in line and is_open(line))
    return Declared(lines=lines, references=references, unpinned=unpinned)


def is_open(line: str) -> bool:
    """Tell whether a requirement leaves its version open; one with a hash never does."""
    requirement = line.split(" --", 1)[0]
    if "--hash" in line:
        return False
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return False
    return parsed.url is None and not any(
        clause.operator in {"==", "==="} and not clause.version.endswith(".*") for clause in parsed.specifier
    )


def split_option(line: str) -> tuple[str, str] | None:
    """Split `-r file`, `-rfile`, `--requirement=file`; None if the line is no option."""
    if not line.startswith("-"):
        return None
    if line.startswith("--"):
        name, separator, value = line.partition("=")
        if separator and " " not in name:
            return name, _unquoted(value.strip())
        name, _, value = line.partition(" ")
        return name, _unquoted(value.strip())
    return line[:2], _unquoted(line[2:].strip().removeprefix("=").strip())


def split_extras(target: str) -> tuple[str, tuple[str, ...]]:
    """Split `.[dev,test]` into the path and its extras."""
    found = _EXTRAS.search(target)
    if found is None:
        return target, ()
    names = tuple(name.strip() for name in found.group(1).split(",") if name.strip())
    return target[: found.start()], names


def is_fixed_address(target: str) -> bool:
    """Tell whether an address names its content: a full commit, or a hash."""
    return bool(re.search(r"@[0-9a-f]{40}(#|$)|#(.*&)?sha256=[0-9a-f]{64}", target))


def is_address(target: str) -> bool:
    """Tell whether a target lies outside the repository (`file:` does not)."""
    return bool(_URL.match(target)) and not target.lower().startswith("file:")


def local_path(target: str) -> str:
    """Strip `file:`, a fragment and a marker from a local target, leaving its path as written."""
    path = re.sub(r"^file:(//)?(localhost)?", "", target, flags=re.IGNORECASE)
    return path.split(";", 1)[0].split("#", 1)[0].strip()


def _unquoted(value: str) -> str:
    try:
        return "".join(shlex.split(value)) if value[:1] in {'"', "'"} else value
    except ValueError:
        return value


def _logical_lines(text: str) -> Iterator[str]:
    for joined in _joined(text.splitlines()):
        line = _COMMENT.sub("", joined).strip()
        if line:
            yield _QUOTED_OR_SPACE.sub(lambda match: match.group(1) or " ", line)


def _joined(lines: Sequence[str]) -> Iterator[str]:
    """Join wrapped lines exactly as pip does: a comment line ends a wrap and is never one."""
    pending: list[str] = []
    for line in lines:
        is_comment = _COMMENT.match(line) is not None
        if line.endswith("\\") and not is_comment:
            pending.append(line[:-1])
            continue
        if pending:
            pending.append(f" {line}" if is_comment else line)
            yield "".join(pending)
            pending = []
        else:
            yield line
    if pending:
        yield "".join(pending)


def _references(line: str) -> Iterator[Reference]:
    option = split_option(line)
    if option is not None:
        name, value = option
        role = _FILE_OPTIONS.get(name)
        if role is not None:
            yield _reference(role, value)
        return
    requirement = line.split(" --", 1)[0]
    name, separator, url = requirement.partition("@")
    if separator and not _PATH_LIKE.search(name.strip()) and (is_address(url.strip()) or ":" in url or "/" in url):
        yield _reference(Role.LOCAL, url.strip())
    elif is_address(requirement) or _PATH_LIKE.search(requirement) or requirement.lower().startswith("file:"):
        yield _reference(Role.LOCAL, requirement)


def _reference(role: Role, target: str) -> Reference:
    if not target:
        raise ValueError(f"an option of a requirements file names nothing ({role})")
    if is_address(target):
        return Reference(role=Role.REMOTE, target=target)
    path, extras = split_extras(local_path(target))
    if "$" in path or path.startswith(("/", "~")):
        raise ValueError(f"“{path}” lies outside the repository")
    return Reference(role=role, target=path or ".", extras=extras)
