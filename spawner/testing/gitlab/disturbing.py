"""The faults that a caller of HTTP meets: a GitLab that is down, slow, behind a broken proxy, or out of patience.

Source: https://docs.gitlab.com/administration/settings/rate_limit_on_pipelines_creation/ and
https://docs.gitlab.com/security/rate_limits/ (18.x): the two kinds of 429 look nothing like each other.
Promises: the stand-in's own face is never disturbed.
Must not know: routes.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import time
from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import flask

from spawner.testing.gitlab import faults, moving
from spawner.testing.gitlab.faults import Kind
from spawner.testing.gitlab.instance import now

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import Fault, Project

_OWN_FACE = "/-/"
_PATIENCE_SECONDS = 2.0
_BAD_GATEWAY = "<!DOCTYPE html><html><head><title>GitLab is not responding (502)</title></head><body>502</body></html>"
_TOO_OFTEN = {"message": {"error": "This endpoint has been requested too many times. Try again later."}}


def anywhere(instance: Instance, project: Project | None) -> flask.Response | None:
    """Return the answer that a request gets in place of its own, on any page; None when it is answered after all."""
    if flask.request.path.startswith(_OWN_FACE):
        return None
    if faults.strikes(instance, Kind.DOWN, project):
        return _hung_up()
    slow = faults.strikes(instance, Kind.SLOW, project)
    if slow:
        time.sleep(faults.DEFAULT_SLOW_SECONDS if slow.seconds is None else slow.seconds)
    return None


def on_api(instance: Instance, project: Project | None) -> flask.Response | None:
    """Return the answer that a request of the API gets in place of its own, or None."""
    if faults.strikes(instance, Kind.BAD_GATEWAY_HTML, project):
        return flask.Response(_BAD_GATEWAY, status=502, mimetype="text/html")
    rack = faults.strikes(instance, Kind.RATE_LIMITED_RACK, project)
    if rack:
        return retry_later(instance, _left_seconds(rack))
    if faults.strikes(instance, Kind.RATE_LIMITED_APPLICATION, project):
        return flask.Response(json.dumps(_TOO_OFTEN), status=429, mimetype="application/json")
    if project and faults.strikes(instance, Kind.PROJECT_MOVED, project):
        moving.move(instance, project, f"{project.path}-moved")
    return None


def _left_seconds(fault: Fault) -> float:
    if not fault.seconds:
        return _PATIENCE_SECONDS
    return max(1.0, (fault.created_at + timedelta(seconds=fault.seconds) - now()).total_seconds())


def retry_later(instance: Instance, seconds: float) -> flask.Response:
    """Answer as Rack::Attack does: no JSON, and when to come back in three headers."""
    reset = now() + timedelta(seconds=seconds)
    limit = instance.limits.calls_per_hour
    headers = {
        "Retry-After": str(math.ceil(seconds)),
        "RateLimit-Limit": str(limit),
        "RateLimit-Name": "throttle_authenticated_api",
        "RateLimit-Observed": str(limit + 1),
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": str(int(reset.timestamp())),
        "RateLimit-ResetTime": format_datetime(reset, usegmt=True),
    }
    return flask.Response("Retry later\n", status=429, headers=headers, mimetype="text/plain")


def _hung_up() -> flask.Response:
    """Close the connection without a word, as a server does that was just killed."""
    connection = flask.request.environ.get("gunicorn.socket")
    if isinstance(connection, socket.socket):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    return flask.Response(status=503, headers={"Connection": "close"})
