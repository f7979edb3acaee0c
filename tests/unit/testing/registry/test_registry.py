"""The stand-in's registry over real HTTP.

Covered: tokens and challenges, blobs (one request, chunks, mount, ranges), manifests of all four media types with
exact bytes, tags and paging, referrers, deletion, faults, threads, skopeo. Left out: garbage collection; there is none.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Response

from spawner.testing.gitlab.registry import MEDIA_TYPES, delete_tag, repositories, tag_info, tags

if TYPE_CHECKING:
    from tests.unit.testing.registry.conftest import Registry

NAME = "grp/sub/proj/img"
PULL, PUSH, DELETE = (f"repository:{NAME}:{actions}" for actions in ("pull", "pull,push", "delete"))
ACCEPT = ", ".join(MEDIA_TYPES)
OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST = MEDIA_TYPES


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def unsigned(registry: "Registry") -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    return f"{head}.{registry.issuer.token(PULL).split('.')[1]}."


@pytest.mark.parametrize(
    ("authorization", "error"),
    [
        (lambda _: "", None),
        (lambda _: "Bearer nonsense", "invalid_token"),
        (lambda _: "Basic YTpi", "invalid_token"),
        (lambda registry: f"Bearer {unsigned(registry)}", "invalid_token"),
        (lambda registry: f"Bearer {registry.issuer.token(PULL)[:-8]}AAAAAAAA", "invalid_token"),
        (lambda registry: f"Bearer {registry.issuer.token(PULL, exp=time.time() - 1)}", "invalid_token"),
        (lambda registry: f"Bearer {registry.issuer.token(PULL, iss='other')}", "invalid_token"),
        (lambda registry: f"Bearer {registry.issuer.token(PULL, aud='other')}", "invalid_token"),
        (lambda registry: f"Bearer {registry.issuer.token()}", "insufficient_scope"),
        (lambda registry: f"Bearer {registry.issuer.token('repository:grp/sub/proj:pull')}", "insufficient_scope"),
        (lambda registry: f"Bearer {registry.issuer.token(DELETE)}", "insufficient_scope"),
    ],
)
def test_a_token_that_does_not_grant_is_challenged(
    registry: "Registry", authorization: Callable[["Registry"], str], error: str | None
) -> None:
    """Without a token that grants the action, the answer is 401 and names realm, service and scope."""
    answer = registry.call("GET", f"/v2/{NAME}/tags/list", Authorization=authorization(registry))
    ending = f',error="{error}"' if error else ""
    expected = f'Bearer realm="{registry.url}/jwt/auth",service="container_registry",scope="{PULL}"{ending}'
    assert (401, expected) == (answer.status_code, answer.headers["WWW-Authenticate"])
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_the_root_asks_for_any_valid_token(registry: "Registry") -> None:
    """`GET /v2/` is 401 without a token and 200 with one that grants nothing."""
    assert [
        registry.call("GET", "/v2/", Authorization="").status_code,
        registry.call("GET", "/v2/").status_code,
    ] == [401, 200]


@pytest.mark.parametrize(
    ("method", "path", "granted", "refused"),
    [
        ("PUT", "manifests/latest", "pull,push", "pull"),
        ("POST", "blobs/uploads/", "pull,push", "pull"),
        ("DELETE", "manifests/latest", "delete", "pull,push"),
        ("GET", "blobs/sha256:" + "0" * 64, "pull", "delete"),
    ],
)
def test_each_action_needs_its_own_grant(
    registry: "Registry", method: str, path: str, granted: str, refused: str
) -> None:
    """Reading asks for pull, writing for pull and push, deleting for delete."""
    with_grant = registry.call(method, f"/v2/{NAME}/{path}", f"repository:{NAME}:{granted}", body=b"")
    without = registry.call(method, f"/v2/{NAME}/{path}", f"repository:{NAME}:{refused}", body=b"")
    assert with_grant.status_code != 401
    assert without.status_code == 401


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_an_image_comes_back_byte_for_byte(registry: "Registry", media_type: str) -> None:
    """A pushed manifest is read by tag and by digest with the same bytes, type and digest."""
    content = registry.push_image(NAME, "v1", media_type=media_type)
    digest = digest_of(content)
    for reference in ("v1", digest):
        for method, body in (("GET", content), ("HEAD", b"")):
            answer = registry.call(method, f"/v2/{NAME}/manifests/{reference}", PULL, Accept=ACCEPT)
            seen = (answer.status_code, answer.content, answer.headers["Content-Type"])
            assert (200, body, media_type) == seen
            assert [str(len(content)), digest] == [
                answer.headers["Content-Length"],
                answer.headers["Docker-Content-Digest"],
            ]


@pytest.mark.parametrize(("list_type", "image_type"), [(OCI_INDEX, OCI_MANIFEST), (DOCKER_LIST, DOCKER_MANIFEST)])
def test_an_index_needs_its_images_first(registry: "Registry", list_type: str, image_type: str) -> None:
    """An index that lists an unknown image is refused; once the image is there it is kept and sized over its images."""
    image = json.dumps({"nothing": "yet"}).encode()

    def index() -> bytes:
        part = {"mediaType": image_type, "digest": digest_of(image), "size": len(image)}
        return json.dumps({"schemaVersion": 2, "mediaType": list_type, "manifests": [part]}).encode()

    refused = registry.push_manifest(NAME, "multi", index(), media_type=list_type)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, "MANIFEST_BLOB_UNKNOWN")
    image = registry.push_image(NAME, "one", media_type=image_type, layers=[b"12345", b"678"])
    assert registry.push_manifest(NAME, "multi", index(), media_type=list_type).status_code == 201
    found = tag_info(registry.data, NAME, "multi")
    assert found is not None
    assert (digest_of(index()), list_type, 8) == (found.digest, found.media_type, found.size_bytes)


@pytest.mark.parametrize(
    ("accept", "status"),
    [(ACCEPT, 200), (OCI_MANIFEST, 200), (f"{OCI_INDEX}, {OCI_MANIFEST};q=0.5", 200), (OCI_INDEX, 404), ("*/*", 404)],
)
def test_a_manifest_is_shown_to_who_accepts_its_type(registry: "Registry", accept: str, status: int) -> None:
    """An OCI manifest is unknown to a client that does not name its type, as in GitLab's registry."""
    registry.push_image(NAME, "v1", media_type=OCI_MANIFEST)
    assert status == registry.call("HEAD", f"/v2/{NAME}/manifests/v1", PULL, Accept=accept).status_code


