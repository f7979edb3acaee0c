"""From a staged folder to a container image in the registry, by whichever engine there is.

A Dockerfile of the commit is built as it is; without one, the Python recipe's (`builder.recipes`) or, for stacks that
it does not know, the one that repo2docker assembles. It promises that every image ends with a numeric user (root and
names that stand for it become 1000, said aloud) and our labels; that credentials of package indexes reach steps as
build secrets only; that arguments come from the commit, unless a person gave others, which `Policy` then knows.
It must not know how an engine works.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder import repo2docker, stacks
from builder.build import Made, labels_of, staged_plan
from builder.engines.choosing import EngineName, open_engine
from builder.engines.containers import CACHE_SUFFIX, Engine, Network, Order, Workplace
from builder.errors import BuildFailedError, ProjectError, capped
from builder.indexes import build_secrets
from builder.rendering import NOTES_FOLDER, ContainerRecipe, base_image, container_dockerfile
from builder.stage import stage, stage_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from builder.build import Target
    from builder.key import Key
    from builder.trees import GitTree

NOT_RESOLVED = frozenset({".gitattributes", "apt.txt", "postBuild", "start"})  # inputs that no resolver reads
DEFAULT_UID = 1000
LARGEST_PASSWD_BYTES = 1 << 20  # of a file that is taken out of an image


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person or an operator may say about a build, besides the commit.

    `arguments` and `base` change what is built, so that nothing of it may be shared; `mirror` only says where base
    images are fetched from; `secrets` are files by id.
    """

    arguments: Mapping[str, str] = field(default_factory=dict)
    base: str | None = None
    mirror: str | None = None
    secrets: Mapping[str, Path] = field(default_factory=dict)
    network: Network = Network.DEFAULT
    has_cache: bool = True
    is_fresh: bool = False

    @property
    def is_own(self) -> bool:
        """Tell whether the result is this build's alone: its key does not say what went into it."""
        return bool(self.arguments) or self.base is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """A Dockerfile's text, and the folder that it may copy from."""

    text: str
    context: Path
    notes: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    is_ours: bool = False


class ContainerMaker:
    """Makes container images; one per build."""

    def __init__(self, engine: EngineName, options: Options) -> None:
        self.engine = str(engine)
        self._engine = engine
        self._options = options

    @property
    def is_own(self) -> bool:
        """Tell whether an argument or a base image was given besides the commit's."""
        return self._options.is_own

    @contextlib.contextmanager
    def make(
        self, source: GitTree, key: Key, target: Target, folder: Path, say: Callable[[str], None]
    ) -> Iterator[Made]:
        """Build a commit's image; it can be pushed until the context ends."""
        recipe = _recipe(source, key, self._options, folder)
        work = folder / "engine"
        work.mkdir(mode=0o700)
        place = Workplace(folder=work, registry=target.registry.address, credentials=target.credentials, say=say)
        with contextlib.closing(open_engine(self._engine, place)) as engine:
            built = engine.build(self._order(recipe, key, target, folder))
            uid, notes = _user(engine, built.name, folder)
            for note in notes:
                say(note)
            labels = labels_of(key, target, base_digest=built.base_digest, uid=uid)
            final = engine.build(_finish(built.name, uid, labels, folder))
            facts = _facts(engine, final.name, folder) if recipe.is_ours else {}

            yield Made(
                push=lambda tag: engine.push(final.name, target.reference(tag)), base_digest=built.base_digest,
                notes=(*recipe.notes, *notes), python=facts.get("python"),
                packages=facts.get("packages"), added=tuple(facts.get("added", ())),
            )  # fmt: skip

    def _order(self, recipe: _Recipe, key: Key, target: Target, folder: Path) -> Order:
        options = self._options
        declared = key.image.get("arguments", {})
        if not isinstance(declared, dict) or not all(isinstance(value, str) for value in declared.values()):
            raise ProjectError("“arguments” under [image] in slipway.toml must be a table of texts.")
        secrets = folder / "secrets"
        secrets.mkdir(mode=0o700)
        place = f"{target.registry.address}/{target.repository}"
        return Order(
            dockerfile=recipe.text, context=recipe.context,
            arguments={**recipe.arguments, **declared, **options.arguments},
            secrets={**build_secrets(secrets), **options.secrets}, network=options.network, is_fresh=options.is_fresh,
            cache=f"{place}/{CACHE_SUFFIX}" if options.has_cache else None,
        )  # fmt: skip


