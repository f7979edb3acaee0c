"""GitLab's limits are obeyed without asking again: calls counted by the stand-in itself.

Covered: a limit that is reached, one that a 429 announces, one that says nothing. Left out: what an answer means
(unit/gitlab/test_allowance).
"""

import time
from pathlib import Path

import pytest

from spawner.errors import RateLimited
from spawner.gitlab.client import GitLabForge
from spawner.testing.gitlab import StandIn, UserHandle
from tests.contract.forge_port.conftest import personal

MOST_CALLS = 40
USER = "GET /api/v4/user"


def _asked(forge: GitLabForge, user: UserHandle, times: int) -> int:
    """Ask who somebody is; return how often that was answered."""
    answered = 0
    for _ in range(times):
        try:
            answered += forge.user(personal(user.token)).id == user.id
        except RateLimited:
            continue
    return answered


def test_gitlabs_own_count_is_obeyed(tmp_path: Path) -> None:
    """What GitLab says is spent is not asked for; another person, and the same one after a 429's time, go on."""
    if time.time() % 3600 > 3550:
        time.sleep(3600 - time.time() % 3600)  # the hour that GitLab counts by must not end in the middle
    options = ["--calls-per-hour", str(MOST_CALLS)]
    with StandIn.start(data=tmp_path / "gitlab", runner=False, options=options) as standin:
        ada, bob = standin.add_user("ada"), standin.add_user("bob")
        forge = GitLabForge(standin.url, key_cache=tmp_path / "keys")
        assert _asked(forge, ada, MOST_CALLS + 5) == MOST_CALLS
        assert standin.requests()[USER] == MOST_CALLS
        assert _asked(forge, bob, 1) == 1

        standin.arm("rate_limited_rack", times=1)
        assert _asked(forge, bob, 3) == 0
        assert standin.requests()[USER] == MOST_CALLS + 2
        time.sleep(2.1)
        assert _asked(forge, bob, 1) == 1

        standin.arm("rate_limited_application", times=1)
        with pytest.raises(RateLimited) as caught:
            forge.user(personal(bob.token))
        assert caught.value.retry_after_seconds == 30.0
        assert _asked(forge, bob, 1) == 1