@pytest.mark.parametrize(
    ("content", "media_type", "reference", "code"),
    [
        (b"{", OCI_MANIFEST, "v1", "MANIFEST_INVALID"),
        (b"[]", OCI_MANIFEST, "v1", "MANIFEST_INVALID"),
        (b'{"schemaVersion": 1, "layers": []}', OCI_MANIFEST, "v1", "MANIFEST_INVALID"),
        (b'{"schemaVersion": 2}', OCI_MANIFEST, "v1", "MANIFEST_INVALID"),
        (b'{"schemaVersion": 2, "layers": []}', "text/plain", "v1", "MANIFEST_INVALID"),
        (b'{"schemaVersion": 2, "layers": [{"digest": "sha256:0"}]}', OCI_MANIFEST, "v1", "MANIFEST_BLOB_UNKNOWN"),
        (b'{"schemaVersion": 2, "layers": []}', OCI_MANIFEST, "sha256:" + "0" * 64, "DIGEST_INVALID"),
        (b'{"schemaVersion": 2, "layers": []}', OCI_MANIFEST, "-bad", "TAG_INVALID"),
    ],
)
def test_a_wrong_manifest_is_refused(
    registry: "Registry", content: bytes, media_type: str, reference: str, code: str
) -> None:
    """A manifest that is malformed, incomplete, or not what its digest says is refused with the code for it."""
    answer = registry.push_manifest(NAME, reference, content, media_type=media_type)
    assert (400, code) == (answer.status_code, answer.json()["errors"][0]["code"])
    assert repositories(registry.data) == ()


