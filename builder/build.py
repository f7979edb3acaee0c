"""From a commit to its image in the registry: reuse what there is, build what there is not.

The one flow behind `builder build` and `builder retag`. It promises: an image of the same key is put under the
commit's tag by two calls and nothing is built; of two jobs that build one key at once, the later one takes the
earlier one's image; the key's tag is pushed before the commit's, so that a commit's tag never names what its key does
not; nothing is pushed unless all of it was built.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from builder.copying import copied
from builder.engines.environment import resolve
from builder.engines.python import find_python
from builder.entries import Kind
from builder.environment import Environment, Packed, locked_packages, pack
from builder.errors import ProjectError, RefusedError, capped
from builder.oci import Credentials, Manifest, RegistryClient
from builder.recipes import Plan, plan
from builder.report import Outcome, Report
from builder.stage import stage
from builder.tags import Label, environment_tag, published_tags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from builder.key import Key
    from builder.trees import GitTree

ENGINE = "environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where images go: a registry, a repository in it, the commit they are for, and where that commit came from.

    `extra_tags` are names that people gave the commit's image besides its own; `credentials` are what the registry is
    spoken to with, for engines that speak to it themselves.
    """

    registry: RegistryClient
    repository: str
    commit: str
    source_url: str = ""
    extra_tags: tuple[str, ...] = ()
    credentials: Credentials | None = None

    def tags(self, kind: Kind) -> tuple[str, ...]:
        """Return the tags that the commit's image gets, its own first."""
        return (*published_tags(self.commit, kind), *self.extra_tags)

    def reference(self, tag: str) -> str:
        """Write the reference of a tag in this repository."""
        return f"{self.registry.address}/{self.repository}:{tag}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When an image of the same key may serve.

    `is_reusing` false builds always and pushes the commit's tag only; `is_refreshing` builds anew and moves the key's
    tag; an image older than `max_age_days` (0: never too old) is built anew.
    """

    is_reusing: bool = True
    is_refreshing: bool = False
    max_age_days: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An image that was made and can be pushed, and what a report says of it.

    `push` puts it under one tag and returns its digest; what it needs is there until the maker's context ends.
    """

    push: Callable[[str], str]
    base_digest: str = ""
    python: str | None = None
    packages: int | None = None
    added: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Maker(Protocol):
    """Makes images of one kind."""

    @property
    def engine(self) -> str:
        """What `--engine` calls it."""
        ...

    @property
    def is_own(self) -> bool:
        """Tell whether something besides the commit decides what it makes: then its image is for this commit only."""
        ...

    def make(
        self, source: GitTree, key: Key, target: Target, folder: Path, say: Callable[[str], None]
    ) -> contextlib.AbstractContextManager[Made]:
        """Make a commit's image in an empty folder."""
        ...


def build(
    source: GitTree, key: Key, target: Target, policy: Policy, maker: Maker, *, say: Callable[[str], None]
) -> Report:
    """Bring the commit's image into the registry and report on it. BuilderError of every kind; safe to repeat."""
    began = time.monotonic()
    tag = environment_tag(key.digest)
    is_shared = not maker.is_own and (policy.is_reusing or policy.is_refreshing)
    is_looking = is_shared and not policy.is_refreshing
    if is_looking:
        found = _fresh(key, target, policy, say)
        if found is not None:
            return _reuse(key, target, found, maker.engine, f"an image of the same environment exists as {tag}", began)
        say(f"No fresh image of {tag} in {target.registry.address}/{target.repository}: building it.")
    with (
        tempfile.TemporaryDirectory(prefix="slipway-build-", ignore_cleanup_errors=True) as folder,
        maker.make(source, key, target, Path(folder), say) as made,
    ):
        winner = _fresh(key, target, policy, say) if is_looking else None
        if winner is not None:
            return _reuse(key, target, winner, maker.engine, f"another job built {tag} in the meantime", began)
        pushed = (*((tag,) if is_shared else ()), *target.tags(key.kind))
        digest = _push(target, made, pushed, say)
        notes = _overwritten(target, pushed, digest)
    return Report(
        outcome=Outcome.BUILT, reason=_why_built(policy, maker), key=key, engine=maker.engine, commit=target.commit,
        reference=target.reference(published_tags(target.commit, key.kind)[0]), digest=digest, tags=pushed,
        seconds=time.monotonic() - began, python=made.python, packages=made.packages, added=made.added,
        notes=(*made.notes, *notes), base_digest=made.base_digest,
    )  # fmt: skip


def staged_plan(folder: Path, key: Key) -> Plan:
    """Decide what to resolve from a staging folder."""

    def read(path: str) -> bytes | None:
        place = folder / path
        return place.read_bytes() if place.is_file() else None

    place = folder / key.folder
    names = {found.name for found in place.iterdir()} if place.is_dir() else frozenset()
    try:
        return plan(read, names, folder=key.folder, source=key.source, image=key.image)
    except (TypeError, AttributeError, KeyError) as error:  # a number where a table belongs, and the like
        raise ProjectError(f"{key.source} does not have the shape of such a file: {capped(str(error))}.") from error


def retag(target: Target, source: str, tags: tuple[str, ...]) -> Manifest | None:
    """Put an existing image of the same repository under a commit's tags; None if it does not exist. Idempotent."""
    return target.registry.retag(target.repository, source, tags)


