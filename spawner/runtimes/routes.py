"""Where a session answers that is reached at a port of this machine, read from its saved state.

For: the service, whose `Routes` this is; programs and people get the same server under two names.
Promises: pure; None until a port is known. It reads "port", "public_host" and "listen_host".
Must not know: processes, containers, files.
"""

from dataclasses import dataclass

from spawner.names import SessionName
from spawner.ports import Address, State

OPEN_PATH = "slipway/open"  # the path that `spawner/agent/inside/settings.py` serves


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRoutes:
    """Routes straight to ports: a name of its own for browsers, loopback for programs."""

    def address(self, session: SessionName, state: State) -> Address | None:  # noqa: ARG002 - the state names it
        """Return where the session answers, or None while it has no port."""
        port, host = state.get("port"), state.get("public_host")
        if not port or not host:
            return None
        listen_host = str(state.get("listen_host") or "127.0.0.1")
        program_host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(listen_host, listen_host)  # noqa: S104 - compared
        if ":" in program_host and not program_host.startswith("["):
            program_host = f"[{program_host}]"
        return Address(
            people_url=f"http://{host}:{port}/", programs_url=f"http://{program_host}:{port}/", open_path=OPEN_PATH
        )
