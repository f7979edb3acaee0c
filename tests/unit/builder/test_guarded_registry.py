"""A real registry that demands real tokens: both families of media types, copies, and tokens that do not last.

Covered: single and several platforms of each family, retagged and copied between repositories with and without
mounting; a token that ends in the middle of a push, its life by its own claims, clocks that differ. Left out: what a
registry may answer besides (test_oci).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.build import Target, adopt
from builder.copying import copied
from builder.errors import RefusedError, UnauthorizedError, UnavailableError
from builder.oci import MANIFEST_TYPES, Credentials, Manifest, RegistryClient, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.unit.builder.conftest import Guarded

ADA = Credentials(username="ada", password="ada-secret")
EVE = Credentials(username="eve", password="eve-secret")
OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST = MANIFEST_TYPES
FAMILIES = {
    "oci": (OCI_INDEX, OCI_MANIFEST, "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar+gzip"),
    "docker": (DOCKER_LIST, DOCKER_MANIFEST, "application/vnd.docker.container.image.v1+json",
               "application/vnd.docker.image.rootfs.diff.tar.gzip"),
}  # fmt: skip
SHA = "a" * 40


@pytest.fixture
def client(guarded: Guarded) -> Iterator[RegistryClient]:
    """Ada's client, whose clock stands still."""
    made = RegistryClient(
        guarded.address, credentials=lambda: ADA, trusted_hosts=[guarded.token_host], clock=lambda: 0.0
    )
    yield made
    made.close()


@pytest.fixture
def service(guarded: Guarded) -> Iterator[Guarded]:
    """The registry, whose token service is as it was at the end."""
    kept = guarded.service.life_seconds
    yield guarded
    guarded.service.life_seconds = kept
    guarded.service.clock_ahead_seconds = 0
    guarded.service.ends_in_seconds = 300


def single(client: RegistryClient, repository: str, family: str, platform: str) -> Manifest:
    """Push an image of one platform, under its digest alone."""
    _, kind, config_kind, layer_kind = FAMILIES[family]
    layer = f"the files of {platform}".encode()
    config = json.dumps({"architecture": platform, "os": "linux", "config": {"Labels": {"for": platform}}}).encode()
    parts = {config_kind: config, layer_kind: layer}
    for content in parts.values():
        client.upload(repository, digest_of(content), content)
    rows = [{"mediaType": name, "digest": digest_of(part), "size": len(part)} for name, part in parts.items()]
    return put(client, repository, kind, {"config": rows[0], "layers": rows[1:]})


def put(client: RegistryClient, repository: str, kind: str, parts: dict[str, object], tag: str = "") -> Manifest:
    """Put a manifest under a tag, or under its digest."""
    content = json.dumps({"schemaVersion": 2, "mediaType": kind, **parts}).encode()
    manifest = Manifest(content=content, media_type=kind, digest=digest_of(content))
    client.put_manifest(repository, tag or manifest.digest, manifest)
    return manifest


def several(client: RegistryClient, repository: str, family: str, tag: str) -> tuple[Manifest, list[Manifest]]:
    """Push an image of two platforms."""
    singles = [single(client, repository, family, platform) for platform in ("amd64", "arm64")]
    rows = [
        {"mediaType": one.media_type, "digest": one.digest, "size": len(one.content),
         "platform": {"architecture": platform, "os": "linux"}}
        for one, platform in zip(singles, ("amd64", "arm64"), strict=True)
    ]  # fmt: skip
    return put(client, repository, FAMILIES[family][0], {"manifests": rows}, tag), singles


@pytest.mark.parametrize("family", FAMILIES)
def test_both_families_are_read_as_they_were_pushed(client: RegistryClient, family: str) -> None:
    """One platform and several, by tag and by digest, byte for byte, with type and size; retagged they are the same."""
    repository = f"families/{family}"
    index, singles = several(client, repository, family, "all")
    assert client.retag(repository, "all", ["again"]) == index
    for pushed, names in ((index, ("all", "again", index.digest)), *((one, (one.digest,)) for one in singles)):
        for name in names:
            head = client.head(repository, name)
            assert head is not None
            assert (head.digest, head.media_type, head.size_bytes) == (
                pushed.digest, pushed.media_type, len(pushed.content),
            )  # fmt: skip
            assert client.manifest(repository, name) == pushed
    assert [client.labels(repository, one) for one in singles] == [{"for": "amd64"}, {"for": "arm64"}]
    assert client.labels(repository, index) == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_of_several_platforms_is_copied_whole(client: RegistryClient, family: str, guarded: Guarded) -> None:
    """Another repository gets it under the commit's tag, with each platform and every layer of it."""
    source, repository = f"copies/{family}", f"copies/{family}/new"
    index, singles = several(client, source, family, "all")
    guarded.service.requests.clear()
    assert adopt(Target(registry=client, repository=repository, commit=SHA), source, "all", (SHA,)) == index
    assert client.manifest(repository, SHA) == index
    for one in singles:
        assert client.manifest(repository, one.digest) == one
        document = one.document()
        for row in (document["config"], *document["layers"]):
            assert client.blob(repository, row["digest"], largest_bytes=1000)
    asked = {tuple(scopes) for _, scopes in guarded.service.requests}
    assert (f"repository:{repository}:pull,push", f"repository:{source}:pull") in asked


