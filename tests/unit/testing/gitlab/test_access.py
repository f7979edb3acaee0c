"""Who may see and do what.

Covered: levels from everywhere, expiry, visibility, kinds of tokens, passwords, protected branches, image rights.
Left out: the answers (the forge contract).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from spawner.testing.gitlab import access, images, people, protection, tokens
from spawner.testing.gitlab.access import Actor, Refusal
from spawner.testing.gitlab.instance import now
from spawner.testing.gitlab.records import Level, Visibility

if TYPE_CHECKING:
    from spawner.testing.gitlab.instance import Instance
    from spawner.testing.gitlab.records import Project, User


@pytest.mark.parametrize(("days", "expected"), [(-1, Level.NONE), (0, Level.NONE), (1, Level.DEVELOPER)])
def test_membership_ends(instance: Instance, project: Project, bob: User, days: int, expected: Level) -> None:
    """A membership counts until the day before it expires."""
    ends = (now() + timedelta(days=days)).date()
    people.add_member(instance, project, bob, Level.DEVELOPER, expires_at=ends)
    assert expected == access.level(instance, project, bob)


def test_highest_level_counts(instance: Instance, ada: User, bob: User) -> None:
    """Of a direct and an inherited level, the higher one counts."""
    group = people.add_group(instance, "team", owner=ada)
    inner = people.add_project(instance, "team/demo", creator=ada)
    people.add_member(instance, group, bob, Level.MAINTAINER)
    people.add_member(instance, inner, bob, Level.REPORTER)
    assert access.level(instance, inner, bob) is Level.MAINTAINER


@pytest.mark.parametrize(
    ("visibility", "level", "sees", "reads"),
    [
        (Visibility.PRIVATE, None, False, False),
        (Visibility.PRIVATE, Level.GUEST, True, False),
        (Visibility.PRIVATE, Level.REPORTER, True, True),
        (Visibility.INTERNAL, None, True, True),
        (Visibility.PUBLIC, None, True, True),
    ],
)
def test_seeing_and_reading(  # noqa: PLR0917 - a table's columns
    instance: Instance,
    project: Project,
    bob: User,
    visibility: Visibility,
    level: Level | None,
    sees: bool,  # noqa: FBT001 - a table's column
    reads: bool,  # noqa: FBT001 - a table's column
) -> None:
    """A guest of a private project sees it and not its code."""
    shown = instance.store.change(project, visibility=visibility)
    if level:
        people.add_member(instance, shown, bob, level)
    assert (sees, reads) == (access.can_see(instance, shown, bob), access.can_read_code(instance, shown, bob))


def test_tokens_end(instance: Instance, ada: User) -> None:
    """Expired, revoked and unknown tokens are told apart; a blocked person's are unknown."""
    yesterday = (now() - timedelta(days=1)).date()
    _, expired = tokens.personal(instance, ada, name="old", expires_at=yesterday)
    record, revoked = tokens.personal(instance, ada, name="revoked")
    instance.store.change(record, revoked=True)
    _, good = tokens.personal(instance, ada, name="good")
    assert access.actor_for_token(instance, expired) is Refusal.EXPIRED
    assert access.actor_for_token(instance, revoked) is Refusal.REVOKED
    assert access.actor_for_token(instance, "glpat-none") is Refusal.UNKNOWN
    assert isinstance(access.actor_for_token(instance, good), Actor)
    instance.store.change(ada, state="blocked")
    assert access.actor_for_token(instance, good) is Refusal.UNKNOWN


def test_basic_takes_passwords_and_signed_tokens(instance: Instance, ada: User, bob: User) -> None:
    """A person's password and a signed token open; a wrong password, a changed or an old token do not."""
    good = access.signed_token(instance, bob, writing=False, life_seconds=60)
    forged = good.replace(f"lfs.{bob.id}.", f"lfs.{ada.id}.")
    old = access.signed_token(instance, bob, writing=False, life_seconds=-1)
    found = access.actor_for_basic(instance, "bob", good)
    assert isinstance(found, Actor)
    assert (found.user, found.scopes) == (bob, frozenset({"read_repository"}))
    assert isinstance(access.actor_for_basic(instance, "ada", "correct horse"), Actor)
    assert access.actor_for_basic(instance, "ada", "wrong") is Refusal.UNKNOWN
    assert access.actor_for_basic(instance, "ada", forged) is Refusal.UNKNOWN
    assert access.actor_for_basic(instance, "bob", old) is Refusal.EXPIRED


@pytest.mark.parametrize(
    ("level", "branch", "expected"),
    [
        (Level.REPORTER, "free", False),
        (Level.DEVELOPER, "free", True),
        (Level.DEVELOPER, "release/1", False),
        (Level.MAINTAINER, "release/1", True),
        (Level.OWNER, "nobody", False),
    ],
)
def test_protected_branches(
    instance: Instance,
    project: Project,
    bob: User,
    level: Level,
    branch: str,
    expected: bool,  # noqa: FBT001 - a table's column
) -> None:
    """A wildcard protects what it fits; `No one` keeps even owners out."""
    protection.protect(instance, project, "release/*")
    protection.protect(instance, project, "nobody", push_level=Level.NONE)
    people.add_member(instance, project, bob, level)
    repository = instance.repository(project)
    tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
    repository.update("refs/tags/begun", _commit_of(repository.path.as_posix(), tree))
    assert expected is protection.may_push(instance, project, bob, f"refs/heads/{branch}")


def _commit_of(repository: str, tree: str) -> str:
    import subprocess  # noqa: PLC0415 - the one place that makes an object

    settings = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    command = ["git", *settings, "--git-dir", repository, "commit-tree", tree, "-m", "x"]
    subprocess.run(["git", "--git-dir", repository, "mktree"], input=b"", check=True, capture_output=True, timeout=30)
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def test_images_belong_to_the_longest_project(instance: Instance, ada: User, project: Project) -> None:
    """A repository path belongs to the deepest project that begins it."""
    people.add_group(instance, "team", owner=ada)
    outer = people.add_project(instance, "team/demo", creator=ada)
    assert images.project_of(instance, "team/demo/app/debug") == outer
    assert images.project_of(instance, "ada/demo") == project
    assert images.project_of(instance, "nobody/else") is None
