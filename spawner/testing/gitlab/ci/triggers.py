"""Trigger jobs (`trigger:`): taken out of a configuration before it is expanded, and put back as what they start.

gitlab-ci-local lists a trigger job as an ordinary one, so each is handed to it as a job with an empty script; its
rules, needs and stage are then decided like any other's.

Promises: what is no trigger job is left as it was written, tags and anchors included; a `trigger` that the stand-in
does not start is a sentence, never a job that quietly does something else.
Must not know: pipelines, projects, the store.
Source: https://docs.gitlab.com/ci/yaml/#trigger (18.x).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from spawner.testing.gitlab.expand.model import ConfigurationError
from spawner.testing.gitlab.records import Trigger

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORD = "trigger"
_PLACEHOLDER = "true"


def separated(content: bytes) -> tuple[bytes, dict[str, Trigger]]:
    """Return the configuration without triggers, and the trigger of each job that has one, by the job's name.

    What is no YAML comes back as it is: whoever expands it says so.

    Raises:
        ConfigurationError: a trigger that the stand-in does not start.
    """
    if _WORD.encode() not in content:
        return content, {}
    try:
        documents = list(yaml.compose_all(content, Loader=yaml.SafeLoader))
    except yaml.YAMLError:
        return content, {}
    if not documents or not isinstance(documents[-1], yaml.MappingNode):
        return content, {}
    jobs = {key.value: job for key, job in documents[-1].value if isinstance(job, yaml.MappingNode)}
    own = {name: _plain(value) for name, job in jobs.items() if (value := _of(job, _WORD)) is not None}
    for name in own:
        _emptied(jobs[name])
    found = {name: inherited for name in jobs if (inherited := _inherited(name, jobs, own, depth=0)) is not None}
    triggers = {name: _trigger(name, value) for name, value in found.items() if not name.startswith(".")}
    return yaml.serialize_all(documents, Dumper=yaml.SafeDumper, allow_unicode=True).encode(), triggers


def _inherited(name: str, jobs: Mapping[str, yaml.MappingNode], own: Mapping[str, Any], *, depth: int) -> Any:
    if name in own:
        return own[name]
    parents = _plain(_of(jobs[name], "extends")) if name in jobs and depth <= len(jobs) else None
    for parent in reversed([parents] if isinstance(parents, str) else parents or []):
        found = _inherited(parent, jobs, own, depth=depth + 1)
        if found is not None:
            return found
    return None


def _trigger(name: str, value: Any) -> Trigger:
    if isinstance(value, str):
        return Trigger(project=value)
    given = value if isinstance(value, dict) else {}
    depends = given.get("strategy") in {"depend", "mirror"}
    if given.get("project"):
        return Trigger(project=str(given["project"]), branch=given.get("branch"), depends=depends)
    includes = given.get("include")
    rows = includes if isinstance(includes, list) else [includes]
    paths = [row if isinstance(row, str) else (row or {}).get("local") for row in rows]
    if len(paths) != 1 or not isinstance(paths[0], str) or (isinstance(rows[0], dict) and len(rows[0]) > 1):
        raise ConfigurationError(
            f"Job '{name}' triggers what the stand-in does not start: it takes one local file, or a project."
        )
    return Trigger(include=paths[0].lstrip("/"), depends=depends)


def _of(job: yaml.MappingNode, word: str) -> yaml.Node | None:
    return next((value for key, value in job.value if key.value == word), None)


def _emptied(job: yaml.MappingNode) -> None:
    """Give a trigger job an empty script in place of its trigger."""
    kept = [(key, value) for key, value in job.value if key.value not in {_WORD, "script"}]
    plain = {kind: f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq")}
    script = yaml.SequenceNode(plain["seq"], [yaml.ScalarNode(plain["str"], _PLACEHOLDER, style="'")])
    job.value = [*kept, (yaml.ScalarNode(plain["str"], "script"), script)]


def _plain(node: yaml.Node | None) -> Any:
    return None if node is None else yaml.safe_load(yaml.serialize(node))
