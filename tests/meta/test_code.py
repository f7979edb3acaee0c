"""The code base itself. Covered: docstrings of modules and tests, forbidden names, lock files, large files.

Left out: what ruff, mypy and import-linter hold already.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("spawner", "builder")
VAGUE_NAMES = {"utils", "helpers", "common", "manager", "handler", "base", "misc"}


def sources(*folders: str) -> Iterator[Path]:
    """Yield the committed Python files below some folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--", *(f"{folder}/*.py" for folder in folders)],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip
    for name in listed.splitlines():
        path = ROOT / name
        if path.exists() and "migrations/versions" not in name and "tests/samples" not in name:
            yield path


def test_every_module_says_what_it_is_for() -> None:
    """A module's docstring is there and ends its first line as a sentence or a title does."""
    silent = []
    for path in sources(*PACKAGES, "scripts"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if path.read_text(encoding="utf-8").strip() and len(text) < 20:
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_no_module_has_a_vague_name() -> None:
    """There is no utils.py: what is used twice stands with the subject that owns the noun."""
    vague = [str(path.relative_to(ROOT)) for path in sources(*PACKAGES) if path.stem in VAGUE_NAMES]
    assert vague == []


def test_every_test_says_what_it_shows() -> None:
    """A test's docstring is the behaviour in one sentence."""
    silent = []
    for path in sources("tests"):
        silent += [
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
        ]
    assert silent == []


def test_no_third_party_client_is_mocked() -> None:
    """Tests talk to real servers and held-to-contract fakes, never to a mock of somebody else's client."""
    # Put together here, so that this file does not find itself.
    mocks = re.compile("|".join(["Magic" + "Mock", "mock" + r"\.patch", "unittest" + r"\.mock"]))
    found = [str(path.relative_to(ROOT)) for path in sources("tests") if mocks.search(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_locks_have_hashes_and_no_addresses(name: str) -> None:
    """A lock pins versions and hashes and names no host."""
    text = (ROOT / name).read_text(encoding="utf-8")
    pins = re.findall(r"^[A-Za-z0-9._-]+==[^ ]+", text, re.MULTILINE)
    assert len(pins) > 40
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text


def test_run_lock_is_part_of_the_dev_lock() -> None:
    """What runs in tests is what runs elsewhere, version by version."""
    pins = re.compile(r"^([A-Za-z0-9._-]+==[^ ]+)", re.MULTILINE)
    run, dev = (set(pins.findall((ROOT / f"requirements{kind}.lock").read_text())) for kind in ("", "-dev"))
    assert set() == run - dev


def test_every_dependency_is_locked_and_has_its_reason() -> None:
    """Each line of the dependencies has a comment, and each name is in the lock."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = [line.strip() for line in block[1].splitlines() if line.strip()]
    assert [line for line in lines if "#" not in line] == []
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    names = {re.split(r"[\[><=]", line.strip('", '), maxsplit=1)[0] for line in lines}
    assert set() == names - locked
