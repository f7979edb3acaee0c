"""The build job's template: what each way to use it and each input make of it, for every kind of pipeline.

Covered: include by component, project, remote and local, the file copied whole, every input, inputs that are refused,
presets of rules against sources of pipelines, GitLab's own schema, a project's `default:`, the file used twice, the
job that `builder init` writes. Left out: running it (tests/contract/template).
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from builder.starter import CI_TEXT
from spawner.testing.gitlab.expand import Expansion, JobSpec, Origin
from tests.unit.testing.expand.conftest import History, make_bare
from tests.unit.testing.expand.serving import git_config, served

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[3]
TEMPLATE = (ROOT / "gitlab-ci-templates" / "image-build.gitlab-ci.yml").read_text(encoding="utf-8")
INPUTS = yaml.safe_load(TEMPLATE.partition("\n---\n")[0])["spec"]["inputs"]
PRESETS = INPUTS["rules"]["options"]
URL = "https://slipway.example.org/a"

ALWAYS = {"CI_DEFAULT_BRANCH": "main", "CI_PROJECT_PATH": "grp/tides", "CI_COMMIT_SHA": "ab" * 20}
BRANCH = {"CI_COMMIT_BRANCH": "topic", "CI_PIPELINE_SOURCE": "push"}
# What GitLab sets, https://docs.gitlab.com/ci/variables/predefined_variables/ (18.x).
PIPELINES: dict[str, dict[str, str]] = {
    "a push to the default branch": {"CI_COMMIT_BRANCH": "main", "CI_PIPELINE_SOURCE": "push"},
    "a push to a branch": BRANCH,
    "a push to a branch with an open merge request": {**BRANCH, "CI_OPEN_MERGE_REQUESTS": "grp/tides!7"},
    "a merge request": {
        "CI_PIPELINE_SOURCE": "merge_request_event",
        "CI_MERGE_REQUEST_IID": "7",
        "CI_OPEN_MERGE_REQUESTS": "grp/tides!7",
    },
    "a tag": {"CI_COMMIT_TAG": "v1.0", "CI_PIPELINE_SOURCE": "push"},
    "a schedule": {"CI_COMMIT_BRANCH": "main", "CI_PIPELINE_SOURCE": "schedule"},
    "by hand, with an open merge request": {
        "CI_COMMIT_BRANCH": "topic",
        "CI_PIPELINE_SOURCE": "web",
        "CI_OPEN_MERGE_REQUESTS": "grp/tides!7",
    },
    "a child pipeline of a merge request": {"CI_PIPELINE_SOURCE": "parent_pipeline", "CI_MERGE_REQUEST_IID": "7"},
}
ALL = frozenset(PIPELINES)
BUT_DOUBLES = ALL - {"a push to a branch with an open merge request"}
OF_MERGE_REQUESTS = {"a merge request", "a child pipeline of a merge request"}
WANTED = {
    "every-commit": BUT_DOUBLES,
    "branches": ALL - OF_MERGE_REQUESTS,
    "default-branch": {"a push to the default branch", "a tag", "a schedule"},
    "tags": {"a tag"},
    "manual": BUT_DOUBLES,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> History:
    """A project that has a copy of the template."""
    return make_bare(tmp_path_factory.mktemp("project"), ({"image-build.gitlab-ci.yml": TEMPLATE, "a.ipynb": "{}"},))


@pytest.fixture(scope="module")
def gitlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A GitLab that has the template as a component, and as a file of a project; it is on a plain address too."""
    files = {"templates/image_build.yml": TEMPLATE}
    with served(tmp_path_factory.mktemp("gitlab"), files, remote=TEMPLATE, tag="0.1.0") as url:
        yield url


def expanded(
    project: History, *includes: Mapping[str, Any], pipeline: Mapping[str, str] = BRANCH, **more: Any
) -> Expansion:
    """Expand a file that includes the template."""
    text = json.dumps({"include": list(includes), **more})
    return project.expand(text, variables={**ALWAYS, **pipeline})


def jobs(found: Expansion) -> dict[str, JobSpec]:
    """Return the jobs by name; errors are the test's failure."""
    assert found.errors == ()
    return {job.name: job for job in found.jobs}


def local(**inputs: object) -> dict[str, Any]:
    """Include the copy with these inputs."""
    return {"local": "image-build.gitlab-ci.yml", "inputs": inputs}


