"""The OpenAPI document, made from the routes and the very classes that read and describe their bodies.

For: `GET /notebooks/spec.json`, and the meta test that finds every route of the API in it.
Promises: a view says once, in `@operation`, what it takes and answers; nothing here is written twice.
Must not know: what any operation does.
Source: OpenAPI 3.0.3 (https://spec.openapis.org/oas/v3.0.3); JSON schemas come from pydantic and are brought
from draft 2020-12 to OpenAPI's older dialect here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar, cast

from flask import Blueprint, Flask, Response, current_app, jsonify
from pydantic import BaseModel, TypeAdapter
from werkzeug.routing import Rule

from spawner.api.bodies import ErrorBody
from spawner.context import options

P = ParamSpec("P")
T = TypeVar("T")

ATTRIBUTE = "slipway_operation"
ALIAS_PREFIX = "/api/notebooks"  # the same routes as under /notebooks
TEXT: Final = "text/plain"
JSON: Final = "application/json"
_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one method of one route takes and answers; `answers` maps a status to a body type (None: empty)."""

    summary: str
    answers: Mapping[int, Any]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()
    media: str = JSON
    headers: tuple[str, ...] = ()
    security: str = "person"  # or "session" (its own credential), "hook" (its secret), or "none"


@dataclass(slots=True)
class _Schemas:
    """The shared schemas of one document."""

    components: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: Any, *, mode: str) -> dict[str, Any]:
        schema = TypeAdapter(kind).json_schema(
            mode="validation" if mode == "request" else "serialization", ref_template="#/components/schemas/{model}"
        )
        for name, part in schema.pop("$defs", {}).items():
            self.components[name] = _older_dialect(part)
        return cast("dict[str, Any]", _older_dialect(schema))


def operation(described: Operation) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Say what a view takes and answers."""

    def keep(view: Callable[P, T]) -> Callable[P, T]:
        setattr(view, ATTRIBUTE, described)
        return view

    return keep


def document(app: Flask) -> dict[str, Any]:
    """Return the OpenAPI document of every described route of the app."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, described in described_routes(app):
        path = _PARAMETER.sub(r"{\1}", rule.rule)
        paths.setdefault(path, {})[method.lower()] = _operation(rule, method, described, schemas)
    schemas.components["Error"] = schemas.of(ErrorBody, mode="response")
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Slipway",
            "version": options().version,
            "description": "Sessions on commits. `/api/notebooks` answers the same as `/notebooks`.",
        },
        "servers": [{"url": options().public_url}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {
                "person": {"type": "http", "scheme": "bearer", "description": "A GitLab token, or one of ours."},
                "hook": {"type": "apiKey", "in": "header", "name": "X-Gitlab-Token"},
                "session": {"type": "http", "scheme": "bearer", "description": "A session's own credential."},
            },
        },
    }


def described_routes(app: Flask) -> Iterator[tuple[Rule, str, Operation]]:
    """Yield every route and method that carries an operation, once: the alias prefix is left out."""
    for rule in app.url_map.iter_rules():
        described = getattr(app.view_functions[rule.endpoint], ATTRIBUTE, None)
        if described is None or rule.rule.startswith(ALIAS_PREFIX):
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield rule, method, described


def _operation(rule: Rule, method: str, described: Operation, schemas: _Schemas) -> dict[str, Any]:
    told: dict[str, Any] = {
        "summary": described.summary,
        "operationId": f"{method.lower()}_{rule.endpoint.rsplit('.', 1)[-1]}",
        "parameters": [*_path_parameters(rule), *_query_parameters(described, schemas), *_headers(described)],
        "responses": dict(_responses(described, schemas)),
        "security": [] if described.security == "none" else [{described.security: []}],
    }
    if described.body is not None:
        schema = schemas.of(described.body, mode="request")
        told["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return told


def _path_parameters(rule: Rule) -> Iterator[dict[str, Any]]:
    for name in _PARAMETER.findall(rule.rule):
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(described: Operation, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    if described.query is None:
        return
    schema = schemas.of(described.query, mode="request")
    for name, part in schema["properties"].items():
        part.pop("nullable", None)  # a query has no null
        yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": part}


def _headers(described: Operation) -> Iterator[dict[str, Any]]:
    for name in described.headers:
        yield {"name": name, "in": "header", "required": False, "schema": {"type": "string", "pattern": "^[!-~]*$"}}


def _responses(described: Operation, schemas: _Schemas) -> Iterator[tuple[str, Any]]:
    for status, kind in described.answers.items():
        told: dict[str, Any] = {"description": "Done" if status < 300 else "Nothing to send"}  # noqa: PLR2004 - HTTP
        if kind is not None:
            told["content"] = {described.media: {"schema": schemas.of(kind, mode="response")}}
        yield str(status), told
    errors = {*described.errors, 500, 503}
    if described.security != "none":
        errors |= {401, 403, 429}
    if described.body is not None:
        errors |= {400, 413, 422}
    for status in sorted(errors - set(described.answers)):
        content = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
        yield str(status), {"description": "An error, in words", "content": content}


def _older_dialect(schema: Any) -> Any:
    """Bring a JSON schema of draft 2020-12 to OpenAPI 3.0: `nullable`, single enums, boolean exclusive bounds."""
    if isinstance(schema, list):
        return [_older_dialect(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    old = {name: _older_dialect(part) for name, part in schema.items() if name not in {"title", "default"}}
    if "const" in old:
        old["enum"] = [old.pop("const")]
    if isinstance(old.get("exclusiveMinimum"), int | float):
        old["minimum"], old["exclusiveMinimum"] = old["exclusiveMinimum"], True
    if old.get("type") == "null":
        return {"nullable": True, "enum": [None]}
    branches = old.get("anyOf")
    if isinstance(branches, list) and {"nullable": True, "enum": [None]} in branches:
        branches.remove({"nullable": True, "enum": [None]})
        del old["anyOf"]
        one = branches[0] if len(branches) == 1 and "$ref" not in branches[0] else {"anyOf": branches}
        return {**old, **one, "nullable": True, **_null_in_enum(one)}
    return old


def _null_in_enum(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"enum": [*one["enum"], None]} if "enum" in one else {}


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the route of the document."""
    blueprint.get("/spec.json", endpoint="spec")(spec)


@operation(Operation(summary="This document", answers={200: dict[str, Any]}, security="none"))
def spec() -> Response:
    """Return the OpenAPI document."""
    return jsonify(document(current_app))
