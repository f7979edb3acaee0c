"""Health for people, load balancers and Prometheus.

Promises: `/healthz` says that this process answers, `/readyz` that what it needs answers too, each by name;
neither asks for a sign-in, neither shows a secret or an address.
Must not know: what the parts are.
"""

from typing import Any

from flask import Blueprint, Response, jsonify, make_response

from spawner.api.openapi import TEXT, Operation, operation
from spawner.context import options
from spawner.errors import NotFound, SpawnerError
from spawner.log import get_logger

_log = get_logger(__name__)


@operation(Operation(summary="Alive, as the contract has it", answers={200: str}, media=TEXT, security="none"))
def health() -> Response:
    """Say that the service runs, in the contract's words."""
    return Response("service running under /notebooks", mimetype=TEXT)


@operation(Operation(summary="This process answers", answers={200: str}, media=TEXT, security="none"))
def healthz() -> Response:
    """Say that this process answers."""
    return Response("ok\n", mimetype=TEXT)


@operation(
    Operation(
        summary="What this process needs answers", answers={200: dict[str, Any], 503: dict[str, Any]}, security="none"
    )
)
def readyz() -> Response:
    """Ask each part that this process needs; 503 when one does not answer."""
    found: dict[str, str] = {}
    for name, check in options().readiness.items():
        try:
            check()
        except SpawnerError as error:
            _log.warning("not_ready", part=name, error=error.message)
            found[name] = error.message
        else:
            found[name] = "ok"
    is_ready = all(said == "ok" for said in found.values())
    return make_response(jsonify({"ready": is_ready, "parts": found}), 200 if is_ready else 503)


@operation(Operation(summary="Figures for Prometheus", answers={200: str}, errors=(404,), media=TEXT, security="none"))
def metrics() -> Response:
    """Return the metrics in Prometheus' text format."""
    read = options().metrics
    if read is None:
        raise NotFound("This process keeps no metrics.")
    body, content_type = read()
    return Response(body, content_type=content_type)


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the routes of this module."""
    blueprint.get("/health")(health)
    blueprint.get("/healthz")(healthz)
    blueprint.get("/readyz")(readyz)
    blueprint.get("/metrics")(metrics)
