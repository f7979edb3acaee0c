"""The build job, run: included as a component on the stand-in, by its runner, into its registry.

Covered: a first build, a push of a notebook that reuses it within seconds, a changed requirement that builds, the
variables for later jobs, the launch environment and its stop, extra tags, the unchanged job of Renku's project
templates and how a launch finds its image. Left out: which pipelines have the job (tests/unit/templates).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from scripts import component
from spawner.gitlab.client import GitLabForge
from spawner.gitlab.registry import GitLabRegistry, RegistryHosts
from spawner.images.finding import ImageFinder
from spawner.images.model import Facts, Policy, Ready
from spawner.images.resolve import resolve
from spawner.names import CommitSha, ProjectPath
from spawner.ports import Credential, CredentialKind, ImageKind
from spawner.testing.gitlab import ProjectHandle, StandIn, UserHandle

URL = "https://slipway.example.org"
PIPELINE = """\
include:
  - component: $CI_SERVER_FQDN/ada/slipway/image_build@0.1.0
    inputs: {extra_tags: latest $CI_COMMIT_REF_SLUG}
use:
  stage: test
  needs: [image_build]
  script:
    - echo "digest=$IMAGE_DIGEST reference=$IMAGE_REF key=$IMAGE_KEY"
"""
# The template of the `python-minimal` project of Renku, word for word.
RENKU = """\
variables:
  GIT_STRATEGY: fetch
  GIT_SSL_NO_VERIFY: "true"
  GIT_LFS_SKIP_SMUDGE: 1
  DOCKER_BUILDKIT: 1

stages:
  - build

image_build:
  stage: build
  image: docker:stable
  before_script:
    - docker login -u gitlab-ci-token -p $CI_JOB_TOKEN http://$CI_REGISTRY
  script: |
    CI_COMMIT_SHA_7=$(echo $CI_COMMIT_SHA | cut -c1-7)
    docker build --tag $CI_REGISTRY_IMAGE:$CI_COMMIT_SHA_7 .
    docker push $CI_REGISTRY_IMAGE:$CI_COMMIT_SHA_7
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The stand-in, its one person, and the project that uses the component."""

    standin: StandIn
    ada: UserHandle
    project: ProjectHandle

    def get(self, path: str) -> Any:
        """Answer a GET of the project, as JSON."""
        return self.standin.api("GET", f"/projects/{self.project.id}{path}", user=self.ada)

    def built(self, files: dict[str, str | bytes | None], **more: Any) -> "Built":
        """Push files and wait for the build of that commit."""
        sha = self.standin.commit(self.project, files, **more)
        job = self.standin.wait_for_job(self.project, sha, "image_build", timeout_seconds=120)
        assert job["status"] == "success", self.log(job["id"])
        return Built(sha=sha, job=job, report=self.get(f"/jobs/{job['id']}/artifacts/slipway-report.json"))

    def log(self, job_id: int) -> str:
        """Return a job's log."""
        address = f"{self.standin.url}/api/v4/projects/{self.project.id}/jobs/{job_id}/trace"
        return requests.get(address, headers={"PRIVATE-TOKEN": self.ada.token}, timeout=20).text


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A commit, its build job as GitLab shows it, and the job's report."""

    sha: str
    job: dict[str, Any]
    report: dict[str, Any]


