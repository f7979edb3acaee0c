"""A job as `POST /api/v4/jobs/request` hands it out, read once into plain frozen data.

Promises: only the fields that this runner uses, with the protocol's defaults for what is absent; unknown fields
are left.
Must not know: how a job is run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_REFERENCE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})")
_DEFAULT_TIMEOUT_SECONDS = 3600
_DEEPEST_REFERENCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable of a job; a `file` variable's value is put into a file whose path the job gets."""

    key: str
    value: str
    file: bool
    masked: bool
    raw: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One script of a job: `script`, `after_script` or a later one."""

    name: str
    script: tuple[str, ...]
    timeout_seconds: int | None
    when: str
    allow_failure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRule:
    """What is to be uploaded at the end; `format` is zip, gzip or raw."""

    name: str
    type: str
    format: str
    when: str
    expire_in: str
    paths: tuple[str, ...]
    exclude: tuple[str, ...]
    untracked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """An earlier job whose archive this one gets."""

    id: int
    token: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which commit of which repository; the address holds no credentials."""

    url: str
    sha: str
    ref: str
    refspecs: tuple[str, ...]
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerJob:
    """One job to run."""

    id: int
    token: str
    name: str
    project_name: str
    source: Source
    timeout_seconds: int
    variables: tuple[Variable, ...]
    steps: tuple[Step, ...]
    artifacts: tuple[ArtifactRule, ...]
    dependencies: tuple[Dependency, ...]
    has_sections: bool
    mask_prefixes: tuple[str, ...]
    failure_reasons: tuple[str, ...]
    image: str | None
    services: tuple[str, ...]

    def secrets(self) -> tuple[str, ...]:
        """Return the values that must not be seen in the log, longest first."""
        values = {variable.value for variable in self.variables if variable.masked} | {self.token}
        return tuple(sorted((value for value in values if value), key=len, reverse=True))


def read_job(document: Mapping[str, Any]) -> RunnerJob:
    """Read the JSON of a job.

    Raises:
        KeyError, TypeError, ValueError: it is not a job of this protocol.
    """
    info, features = document.get("job_info") or {}, document.get("features") or {}
    image = document.get("image") or {}
    return RunnerJob(
        id=int(document["id"]),
        token=str(document["token"]),
        name=str(info.get("name", "")),
        project_name=str(info.get("project_name") or "project"),
        source=_source(document.get("git_info") or {}),
        timeout_seconds=int((document.get("runner_info") or {}).get("timeout") or _DEFAULT_TIMEOUT_SECONDS),
        variables=tuple(_variable(row) for row in document.get("variables") or ()),
        steps=tuple(_step(row) for row in document.get("steps") or ()),
        artifacts=tuple(_artifact(row) for row in document.get("artifacts") or ()),
        dependencies=tuple(
            Dependency(id=int(row["id"]), token=str(row["token"]), name=str(row["name"]))
            for row in document.get("dependencies") or ()
            if (row.get("artifacts_file") or {}).get("filename")
        ),
        has_sections=bool(features.get("trace_sections")),
        mask_prefixes=tuple(map(str, features.get("token_mask_prefixes") or ())),
        failure_reasons=tuple(map(str, features.get("failure_reasons") or ())),
        image=image.get("name") or None,
        services=tuple(str(row.get("name")) for row in document.get("services") or ()),
    )


def expanded(variables: Sequence[Variable], *, extra: Mapping[str, str]) -> dict[str, str]:
    """Return all variables by name with `$NAME` and `${NAME}` in their values filled in, later ones winning.

    `$$` becomes `$`; a value marked raw, and one that refers to itself, stays as it is. `extra` are taken as
    they are and win over all.
    """
    rows = {variable.key: variable for variable in variables}

    def value_of(name: str, depth: int) -> str:
        if name in extra:
            return extra[name]
        row = rows.get(name)
        if row is None:
            return ""
        if row.raw or depth > _DEEPEST_REFERENCE:
            return row.value
        return _REFERENCE.sub(lambda found: "$" if found[1] else value_of(found[2] or found[3], depth + 1), row.value)

    return {name: value_of(name, 0) for name in rows} | dict(extra)


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with `$NAME` and `${NAME}` filled in; unknown names become empty."""
    return _REFERENCE.sub(lambda found: "$" if found[1] else values.get(found[2] or found[3], ""), text)


def _source(row: Mapping[str, Any]) -> Source:
    parts = urlsplit(str(row.get("repo_url", "")))
    return Source(
        url=urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])),
        sha=str(row.get("sha", "")),
        ref=str(row.get("ref", "")),
        refspecs=tuple(map(str, row.get("refspecs") or ())),
        depth=int(row.get("depth") or 0),
    )


def _variable(row: Mapping[str, Any]) -> Variable:
    return Variable(
        key=str(row["key"]),
        value="" if row.get("value") is None else str(row["value"]),
        file=bool(row.get("file")),
        masked=bool(row.get("masked")),
        raw=bool(row.get("raw")),
    )


def _step(row: Mapping[str, Any]) -> Step:
    return Step(
        name=str(row["name"]),
        script=tuple(map(str, row.get("script") or ())),
        timeout_seconds=int(row["timeout"]) if row.get("timeout") else None,
        when=str(row.get("when") or "on_success"),
        allow_failure=bool(row.get("allow_failure")),
    )


def _artifact(row: Mapping[str, Any]) -> ArtifactRule:
    kind = str(row.get("artifact_type") or "archive")
    return ArtifactRule(
        name=str(row.get("name") or ""),
        type=kind,
        format=str(row.get("artifact_format") or ("zip" if kind == "archive" else "gzip")),
        when=str(row.get("when") or "on_success"),
        expire_in=str(row.get("expire_in") or ""),
        paths=tuple(map(str, row.get("paths") or ())),
        exclude=tuple(map(str, row.get("exclude") or ())),
        untracked=bool(row.get("untracked")),
    )
