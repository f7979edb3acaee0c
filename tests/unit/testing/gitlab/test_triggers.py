"""Trigger jobs are taken out of a configuration and nothing else of it changes.

Covered: the forms of `trigger`, `extends`, tags that only GitLab reads, what is refused. Left out: what is started
(the forge contract).
"""

from __future__ import annotations

import pytest
import yaml

from spawner.testing.gitlab.ci.triggers import separated
from spawner.testing.gitlab.expand.model import ConfigurationError
from spawner.testing.gitlab.records import Trigger

PLAIN = b"build: {script: [make]}\n"


def test_what_triggers_nothing_is_left_as_it_is() -> None:
    """A configuration without the word comes back byte for byte; so does what is no YAML."""
    assert separated(PLAIN) == (PLAIN, {})
    assert separated(b"trigger: [\n") == (b"trigger: [\n", {})


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{include: child.yml}", Trigger(include="child.yml")),
        ("{include: [{local: /ci/child.yml}], strategy: depend}", Trigger(include="ci/child.yml", depends=True)),
        ("group/other", Trigger(project="group/other")),
        (
            "{project: group/other, branch: next, strategy: depend}",
            Trigger(project="group/other", branch="next", depends=True),
        ),
    ],
)
def test_a_trigger_becomes_an_empty_job_and_a_record(written: str, expected: Trigger) -> None:
    """Each form is read, and the job keeps its rules."""
    content, found = separated(f"child:\n  rules: [{{if: $A}}]\n  trigger: {written}\n".encode())
    assert found == {"child": expected}
    assert yaml.safe_load(content) == {"child": {"rules": [{"if": "$A"}], "script": ["true"]}}


def test_a_trigger_is_inherited() -> None:
    """A job that extends a hidden one with a trigger is a trigger job; the hidden one is none."""
    text = b".child: {trigger: {include: child.yml}}\none: {extends: .child}\ntwo: {extends: [.none, one]}\n"
    assert separated(text)[1] == dict.fromkeys(("one", "two"), Trigger(include="child.yml"))


def test_the_rest_keeps_tags_and_anchors() -> None:
    """`!reference` and anchors are there afterwards, for the program that reads them."""
    text = b".x: &x {script: [a]}\nb: {<<: *x, script: !reference [.x, script]}\nc: {trigger: g/p}\n"
    content, found = separated(text)
    assert b"!reference" in content
    assert b"*" in content
    assert set(found) == {"c"}


@pytest.mark.parametrize("written", ["{include: [a.yml, b.yml]}", "{include: [{artifact: a.yml, job: b}]}", "{}"])
def test_what_is_not_started_is_refused(written: str) -> None:
    """A trigger that the stand-in cannot start is a sentence with the job's name."""
    with pytest.raises(ConfigurationError, match="Job 'child' triggers what the stand-in does not start"):
        separated(f"child: {{trigger: {written}}}\n".encode())
