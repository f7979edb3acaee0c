"""The environment key: the SHA-256 of everything that decides what a build produces.

Pure over the two functions that the caller supplies, so that the builder in a checkout and the spawner over a bare,
blobless cache compute the same key, byte for byte. It promises: equal keys mean equal inputs (a file counts by its
blob, or by what it declares where that is fully understood), whatever is not understood counts as it is, and where
even that is not known, all of the repository counts. Only directories that an input can lie in are listed.

Old schemes and recipe versions stay here, so that an upgrade does not make every image unknown: `environment_keys`
gives them all, newest first. The module must not know Git, a registry, a clock or this machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from builder import context as build_context
from builder import stacks
from builder.declared import canonical_json
from builder.detect import (
    PYTHON_RECIPE,
    PYTHON_RECIPE_VERSIONS,
    Source,
    control_paths,
    detect,
)
from builder.entries import Entry, EntryType, Kind, Read, Tree
from builder.errors import NoRecipeError, ProjectError
from builder.settings import SETTINGS_FILE, image_settings
from builder.snapshot import Input, Inputs, Memory, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.context import Context
    from builder.settings import ImageSettings

__all__ = [
    "DEFAULT_PLATFORM", "RULES", "SCHEMES", "Entry", "EntryType", "Input", "Key", "Kind", "Memory", "NoRecipeError",
    "ProjectError", "Read", "Tree", "control_files", "environment_key", "environment_keys",
]  # fmt: skip

SCHEMES = (1,)  # newest first; a scheme is never changed once an image was built with it
DEFAULT_PLATFORM = "linux/amd64"
DOCKERFILE_RECIPE = "dockerfile"
DOCKERFILE_RECIPE_VERSION = 2  # 1 counted everything, and no image was made with it
RULES = (*SCHEMES, *PYTHON_RECIPE_VERSIONS, stacks.RECIPE_VERSION, DOCKERFILE_RECIPE_VERSION)
"""All that a kept key depends on besides the commit: keys kept under other rules are to be computed anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A commit's environment key, and what it was made of.

    `digest` is 64 hex. `inputs` are sorted by path. `mutable` are sentences about what may move although the key
    does not (an unpinned requirement). `everything` says why all of the repository counts, if it does. `folder` and
    `source` say where the environment is declared; `image` is the `[image]` table as counted; `contents` are the
    canonical texts, by path, of the inputs that count by what they declare. `context` says how a Dockerfile is built.
    """

    digest: str
    scheme: int
    kind: Kind
    platform: str
    recipe: str
    recipe_version: int
    inputs: tuple[Input, ...]
    mutable: tuple[str, ...]
    everything: str | None
    folder: str
    source: Source
    image: Mapping[str, Any]
    kinds: tuple[Kind, ...]
    contents: Mapping[str, bytes] = field(repr=False, compare=False)
    context: Context | None = None

    @property
    def recipe_name(self) -> str:
        """The recipe and its version, as labels and reports name it: `python-1`."""
        return f"{self.recipe}-{self.recipe_version}"


def environment_key(
    tree: Tree,
    read: Read,
    *,
    kind: Kind = Kind.ENVIRONMENT,
    platform: str = DEFAULT_PLATFORM,
    memory: Memory | None = None,
) -> Key:
    """Compute a commit's key under the newest scheme and recipe.

    `memory` may be any mapping, kept between calls: it remembers what files declare by blob SHA. NoRecipeError if
    the commit declares nothing that can be built as `kind`, ProjectError if it says something that cannot be followed.
    """
    return _key(tree, read, kind, platform, {} if memory is None else memory, PYTHON_RECIPE_VERSIONS[0])


def environment_keys(
    tree: Tree,
    read: Read,
    *,
    kind: Kind = Kind.ENVIRONMENT,
    platform: str = DEFAULT_PLATFORM,
    memory: Memory | None = None,
) -> tuple[Key, ...]:
    """Compute a commit's keys under every scheme and recipe version still honoured, newest first; errors as above."""
    shared: Memory = {} if memory is None else memory
    return tuple(_key(tree, read, kind, platform, shared, version) for version in PYTHON_RECIPE_VERSIONS)


def control_files(tree: Tree, read: Read) -> tuple[str, ...]:
    """Name the files that `environment_key` will read first, so that a blobless cache can fetch them in one exchange.

    Files that those refer to (`-r other.txt`) are not among them. `read` is called for symbolic links only.
    """
    snapshot = Snapshot(tree, read)
    return tuple(dict.fromkeys([*control_paths(snapshot), *build_context.control_paths(snapshot)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What a recipe's input rules found."""

    recipe: str
    version: int
    folder: str = ""
    source: Source = Source.NOTHING
    mutable: tuple[str, ...] = ()
    everything: str | None = None
    context: Context | None = None


def _key(tree: Tree, read: Read, kind: Kind, platform: str, memory: Memory, version: int) -> Key:
    snapshot = Snapshot(tree, read)
    found = snapshot.resolved(SETTINGS_FILE)
    is_file = found is not None and found[1].type is EntryType.BLOB
    settings = image_settings(snapshot.read(found[0]) if found is not None and is_file else None)
    inputs = Inputs(snapshot, memory)
    rules = _count(inputs, settings, kind, platform, version)
    collected = inputs.collected()
    document = {
        "scheme": SCHEMES[0],
        "kind": str(kind),
        "platform": platform,
        "recipe": {"name": rules.recipe, "version": rules.version},
        "image": settings.table,
        "inputs": [[one.path, one.mode, one.fingerprint] for one in collected],
    }
    if rules.context is not None:
        document["dockerfile"] = rules.context.dockerfile
    return Key(
        digest=hashlib.sha256(canonical_json(document)).hexdigest(),
        scheme=SCHEMES[0], kind=kind, platform=platform, recipe=rules.recipe, recipe_version=rules.version,
        inputs=collected, mutable=rules.mutable, everything=rules.everything, folder=rules.folder,
        source=rules.source, image=MappingProxyType(dict(settings.table)), kinds=settings.kinds,
        contents=MappingProxyType({} if inputs.everything else dict(inputs.contents)), context=rules.context,
    )  # fmt: skip


def _count(inputs: Inputs, settings: ImageSettings, kind: Kind, platform: str, version: int) -> _Rules:
    dockerfile = build_context.find_dockerfile(inputs.snapshot, settings) if kind is Kind.CONTAINER else None
    if dockerfile is None:
        found = detect(inputs, settings, kind)
        return _Rules(
            recipe=found.recipe, version=version if found.recipe == PYTHON_RECIPE else stacks.RECIPE_VERSION,
            folder=found.folder, source=found.source, mutable=found.mutable, everything=inputs.everything,
        )  # fmt: skip
    counted = build_context.count(inputs, settings, dockerfile, platform=platform)
    return _Rules(
        recipe=DOCKERFILE_RECIPE, version=DOCKERFILE_RECIPE_VERSION, everything=counted.everything,
        mutable=counted.mutable, context=counted.context,
    )  # fmt: skip
