"""Turns `.gitlab-ci.yml` at one commit into the jobs of one pipeline, with gitlab-ci-local doing the reading.

`expand` runs the program once for the merged configuration and, only where there are rules, once more to
decide them. Answers are kept in memory for equal questions, and a text that asks for no files is the same
question at every commit; configurations with an `include` are always read again, because what they include can
move.

Promises: the same jobs GitLab would make, or `errors` in words; nothing is run, and the bare repository is only read.
Must not know: pipelines, projects, users, the store.
"""

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spawner.testing.gitlab.expand import program
from spawner.testing.gitlab.expand.assembling import assembled, checked_needs
from spawner.testing.gitlab.expand.changes import any_matches, changed_paths, compared_commit
from spawner.testing.gitlab.expand.checkout import Checkout, temporary_checkout
from spawner.testing.gitlab.expand.decisions import Question, Rule, patterns_of, winning_rules
from spawner.testing.gitlab.expand.model import (
    ConfigurationError,
    Expansion,
    JobSpec,
    duration_seconds,
)
from spawner.testing.gitlab.expand.program import InstallError, install
from spawner.testing.gitlab.expand.reading import Document, Draft, parsed, read_document

__all__ = ["Expansion", "InstallError", "JobSpec", "Origin", "duration_seconds", "expand", "install"]

