"""Hooks: every payload of `payloads/<header>__<case>.json` to its event, secrets and signatures, damaged payloads.

The payloads follow the examples of GitLab's documentation and `lib/gitlab/data_builder`; where versions differ, those
of 15.11 (`gitlab_15`) and 19.0 (`gitlab_19`) stand beside each other. Left out: what is done with an
event, and deliveries (contract and functional tests).
"""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spawner.gitlab.webhooks import (
    AccessChanged,
    BuildsChanged,
    Event,
    HookJob,
    Ignored,
    RefMoved,
    Secret,
    delivery_id,
    event,
    is_genuine,
    is_signed,
)
from spawner.names import CommitSha, ProjectPath
from spawner.ports import JobStatus, RefKind

PAYLOADS = Path(__file__).parent / "payloads"
SHA = CommitSha("da1560886d4f094c3e6c9ef40349f7d38b5d27d7")
BEFORE = CommitSha("95790bf891e76fee5e1747ab589903a6a1f80f22")
HEADERS = {
    "job-hook": "Job Hook",
    "pipeline-hook": "Pipeline Hook",
    "push-hook": "Push Hook",
    "tag-push-hook": "Tag Push Hook",
    "system-hook": "System Hook",
    "member-hook": "Member Hook",
    "merge-request-hook": "Merge Request Hook",
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job_changed(status: JobStatus) -> BuildsChanged:
    job = HookJob(id=1977, name="image_build", status=status)
    return BuildsChanged(project_id=380, sha=SHA, pipeline_id=2366, jobs=(job,))


def pipeline_changed(*, is_protected_ref: bool | None, has_jobs: bool = True) -> BuildsChanged:
    jobs = (
        HookJob(id=380, name="unit", status=JobStatus.SKIPPED),
        HookJob(id=377, name="image_build", status=JobStatus.SUCCESS),
    )
    return BuildsChanged(
        project_id=380, sha=SHA, pipeline_id=31, jobs=jobs if has_jobs else (), is_protected_ref=is_protected_ref
    )


def ref_moved(name: str, before: CommitSha | None, after: CommitSha | None, kind: RefKind = RefKind.BRANCH) -> RefMoved:
    project = ProjectPath("gitlab-org/gitlab-test")
    return RefMoved(project_id=15, project=project, kind=kind, name=name, before=before, after=after)


EVENTS: dict[str, Event] = {
    "job-hook__created": job_changed(JobStatus.CREATED),
    "job-hook__success": job_changed(JobStatus.SUCCESS),
    "job-hook__failed_with_reason": job_changed(JobStatus.FAILED),
    "job-hook__unknown_status": job_changed(JobStatus.UNKNOWN),
    "job-hook__child_pipeline": job_changed(JobStatus.RUNNING),
    "job-hook__gitlab_15_pending": job_changed(JobStatus.PENDING),
    "job-hook__gitlab_19_canceling": job_changed(JobStatus.CANCELING),
    "pipeline-hook__success": pipeline_changed(is_protected_ref=True),
    "pipeline-hook__merge_request": pipeline_changed(is_protected_ref=False),
    "pipeline-hook__older_without_builds": pipeline_changed(is_protected_ref=None, has_jobs=False),
    "pipeline-hook__gitlab_15_pending": pipeline_changed(is_protected_ref=None),
    "pipeline-hook__gitlab_19_child": pipeline_changed(is_protected_ref=True),
    "push-hook__gitlab_15": ref_moved("feature/x", BEFORE, SHA),
    "tag-push-hook__gitlab_19": ref_moved("v1.0.0", None, SHA, RefKind.TAG),
    "push-hook__branch": ref_moved("feature/x", BEFORE, SHA),
    "push-hook__new_branch": ref_moved("new", None, SHA),
    "push-hook__deleted_branch": ref_moved("old", BEFORE, None),
    "push-hook__other_ref": Ignored(reason="the ref is neither branch nor tag"),
    "tag-push-hook__new": ref_moved("v1.0.0", None, SHA, RefKind.TAG),
    "system-hook__push": ref_moved("main", BEFORE, SHA),
    "system-hook__left_project": AccessChanged(user_id=41, project_id=74),
    "system-hook__left_group": AccessChanged(user_id=41, group_id=78),
    "system-hook__key_create": Ignored(reason="no event of ours"),
    "member-hook__updated": AccessChanged(user_id=64, group_id=100),
    "merge-request-hook__opened": Ignored(reason="no event of ours"),
}


def payload(case: str) -> Any:
    return json.loads((PAYLOADS / f"{case}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", sorted(path.stem for path in PAYLOADS.glob("*.json")))
def test_each_payload_is_its_event(case: str) -> None:
    """Every payload file has a row in the table, and reads as that row says."""
    assert event(HEADERS[case.partition("__")[0]], payload(case)) == EVENTS[case]


def test_the_table_names_only_payloads_that_exist() -> None:
    """No row of the table lacks its file."""
    assert {path.stem for path in PAYLOADS.glob("*.json")} == set(EVENTS)


def test_nothing_of_a_pipelines_variables_is_kept() -> None:
    """Variables may hold secrets; the event has none."""
    assert "canary-variable" not in repr(event("Pipeline Hook", payload("pipeline-hook__success")))


@pytest.mark.parametrize(
    ("header", "case", "field", "value"),
    [
        ("Job Hook", "job-hook__created", "sha", "HEAD"),
        ("Job Hook", "job-hook__created", "build_id", True),
        ("Job Hook", "job-hook__created", "build_name", "x" * 300),
        ("Job Hook", "job-hook__created", "project_id", -1),
        ("Pipeline Hook", "pipeline-hook__success", "object_attributes", None),
        ("Pipeline Hook", "pipeline-hook__success", "builds", [{"id": "x"}]),
        ("Push Hook", "push-hook__branch", "project", []),
        ("Push Hook", "push-hook__branch", "after", 7),
        ("Member Hook", "member-hook__updated", "user_id", None),
    ],
)
def test_a_damaged_payload_is_ignored_with_a_reason(header: str, case: str, field: str, value: object) -> None:
    """A hook that cannot be read is no error: GitLab would disable the hook."""
    found = event(header, {**payload(case), field: value})
    assert isinstance(found, Ignored)
    assert found.reason.startswith(header)


@pytest.mark.parametrize("damage", [None, [], "x", 3])
def test_a_payload_that_is_no_object_is_ignored(damage: object) -> None:
    """JSON of another kind means nothing."""
    assert event("Job Hook", damage) == Ignored(reason="the payload is no object")


SECRETS = (Secret(token="old"), Secret(token="new", signing_key="whsec_" + base64.b64encode(b"k" * 32).decode()))


@pytest.mark.parametrize(
    ("token", "expected"), [("old", True), ("new", True), ("", False), ("other", False), ("é", False), (None, False)]
)
def test_a_plain_token_proves_a_hook(token: str | None, expected: object) -> None:
    """Any of the secrets in force will do; an absent one never."""
    headers = {} if token is None else {"X-Gitlab-Token": token}
    assert is_genuine(headers, b"{}", SECRETS, NOW) is expected


def test_without_a_secret_nothing_is_genuine() -> None:
    """An empty secret is no secret."""
    assert not is_genuine({"X-Gitlab-Token": ""}, b"{}", (Secret(),), NOW)


def signed(body: bytes, at: datetime, key: bytes = b"k" * 32) -> dict[str, str]:
    stamp = str(int(at.timestamp()))
    digest = base64.b64encode(hmac.new(key, f"id-1.{stamp}.".encode() + body, hashlib.sha256).digest()).decode()
    return {"webhook-id": "id-1", "webhook-timestamp": stamp, "webhook-signature": f"v1,AAAA v1,{digest}"}


def test_a_signature_proves_a_hook_for_five_minutes_and_decides_alone() -> None:
    """The signature covers id, time and body; a wrong one is not mended by the right plain token."""
    body = b'{"a": 1}'
    good = signed(body, NOW)
    found = [
        is_genuine(good, body, SECRETS, NOW + timedelta(seconds=300)),
        is_genuine(good, body, SECRETS, NOW + timedelta(seconds=301)),
        is_genuine(good, body, SECRETS, NOW - timedelta(seconds=301)),
        is_genuine(good, b'{"a": 2}', SECRETS, NOW),
        is_genuine(signed(body, NOW, b"x" * 32) | {"X-Gitlab-Token": "new"}, body, SECRETS, NOW),
        is_genuine(good | {"webhook-timestamp": "soon"}, body, SECRETS, NOW),
        is_genuine(good, body, (Secret(signing_key="whsec_not base64"),), NOW),
    ]
    assert found == [True, False, False, False, False, False, False]


def test_a_resent_delivery_has_the_id_of_the_first() -> None:
    """GitLab's key identifies a delivery; an older GitLab's body does."""
    key = {"Idempotency-Key": "f5e5f430-f57b-4e6e-9fac-d9128cd7232f"}
    found = (delivery_id(key, b"a") == delivery_id(key, b"b"), delivery_id({}, b"a") == delivery_id({}, b"b"))
    assert found == (True, False)
    assert delivery_id({"Idempotency-Key": "x' or 1"}, b"a") == hashlib.sha256(b"a").hexdigest()


def test_a_signed_delivery_is_known_by_what_was_signed() -> None:
    """Who replays a delivery may write another key beside it, and is known all the same."""
    signed_once = {"webhook-id": "f5e5f430-f57b", "webhook-signature": "v1,x"}
    replayed = {**signed_once, "Idempotency-Key": "something-else"}
    assert delivery_id(signed_once, b"a") == delivery_id(replayed, b"a") == "f5e5f430-f57b"
    assert [is_signed(each) for each in (replayed, {"Webhook-Signature": ""}, {"X-Gitlab-Token": "t"})] == [
        True,
        True,
        False,
    ]
