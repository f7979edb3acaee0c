"""Members kept by their stamp.

Covered: what is found, the bound. Left out: what a stamp covers (tests/functional/api, tests/contract/store).
"""

from spawner.api.kept import KeptMembers
from spawner.names import SessionName
from spawner.sessions.store import Stamp


def stamp(name: str, text: str = "1") -> Stamp:
    """Return a stamp."""
    return Stamp(SessionName(name), text)


def test_found_by_stamp() -> None:
    """A member is found by name and text, and by nothing else."""
    kept = KeptMembers()
    kept.keep(stamp("a"), b"x")
    assert [kept.find(stamp("a")), kept.find(stamp("b")), kept.find(stamp("a", "2"))] == [b"x", None, None]


def test_bytes_are_bounded() -> None:
    """The longest unused member makes room; one that is too large alone is not kept."""
    kept = KeptMembers(bytes_limit=10)
    kept.keep(stamp("a"), b"x" * 6)
    kept.keep(stamp("a"), b"y" * 4)
    kept.keep(stamp("b"), b"x" * 4)
    assert kept.find(stamp("a")) == b"y" * 4
    kept.keep(stamp("c"), b"x" * 4)
    assert [kept.find(stamp(name)) for name in "abc"] == [b"y" * 4, None, b"x" * 4]
    kept.keep(stamp("d"), b"x" * 11)
    assert kept.find(stamp("d")) is None
