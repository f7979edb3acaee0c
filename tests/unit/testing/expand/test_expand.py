"""Expansion of `.gitlab-ci.yml` by the real gitlab-ci-local, on real repositories.

Covered: every field of a job, defaults, parallel jobs, needs, rules with if, changes and exists, workflow, includes of
all four kinds, what is refused, what is kept, installing. Left out: `id_tokens`' values, which the server makes.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from spawner.testing.gitlab.expand import JobSpec, Origin, _expanded_once
from tests.unit.testing.expand.conftest import History
from tests.unit.testing.expand.serving import git_config, served

TAG = {"CI_COMMIT_TAG": "v1", "CI_PIPELINE_SOURCE": "push"}


def test_every_field_of_a_job(history: History) -> None:
    """Script, after_script, timeout, retry, resource group, artifacts, environment and the rest arrive as asked for."""
    jobs = history.jobs("""
        variables: {GLOBAL: "1", KEPT: {value: both, description: told}}
        image_build:
          stage: build
          image: python:3.11
          before_script: [echo before]
          script: [echo one, [echo two, echo three]]
          after_script: [echo after]
          variables: {OWN: $GLOBAL-x, GLOBAL: "2"}
          timeout: 1h 30m
          retry: {max: 2, when: [runner_system_failure, stuck_or_timeout_failure]}
          resource_group: one-at-a-time
          interruptible: true
          allow_failure: {exit_codes: [3, 4]}
          needs: []
          tags: [shell]
          artifacts: {paths: [out/], expire_in: 1 week, reports: {dotenv: build.env}}
          environment: {name: launch/$CI_COMMIT_REF_SLUG, url: https://x/$CI_COMMIT_SHA}
          id_tokens: {T: {aud: https://spawner}}
    """)
    expected = JobSpec(
        name="image_build",
        stage="build",
        script=("echo before", "echo one", "echo two", "echo three"),
        after_script=("echo after",),
        variables={"GLOBAL": "2", "KEPT": "both", "OWN": "$GLOBAL-x"},
        needs=(),
        dependencies=(),
        allow_failure_exit_codes=(3, 4),
        timeout_seconds=5400,
        retry_max=2,
        retry_when=("runner_system_failure", "stuck_or_timeout_failure"),
        resource_group="one-at-a-time",
        artifacts={"paths": ["out/"], "expire_in": "1 week", "reports": {"dotenv": "build.env"}},
        environment={"name": "launch/$CI_COMMIT_REF_SLUG", "url": "https://x/$CI_COMMIT_SHA"},
        image="python:3.11",
        interruptible=True,
        tags=("shell",),
        id_tokens={"T": {"aud": "https://spawner"}},
    )
    assert jobs == {"image_build": expected}


def test_defaults_reach_the_jobs_that_inherit_them(history: History) -> None:
    """`default` gives timeout, retry and tags too; `inherit` keeps them and global variables away."""
    jobs = history.jobs("""
        default: {timeout: 10 minutes, retry: 1, tags: [t], before_script: [echo d]}
        variables: {A: a, B: b}
        all: {script: x}
        own: {script: x, timeout: 5 seconds, retry: 0, before_script: []}
        none: {script: x, inherit: {default: false, variables: false}}
        some: {script: x, inherit: {default: [retry], variables: [B]}}
    """)
    told = {
        name: (job.script, job.timeout_seconds, job.retry_max, job.tags, dict(job.variables))
        for name, job in jobs.items()
    }
    assert told == {
        "all": (("echo d", "x"), 600, 1, ("t",), {"A": "a", "B": "b"}),
        "own": (("x",), 5, 0, ("t",), {"A": "a", "B": "b"}),
        "none": (("x",), None, 0, (), {}),
        "some": (("x",), None, 1, (), {"B": "b"}),
    }


def test_parallel_jobs_have_gitlabs_names(history: History) -> None:
    """`parallel` and `matrix` make one job each, and `needs` of such a job means all of them or the chosen ones."""
    jobs = history.jobs("""
        stages: [a, b]
        many: {stage: a, script: x, parallel: 2}
        image_build:
          stage: a
          script: x
          parallel: {matrix: [{PY: [py311, "3.12"], OS: deb}, {PY: [py313]}]}
        after: {stage: b, script: x, needs: [many, {job: image_build, artifacts: false}]}
        chosen:
          stage: b
          script: x
          needs: [{job: image_build, parallel: {matrix: [{PY: py311, OS: deb}]}}]
    """)
    builds = ("image_build: [py311, deb]", "image_build: [3.12, deb]", "image_build: [py313]")
    assert list(jobs) == ["many 1/2", "many 2/2", *builds, "after", "chosen"]
    assert jobs["many 2/2"].variables == {"CI_NODE_INDEX": "2", "CI_NODE_TOTAL": "2"}
    assert jobs[builds[1]].variables == {"PY": "3.12", "OS": "deb"}
    assert jobs["after"].needs == ("many 1/2", "many 2/2", *builds)
    assert jobs["after"].dependencies == ("many 1/2", "many 2/2")
    assert jobs["chosen"].needs == builds[:1]
    assert jobs["many 1/2"].needs is None


def test_the_first_rule_that_holds_decides(history: History) -> None:
    """`if` is read as GitLab reads it; the winner gives when, allow_failure, variables, needs and start_in."""
    jobs = history.jobs("""
        first: {script: x}
        built:
          script: x
          needs: []
          variables: {V: job}
          rules:
            - {if: '$CI_COMMIT_TAG', variables: {V: tag}}
            - {if: '$CI_COMMIT_BRANCH =~ /^ma/ && $CI_PIPELINE_SOURCE == "push"', variables: {V: rule}, needs: [first],
               allow_failure: true, when: delayed, start_in: 30 minutes}
            - {variables: {V: last}}
        gone: {script: x, rules: [{if: '$CI_COMMIT_BRANCH == "other"'}]}
        never: {script: x, rules: [{if: '$CI_COMMIT_BRANCH', when: never}, {when: always}]}
        by_hand: {script: x, rules: [{when: manual}]}
        old_hand: {script: x, when: manual}
        last: {script: x, when: on_failure, rules: [{if: $CI_COMMIT_BRANCH}]}
        own: {script: x, variables: {MINE: "1"}, rules: [{if: '$MINE == "1"'}]}
    """)
    told = {name: (job.when, job.allow_failure) for name, job in jobs.items()}
    assert told == {
        "first": ("on_success", False),
        "built": ("delayed", True),
        "by_hand": ("manual", False),
        "old_hand": ("manual", True),
        "last": ("on_failure", False),
        "own": ("on_success", False),
    }
    built = jobs["built"]
    assert (built.variables, built.needs, built.start_in_seconds) == ({"V": "rule"}, ("first",), 1800)


CHANGES = """
    kept: {script: x}
    image_build:
      script: x
      rules:
        - changes: [requirements.txt, "*.yml"]
          variables: {BY: environment}
        - changes: {paths: ["notebooks/**/*.{py,ipynb}"]}
          variables: {BY: notebook}
        - {exists: [no-such-file], variables: {BY: nothing}}
        - {exists: ["notebooks/*/a.ipynb"], variables: {BY: file}}
    compared:
      script: x
      rules: [{changes: {paths: [requirements.txt], compare_to: refs/heads/main}}]
"""


@pytest.mark.parametrize(
    ("since", "winner", "patterns"),
    [
        (1, "notebook", ("notebooks/**/*.{py,ipynb}",)),
        (0, "file", None),
        (None, "environment", ("requirements.txt", "*.yml")),
        ("0" * 40, "environment", ("requirements.txt", "*.yml")),
    ],
)
def test_changes_are_those_of_the_push(
    history: History, since: int | str | None, winner: str, patterns: tuple[str, ...] | None
) -> None:
    """`changes` compares with the commit before the push, and holds where there is none; else the next rule decides."""
    before = history.commits[since] if isinstance(since, int) else since
    jobs = history.jobs(CHANGES, since=before)
    assert (jobs["image_build"].variables, jobs["image_build"].rules_changes) == ({"BY": winner}, patterns)
    assert "compared" not in jobs


@pytest.mark.parametrize(
    ("variables", "names", "reason"),
    [
        ({"CI_COMMIT_BRANCH": "main"}, ["job"], ""),
        (TAG, [], "Pipeline filtered out by workflow rules."),
        ({"CI_COMMIT_BRANCH": "other"}, [], "The rules of every job in this configuration leave it out"),
    ],
)
def test_a_pipeline_may_be_filtered_out(
    history: History, variables: dict[str, str], names: list[str], reason: str
) -> None:
    """`workflow:rules` decides whether there is a pipeline, and without jobs there is none; neither is an error."""
    found = history.expand(
        """
        workflow: {rules: [{if: $CI_COMMIT_TAG, when: never}, {if: $CI_COMMIT_BRANCH, variables: {W: flow}}]}
        job: {script: x, rules: [{if: '$CI_COMMIT_BRANCH == "main"'}]}
        """,
        variables=variables,
    )
    assert ([job.name for job in found.jobs], found.errors, found.filtered) == (names, (), not names)
    assert found.reason.startswith(reason)
    assert [job.variables for job in found.jobs] == [{"W": "flow"}] * len(names)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("job: {script: [x", "Invalid YAML"),
        ("- a", "not a mapping"),
        ("job: {script: x, scirpt: y}", "'scirpt' property is not expected to be here at job"),
        ("job: {stage: build}", "must have script specified"),
        ("job: {script: x, stage: nowhere}", "stage:nowhere not found for job"),
        ("job: {script: x, needs: [gone]}", "needs: [gone] for job could not be found"),
        (
            "a: {script: x, rules: [{when: never}]}\nb: {script: x, needs: [a]}",
            "'b' job needs 'a' job, but 'a' does not exist in the pipeline",
        ),
        ("a: {script: x, needs: [b]}\nb: {script: x, needs: [a]}", "ircular"),
        ("job: {script: x, services: [postgres:15]}", "Job 'job' asks for services"),
        ("job: {trigger: {include: other.yml}}", "Job 'job' triggers another pipeline"),
        ("job: {script: x, only: [main]}", "Job 'job' uses 'only'"),
        ("job: {script: x, retry: 3}", "retry"),
        ("job: {script: x, timeout: soon}", "'soon' is not a duration"),
        ("job: {script: x, rules: [{if: '$A =='}]}", "Error attempting to evaluate the following rules"),
        ("include: {local: gone.yml}\njob: {script: x}", "Local include file cannot be found gone.yml"),
    ],
)
def test_a_wrong_configuration_is_told(history: History, text: str, error: str) -> None:
    """What GitLab refuses, and what the stand-in does not do, is an error in words and gives no jobs."""
    found = history.expand(text)
    assert error in "\n".join(found.errors)
    assert found.jobs == ()


def test_a_variable_that_is_not_expanded_keeps_its_dollar(history: History) -> None:
    """`expand: false` doubles the dollar sign, which the runner turns back into one."""
    jobs = history.jobs("job: {script: x, variables: {RAW: {value: $A, expand: false}}}")
    assert jobs["job"].variables == {"RAW": "$$A"}


def test_an_optional_need_may_be_missing(history: History) -> None:
    """`needs:optional` of a job that its rules leave out is no error."""
    jobs = history.jobs("""
        a: {script: x, rules: [{when: never}]}
        b: {script: x, needs: [{job: a, optional: true}]}
    """)
    assert jobs["b"].needs == ()


def test_texts_stay_texts(history: History) -> None:
    """Values that look like dates, numbers or booleans arrive as they were written."""
    jobs = history.jobs("""
        job:
          script: [echo 2024-01-02, "yes", "12:30:45"]
          variables: {DATE: "2024-01-02", YES: "yes", COLON: "12:30:45", BOOL: true, LAST: =}
    """)
    assert jobs["job"].script == ("echo 2024-01-02", "yes", "12:30:45")
    assert jobs["job"].variables == {
        "DATE": "2024-01-02", "YES": "yes", "COLON": "12:30:45", "BOOL": "true", "LAST": "=",
    }  # fmt: skip


def test_equal_questions_are_answered_once(history: History) -> None:
    """Equal texts and variables are asked once; the commit counts only where the text asks for files."""
    _expanded_once.cache_clear()
    text = "job: {script: x, rules: [{if: $CI_COMMIT_BRANCH}]}"
    first = history.expand(text, variables={"CI_COMMIT_BRANCH": "main", "CI_PIPELINE_ID": "1"})
    second = history.expand(text, variables={"CI_COMMIT_BRANCH": "main", "CI_PIPELINE_ID": "2"}, since="x")
    third = history.expand(text, variables={"CI_COMMIT_TAG": "main"})
    assert first is second
    assert third.filtered
    asks_for_files = "job: {script: x, rules: [{changes: [requirements.txt]}]}"
    assert history.expand(asks_for_files).jobs != ()
    assert history.expand(asks_for_files, since=history.commits[1]).jobs == ()


def test_a_text_is_checked_against_the_schema_once(history: History) -> None:
    """A text that passed is not checked again; one that did not is told every time."""
    for _ in range(2):
        _expanded_once.cache_clear()
        assert history.expand("job: {script: checked once}").errors == ()
        assert history.expand("job: {script: x, unheard_of: y}").errors != ()


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve `grp/templates` over HTTP with a password, and a plain file without one; yield the address."""
    files = {
        "job.yml": "from_project: {script: [echo project]}\n",
        "templates/image_build.yml": """
            spec: {inputs: {stage: {default: build}}}
            ---
            from_component: {stage: "$[[ inputs.stage ]]", script: [echo component]}
        """,
    }
    remote = "from_remote: {script: [echo remote]}\n"
    with served(tmp_path_factory.mktemp("forge"), files, remote=remote, tag="1.2.0") as url:
        yield url


def test_all_kinds_of_includes(history: History, forge: str, tmp_path: Path) -> None:
    """Local files, addresses, other projects and components are merged, by credentials from a private file."""
    text = f"""
        include:
          - local: ci/local.yml
          - remote: {forge}/remote.yml
          - {{project: grp/templates, ref: main, file: job.yml}}
          - {{component: "$CI_SERVER_FQDN/grp/templates/image_build@1.2.0", inputs: {{stage: deploy}}}}
        own: {{script: [echo own]}}
    """
    variables = {"CI_COMMIT_BRANCH": "main", "CI_SERVER_FQDN": forge.removeprefix("http://")}
    origin = Origin(url=f"{forge}/grp/proj.git", git_config=git_config(tmp_path, forge))
    found = history.expand(text, variables=variables, origin=origin)
    assert found.errors == ()
    assert {job.name: (job.stage, job.script) for job in found.jobs} == {
        "included": ("test", ("echo local",)),
        "from_remote": ("test", ("echo remote",)),
        "from_project": ("test", ("echo project",)),
        "from_component": ("deploy", ("echo component",)),
        "own": ("test", ("echo own",)),
    }
    refused = history.expand(text, variables=variables, origin=Origin(url=origin.url))
    assert "could not be fetched" in "\n".join(refused.errors)


def test_an_empty_list_of_tags_is_no_mistake(history: History) -> None:
    """GitLab's own schema allows `tags: []`, as templates make of an input; what is wrong beside it is still told."""
    text = "include: [{{local: ci/local.yml}}]\njob: {{script: x, tags: []{0}}}\n"
    for _ in range(2):
        assert history.jobs(text.format(""))["job"].tags == ()
        assert "'unheard_of' property" in "\n".join(history.expand(text.format(", unheard_of: y")).errors)
