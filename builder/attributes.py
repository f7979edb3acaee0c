"""Which lines of a `.gitattributes` can change how inputs are written out.

Pure. The format is gitattributes(5), Git 2.39. A project that keeps its data in Git LFS edits this file with every new
data file, and no image changes by it. It promises to be conservative: a line is left out only where it sets nothing
but what `git archive` does not look at, or where its pattern cannot fit an input or a folder above one; of a folder
that is an input as a whole, any name may be in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.ignore import glob

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOT_LOOKED_AT = frozenset({"diff", "merge", "whitespace", "conflict-marker-size", "delta", "encoding"})
_FOR_OTHERS = ("linguist-", "gitlab-")
LARGEST_ATTRIBUTES_BYTES = 64 * 1024  # a guess, far above real ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An input as an attributes file sees it: its path from that file's folder; whether all of a folder is meant."""

    path: str
    is_folder: bool


def relevant(text: str, inputs: Sequence[Written]) -> tuple[str, ...]:
    """Return the lines that may concern an input, in order. ValueError where the file is not understood."""
    if len(text) > LARGEST_ATTRIBUTES_BYTES:
        raise ValueError(f"larger than {LARGEST_ATTRIBUTES_BYTES} bytes")
    lines = [" ".join(line.split()) for line in text.removeprefix("\ufeff").split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if any(line.startswith(("[attr]", '"')) for line in lines):
        raise ValueError("macros and quoted patterns are not followed")
    return tuple(line for line in lines if _is_looked_at(line) and any(_may_fit(line, one) for one in inputs))


def _is_looked_at(line: str) -> bool:
    names = [word.lstrip("-!").partition("=")[0] for word in line.split(" ")[1:]]
    return any(name not in _NOT_LOOKED_AT and not name.startswith(_FOR_OTHERS) for name in names)


def _may_fit(line: str, one: Written) -> bool:
    pattern = line.split(" ", 1)[0].rstrip("/")
    steps = one.path.split("/")
    if "/" not in pattern:
        return one.is_folder or any(_fits(pattern, step) for step in steps)
    wanted = pattern.lstrip("/").split("/")
    if len(wanted) > len(steps) and not one.is_folder:
        return "**" in pattern
    for step, name in zip(wanted, steps, strict=False):
        if "**" in step:
            return True
        if not _fits(step, name):
            return False
    return True


def _fits(pattern: str, name: str) -> bool:
    try:
        return bool(glob(pattern).match(name))
    except ValueError:
        return True
