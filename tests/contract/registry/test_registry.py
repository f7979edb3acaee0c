"""The Registry port against the stand-in's registry, which checks real tokens: finding, labels, tags, blobs, refusals.

Covered too: whom a token is shown to, how many calls a lookup costs, an image that comes late, a registry that is away.
Left out: pushing (the builder's own tests), other people's registry software.
"""

import base64
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.oci import Credentials, Manifest, RegistryClient, digest_of
from spawner.errors import ImageUnavailable, ImageUnparsable, RegistryRefused, RegistryUnavailable, TokenRejected
from spawner.gitlab.registry import GitLabRegistry, RegistryHosts
from spawner.ports import Credential, CredentialKind
from spawner.testing.gitlab import ProjectHandle, StandIn, UserHandle

KEY = "ab" * 32
LABELS = {"io.slipway.environment-key": KEY, "org.opencontainers.image.created": "2026-01-01T12:00:00+00:00"}
LAYER = b"a lock of wheels"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The stand-in, two people, and an image of the first's private project."""

    standin: StandIn
    ada: UserHandle
    bob: UserHandle
    project: ProjectHandle
    digest: str

    @property
    def host(self) -> str:
        return self.standin.registry_url.partition("//")[2]

    @property
    def name(self) -> str:
        return f"{self.host}/{self.project.path}"

    def registry(self, *allowed: str) -> GitLabRegistry:
        return GitLabRegistry(gitlab_url=self.standin.url, hosts=RegistryHosts(allowed), timeout_seconds=5)


def credential(token: str) -> Credential:
    return Credential(forge="default", token=token, kind=CredentialKind.PERSONAL)


def push(standin: StandIn, user: UserHandle, repository: str, *tags: str) -> str:
    """Push a tiny image; return its digest."""
    client = RegistryClient(
        standin.registry_url.partition("//")[2],
        credentials=lambda: Credentials(username=user.username, password=user.token),
        trusted_hosts=(standin.url.partition("//")[2],),
    )
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Labels": LABELS}}).encode()
    for blob in (LAYER, config):
        client.upload(repository, digest_of(blob), blob)
    described = [
        {"mediaType": kind, "digest": digest_of(blob), "size": len(blob)}
        for kind, blob in (
            ("application/vnd.oci.image.config.v1+json", config),
            ("application/vnd.oci.image.layer.v1.tar", LAYER),
        )
    ]
    content = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described[0], "layers": [described[1]]}
    ).encode()
    manifest = Manifest(content=content, media_type=MANIFEST_TYPE, digest=digest_of(content))
    for tag in tags:
        client.put_manifest(repository, tag, manifest)
    client.close()
    return manifest.digest


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with StandIn.start(data=tmp_path_factory.mktemp("registry") / "gitlab", runner=False) as standin:
        ada, bob = standin.add_user("ada"), standin.add_user("bob")
        standin.add_group("lab", owner=ada)
        project = standin.add_project("lab/flights", owner=ada)
        digest = push(standin, ada, project.path, "env-abab", "latest")
        yield World(standin=standin, ada=ada, bob=bob, project=project, digest=digest)


def registry_calls(world: World, before: dict[str, int]) -> int:
    after = world.standin.requests()
    routes = [route for route in after if "/v2/" in route or "/jwt/auth" in route]
    return sum(after[route] - before.get(route, 0) for route in routes)


def test_an_image_is_found_with_its_labels_by_tag_and_by_digest(world: World) -> None:
    """A tag and a digest of the same image read the same; its pinned reference names the digest."""
    registry, ada = world.registry(), credential(world.ada.token)
    found = registry.find(f"{world.name}:env-abab", ada)
    assert found is not None
    assert (found.name, found.digest, found.labels, found.pinned) == (
        world.name,
        world.digest,
        LABELS,
        f"{world.name}@{world.digest}",
    )
    assert found.created_at is not None
    assert found.created_at.isoformat() == "2026-01-01T12:00:00+00:00"
    assert registry.find(found.pinned, ada) == found
    assert registry.find(f"{world.name}", ada) == found


@pytest.mark.parametrize("reference", ["{0}:absent", "{0}/no/such:env-abab", "{0}@sha256:" + "0" * 64])
def test_what_does_not_exist_is_none(world: World, reference: str) -> None:
    """An absent tag, repository or digest is a value, not an error."""
    assert world.registry().find(reference.format(world.name), credential(world.ada.token)) is None


