"""What bodies and queries are accepted, and the sentences for what is not.

Covered: the reference's own sentences, nested names, order, JSON that is none, other content types, queries.
Left out: what the services refuse.
"""

import json
from typing import Any

import pytest
from flask import Flask, request

from spawner.api.schemas import (
    FieldErrors,
    LaunchBody,
    ListQuery,
    LogsQuery,
    PatchBody,
    StopQuery,
    read_body,
    read_query,
)
from spawner.errors import MalformedRequest

LEAST = {"namespace": "grp", "project": "proj", "commit_sha": "a" * 40}


def _read(body: object, *, content_type: str = "application/json", model: Any = LaunchBody) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with Flask("test").test_request_context("/", method="POST", data=content, content_type=content_type):
        return read_body(request, model)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (
            {},
            (
                "Field 'namespace' has errors: Missing data for required field. "
                "Field 'project' has errors: Missing data for required field. "
                "Field 'commit_sha' has errors: Missing data for required field."
            ),
        ),
        ({**LEAST, "colour": "red"}, "Field 'colour' has errors: Unknown field."),
        ({**LEAST, "namespace": 5}, "Field 'namespace' has errors: Not a valid string."),
        ({**LEAST, "namespace": None}, "Field 'namespace' has errors: Field may not be null."),
        ({**LEAST, "resource_class_id": "x"}, "Field 'resource_class_id' has errors: Not a valid integer."),
        ({**LEAST, "storage": "x"}, "Field 'storage' has errors: Not a valid number."),
        ({**LEAST, "lfs_auto_fetch": "perhaps"}, "Field 'lfs_auto_fetch' has errors: Not a valid boolean."),
        ({**LEAST, "environment_variables": []}, "Field 'environment_variables' has errors: Not a valid mapping type."),
        (
            {**LEAST, "environment_variables": {"A": 5}},
            "Field 'environment_variables.A.value' has errors: Not a valid string.",
        ),
        ({**LEAST, "serverOptions": []}, "Field 'serverOptions' has errors: Invalid input type."),
        ({**LEAST, "serverOptions": {"x": 1}}, "Field 'serverOptions.x' has errors: Unknown field."),
        (
            {**LEAST, "serverOptions": {"gpu_request": "x"}},
            "Field 'serverOptions.gpu_request' has errors: Not a valid integer.",
        ),
        (
            {**LEAST, "serverOptions": {"mem_request": []}},
            "Field 'serverOptions.mem_request' has errors: Not a valid number. Not a valid string.",
        ),
        ({**LEAST, "cloudstorage": [{}]}, "Field 'cloudstorage' has errors: Cloud storage is not available here."),
        ({**LEAST, "user_secrets": {}}, "Field 'user_secrets' has errors: User secrets are not available here."),
        ({**LEAST, "branch": "a\x00b"}, "Field 'branch' has errors: Control characters are not allowed."),
        ([], "Field '_schema' has errors: Invalid input type."),
    ],
)
def test_detail(body: object, detail: str) -> None:
    """A body that does not fit is told in the reference's sentences, field by field."""
    with pytest.raises(FieldErrors) as caught:
        _read(body)
    assert detail == caught.value.detail


@pytest.mark.parametrize("field", ["default_url", "defaultUrl"])
@pytest.mark.parametrize(
    "url", ["//evil.test", "/\\evil.test", "\\\\evil.test", "http://evil", "lab", "/\t/evil.test", "/lab\n", "/\x7f"]
)
def test_no_way_out(field: str, url: str) -> None:
    """A session never opens at an address of another server: its default one is a path, in every spelling."""
    body = {**LEAST, "default_url": url} if field == "default_url" else {**LEAST, "serverOptions": {"defaultUrl": url}}
    where = "default_url" if field == "default_url" else "serverOptions.defaultUrl"
    with pytest.raises(FieldErrors) as caught:
        _read(body)
    assert caught.value.detail == f"Field '{where}' has errors: Not a path, which begins with one slash."


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"cloudstorage": None},
        {"cloudstorage": []},
        {"user_secrets": None},
        {"image": None},
        {"default_url": None},
        {"default_url": ""},
        {"default_url": "/"},
        {"default_url": "/lab/tree/a b//ä%20.ipynb?x=//y#z"},
    ],
)
def test_accepted(extra: dict[str, object]) -> None:
    """What the published clients send is accepted."""
    assert _read({**LEAST, **extra}).namespace == "grp"


@pytest.mark.parametrize("content", [b"{", b"NaN", b'{"storage": Infinity}', b"\xff", b"[" * 100_000, b"9" * 5000])
def test_malformed(content: bytes) -> None:
    """What is not JSON is refused as such, however strange."""
    with pytest.raises(MalformedRequest):
        _read(content)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_content_type(content_type: str) -> None:
    """Another content type counts as an empty body."""
    with pytest.raises(FieldErrors) as caught:
        _read(LEAST, content_type=content_type)
    assert "Missing data" in str(caught.value.detail)


def test_patch_ignores_unknown() -> None:
    """PATCH ignores fields it does not know."""
    assert _read({"state": "running", "colour": "red"}, model=PatchBody).state == "running"


def test_patch_state() -> None:
    """PATCH knows two states."""
    with pytest.raises(FieldErrors) as caught:
        _read({"state": "asleep"}, model=PatchBody)
    assert caught.value.detail == "Field 'state' has errors: Input should be 'running' or 'hibernated'."


@pytest.mark.parametrize(
    ("model", "query", "name", "value"),
    [
        (StopQuery, "forced=true", "forced", True),
        (StopQuery, "force=1", "force", True),
        (StopQuery, "", "forced", False),
        (LogsQuery, "max_lines=0", "max_lines", 0),
        (LogsQuery, "", "max_lines", 250),
        (ListQuery, "page=2&colour=red", "page", 2),
    ],
)
def test_query(model: Any, query: str, name: str, value: object) -> None:
    """Queries are read with their defaults; unknown names are ignored."""
    with Flask("test").test_request_context(f"/?{query}"):
        assert value == getattr(read_query(request, model), name)


@pytest.mark.parametrize(
    ("model", "query"), [(StopQuery, "forced=perhaps"), (LogsQuery, "max_lines=-1"), (LogsQuery, "max_lines=x")]
)
def test_bad_query(model: Any, query: str) -> None:
    """A query that does not fit is refused without detail, as the contract has it."""
    with Flask("test").test_request_context(f"/?{query}"), pytest.raises(FieldErrors) as caught:
        read_query(request, model)
    assert caught.value.detail is None
