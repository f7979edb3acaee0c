"""The files that a Dockerfile's build can read: its context, minus what the ignore file hides, as far as sources reach.

Pure over the commit's snapshot. `count` adds what decides the build to the key's inputs; `leaves` names, for the same
commit, what staging has to write: both walk the same way, so that what counts is what is there. A folder counts by
its tree where no ignore rule can reach into it, else by what the rules leave of it. It promises to follow links as an
engine does (a source that is a link is its target, too; one inside a folder is copied as a link), never to leave the
context, and that whatever an instruction's source may name is counted. It must not know Git or engines.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.declared import Rule, canonical_json
from builder.dockerfile import Source, reads
from builder.entries import LINK_MODE, Entry, EntryType
from builder.errors import NoRecipeError, capped
from builder.ignore import IgnoreRules, declared_rules, glob
from builder.settings import SETTINGS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.settings import ImageSettings
    from builder.snapshot import Inputs, Snapshot

DOCKERFILES = ("binder/Dockerfile", ".binder/Dockerfile", "Dockerfile")
CONTEXT_IGNORE_FILES = (".containerignore", ".dockerignore")
MOST_FOLDERS_LOOKED_INTO = 100  # for a Dockerfile elsewhere, before it is known which one counts; a guess
DEEPEST_FOLDER = 100  # that is looked into for the rules' sake; a guess, far above real ones
_WILD = frozenset("*?[\\")
_ALL = Source(path=".", is_pattern=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How a Dockerfile is built: its real path, the context's folder (empty: the root), sources, ignore rules."""

    dockerfile: str
    folder: str
    sources: tuple[Source, ...]
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A context whose inputs were counted; why all of it counts, if so; what may move although the key does not."""

    context: Context
    everything: str | None
    mutable: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """Something to write: a file, link or whole folder of the commit; or, with `entry` None, an empty folder."""

    path: str
    entry: Entry | None


def find_dockerfile(snapshot: Snapshot, settings: ImageSettings) -> str | None:
    """Find the Dockerfile that a container is built from; None if there is none. NoRecipeError: one named is not."""
    if settings.dockerfile is not None:
        if not _is_file(snapshot, settings.dockerfile):
            raise NoRecipeError(
                f"slipway.toml names {capped(settings.dockerfile)} as the Dockerfile, and this commit has no such file."
            )
        return settings.dockerfile
    if settings.recipe is not None:
        return None
    return next((place for place in DOCKERFILES if _is_file(snapshot, place)), None)


def control_paths(snapshot: Snapshot) -> tuple[str, ...]:
    """Name the files that decide what a Dockerfile's build reads, so that a blobless cache can fetch them in one go.

    Where `slipway.toml` may name another Dockerfile, those in the root and the folders in it are among them.
    """
    found = [path for place in DOCKERFILES for path in (place, f"{place}.dockerignore")]
    found += [*CONTEXT_IGNORE_FILES, ".gitattributes"]
    root = snapshot.entries("")
    if SETTINGS_FILE in root:
        folders = [name for name, entry in root.items() if entry.type is EntryType.TREE][:MOST_FOLDERS_LOOKED_INTO]
        found += [
            _join(folder, name)
            for folder in ("", *folders)
            for name in snapshot.entries(folder)
            if _decides_a_build(name)
        ]
    return tuple(path for path in dict.fromkeys(found) if _is_blob(snapshot, path))


def _decides_a_build(name: str) -> bool:
    lower = name.lower()
    return "dockerfile" in lower or "containerfile" in lower or lower in CONTEXT_IGNORE_FILES


def _is_blob(snapshot: Snapshot, path: str) -> bool:
    entry = snapshot.entry(path)
    return entry is not None and entry.type is EntryType.BLOB


def ignore_file(snapshot: Snapshot, dockerfile: str, folder: str) -> str | None:
    """Find the ignore file that applies: the Dockerfile's own, else the context's; None if there is none."""
    places = [f"{dockerfile}.dockerignore", *(_join(folder, name) for name in CONTEXT_IGNORE_FILES)]
    return next((place for place in places if _is_file(snapshot, place)), None)


def count(inputs: Inputs, settings: ImageSettings, dockerfile: str, *, platform: str) -> Counted:
    """Count the Dockerfile, its ignore file and everything that the build can read."""
    inputs.is_reading_attributes = True
    snapshot = inputs.snapshot
    folder = settings.context or ""
    ignoring = ignore_file(snapshot, dockerfile, folder)
    rules, complaint = _rules(snapshot, ignoring)
    found = reads(_text(snapshot, dockerfile) or "", arguments=settings.arguments, platform=platform)
    everything = "the Dockerfile is no text" if _text(snapshot, dockerfile) is None else complaint or found.everything
    everything = None if settings.paths is not None else everything
    real = snapshot.resolved(dockerfile)
    context = Context(
        dockerfile=real[0] if real is not None else dockerfile, folder=folder, rules=rules,
        sources=(_ALL,) if everything else (*found.sources, *_named_sources(settings, folder)),
    )  # fmt: skip
    walk = _Walk(snapshot, context)
    for place, entry, fingerprint in walk.counted():
        inputs.put(place, entry, fingerprint)
        if entry.type is EntryType.COMMIT:
            inputs.add(".gitmodules")
    for path, rule in ((dockerfile, Rule.DOCKERFILE), (ignoring, Rule.IGNORE)):
        if path is not None:  # what is copied, too, counts as it is: it is then read by more than the engine
            inputs.add(path, None if walk.covers(path) else rule)
    return Counted(context=context, everything=everything, mutable=found.mutable)


def leaves(snapshot: Snapshot, context: Context) -> Iterator[Leaf]:
    """Yield what a context holds for its build, each path once; a folder no rule reaches into as a whole."""
    seen: set[str] = set()
    for leaf in _Walk(snapshot, context).leaves():
        if leaf.path not in seen:
            seen.add(leaf.path)
            yield leaf


class _Walk:
    """The context of one commit, with the rules that hold at each place."""

    def __init__(self, snapshot: Snapshot, context: Context) -> None:
        self._snapshot = snapshot
        self._folder = context.folder
        self._sources = context.sources
        self._rules = IgnoreRules.of(context.rules)
        self._counted: set[str] = set()

    def counted(self) -> Iterator[tuple[str, Entry, str]]:
        """Yield everything that a source reaches: its place, its entry, and the fingerprint it counts by."""
        for place, entry, rules in self._reached():
            fingerprint = self._fingerprint(place, entry, rules)
            if fingerprint is not None:
                self._counted.add(place)
                yield place, entry, fingerprint

    def leaves(self) -> Iterator[Leaf]:
        """Yield what staging writes, in no order, some perhaps twice."""
        for place, entry, rules in self._reached():
            yield from self._leaves(place, entry, rules)

    def covers(self, path: str) -> bool:
        """Tell whether a file is among what was counted."""
        found = self._snapshot.resolved(path)
        inside = None if found is None else self._inside(found[0])
        if found is None or inside is None or self._rules.at(inside).is_hidden:
            return False
        steps = found[0].split("/")
        return any("/".join(steps[:length]) in self._counted for length in range(1, len(steps) + 1))

    def _reached(self) -> Iterator[tuple[str, Entry, IgnoreRules]]:
        """Follow every source to its end: links on the way, then the file or folder; of the root, what is in it."""
        for source in self._sources:
            for path in self._named(source):
                if path == self._folder:
                    yield from self._children(path, self._rules)
                    continue
                for place, entry in self._snapshot.trail(path):
                    inside = self._inside(place)
                    if inside is None:
                        break  # a link out of the context leads nowhere for an engine
                    rules = self._rules.at(inside)
                    yield place, entry, rules
                    if rules.is_hidden and entry.mode == LINK_MODE:
                        break

    def _named(self, source: Source) -> Iterator[str]:
        """Yield the paths that a source names; where a pattern is not understood, the folder it stands in."""
        paths = [self._folder]
        for step in source.path.split("/") if source.path != "." else ():
            if not source.is_pattern or not _WILD & set(step):
                paths = [_join(path, step) for path in paths]
                continue
            try:
                pattern = glob(step) if "**" not in step else None
            except ValueError:
                pattern = None
            if pattern is None:
                break
            real = dict.fromkeys(self._real(path) for path in paths)  # once each, or links in a circle never end
            paths = [_join(path, name) for path in real for name in self._names(path) if pattern.match(name)]
        yield from paths

    def _real(self, path: str) -> str:
        found = self._snapshot.resolved(path) if path else None
        return found[0] if found is not None else path

    def _names(self, path: str) -> Iterator[str]:
        found = self._snapshot.resolved(path) if path else ("", None)
        if found is not None:
            yield from self._snapshot.entries(found[0])

    def _children(self, path: str, rules: IgnoreRules) -> Iterator[tuple[str, Entry, IgnoreRules]]:
        found = self._snapshot.resolved(path) if path else ("", None)
        if found is not None:
            for name, entry in self._snapshot.entries(found[0]).items():
                yield _join(found[0], name), entry, rules.inside(name) if rules.rules else rules

    def _inside(self, place: str) -> str | None:
        if not self._folder:
            return place
        return place.removeprefix(f"{self._folder}/") if place.startswith(f"{self._folder}/") else None

    def _fingerprint(self, place: str, entry: Entry, rules: IgnoreRules) -> str | None:
        if not _is_opened(place, entry, rules):
            return None if _is_left_out(entry, rules) else entry.sha
        rows = [
            [below.name, below.mode, fingerprint]
            for path, below, inner in self._children(place, rules)
            if (fingerprint := self._fingerprint(path, below, inner)) is not None
        ]
        if rules.is_hidden and not rows:
            return None
        return hashlib.sha256(canonical_json(["folder", rows])).hexdigest()

    def _leaves(self, place: str, entry: Entry, rules: IgnoreRules) -> Iterator[Leaf]:
        if not _is_opened(place, entry, rules):
            if not _is_left_out(entry, rules):
                yield Leaf(path=place, entry=entry)
            return
        if not rules.is_hidden:
            yield Leaf(path=place, entry=None)
        for path, below, inner in self._children(place, rules):
            yield from self._leaves(path, below, inner)


def _is_opened(place: str, entry: Entry, rules: IgnoreRules) -> bool:
    """Tell whether a folder counts by what the rules leave of it; one too deep counts as a whole."""
    return entry.type is EntryType.TREE and rules.is_deciding and place.count("/") < DEEPEST_FOLDER


def _is_left_out(entry: Entry, rules: IgnoreRules) -> bool:
    return rules.is_hidden and (entry.type is not EntryType.TREE or not rules.is_deciding)


def _named_sources(settings: ImageSettings, folder: str) -> Iterator[Source]:
    """Take what `[image] paths` names, from the repository's root, for sources that the Dockerfile does not show."""
    for path in settings.paths or ():
        if not folder or path.startswith(f"{folder}/"):
            yield Source(path=path.removeprefix(f"{folder}/"), is_pattern=False)


def _rules(snapshot: Snapshot, path: str | None) -> tuple[tuple[str, ...], str | None]:
    """Read the ignore rules; none, and why everything counts, where they are not understood."""
    if path is None:
        return (), None
    try:
        return declared_rules(_text(snapshot, path) or ""), None
    except ValueError as error:
        return (), f"{path} is not understood: {capped(str(error))}"


def _text(snapshot: Snapshot, path: str) -> str | None:
    content = snapshot.content(path)
    try:
        return None if content is None else content.decode("utf-8-sig")
    except ValueError:
        return None


def _is_file(snapshot: Snapshot, path: str) -> bool:
    found = snapshot.resolved(path)
    return found is not None and found[1].type is EntryType.BLOB


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