class NeverMounts(RegistryClient):
    """A registry that would rather have every layer sent."""

    def mount(self, repository: str, digest: str, *, source_repository: str) -> bool:  # noqa: ARG002 - as the client's
        """Decline."""
        return False


def test_where_nothing_can_be_mounted_it_is_sent(guarded: Guarded) -> None:
    """Layers then go through this machine, and the copy is the same."""
    client = NeverMounts(guarded.address, credentials=lambda: ADA, trusted_hosts=[guarded.token_host])
    index, _ = several(client, "sent/from", "oci", "all")
    assert copied(client, "sent/from", "all", "sent/to") == index
    assert client.manifest("sent/to", index.digest) == index
    client.close()


def test_what_is_not_there_is_not_copied(client: RegistryClient) -> None:
    """A missing image is a value."""
    assert copied(client, "none/from", "x", "none/to") is None


def test_an_index_of_indexes_ends(client: RegistryClient) -> None:
    """One that names itself by ever more levels is refused in words."""
    index, _ = several(client, "deep/from", "oci", "0")
    for level in range(1, 4):
        row = {"mediaType": OCI_INDEX, "digest": index.digest, "size": len(index.content)}
        index = put(client, "deep/from", OCI_INDEX, {"manifests": [row], "annotations": {"level": str(level)}}, "deep")
    with pytest.raises(RefusedError, match="names too much"):
        copied(client, "deep/from", "deep", "deep/to")


def outdated(guarded: Guarded, client: RegistryClient, scope: str) -> None:
    """Let the token that the client holds for a scope be one that has ended, whatever the client believes."""
    guarded.service.ends_in_seconds = -600
    token = guarded.service.token("ada", [scope])
    guarded.service.ends_in_seconds = 300
    client._transport._tokens[scope] = (f"Bearer {token}", float("inf"))


def test_a_token_that_ends_in_the_middle_is_replaced(service: Guarded, client: RegistryClient, tmp_path: Path) -> None:
    """Between an upload's start and its body, before a manifest, and before a read: each is done with a new token."""
    repository = "ended/x"
    (tmp_path / "layer").write_bytes(b"x" * 200_000)
    digest = digest_of(b"x" * 200_000)
    push, pull = f"repository:{repository}:pull,push", f"repository:{repository}:pull"
    start = client._transport.call("POST", f"/v2/{repository}/blobs/uploads/", repository, push=True, data=b"")
    location = client._location(start)
    outdated(service, client, push)
    client._finish(repository, digest, tmp_path / "layer", location)
    outdated(service, client, push)
    pushed = single(client, repository, "oci", "amd64")
    outdated(service, client, pull)
    client.download(repository, digest, tmp_path / "back", largest_bytes=200_000)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "layer").read_bytes()
    outdated(service, client, pull)
    assert client.manifest(repository, pushed.digest) == pushed


def test_a_tokens_own_claims_tell_its_life(service: Guarded) -> None:
    """GitLab's answer holds the token alone: it is kept for most of what the token says."""
    now = [0.0]
    client = RegistryClient(
        service.address, credentials=lambda: ADA, trusted_hosts=[service.token_host], clock=lambda: now[0]
    )
    service.service.life_seconds = None
    service.service.requests.clear()
    counts = []
    for seconds in (0.0, 230.0, 250.0):
        now[0] = seconds
        assert client.tags("lives/x") == ()
        counts.append(len(service.service.requests))
    client.close()
    assert counts == [1, 1, 2]


@pytest.mark.parametrize("ahead_seconds", [40, -40])
def test_clocks_may_differ_a_little(service: Guarded, client: RegistryClient, ahead_seconds: int) -> None:
    """Tokens of a service whose clock is some seconds off serve, since no clock of ours is compared with it."""
    service.service.clock_ahead_seconds = ahead_seconds
    assert single(client, f"skewed/x{ahead_seconds + 100}", "oci", "amd64").digest


@pytest.mark.parametrize("ahead_seconds", [900, -900])
def test_clocks_that_differ_much_are_nobodys_missing_right(
    service: Guarded, client: RegistryClient, ahead_seconds: int
) -> None:
    """A registry that takes none of its service's tokens cannot be asked; it says nothing about rights or images."""
    service.service.clock_ahead_seconds = ahead_seconds
    acts: list[Callable[[], object]] = [
        lambda: client.manifest("skewed/y", "x"),
        lambda: client.upload("skewed/y", digest_of(b"x"), b"x"),
    ]
    for act in acts:
        with pytest.raises(UnavailableError, match="their clocks or their keys do not agree"):
            act()


def test_a_scope_that_was_left_out_is_a_missing_right(service: Guarded) -> None:
    """A token without the asked right is given silently; the registry's refusal then is the person's."""
    client = RegistryClient(service.address, credentials=lambda: EVE, trusted_hosts=[service.token_host])
    with pytest.raises(UnauthorizedError):
        client.put_manifest("left/out", "x", Manifest(content=b"{}", media_type=OCI_MANIFEST, digest=digest_of(b"{}")))
    client.close()
