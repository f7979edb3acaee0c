"""What the agent tells the spawner: one HTTP call per event, again until it arrives.

For: `step`, `ready` and `exited`, posted to `<report_url>/report` with the session's credential.
Promises: events arrive in order; a spawner that is away delays nothing here; nobody waits for it but `close`.
Must not know: what the spawner does with an event.
The body: {"workload", "generation", "event", "message", "exit_code", "is_out_of_memory", "at", "port"}.
"""

import http.client
import json
import queue
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

_CALL_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 5.0
_REFUSED = range(400, 500)  # asking again would not change the answer
_ASK_AGAIN = frozenset({408, 425, 429})  # but for these


class Reporter:
    """Posts events from a thread of its own, one after the other."""

    def __init__(self, *, report_url: str, credential: str, common: Mapping[str, Any]) -> None:
        self._url = urlsplit(report_url.rstrip("/") + "/report")
        self._credential = credential
        self._common = dict(common)
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._end_at: float | None = None
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    def tell(
        self, event: str, message: str = "", *, exit_code: int | None = None, is_out_of_memory: bool = False
    ) -> dict[str, Any]:
        """Queue an event and return it as it will be sent."""
        body = {
            **self._common,
            "event": event,
            "message": message,
            "exit_code": exit_code,
            "is_out_of_memory": is_out_of_memory,
            "at": datetime.now(UTC).isoformat(),
        }
        self._events.put(body)
        return body

    def close(self, *, within_seconds: float) -> None:
        """Wait until everything is told, at most so long."""
        self._end_at = time.monotonic() + within_seconds
        self._events.put(None)
        self._wake.set()
        self._thread.join(within_seconds + 0.1)

    def _run(self) -> None:
        while (body := self._events.get()) is not None:
            pause_seconds = _FIRST_PAUSE_SECONDS
            while not self._is_told(body):
                if self._end_at is not None and time.monotonic() + pause_seconds > self._end_at:
                    return
                if self._wake.wait(pause_seconds):
                    time.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, 0.2 if self._end_at is not None else _LONGEST_PAUSE_SECONDS)

    def _is_told(self, body: Mapping[str, Any]) -> bool:
        try:
            status = self._post(json.dumps(body).encode())
        except (OSError, http.client.HTTPException):
            return False
        return status < 400 or (status in _REFUSED and status not in _ASK_AGAIN)  # noqa: PLR2004 - HTTP's own number

    def _post(self, body: bytes) -> int:
        connection = self._connection()
        try:
            connection.request(
                "POST",
                self._url.path,
                body=body,
                headers={"Authorization": f"Bearer {self._credential}", "Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, self._url.port, timeout=_CALL_SECONDS, context=context)
        return http.client.HTTPConnection(host, self._url.port, timeout=_CALL_SECONDS)
