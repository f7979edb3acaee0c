"""GitLab's JSON into our values: registry names, times of both spellings, statuses, what is missing.

Left out: whole answers of a living server (contract/forge_port).
"""

from datetime import UTC, datetime
from typing import Any

import pytest

from spawner.errors import ForgeUnavailable
from spawner.gitlab import shapes
from spawner.ports import JobStatus, MergeRequest, Visibility

PROJECT: dict[str, Any] = {
    "id": 7,
    "path_with_namespace": "Lab/Sub/Flights",
    "name": "Flights",
    "default_branch": None,
    "visibility": "internal",
    "web_url": "https://gl/Lab/Sub/Flights",
    "http_url_to_repo": "https://gl/Lab/Sub/Flights.git",
    "archived": True,
    "forked_from_project": {"id": 3},
}
STATUS: dict[str, Any] = {
    "id": 12,
    "name": "image_build",
    "status": "running",
    "ref": "main",
    "allow_failure": False,
    "target_url": "https://gl/lab/flights/-/jobs/12",
    "pipeline_id": 4,
    "created_at": "2026-01-01T12:00:00.000Z",
}


@pytest.mark.parametrize(
    ("more", "host", "expected"),
    [
        ({"container_registry_image_prefix": "reg.gl:5050/lab/sub/flights"}, "x", "reg.gl:5050/lab/sub/flights"),
        ({}, "reg.gl", "reg.gl/lab/sub/flights"),
        ({}, None, None),
        ({"container_registry_image_prefix": "r/a/b", "container_registry_access_level": "disabled"}, None, None),
        ({"container_registry_image_prefix": "r/a/b", "container_registry_access_level": "private"}, None, "r/a/b"),
        ({"container_registry_enabled": False}, "reg.gl", None),
    ],
)
def test_a_projects_image_is_gitlabs_word_else_host_and_path(
    more: dict[str, Any], host: str | None, expected: str | None
) -> None:
    """GitLab's own prefix wins; a registry that is off has no image."""
    assert shapes.project({**PROJECT, **more}, registry_host=host).registry_image == expected


def test_a_project_is_read_with_its_edges() -> None:
    """No branch yet, archived, forked; a visibility newer than we know counts as private."""
    found = shapes.project(PROJECT, registry_host=None)
    assert (found.default_branch, found.is_archived, found.forked_from_id, found.visibility) == (
        None,
        True,
        3,
        Visibility.INTERNAL,
    )
    assert shapes.project({**PROJECT, "visibility": "shared"}, registry_host=None).visibility is Visibility.PRIVATE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-02-23 02:41:37 UTC", datetime(2021, 2, 23, 2, 41, 37, tzinfo=UTC)),
        ("2015-12-24T16:51:14.000+01:00", datetime(2015, 12, 24, 15, 51, 14, tzinfo=UTC)),
        ("2021-02-23T02:41:37.250Z", datetime(2021, 2, 23, 2, 41, 37, 250000, tzinfo=UTC)),
        ("2021-02-23T02:41:37", datetime(2021, 2, 23, 2, 41, 37, tzinfo=UTC)),
        ("yesterday", None),
        (None, None),
        (3, None),
    ],
)
def test_times_of_every_spelling_are_aware_utc(text: object, expected: datetime | None) -> None:
    """GitLab writes times in three ways; what is none is None."""
    assert shapes.moment(text) == expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, (12, JobStatus.RUNNING, "running")),
        ({"target_url": "https://gl/lab/flights/builds/12"}, (12, JobStatus.RUNNING, "running")),
        ({"status": "dreaming"}, (12, JobStatus.UNKNOWN, "dreaming")),
        ({"target_url": "https://ci.example/42"}, None),
        ({"target_url": None}, None),
        ({"target_url": "https://gl/lab/flights/-/jobs/13"}, None),
    ],
)
def test_a_status_counts_where_a_job_stands_behind_it(
    more: dict[str, Any], expected: tuple[int, JobStatus, str] | None
) -> None:
    """A status that an outside service posted is no job, whatever its name."""
    found = shapes.status_job({**STATUS, **more})
    assert (None if found is None else (found.id, found.status, found.status_text)) == expected


@pytest.mark.parametrize("missing", ["id", "path_with_namespace", "web_url", "http_url_to_repo"])
def test_a_field_that_we_need_and_lack_is_no_answer(missing: str) -> None:
    """Nothing is guessed: the answer counts as none."""
    with pytest.raises(ForgeUnavailable, match=missing):
        shapes.project({name: value for name, value in PROJECT.items() if name != missing}, registry_host=None)


@pytest.mark.parametrize("sha", ["abc", "A" * 40, None])
def test_a_commit_without_a_full_sha_is_no_answer(sha: object) -> None:
    """A commit is named in full or not at all."""
    with pytest.raises(ForgeUnavailable):
        shapes.commit({"id": sha})


def test_a_merge_request_is_its_number_and_branch() -> None:
    """Of a merge request we read its number in the project and where it comes from; without them it is no answer."""
    body = {"id": 900, "iid": 7, "state": "opened", "source_branch": "topic/x", "source_project_id": 3}
    assert shapes.merge_request(body) == MergeRequest(number=7, source_branch="topic/x")
    for missing in ("iid", "source_branch"):
        with pytest.raises(ForgeUnavailable):
            shapes.merge_request({**body, missing: None})