LOOK = (
    """command -v builder || { echo "There is no 'builder' here; the input 'image' names an image with it."; """
    "exit 127; }"
)
BUILD = JobSpec(
    name="image_build",
    stage="build",
    script=(
        LOOK,
        'builder build --engine auto --extra-tags "$SLIPWAY_EXTRA_TAGS"',
    ),
    variables={"SLIPWAY_EXTRA_TAGS": ""},
    needs=(),
    dependencies=(),
    timeout_seconds=3600,
    retry_max=1,
    retry_when=("runner_system_failure", "stuck_or_timeout_failure"),
    artifacts={"when": "always", "paths": ["slipway-report.json"], "reports": {"dotenv": "slipway.env"}},
    image="python:3.11-bookworm",
    interruptible=False,
)
LAUNCH = JobSpec(
    name="launch:image_build",
    stage="build",
    script=('echo "$SLIPWAY_URL/launch/$CI_PROJECT_PATH?sha=$SLIPWAY_SHA"',),
    variables={"GIT_STRATEGY": "none", "SLIPWAY_URL": URL, "SLIPWAY_SHA": "$CI_COMMIT_SHA"},
    needs=("image_build",),
    dependencies=(),
    timeout_seconds=600,
    allow_failure=True,
    image="python:3.11-bookworm",
    environment={
        "name": "launch/$CI_COMMIT_REF_SLUG",
        "url": "$SLIPWAY_URL/launch/$CI_PROJECT_PATH?sha=$SLIPWAY_SHA",
        "action": "start",
        "on_stop": "stop:image_build",
        "auto_stop_in": "2 weeks",
        "deployment_tier": "development",
    },
)
STOP = JobSpec(
    name="stop:image_build",
    stage="build",
    script=('echo "The launch button of $CI_COMMIT_REF_SLUG is gone."',),
    variables={"GIT_STRATEGY": "none"},
    needs=(),
    dependencies=(),
    timeout_seconds=600,
    when="manual",
    allow_failure=True,
    image="python:3.11-bookworm",
    environment={"name": "launch/$CI_COMMIT_REF_SLUG", "action": "stop"},
)


def test_with_no_input_there_is_the_one_job(project: History) -> None:
    """One job that waits for nothing, is not interrupted, and is tried again on a runner's trouble only."""
    assert jobs(expanded(project, local())) == {"image_build": BUILD}


def test_with_the_spawners_address_there_is_a_button(project: History) -> None:
    """The environment is started by a job of its own, which may fail, and has a job that stops it."""
    assert jobs(expanded(project, local(spawner_url=URL))) == {job.name: job for job in (BUILD, LAUNCH, STOP)}


def test_every_input_arrives(project: History) -> None:
    """Each input but the rules, all of them changed at once; those of the image are the only ones in the script."""
    given = {
        "job_name": "make image", "stage": "test", "engine": "buildah", "image": "builder:1", "runner_tags": ["a", "b"],
        "timeout": "2h 30m", "rules": "manual", "extra_tags": "latest $CI_COMMIT_REF_SLUG", "spawner_url": URL,
    }  # fmt: skip
    assert given.keys() == INPUTS.keys()
    build = replace(
        BUILD,
        name="make image",
        stage="test",
        script=(BUILD.script[0], BUILD.script[1].replace("auto", "buildah")),
        variables={"SLIPWAY_EXTRA_TAGS": "latest $CI_COMMIT_REF_SLUG"},
        image="builder:1",
        tags=("a", "b"),
        timeout_seconds=9000,
        when="manual",
        allow_failure=True,
    )
    common: dict[str, Any] = {"stage": "test", "image": "builder:1", "tags": ("a", "b")}
    environment = {**(LAUNCH.environment or {}), "on_stop": "stop:make image"}
    launch = replace(LAUNCH, name="launch:make image", needs=("make image",), environment=environment, **common)
    stop = replace(STOP, name="stop:make image", **common)
    assert jobs(expanded(project, local(**given))) == {job.name: job for job in (build, launch, stop)}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_in_the_table(preset: str) -> None:
    """A preset that the input offers has its row below."""
    assert preset in WANTED


@pytest.mark.parametrize("name", PIPELINES)
def test_rules_decide_for_every_kind_of_pipeline(project: History, name: str) -> None:
    """Each preset in this pipeline, and what `init` writes; a push has the job once, merge request open or not."""
    includes = [local(rules=preset, job_name=preset, spawner_url=URL) for preset in PRESETS]
    found = jobs(expanded(project, *includes, pipeline=PIPELINES[name], init=yaml.safe_load(CI_TEXT)["image_build"]))
    wanted = [preset for preset in PRESETS if name in WANTED[preset]]
    names = list(itertools.chain.from_iterable((one, f"launch:{one}", f"stop:{one}") for one in wanted))
    assert sorted(found) == sorted([*names, *(["init"] if "every-commit" in wanted else [])])
    assert {one: found[one].when for one in wanted} == {
        one: "manual" if one == "manual" else "on_success" for one in wanted
    }