@pytest.mark.parametrize("name", ["Upper/case", "a/../b", "a/_b", "a//b", "a" * 256])
def test_a_repository_needs_a_proper_name(registry: "Registry", name: str) -> None:
    """A name that the specification does not allow reaches no file."""
    answer = registry.call("POST", f"/v2/{name}/blobs/uploads/", f"repository:{name}:pull,push")
    assert answer.status_code in {308, 400, 401, 404}
    assert not registry.data.exists()


def test_a_blob_goes_up_in_chunks(registry: "Registry") -> None:
    """Chunks are added in order, a wrong start is 416 with the real end, and the digest is checked at the end."""
    answer = registry.call("POST", f"/v2/{NAME}/blobs/uploads/", PUSH)
    place = answer.headers["Location"]
    assert (answer.status_code, answer.headers["Range"]) == (202, "0-0")
    first = registry.call("PATCH", place, PUSH, body=b"hello ", Content_Range="0-5")
    assert (first.status_code, first.headers["Range"]) == (202, "0-5")
    wrong = registry.call("PATCH", place, PUSH, body=b"x", Content_Range="3-3")
    assert (wrong.status_code, wrong.headers["Range"]) == (416, "0-5")
    asked = registry.call("GET", place, PUSH)
    assert (asked.status_code, asked.headers["Range"]) == (204, "0-5")
    digest = digest_of(b"hello world")
    done = registry.call("PUT", f"{place}?digest={digest}", PUSH, body=b"world")
    assert (201, digest) == (done.status_code, done.headers["Docker-Content-Digest"])
    assert registry.call("GET", done.headers["Location"], PULL).content == b"hello world"
    assert registry.call("PUT", f"{place}?digest={digest}", PUSH, body=b"").status_code == 404


def test_a_blob_of_another_digest_is_refused(registry: "Registry") -> None:
    """Bytes that do not have the promised digest are dropped and the blob stays unknown."""
    digest = digest_of(b"promised")
    answer = registry.call("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", PUSH, body=b"sent")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")
    assert registry.call("HEAD", f"/v2/{NAME}/blobs/{digest}", PULL).status_code == 404


def test_a_blob_is_read_in_parts(registry: "Registry") -> None:
    """HEAD tells size and digest; a Range is answered with 206 and exactly that part."""
    digest = registry.push_blob(NAME, b"0123456789")["digest"]
    head = registry.call("HEAD", f"/v2/{NAME}/blobs/{digest}", PULL)
    assert ("10", digest) == (head.headers["Content-Length"], head.headers["Docker-Content-Digest"])
    part = registry.call("GET", f"/v2/{NAME}/blobs/{digest}", PULL, Range="bytes=2-4")
    assert (part.status_code, part.content) == (206, b"234")


def test_a_blob_is_mounted_only_by_who_may_read_it(registry: "Registry") -> None:
    """A mount is 201 with a grant to pull from the source; without one, or without the blob, it is an upload (202)."""
    digest = registry.push_blob("other/img", b"shared")["digest"]
    path = f"/v2/{NAME}/blobs/uploads/?mount={digest}&from=other/img"
    assert registry.call("HEAD", f"/v2/{NAME}/blobs/{digest}", PULL).status_code == 404
    assert registry.call("POST", path, PUSH).status_code == 202
    assert (
        registry.call("POST", path.replace(digest, digest_of(b"-")), PUSH, "repository:other/img:pull").status_code
        == 202
    )
    assert registry.call("POST", path, PUSH, "repository:other/img:pull").status_code == 201
    assert registry.call("GET", f"/v2/{NAME}/blobs/{digest}", PULL).content == b"shared"


