"""CI by hand: takes jobs as a runner would, pushes an image, and ends the job at a moment that the bench chooses.

For: `hook` and `waiters`, which measure what follows a job's success. Promises: the runner protocol and the registry
protocol over HTTP; the image is a valid one, as small as can be, with the labels that the builder writes.
Must not know: the spawner.
"""

import gzip
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from builder.entries import Kind
from builder.oci import MANIFEST_TYPES, Credentials, Manifest, RegistryClient, digest_of
from builder.tags import Label, commit_tag
from spawner.testing.gitlab.client import ProjectHandle
from spawner.testing.gitlab.runner.coordinator import Coordinator
from spawner.testing.gitlab.standin import StandIn

PIPELINE = "image_build:\n  stage: build\n  script:\n    - builder build --engine environment\n"
_TAKE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldJob:
    """A job that was taken and does not end by itself."""

    id: int
    token: str = field(repr=False)


class HandRunner:
    """The stand-in's runner, moved by hand; the stand-in is started without one."""

    def __init__(self, stand_in: StandIn) -> None:
        token = (stand_in.data / "runner.token").read_text().strip()
        self._coordinator = Coordinator(url=stand_in.url, token=token, system_id="s_bench")
        self._coordinator.verify()

    def take(self) -> HeldJob:
        """Take the next job; it then runs."""
        ends, mark = time.monotonic() + _TAKE_SECONDS, ""
        while time.monotonic() < ends:
            answer = self._coordinator.request_job(last_update=mark)
            mark = answer.last_update
            if answer.job is not None:
                return HeldJob(id=int(answer.job["id"]), token=str(answer.job["token"]))
        raise AssertionError(f"no job came within {_TAKE_SECONDS:g} s")

    def say(self, job: HeldJob, text: str) -> None:
        """Send the job's log."""
        self._coordinator.patch_trace(job.id, job.token, start=0, piece=text.encode())

    def succeed(self, job: HeldJob) -> datetime:
        """End the job well; return the moment before the stand-in was told."""
        at = datetime.now(UTC)
        answer = self._coordinator.update_job(job.id, job.token, state="success")
        assert answer.status_code == 200, answer
        return at

    def close(self) -> None:
        """Close the connection."""
        self._coordinator.close()


def push_image(stand_in: StandIn, project: ProjectHandle, sha: str, *, tag: str | None = None, key: str = "") -> None:
    """Push the smallest environment image under the commit's tag, or under another."""
    gitlab = stand_in.url.partition("://")[2]
    client = RegistryClient(
        stand_in.registry_url.partition("://")[2],
        credentials=lambda: Credentials(username=project.owner.username, password=project.owner.token),
        trusted_hosts=(gitlab,),
    )
    try:
        repository = project.path.lower()
        layer = gzip.compress(bytes(1024), mtime=0)
        labels = {Label.REVISION.value: sha, Label.KIND.value: Kind.ENVIRONMENT.value}
        if key:
            labels[Label.ENVIRONMENT_KEY.value] = key
        config = _configuration(labels)
        for blob in (layer, config):
            client.upload(repository, digest_of(blob), blob)
        manifest = _manifest(config, layer)
        client.put_manifest(repository, tag or commit_tag(sha, Kind.ENVIRONMENT), manifest)
    finally:
        client.close()


def _configuration(labels: Mapping[str, str]) -> bytes:
    layer = hashlib.sha256(bytes(1024)).hexdigest()
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
    }
    return json.dumps(document).encode()


def _manifest(config: bytes, layer: bytes) -> Manifest:
    kind = MANIFEST_TYPES[1]
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
    }
    content = json.dumps(document).encode()
    return Manifest(content=content, media_type=kind, digest=digest_of(content))


def _descriptor(media_type: str, content: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}
