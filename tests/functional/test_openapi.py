"""The served OpenAPI document against the running service: real GitLab answers, a real registry, real tasks.

Covered: every operation, by property-based requests over HTTP with the person's own token; whatever is launched is
stopped. Left out: event streams, which do not end; what wants the operator's secret or a session's own is asked
without it here, and with it in tests/functional/api.
"""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, strategies
from schemathesis.checks import load_all_checks

from spawner.api.openapi import described_routes
from spawner.http import create_app
from spawner.testing.gitlab.client import UserHandle
from spawner.testing.gitlab.standin import StandIn
from tests.functional.api.world import world_options
from tests.installation import Client, Installation

EXAMPLES = 8  # per operation: thirty are asked in-process, in tests/functional/api
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
PROJECT = "alice/described"


def _operations() -> list[tuple[str, str]]:
    app = create_app(None, world_options())  # type: ignore[arg-type] # the routes need no services
    rules = [(rule.rule, method) for rule, method, _ in described_routes(app) if not rule.rule.endswith("/events")]
    return sorted(rules)


@pytest.fixture(scope="module")
def client(installation: Installation, alice: UserHandle) -> Iterator[Client]:
    """Alice's client; what is left at the end is stopped."""
    at = installation.client(alice)
    yield at
    for name in at.call("GET", "/api/notebooks/servers").json()["servers"]:
        at.stop(name)


@pytest.fixture(scope="module")
def known(stand_in: StandIn, client: Client, alice: UserHandle) -> dict[str, str]:
    """What exists: a session that waits for a build, its project and its commit."""
    project = stand_in.add_project(PROJECT, owner=alice)
    job = "image_build:\n  stage: build\n  tags: [a-runner-that-nobody-has]\n  script: ['true']\n"
    sha = stand_in.commit(project, {".gitlab-ci.yml": job, "README.md": "described"})
    name = client.launch(project, sha)["name"]
    namespace, _, path = PROJECT.partition("/")
    return {"name": name, "namespace": namespace, "project": path, "commit_sha": sha, "path": PROJECT}


@pytest.fixture(scope="module")
def described(installation: Installation) -> Any:
    """The document as the running service serves it."""
    load_all_checks()
    return schemathesis.openapi.from_url(f"{installation.url}/notebooks/spec.json")


@pytest.mark.parametrize(("path", "method"), _operations())
@pytest.mark.parametrize("installation", ["sqlite-inprocess"], indirect=True)
def test_every_answer_is_in_the_document(
    described: Any, client: Client, known: dict[str, str], path: str, method: str
) -> None:
    """Whatever is sent, the answer is in the document and no defect."""
    checks = schemathesis.checks.CHECKS.get_by_names(list(CHECKS))
    operation = described[_as_documented(path)][method]

    @hypothesis.given(case=operation.as_strategy(), is_known=strategies.booleans())
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    def send(case: Any, is_known: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        body = case.body if isinstance(case.body, dict) else {}
        hypothesis.assume(body.get("state") != "hibernated")  # the contract's own 500/3006
        if is_known:
            case.path_parameters.update({name: known[name] for name in case.path_parameters if name in known})
        if is_known and "commit_sha" in body:
            body.update({name: known[name] for name in ("namespace", "project", "commit_sha")})
            body.update(branch="main", image=None)
        case.headers["Authorization"] = f"Bearer {client.user.token}"
        with requests.Session() as session:
            case.validate_response(case.call(session=session, timeout=30), checks=checks)

    send()


def _as_documented(rule: str) -> str:
    parts = [part.strip("<>").split(":")[-1] if part.startswith("<") else part for part in rule.split("/")]
    return "/".join(f"{{{part}}}" if "<" in old else part for old, part in zip(rule.split("/"), parts, strict=True))
