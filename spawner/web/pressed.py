"""What a button does that may want one scope more than a sign-in asks for: having a commit built.

For: `web.sessions`, where it is pressed, and `web.login`, which does it when the person is back from GitLab.
Promises: nothing is done that the person did not press on a page of ours; who has the scope is not sent away.
Must not know: OAuth, pages.
"""

from contextlib import suppress
from dataclasses import dataclass, replace

from spawner.context import admit_launch, services
from spawner.images.model import BuildPolicy, FallbackPolicy
from spawner.names import SessionName
from spawner.users.model import Caller

BUILD_SCOPE = "api"  # GitLab has no smaller one that starts a job


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressed:
    """A button of a session's page: have it built while it runs (`running`), or launch it again, with other choices."""

    session: str
    build: str = ""
    fallback: str = ""

    @property
    def wants_build(self) -> bool:
        """Say whether GitLab will be asked to run a job."""
        return self.build in {"running", BuildPolicy.NOW.value}


def lacks_scope(caller: Caller, pressed: Pressed) -> bool:
    """Say whether a signed-in person must allow more at GitLab first."""
    is_missing = BUILD_SCOPE not in services().users.scopes_of(caller)
    return pressed.wants_build and caller.login_id is not None and is_missing


def do(caller: Caller, pressed: Pressed) -> SessionName:
    """Do what was pressed; returns the session whose page shows it."""
    name = SessionName(pressed.session)
    if pressed.build == "running":
        services().sessions.build(caller, name)
        return name
    session = services().sessions.own(caller, name)
    wanted = session.request
    with suppress(ValueError):
        wanted = replace(wanted, fallback=FallbackPolicy(pressed.fallback))
    with suppress(ValueError):
        wanted = replace(wanted, build=BuildPolicy(pressed.build))
    admit_launch(caller)
    return services().sessions.again(caller, session, wanted).name
