"""The door of a running session, as a program goes through it.

For: edges that answer programs which know no one-time codes (Binder's clients). Promises: one bounded request, to the
address that a service has just made, of no proxy; what is no session's answer is RuntimeUnavailable.
Must not know: runtimes: every session answers its door the same way (`spawner/agent/inside/settings.py`).
"""

import requests

from spawner.errors import RuntimeUnavailable
from spawner.ports import Entrance

_DOOR_SECONDS = 10.0  # it asks the spawner who is there
_SCHEME = "token "


class HTTPDoors:
    """Doors of sessions, over HTTP."""

    def enter(self, url: str) -> Entrance:
        """Redeem a one-time URL; raises RuntimeUnavailable."""
        try:
            with requests.Session() as http:
                http.trust_env = False
                answer = http.get(
                    url, headers={"Accept": "application/json"}, timeout=_DOOR_SECONDS, allow_redirects=False
                )
                answer.raise_for_status()
                told = answer.json()
                base_url, header = str(told["base_url"]), str(told["headers"]["Authorization"])
        except (requests.RequestException, ValueError, KeyError, TypeError) as exc:
            raise RuntimeUnavailable("The session is ready and did not open.", remedy="Open it from its page.") from exc
        return Entrance(base_url=base_url, token=header.removeprefix(_SCHEME))
