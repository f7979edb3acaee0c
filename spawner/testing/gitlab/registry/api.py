"""The registry's HTTP routes: OCI distribution v1.1 as docker, skopeo, buildah and our own client speak it.

Promises: exact bytes and digests back; tokens checked on every request; errors as the specification writes them.
Must not know: who may do what (the token says it), how anything is stored.
Source: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#endpoints
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

from flask import Blueprint, Response, jsonify, request, send_file

from spawner.testing.gitlab.registry import manifests
from spawner.testing.gitlab.registry.faults import RefusalError
from spawner.testing.gitlab.registry.storage import Manifest, Storage, digest_of, is_digest
from spawner.testing.gitlab.registry.tokens import TokenGate

Intercept = Callable[[str, str, str], Response | None]

_LARGEST_MANIFEST_BYTES = 4 << 20
_MOST_LISTED = 10_000
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d+)-(\d+)(?:/.*)?")


def registry_blueprint(
    *,
    data: Path,
    public_key_pem: bytes,
    issuer: str,
    service: str,
    realm: str,
    intercept: Intercept | None = None,
) -> Blueprint:
    """Return the routes `/v2/…` over the folder `data`, which is made when the first thing is stored.

    `intercept(method, repository, reference)` is asked before anything else; an answer from it is sent as it is.
    `reference` is a tag, a digest, `uploads`, `tags`, `referrers`, or empty for `/v2/` and the catalog.
    """
    gate = TokenGate(public_key_pem=public_key_pem, issuer=issuer, service=service, realm=realm)
    routes = _Routes(storage=Storage(data=data), gate=gate)
    blueprint = Blueprint("registry", __name__)
    for rule, view, methods in (
        ("/v2/", routes.version, ["GET"]),
        ("/v2/_catalog", routes.catalog, ["GET"]),
        ("/v2/<path:name>/tags/list", routes.tags, ["GET"]),
        ("/v2/<path:name>/referrers/<reference>", routes.referrers, ["GET"]),
        ("/v2/<path:name>/manifests/<reference>", routes.manifest, ["GET", "PUT", "DELETE"]),
        ("/v2/<path:name>/blobs/<reference>", routes.blob, ["GET", "DELETE"]),
        ("/v2/<path:name>/blobs/uploads/", routes.start_upload, ["POST"]),
        ("/v2/<path:name>/blobs/uploads/<upload>", routes.upload, ["GET", "PATCH", "PUT", "DELETE"]),
    ):
        blueprint.add_url_rule(rule, view.__name__, view, methods=methods)
    blueprint.before_request(lambda: _intercepted(intercept))
    blueprint.after_request(_stamped)
    blueprint.register_error_handler(RefusalError, _refused)
    return blueprint


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routes:
    storage: Storage
    gate: TokenGate

    def version(self) -> Response:
        self._require("", ())
        return jsonify({})

    def catalog(self) -> Response:
        self.gate.require(_authorization(), scope="registry:catalog", actions=("*",))
        return _page("/v2/_catalog", "repositories", self.storage.repositories(), {})

    def tags(self, name: str) -> Response:
        self._require(name, ("pull",))
        found = self.storage.tags(name)
        if found is None:
            raise RefusalError("NAME_UNKNOWN", {"name": name})
        return _page(f"/v2/{name}/tags/list", "tags", found, {"name": name})

    def referrers(self, name: str, reference: str) -> Response:
        self._require(name, ("pull",))
        if not is_digest(reference):
            raise RefusalError("DIGEST_INVALID", reference[:255])
        wanted = request.args.get("artifactType")
        listed = []
        for found in self.storage.revisions(name):
            document = manifests.read_manifest(found.content, media_type=found.media_type)
            if manifests.subject_of(document) == reference:
                row = manifests.referrer(found.content, document, digest=found.digest, media_type=found.media_type)
                if wanted is None or row.get("artifactType") == wanted:
                    listed.append(row)
        answer = jsonify({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": listed})
        answer.content_type = manifests.OCI_INDEX
        if wanted is not None:
            answer.headers["OCI-Filters-Applied"] = "artifactType"
        return answer

    def manifest(self, name: str, reference: str) -> Response:
        match request.method:
            case "PUT":
                return self._put_manifest(name, reference)
            case "DELETE":
                return self._delete_manifest(name, reference)
            case _:
                return self._get_manifest(name, reference)

    def _get_manifest(self, name: str, reference: str) -> Response:
        self._require(name, ("pull",))
        found = self.storage.manifest(name, reference)
        if found is None or not _is_accepted(found.media_type):
            raise RefusalError("MANIFEST_UNKNOWN", {"name": name, "reference": reference})
        answer = Response(found.content, content_type=found.media_type)
        answer.headers["Docker-Content-Digest"] = found.digest
        answer.set_etag(found.digest)
        return answer

    def _put_manifest(self, name: str, reference: str) -> Response:
        self._require(name, ("pull", "push"))
        content = request.stream.read(_LARGEST_MANIFEST_BYTES + 1)
        if len(content) > _LARGEST_MANIFEST_BYTES:
            raise RefusalError("SIZE_INVALID")
        media_type = request.mimetype
        document = manifests.read_manifest(content, media_type=media_type)
        missing = [part for part in manifests.needed_blobs(document) if not self._has_blob(name, part)]
        missing += [
            part
            for part in manifests.needed_manifests(document)
            if not is_digest(part) or self.storage.manifest(name, part) is None
        ]
        if missing:
            raise RefusalError("MANIFEST_BLOB_UNKNOWN", [{"digest": part} for part in missing])
        digest = digest_of(content)
        tag = None if ":" in reference else reference
        if tag is None and reference != digest:
            raise RefusalError("DIGEST_INVALID", {"given": reference[:255], "found": digest})
        self.storage.put_manifest(name, Manifest(digest=digest, media_type=media_type, content=content), tag=tag)
        answer = _created(f"/v2/{name}/manifests/{digest}", digest)
        subject = manifests.subject_of(document)
        if subject is not None:
            answer.headers["OCI-Subject"] = subject
        return answer

    def _delete_manifest(self, name: str, reference: str) -> Response:
        self._require(name, ("delete",))
        delete = self.storage.delete_manifest if ":" in reference else self.storage.delete_tag
        if not delete(name, reference):
            raise RefusalError("MANIFEST_UNKNOWN", {"name": name, "reference": reference})
        return Response(status=HTTPStatus.ACCEPTED)

    def blob(self, name: str, reference: str) -> Response:
        is_delete = request.method == "DELETE"
        self._require(name, ("delete",) if is_delete else ("pull",))
        path = self.storage.blob(name, reference)
        if path is None:
            raise RefusalError("BLOB_UNKNOWN", {"digest": reference})
        if is_delete:
            self.storage.unlink_blob(name, reference)
            return Response(status=HTTPStatus.ACCEPTED)
        answer = send_file(path.resolve(), mimetype="application/octet-stream", conditional=True, etag=reference)
        answer.headers["Docker-Content-Digest"] = reference
        return answer

    def start_upload(self, name: str) -> Response:
        self._require(name, ("pull", "push"))
        mount, source = request.args.get("mount", ""), request.args.get("from", "")
        if mount and source and self._may_mount(source, mount):
            self.storage.link_blob(name, mount)
            return _created(f"/v2/{name}/blobs/{mount}", mount)
        upload = self.storage.start_upload(name)
        digest = request.args.get("digest")
        if digest is None:
            return _on_its_way(name, upload, size=0)
        self.storage.append(name, upload, request.stream)
        self.storage.finish_upload(name, upload, digest=digest)
        return _created(f"/v2/{name}/blobs/{digest}", digest)

    def upload(self, name: str, upload: str) -> Response:
        self._require(name, ("pull", "push"))
        match request.method:
            case "PATCH":
                size = self.storage.append(name, upload, request.stream, start=_chunk_start())
                return _on_its_way(name, upload, size=size)
            case "PUT":
                return self._finish(name, upload)
            case "DELETE":
                if not self.storage.drop_upload(name, upload):
                    raise RefusalError("BLOB_UPLOAD_UNKNOWN", upload)
                return Response(status=HTTPStatus.NO_CONTENT)
            case _:
                answer = _on_its_way(name, upload, size=self.storage.upload_bytes(name, upload))
                answer.status_code = HTTPStatus.NO_CONTENT
                return answer

    def _finish(self, name: str, upload: str) -> Response:
        digest = request.args.get("digest", "")
        if not is_digest(digest):
            raise RefusalError("DIGEST_INVALID", digest[:255])
        self.storage.append(name, upload, request.stream, start=_chunk_start())
        self.storage.finish_upload(name, upload, digest=digest)
        return _created(f"/v2/{name}/blobs/{digest}", digest)

    def _may_mount(self, source: str, digest: str) -> bool:
        if not self.gate.grants(_authorization(), scope=f"repository:{source}", action="pull"):
            return False
        return self._has_blob(source, digest)

    def _has_blob(self, name: str, digest: str) -> bool:
        return is_digest(digest) and self.storage.blob(name, digest) is not None

    def _require(self, name: str, actions: Sequence[str]) -> None:
        self.gate.require(_authorization(), scope=f"repository:{name}" if name else "", actions=actions)


def _authorization() -> str:
    return request.headers.get("Authorization", "")


def _intercepted(intercept: Intercept | None) -> Response | None:
    if intercept is None:
        return None
    found = request.view_args or {}
    if "upload" in found or request.endpoint == "registry.start_upload":
        reference = "uploads"
    elif request.endpoint == "registry.tags":
        reference = "tags"
    elif request.endpoint == "registry.referrers":
        reference = "referrers"
    else:
        reference = found.get("reference", "")
    return intercept(request.method, found.get("name", ""), reference)


def _stamped(answer: Response) -> Response:
    answer.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
    return answer


def _refused(refusal: RefusalError) -> Response:
    answer = jsonify(refusal.body)
    answer.status_code = refusal.status
    answer.headers.update(refusal.headers)
    return answer


def _is_accepted(media_type: str) -> bool:
    """Say whether the client named this type; as in distribution, `*/*` stands for Docker's image manifest only."""
    if media_type == manifests.DOCKER_MANIFEST:
        return True
    named = {part.split(";")[0].strip() for part in ",".join(request.headers.getlist("Accept")).split(",")}
    return media_type in named


