"""What an expansion says: the jobs of one pipeline, in GitLab's words.

Promises: plain frozen data, nothing of gitlab-ci-local's own shapes.
Must not know: how it was found out.
Words as in https://docs.gitlab.com/ci/yaml/ (18.x).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

When = Literal["on_success", "manual", "delayed", "always", "on_failure", "never"]

_UNIT_SECONDS = (
    (re.compile(r"s(ec(ond)?s?)?"), 1),
    (re.compile(r"m(in(ute)?s?)?"), 60),
    (re.compile(r"h((ou)?rs?)?"), 3600),
    (re.compile(r"d(ays?)?"), 86_400),
    (re.compile(r"w((ee)?ks?)?"), 7 * 86_400),
    (re.compile(r"mo(nth|s)?s?"), 30 * 86_400),
    (re.compile(r"y((ea)?rs?)?"), 365 * 86_400),
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)(?:\s|,|and)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job of a pipeline, as its `.gitlab-ci.yml` asks for it.

    `script` has `before_script` in front. `needs` is None where the job waits for the stages before it, and empty
    where it starts at once. `dependencies` are the jobs whose artifacts it gets; None means: all of the earlier
    stages. `variables` are global, job, matrix and rule variables merged in GitLab's order, values not expanded.
    """

    name: str
    stage: str
    script: tuple[str, ...]
    after_script: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] | None = None
    dependencies: tuple[str, ...] | None = None
    when: When = "on_success"
    allow_failure: bool = False
    allow_failure_exit_codes: tuple[int, ...] = ()
    timeout_seconds: int | None = None
    retry_max: int = 0
    retry_when: tuple[str, ...] = ("always",)
    resource_group: str | None = None
    artifacts: Mapping[str, Any] | None = None
    rules_changes: tuple[str, ...] | None = None
    environment: Mapping[str, Any] | None = None
    image: str | None = None
    interruptible: bool = False
    tags: tuple[str, ...] = ()
    start_in_seconds: int | None = None
    id_tokens: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """The jobs of one pipeline in the order of the file; with `errors`, there is no pipeline and there are no jobs.

    `filtered` says that `workflow:rules` wants no pipeline, or that no rule of any job wants that job; then `errors`
    is empty and `reason` is GitLab's sentence. `variables` are those of the file that hold for the whole pipeline.
    """

    jobs: tuple[JobSpec, ...] = ()
    stages: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    filtered: bool = False
    reason: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


class ConfigurationError(ValueError):
    """The configuration asks for something wrong, or for something the stand-in does not do; the message says which."""


def duration_seconds(text: str | float) -> int:
    """Return the seconds of a duration as GitLab writes it: `1h 30m`, `20 minutes`, `3600`, `2 weeks`.

    Raises:
        ConfigurationError: the text is no duration.
    """
    if isinstance(text, int | float):
        return int(text)
    rest, total = text.strip().lower(), 0.0
    if not rest:
        raise ConfigurationError("An empty duration was given; write for example '1h 30m'.")
    while rest:
        part = _PART.match(rest)
        if part is None:
            raise ConfigurationError(f"'{text}' is not a duration; write for example '1h 30m'.")
        total += float(part[1]) * _unit_seconds(part[2], whole=text)
        rest = rest[part.end() :]
    return int(total)


def _unit_seconds(unit: str, *, whole: str) -> int:
    if not unit:
        return 1
    for pattern, seconds in _UNIT_SECONDS:
        if pattern.fullmatch(unit):
            return seconds
    raise ConfigurationError(f"'{whole}' is not a duration: '{unit}' is no unit of time.")
