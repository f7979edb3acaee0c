"""Says PING to a Redis, in the few words of its protocol that this needs.

For: `spawner doctor`; the client library is the tasks' alone. Promises: bounded in time; a password goes nowhere else.
Must not know: settings, what an answer means. Source: RESP2, https://redis.io/docs/latest/develop/reference/protocol-spec/.
"""

import socket
import ssl
from contextlib import ExitStack
from urllib.parse import SplitResult, unquote


def ping(parts: SplitResult, password: str | None, *, timeout_seconds: float) -> str:
    """Return Redis's answer to a PING, or its refusal of the password; raises OSError when it cannot be reached."""
    host = parts.hostname or "127.0.0.1"
    with ExitStack() as held:
        line = held.enter_context(socket.create_connection((host, parts.port or 6379), timeout=timeout_seconds))
        if parts.scheme == "rediss":
            line = held.enter_context(ssl.create_default_context().wrap_socket(line, server_hostname=host))
        answers = held.enter_context(line.makefile("rb"))
        user = [unquote(parts.username)] if parts.username else []
        for words in ([["AUTH", *user, password]] if password is not None else []) + [["PING"]]:
            line.sendall(b"".join([b"*%d\r\n" % len(words), *(_bulk(word) for word in words)]))
            said = answers.readline(200).decode(errors="replace").strip()
            if not said.startswith("+"):
                break
    return said


def _bulk(word: str) -> bytes:
    content = word.encode()
    return b"$%d\r\n%s\r\n" % (len(content), content)