@pytest.mark.parametrize("name", ["a push to a branch", "a merge request"])
def test_merged_results_launch_the_branchs_commit(project: History, name: str) -> None:
    """Where the pipeline's commit is a merge that nobody has, the button launches what was pushed."""
    head = {"CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": "cd" * 20} if name == "a merge request" else {}
    found = jobs(expanded(project, local(spawner_url=URL), pipeline={**PIPELINES[name], **head}))
    wanted = "$CI_MERGE_REQUEST_SOURCE_BRANCH_SHA" if head else "$CI_COMMIT_SHA"
    assert found["launch:image_build"].variables["SLIPWAY_SHA"] == wanted


def test_every_way_to_use_the_file_gives_the_same_jobs(project: History, gitlab: str, tmp_path: Path) -> None:
    """By component, by project, by address, by a copy, and as the project's whole file."""
    variables = {**ALWAYS, **BRANCH, "CI_SERVER_FQDN": gitlab.partition("://")[2]}
    origin = Origin(url=f"{gitlab}/grp/tides.git", git_config=git_config(tmp_path, gitlab))
    includes: tuple[dict[str, Any], ...] = (
        {"component": "$CI_SERVER_FQDN/grp/templates/image_build@0.1.0"},
        {"project": "grp/templates", "ref": "0.1.0", "file": "templates/image_build.yml"},
        {"remote": f"{gitlab}/remote.yml"},
        {"local": "image-build.gitlab-ci.yml"},
    )
    for include in includes:
        text = json.dumps({"include": [{**include, "inputs": {"spawner_url": URL, "timeout": "2h"}}]})
        found = jobs(project.expand(text, variables=variables, origin=origin))
        assert list(found.values()) == [replace(BUILD, timeout_seconds=7200), LAUNCH, STOP], include
    assert jobs(project.expand(TEMPLATE, variables=variables)) == {"image_build": BUILD}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", "kaniko"),
        ("rules", "sometimes"),
        ("job_name", 'x": {script: [id]}, "y'),
        ("job_name", ".hidden"),
        ("extra_tags", 'latest"; id'),
        ("spawner_url", "javascript:alert(1)"),
        ("spawner_url", 'https://s"; id; "'),
        ("spawner_url", "https://slipway.example.org/"),
        ("runner_tags", "one"),
    ],
)
def test_a_wrong_input_is_told_by_name(project: History, name: str, value: str) -> None:
    """What an input does not allow makes no pipeline, and the message names the input."""
    found = expanded(project, local(**{name: value}))
    assert found.jobs == ()
    assert f"`{name}` input" in "\n".join(found.errors)


def test_a_projects_defaults_stay_outside(project: History) -> None:
    """Nothing of `default:` and of the old global keywords gets into the job, so it is the same in every project."""
    default = {"before_script": ["echo before"], "image": "r-base", "retry": 2, "tags": ["gpu"], "timeout": "3h"}
    found = expanded(project, local(), default=default, own={"script": ["echo own"]})
    assert jobs(found)["image_build"] == BUILD
    assert jobs(found)["own"].script == ("echo before", "echo own")


def filled(inputs: Mapping[str, Any]) -> Any:
    """Fill inputs in as GitLab does, which puts their text in before it reads the file."""
    body = TEMPLATE.partition("\n---\n")[2]
    for name, declared in INPUTS.items():
        value = inputs.get(name, declared["default"])
        body = body.replace(f"$[[ inputs.{name} ]]", value if isinstance(value, str) else json.dumps(value))
    assert "$[[" not in body
    return yaml.safe_load(body)


def test_gitlabs_schema_accepts_what_it_becomes(tmp_path: Path) -> None:
    """By GitLab's published schema, for the defaults, for each option of each input, and for what `init` writes."""
    variants: list[dict[str, Any]] = [{}, {"spawner_url": URL, "extra_tags": "latest", "runner_tags": ["a"]}]
    variants += [{name: option} for name, told in INPUTS.items() for option in told.get("options", ())]
    documents = [*map(filled, variants), yaml.safe_load(CI_TEXT)]
    paths = [tmp_path / f"{number}.yml" for number in range(len(documents))]
    for path, document in zip(paths, documents, strict=True):
        path.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.gitlab-ci", *map(str, paths)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_defines_jobs_and_nothing_else() -> None:
    """No stages, variables, workflow or default, no hidden job, no lock between jobs, and no image in a name."""
    document = filled({"job_name": "x"})
    assert list(document) == ["x", "launch:x", "stop:x"]
    assert "resource_group" not in TEMPLATE


def test_init_writes_the_same_job(project: History) -> None:
    """A project that would rather not include the template gets the job of its defaults."""
    script = ("builder build",)
    assert jobs(project.expand(CI_TEXT)) == {"image_build": replace(BUILD, script=script, variables={}, image=None)}
