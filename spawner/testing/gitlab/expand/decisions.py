"""Finds the rule that decides each job: `if` and `exists` by gitlab-ci-local, `changes` by ourselves.

The rules go once more through the program, in a small file of their own: a rule whose `changes` do not hold is
left out, and each other one carries its number as `allow_failure:exit_codes`, which `--list-json` prints for the
rule that won. So no expression of GitLab's is read here.

Promises: for every question its winning rule, or None where no rule wins or the winner says `never`.
Must not know: anything else of a job.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A list of rules and the variables that they may ask for."""

    rules: Sequence[Rule]
    variables: Mapping[str, str]


def winning_rules(
    questions: Sequence[Question],
    *,
    changes_hold: Callable[[Rule, Mapping[str, str]], bool],
    listing: Callable[[str], str],
) -> tuple[Rule | None, ...]:
    """Return the winning rule of each question, in their order.

    `listing` is given a configuration as text and answers what `--list-json` prints for it.
    """
    asked = {f"question-{number}": _job(question, changes_hold) for number, question in enumerate(questions)}
    document = {"stages": ["test"], **{name: job for name, job in asked.items() if job["rules"]}}
    if len(document) == 1:
        return (None,) * len(questions)
    answers = {row["name"]: row for row in json.loads(listing(json.dumps(document)))}
    return tuple(_winner(question, answers.get(f"question-{number}")) for number, question in enumerate(questions))


def patterns_of(rule: Rule) -> tuple[str, ...] | None:
    """Return the paths of a rule's `changes`, or None where it has none."""
    found = rule.get("changes")
    if isinstance(found, dict):
        found = found.get("paths")
    return None if found is None else tuple(map(str, found))


def _job(question: Question, changes_hold: Callable[[Rule, Mapping[str, str]], bool]) -> dict[str, Any]:
    rules = [
        {
            **{word: rule[word] for word in ("if", "exists") if word in rule},
            "when": "never" if rule.get("when") == "never" else "on_success",
            "allow_failure": {"exit_codes": [number]},
        }
        for number, rule in enumerate(question.rules, start=1)
        if changes_hold(rule, question.variables)
    ]
    return {"stage": "test", "script": ["true"], "variables": dict(question.variables), "rules": rules}


def _winner(question: Question, answer: Mapping[str, Any] | None) -> Rule | None:
    if answer is None or answer["when"] == "never":
        return None
    number: int = answer["allow_failure"]["exit_codes"][0]
    return question.rules[number - 1]