@pytest.mark.parametrize("reference", ["", "x", "a b/c:d", "host/UPPER:tag", "host/name:tag:tag", "host/a@sha256:12"])
def test_what_is_no_reference_is_unparsable(world: World, reference: str) -> None:
    """A text that cannot be an image is an error of its own."""
    with pytest.raises(ImageUnparsable):
        world.registry().find(reference, None)


def test_tags_are_listed_and_an_absent_repository_has_none(world: World) -> None:
    """The tags of a repository; none for one that is not there."""
    registry, ada = world.registry(), credential(world.ada.token)
    assert sorted(registry.tags(world.name, ada)) == ["env-abab", "latest"]
    assert list(registry.tags(f"{world.name}/absent", ada)) == []


def test_a_stranger_is_refused_and_that_is_not_absence(world: World) -> None:
    """A person without the right gets "cannot be asked", never None: no silent default image."""
    registry = world.registry()
    assert registry.find(f"{world.name}:env-abab", credential(world.ada.token)) is not None
    with pytest.raises(RegistryRefused):
        registry.find(f"{world.name}:env-abab", credential(world.bob.token))
    with pytest.raises(RegistryRefused):
        registry.find(f"{world.name}:env-abab", credential("glpat-dead"))
    with pytest.raises(RegistryRefused):
        registry.find(f"{world.host}/never/seen:tag", credential(world.ada.token))


def test_a_new_process_learns_the_registry_from_gitlab_alone(world: World) -> None:
    """A stranger's, a dead and no token teach nothing; a member's does."""
    assert world.registry().find(f"{world.name}:env-abab", credential(world.bob.token)) is None
    assert world.registry().find(f"{world.name}:env-abab", None) is None
    with pytest.raises(TokenRejected):
        world.registry().find(f"{world.name}:env-abab", credential("glpat-dead"))
    registry = world.registry()
    assert registry.find(f"{world.name}/below/it:env-abab", credential(world.ada.token)) is None
    with pytest.raises(RegistryUnavailable):
        registry.find(f"{world.name}:env-abab", credential(world.bob.token))


def test_a_lookup_costs_few_calls(world: World) -> None:
    """The first look at a person's repository: 401, token, 404; a second: manifest and labels; six in all suffice."""
    registry, ada = world.registry(), credential(world.ada.token)
    before = world.standin.requests()
    registry.find(f"{world.name}:absent", ada)
    registry.find(f"{world.name}:env-abab", ada)
    assert registry_calls(world, before) == 5


def test_threads_of_two_people_are_never_confused(world: World) -> None:
    """One registry serves many threads, each with its own person's rights."""
    registry = world.registry()
    registry.find(f"{world.name}:env-abab", credential(world.ada.token))
    found: list[tuple[str, bool]] = []

    def look(user: UserHandle) -> None:
        for _ in range(4):
            try:
                found.append((user.username, registry.find(f"{world.name}:latest", credential(user.token)) is not None))
            except RegistryUnavailable:
                found.append((user.username, False))

    threads = [threading.Thread(target=look, args=(user,)) for user in (world.ada, world.bob) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [("ada", True)] * 16 + [("bob", False)] * 16


def test_a_manifest_and_its_blobs_are_handed_out_verified(world: World, tmp_path: Path) -> None:
    """The exact manifest and a layer, checked; one that is gone or too large leaves no file."""
    registry, ada = world.registry(), credential(world.ada.token)
    reference = f"{world.name}@{world.digest}"
    content = registry.manifest(reference, ada)
    assert digest_of(content) == world.digest
    registry.save_blob(reference, digest_of(LAYER), tmp_path / "layer", largest_bytes=100, credential=ada)
    assert (tmp_path / "layer").read_bytes() == LAYER
    for digest, most in ((digest_of(LAYER), 3), ("sha256:" + "0" * 64, 100)):
        with pytest.raises(ImageUnavailable):
            registry.save_blob(reference, digest, tmp_path / "other", largest_bytes=most, credential=ada)
    with pytest.raises(ImageUnavailable):
        registry.manifest(f"{world.name}:absent", ada)
    assert [file.name for file in tmp_path.iterdir()] == ["layer"]


def test_an_image_that_comes_late_is_absent_and_then_there(world: World) -> None:
    """A registry that lags behind a push says no, and a moment later yes."""
    registry, ada = world.registry(), credential(world.ada.token)
    registry.find(f"{world.name}:env-abab", ada)
    world.standin.arm("image_missing_after_success", times=1)
    try:
        found = [registry.find(f"{world.name}:env-abab", ada) is not None for _ in range(2)]
    finally:
        world.standin.clear_faults()
    assert found == [False, True]


@dataclass
class Spy:
    """A registry of somebody else's that notes what it is told."""

    address: str = ""
    seen: list[str] = field(default_factory=list)


@contextmanager
def spy(challenge: str, status: int = 401) -> Iterator[Spy]:
    """Serve a registry that answers everything with one status and a challenge."""
    found = Spy()

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.seen.append(str(self.headers))
            self.send_response(status)
            self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - the handler's own names

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answers) as server:
        found.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join(30)


