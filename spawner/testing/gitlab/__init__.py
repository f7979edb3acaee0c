"""A GitLab stand-in: Git over HTTP, REST v4, OAuth 2, CI, a registry and hooks, for tests and the demo.

Promises: for what this product uses, a real client (git, git-lfs, python-gitlab, a browser, a CI runner) cannot
tell it from GitLab; what it kept survives being killed. It imports nothing else of this product and could be
shipped alone.
Must not know: the spawner, the builder.
"""

from spawner.testing.gitlab.client import Forge, ProjectHandle, StandInError, UserHandle
from spawner.testing.gitlab.standin import StandIn

__all__ = ["Forge", "ProjectHandle", "StandIn", "StandInError", "UserHandle"]
