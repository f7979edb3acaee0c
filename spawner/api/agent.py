"""What an agent beside a session may ask: to report, and to redeem a one-time code.

For: `spawner.agent`, which holds its session's credential and nothing else.
Promises: the credential speaks for one generation of one session; an unknown one gets 401 and learns nothing.
Must not know: runtimes, sign-ins of people.
"""

from flask import Blueprint, Response, jsonify, request

from spawner.api.bodies import RedeemedBody
from spawner.api.openapi import Operation, operation
from spawner.api.schemas import RedeemBody, ReportBody, read_body
from spawner.context import bearer_text, services
from spawner.errors import NotFound
from spawner.sessions.agents import Report


@operation(Operation(summary="An agent's word", body=ReportBody, answers={204: None}, security="session"))
def report() -> Response:
    """Take a report; repeating one is harmless."""
    credential = bearer_text()
    body = read_body(request, ReportBody)
    services().agents.report(
        credential,
        Report(
            event=body.event,
            message=body.message,
            exit_code=body.exit_code,
            is_out_of_memory=body.is_out_of_memory,
        ),
    )
    return Response(status=204)


@operation(
    Operation(
        summary="Use up a one-time code",
        body=RedeemBody,
        answers={200: RedeemedBody},
        errors=(404,),
        security="session",
    )
)
def redeem() -> Response:
    """Say whom a code lets in; 404 when it is unknown, used, expired or another session's."""
    credential = bearer_text()
    body = read_body(request, RedeemBody)
    username = services().agents.redeem(credential, body.code)
    if username is None:
        raise NotFound("This code is used up or too old.", remedy="Open the session from its page again.")
    answer: RedeemedBody = {"username": username}
    return jsonify(answer)


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the routes of this module."""
    blueprint.post("/agent/report", endpoint="agent_report")(report)
    blueprint.post("/agent/redeem", endpoint="agent_redeem")(redeem)
