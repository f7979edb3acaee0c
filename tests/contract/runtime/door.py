"""A person's browser and a program, as far as a session's door is concerned.

For: the tests of the real runtime. Plain HTTP and WebSocket clients; no cookie jar, so that every cookie is seen.
"""

import http.client
import json
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Self, cast
from urllib.parse import urlencode, urlsplit

import websocket

from spawner.ports import State
from tests.contract.runtime.places import Place

_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    cookies: list[str]
    text: str

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)


def ask(
    state: State,
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    form: dict[str, str] | None = None,
    body: object = None,
) -> Answer:
    """Ask the server on its port, as itself unless `headers` name another Host."""
    connection = http.client.HTTPConnection("127.0.0.1", state["port"], timeout=_SECONDS)
    sent = {"Host": f"{state['public_host']}:{state['port']}", **(headers or {})}
    content = None
    if form is not None:
        content, sent["Content-Type"] = urlencode(form), "application/x-www-form-urlencoded"
    elif body is not None:
        content, sent["Content-Type"] = json.dumps(body), "application/json"
    try:
        connection.request(method, path, body=content, headers=sent)
        answer = connection.getresponse()
        return Answer(
            status=answer.status,
            headers=dict(answer.getheaders()),
            cookies=answer.headers.get_all("Set-Cookie") or [],
            text=answer.read().decode(errors="replace"),
        )
    finally:
        connection.close()


def program_headers(place: Place, state: State) -> dict[str, str]:
    """Redeem a code as a program does, and return the headers that let it in."""
    code = uuid.uuid4().hex
    place.codes[code] = "alice"
    answer = ask(state, f"/slipway/open?code={code}", headers={"Accept": "application/json"})
    assert answer.status == 200, answer.text
    return cast("dict[str, str]", answer.json["headers"])


def hidden_fields(page: str) -> dict[str, str]:
    """Return the hidden fields of the page's form."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))


@dataclass(kw_only=True)
class Kernel:
    """One kernel of a session, spoken to over its channel."""

    state: State
    headers: dict[str, str]
    _socket: websocket.WebSocket | None = field(default=None)

    def __enter__(self) -> Self:
        made = ask(self.state, "/api/kernels", method="POST", headers=self.headers, body={"name": "python3"})
        assert made.status == 201, made.text
        url = f"ws://127.0.0.1:{self.state['port']}/api/kernels/{made.json['id']}/channels"
        host = urlsplit(url).netloc
        self._socket = websocket.create_connection(
            url, header=[f"{name}: {value}" for name, value in self.headers.items()], host=host, timeout=_SECONDS,
            suppress_origin=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def run(self, code: str, *, within_seconds: float = 60) -> str:
        """Run code and return what it printed; fails when it raised."""
        assert self._socket is not None
        identity = uuid.uuid4().hex
        header = {"msg_id": identity, "msg_type": "execute_request", "username": "", "session": "s", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self._socket.send(json.dumps(message))
        printed, deadline = "", time.monotonic() + within_seconds
        while time.monotonic() < deadline:
            answer = json.loads(self._socket.recv())
            if answer["parent_header"].get("msg_id") != identity:
                continue
            if answer["msg_type"] == "stream":
                printed += answer["content"]["text"]
            assert answer["msg_type"] != "error", answer["content"]
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                return printed.strip()
        raise AssertionError(f"not within {within_seconds} s: {code}")