@pytest.fixture(scope="module")
def world(runner_stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The component in a project of its own, tagged, and a project that includes it."""
    standin = runner_stand_in
    ada = standin.add_user("ada")
    shelf = standin.add_project("ada/slipway", owner=ada)
    folder = tmp_path_factory.mktemp("component")
    written = component.write(folder, version="0.1.0", defaults={"spawner_url": URL})
    sha = standin.commit(shelf, {str(path.relative_to(folder)): path.read_text() for path in written})
    standin.tag(shelf, "0.1.0", sha)
    return World(standin=standin, ada=ada, project=standin.add_project("ada/tides", owner=ada))


@pytest.fixture(scope="module")
def first(world: World) -> Built:
    """The first commit, built."""
    return world.built({".gitlab-ci.yml": PIPELINE, "requirements.txt": "gauge==1.0\n", "a.ipynb": "{}"})


def test_the_first_commit_is_built(world: World, first: Built) -> None:
    """The image is pushed under the environment's, the commit's and the extra tags."""
    assert first.report["outcome"] == "built"
    tags = [f"env-{first.report['key'][:32]}", f"{first.sha}-environment", "latest", "main"]
    assert first.report["tags"] == tags
    (repository,) = world.get("/registry/repositories?tags=true")
    assert sorted(tag["name"] for tag in repository["tags"]) == sorted(tags)


def test_a_notebook_edit_is_a_matter_of_seconds(world: World, first: Built) -> None:
    """A push that changes a notebook alone ends its job within 10 s, on the image that is there."""
    again = world.built({"a.ipynb": '{"cells": []}'}, branch="notebooks")
    assert (again.report["outcome"], again.report["digest"]) == ("reused", first.report["digest"])
    assert again.job["duration"] < 10


def test_a_changed_requirement_is_built(world: World, first: Built) -> None:
    """A push that changes what is declared makes another image."""
    changed = world.built({"requirements.txt": "gauge==2.0\n"}, branch="newer")
    assert changed.report["outcome"] == "built"
    assert {changed.report["key"], changed.report["digest"]}.isdisjoint({first.report["key"], first.report["digest"]})


def test_later_jobs_know_the_image(world: World, first: Built) -> None:
    """A job that needs the build has its digest, reference and key as variables."""
    job = world.standin.wait_for_job(world.project, first.sha, "use")
    report = first.report
    assert f"digest={report['digest']} reference={report['reference']} key={report['key']}" in world.log(job["id"])


def test_the_button_launches_what_was_built(world: World, first: Built) -> None:
    """The branch has an environment whose address launches its newest built commit, until somebody stops it."""
    pushed = world.built({"b.ipynb": "{}"}, branch="button", parent=first.sha)
    launch = world.standin.wait_for_job(world.project, pushed.sha, "launch:image_build")
    assert launch["status"] == "success"
    (found,) = world.get(f"/environments?name={quote('launch/button', safe='')}")
    assert (found["external_url"], found["state"], found["tier"]) == (
        f"{URL}/launch/ada/tides?sha={pushed.sha}",
        "available",
        "development",
    )
    assert found["last_deployment"]["sha"] == pushed.sha
    world.standin.api("POST", f"/projects/{world.project.id}/environments/{found['id']}/stop", user=world.ada)
    world.standin.wait_for_job(world.project, pushed.sha, "stop:image_build", statuses=["success"])
    assert world.get(f"/environments/{found['id']}")["state"] == "stopped"


def test_without_builder_the_log_says_what_to_do(world: World) -> None:
    """A runner that lacks the command fails the job at once, and its log names the input that helps."""
    text = PIPELINE.partition("use:")[0] + "image_build: {variables: {PATH: /usr/bin:/bin}}\n"
    sha = world.standin.commit(world.project, {".gitlab-ci.yml": text}, branch="bare")
    job = world.standin.wait_for_job(world.project, sha, "image_build")
    assert job["status"] == "failed"
    assert "the input 'image' names an image with it" in world.log(job["id"])


def test_the_job_of_renkus_templates_keeps_working(world: World, tmp_path: Path) -> None:
    """Unchanged, it pushes its tag of seven characters, and a launch of that commit takes that image as its own."""
    standin, ada = world.standin, world.ada
    project = standin.add_project("ada/Renku-Project", owner=ada)
    sha = standin.commit(project, {".gitlab-ci.yml": RENKU, "Dockerfile": "FROM scratch\n"})
    job = standin.wait_for_job(project, sha, "image_build")
    assert job["status"] == "success"
    credential = Credential(forge="default", token=ada.token, kind=CredentialKind.PERSONAL)
    host = standin.registry_url.partition("://")[2]
    forge = GitLabForge(standin.url, key_cache=tmp_path, registry_host=host)
    builds = forge.builds(credential, project.id, CommitSha(sha), job_name="image_build")
    assert [(build.id, build.status) for build in builds.jobs] == [(job["id"], "success")]
    finder = ImageFinder(
        forge=forge,
        registry=GitLabRegistry(gitlab_url=standin.url, hosts=RegistryHosts(()), timeout_seconds=20),
        clock=_Now(),
        defaults={},
        max_age_days=30,
    )
    accepts = frozenset({ImageKind.CONTAINER})
    seen = forge.project(credential, ProjectPath(project.path))
    own = finder.own(seen, CommitSha(sha), accepts, credential)
    now = datetime.now(UTC)
    decision = resolve(Facts(accepts=accepts, asked_at=now, exact=own.exact), Policy(), now)
    assert isinstance(decision, Ready)
    assert decision.image.reference.startswith(f"{host}/ada/renku-project@sha256:")
    assert decision.image.source == "exact"
    assert "matched by short tag" in decision.image.reason


class _Now:
    """The time."""

    def now(self) -> datetime:
        return datetime.now(UTC)