_ZEROS = re.compile(r"0*")
_FILES = re.compile(rb"include|exists|changes")
_CHECKED_FILE = ".slipway-checked.yml"
_RULES_FILE = ".slipway-rules.json"
_CONFIGURATION_FILE = ".gitlab-ci.yml"
_KEPT_ANSWERS = 256
_EMPTY_TAGS = re.compile(r"^ *tags: \[\]\n", re.MULTILINE)
# gitlab-ci-local invents these where GitLab leaves them unset; https://docs.gitlab.com/ci/variables/predefined_variables/
_SOMETIMES_UNSET = (
    "CI_COMMIT_BRANCH",
    "CI_COMMIT_TAG",
    "CI_COMMIT_TAG_MESSAGE",
    "CI_MERGE_REQUEST_IID",
    "CI_OPEN_MERGE_REQUESTS",
    "CI_ENVIRONMENT_NAME",
    "CI_REGISTRY_USER",
    "CI_REGISTRY_PASSWORD",
)
_FILTERED = "Pipeline filtered out by workflow rules."
_EMPTY = "The rules of every job in this configuration leave it out, so the pipeline would have no jobs."


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the project lives, for `include:project` and `include:component`, which come from the same server.

    `git_config` is a private Git configuration file (mode 0600) that holds the credentials of those fetches.
    """

    url: str = "http://gitlab.invalid/none/none.git"
    git_config: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    yaml_bytes: bytes
    variables: tuple[tuple[str, str], ...]
    # What else the answer depends on: the commit, for a text that asks for files; nothing for any other.
    place: tuple[str, ...]
    repository: Path = field(compare=False)
    sha: str = field(compare=False)
    changes_since: str | None = field(compare=False)
    origin: Origin = field(compare=False)


def expand(
    *,
    yaml_bytes: bytes,
    repository: Path,
    sha: str,
    variables: Mapping[str, str],
    changes_since: str | None = None,
    origin: Origin | None = None,
) -> Expansion:
    """Return the jobs that a pipeline for `sha` of the bare `repository` has, or the errors that prevent it.

    Args:
        yaml_bytes: the configuration, usually `.gitlab-ci.yml` at `sha`.
        repository: a bare Git repository that holds `sha`.
        sha: the full commit id.
        variables: the pipeline's predefined, project and given variables; they win over those of the file.
        changes_since: the commit that `rules:changes` compares with; None, empty or zeros make every `changes`
            true, as in GitLab for new branches, tags, schedules and pipelines started by hand.
        origin: the project's HTTP address; without it, only `include:local` and `include:remote` can work.

    Raises:
        InstallError: gitlab-ci-local cannot be installed or run on this machine.
        NodeMissingError: no Node.js of the needed age is on this machine.
    """
    with_include = b"include" in yaml_bytes
    text = yaml_bytes.decode(errors="replace")
    told = {name: value for name, value in variables.items() if with_include or name in text}
    asked = _Asked(
        yaml_bytes=yaml_bytes,
        repository=repository,
        sha=sha,
        variables=tuple(sorted(told.items())),
        changes_since=changes_since if changes_since and not _ZEROS.fullmatch(changes_since) else None,
        origin=origin or Origin(),
        place=(str(repository), sha, changes_since or "") if _FILES.search(yaml_bytes) else (),
    )
    return _expanded(asked) if with_include else _expanded_once(asked)


def _expanded(asked: _Asked) -> Expansion:
    try:
        own = parsed(asked.yaml_bytes)
        with temporary_checkout(asked.repository, sha=asked.sha, origin_url=asked.origin.url) as checkout:
            return _read(asked, checkout, own_default=own.get("default") or {})
    except (ConfigurationError, program.RefusedError) as exc:
        return Expansion(errors=tuple(str(exc).splitlines()) or ("The configuration was refused without a reason.",))


_expanded_once = functools.lru_cache(maxsize=_KEPT_ANSWERS)(_expanded)


def _read(asked: _Asked, checkout: Checkout, *, own_default: Mapping[str, Any]) -> Expansion:
    text = asked.yaml_bytes
    if b"include" in text:
        checkout.place_yaml_files()
    if b"exists" in text:
        checkout.place_names()
    (checkout.folder / _CONFIGURATION_FILE).write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    is_known = b"include" not in text and program.has_passed(digest)
    expanded = _previewed(asked, checkout, is_checked=not is_known)
    if b"include" not in text and not is_known:
        program.note_passed(digest)
    document = read_document(expanded, own_default=own_default)
    if b"exists" not in text and "exists:" in expanded:
        checkout.place_names()
    return _decided(asked, checkout, document)


def _previewed(asked: _Asked, checkout: Checkout, *, is_checked: bool) -> str:
    """Return the merged configuration.

    GitLab's schema allows an empty list of tags and the program's copy of it does not: with those, it is checked
    without them.
    """
    unchecked = ["--preview", "--no-json-schema-validation"]
    if not is_checked:
        return _asked_program(asked, checkout, unchecked)
    mark = f"{hashlib.sha256(asked.yaml_bytes).hexdigest()}-empty-tags"
    if not program.has_passed(mark):
        try:
            return _asked_program(asked, checkout, ["--preview"])
        except program.RefusedError as exc:
            if "property 'tags' must not have fewer than 1 items" not in str(exc):
                raise
    expanded = _asked_program(asked, checkout, unchecked)
    _check(asked, checkout, _EMPTY_TAGS.sub("", expanded))
    program.note_passed(mark)
    return expanded


def _check(asked: _Asked, checkout: Checkout, configuration: str) -> None:
    """Hold a merged configuration against the schema, once on this machine."""
    digest = hashlib.sha256(configuration.encode()).hexdigest()
    if not program.has_passed(digest):
        (checkout.folder / _CHECKED_FILE).write_text(configuration)
        _asked_program(asked, checkout, ["--preview", "--file", _CHECKED_FILE])
        program.note_passed(digest)


def _decided(asked: _Asked, checkout: Checkout, document: Document) -> Expansion:
    ruled = [draft for draft in document.drafts if draft.keywords.get("rules") is not None]
    questions = [Question(rules=draft.keywords["rules"], variables=draft.variables) for draft in ruled]
    if document.workflow_rules is not None:
        questions.append(Question(rules=document.workflow_rules, variables=document.variables))
    winners = winning_rules(
        questions,
        changes_hold=functools.partial(_changes_hold, asked),
        listing=functools.partial(_listed, asked, checkout),
    )
    variables = dict(document.variables)
    if document.workflow_rules is not None:
        if winners[-1] is None:
            return Expansion(stages=document.stages, filtered=True, reason=_FILTERED)
        variables |= {key: str(value) for key, value in (winners[-1].get("variables") or {}).items()}
    won = dict(zip((draft.name for draft in ruled), winners, strict=False))
    jobs = _jobs(document.drafts, won, document)
    if not jobs:
        return Expansion(stages=document.stages, filtered=True, reason=_EMPTY)
    return Expansion(jobs=jobs, stages=document.stages, variables=variables)


def _jobs(drafts: Sequence[Draft], won: Mapping[str, Rule | None], document: Document) -> tuple[JobSpec, ...]:
    kept = [draft for draft in drafts if draft.name not in won or won[draft.name] is not None]
    jobs = tuple(assembled(draft, rule=won.get(draft.name), drafts=kept) for draft in kept)
    checked_needs(kept, jobs, stages=document.stages)
    return jobs


def _changes_hold(asked: _Asked, rule: Rule, variables: Mapping[str, str]) -> bool:
    patterns = patterns_of(rule)
    changes = rule.get("changes")
    if patterns is None:
        return True
    since = asked.changes_since
    if isinstance(changes, dict) and changes.get("compare_to"):
        since = compared_commit(asked.repository, compare_to=str(changes["compare_to"]), sha=asked.sha)
    if since is None:
        return True
    paths = changed_paths(asked.repository, before=since, sha=asked.sha)
    return any_matches(patterns, paths, variables={**variables, **dict(asked.variables)})


def _listed(asked: _Asked, checkout: Checkout, configuration: str) -> str:
    (checkout.folder / _RULES_FILE).write_text(configuration)
    flags = ["--list-json", "--file", _RULES_FILE, "--no-json-schema-validation"]
    return _asked_program(asked, checkout, flags)


def _asked_program(asked: _Asked, checkout: Checkout, flags: Sequence[str]) -> str:
    given = {"GITLAB_CI": "true", **dict(asked.variables)}
    unset = [name for name in _SOMETIMES_UNSET if name not in given]
    environment = {
        "GCL_UNSET_VARIABLE": ";".join(unset),
        "GCL_IGNORE_PREDEFINED_VARS": ",".join(given),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GCL_VARIABLE_{name}": value for name, value in given.items()},
    }
    if asked.origin.git_config is not None:
        environment["GIT_CONFIG_GLOBAL"] = str(asked.origin.git_config)
    return program.run(["--no-evaluate-rule-changes", *flags], folder=checkout.folder, environment=environment)
