"""What a merge request's, pipeline's or job's page shows, of answers as GitLab's documentation has them.

Covered: source branches of the project and of a fork, merged results, refs of merge requests, what is hidden.
Left out: pipelines and jobs of a living server (contract/forge_port).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spawner.errors import MissingScope
from spawner.gitlab.client import GitLabForge
from spawner.names import CommitSha
from spawner.ports import Credential, CredentialKind, NumberedPage, PageKind, Shown
from tests.unit.gitlab.conftest import Scripted, Server

SHA = CommitSha("172a784d465a7bd45bacc165df2b64a591ac6b18")
MERGED = CommitSha("b" * 40)
REQUEST: dict[str, Any] = {
    "iid": 5,
    "sha": SHA,
    "source_branch": "feature/x",
    "source_project_id": 7,
    "target_project_id": 7,
}
ASKER = Credential(forge="default", token="t", kind=CredentialKind.PERSONAL)


def asked(serve: Callable[..., Server], folder: Path, page: NumberedPage, *bodies: object, status: int = 200) -> Any:
    """Return what the forge makes of these answers, and the paths that it asked for."""
    server = serve(*(Scripted(status=status, body=json.dumps(body).encode()) for body in bodies))
    found = GitLabForge(server.url, key_cache=folder).shown(ASKER, 7, page)
    return found, [path for path, _ in server.seen]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Shown(sha=SHA, ref="feature/x")),
        ({"source_project_id": 8}, Shown(sha=SHA)),
        ({"source_project_id": None}, Shown(sha=SHA)),
        ({"sha": None}, None),
    ],
)
def test_merge_request(
    serve: Callable[..., Server], tmp_path: Path, more: dict[str, Any], expected: Shown | None
) -> None:
    """A merge request shows its head, on its source branch unless that is a fork's."""
    page = NumberedPage(kind=PageKind.MERGE_REQUEST, number=5)
    assert asked(serve, tmp_path, page, {**REQUEST, **more}) == (expected, ["/api/v4/projects/7/merge_requests/5"])


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (PageKind.PIPELINE, {"sha": SHA, "ref": "main"}, Shown(sha=SHA, ref="main")),
        (PageKind.PIPELINE, {"sha": SHA, "ref": "refs/merge-requests/5/head"}, Shown(sha=SHA)),
        (PageKind.JOB, {"commit": {"id": SHA}, "ref": "v1", "tag": True}, Shown(sha=SHA, ref="v1")),
        (PageKind.JOB, {"commit": {"id": SHA}, "ref": "refs/merge-requests/5/head"}, Shown(sha=SHA)),
    ],
)
def test_run(
    serve: Callable[..., Server], tmp_path: Path, kind: PageKind, body: dict[str, Any], expected: Shown
) -> None:
    """A pipeline or job shows the commit it ran on, and its branch or tag; a merge request's ref is neither."""
    found, paths = asked(serve, tmp_path, NumberedPage(kind=kind, number=9), body)
    assert (found, paths) == (expected, [f"/api/v4/projects/7/{kind}s/9"])


@pytest.mark.parametrize("side", ["merge", "train"])
def test_merged_result(serve: Callable[..., Server], tmp_path: Path, side: str) -> None:
    """A pipeline of a merged result is of a commit that no branch holds: its merge request's own is shown."""
    body = {"sha": MERGED, "ref": f"refs/merge-requests/5/{side}"}
    found, paths = asked(serve, tmp_path, NumberedPage(kind=PageKind.PIPELINE, number=9), body, REQUEST)
    assert found == Shown(sha=SHA, ref="feature/x")
    assert paths == ["/api/v4/projects/7/pipelines/9", "/api/v4/projects/7/merge_requests/5"]


def test_hidden(serve: Callable[..., Server], tmp_path: Path) -> None:
    """What is not there, or is kept from this person, is None; a scope that a token lacks is told."""
    page = NumberedPage(kind=PageKind.JOB, number=9)
    for status, message in ((404, "404 Not found"), (403, "403 Forbidden")):
        assert asked(serve, tmp_path, page, {"message": message}, status=status)[0] is None
    with pytest.raises(MissingScope):
        asked(serve, tmp_path, page, {"error": "insufficient_scope", "scope": "read_api"}, status=403)
