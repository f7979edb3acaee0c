"""Finds images: the rungs of the ladder that a registry can be asked about.

For: `ImageService` collects its facts here. Promises: an image counts for a commit only where nothing on it says
otherwise; "cannot be asked" is raised (a TemporaryError) and never mistaken for "does not exist".
Must not know: builds, jobs, who waits, the database, HTTP.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, replace

import structlog

from builder.entries import Kind
from builder.tags import Label, candidate_tags, environment_tag, is_short_tag
from spawner.errors import NotFound, RegistryRefused, TemporaryError, foreign
from spawner.images.model import ChosenImage, Found, ImageSource
from spawner.images.reference import parse
from spawner.images.resolve import default_kind
from spawner.names import SHORT_SHA_LENGTH, CommitSha, ProjectPath
from spawner.ports import (
    Clock,
    Credential,
    EnvironmentKey,
    Forge,
    ImageKind,
    Project,
    Registry,
    RegistryImage,
)

_log = structlog.get_logger()

EXACT_ALONE_SECONDS = 0.1  # a near registry has answered by then; a far one is asked side by side; a guess
FINDS_AT_ONCE = 16
ANCESTORS_LIMIT = 100
OWN_TAG = re.compile(r"(?:[0-9a-f]{7}|[0-9a-f]{8}|[0-9a-f]{40})(?:-environment)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRungs:
    """What was found for a commit itself; `made_kinds` is what it says that its build makes, empty where unread."""

    exact: Found | None = None
    environment: Found | None = None
    made_kinds: frozenset[ImageKind] = frozenset()


class ImageFinder:
    """Asks the registry, with a person's own rights. `defaults` holds a reference per kind, as the settings name it."""

    def __init__(
        self,
        *,
        forge: Forge,
        registry: Registry,
        clock: Clock,
        defaults: Mapping[ImageKind, str],
        max_age_days: int,
    ) -> None:
        self._forge = forge
        self._registry = registry
        self._clock = clock
        self._defaults = defaults
        self._max_age_days = max_age_days
        self._pool = futures.ThreadPoolExecutor(max_workers=FINDS_AT_ONCE, thread_name_prefix="facts")

    def own(self, project: Project, sha: CommitSha, accepts: frozenset[ImageKind], credential: Credential) -> OwnRungs:
        """Return the commit's own image, or else the one of the same environment and what its build makes."""
        exact = self._pool.submit(self.exact, project, sha, accepts, credential)
        # Most launches of a built commit end here; reading a commit's environment costs two fetches.
        done, _ = futures.wait([exact], timeout=EXACT_ALONE_SECONDS)
        if done and exact.result() is not None:
            return OwnRungs(exact=exact.result())
        keys = self._pool.submit(self._forge.environment_keys, credential, project, sha)
        if exact.result() is not None:
            return OwnRungs(exact=exact.result())
        usable = [key for key in keys.result() if key.kind in accepts]
        return OwnRungs(
            environment=self._same_environment(project, usable, credential),
            made_kinds=frozenset(kind for key in keys.result() for kind in key.made_kinds),
        )

    def exact(
        self, project: Project, sha: CommitSha, accepts: frozenset[ImageKind], credential: Credential
    ) -> Found | None:
        """Return the image that a tag of the commit's own names."""
        name = project.registry_image
        if name is None:
            return None
        for kind in sorted(accepts):
            for tag in candidate_tags(sha, Kind(kind.value)):
                image = self._registry.find(f"{name}:{tag}", credential)
                if image is not None and _is_of_commit(image, tag, sha):
                    return self._found(image, kind, tag, note=_short_tag_note(image, tag, sha))
        return None

    def _same_environment(
        self, project: Project, keys: Sequence[EnvironmentKey], credential: Credential
    ) -> Found | None:
        for place in self._with_origins(project, credential):
            for key in keys:
                tag = environment_tag(key.key)
                image = self._registry.find(f"{place.registry_image}:{tag}", credential)
                if image is not None and image.labels.get(Label.ENVIRONMENT_KEY) == key.key:
                    return self._found(image, key.kind, tag, note=self._age_note(image))
        return None

    def _with_origins(self, project: Project, credential: Credential) -> Iterator[Project]:
        """Yield the project, then what it was forked from, to the root or to where this person may not look."""
        current: Project | None = project
        seen: set[int] = set()
        while current is not None and current.id not in seen:
            seen.add(current.id)
            if current.registry_image is not None:
                yield current
            try:
                origin = current.forked_from_id
                current = None if origin is None else self._forge.project(credential, origin)
            except NotFound:
                return

    def ancestor(
        self, project: Project, sha: CommitSha, accepts: frozenset[ImageKind], credential: Credential
    ) -> Found | None:
        """Return the image of the nearest ancestor that has one: one commit list and one tag list."""
        name = project.registry_image
        if name is None:
            return None
        tags = frozenset(self._registry.tags(name, credential))
        parents = self._forge.first_parents(credential, project.id, sha, limit=ANCESTORS_LIMIT)
        for parent in parents:
            for kind in sorted(accepts):
                for tag in candidate_tags(parent, Kind(kind.value)):
                    image = self._registry.find(f"{name}:{tag}", credential) if tag in tags else None
                    if image is not None and _is_of_commit(image, tag, parent):
                        return replace(self._found(image, kind, tag), built_for_commit=parent)
        return None

    def requested(self, reference: str, credential: Credential) -> Found | None:
        """Return the image that a launch names, of whatever kind it says it is; None also for one that we know not."""
        parsed = parse(reference)
        image = self._registry.find(str(parsed), credential)
        if image is None:
            return None
        kind = image.labels.get(Label.KIND, ImageKind.CONTAINER.value)
        if kind not in set(ImageKind):  # made by a later release, or by nobody of ours: no runtime here starts it
            _log.warning("image_of_unknown_kind", reference=str(parsed), kind=foreign(kind))
            return None
        return self._found(image, ImageKind(kind), parsed.tag or "")

    def default(self, accepts: frozenset[ImageKind]) -> ChosenImage | None:
        """Return what a launch without an image of its own gets; None when none is set, or it cannot be asked for."""
        kind = default_kind(accepts)
        reference = self._defaults.get(kind)
        if reference is None:
            return None
        pinned, digest = reference, reference.partition("@")[2]
        if not digest:
            try:
                image = self._registry.find(str(parse(reference)), None)
            except TemporaryError as error:
                _log.warning("default_image_not_asked", reference=reference, error=error.message)
                return None
            if image is None:
                _log.warning("default_image_missing", reference=reference)
                return None
            pinned, digest = image.pinned, image.digest
        return ChosenImage(
            reference=pinned, digest=digest, kind=kind, source=ImageSource.DEFAULT, reason="The default image."
        )

    def _found(self, image: RegistryImage, kind: ImageKind, tag: str, *, note: str = "") -> Found:
        revision = image.labels.get(Label.REVISION)
        return Found(
            image=image,
            kind=kind,
            tag=tag,
            note=note,
            environment_key=image.labels.get(Label.ENVIRONMENT_KEY),
            built_for_commit=CommitSha(revision) if revision else None,
        )

    def _age_note(self, image: RegistryImage) -> str:
        if image.created_at is None or self._max_age_days == 0:
            return ""
        days = (self._clock.now() - image.created_at).days
        return f"built {days} days ago" if days > self._max_age_days else ""

    def would_start(self, reference: str, accepts: frozenset[ImageKind], credential: Credential) -> bool:
        """Say whether a launch that names `reference` would get it, or for a commit's own, rung 2 or 3.

        The project and the commit are read from the reference; one that the person may not see is a "no", be it
        GitLab that says so or its registry.
        """
        try:
            return self._would_start(reference, accepts, credential)
        except RegistryRefused:
            return False

    def _would_start(self, reference: str, accepts: frozenset[ImageKind], credential: Credential) -> bool:
        parsed = parse(reference)
        if parsed.tag is None or not OWN_TAG.fullmatch(parsed.tag):
            return self.requested(str(parsed), credential) is not None
        try:
            project = self._forge.project(credential, ProjectPath(parsed.path))
            commit = self._forge.commit(credential, project.id, parsed.tag.removesuffix("-environment"))
        except NotFound:
            return self.requested(str(parsed), credential) is not None
        if commit is None:
            return False
        found = self.own(project, commit.sha, accepts, credential)
        return found.exact is not None or found.environment is not None


def _is_of_commit(image: RegistryImage, tag: str, sha: CommitSha) -> bool:
    """Say whether a tag's image is this commit's: a short tag may be another's, and its label then says so.

    A full tag always counts. The label of one that was put there by a job that reused an image names the first commit.
    """
    return not is_short_tag(tag) or image.labels.get(Label.REVISION, sha) == sha


def _short_tag_note(image: RegistryImage, tag: str, sha: CommitSha) -> str:
    is_short = len(tag) < len(sha) and tag in {sha[:SHORT_SHA_LENGTH], sha[: SHORT_SHA_LENGTH + 1]}
    return "matched by short tag" if is_short and Label.REVISION not in image.labels else ""
