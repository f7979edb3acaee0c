"""The way from a container to the spawner: a port of the container's loopback, and behind it a socket in a file.

For: Git and whatever else in a session speaks HTTP to the spawner, where no network leads there.
Promises: bytes are copied, never read; a spawner that is away ends a connection at once, one that comes back is found
again, because the socket is looked up by its path each time.
Must not know: what is said.
"""

import socket
import socketserver
import threading
from contextlib import suppress

_PIECE_BYTES = 1 << 16
_CONNECT_SECONDS = 10.0


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, path: str) -> None:
        super().__init__(("127.0.0.1", port), _Passenger)
        self.path = path


class _Passenger(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as beyond:
            beyond.settimeout(_CONNECT_SECONDS)
            with suppress(OSError):
                beyond.connect(self.server.path)
                beyond.settimeout(None)
                back = threading.Thread(target=_copy, args=(beyond, self.request), daemon=True)
                back.start()
                _copy(self.request, beyond)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends; what ends on one side ends on the other, so that nobody waits for more."""
    with suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        source.shutdown(socket.SHUT_RD)


def open_passage(port: int, path: str) -> int:
    """Serve the socket at `path` on a port of 127.0.0.1 (0: any) from threads of its own; return the port."""
    server = _Server(port, path)
    threading.Thread(target=server.serve_forever, name="passage", daemon=True).start()
    return int(server.server_address[1])
