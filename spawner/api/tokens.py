"""A person's own tokens, for programs: made, listed, revoked.

For: the command line; the same is on the person's page. Promises: a token's text is answered once, when it is made.
Must not know: how tokens are signed or kept.
"""

from flask import Blueprint, Response, jsonify, make_response, request

from spawner.api.bodies import NewTokenBody, PersonBody, TokensBody
from spawner.api.openapi import Operation, operation
from spawner.api.rendering import token_part
from spawner.api.schemas import TokenBody, read_body
from spawner.context import current_caller, login_required, services


@operation(Operation(summary="The person's tokens", answers={200: TokensBody}))
@login_required
def index() -> Response:
    """List the person's tokens, newest first."""
    body: TokensBody = {"tokens": [token_part(token) for token in services().users.tokens(current_caller())]}
    return jsonify(body)


@operation(Operation(summary="Make a token; its text is shown this once", body=TokenBody, answers={201: NewTokenBody}))
@login_required
def make() -> Response:
    """Make a token."""
    wanted = read_body(request, TokenBody)
    token, text = services().users.issue_token(current_caller(), name=wanted.name, lifetime_days=wanted.expires_in_days)
    body: NewTokenBody = {**token_part(token), "token": text}
    response = make_response(jsonify(body), 201)
    response.headers["Cache-Control"] = "no-store"
    return response


@operation(Operation(summary="Revoke a token, at once", answers={204: None}, errors=(404,)))
@login_required
def revoke(token_id: str) -> Response:
    """Revoke a token."""
    services().users.revoke_token(current_caller(), token_id)
    return Response(status=204)


@operation(Operation(summary="Who the token or cookie belongs to", answers={200: PersonBody}))
@login_required
def person() -> Response:
    """Say who is asking."""
    user = current_caller().user
    body: PersonBody = {
        "username": user.username,
        "name": user.name,
        "is_admin": user.is_admin,
        "has_sign_in": bool(services().users.scopes(user.id)),
    }
    return jsonify(body)


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the routes of this module."""
    blueprint.get("/tokens", endpoint="list_tokens")(index)
    blueprint.post("/tokens", endpoint="make_token")(make)
    blueprint.delete("/tokens/<token_id>", endpoint="revoke_token")(revoke)
    blueprint.get("/person", endpoint="show_person")(person)
