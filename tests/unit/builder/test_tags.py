"""The names of images.

Covered: tags of both kinds, candidates in order, what counts as the commit's own, what people may add.
"""

from __future__ import annotations

import pytest

from builder import tags
from builder.entries import Kind
from builder.errors import UsageError

SHA = "0123456789abcdef0123456789abcdef01234567"
REGISTRY = "registry.example.com:5050"


def test_a_commit_is_looked_for_under_these_names() -> None:
    """A container by 40, 8 and 7 characters, an environment by one name."""
    assert tags.candidate_tags(SHA, Kind.CONTAINER) == (SHA, "01234567", "0123456")
    assert tags.candidate_tags(SHA, Kind.ENVIRONMENT) == (f"{SHA}-environment",)


def test_a_build_pushes_these_names() -> None:
    """A container's full SHA and its first seven, Renku's contract; an environment's one tag."""
    assert tags.published_tags(SHA, Kind.CONTAINER) == (SHA, "0123456")
    assert tags.published_tags(SHA, Kind.ENVIRONMENT) == (f"{SHA}-environment",)


def test_an_environment_is_named_by_half_its_key() -> None:
    """`env-` and 32 of the key's 64 characters: within a tag's length, and beyond chance."""
    assert tags.environment_tag("ab" * 32) == f"env-{'ab' * 16}"


@pytest.mark.parametrize(
    ("image", "is_own"),
    [
        (f"{REGISTRY}/group/tides:0123456", True),
        (f"{REGISTRY}/Group/Tides:01234567", True),
        (f"{REGISTRY}/group/tides:{SHA}", True),
        (f"{REGISTRY}/group/tides:{SHA}-environment", True),
        (f"{REGISTRY}/group/tides:012345", False),
        (f"{REGISTRY}/group/tides:012345678", False),
        (f"{REGISTRY}/group/tides:1123456", False),
        (f"{REGISTRY}/group/tides:latest", False),
        (f"{REGISTRY}/group/waves:0123456", False),
        (f"{REGISTRY}/group/tides", False),
        (f"{REGISTRY}/group/tides@sha256:{'a' * 64}", False),
        ("other.example.com/group/tides:0123456", False),
    ],
)
def test_the_commits_own_reference_is_no_request(image: str, *, is_own: bool) -> None:
    """Only the commit's own names, in its own repository, at 7, 8 or 40 characters, are no request of an image."""
    assert tags.names_commit(image, REGISTRY, "Group/Tides", SHA) is is_own


@pytest.mark.parametrize(("tag", "is_short"), [("0123456", True), ("01234567", True), (SHA, False), ("latest", False)])
def test_short_tags_are_told_apart(tag: str, *, is_short: bool) -> None:
    """A shortened SHA may name another commit, so its label must be looked at."""
    assert tags.is_short_tag(tag) is is_short


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ()), ("latest", ("latest",)), (" v1.0  latest v1.0 ", ("v1.0", "latest")), ("x" * 128, ("x" * 128,))],
)
def test_people_may_add_tags(text: str, names: tuple[str, ...]) -> None:
    """Blanks separate them, and one said twice counts once."""
    assert tags.extra_tags(text) == names


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("feature/x", "can be no tag"),
        ("$(id)", "can be no tag"),
        ("x" * 129, "can be no tag"),
        (f"latest env-{'ab' * 16}", "for an environment or a commit"),
        (SHA, "for an environment or a commit"),
        ("0123456", "for an environment or a commit"),
        (f"{SHA}-environment", "for an environment or a commit"),
    ],
)
def test_an_added_tag_takes_nobodys_place(text: str, why: str) -> None:
    """What is no tag is refused, and so is one that a launch would take for another commit's image."""
    with pytest.raises(UsageError, match=why):
        tags.extra_tags(text)