def test_tags_come_in_pages(registry: "Registry") -> None:
    """Tags are sorted, `n` limits, and the Link leads through the rest."""
    content = registry.push_image(NAME, "c", media_type=OCI_MANIFEST)
    for tag in ("a", "b", "d", "e"):
        registry.push_manifest(NAME, tag, content, media_type=OCI_MANIFEST)
    seen, path = [], f"/v2/{NAME}/tags/list?n=2"
    while path:
        answer = registry.call("GET", path, PULL)
        seen.append(answer.json())
        path = answer.links.get("next", {}).get("url", "")
    assert [{"name": NAME, "tags": part} for part in (["a", "b"], ["c", "d"], ["e"])] == seen
    assert registry.call("GET", f"/v2/{NAME}/tags/list?n=x", PULL).status_code == 400
    unknown = registry.call("GET", "/v2/no/such/tags/list", "repository:no/such:pull")
    assert (unknown.status_code, unknown.json()["errors"][0]["code"]) == (404, "NAME_UNKNOWN")


def test_the_catalog_needs_its_own_grant(registry: "Registry") -> None:
    """The list of repositories is given to `registry:catalog:*` only."""
    registry.push_image(NAME, "v1", media_type=OCI_MANIFEST)
    registry.push_image("grp/sub", "v1", media_type=OCI_MANIFEST)
    assert registry.call("GET", "/v2/_catalog", PULL).status_code == 401
    assert registry.call("GET", "/v2/_catalog", "registry:catalog:*").json() == {"repositories": ["grp/sub", NAME]}


def test_referrers_are_found_by_subject_and_type(registry: "Registry") -> None:
    """A manifest with a subject is announced by OCI-Subject and listed, filtered by artifact type on demand."""
    subject = digest_of(registry.push_image(NAME, "v1", media_type=OCI_MANIFEST))
    empty = registry.push_blob(NAME, b"{}")
    document: dict[str, Any] = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x-sbom",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", **empty}, "layers": [],
        "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}, "annotations": {"k": "v"},
    }  # fmt: skip
    content = json.dumps(document).encode()
    pushed = registry.push_manifest(NAME, digest_of(content), content, media_type=OCI_MANIFEST)
    assert pushed.headers["OCI-Subject"] == subject
    row = {
        "mediaType": OCI_MANIFEST, "digest": digest_of(content), "size": len(content),
        "artifactType": "application/x-sbom", "annotations": {"k": "v"},
    }  # fmt: skip
    for query, listed in (("", [row]), ("?artifactType=application/x-sbom", [row]), ("?artifactType=a/b", [])):
        answer = registry.call("GET", f"/v2/{NAME}/referrers/{subject}{query}", PULL)
        assert {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed} == answer.json()
        assert ("artifactType" if query else None) == answer.headers.get("OCI-Filters-Applied")


def test_a_tag_goes_and_its_manifest_stays(registry: "Registry") -> None:
    """Deleting a tag leaves the digest; deleting the digest takes every tag with it."""
    content = registry.push_image(NAME, "a", media_type=OCI_MANIFEST)
    for tag in ("b", "c"):
        registry.push_manifest(NAME, tag, content, media_type=OCI_MANIFEST)
    assert registry.call("DELETE", f"/v2/{NAME}/manifests/a", DELETE).status_code == 202
    assert [delete_tag(registry.data, NAME, "b") for _ in range(2)] == [True, False]
    assert tags(registry.data, NAME) == ("c",)
    path = f"/v2/{NAME}/manifests/{digest_of(content)}"
    assert [registry.call("DELETE", path, DELETE).status_code for _ in range(2)] == [202, 404]
    assert tags(registry.data, NAME) == ()
    assert registry.call("GET", path, PULL, Accept=ACCEPT).status_code == 404


