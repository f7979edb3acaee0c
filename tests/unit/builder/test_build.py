"""From a commit to its image, by the command line, with a real registry and a real package index on loopback.

Covered: building, reusing, two jobs at once, refreshing, age, sources and credentials that travel as wheels, failures
and their exit codes, what `uv` then installs. Left out: the public index (test_network), the key's rules (test_key).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.cli import Exit, run
from builder.engines.environment import uv_program
from builder.environment import Environment, locked_packages, pack, unpack
from builder.oci import Manifest, RegistryClient
from builder.tags import Label, environment_tag
from builder.transport import Transport
from tests.unit.builder.commits import await_true
from tests.unit.builder.index import Index, package_index, source, source_files, wheel

if TYPE_CHECKING:
    from tests.unit.builder.commits import Repository
    from tests.unit.builder.conftest import Guarded

Run = Callable[..., int]
SECRET = "s3cr3t-canary"


@pytest.fixture
def index() -> Iterator[Index]:
    """A package index of our own."""
    with package_index() as found:
        yield found


@pytest.fixture
def builder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: Repository, registry: str, index: Index
) -> Run:
    """The command in a job: run in the checkout, with the registry and the index at hand."""
    for name in list(os.environ):
        if name.startswith(("CI", "UV_", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("CI_REGISTRY_IMAGE", f"{registry}/Group/{tmp_path.name}")
    monkeypatch.setenv("CI_PROJECT_URL", "https://gitlab.example.com/group/tides")
    monkeypatch.chdir(repository.path)

    def call(*arguments: str) -> int:
        return run(list(arguments))

    return call


def _report(repository: Repository) -> dict[str, object]:
    document: dict[str, object] = json.loads((repository.path / "slipway-report.json").read_text())
    return document


def _client(registry: str) -> RegistryClient:
    return RegistryClient(registry)


def _unpacked(registry: str, reference: str, folder: Path) -> Environment:
    """Pull an environment image by its reference."""
    repository, _, tag = reference.removeprefix(f"{registry}/").rpartition(":")
    client = _client(registry)
    manifest = client.manifest(repository, tag)
    assert manifest is not None
    folder.mkdir()

    def fetch(digest: str, target: Path, largest_bytes: int) -> None:
        client.download(repository, digest, target, largest_bytes=largest_bytes)

    try:
        return unpack(manifest.content, fetch, folder)
    finally:
        client.close()


def test_a_commit_is_built_and_its_notebook_edit_is_not(
    builder: Run, repository: Repository, registry: str, index: Index, tmp_path: Path
) -> None:
    """The first commit is resolved and pushed under both tags; the second asks no index and shares the image."""
    first = repository.commit({"requirements.txt": "gauge\n", "a.ipynb": "{}"})
    assert builder("build", "--engine", "environment") == Exit.DONE
    report = _report(repository)
    image = f"{registry}/group/{tmp_path.name}"
    tag = environment_tag(str(report["key"]))
    assert report | {"seconds": 0, "digest": "", "platform": "", "python": ""} == {
        "outcome": "built", "reason": "no image of this environment was there", "commit": first, "key": report["key"],
        "kind": "environment", "platform": "", "recipe": "python-1", "engine": "environment",
        "reference": f"{image}:{first}-environment", "digest": "", "tags": [tag, f"{first}-environment"],
        "inputs": [{"path": "requirements.txt", "mode": "100644",
                    "fingerprint": report["inputs"][0]["fingerprint"]}],  # type: ignore[index]
        "everything": None, "python": "", "packages": 4,
        "mutable": ["requirements.txt: gauge is not pinned",
                    "Python: no version is declared, so the recipe takes the one the job has"],
        "added": ["ipykernel==7.4.0", "jupyter-server==2.21.1", "jupyterlab==4.6.6"], "notes": [], "seconds": 0,
        "base_digest": "",
    }  # fmt: skip
    assert (repository.path / "slipway.env").read_text() == (
        f"IMAGE_REF={image}:{first}-environment\nIMAGE_DIGEST={report['digest']}\nIMAGE_KEY={report['key']}\n"
    )
    index.requests.clear()
    second = repository.commit({"a.ipynb": "{1}"})
    assert builder("build") == Exit.DONE
    again = _report(repository)
    assert (again["outcome"], again["digest"], again["tags"]) == ("reused", report["digest"], [f"{second}-environment"])
    assert index.requests == []
    environment = _unpacked(registry, str(again["reference"]), tmp_path / "out")
    assert {name: version for name, (version, _) in locked_packages(environment.lock).items()} == {
        "gauge": "2.0", "ipykernel": "7.4.0", "jupyter-server": "2.21.1", "jupyterlab": "4.6.6",
    }  # fmt: skip


def test_tags_that_people_add_follow_the_commit(builder: Run, repository: Repository, registry: str) -> None:
    """A built and a reused image get them alike, after the commit's own; the key's tag stays first where it is set."""
    for extra, outcome in (("latest v1", "built"), ("latest", "reused")):
        sha = repository.commit({"requirements.txt": "gauge\n", "a.ipynb": outcome})
        assert builder("build", "--extra-tags", extra) == Exit.DONE
        report = _report(repository)
        names = [f"{sha}-environment", *extra.split()]
        assert (report["outcome"], report["tags"][-len(names) :]) == (outcome, names)  # type: ignore[index]
        name = str(report["reference"]).removeprefix(f"{registry}/").partition(":")[0]
        client = _client(registry)
        found = client.head(name, "latest")
        client.close()
        assert found is not None
        assert found.digest == report["digest"]


def test_the_image_says_where_it_comes_from(
    builder: Run, repository: Repository, registry: str, tmp_path: Path
) -> None:
    """Every label that the contract names is there."""
    sha = repository.commit({"requirements.txt": "gauge\n"})
    assert builder("build") == Exit.DONE
    client = _client(registry)
    manifest = client.manifest(f"group/{tmp_path.name}", f"{sha}-environment")
    assert manifest is not None
    labels = dict(client.labels(f"group/{tmp_path.name}", manifest))
    client.close()
    assert labels.pop(Label.CREATED).endswith("Z")
    assert labels == {
        Label.REVISION: sha, Label.SOURCE: "https://gitlab.example.com/group/tides",
        Label.ENVIRONMENT_KEY: _report(repository)["key"], Label.KIND: "environment", Label.RECIPE: "python-1",
        Label.BASE_DIGEST: "", Label.UID: "1000",
    }  # fmt: skip


def test_a_reuse_costs_two_calls(builder: Run, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """One GET of the key's manifest and one PUT under the commit's tag, and nothing else."""
    repository.commit({"requirements.txt": "gauge\n"})
    assert builder("build") == Exit.DONE
    calls: list[str] = []
    send = Transport._send

    def counted(client: Transport, method: str, *rest: object) -> object:
        calls.append(method)
        return send(client, method, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Transport, "_send", counted)
    repository.commit({"a.ipynb": "{1}"})
    assert builder("build") == Exit.DONE
    assert calls == ["GET", "PUT"]


def test_the_later_of_two_jobs_takes_the_earlier_ones_image(
    builder: Run, repository: Repository, registry: str, index: Index, tmp_path: Path
) -> None:
    """If another job pushed the same key while this one was building, that image is used and this one discarded."""
    sha = repository.commit({"requirements.txt": "gauge\n"})
    key = _key(builder, repository)
    client = _client(registry)
    name = f"group/{tmp_path.name}"

    def other_job() -> None:
        _push(client, name, environment_tag(key), tmp_path / "other", created="2999-01-01T00:00:00Z")

    index.meanwhile = other_job
    assert builder("build") == Exit.DONE
    report = _report(repository)
    assert (report["outcome"], report["reason"]) == (
        "reused", f"another job built {environment_tag(key)} in the meantime",
    )  # fmt: skip
    tagged, keyed = client.head(name, f"{sha}-environment"), client.head(name, environment_tag(key))
    client.close()
    assert tagged == keyed
    assert keyed is not None
    assert keyed.digest == report["digest"]


def _key(builder: Run, repository: Repository) -> str:
    del builder
    from builder.environment import this_platform  # noqa: PLC0415 - one test's need
    from builder.key import environment_key  # noqa: PLC0415 - one test's need

    with repository.tree(repository.git("rev-parse", "HEAD")) as tree:
        return environment_key(tree.tree, tree.read, platform=this_platform()).digest


def _push(client: RegistryClient, name: str, tag: str, folder: Path, *, created: str) -> str:
    """Push an environment image of somebody else's making; its digest."""
    folder.mkdir()
    lock = f"gauge==1.0 --hash=sha256:{'a' * 64}\n"
    environment = Environment(python="3.11", platform="linux/amd64", recipe="python-1", key="0" * 64, lock=lock)
    packed = pack(environment, (), {Label.KIND: "environment", Label.CREATED: created}, folder)
    for blob in packed.blobs:
        client.upload(name, blob.digest, blob.path)
    client.put_manifest(
        name, tag, Manifest(content=packed.manifest, media_type=packed.media_type, digest=packed.digest)
    )
    return packed.digest


