"""Secrets from files.

Covered: what is read, what is refused, that no error repeats a secret, and the making of a key file.
"""

import stat
from pathlib import Path

import pytest

from spawner import config
from spawner.errors import Misconfigured

GOOD = "0123456789abcdefghijklmnopqrstuvwxyz-good"


def test_secret(tmp_path: Path) -> None:
    """A secret is read without the white space around it."""
    path = tmp_path / "secret"
    path.write_text(f"  {GOOD}\n")
    assert config.read_secret(path, setting="SPAWNER_X_FILE") == GOOD


@pytest.mark.parametrize("text", ["", "\n", "changeme", "Change-Me!", "password", "SECRET\n", "todo"])
def test_no_secret(tmp_path: Path, text: str) -> None:
    """An empty secret, or one of a tutorial, is refused by the setting's name."""
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(Misconfigured, match="SPAWNER_X_FILE"):
        config.read_secret(path, setting="SPAWNER_X_FILE")


def test_unreadable(tmp_path: Path) -> None:
    """A file that is not there, a folder and bytes that are no text are refused in a sentence."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "bytes"):
        with pytest.raises(Misconfigured, match="cannot be read"):
            config.read_secret(path, setting="SPAWNER_X_FILE")


def test_keys(tmp_path: Path) -> None:
    """Every line is a key, the first one first; empty lines are none."""
    path = tmp_path / "keys"
    path.write_text(f"{GOOD}-new\n\n  {GOOD}-old  \n")
    assert config.read_keys(path) == (f"{GOOD}-new".encode(), f"{GOOD}-old".encode())


@pytest.mark.parametrize("line", ["canary-short", "a" * 40, "canary" * 10])
def test_bad_keys(tmp_path: Path, line: str) -> None:
    """A short or repeating key is refused by its line, and not repeated."""
    path = tmp_path / "keys"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(Misconfigured, match="Line 2") as caught:
        config.read_keys(path)
    assert line not in caught.value.message


def test_key_file(tmp_path: Path) -> None:
    """A key file is made once, private, and good."""
    path = tmp_path / "new" / "keys"
    config.make_key_file(path)
    keys = config.read_keys(path)
    config.make_key_file(path)
    assert (config.read_keys(path), stat.S_IMODE(path.stat().st_mode)) == (keys, 0o600)
