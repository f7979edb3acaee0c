"""The Python recipe's plan, where no resolver is needed to see it.

Covered: Poetry's version syntax, which Python is asked for and by whom, notes, indexes' credentials. Left out: what the
plan resolves to (test_build).
"""

from __future__ import annotations

from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from requests.auth import HTTPBasicAuth

from builder.detect import Source
from builder.engines.wheels import credentials_for
from builder.errors import ProjectError
from builder.recipes import plan, poetry_version


@pytest.mark.parametrize(
    ("poetry", "specifier"),
    [
        ("*", ""), ("^1.2.3", ">=1.2.3,<2"), ("^1.2", ">=1.2,<2"), ("^1", ">=1,<2"), ("^0.2.3", ">=0.2.3,<0.3"),
        ("^0.0.3", ">=0.0.3,<0.0.4"), ("^0.0", ">=0.0,<0.1"), ("^0", ">=0,<1"), ("~1.2.3", ">=1.2.3,<1.3"),
        ("~1.2", ">=1.2,<1.3"), ("~1", ">=1,<2"), ("~=1.2", "~=1.2"), (">=1,<2", ">=1,<2"), ("1.2.3", "==1.2.3"),
        ("1.*", "==1.*"), ("^3.11, <3.13", ">=3.11,<4,<3.13"),
    ],
)  # fmt: skip
def test_poetrys_versions_are_translated(poetry: str, specifier: str) -> None:
    """Every example of Poetry's own page means the same in the standard's words."""
    assert poetry_version(poetry) == specifier
    SpecifierSet(specifier)


def _python(files: dict[str, str], image: dict[str, Any] | None = None) -> tuple[str, str]:
    made = plan(
        lambda path: files[path].encode() if path in files else None, files.keys(), folder="",
        source=Source.REQUIREMENTS, image=image or {},
    )  # fmt: skip
    return made.python, made.asked_by


@pytest.mark.parametrize(
    ("files", "image", "expected"),
    [
        ({}, {}, ("", "the recipe")),
        ({"runtime.txt": "python-3.12"}, {}, ("==3.12.*", "runtime.txt")),
        ({"runtime.txt": "python-3.12.4\n"}, {}, ("==3.12.*", "runtime.txt")),
        ({}, {"python": "3.13"}, ("==3.13.*", "[image] python")),
        ({"pyproject.toml": '[project]\nrequires-python = ">=3.11"'}, {}, (">=3.11", "requires-python")),
        ({"pyproject.toml": '[project]\nrequires-python = ">=3.11"', "runtime.txt": "3.12"}, {},
         ("==3.12.*,>=3.11", "runtime.txt and requires-python")),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "^3.11"'}, {},
         (">=3.11,<4", "[tool.poetry.dependencies] python")),
    ],
)  # fmt: skip
def test_the_commit_says_which_python(files: dict[str, str], image: dict[str, Any], expected: tuple[str, str]) -> None:
    """runtime.txt, requires-python and [image] python are put together, and whoever asked is named."""
    assert _python({"requirements.txt": "", **files}, image) == expected


@pytest.mark.parametrize(
    ("files", "image"),
    [({"runtime.txt": "r-4.3"}, {}), ({}, {"python": "latest"}),
     ({"pyproject.toml": '[project]\nrequires-python = "three"'}, {})],
)  # fmt: skip
def test_a_python_that_is_none_is_refused(files: dict[str, str], image: dict[str, Any]) -> None:
    """What is no version of Python ends in words."""
    with pytest.raises(ProjectError):
        _python({"requirements.txt": "", **files}, image)


INDEX = "https://reader:t0k%2Fen@gitlab.example.com/api/v4/projects/1/packages/pypi/simple"


@pytest.mark.parametrize(
    ("url", "is_known"),
    [
        ("https://gitlab.example.com/api/v4/files/x.whl", True),
        ("https://gitlab.example.com:8443/x.whl", False),
        ("http://gitlab.example.com/x.whl", False),
        ("https://evil.example.com/x.whl", False),
        ("https://gitlab.example.com.evil.example.com/x.whl", False),
    ],
)
def test_an_indexs_credentials_go_to_its_own_host(monkeypatch: pytest.MonkeyPatch, url: str, *, is_known: bool) -> None:
    """The same scheme, host and port, and no other; a variable in the address is filled in first."""
    monkeypatch.setenv("INDEX_LOGIN", "reader:t0k%2Fen")
    written = INDEX.replace("reader:t0k%2Fen", "${INDEX_LOGIN}")
    for index in (INDEX, written):
        found = credentials_for(url, ["https://pypi.org/simple", index])
        assert isinstance(found, HTTPBasicAuth) is is_known
        if isinstance(found, HTTPBasicAuth):
            assert (found.username, found.password) == ("reader", "t0k/en")