@pytest.mark.parametrize(
    ("created", "options", "outcome"),
    [
        ("2999-01-01T00:00:00Z", [], "reused"),
        ("2020-01-01T00:00:00Z", [], "built"),
        ("2020-01-01T00:00:00Z", ["--max-age-days", "0"], "reused"),
        ("2999-01-01T00:00:00Z", ["--refresh"], "built"),
        ("2999-01-01T00:00:00Z", ["--no-reuse"], "built"),
    ],
)
def test_age_and_options_decide_on_reuse(  # noqa: PLR0917 - a table's columns
    builder: Run, repository: Repository, registry: str, tmp_path: Path, created: str, options: list[str], outcome: str
) -> None:
    """A fresh image serves; an old one is built anew and the key's tag moves; --no-reuse leaves that tag alone."""
    repository.commit({"requirements.txt": "gauge\n"})
    tag, name = environment_tag(_key(builder, repository)), f"group/{tmp_path.name}"
    client = _client(registry)
    before = _push(client, name, tag, tmp_path / "old", created=created)
    assert builder("build", *options) == Exit.DONE
    after = client.head(name, tag)
    client.close()
    assert after is not None
    assert _report(repository)["outcome"] == outcome
    assert (after.digest == before) is (outcome == "reused" or options == ["--no-reuse"])


