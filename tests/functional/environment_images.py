"""Environment images made by hand and pushed as a CI job would push them, without a build.

For: tests that need an image to be there at once. Promises: a real image in the builder's own format, pushed over
the registry's protocol with a person's token; the same content gives the same digest.
Must not know: the spawner.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from builder.entries import Kind
from builder.environment import Environment, pack, render_lock, this_platform
from builder.oci import Credentials, Manifest, RegistryClient
from builder.tags import Label, commit_tag, environment_tag, repository
from spawner.runtimes import default_environment
from spawner.testing.gitlab.client import ProjectHandle, UserHandle
from spawner.testing.gitlab.standin import StandIn

NO_KEY = "0" * 64


def shipped_lock() -> str:
    """Return the shipped default's lock as images hold it: versions and hashes, for this machine alone."""
    oldest = {"python_full_version": f"{default_environment.python()}.0"}  # which patch level installs it is not known
    packages: dict[str, tuple[str, frozenset[str]]] = {}
    for block in default_environment.lock().replace("\\\n", " ").splitlines():
        pinned = block.partition("#")[0].partition("--hash")[0].strip()
        if not pinned:
            continue
        requirement = Requirement(pinned)
        if requirement.marker is None or requirement.marker.evaluate(oldest):
            version = next(iter(requirement.specifier)).version
            packages[requirement.name] = (version, frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", block)))
    return render_lock(packages)


@contextmanager
def registry(stand_in: StandIn, user: UserHandle) -> Iterator[RegistryClient]:
    """Open the stand-in's registry as a person."""
    client = RegistryClient(
        urlsplit(stand_in.registry_url).netloc,
        credentials=lambda: Credentials(username=user.username, password=user.token),
        trusted_hosts=[urlsplit(stand_in.url).netloc],
    )
    try:
        yield client
    finally:
        client.close()


def push_image(
    stand_in: StandIn,
    project: ProjectHandle,
    sha: str,
    *,
    tags: Sequence[str] | None = None,
    key: str = NO_KEY,
    lock: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> str:
    """Push the image of a commit; returns its digest.

    Without a lock it is the shipped default's, so that a session really starts. Without `tags` it gets the commit's
    own, and its key's where one is given. `labels` replace the commit's: equal ones make equal images.
    """
    environment = Environment(
        python=default_environment.python(),
        platform=this_platform(),
        recipe="python/1",
        key=key,
        lock=shipped_lock() if lock is None else lock,
    )
    told: Mapping[str, str] = {Label.KIND: "environment", Label.REVISION: sha, Label.ENVIRONMENT_KEY: key}
    own = [commit_tag(sha, Kind.ENVIRONMENT), *([environment_tag(key)] if key != NO_KEY else [])]
    where = repository(project.path)
    with tempfile.TemporaryDirectory() as folder, registry(stand_in, project.owner) as client:
        packed = pack(environment, [], labels or told, Path(folder))
        for blob in packed.blobs:
            client.upload(where, blob.digest, blob.path)
        manifest = Manifest(content=packed.manifest, media_type=packed.media_type, digest=packed.digest)
        for tag in own if tags is None else tags:
            client.put_manifest(where, tag, manifest)
    return packed.digest
