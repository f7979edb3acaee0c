"""The side endpoints that the published `renku` command line calls when pointed straight at us.

For: `renku session start|ls|stop`. Promises: a project's numeric id and path, no cloud storage, and the resource
classes in the shape of Renku's own pool list.
Must not know: launching.
Source: renku-python 2.9.4 (`renku/core/session/renkulab.py`); `reference/session-api.md` §5.1.
"""

from typing import Any
from urllib.parse import unquote

from flask import Blueprint, Response, jsonify

from spawner.api.openapi import Operation, operation
from spawner.context import current_caller, login_required, services
from spawner.names import ProjectPath
from spawner.sessions.options import GIGABYTE, ResourceClass


@operation(
    Operation(summary="A project, as GitLab shows it to this person", answers={200: dict[str, Any]}, errors=(404,))
)
@login_required
def project(path: str) -> Response:
    """Return the fields of a GitLab project that the client reads."""
    caller = current_caller()
    found = services().forge.project(services().users.credential_of(caller), ProjectPath(unquote(path)))
    namespace, _, name = found.path.rpartition("/")
    return jsonify(
        {
            "id": found.id,
            "path": name,
            "path_with_namespace": found.path,
            "namespace": {"full_path": namespace},
            "name": found.name,
            "default_branch": found.default_branch,
            "visibility": found.visibility.value,
            "web_url": found.web_url,
            "http_url_to_repo": found.git_url,
        }
    )


@operation(Operation(summary="Cloud storage: none", answers={200: list[Any]}))
@login_required
def storage() -> Response:
    """Return no cloud storage."""
    return jsonify([])


@operation(Operation(summary="Resource classes, in Renku's shape", answers={200: list[Any]}))
@login_required
def resource_pools() -> Response:
    """Return the resource classes as one public pool."""
    classes = services().sessions.resource_classes()
    pool = {"id": 1, "name": "default", "default": True, "public": True, "quota": None}
    return jsonify([{**pool, "classes": [_class(each) for each in classes]}])


def _class(each: ResourceClass) -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name,
        "cpu": each.cpu_cores,
        "memory": round(each.memory_bytes / GIGABYTE),
        "gpu": each.gpu_count,
        "default_storage": round(each.default_storage_bytes / GIGABYTE),
        "max_storage": round(each.max_storage_bytes / GIGABYTE),
        "default": each.is_default,
        "matching": True,
        "node_affinities": [],
        "tolerations": [],
    }


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the routes of this module."""
    blueprint.get("/repos/api/v4/projects/<path:path>", endpoint="renku_project")(project)
    blueprint.get("/api/data/storage", endpoint="renku_storage")(storage)
    blueprint.get("/api/data/resource_pools", endpoint="renku_resource_pools")(resource_pools)