def test_what_only_the_job_can_get_travels_as_wheels(
    builder: Run, repository: Repository, registry: str, index: Index, tmp_path: Path
) -> None:
    """What exists as source only, or in the repository, is built here; uv then installs it all without building."""
    index.add(source("oldish", "0.3"))
    local = {f"libs/depth/{path}": text for path, text in source_files("depth", "1.1").items()}
    repository.commit({"requirements.txt": "oldish\n./libs/depth\ngauge==1.0\n", **local})
    assert builder("build") == Exit.DONE
    out = tmp_path / "out"
    environment = _unpacked(registry, str(_report(repository)["reference"]), out)
    assert sorted(path.name for path in (out / "wheels").iterdir()) == [
        "depth-1.1-py3-none-any.whl", "oldish-0.3-py3-none-any.whl",
    ]  # fmt: skip
    assert _installed(out, index) == {
        "depth": "1.1", "gauge": "1.0", "ipykernel": "7.4.0", "jupyter-server": "2.21.1", "jupyterlab": "4.6.6",
        "oldish": "0.3",
    }  # fmt: skip
    assert environment.project is None


def _installed(folder: Path, index: Index) -> dict[str, str]:
    """Install an unpacked environment as a runtime does: no build, hashes required."""
    place = folder / "venv"
    quiet = ["--quiet", "--no-config", "--cache-dir", str(folder / "cache")]
    install = [
        "pip",
        "install",
        *quiet,
        "--python",
        str(place),
        "--no-build",
        "--require-hashes",
        "--link-mode",
        "copy",
    ]
    install += [
        "--default-index",
        index.url,
        "--find-links",
        str(folder / "wheels"),
        "-r",
        str(folder / "requirements.lock"),
    ]
    for arguments in (["venv", *quiet, "--python", sys.executable, str(place)], install):
        subprocess.run([uv_program(), *arguments], check=True, timeout=60)
    listed = [uv_program(), "pip", "list", *quiet, "--python", str(place), "--format", "json"]
    done = subprocess.run(listed, check=True, timeout=60, capture_output=True, text=True)
    return {entry["name"]: entry["version"] for entry in json.loads(done.stdout)}


