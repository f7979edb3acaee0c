"""One kept connection to the spawner, timed from the first byte sent to the last received.

For: benches of single requests; a library's own cost would be a third of what is measured.
Promises: HTTP/1.1 keep-alive, Nagle off, the person's bearer with every request.
Must not know: what the answers mean.
"""

import http.client
import json
import socket
import time
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from spawner.testing.gitlab.client import UserHandle

_SECONDS = 30.0


class Connection:
    """A person's connection."""

    def __init__(self, url: str, user: UserHandle) -> None:
        parts = urlsplit(url)
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_SECONDS)
        self._http.connect()
        self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = {"Authorization": f"Bearer {user.token}", "Content-Type": "application/json"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def timed(
        self, method: str, path: str, *, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[float, int, bytes]:
        """Send one request; return milliseconds, status, body."""
        sent = None if body is None else json.dumps(body).encode()
        began = time.perf_counter()
        self._http.request(method, path, body=sent, headers={**self._headers, **(headers or {})})
        answer = self._http.getresponse()
        content = answer.read()
        return (time.perf_counter() - began) * 1000, answer.status, content

    def asked(self, method: str, path: str, *expected: int, body: object = None) -> tuple[float, Any]:
        """Send one request that must answer one of `expected`; return milliseconds and the decoded body."""
        took, status, content = self.timed(method, path, body=body)
        assert status in expected, f"{method} {path} answered {status}: {content[:300]!r}"
        return took, json.loads(content) if content else None
