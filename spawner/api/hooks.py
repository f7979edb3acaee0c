"""GitLab's hooks: verified, told apart from repeats, and turned into hints; answered in milliseconds.

For: `POST /hooks/gitlab`. Promises: only a delivery that proves one of our secrets is read, and without a signature to
check not even its body; a repeat does nothing, in any process; GitLab is never told of a failure of ours, because it
would switch the hook off; nothing but hints is taken from a payload: what is true is asked of GitLab, later.
Must not know: who waits for what.
"""

import json
from typing import Final

from flask import Blueprint, Response, request

from spawner import metrics
from spawner.api.openapi import Operation, operation
from spawner.context import now, options, services
from spawner.errors import Forbidden, MalformedRequest, StoreUnavailable
from spawner.gitlab.webhooks import BuildsChanged, Secret, delivery_id, event, is_genuine, is_signed
from spawner.log import get_logger

DEFAULT_FORGE: Final = "default"
SIGNING_PREFIX: Final = "whsec_"  # of the newer hooks' signing keys
LARGEST_BYTES = 25 << 20  # GitLab's own cap
_log = get_logger(__name__)


@operation(Operation(summary="A hook of GitLab", answers={204: None}, errors=(400, 413), security="hook"))
def gitlab() -> Response:
    """Take a hook."""
    headers = dict(request.headers)
    body = b""
    if is_signed(headers):
        body = _body()
    if not is_genuine(headers, body, _secrets(), now()):
        metrics.HOOKS.labels(outcome="refused").inc()
        raise Forbidden("This hook is not ours.", remedy="Give GitLab the secret token of the settings.")
    try:
        outcome = _taken(headers, body or _body())
    except StoreUnavailable as error:  # a poll finds what is lost here; a hook that GitLab switches off would be missed
        _log.warning("hook_lost", reason=error.message)
        outcome = "lost"
    metrics.HOOKS.labels(outcome=outcome).inc()
    return Response(status=204)


def _body() -> bytes:
    request.max_content_length = LARGEST_BYTES
    return request.get_data(cache=False)


def _secrets() -> list[Secret]:
    return [
        Secret(signing_key=secret) if secret.startswith(SIGNING_PREFIX) else Secret(token=secret)
        for secret in options().hook_secrets
    ]


def _taken(headers: dict[str, str], body: bytes) -> str:
    """Hint what a genuine delivery means, once; returns what became of it."""
    if not options().deliveries.is_new(delivery_id(headers, body)):
        return "repeated"
    try:
        payload: object = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise MalformedRequest("The body is not valid JSON.") from exc
    found = event(request.headers.get("X-Gitlab-Event", ""), payload)
    if not isinstance(found, BuildsChanged):
        return "ignored"
    services().images.hint(DEFAULT_FORGE, found.project_id, found.sha)
    _log.info("hook_taken", project=found.project_id, sha=found.sha, pipeline=found.pipeline_id)
    return "taken"


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the route of this module."""
    blueprint.post("/hooks/gitlab", endpoint="gitlab_hook")(gitlab)
