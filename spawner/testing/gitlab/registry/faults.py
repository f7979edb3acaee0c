"""The registry's refusals, with the codes of the OCI distribution specification v1.1.

Promises: every refusal is one `RefusalError`, which the blueprint turns into the specification's JSON.
Must not know: Flask, storage.
Source: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#error-codes
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

_MESSAGES = {
    "BLOB_UNKNOWN": (HTTPStatus.NOT_FOUND, "blob unknown to registry"),
    "BLOB_UPLOAD_INVALID": (HTTPStatus.BAD_REQUEST, "blob upload invalid"),
    "BLOB_UPLOAD_UNKNOWN": (HTTPStatus.NOT_FOUND, "blob upload unknown to registry"),
    "DIGEST_INVALID": (HTTPStatus.BAD_REQUEST, "provided digest did not match uploaded content"),
    "MANIFEST_BLOB_UNKNOWN": (HTTPStatus.BAD_REQUEST, "manifest references a manifest or blob unknown to registry"),
    "MANIFEST_INVALID": (HTTPStatus.BAD_REQUEST, "manifest invalid"),
    "MANIFEST_UNKNOWN": (HTTPStatus.NOT_FOUND, "manifest unknown"),
    "NAME_INVALID": (HTTPStatus.BAD_REQUEST, "invalid repository name"),
    "NAME_UNKNOWN": (HTTPStatus.NOT_FOUND, "repository name not known to registry"),
    "PAGINATION_NUMBER_INVALID": (HTTPStatus.BAD_REQUEST, "invalid number of results requested"),
    "RANGE_INVALID": (HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "invalid content range"),
    "SIZE_INVALID": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "provided length is too large"),
    "TAG_INVALID": (HTTPStatus.BAD_REQUEST, "manifest tag is not a valid tag"),
    "UNAUTHORIZED": (HTTPStatus.UNAUTHORIZED, "authentication required"),
}


class RefusalError(Exception):
    """One refusal of the registry: its code, its HTTP status and what it is about."""

    def __init__(self, code: str, detail: Any = None, *, headers: Mapping[str, str] | None = None) -> None:
        self.status, message = _MESSAGES[code]
        super().__init__(message)
        self.body = {"errors": [{"code": code, "message": message, "detail": detail}]}
        self.headers = dict(headers or {})
