"""Environments and deployments by real python-gitlab.

Covered: which action of a job's environment deploys, the address with its variables, the deployment's commit, stopping
by the job that is named for it, a stranger. Left out: `auto_stop_in`, protected environments, deployments made by API.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gitlab
import pytest

if TYPE_CHECKING:
    from tests.contract.forge.conftest import Cast

CONFIGURATION = """
launch:
  stage: build
  variables: {WHERE: "https://slipway.example.org/launch/$CI_PROJECT_PATH"}
  script: [echo launch]
  environment:
    name: launch/$CI_COMMIT_REF_SLUG
    url: $WHERE?sha=$CI_COMMIT_SHA
    on_stop: end
    deployment_tier: development
end:
  stage: build
  when: manual
  variables: {GIT_STRATEGY: none}
  script: [echo end]
  environment: {name: launch/$CI_COMMIT_REF_SLUG, action: stop}
look:
  stage: build
  script: [echo look]
  environment: {name: looked-at, action: prepare, url: "https://slipway.example.org/"}
broken:
  stage: build
  allow_failure: true
  script: [exit 1]
  environment: {name: broken, url: "https://slipway.example.org/"}
"""


def test_only_a_deployment_that_succeeded_shows_its_address(cast: Cast) -> None:
    """`start` makes a deployment of the commit and, on success, the address; `prepare` and a failure do not."""
    project = cast.forge.add_project(cast.path("envs"), owner=cast.owner)
    sha = cast.forge.commit(project, {".gitlab-ci.yml": CONFIGURATION})
    for job in ("launch", "look", "broken"):
        cast.forge.wait_for_job(project, sha, job, statuses=["success", "failed"])
    found = cast.client().projects.get(project.id)
    rows = {row.name: row for row in found.environments.list(iterator=True)}
    address = f"https://slipway.example.org/launch/{project.path}?sha={sha}"
    assert {name: row.external_url for name, row in rows.items()} == {
        "launch/main": address,
        "looked-at": None,
        "broken": None,
    }
    whole = found.environments.get(rows["launch/main"].id)
    assert (whole.state, whole.tier, whole.last_deployment["sha"]) == ("available", "development", sha)
    (deployment,) = found.deployments.list(environment="launch/main", status="success")
    assert (deployment.sha, deployment.ref, deployment.deployable["name"]) == (sha, "main", "launch")
    assert found.deployments.list(environment="looked-at") == []
    whole.stop()
    _wait_for_state(found, whole.id, "stopped")
    with pytest.raises(gitlab.GitlabError) as refused:
        cast.client(cast.stranger).projects.get(project.id, lazy=True).environments.list()
    assert refused.value.response_code == 404


def _wait_for_state(project: gitlab.v4.objects.Project, identifier: int, state: str) -> None:
    ends = time.monotonic() + 60
    while project.environments.get(identifier).state != state:
        assert time.monotonic() < ends, f"the environment is not {state}"
        time.sleep(0.1)
