"""How a session's Git reaches its project: through our relay, with the session's own credential.

Must not know: HTTP servers, tokens.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from spawner.ports import Checkout
from spawner.sessions.model import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutPlan:
    """Makes a session's checkout; `relay_url` is the base of the relay, as a session reaches it."""

    relay_url: str

    def of(self, session: Session, *, author_name: str = "", author_email: str = "") -> Checkout:
        """Return what a session checks out."""
        return Checkout(
            relay_url=f"{self.relay_url}/{session.name}/{session.project_path}.git",
            replaces=forge_prefixes(session.project.git_url, session.project_path),
            project=session.project_path,
            branch=session.branch,
            ref_kind=session.ref_kind,
            sha=session.sha,
            author_name=author_name or session.username,
            author_email=author_email,
            fetch_lfs=session.request.fetches_lfs,
        )


def forge_prefixes(git_url: str, path: str) -> tuple[str, ...]:
    """Return the project's own addresses, https and ssh forms, that Git must send to the relay."""
    parts = urlsplit(git_url)
    host = parts.hostname or ""
    root = f"{parts.scheme}://{parts.netloc}{parts.path[: -len(f'/{path}.git')]}"
    return (f"{root}/{path}", f"git@{host}:{path}", f"ssh://git@{host}/{path}")