def _page(path: str, key: str, found: Sequence[str], body: dict[str, str]) -> Response:
    text, last = request.args.get("n"), request.args.get("last", "")
    if text is not None and not text.isdecimal():
        raise RefusalError("PAGINATION_NUMBER_INVALID", text[:20])
    most = _MOST_LISTED if text is None else min(int(text), _MOST_LISTED)
    rest = [row for row in found if row > last]
    answer = jsonify({**body, key: rest[:most]})
    if most and len(rest) > most:
        query = urlencode({"last": rest[most - 1], "n": most})
        answer.headers["Link"] = f'<{path}?{query}>; rel="next"'
    return answer


def _created(location: str, digest: str) -> Response:
    headers = {"Location": location, "Docker-Content-Digest": digest}
    return Response(status=HTTPStatus.CREATED, headers=headers)


def _on_its_way(name: str, upload: str, *, size: int) -> Response:
    headers = {
        "Location": f"/v2/{name}/blobs/uploads/{upload}",
        "Range": f"0-{max(size - 1, 0)}",
        "Docker-Upload-UUID": upload,
    }
    return Response(status=HTTPStatus.ACCEPTED, headers=headers)


def _chunk_start() -> int | None:
    given = request.headers.get("Content-Range")
    if given is None:
        return None
    found = _CONTENT_RANGE.fullmatch(given)
    if found is None:
        raise RefusalError("RANGE_INVALID", given[:64])
    return int(found[1])
