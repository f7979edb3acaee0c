"""Puts a job together from its keywords and the rule that won.

Promises: GitLab's defaults (a manual job without rules may fail; `needs` of a parallel job means all its
instances), and GitLab's sentences where `needs` cannot be met.
Must not know: how rules are decided.
Source: https://docs.gitlab.com/ci/yaml/ (18.x).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spawner.testing.gitlab.expand.decisions import Rule, patterns_of
from spawner.testing.gitlab.expand.model import ConfigurationError, JobSpec, When, duration_seconds
from spawner.testing.gitlab.expand.reading import Draft

_MOST_RETRIES = 2


def assembled(draft: Draft, *, rule: Rule | None, drafts: Sequence[Draft]) -> JobSpec:
    """Return the job of one draft; `drafts` are all that are in the pipeline, to resolve `needs`.

    Raises:
        ConfigurationError: a keyword holds what GitLab refuses.
    """
    keywords, won = draft.keywords, rule or {}
    when: When = won.get("when") or keywords.get("when") or "on_success"
    may_fail, exit_codes = _allow_failure(draft, rule)
    retry_max, retry_when = _retry(draft)
    needs = won.get("needs", keywords.get("needs"))
    image = keywords.get("image")
    environment = keywords.get("environment")
    timeout, start_in = keywords.get("timeout"), won.get("start_in") or keywords.get("start_in")
    return JobSpec(
        name=draft.name,
        stage=keywords.get("stage") or "test",
        script=(*_lines(keywords.get("before_script")), *_lines(keywords.get("script"))),
        after_script=_lines(keywords.get("after_script")),
        variables={**draft.variables, **{key: str(value) for key, value in (won.get("variables") or {}).items()}},
        needs=None if needs is None else tuple(_needed(needs, drafts, artifacts_only=False)),
        dependencies=_dependencies(keywords.get("dependencies"), needs, drafts),
        when=when,
        allow_failure=may_fail,
        allow_failure_exit_codes=exit_codes,
        timeout_seconds=None if timeout is None else duration_seconds(timeout),
        retry_max=retry_max,
        retry_when=retry_when,
        resource_group=keywords.get("resource_group"),
        artifacts=keywords.get("artifacts"),
        rules_changes=None if rule is None else patterns_of(rule),
        environment={"name": environment} if isinstance(environment, str) else environment,
        image=image.get("name") if isinstance(image, dict) else image,
        interruptible=bool(won.get("interruptible", keywords.get("interruptible", False))),
        tags=tuple(map(str, keywords.get("tags") or ())),
        start_in_seconds=duration_seconds(start_in) if when == "delayed" and start_in else None,
        id_tokens=keywords.get("id_tokens") or {},
    )


def checked_needs(drafts: Sequence[Draft], jobs: Sequence[JobSpec], *, stages: Sequence[str]) -> None:
    """Refuse what GitLab refuses of a pipeline as a whole: needs that are not there, circles, unknown stages.

    Raises:
        ConfigurationError: with GitLab's sentence.
    """
    present = {draft.base for draft in drafts} | {draft.name for draft in drafts}
    for draft, job in zip(drafts, jobs, strict=True):
        if job.stage not in stages:
            raise ConfigurationError(
                f"{job.name} job: chosen stage {job.stage} does not exist; available stages are {', '.join(stages)}"
            )
        for entry in draft.keywords.get("needs") or ():
            name, optional = (entry, False) if isinstance(entry, str) else (entry.get("job"), entry.get("optional"))
            if name not in present and not optional:
                raise ConfigurationError(
                    f"'{job.name}' job needs '{name}' job, but '{name}' does not exist in the pipeline. "
                    "This might be because of the only, except, or rules keywords. To need a job that sometimes "
                    "does not exist in the pipeline, use needs:optional."
                )
    _refuse_circles(jobs)


def _refuse_circles(jobs: Sequence[JobSpec]) -> None:
    waiting = {job.name: set(job.needs or ()) for job in jobs}
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    if waiting:
        raise ConfigurationError(f"The pipeline has circular dependencies: {', '.join(sorted(waiting))}")


def _allow_failure(draft: Draft, rule: Rule | None) -> tuple[bool, tuple[int, ...]]:
    found = (rule or {}).get("allow_failure")
    if found is None:
        found = draft.keywords.get("allow_failure")
    if found is None:
        return draft.keywords.get("rules") is None and draft.keywords.get("when") == "manual", ()
    if isinstance(found, dict):
        codes: Any = found.get("exit_codes") or []
        return False, tuple(codes) if isinstance(codes, list) else (int(codes),)
    return bool(found), ()


def _retry(draft: Draft) -> tuple[int, tuple[str, ...]]:
    found = draft.keywords.get("retry")
    when: Any = ["always"]
    if isinstance(found, dict):
        found, when = found.get("max", 0), found.get("when", when)
    most = int(found or 0)
    if most > _MOST_RETRIES:
        raise ConfigurationError(f"jobs:{draft.base}:retry max must be less than or equal to {_MOST_RETRIES}")
    return most, tuple(when) if isinstance(when, list) else (str(when),)


def _lines(found: Any) -> tuple[str, ...]:
    if found is None:
        return ()
    return (found,) if isinstance(found, str) else tuple(map(str, found))


def _needed(needs: Sequence[Any], drafts: Sequence[Draft], *, artifacts_only: bool) -> Iterator[str]:
    for entry in needs:
        wanted: Mapping[str, Any] = {"job": entry} if isinstance(entry, str) else entry
        if "pipeline" in wanted or "project" in wanted:
            raise ConfigurationError(
                f"'needs' of another pipeline or project ({wanted}) is not done by the stand-in; remove it."
            )
        if artifacts_only and wanted.get("artifacts") is False:
            continue
        chosen = [
            {key: str(value) for key, value in combination.items()}
            for combination in (wanted.get("parallel") or {}).get("matrix", ())
        ]
        for draft in drafts:
            is_meant = not chosen or any(combination.items() <= draft.matrix.items() for combination in chosen)
            if draft.name == wanted["job"] or (draft.base == wanted["job"] and is_meant):
                yield draft.name


def _dependencies(found: Sequence[str] | None, needs: Any, drafts: Sequence[Draft]) -> tuple[str, ...] | None:
    if found is not None:
        return tuple(draft.name for name in found for draft in drafts if name in {draft.name, draft.base})
    return None if needs is None else tuple(_needed(needs, drafts, artifacts_only=True))
