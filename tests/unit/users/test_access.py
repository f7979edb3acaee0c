"""The rules of access, as tables: owner, member, maintainer, stranger, administrator.

Left out: how levels are found.
"""

import pytest

from spawner.ports import AccessLevel, Visibility
from spawner.users.access import (
    GitAccess,
    Relation,
    git_access,
    may_build,
    may_change,
    may_launch_unasked,
    may_push,
    may_see,
    may_stop,
)

PEOPLE = {
    "owner who left the project": Relation(is_owner=True),
    "owner, developer": Relation(is_owner=True, access_level=AccessLevel.DEVELOPER),
    "reporter": Relation(is_owner=False, access_level=AccessLevel.REPORTER),
    "developer": Relation(is_owner=False, access_level=AccessLevel.DEVELOPER),
    "maintainer": Relation(is_owner=False, access_level=AccessLevel.MAINTAINER),
    "group owner": Relation(is_owner=False, access_level=AccessLevel.OWNER),
    "stranger": Relation(is_owner=False),
    "administrator": Relation(is_owner=False, is_admin=True),
}


@pytest.mark.parametrize(
    ("person", "expected"),
    [
        ("owner who left the project", (True, True, True)),
        ("owner, developer", (True, True, True)),
        ("reporter", (False, False, False)),
        ("developer", (False, False, False)),
        ("maintainer", (True, True, False)),
        ("group owner", (True, True, False)),
        ("stranger", (False, False, False)),
        ("administrator", (True, True, False)),
    ],
)
def test_a_session_is_its_owners_and_maintainers_and_admins_see_and_stop_it(
    person: str, expected: tuple[bool, bool, bool]
) -> None:
    """Seeing, stopping and changing a session follow ownership, level and administration."""
    relation = PEOPLE[person]
    assert (may_see(relation), may_stop(relation), may_change(relation)) == expected


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (AccessLevel.NONE, (False, False, False, False)),
        (AccessLevel.GUEST, (False, False, False, False)),
        (AccessLevel.REPORTER, (False, False, True, False)),
        (AccessLevel.DEVELOPER, (True, True, True, False)),
        (AccessLevel.MAINTAINER, (True, True, True, False)),
    ],
)
def test_building_and_pushing_want_a_developer_and_a_link_starts_for_a_reporter(
    level: int, expected: tuple[bool, bool, bool, bool]
) -> None:
    """What a level allows; a link that names an image never starts by itself."""
    found = (
        may_build(level),
        may_push(level, {"write_repository"}),
        may_launch_unasked(level, names_image=False),
        may_launch_unasked(level, names_image=True),
    )
    assert found == expected


@pytest.mark.parametrize(
    ("level", "visibility", "scopes", "expected"),
    [
        (AccessLevel.DEVELOPER, Visibility.PRIVATE, {"api"}, GitAccess.WRITE),
        (AccessLevel.DEVELOPER, Visibility.PRIVATE, {"write_repository"}, GitAccess.WRITE),
        (AccessLevel.DEVELOPER, Visibility.PRIVATE, {"read_api", "read_repository"}, GitAccess.READ),
        (AccessLevel.DEVELOPER, Visibility.PRIVATE, {"read_api"}, GitAccess.NONE),
        (AccessLevel.DEVELOPER, Visibility.PUBLIC, {"read_api"}, GitAccess.ANONYMOUS),
        (AccessLevel.REPORTER, Visibility.PRIVATE, {"api"}, GitAccess.READ),
        (AccessLevel.NONE, Visibility.PUBLIC, {"api"}, GitAccess.ANONYMOUS),
        (AccessLevel.NONE, Visibility.INTERNAL, {"api"}, GitAccess.READ),
        (AccessLevel.NONE, Visibility.INTERNAL, {"read_api"}, GitAccess.NONE),
        (AccessLevel.NONE, Visibility.PRIVATE, {"api"}, GitAccess.NONE),
    ],
)
def test_the_relay_gives_a_stranger_no_push_and_no_token_where_none_is_needed(
    level: int, visibility: Visibility, scopes: set[str], expected: GitAccess
) -> None:
    """Git at the relay: write for developers with a writing token, own token or none for others."""
    assert git_access(level, visibility, scopes) is expected
