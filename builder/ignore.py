"""Which files of a build's context an ignore file hides, with Docker's own semantics.

Pure. The rules are those of `.dockerignore` (https://docs.docker.com/build/concepts/context/#dockerignore-files, and
moby/patternmatcher 0.6, which every engine uses): from the context's root, `**` for any number of folders, a rule
that hides a folder hides what is in it, `!` shows again, the last rule that fits decides, case counts. A folder's
rules are derived from its parent's, so a folder that no rule can reach is never looked into, and each name is matched
once, in time linear in its length whatever a stranger's rule says.

It promises ValueError, never a guess, for a rule that it does not understand.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_IGNORE_BYTES = 64 * 1024  # a guess, far above real ones
MOST_RULES = 1000  # each costs a step per name
MOST_STEPS = 64  # in one rule; a guess, far above real ones
_ANY_DEPTH = "**"
_SPECIAL = frozenset("*?[\\")

Steps = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What is left of one rule inside a folder: the names still to come, in each way that the rule may go on."""

    shows: bool
    ways: frozenset[Steps]
    hit_above: bool = False  # it decided about a folder above, so it fits everything below

    def entered(self, name: str) -> tuple[bool, frozenset[Steps]]:
        """Tell whether the rule fits this name here, and how it may go on below."""
        left = {rest for steps in self.ways for rest in _after(steps, name)}
        return () in left, frozenset(left - {()})


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreRules:
    """The rules that hold inside one folder, in order."""

    rules: tuple[_Rule, ...] = ()
    is_hidden: bool = False

    @classmethod
    def of(cls, lines: tuple[str, ...]) -> Self:
        """Make the rules of a context's root from the lines that `declared_rules` gives. ValueError: not understood."""
        parts = [(line.startswith("!"), _steps(line.removeprefix("!"))) for line in lines]
        return cls(rules=tuple(_Rule(shows=shows, ways=frozenset({steps})) for shows, steps in parts if steps))

    @property
    def is_deciding(self) -> bool:
        """Tell whether anything below can still turn out otherwise than the folder itself."""
        return any(rule.ways and (rule.shows or not self.is_hidden) for rule in self.rules)

    def inside(self, name: str) -> IgnoreRules:
        """Enter a folder, or reach a file: `is_hidden` of the result says whether it is hidden."""
        hidden = False
        below: list[_Rule] = []
        for rule in self.rules:
            fits, ways = rule.entered(name)
            is_asked = rule.shows == hidden  # as moby: a rule that would change nothing is not asked
            hit = rule.hit_above or (is_asked and fits)
            if hit:
                hidden = not rule.shows
            if ways or hit:
                below.append(_Rule(shows=rule.shows, ways=ways, hit_above=hit))
        return IgnoreRules(rules=tuple(below), is_hidden=hidden)

    def at(self, path: str) -> IgnoreRules:
        """Follow a path from here; the empty path is here."""
        found = self
        for name in path.split("/") if path else ():
            found = found.inside(name)
        return found


def declared_rules(text: str) -> tuple[str, ...]:
    """Return an ignore file's rules, cleaned and in order; ValueError where one is not understood."""
    if len(text) > LARGEST_IGNORE_BYTES:
        raise ValueError(f"larger than {LARGEST_IGNORE_BYTES} bytes")
    lines = tuple(_cleaned(text))
    if len(lines) > MOST_RULES:
        raise ValueError(f"more than {MOST_RULES} rules")
    IgnoreRules.of(lines)
    return lines


def _cleaned(text: str) -> Iterator[str]:
    """Read rules as moby's `ignorefile.ReadAll` does."""
    for line in text.removeprefix("\ufeff").split("\n"):
        rule = line.strip()
        if line.startswith("#") or not rule:
            continue
        mark = "!" if rule.startswith("!") else ""
        path = rule.removeprefix("!").strip()
        if not path:
            raise ValueError("a rule is a lone “!”")
        path = posixpath.normpath(path.lstrip("/") or ".")
        if path != ".":  # which Docker passes over
            yield mark + path


def _steps(path: str) -> Steps:
    """Split a cleaned rule into names; empty for one that leaves the context, which fits nothing."""
    steps: list[str] = []
    for step in path.split("/"):
        if step == "..":
            return ()
        if _ANY_DEPTH in step and step != _ANY_DEPTH:
            rest = step.removeprefix(_ANY_DEPTH)
            if steps or path != step or _SPECIAL & set(rest):
                raise ValueError(f"“{step}” has ** beside other characters")
            steps += [_ANY_DEPTH, f"*{rest}"]  # moby: what begins with ** and is plain otherwise fits by its end
        elif step != _ANY_DEPTH or steps[-1:] != [_ANY_DEPTH]:
            steps.append(step)
    if len(steps) > MOST_STEPS:
        raise ValueError(f"a rule has more than {MOST_STEPS} parts")
    for step in steps:
        if step != _ANY_DEPTH:
            glob(step)
    return tuple(steps)


def _after(steps: Steps, name: str) -> Iterator[Steps]:
    """Yield what is left of a rule's names after one name; `()` where the rule fits."""
    first, rest = steps[0], steps[1:]
    if first == _ANY_DEPTH:
        yield steps
        if rest:
            yield from _after(rest, name)
        else:
            yield ()
    elif glob(first).match(name):
        yield rest


@lru_cache(maxsize=4096)
def glob(pattern: str) -> re.Pattern[str]:
    """Compile one name's pattern as Go's `path.Match` reads it. ValueError if it is malformed, or not understood."""
    out: list[str] = []
    place = 0
    while place < len(pattern):
        letter = pattern[place]
        if letter == "\\":
            place += 1
            if place == len(pattern):
                raise ValueError(f"“{pattern}” ends in a backslash")
            letter = pattern[place]
            out.append(f"[{letter}]" if letter in "*?[" else letter)
        elif letter == "[":
            end = pattern.find("]", place + 2)
            inner = pattern[place + 1 : end] if end > 0 else ""
            if not inner or set(inner.removeprefix("^")) & set("\\[]!^"):
                raise ValueError(f"“{pattern}” has a set of characters that is not understood")
            out.append(f"[!{inner[1:]}]" if inner.startswith("^") else f"[{inner}]")
            place = end
        else:
            out.append(letter)
        place += 1
    return re.compile(fnmatch.translate("".join(out)))
