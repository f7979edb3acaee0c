"""Answers kept by their stamp.

Covered: what is found, both bounds. Left out: what a stamp covers (tests/functional/api, tests/contract/store).
"""

from spawner.api.kept import KeptAnswers


def test_found_by_owner_and_stamp() -> None:
    """An answer is found by its owner under its stamp, and by nobody else."""
    kept = KeptAnswers()
    kept.keep("ada", "1", b"x")
    assert [kept.find("ada", "1"), kept.find("bob", "1"), kept.find("ada", "2")] == [b"x", None, None]


def test_number_is_bounded() -> None:
    """Of too many answers the longest unused goes."""
    kept = KeptAnswers(answers_limit=2)
    for stamp in "12":
        kept.keep("ada", stamp, b"x")
    kept.find("ada", "1")
    kept.keep("ada", "3", b"x")
    assert [kept.find("ada", stamp) for stamp in "123"] == [b"x", None, b"x"]


def test_bytes_are_bounded() -> None:
    """Answers make room for each other; one that is too large alone is not kept."""
    kept = KeptAnswers(bytes_limit=10)
    kept.keep("ada", "1", b"x" * 6)
    kept.keep("ada", "1", b"y" * 6)
    assert kept.find("ada", "1") == b"y" * 6
    kept.keep("ada", "2", b"x" * 6)
    assert [kept.find("ada", "1"), kept.find("ada", "2")] == [None, b"x" * 6]
    kept.keep("ada", "3", b"x" * 11)
    assert kept.find("ada", "3") is None
