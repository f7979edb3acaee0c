"""The headers by which Renku's gateway says who asks.

For: `spawner.context`, where the operator switched them on. Promises: nothing of them is believed: the GitLab token
that they carry is read, and counts as the same token sent as a bearer would, after GitLab was asked; the names and
claims beside it, which anybody can write, are not looked at.
Must not know: HTTP, people, GitLab.
Source: renku-notebooks 1.x, `Renku-Auth-Git-Credentials`: base64 of
`{"<GitLab's URL>": {"AuthorizationHeader": "bearer <token>", "AccessTokenExpiresAt": <seconds or null>}}`.
"""

import base64
import binascii
import json
from collections.abc import Collection

from spawner.errors import SignInRequired

GIT_CREDENTIALS = "Renku-Auth-Git-Credentials"
_LONGEST_HEADER = 16_384


def gitlab_token(header: str, gitlab_urls: Collection[str]) -> str:
    """Return the token that the header carries for one of our GitLabs; raises SignInRequired for anything else."""
    wanted = {url.rstrip("/").lower() for url in gitlab_urls}
    try:
        found = json.loads(base64.b64decode(header, validate=True)) if len(header) <= _LONGEST_HEADER else None
    except (binascii.Error, ValueError, RecursionError):
        found = None
    for url, credentials in found.items() if isinstance(found, dict) else ():
        sent = credentials.get("AuthorizationHeader") if isinstance(credentials, dict) else None
        scheme, _, token = sent.strip().partition(" ") if isinstance(sent, str) else ("", "", "")
        if url.rstrip("/").lower() in wanted and scheme.lower() == "bearer" and token.strip():
            return token.strip()
    raise SignInRequired(
        "Your Gitlab credentials are invalid or expired.", remedy="Sign in to Renku again, and connect it to GitLab."
    )
