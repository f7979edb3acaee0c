"""What a requirements file declares.

Covered: logical lines as pip joins them, references of every kind, what is left open, what is not understood.
"""

from __future__ import annotations

import pytest

from builder.requirements import Reference, Role, parse

LINES = [
    ("six\n", ("six",)),
    ("six # why\n# all\n\n  attrs  \n", ("six", "attrs")),
    ("six \\\n  --hash=sha256:aa \\\n  --hash=sha256:bb\n", ("six --hash=sha256:aa --hash=sha256:bb",)),
    ("six \\\n# a comment ends a wrap\nattrs\n", ("six", "attrs")),
    ("# a comment is no wrap \\\nsix\n", ("six",)),
    ("six#egg\n", ("six#egg",)),
    ("six; python_version  <  '3.12'   # why\n", ("six; python_version < '3.12'",)),
    ('six; platform_version == "a  b"\n', ('six; platform_version == "a  b"',)),
    ("six \\", ("six",)),
]


@pytest.mark.parametrize(("text", "lines"), LINES)
def test_lines_are_joined_and_cleaned_as_pip_does(text: str, lines: tuple[str, ...]) -> None:
    """Comments, blank lines, wraps and spare white space go; what is in quotes stays as it is."""
    assert parse(text).lines == lines


@pytest.mark.parametrize("text", [row[0] for row in LINES])
def test_the_canonical_text_declares_the_same(text: str) -> None:
    """Reading the canonical text gives the same lines again."""
    found = parse(text)
    assert parse(found.canonical) == found


URL = "https://example.com/six.whl"
REFERENCES = [
    ("-r base.txt", Reference(role=Role.REQUIREMENTS, target="base.txt")),
    ("-rbase.txt", Reference(role=Role.REQUIREMENTS, target="base.txt")),
    ("--requirement=base.txt", Reference(role=Role.REQUIREMENTS, target="base.txt")),
    ("--requirement base.txt", Reference(role=Role.REQUIREMENTS, target="base.txt")),
    ('-r "my base.txt"', Reference(role=Role.REQUIREMENTS, target="my base.txt")),
    ("-c limits.txt", Reference(role=Role.CONSTRAINTS, target="limits.txt")),
    ("--constraint limits.txt", Reference(role=Role.CONSTRAINTS, target="limits.txt")),
    ("-e .", Reference(role=Role.EDITABLE, target=".")),
    ("-e .[dev,test]", Reference(role=Role.EDITABLE, target=".", extras=("dev", "test"))),
    (".", Reference(role=Role.LOCAL, target=".")),
    (".[dev]", Reference(role=Role.LOCAL, target=".", extras=("dev",))),
    ("./libs/gauge", Reference(role=Role.LOCAL, target="./libs/gauge")),
    ("../gauge", Reference(role=Role.LOCAL, target="../gauge")),
    ("libs/gauge", Reference(role=Role.LOCAL, target="libs/gauge")),
    ("gauge-1.0-py3-none-any.whl", Reference(role=Role.LOCAL, target="gauge-1.0-py3-none-any.whl")),
    ("file:libs/gauge", Reference(role=Role.LOCAL, target="libs/gauge")),
    ("gauge @ file:libs/gauge", Reference(role=Role.LOCAL, target="libs/gauge")),
    ("gauge @ ./libs/gauge", Reference(role=Role.LOCAL, target="./libs/gauge")),
    ("--find-links wheels", Reference(role=Role.LOCAL, target="wheels")),
    ("-f wheels", Reference(role=Role.LOCAL, target="wheels")),
    (URL, Reference(role=Role.REMOTE, target=URL)),
    (f"six @ {URL}", Reference(role=Role.REMOTE, target=URL)),
    (f"-r {URL}", Reference(role=Role.REMOTE, target=URL)),
    ("git+https://example.com/six@main", Reference(role=Role.REMOTE, target="git+https://example.com/six@main")),
]


@pytest.mark.parametrize(("line", "reference"), REFERENCES)
def test_every_place_that_a_line_names_is_found(line: str, reference: Reference) -> None:
    """Included files, constraints, local projects, archives, folders of wheels and addresses are all references."""
    assert parse(line).references == (reference,)


@pytest.mark.parametrize(
    "line", ["six", "six==1.0", "six[a]>=1,<2", "six; a == './b'", "--pre", "--index-url https://e.org/s"]
)
def test_a_plain_requirement_refers_to_nothing(line: str) -> None:
    """Names, versions, markers and other options are no references."""
    assert parse(line).references == ()


@pytest.mark.parametrize("line", ["-r /etc/base.txt", "-r ~/base.txt", "-e ${HOME}/x", "-r", "-c ", "file:///etc/x"])
def test_what_lies_outside_is_not_understood(line: str) -> None:
    """A place outside the repository, or none at all, is an error, so that the commit counts as a whole."""
    with pytest.raises(ValueError, match=r"."):
        parse(line)


@pytest.mark.parametrize(
    ("line", "is_unpinned"),
    [
        ("six", True), ("six>=1", True), ("six==1.*", True), ("six==1.0", False), ("six===1.0", False),
        ("six>=1 --hash=sha256:aa", False), ("./gauge", False), (f"six @ {URL}", False),
    ],
)  # fmt: skip
def test_what_leaves_its_version_open_is_told(line: str, *, is_unpinned: bool) -> None:
    """Anything but an exact version or a hash may be another one tomorrow."""
    assert bool(parse(line).unpinned) is is_unpinned
