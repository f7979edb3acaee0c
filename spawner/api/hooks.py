"""GitLab's hooks: verified, told apart from repeats, and turned into hints; answered in milliseconds.

For: `POST /hooks/gitlab`. Promises: only a delivery that proves one of our secrets is read; a repeat does nothing; an
event that means nothing to us is fine; nothing but hints is taken from a payload: what is true is asked of GitLab.
Must not know: who waits for what.
"""

import json
import threading
from collections import OrderedDict
from typing import Final

from flask import Blueprint, Response, current_app, request
from flask.blueprints import BlueprintSetupState

from spawner.api.openapi import Operation, operation
from spawner.context import now, options, services
from spawner.errors import Forbidden, MalformedRequest
from spawner.gitlab.webhooks import BuildsChanged, Secret, delivery_id, event, is_genuine
from spawner.log import get_logger

DEFAULT_FORGE: Final = "default"
SIGNING_PREFIX: Final = "whsec_"  # of the newer hooks' signing keys
REMEMBERED_DELIVERIES = 4096
LARGEST_BYTES = 25 << 20  # GitLab's own cap
_EXTENSION: Final = "slipway.deliveries"
_log = get_logger(__name__)


class Deliveries:
    """The deliveries seen lately, bounded; safe for threads. A repeat that slips through only hints twice."""

    def __init__(self, limit: int = REMEMBERED_DELIVERIES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, None] = OrderedDict()

    def is_new(self, name: str) -> bool:
        """Say whether this is the first time, and remember it."""
        with self._lock:
            if name in self._seen:
                self._seen.move_to_end(name)
                return False
            self._seen[name] = None
            if len(self._seen) > self._limit:
                self._seen.popitem(last=False)
            return True


@operation(Operation(summary="A hook of GitLab", answers={204: None}, errors=(400, 413), security="hook"))
def gitlab() -> Response:
    """Take a hook."""
    request.max_content_length = LARGEST_BYTES
    body = request.get_data(cache=False)
    headers = dict(request.headers)
    secret = options().hook_secret or ""
    secrets = [Secret(signing_key=secret) if secret.startswith(SIGNING_PREFIX) else Secret(token=secret)]
    if not is_genuine(headers, body, secrets, now()):
        raise Forbidden("This hook is not ours.", remedy="Give GitLab the secret token of the settings.")
    deliveries: Deliveries = current_app.extensions[_EXTENSION]
    if deliveries.is_new(delivery_id(headers, body)):
        _hint(request.headers.get("X-Gitlab-Event", ""), body)
    return Response(status=204)


def _hint(header: str, body: bytes) -> None:
    try:
        payload: object = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise MalformedRequest("The body is not valid JSON.") from exc
    found = event(header, payload)
    if isinstance(found, BuildsChanged):
        services().images.hint(DEFAULT_FORGE, found.project_id, found.sha)
        _log.info("hook_taken", project=found.project_id, sha=found.sha, pipeline=found.pipeline_id)


def register(blueprint: Blueprint) -> None:
    """Give a blueprint the route of this module."""

    def prepare(state: BlueprintSetupState) -> None:
        state.app.extensions[_EXTENSION] = Deliveries()

    blueprint.record_once(prepare)
    blueprint.post("/hooks/gitlab", endpoint="gitlab_hook")(gitlab)