def adopt(target: Target, source_repository: str, source: str, tags: tuple[str, ...]) -> Manifest | None:
    """Put an image of another repository of the registry under a commit's tags, mounting its blobs; None if absent."""
    manifest = copied(target.registry, source_repository, source, target.repository)
    if manifest is not None:
        for tag in tags:
            target.registry.put_manifest(target.repository, tag, manifest)
    return manifest


class EnvironmentMaker:
    """Makes environment images: a locked Python environment, for the standalone runtime."""

    engine = ENGINE
    is_own = False

    @contextlib.contextmanager
    def make(
        self, source: GitTree, key: Key, target: Target, folder: Path, say: Callable[[str], None]
    ) -> Iterator[Made]:
        """Resolve and pack a commit's environment."""
        staged, wheels, image = (folder / name for name in ("stage", "wheels", "image"))
        for place in (staged, wheels, image):
            place.mkdir()
        stage(source, key, staged)
        todo = staged_plan(staged, key)
        interpreter = find_python(todo.python, asked_by=todo.asked_by)
        say(f"Resolving {key.source} for Python {interpreter.minor}, wheels only.")
        resolved = resolve(staged, todo, interpreter, output=wheels)
        environment = Environment(
            python=interpreter.minor, platform=key.platform, recipe=key.recipe_name, key=key.digest,
            added=resolved.added, project=todo.project, lock=resolved.lock,
        )  # fmt: skip
        packed = pack(environment, resolved.wheels, labels_of(key, target, base_digest="", uid="1000"), image)
        yield Made(
            push=lambda tag: _push_packed(target, packed, tag), python=interpreter.minor,
            packages=len(locked_packages(resolved.lock)), added=resolved.added, notes=todo.notes,
        )  # fmt: skip


def labels_of(key: Key, target: Target, *, base_digest: str, uid: str) -> dict[str, str]:
    """Say on the image what it is, of which commit, and what it lies on (nothing, if that is an environment)."""
    created = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return {
        Label.REVISION: target.commit,
        Label.SOURCE: target.source_url,
        Label.CREATED: created,
        Label.ENVIRONMENT_KEY: key.digest,
        Label.KIND: str(key.kind),
        Label.RECIPE: key.recipe_name,
        Label.BASE_DIGEST: base_digest,
        Label.UID: uid,
    }


def _push_packed(target: Target, packed: Packed, tag: str) -> str:
    for blob in packed.blobs:
        target.registry.upload(target.repository, blob.digest, blob.path)
    manifest = Manifest(content=packed.manifest, media_type=packed.media_type, digest=packed.digest)
    target.registry.put_manifest(target.repository, tag, manifest)
    return packed.digest


def _push(target: Target, made: Made, tags: tuple[str, ...], say: Callable[[str], None]) -> str:
    """Push under the first tag, and put the very same image under the others."""
    digest = made.push(tags[0])
    if target.registry.retag(target.repository, digest, tags[1:]) is None:
        raise RefusedError(f"{target.registry.address} took {target.reference(tags[0])} and does not have it.")
    for tag in tags:
        say(f"Pushed {target.reference(tag)}.")
    return digest


def _overwritten(target: Target, tags: tuple[str, ...], digest: str) -> tuple[str, ...]:
    """Say of tags that name another image already that somebody else pushed; the digest in the report is ours."""
    found = {tag: target.registry.head(target.repository, tag) for tag in tags}
    return tuple(
        f"{tag} names {other.digest if other else 'nothing'} and not what this job pushed: changed from elsewhere"
        for tag, other in found.items()
        if other is None or other.digest != digest
    )


def _fresh(key: Key, target: Target, policy: Policy, say: Callable[[str], None]) -> Manifest | None:
    """Find the image of a key, unless it is too old, or does not say that it is of this key."""
    tag = environment_tag(key.digest)
    found = target.registry.manifest(target.repository, tag)
    if found is None:
        return None
    labels = _annotations(found)
    if key.kind is Kind.CONTAINER:
        labels = target.registry.labels(target.repository, found)
        if labels.get(Label.ENVIRONMENT_KEY) != key.digest:
            say(f"{tag} names {found.digest}, which does not say that it is of this key: changed from elsewhere.")
            return None
    return None if _is_stale(labels, policy) else found


def _annotations(manifest: Manifest) -> Mapping[str, str]:
    found = manifest.document().get("annotations")
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _reuse(key: Key, target: Target, manifest: Manifest, engine: str, reason: str, began: float) -> Report:
    tags = target.tags(key.kind)
    for tag in tags:
        target.registry.put_manifest(target.repository, tag, manifest)
    return Report(
        outcome=Outcome.REUSED, reason=reason, key=key, engine=engine, commit=target.commit,
        reference=target.reference(tags[0]), digest=manifest.digest, tags=tags, seconds=time.monotonic() - began,
    )  # fmt: skip


def _is_stale(labels: Mapping[str, str], policy: Policy) -> bool:
    """Tell whether an image is too old; one that does not say when it was made is not."""
    text = labels.get(Label.CREATED)
    if policy.max_age_days == 0 or text is None:
        return False
    try:
        created_at = datetime.fromisoformat(text)
    except ValueError:
        return False
    aware = created_at if created_at.tzinfo else created_at.replace(tzinfo=UTC)
    return datetime.now(UTC) - aware > timedelta(days=policy.max_age_days)


def _why_built(policy: Policy, maker: Maker) -> str:
    if maker.is_own:
        return "something besides the commit was to decide what is built"
    if policy.is_refreshing:
        return "it was asked for anew"
    return "no image of this environment was there" if policy.is_reusing else "reuse was switched off"
