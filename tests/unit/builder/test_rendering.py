"""The Python recipe's Dockerfile as a text, and what repo2docker assembles: neither needs an engine.

Left out: building them (tests/contract/engine).
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from builder import rendering, repo2docker
from builder.container import ContainerMaker, Options, recipe_of
from builder.draft import write_dockerfile
from builder.engines.choosing import EngineName
from builder.entries import Kind
from builder.folder import Folder
from builder.indexes import build_secrets
from builder.key import environment_key
from builder.rendering import base_image, container_dockerfile

if TYPE_CHECKING:
    from tests.unit.builder.commits import Repository

ROOT = Path(__file__).parents[3]


def _text(folder: Path, files: dict[str, str], **changes: Any) -> str:
    """Write files and render their recipe."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    tree = Folder(folder)
    key = environment_key(tree.tree, tree.read, kind=Kind.CONTAINER)
    return container_dockerfile(dataclasses.replace(recipe_of(folder, key), **changes))


def test_the_text_follows_from_the_files_alone(tmp_path: Path) -> None:
    """The same names give the same text: what the files say is copied, and decides layer by layer."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = _text(tmp_path / "a", {"requirements.txt": "six\n"})
    assert first == _text(tmp_path / "b", {"requirements.txt": "# why\nattrs\n"})
    assert "COPY --chown=1000:100 requirements.txt /build/requirements.txt" in first
    assert first.count("FROM ") == 3
    assert first.index("session.txt\n") < first.index("all.txt\n")  # the session's layer lies below the project's


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"requirements.txt": "-r more.txt\n", "more.txt": "six\n"},
         ["COPY --chown=1000:100 more.txt /build/more.txt"]),
        ({"requirements.txt": "-e .\nsix\n", "pyproject.toml": '[project]\nname="a"\nversion="1"\n[build-system]\n'},
         ["printf '%s\\n' six >requirements.txt", "pyproject.toml -o /locks/project.txt"]),
        ({"requirements.txt": "", "apt.txt": "libxml2\n"}, ["COPY apt.txt /opt/slipway/apt.txt"]),
        ({"binder/requirements.txt": "six\n", "binder/apt.txt": ""},
         ["COPY --chown=1000:100 binder/requirements.txt /build/binder/requirements.txt",
          "COPY binder/apt.txt /opt/slipway/apt.txt"]),
        ({"requirements.txt": "./lib\n", "lib/pyproject.toml": ""},
         ["COPY --chown=1000:100 lib /build/lib", "COPY --from=lock --chown=1000:100 /build /build"]),
        ({"runtime.txt": "python-3.13"}, ["FROM python:3.13-slim-bookworm AS base", "--python '==3.13.*'"]),
        ({"requirements.txt": "", "postBuild": ""}, ["COPY --chown=1000:100 . /build/"]),
        ({"pyproject.toml": '[project]\nname="a"\nversion="1"\ndependencies=["six"]\n', "uv.lock": "version = 1\n"},
         ["uv export --quiet --frozen", ".slipway-build/exported.txt -o /locks/project.txt"]),
    ],
)  # fmt: skip
def test_every_way_to_declare_is_copied_and_resolved(
    tmp_path: Path, files: dict[str, str], expected: list[str]
) -> None:
    """What the resolver will read is copied by name; the system's packages are installed below it."""
    text = _text(tmp_path, files)
    assert [line for line in expected if line not in text] == []


def test_its_shell_is_a_shell(tmp_path: Path) -> None:
    """Every RUN is what a shell can read."""
    quoted = """six ; python_version >= '3.8'\n"attrs"\n"""
    text = _text(tmp_path, {"requirements.txt": f"-e .\n{quoted}", "setup.py": "", "apt.txt": ""})
    runs = re.findall(r"(?m)^RUN (?:--\S+ )*((?:.*\\\n)*.*)", text)
    assert len(runs) == 8
    for run in runs:
        subprocess.run(["sh", "-n"], input=re.sub(r"--mount=\S+", "", run), text=True, check=True, timeout=10)


