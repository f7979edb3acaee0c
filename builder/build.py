"""From a commit to its image in the registry: reuse what there is, build what there is not.

The one flow behind `builder build` and `builder retag`. It promises: an image of the same key is put under the
commit's tag by two calls and nothing is built; of two jobs that build one key at once, the later one takes the
earlier one's image; the key's tag is pushed before the commit's, so that a commit's tag never names what its key does
not; nothing is pushed unless all of it was built.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from builder.copying import copied
from builder.engines.environment import Resolved, resolve
from builder.engines.python import find_python
from builder.environment import Environment, Packed, locked_packages, pack
from builder.errors import ProjectError, capped
from builder.oci import Manifest, RegistryClient
from builder.recipes import Plan, plan
from builder.report import Outcome, Report
from builder.stage import stage
from builder.tags import Label, environment_tag, published_tags

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.entries import Kind
    from builder.key import Key
    from builder.trees import GitTree

ENGINE = "environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where images go: a registry, a repository in it, the commit they are for, and where that commit came from.

    `extra_tags` are names that people gave the commit's image besides its own.
    """

    registry: RegistryClient
    repository: str
    commit: str
    source_url: str = ""
    extra_tags: tuple[str, ...] = ()

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
class _Made:
    packed: Packed
    python: str
    resolved: Resolved
    plan: Plan


def build(source: GitTree, key: Key, target: Target, policy: Policy, *, say: Callable[[str], None]) -> Report:
    """Bring the commit's image into the registry and report on it. BuilderError of every kind; safe to repeat."""
    began = time.monotonic()
    tags = target.tags(key.kind)
    tag = environment_tag(key.digest)
    if policy.is_reusing and not policy.is_refreshing:
        found = target.registry.manifest(target.repository, tag)
        if found is not None and not _is_stale(found, policy):
            reason = f"an image of the same environment exists as {tag}"
            return _reuse(key, target, found, reason, time.monotonic() - began)
        say(f"No fresh image of {tag} in {target.registry.address}/{target.repository}: building it.")
    with tempfile.TemporaryDirectory(prefix="slipway-build-") as folder:
        made = _make(source, key, target, Path(folder), say)
        if policy.is_reusing and not policy.is_refreshing:
            winner = target.registry.manifest(target.repository, tag)
            if winner is not None and not _is_stale(winner, policy):
                reason = f"another job built {tag} in the meantime"
                return _reuse(key, target, winner, reason, time.monotonic() - began)
        pushed = (*((tag,) if policy.is_reusing or policy.is_refreshing else ()), *tags)
        _push(target, made.packed, pushed, say)
    return Report(
        outcome=Outcome.BUILT, reason=_why_built(policy), key=key, engine=ENGINE, commit=target.commit,
        reference=target.reference(tags[0]), digest=made.packed.digest, tags=pushed,
        seconds=time.monotonic() - began, python=made.python, packages=len(locked_packages(made.resolved.lock)),
        added=made.resolved.added, notes=made.plan.notes,
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


def _make(source: GitTree, key: Key, target: Target, folder: Path, say: Callable[[str], None]) -> _Made:
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
    packed = pack(environment, resolved.wheels, _labels(key, target), image)
    return _Made(packed=packed, python=interpreter.minor, resolved=resolved, plan=todo)


def _labels(key: Key, target: Target) -> dict[str, str]:
    created = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return {
        Label.REVISION: target.commit,
        Label.SOURCE: target.source_url,
        Label.CREATED: created,
        Label.ENVIRONMENT_KEY: key.digest,
        Label.KIND: str(key.kind),
        Label.RECIPE: key.recipe_name,
        Label.BASE_DIGEST: "",  # an environment image lies on no other
        Label.UID: "1000",
    }


def _push(target: Target, packed: Packed, tags: tuple[str, ...], say: Callable[[str], None]) -> None:
    for blob in packed.blobs:
        target.registry.upload(target.repository, blob.digest, blob.path)
    manifest = Manifest(content=packed.manifest, media_type=packed.media_type, digest=packed.digest)
    for tag in tags:
        target.registry.put_manifest(target.repository, tag, manifest)
        say(f"Pushed {target.reference(tag)}.")


def _reuse(key: Key, target: Target, manifest: Manifest, reason: str, seconds: float) -> Report:
    began = time.monotonic()
    tags = target.tags(key.kind)
    for tag in tags:
        target.registry.put_manifest(target.repository, tag, manifest)
    return Report(
        outcome=Outcome.REUSED, reason=reason, key=key, engine=ENGINE, commit=target.commit,
        reference=target.reference(tags[0]), digest=manifest.digest, tags=tags,
        seconds=seconds + time.monotonic() - began,
    )  # fmt: skip


def _is_stale(manifest: Manifest, policy: Policy) -> bool:
    """Tell whether an image is too old, by its annotation; one that does not say when it was made is not."""
    annotations = manifest.document().get("annotations")
    text = annotations.get(Label.CREATED) if isinstance(annotations, dict) else None
    if policy.max_age_days == 0 or not isinstance(text, str):
        return False
    try:
        created_at = datetime.fromisoformat(text)
    except ValueError:
        return False
    aware = created_at if created_at.tzinfo else created_at.replace(tzinfo=UTC)
    return datetime.now(UTC) - aware > timedelta(days=policy.max_age_days)


def _why_built(policy: Policy) -> str:
    if policy.is_refreshing:
        return "it was asked for anew"
    return "no image of this environment was there" if policy.is_reusing else "reuse was switched off"
