"""Ignore rules.

Covered: every form of a rule, negations, `**`, case, comments and marks, what is refused; the same verdict as a port of
moby's own matcher for thousands of random rules and paths; hostile rules in bounded time.
Left out: which ignore file applies, and what an engine makes of one (test_context, test_real_builds).
"""

from __future__ import annotations

import time

import pytest
from e2b_dockerfile_utils import PatternMatcher
from hypothesis import given
from hypothesis import strategies as st

from builder.ignore import IgnoreRules, declared_rules

TABLE: list[tuple[str, str, bool]] = [
    ("*.md", "README.md", True),
    ("*.md", "docs/a.md", False),
    ("**/*.md", "docs/deep/a.md", True),
    ("**/*.md", "a.md", True),
    ("**.md", "docs/a.md", True),
    ("docs", "docs/deep/a.md", True),
    ("/docs/", "docs/a.md", True),
    ("./docs/../data", "data/x", True),
    ("docs/*", "docs/deep/a.md", True),
    ("docs/**", "docs/deep/a.md", True),
    ("docs/**", "docs", False),
    ("a/**/z", "a/z", True),
    ("a/**/z", "a/b/c/z", True),
    ("*\n!README.md", "README.md", False),
    ("*\n!README.md", "a.md", True),
    ("*\n!src", "src/deep/a.py", False),
    ("*\n!src\nsrc/deep", "src/deep/a.py", True),
    ("docs\n!docs/keep", "docs/keep/a", False),
    ("!README.md\n*.md", "README.md", True),
    ("readme.md", "README.md", False),
    ("?.md", "a.md", True),
    ("[ab].md", "b.md", True),
    ("[^ab].md", "b.md", False),
    ("[a-c].md", "b.md", True),
    (r"\*.md", "*.md", True),
    (r"\*.md", "a.md", False),
    ("# a\n\n  b  \n", "b", True),
    ("# a\n", "# a", False),
    (" # a", "# a", True),
    ("../outside\n.", "outside", False),
    ("\ufeffa", "a", True),
    ("a\r\nb\r\n", "b", True),
    ("! a\na", "a", True),
    (".git", ".gitignore", False),
]


@pytest.mark.parametrize(("text", "path", "is_hidden"), TABLE)
def test_a_rule_hides_what_it_says(text: str, path: str, is_hidden: bool) -> None:  # noqa: FBT001 - a table's column
    """Each form of a rule hides what Docker's documentation says, and nothing else."""
    assert IgnoreRules.of(declared_rules(text)).at(path).is_hidden is is_hidden


_STEP = st.sampled_from(["a", "b", "ab", "*", "a*", "*b", "?", "**", "[ab]", "[^a]", "a?", ".", ".."])
_RULE = st.builds(
    lambda mark, root, steps: f"{mark}{root}{'/'.join(steps)}",
    st.sampled_from(["", "", "!", "! "]), st.sampled_from(["", "", "/"]), st.lists(_STEP, min_size=1, max_size=4),
)  # fmt: skip
_PATH = st.lists(st.sampled_from(["a", "b", "ab", "ba", "c"]), min_size=1, max_size=4).map("/".join)


@given(rules=st.lists(_RULE, min_size=1, max_size=5), paths=st.lists(_PATH, min_size=1, max_size=8))
def test_the_verdict_is_that_of_mobys_matcher(rules: list[str], paths: list[str]) -> None:
    """Whatever the rules, a path is hidden exactly where a port of moby/patternmatcher hides it."""
    ours, theirs = IgnoreRules.of(declared_rules("\n".join(rules))), PatternMatcher(rules)
    assert [ours.at(path).is_hidden for path in paths] == [theirs.matches(path) for path in paths]


@given(rules=st.lists(_RULE, min_size=1, max_size=5), path=_PATH, below=_PATH)
def test_a_folder_that_no_rule_reaches_into_is_of_one_kind(rules: list[str], path: str, below: str) -> None:
    """Where nothing below a folder is still to be decided, all of it is hidden, or none of it."""
    folder = IgnoreRules.of(declared_rules("\n".join(rules))).at(path)
    if not folder.is_deciding:
        assert folder.at(below).is_hidden is folder.is_hidden


@pytest.mark.parametrize(
    "text", ["a**b", "x/**.md", "[", "[]", "[a", "a\\", "!", "a/" * 70, "x\n" * 2000, "x" * 70_000]
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    """A rule that is malformed, too long, or has ** in an odd place is an error, never a guess."""
    with pytest.raises(ValueError, match=r"."):
        declared_rules(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("rule", ["*a" * 30 + "b", "**/a/" * 30 + "b", "?*" * 40, "[ab]*" * 40 + "c"])
def test_hostile_rules_take_no_time(rule: str) -> None:
    """A rule made to be slow decides about a long path in milliseconds."""
    rules = IgnoreRules.of(declared_rules(rule))
    began = time.process_time()
    rules.at("/".join(["a" * 250] * 16))
    assert time.process_time() - began < 0.5