@pytest.mark.parametrize(
    ("image", "override", "mirror", "expected"),
    [
        ({}, None, None, "python:3.12-slim-bookworm"),
        ({"base": "ghcr.io/a/b:1"}, None, None, "ghcr.io/a/b:1"),
        ({"base": "ghcr.io/a/b:1"}, None, "mirror.example.org/hub", "ghcr.io/a/b:1"),
        ({}, None, "mirror.example.org/hub/", "mirror.example.org/hub/python:3.12-slim-bookworm"),
        ({"base": "docker.io/library/python:3"}, None, "m.example.org", "m.example.org/library/python:3"),
        ({"base": "user/image:1"}, None, "m.example.org", "m.example.org/user/image:1"),
        ({"base": "ghcr.io/a/b:1"}, "localhost:5000/c", "m.example.org", "localhost:5000/c"),
    ],
)
def test_the_base_is_the_commits_and_may_come_from_a_mirror(
    tmp_path: Path, image: dict[str, str], override: str | None, mirror: str | None, expected: str
) -> None:
    """A mirror says where from and never what; another base than the commit's makes an image of its own."""
    (tmp_path / "requirements.txt").write_text("")
    tree = Folder(tmp_path)
    plan = recipe_of(tmp_path, environment_key(tree.tree, tree.read, kind=Kind.CONTAINER)).plan
    assert base_image(image, plan, override=override, mirror=mirror) == expected
    options = Options(base=override, mirror=mirror)
    assert ContainerMaker(EngineName.BUILDAH, options).is_own is (override is not None)


def test_uv_is_the_one_that_is_locked() -> None:
    """The recipe's uv is the builder's."""
    assert f"uv=={rendering.UV_VERSION} " in (ROOT / "requirements.lock").read_text()


def test_this_machines_indexes_become_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip or uv were told is told to both, with the certificates; nothing known, nothing given."""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_INDEX_URL",
                 "PIP_EXTRA_INDEX_URL", "SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE",
                 "CURL_CA_BUNDLE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    assert build_secrets(tmp_path) == {}
    (tmp_path / "ca.pem").write_text("certificate")
    monkeypatch.setenv("PIP_INDEX_URL", "https://reader:o'clock@pypi.example.com/simple")
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "ca.pem"))
    secrets = build_secrets(tmp_path)
    assert secrets["slipway-ca"] == tmp_path / "ca.pem"
    assert secrets["slipway-index"].stat().st_mode & 0o077 == 0
    said = subprocess.run(
        ["sh", "-c", f". {secrets['slipway-index']}; echo $UV_DEFAULT_INDEX $PIP_INDEX_URL $SSL_CERT_FILE"],
        check=True, capture_output=True, text=True, timeout=10, env={},
    )  # fmt: skip
    url = "https://reader:o'clock@pypi.example.com/simple"
    assert said.stdout.split() == [url, url, "/run/secrets/slipway-ca"]


def test_init_writes_a_dockerfile_once(tmp_path: Path, repository: Repository) -> None:
    """It is the recipe's, without what only our own report needs; the commit then counts as a Dockerfile's."""
    (tmp_path / "requirements.txt").write_text("six\n")
    assert write_dockerfile(tmp_path)
    text = (tmp_path / "Dockerfile").read_text()
    assert "environment.json" not in text
    assert text.startswith("# ")
    assert not write_dockerfile(tmp_path)
    sha = repository.commit({"Dockerfile": text, "requirements.txt": "six\n"})
    with repository.tree(sha) as tree:
        assert environment_key(tree.tree, tree.read, kind=Kind.CONTAINER).recipe == "dockerfile"


def test_other_stacks_are_built_as_repo2docker_says(tmp_path: Path) -> None:
    """A Dockerfile over a context that has all it copies; its base cannot be fetched here, so nothing is built.

    Only conda: for R and Julia, repo2docker looks up releases on the network.
    """
    staged, context = tmp_path / "staged", tmp_path / "context"
    for folder in (staged, context):
        folder.mkdir()
    (staged / "environment.yml").write_text("dependencies: [python=3.12, numpy]\n")
    made = repo2docker.assemble(staged, context, platform="linux/amd64", base=None)
    assert (made.buildpack, made.arguments["NB_UID"]) == ("CondaBuildPack", "1000")
    assert "environment.yml" in made.dockerfile
    copied = re.findall(r"(?m)^COPY (?:--\S+ )*(\S+) ", made.dockerfile)
    assert len(copied) > 4
    assert [name for name in copied if not (context / name.lstrip("/")).exists()] == []
    assert [path.name for path in (context / "src").iterdir()] == ["environment.yml"]
