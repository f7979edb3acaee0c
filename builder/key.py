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

from builder.declared import canonical_json
from builder.detect import PYTHON_RECIPE, PYTHON_RECIPE_VERSIONS, Source, control_paths, detect
from builder.entries import Entry, EntryType, Kind, Read, Tree
from builder.errors import NoRecipeError, ProjectError
from builder.settings import SETTINGS_FILE, ImageSettings, image_settings
from builder.snapshot import Input, Inputs, Memory, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEFAULT_PLATFORM", "SCHEMES", "Entry", "EntryType", "Input", "Key", "Kind", "Memory", "NoRecipeError",
    "ProjectError", "Read", "Tree", "control_files", "environment_key", "environment_keys",
]  # fmt: skip

SCHEMES = (1,)  # newest first; a scheme is never changed once an image was built with it
DEFAULT_PLATFORM = "linux/amd64"
DOCKERFILE_RECIPE = "dockerfile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A commit's environment key, and what it was made of.

    `digest` is 64 hex. `inputs` are sorted by path. `mutable` are sentences about what may move although the key
    does not (an unpinned requirement). `everything` says why all of the repository counts, if it does. `folder` and
    `source` say where the environment is declared; `image` is the `[image]` table as counted; `contents` are the
    canonical texts, by path, of the inputs that count by what they declare.
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
    return control_paths(Snapshot(tree, read))


def _key(tree: Tree, read: Read, kind: Kind, platform: str, memory: Memory, version: int) -> Key:
    snapshot = Snapshot(tree, read)
    found = snapshot.resolved(SETTINGS_FILE)
    is_file = found is not None and found[1].type is EntryType.BLOB
    settings = image_settings(snapshot.read(found[0]) if found is not None and is_file else None)
    inputs = Inputs(snapshot, memory)
    recipe, folder, source = PYTHON_RECIPE, "", Source.NOTHING
    mutable: tuple[str, ...] = ()
    if kind is Kind.CONTAINER and _dockerfile(snapshot, settings):
        recipe, version = DOCKERFILE_RECIPE, 1
        inputs.count_everything("the commit brings a Dockerfile, and any file may be copied by it")
    else:
        detected = detect(inputs, settings, kind)
        folder, source, mutable = detected.folder, detected.source, detected.mutable
    collected = inputs.collected()
    document = {
        "scheme": SCHEMES[0],
        "kind": str(kind),
        "platform": platform,
        "recipe": {"name": recipe, "version": version},
        "image": settings.table,
        "inputs": [[one.path, one.mode, one.fingerprint] for one in collected],
    }
    return Key(
        digest=hashlib.sha256(canonical_json(document)).hexdigest(),
        scheme=SCHEMES[0], kind=kind, platform=platform, recipe=recipe, recipe_version=version,
        inputs=collected, mutable=mutable, everything=inputs.everything, folder=folder, source=source,
        image=MappingProxyType(dict(settings.table)), kinds=settings.kinds,
        contents=MappingProxyType({} if inputs.everything else dict(inputs.contents)),
    )  # fmt: skip


def _dockerfile(snapshot: Snapshot, settings: ImageSettings) -> bool:
    places = [settings.dockerfile] if settings.dockerfile else ["binder/Dockerfile", ".binder/Dockerfile", "Dockerfile"]
    return any(snapshot.resolved(place) is not None for place in places)
