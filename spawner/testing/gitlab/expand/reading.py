"""Reads jobs from the expanded YAML that gitlab-ci-local prints, including what that program itself does not do.

That is: `timeout`, `retry`, `resource_group`, `parallel` with GitLab's own names, `needs` of parallel jobs, and
the keywords of the file's own `default:` that the program drops. `services`, `trigger`, `only` and `except` are
refused aloud: the stand-in would otherwise run something else than GitLab does.

Promises: a `Draft` per job instance, in the order of the file, before any rule is decided.
Must not know: rules, Git, Node.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from spawner.testing.gitlab.expand.model import ConfigurationError

_NOT_JOBS = frozenset({"stages", "variables", "workflow", "default", "include", "spec", "image", "services", "cache"})
_DROPPED_DEFAULTS = ("retry", "timeout", "interruptible", "tags", "id_tokens")
_REFUSED = {
    "services": "asks for services, and the stand-in runs jobs in a plain shell that starts none",
    "trigger": "triggers another pipeline, which the stand-in does not do",
    "only": "uses 'only', which the stand-in does not read; write it as 'rules'",
    "except": "uses 'except', which the stand-in does not read; write it as 'rules'",
    "run": "uses CI steps ('run'), which the stand-in does not read; write it as 'script'",
}


class _Loader(yaml.SafeLoader):
    """YAML as gitlab-ci-local prints it: dates and `=` are plain text, unknown tags are ignored."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag.rsplit(":", 1)[-1] not in {"timestamp", "value"}]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One job instance: its name, the name it has in the file, its keywords, and its variables before rules."""

    name: str
    base: str
    keywords: Mapping[str, Any]
    variables: Mapping[str, str]
    matrix: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The expanded configuration: its stages, its global variables, the rules of the workflow and its job instances."""

    stages: tuple[str, ...]
    variables: Mapping[str, str]
    workflow_rules: tuple[Mapping[str, Any], ...] | None
    drafts: tuple[Draft, ...]


def parsed(text: str | bytes) -> dict[str, Any]:
    """Return the mapping that a YAML text holds; of several documents, the last (a header `spec:` may come first).

    Raises:
        ConfigurationError: it is no YAML, or no mapping.
    """
    try:
        documents = [found for found in yaml.load_all(text, Loader=_Loader) if found is not None]
    except yaml.YAMLError as exc:
        raise ConfigurationError(f"Invalid YAML: {str(exc)[:256]}") from exc
    last = documents[-1] if documents else {}
    if not isinstance(last, dict):
        raise ConfigurationError("Invalid configuration format: the file is not a mapping of job names to jobs.")
    return last


def read_document(expanded: str, *, own_default: Mapping[str, Any]) -> Document:
    """Read the expanded YAML; `own_default` is the `default:` section of the file itself.

    Raises:
        ConfigurationError: a job asks for something the stand-in refuses; the message lists every such job.
    """
    found = parsed(expanded)
    jobs = {
        name: keywords
        for name, keywords in found.items()
        if name not in _NOT_JOBS and not str(name).startswith(".") and isinstance(keywords, dict)
    }
    refused = [
        f"Job '{name}' {why}."
        for name, keywords in jobs.items()
        for word, why in _REFUSED.items()
        if keywords.get(word)
    ]
    if refused:
        raise ConfigurationError("\n".join(refused))
    variables = _strings(found.get("variables"))
    drafts = [
        draft
        for name, keywords in jobs.items()
        for draft in _instances(str(name), _with_defaults(keywords, own_default), variables=variables)
    ]
    workflow = (found.get("workflow") or {}).get("rules")
    return Document(
        stages=tuple(found.get("stages") or ()),
        variables=variables,
        workflow_rules=None if workflow is None else tuple(workflow),
        drafts=tuple(drafts),
    )


def _with_defaults(keywords: Mapping[str, Any], own_default: Mapping[str, Any]) -> dict[str, Any]:
    inherited = (keywords.get("inherit") or {}).get("default", True)
    wanted = [word for word in _DROPPED_DEFAULTS if inherited is True or (inherited and word in inherited)]
    return {**{word: own_default[word] for word in wanted if word in own_default}, **keywords}


def _instances(name: str, keywords: Mapping[str, Any], *, variables: Mapping[str, str]) -> Iterator[Draft]:
    inherited = (keywords.get("inherit") or {}).get("variables", True)
    kept = {key: value for key, value in variables.items() if inherited is True or (inherited and key in inherited)}
    own = {**kept, **_strings(keywords.get("variables"))}
    parallel = keywords.get("parallel")
    if isinstance(parallel, dict):
        for chosen in _combinations(parallel.get("matrix") or []):
            label = f"{name}: [{', '.join(chosen.values())}]"
            yield Draft(name=label, base=name, keywords=keywords, variables={**own, **chosen}, matrix=chosen)
    elif parallel:
        for index in range(1, int(parallel) + 1):
            numbers = {"CI_NODE_INDEX": str(index), "CI_NODE_TOTAL": str(parallel)}
            label = f"{name} {index}/{parallel}"
            yield Draft(name=label, base=name, keywords=keywords, variables={**own, **numbers}, matrix={})
    else:
        yield Draft(name=name, base=name, keywords=keywords, variables=own, matrix={})


def _combinations(matrix: list[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    for entry in matrix:
        choices = [value if isinstance(value, list) else [value] for value in entry.values()]
        for chosen in itertools.product(*choices):
            yield {key: _text(value) for key, value in zip(entry, chosen, strict=True)}


def _strings(found: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(key): _text(value) for key, value in (found or {}).items()}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