def test_a_strangers_registry_is_not_asked(world: World) -> None:
    """A registry that is neither GitLab's nor allowed is not even spoken to, whatever path it uses."""
    with spy("") as other:
        assert (
            world.registry().find(f"{other.address}/{world.project.path}:env-abab", credential(world.ada.token)) is None
        )
    assert other.seen == []


def test_an_allowed_registry_sees_no_token_even_if_it_points_to_gitlab(world: World) -> None:
    """A challenge that borrows GitLab's token service gets nothing of the person's."""
    challenge = f'Bearer realm="{world.standin.url}/jwt/auth",service="container_registry"'
    with spy(challenge) as other:
        registry = world.registry(other.address)
        found = registry.find(f"{other.address}/{world.project.path}:env-abab", credential(world.ada.token))
    assert found is None
    assert other.seen
    words = [text.partition("Authorization: ")[2].partition("\n")[0].strip() for text in other.seen]
    assert {accesses(word) for word in words if word} <= {()}


def test_only_gitlabs_own_registry_is_logged_into(world: World) -> None:
    """What Docker is told to pull with: the person's token for a project's image, nothing for an allowed registry."""
    ada = credential(world.ada.token)
    own = world.registry().login(f"{world.name}@{world.digest}", ada)

    assert own is not None
    assert (own.username, own.password) == ("oauth2", world.ada.token)
    assert world.ada.token not in repr(own)
    assert world.registry().login(f"{world.name}@{world.digest}", None) is None
    assert world.registry().login(f"registry.example.org/{world.project.path}:latest", ada) is None
    assert world.registry(world.host).login(f"{world.name}:latest", ada) is None


def accesses(authorization: str) -> tuple[str, ...]:
    """Return what a registry token opens, or the authorization itself where it is none."""
    kind, _, token = authorization.partition(" ")
    if kind != "Bearer" or token.count(".") != 2:
        return (authorization,)
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return tuple(row["name"] for row in claims.get("access") or ())


def test_a_registry_that_is_away_is_unavailable(world: World) -> None:
    """Failing and unreachable registries are "cannot be asked"."""
    with spy("", status=503) as other:
        registry = world.registry(other.address)
        with pytest.raises(RegistryUnavailable):
            registry.find(f"{other.address}/a/b:c", None)
    with pytest.raises(RegistryUnavailable):
        registry.find(f"{other.address}/a/b:c", None)


def test_an_answer_that_says_nothing_is_not_absence(world: World) -> None:
    """A page where a manifest belongs, or a token service that gives none, is "cannot be asked", never None."""
    with spy("", status=200) as page:
        registry = world.registry(page.address)
        with pytest.raises(RegistryUnavailable):
            registry.find(f"{page.address}/a/b:c", None)
    with spy("", status=404) as tokens, spy(f'Bearer realm="http://{tokens.address}/token"') as other:
        registry = world.registry(other.address)
        with pytest.raises(RegistryUnavailable):
            registry.find(f"{other.address}/a/b:c", None)


def test_an_image_whose_configuration_is_lost_is_none(world: World) -> None:
    """A manifest whose configuration the registry has lost is no image that anybody could start."""
    lost = "sha256:" + "0" * 64
    content = json.dumps({"schemaVersion": 2, "config": {"digest": lost}, "layers": []}).encode()
    with half_there(content) as address:
        assert world.registry(address).find(f"{address}/a/b:c", None) is None


@contextmanager
def half_there(manifest: bytes) -> Iterator[str]:
    """Serve a registry that has one manifest and no blob."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_manifest = "/manifests/" in self.path
            body = manifest if is_manifest else b"{}"
            self.send_response(200 if is_manifest else 404)
            self.send_header("Content-Type", MANIFEST_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(30)