def _recipe(source: GitTree, key: Key, options: Options, folder: Path) -> _Recipe:
    """Stage the key's inputs, and choose what to build by, as the key did."""
    staged = folder / "stage"
    staged.mkdir()
    if key.context is not None:
        found = stage_context(source, key, staged)
        text = found.dockerfile.read_text(encoding="utf-8", errors="replace")
        return _Recipe(text=text, context=found.context)
    stage(source, key, staged)
    if key.recipe == stacks.RECIPE:
        made = repo2docker.assemble(
            staged, _empty(folder), platform=key.platform, base=options.base or key.image.get("base")
        )
        note = f"repo2docker assembled the build of these files ({made.buildpack})"
        return _Recipe(text=made.dockerfile, context=made.context, notes=(note,), arguments=made.arguments)
    recipe = recipe_of(staged, key, base=options.base, mirror=options.mirror)
    return _Recipe(text=container_dockerfile(recipe), context=staged, notes=recipe.notes, is_ours=True)


def recipe_of(folder: Path, key: Key, *, base: str | None = None, mirror: str | None = None) -> ContainerRecipe:
    """Decide what the Python recipe does with the files in a folder; `base` and `mirror` as in `Options`."""
    todo = staged_plan(folder, key)
    return ContainerRecipe(
        plan=todo, paths=_paths(key), is_everything=key.everything is not None,
        base=base_image(key.image, todo, override=base, mirror=mirror),
        has_apt=(folder / key.folder / "apt.txt").is_file(), folder=key.folder,
    )  # fmt: skip


def _paths(key: Key) -> tuple[str, ...]:
    paths = (found.path for found in key.inputs)
    return tuple(path for path in paths if path.rpartition("/")[2] not in NOT_RESOLVED)


def _finish(image: str, uid: str, labels: Mapping[str, str], folder: Path) -> Order:
    """Order the image's last words: its user as a number, and what it is."""
    lines = [f"FROM {image}", f"USER {uid}"]
    lines += [_label(name, value) for name, value in labels.items()]
    return Order(dockerfile="\n".join([*lines, ""]), context=_empty(folder), is_local=True)


def _label(name: str, value: str) -> str:
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("\n", " ")
    return f'LABEL "{name}"="{text}"'


def _empty(folder: Path) -> Path:
    place = folder / f"empty-{uuid.uuid4().hex}"
    place.mkdir()
    return place


def _user(engine: Engine, image: str, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Say as which number an image runs, with what must be said about it."""
    said = engine.user(image)
    user, _, group = said.partition(":")
    if user.isdecimal() and int(user) != 0:
        return said, ()
    if user in {"", "0", "root"}:
        return str(DEFAULT_UID), (f"The image would run as root: its user is {DEFAULT_UID} now. Say USER to choose.",)
    number = _number(_extract(engine, image, "/etc/passwd", folder), user)
    if number in {None, "0"}:
        return str(DEFAULT_UID), (f"The image's user “{capped(user)}” is root or unknown to it: {DEFAULT_UID} now.",)
    suffix = f":{group}" if group.isdecimal() else ""
    return f"{number}{suffix}", (f"The image's user “{capped(user)}” is written as its number, {number}.",)


def _number(passwd: bytes, user: str) -> str | None:
    """Look a user up in an image's own list."""
    for line in passwd.decode("utf-8", "replace").splitlines():
        name, _, rest = line.partition(":")
        number = rest.partition(":")[2].partition(":")[0]
        if name == user and number.isdecimal():
            return number
    return None


def _facts(engine: Engine, image: str, folder: Path) -> dict[str, Any]:
    """Read what our recipe wrote down in the image: Python's version, and what was installed."""
    try:
        document = json.loads(_extract(engine, image, f"{NOTES_FOLDER}/environment.json", folder))
    except ValueError as error:
        raise BuildFailedError("The recipe left no readable account of what it installed.") from error
    return document if isinstance(document, dict) else {}


def _extract(engine: Engine, image: str, path: str, folder: Path) -> bytes:
    """Take one file out of an image, without running it; empty if it is not there."""
    output = _empty(folder)
    order = Order(
        dockerfile=f"FROM scratch\nCOPY --from={image} {path} /file\n", context=_empty(folder), is_local=True,
        output=output,
    )  # fmt: skip
    try:
        engine.build(order)
    except BuildFailedError:
        return b""
    file = output / "file"
    if file.is_symlink() or not file.is_file():
        return b""
    with file.open("rb") as content:
        return content.read(LARGEST_PASSWD_BYTES)
