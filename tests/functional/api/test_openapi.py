"""The OpenAPI document: whole, valid, and kept by what answers.

Covered: every route is in it, property-based requests get no defect and no answer outside of it.
Left out: event streams, which do not end (test_stream), and the relay, hooks and pages, which are no JSON API.
"""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, strategies
from schemathesis.checks import load_all_checks

from spawner.api.openapi import ALIAS_PREFIX, ATTRIBUTE, described_routes, document
from spawner.http import create_app
from spawner.ports import AccessLevel
from spawner.store.engine import open_engine
from tests.functional.api.world import PUBLIC_URL, SHA, World, make_world, world_options

NAME = "ada-proj-92f837b3"  # of the session that is there
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
]
UNDESCRIBED = {"bare.git_relay"}  # Git's own protocol


def _document(app: Flask) -> Any:
    with app.test_request_context(base_url=PUBLIC_URL):
        return document(app)


def test_every_route(world: World) -> None:
    """Every route of the API is in the document, and each alias has its twin there."""
    rules = [rule for rule in world.app.url_map.iter_rules() if not rule.endpoint.startswith("web.")]
    missing = {
        rule.endpoint
        for rule in rules
        if not hasattr(world.app.view_functions[rule.endpoint], ATTRIBUTE) and rule.endpoint not in UNDESCRIBED
    }
    assert missing == set()
    listed = {rule.rule for rule, _, _ in described_routes(world.app)}
    aliases = {rule.rule.replace(ALIAS_PREFIX, "/notebooks") for rule in rules if rule.rule.startswith(ALIAS_PREFIX)}
    assert aliases <= listed


def test_references(world: World) -> None:
    """Every schema that is referred to is there, and operation ids are unique."""
    whole = _document(world.app)
    there = {f"#/components/schemas/{name}" for name in whole["components"]["schemas"]}
    assert set(_values(whole, "$ref")) <= there
    ids = list(_values(whole, "operationId"))
    assert len(ids) == len(set(ids))


def _values(part: Any, key: str) -> Iterator[Any]:
    if isinstance(part, dict):
        if isinstance(part.get(key), str):
            yield part[key]
        for value in part.values():
            yield from _values(value, key)
    elif isinstance(part, list):
        for value in part:
            yield from _values(value, key)


def test_served(world: World) -> None:
    """The document is served without a sign-in, under both prefixes."""
    client = world.app.test_client()
    first = client.get("/notebooks/spec.json")
    assert (first.status_code, first.json and first.json["openapi"]) == (200, "3.0.3")
    assert first.json == client.get("/api/notebooks/spec.json").json


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Any) -> Iterator[World]:
    """A spawner that many generated requests may use up."""
    path = tmp_path_factory.mktemp("playground") / "slipway.db"
    path.write_bytes(_sqlite_template.read_bytes())
    engine = open_engine(f"sqlite:///{path}")
    world = make_world(engine)
    world.add_person("ada")
    world.add_project(members={"ada": AccessLevel.DEVELOPER})
    client = world.app.test_client()
    body = {"namespace": "grp", "project": "proj", "commit_sha": SHA, "branch": "main"}
    made = client.post("/notebooks/servers", json=body, headers={"Authorization": "Bearer token-ada"}).json
    assert made is not None
    assert made["name"] == NAME
    yield world
    engine.dispose()


def _operations() -> list[tuple[str, str]]:
    """Return every operation of the document; streams do not end and are left out."""
    app = create_app(None, world_options())  # type: ignore[arg-type] # the document needs no services
    paths = _document(app)["paths"]
    return [(path, method) for path in paths for method in paths[path] if not path.endswith("/events")]


@pytest.mark.parametrize(("path", "method"), _operations())
def test_generated(playground: World, path: str, method: str) -> None:
    """Whatever is sent, the answer is in the document and no defect."""
    load_all_checks()
    described = schemathesis.openapi.from_wsgi("/notebooks/spec.json", playground.app)[path][method]
    checks = schemathesis.checks.CHECKS.get_by_names(CHECKS)

    @hypothesis.given(case=described.as_strategy(), is_known=strategies.booleans())
    @hypothesis.settings(
        max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    def send(case: Any, is_known: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        body = case.body if isinstance(case.body, dict) else {}
        if is_known and "name" in case.path_parameters:
            case.path_parameters["name"] = NAME
        if is_known and "commit_sha" in body:
            body.update(namespace="grp", project="proj", commit_sha=SHA, branch="main", image=None)
        hypothesis.assume(body.get("state") != "hibernated")  # the contract's own 500/3006
        case.headers["Authorization"] = "Bearer token-ada"
        case.validate_response(case.call(), checks=checks)

    send()
