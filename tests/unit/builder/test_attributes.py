"""Attributes of Git that concern inputs.

Covered: each way a line may concern an input or not, what is not understood, and that only a container's key looks.
Left out: how Git applies attributes (test_stage).
"""

from __future__ import annotations

import pytest

from builder.attributes import Written, relevant
from builder.entries import Kind
from builder.key import environment_key
from tests.unit.builder.commits import Files, Table

FILE = Written(path="src/a.py", is_folder=False)
FOLDER = Written(path="src", is_folder=True)

TABLE: list[tuple[str, Written, bool]] = [
    ("*.py text", FILE, True),
    ("*.csv filter=lfs -text", FILE, False),
    ("*.csv filter=lfs -text", FOLDER, True),
    ("data/*.py text", FILE, False),
    ("data/x.bin filter=lfs -text", FOLDER, False),
    ("src/*.py text", FILE, True),
    ("/src/a.py text", FILE, True),
    ("src/b/c.py text", FILE, False),
    ("src/b/c.py text", FOLDER, True),
    ("src export-ignore", FILE, True),
    ("src/ export-ignore", FILE, True),
    ("**/b text", FILE, True),
    ("[!a] text", FILE, True),
    ("*.py diff=python merge=union linguist-vendored -whitespace", FILE, False),
    ("*.py diff=python text", FILE, True),
    ("# *.py text", FILE, False),
    ("\\t*.py\\ttext".replace("\\t", "\t"), FILE, True),
]


@pytest.mark.parametrize(("line", "one", "is_kept"), TABLE)
def test_a_line_counts_where_it_may_concern_an_input(line: str, one: Written, is_kept: bool) -> None:  # noqa: FBT001
    """A line is left out only where its pattern cannot fit, or where it sets nothing that Git writes by."""
    assert bool(relevant(f"{line}\n\n", [one])) is is_kept


@pytest.mark.parametrize("text", ["[attr]data -text\n", '"a b" text\n', "x" * 70_000])
def test_what_is_not_understood_is_refused(text: str) -> None:
    """Macros, quoted patterns and very long files are not followed."""
    with pytest.raises(ValueError, match=r"."):
        relevant(text, [FILE])


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ("", "data/x.bin filter=lfs -text\n", True),
        ("*.py text\n", "# why\n*.py  text\n*.csv filter=lfs\n", True),
        ("*.py text\n", "*.py text eol=crlf\n", False),
        ("", "*.py text\n", False),
    ],
)
def test_a_containers_key_counts_the_lines_that_concern_it(before: str, after: str, is_same: bool) -> None:  # noqa: FBT001
    """Data that is put under Git LFS builds no image; a line about an input does."""
    files: Files = {"Dockerfile": "FROM scratch\nCOPY src /x\n", "src/a.py": "a", "data/x.bin": "x"}
    one, two = (
        environment_key(table.tree, table.read, kind=Kind.CONTAINER).digest
        for table in (Table(files={**files, ".gitattributes": text}) for text in (before, after))
    )
    assert (one == two) is is_same
