"""The environment engine with the public package index: real packages, really installed.

Covered: a small requirements file, a locked project, a package that exists as source only. Left out: everything that
an index on loopback shows as well (test_build).
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from builder.cli import Exit, run
from builder.engines.environment import uv_program
from builder.environment import unpack
from builder.oci import RegistryClient
from tests.unit.builder.test_samples import _commits

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.builder.commits import Files, Repository

pytestmark = pytest.mark.network


@pytest.mark.parametrize(
    ("files", "modules"),
    [
        ({"requirements.txt": "six==1.17.0\n"}, ["six"]),
        ({"requirements.txt": "docopt==0.6.2\n"}, ["docopt"]),
        (_commits("locked")[-1], ["humanize"]),
    ],
    ids=["requirements", "source only", "locked"],
)
def test_an_environment_is_built_pushed_pulled_and_installed(
    repository: Repository, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Files,
    modules: list[str],
) -> None:  # fmt: skip
    """From a commit to an interpreter that imports what it declares, and JupyterLab, with no build at the end."""
    for name in [name for name in os.environ if name.startswith("CI")]:
        monkeypatch.delenv(name)
    sha = repository.commit(files)
    monkeypatch.chdir(repository.path)
    name = f"network/{tmp_path.name}"
    assert run(["build", "--registry-image", f"{registry}/{name}"]) == Exit.DONE
    client = RegistryClient(registry)
    manifest = client.manifest(name, f"{sha}-environment")
    assert manifest is not None
    out = tmp_path / "out"
    out.mkdir()
    unpack(
        manifest.content, lambda digest, target, most: client.download(name, digest, target, largest_bytes=most), out
    )
    client.close()
    place = out / "venv"
    install = [
        "pip",
        "install",
        "--quiet",
        "--python",
        str(place),
        "--no-build",
        "--require-hashes",
        "--link-mode",
        "copy",
    ]
    install += ["-r", str(out / "requirements.lock")]
    install += ["--find-links", str(out / "wheels")] if (out / "wheels").is_dir() else []
    for arguments in (["venv", "--quiet", "--python", sys.executable, str(place)], install):
        subprocess.run([uv_program(), *arguments], check=True, timeout=240)
    program = f"import {', '.join([*modules, 'jupyterlab', 'ipykernel'])}"
    subprocess.run([str(place / "bin" / "python"), "-c", program], check=True, timeout=60)