def test_a_cancelled_build_leaves_no_process(repository: Repository, registry: str, tmp_path: Path) -> None:
    """SIGTERM ends the command with 143, and with it the build that a stranger's package was in."""
    pid_file = tmp_path / "pid"
    files = source_files("slow", "1.0")
    files["backend.py"] += (
        "import os, time\ndef build_wheel(*_, **__):\n"
        f"    open({str(pid_file)!r}, 'w').write(f'{{os.getpid()}}\\n')\n    time.sleep(300)\n"
    )
    repository.commit({"requirements.txt": "./slow\n", **{f"slow/{path}": text for path, text in files.items()}})
    with package_index() as found:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "UV_", "PIP_"))}
        environment = kept | {"UV_DEFAULT_INDEX": found.url, "UV_CACHE_DIR": str(tmp_path / "uv")}
        command = [sys.executable, "-m", "builder.cli", "build", "--registry-image", f"{registry}/cancelled/x"]
        root = str(Path(__file__).parents[3])
        with subprocess.Popen(command, cwd=repository.path, env=environment | {"PYTHONPATH": root}) as process:
            await_true(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"), "the build")
            building = int(pid_file.read_text())
            process.terminate()
            assert process.wait(timeout=20) == 143
        await_true(lambda: not _is_running(building), "the build's end")


def _is_running(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_lock_runs_on_every_patch_release(
    builder: Run, repository: Repository, registry: str, index: Index, tmp_path: Path
) -> None:
    """What wants a later patch release than the first is not locked: a session's machine may have an older one."""
    index.add(wheel("gauge", "3.0", python=f">=3.{sys.version_info.minor}.1"))
    repository.commit({"requirements.txt": "gauge\n"})
    assert builder("build") == Exit.DONE
    environment = _unpacked(registry, str(_report(repository)["reference"]), tmp_path / "out")
    assert locked_packages(environment.lock)["gauge"][0] == "2.0"


def test_a_file_that_is_not_what_its_index_says_ends_the_build(
    builder: Run, repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel fetched by the job is compared with the hash that the resolver was given."""
    with package_index(password=SECRET) as private:
        private.add(wheel("hidden", "1.0"))
        monkeypatch.setenv("UV_DEFAULT_INDEX", private.url)
        repository.commit({"requirements.txt": "hidden\n"})
        assert builder("build") == Exit.DONE
        private.forged = frozenset({"hidden-1.0-py3-none-any.whl"})
        assert builder("build", "--refresh") == Exit.BUILD_FAILED
    assert "another file for hidden" in capsys.readouterr().err


def test_an_index_with_a_password_leaves_no_trace(
    builder: Run, repository: Repository, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Wheels of a private index travel with the image; its address and password are in no file and no output."""
    with package_index(password=SECRET) as private:
        private.add(wheel("hidden", "1.0"))
        monkeypatch.setenv("UV_DEFAULT_INDEX", private.url)
        repository.commit({"requirements.txt": "hidden\n"})
        assert builder("build", "--json") == Exit.DONE
        address = f"127.0.0.1:{private.port}"
    out = tmp_path / "out"
    _unpacked(registry, str(_report(repository)["reference"]), out)
    assert "hidden-1.0-py3-none-any.whl" in {path.name for path in (out / "wheels").iterdir()}
    texts = [path.read_text() for path in (out / "environment.json", out / "requirements.lock")]
    texts += [(repository.path / "slipway-report.json").read_text(), *capfd.readouterr()]
    for text in texts:
        assert SECRET not in text
        assert address not in text


@pytest.mark.parametrize(
    ("files", "project", "versions"),
    [
        ({"requirements.txt": "-e .\n", "pyproject.toml": '[project]\nname = "tides"\nversion = "1"\n'
          'dependencies = ["gauge<2"]\n[build-system]\nrequires = []\nbuild-backend = "flit_core.buildapi"\n'},
         "", {"gauge": "1.0"}),
        ({"pyproject.toml": '[project]\nname = "tides"\nversion = "1"\ndependencies = ["gauge<2"]\n'}, None,
         {"gauge": "1.0"}),
        ({"pyproject.toml": '[tool.poetry]\nname = "tides"\n[tool.poetry.dependencies]\npython = "^3.11"\n'
          'gauge = "^1"\n'}, None, {"gauge": "1.0"}),
        ({"pyproject.toml": '[project]\nname = "tides"\ndependencies = ["gauge"]\n',
          "pdm.lock": '[[package]]\nname = "gauge"\nversion = "1.0"\n'}, None, {"gauge": "1.0"}),
        ({"Pipfile": '[packages]\ngauge = "*"\n', "Pipfile.lock": '{"default": {"gauge": {"version": "==1.0"}}}'},
         None, {"gauge": "1.0"}),
        ({"binder/requirements.txt": "-c limits.txt\ngauge\n", "binder/limits.txt": "gauge<2\n"}, None,
         {"gauge": "1.0"}),
        ({"requirements-a.txt": "gauge\n", "requirements-b.txt": "gauge<2\n"}, None, {"gauge": "1.0"}),
        ({"requirements.txt": "jupyterlab\n"}, None, {"jupyterlab": "4.9.0"}),
        ({"requirements.txt": "jupyterlab<4.9\n"}, None, {"jupyterlab": "4.6.6"}),
        ({"runtime.txt": f"python-3.{sys.version_info.minor}"}, None, {"jupyterlab": "4.6.6"}),
    ],
    ids=["editable", "project", "poetry", "pdm", "pipfile", "binder", "several", "own", "pinned", "runtime"],
)  # fmt: skip
def test_every_way_to_declare_is_followed(  # noqa: PLR0917 - a table's columns
    builder: Run, repository: Repository, registry: str, tmp_path: Path, files: dict[str, str], project: str | None,
    versions: dict[str, str],
) -> None:  # fmt: skip
    """Whatever file declares the dependencies, the lock holds them; a project is installed later, by its folder."""
    repository.commit(files)
    assert builder("build") == Exit.DONE
    environment = _unpacked(registry, str(_report(repository)["reference"]), tmp_path / "out")
    locked = {name: version for name, (version, _) in locked_packages(environment.lock).items()}
    assert locked == {"ipykernel": "7.4.0", "jupyter-server": "2.21.1", "jupyterlab": "4.6.6"} | versions
    assert environment.project == project


FAILURES = [
    ({"requirements.txt": "gauge==99.0\n"}, [], Exit.BUILD_FAILED, "no version of gauge==99.0"),
    ({"requirements.txt": "no-such-package\n"}, [], Exit.BUILD_FAILED, "no-such-package"),
    ({"requirements.txt": "gauge\n", "runtime.txt": "python-3.1"}, [], Exit.BUILD_FAILED, "Python ==3.1.*"),
    ({"requirements.txt": "gauge\n", "runtime.txt": "node-20"}, [], Exit.BUILD_FAILED, "node-20"),
    ({"requirements.txt": "gauge jupyterlab\n"}, [], Exit.BUILD_FAILED, "requirements.txt"),
    ({"requirements.txt": "-r missing.txt\n"}, [], Exit.BUILD_FAILED, "missing.txt"),
    ({"requirements.txt": "jupyterlab==4.9.0\njupyterlab==4.6.6\n"}, [], Exit.BUILD_FAILED, "jupyterlab"),
    ({"pyproject.toml": "[project]\nname = 'a'\ndependencies = 5\n"}, [], Exit.BUILD_FAILED, "pyproject.toml"),
    ({"pyproject.toml": "[tool]\npoetry = 5\n"}, [], Exit.BUILD_FAILED, "does not have the shape"),
    ({"Pipfile": "packages = 5\n"}, [], Exit.BUILD_FAILED, "does not have the shape"),
    ({"README.md": ""}, [], Exit.NO_RECIPE, "declares no Python environment"),
    ({"slipway.toml": "[image", "requirements.txt": ""}, [], Exit.BUILD_FAILED, "does not parse"),
    ({"requirements.txt": ""}, ["--commit", "1" * 40], Exit.NOT_FOUND, "no commit"),
    ({"requirements.txt": ""}, ["--registry-image", "localhost"], Exit.USAGE, "names no repository"),
    ({"requirements.txt": ""}, ["--registry-image", "127.0.0.1:9/g/p"], Exit.UNAVAILABLE, "cannot be reached"),
    ({"requirements.txt": ""}, ["--token-file", "none"], Exit.USAGE, "cannot be read"),
    ({"requirements.txt": ""}, ["--refresh", "--no-reuse"], Exit.USAGE, "exclude each other"),
    ({"requirements.txt": ""}, ["--kind", "container", "--engine", "environment"], Exit.USAGE, "no container images"),
    ({"requirements.txt": ""}, ["--build-arg", "tide=low"], Exit.USAGE, "container images"),
    ({"requirements.txt": ""}, ["--no-such-option"], Exit.USAGE, "No such option"),
]


@pytest.mark.parametrize(("files", "options", "code", "said"), FAILURES, ids=[row[3] for row in FAILURES])
def test_every_failure_has_its_code_and_a_sentence(  # noqa: PLR0917 - a table's columns
    builder: Run, repository: Repository, capsys: pytest.CaptureFixture[str], files: dict[str, str],
    options: list[str], code: Exit, said: str,
) -> None:  # fmt: skip
    """What cannot be built ends with the code of its kind and names the thing; the report says the same."""
    repository.commit(files)
    assert builder("build", "--json", *options) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    report = repository.path / "slipway-report.json"
    if code not in {Exit.USAGE, Exit.NOT_FOUND}:
        failed = json.loads(report.read_text())
        assert (failed["outcome"], said in f"{failed['reason']} {failed['log']}") == ("failed", True)


def test_the_registrys_no_has_its_code(
    builder: Run, repository: Repository, guarded: Guarded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who may read but not push is told so by exit code 11, and the token is in no output."""
    repository.commit({"requirements.txt": "gauge\n"})
    (tmp_path / "token").write_text("eve-secret\n")
    options = ["--registry-image", f"{guarded.address}/group/denied", "--user", "eve"]
    options += ["--token-file", str(tmp_path / "token"), "--token-host", guarded.token_host]
    assert builder("build", *options) == Exit.REGISTRY_REFUSED
    assert "eve-secret" not in capsys.readouterr().err


def test_a_job_pushes_with_its_own_variables(
    builder: Run, repository: Repository, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything comes from the job's variables; of a merge request the source branch's commit is tagged."""
    sha = repository.commit({"requirements.txt": "gauge\n"})
    repository.commit({"merged.txt": ""})
    monkeypatch.setenv("CI_REGISTRY_IMAGE", f"{guarded.address}/group/job")
    monkeypatch.setenv("CI_REGISTRY_USER", "ada")
    monkeypatch.setenv("CI_REGISTRY_PASSWORD", "ada-secret")
    monkeypatch.setenv("CI_SERVER_URL", f"http://{guarded.token_host}")
    monkeypatch.setenv("CI_COMMIT_SHA", repository.git("rev-parse", "HEAD"))
    monkeypatch.setenv("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", sha)
    assert builder("build") == Exit.DONE
    assert _report(repository)["commit"] == sha
    monkeypatch.setenv("CI_REGISTRY_IMAGE", "registry.example.com/group/job")
    guarded.service.requests.clear()
    elsewhere = ["--registry-image", f"{guarded.address}/group/job"]
    assert builder("build", *elsewhere) == Exit.REGISTRY_REFUSED
    assert [user for user, _ in guarded.service.requests] == [""]  # another registry is not shown the job's password
