"""Whether the server answers, over the route a person will use.

For: the agent, from the moment the server may serve; a runtime that looks from outside.
Promises: one request every 20 ms, to the session's own name, until one is answered or `stop` is set.
Must not know: what the answer says; any answer below 500 is one.
"""

import http.client
import threading
from collections.abc import Callable

_PAUSE_SECONDS = 0.02
_ANSWER_SECONDS = 10.0
_PATH = "/slipway/open"


def until_answered(
    *, connect_host: str, port: int, public_host: str, stop: threading.Event, then: Callable[[], None]
) -> None:
    """Ask until the server answers, then call `then`; returns without it when `stop` was set."""
    while not stop.is_set():
        if is_answered(connect_host, port, public_host=public_host):
            then()
            return
        stop.wait(_PAUSE_SECONDS)


def is_answered(connect_host: str, port: int, *, public_host: str, within_seconds: float = _ANSWER_SECONDS) -> bool:
    """Say whether the server answers one request to the session's own name."""
    connection = http.client.HTTPConnection(connect_host, port, timeout=within_seconds)
    try:
        # The socket listens before the server does: the request waits in its queue and is answered at once.
        connection.request("GET", _PATH, headers={"Host": f"{public_host}:{port}", "Connection": "close"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return answer.status < 500  # noqa: PLR2004 - HTTP's own number