def test_what_is_stored_is_told_without_http(registry: "Registry") -> None:
    """Repositories, tags, digest, size and the time of the configuration are read from the folder."""
    content = registry.push_image(NAME, "v1", media_type=OCI_MANIFEST, layers=[b"123", b"4567"])
    found = tag_info(registry.data, NAME, "v1")
    assert found is not None
    made_at = datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)
    assert (digest_of(content), 7, made_at) == (found.digest, found.size_bytes, found.created_at)
    assert (repositories(registry.data), tags(registry.data, NAME)) == ((NAME,), ("v1",))
    assert tag_info(registry.data, NAME, "gone") is None
    assert tags(registry.data, "no/such") == ()


def test_a_fault_stands_in_front_of_everything(registry: "Registry") -> None:
    """What `intercept` answers is sent as it is, and it is told the method, the repository and the reference."""
    registry.answers.append(Response("down", status=503))
    answer = registry.call("HEAD", f"/v2/{NAME}/manifests/v1", PULL)
    assert answer.status_code == 503
    registry.call("POST", f"/v2/{NAME}/blobs/uploads/", PUSH)
    registry.call("GET", f"/v2/{NAME}/tags/list", PULL)
    registry.call("GET", "/v2/")
    expected = [("HEAD", NAME, "v1"), ("POST", NAME, "uploads"), ("GET", NAME, "tags"), ("GET", "", "")]
    assert expected == registry.intercepted


def test_many_at_once_lose_nothing(registry: "Registry") -> None:
    """Images pushed by eight threads at once, sharing layers, are all there and whole."""

    def push(number: int) -> str:
        layers = [b"same" * 5000, f"own {number}".encode()]
        return digest_of(registry.push_image(NAME, f"t{number}", media_type=OCI_MANIFEST, layers=layers))

    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(push, range(24)))
    found = [tag_info(registry.data, NAME, f"t{number}") for number in range(24)]
    assert digests == [info.digest for info in found if info]
    assert not list(registry.data.glob("new-*"))


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed: apt-get install skopeo")
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_skopeo_pushes_and_pulls(registry: "Registry", tmp_path: Path, form: str) -> None:
    """Skopeo copies an image in and out through the token dance, and finds the same digest."""
    source = tmp_path / "source"
    source.mkdir()
    layer = tmp_path / "layer.tar"
    subprocess.run(["tar", "-cf", str(layer), "-C", "/etc", "hostname"], check=True, timeout=20)
    _write_layout(source, layer.read_bytes())
    target = f"docker://{registry.url.removeprefix('http://')}/{NAME}:{form}"
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false", "--dest-creds", "u:p"]
    _skopeo("copy", *plain, "--format", form, f"oci:{source}:x", target)
    back = tmp_path / "back"
    _skopeo("copy", "--src-tls-verify=false", "--src-creds", "u:p", target, f"dir:{back}")
    shown = _skopeo("inspect", "--tls-verify=false", "--creds", "u:p", target)
    found = tag_info(registry.data, NAME, form)
    assert found is not None
    assert found.digest == json.loads(shown)["Digest"] == digest_of((back / "manifest.json").read_bytes())


def _skopeo(command: str, *arguments: str) -> str:
    ended = subprocess.run(
        ["skopeo", "--insecure-policy", command, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _write_layout(folder: Path, layer: bytes) -> None:
    """Write an OCI image layout with one image tagged `x`."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(content: bytes, media_type: str) -> dict[str, Any]:
        digest = digest_of(content)
        (blobs / digest.removeprefix("sha256:")).write_bytes(content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    config = {
        "architecture": "amd64", "os": "linux", "config": {}, "history": [],
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [put(layer, "application/vnd.oci.image.layer.v1.tar")],
    }  # fmt: skip
    described = put(json.dumps(manifest).encode(), OCI_MANIFEST)
    described["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
