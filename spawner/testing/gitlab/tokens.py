"""Makes tokens: random ones for people, jobs and runners.

Promises: a token is shown once, to whom it is made for; records keep its digest (job tokens excepted: dependent
jobs are given them).
Must not know: what a token opens.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from spawner.testing.gitlab.instance import digest, now
from spawner.testing.gitlab.records import Runner, Token

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import User

SCOPES = (
    "api",
    "read_api",
    "read_user",
    "create_runner",
    "manage_runner",
    "k8s_proxy",
    "self_rotate",
    "read_repository",
    "write_repository",
    "read_registry",
    "write_registry",
    "sudo",
    "admin_mode",
)
_DEFAULT_LIFE = timedelta(days=365)


def mint(prefix: str) -> str:
    """Return a new secret."""
    return prefix + secrets.token_urlsafe(20).replace("-", "x").replace("_", "y")


def personal(
    instance: Instance, user: User, *, name: str, scopes: Sequence[str] = ("api",), expires_at: date | None = None
) -> tuple[Token, str]:
    """Make a personal access token; return its record and the secret, which is kept nowhere."""
    secret = mint("glpat-")
    with instance.store as store:
        record = store.put(
            Token(
                id=store.next_id(Token),
                user_id=user.id,
                name=name,
                digest=digest(secret),
                scopes=tuple(scopes),
                created_at=now(),
                expires_at=expires_at or (now() + _DEFAULT_LIFE).date(),
            )
        )
    return record, secret


def runner(
    instance: Instance, *, description: str, tags: Sequence[str] = (), project_id: int | None = None
) -> tuple[Runner, str]:
    """Make a runner; return its record and its token, which is kept nowhere."""
    secret = mint("glrt-")
    with instance.store as store:
        record = store.put(
            Runner(
                id=store.next_id(Runner),
                digest=digest(secret),
                description=description,
                tags=tuple(tags),
                run_untagged=True,
                project_id=project_id,
                contacted_at=None,
            )
        )
    return record, secret
