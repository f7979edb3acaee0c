"""What a launch would launch: a project's branch, tag or commit, found with the person's own rights.

For: the command line, and clients that know a branch and need a commit. Promises: nothing is started; the full SHA
and a branch that contains it come back, whatever was named.
Must not know: how places are found.
"""

from flask import Blueprint, Response, jsonify, request

from spawner.api.bodies import AddressBody, RevisionBody
from spawner.api.openapi import Operation, operation
from spawner.api.schemas import AddressQuery, RevisionQuery, read_query
from spawner.context import current_caller, login_required, options, services
from spawner.names import ProjectPath
from spawner.sessions.addresses import parse_pasted
from spawner.sessions.launching import Named, Place


@operation(
    Operation(
        summary="The commit and branch that a launch of this project would take",
        query=RevisionQuery,
        answers={200: RevisionBody},
        errors=(404, 422),
    )
)
@login_required
def revision(path: str) -> Response:
    """Return what a branch, tag or commit names; the newest of the default branch where nothing is named."""
    wanted = read_query(request, RevisionQuery)
    named = Named(project=ProjectPath(path), sha=wanted.sha, branch=wanted.ref, revision=wanted.revision)
    return jsonify(_body(services().sessions.preview(current_caller(), named)))


@operation(
    Operation(
        summary="The commit and branch that an address of GitLab names",
        query=AddressQuery,
        answers={200: AddressBody},
        errors=(404, 422),
    )
)
@login_required
def address() -> Response:
    """Return what any GitLab page, clone URL or project path names, with the file that it shows."""
    wanted = read_query(request, AddressQuery)
    destination = parse_pasted(wanted.address, [forge.web_url for forge in options().forges])
    found = services().sessions.locate(current_caller(), destination, sha=wanted.sha, ref=wanted.ref)
    body: AddressBody = {**_body(found.place), "path": found.path}
    return jsonify(body)


def _body(place: Place) -> RevisionBody:
    return {
        "project": place.project.path,
        "project_id": place.project.id,
        "branch": place.branch,
        "ref_kind": place.ref_kind.value,
        "commit_sha": place.commit.sha,
        "title": place.commit.title,
        "author_name": place.commit.author_name,
        "web_url": place.commit.web_url,
    }


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the routes of this module."""
    blueprint.get("/projects/<path:path>/revision", endpoint="show_revision")(revision)
    blueprint.get("/address", endpoint="show_address")(address)
