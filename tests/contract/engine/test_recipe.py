"""The Python recipe, built by every engine: layers, what a session needs, indexes with passwords, and a run of it.

Left out: what the Dockerfile's text is (tests/unit/builder/test_rendering.py), reuse in general (test_engines).
"""

import gzip
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cli import Exit
from builder.engines.containers import Workplace, write_authentication
from builder.oci import Credentials
from builder.recipes import PREFERRED
from builder.tags import Label
from tests.containers.daemon import Daemon
from tests.containers.layout import Image
from tests.containers.registry import PASSWORDS, Guarded
from tests.contract.engine.conftest import Job
from tests.unit.builder.index import Index, package_index, wheel

SECRET = "index-canary-41c9"
PYTHON = "bases/python"


@pytest.fixture(scope="session")
def base(stocked: Guarded, python_image: Image) -> str:
    """The reference of an image with Python and uv, for `[image] base`."""
    client = stocked.client()
    python_image.push(client, PYTHON, "1")
    client.close()
    return f"{stocked.address}/{PYTHON}:1"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, job: Job) -> Iterator[Index]:
    """A package index on loopback that wants a password; the job knows it as pip does."""
    with package_index(password=SECRET) as found:
        found.add(wheel("pip", "26.0"))
        monkeypatch.setenv("PIP_INDEX_URL", found.url)
        monkeypatch.setenv("SLIPWAY_BUILD_NETWORK", "host")
        yield found
    del job


def test_a_changed_requirement_installs_anew_what_it_changed(job: Job, index: Index, base: str) -> None:
    """The session's packages keep their layer; a notebook edit builds nothing; no password is in any blob."""
    settings = f'[image]\nbase = "{base}"\n'
    first = job.repository.commit({"requirements.txt": "gauge==1.0\n", "slipway.toml": settings})
    assert job.run() == Exit.DONE
    report = job.report()
    assert report["added"] == [f"{name}=={PREFERRED[name]}" for name in sorted(PREFERRED)]
    assert (report["python"], report["packages"], report["recipe"]) == ("3.11", 5, "python-1")
    lies_on = job.client.head(PYTHON, "1")
    assert lies_on is not None
    assert report["base_digest"] == lies_on.digest
    configuration = job.configuration(first)
    assert (configuration["User"], configuration["WorkingDir"]) == ("1000", "/home/jovyan")
    assert configuration["Labels"][Label.UID] == "1000"
    assert "8888/tcp" in configuration["ExposedPorts"]
    second = job.repository.commit({"requirements.txt": "gauge==2.0\n"})
    assert job.run() == Exit.DONE
    layers = [[layer["digest"] for layer in job.manifest(sha).document()["layers"]] for sha in (first, second)]
    assert len(layers[0]) == len(layers[1])
    assert layers[0][:-2] == layers[1][:-2]
    assert layers[0][-1] != layers[1][-1]
    job.repository.commit({"a.ipynb": "{}"})
    index.requests.clear()
    assert job.run() == Exit.DONE
    assert (job.report()["outcome"], index.requests) == ("reused", [])
    for path in job.registry.storage.rglob("data"):
        content = path.read_bytes()
        assert SECRET.encode() not in (gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)


def test_a_requirement_that_does_not_exist_is_named(job: Job, index: Index, base: str) -> None:
    """The resolver's words are in the report, and the index's password is not."""
    job.repository.commit({"requirements.txt": "no-such-package\n", "slipway.toml": f'[image]\nbase = "{base}"\n'})
    assert job.run() == Exit.BUILD_FAILED
    said = json.dumps(job.report())
    assert "no-such-package" in said
    assert SECRET not in said
    assert index.requests != []


@pytest.mark.network
@pytest.mark.parametrize("engine", ["buildah"], indirect=True)
def test_the_image_runs_and_talks_jupyter(
    job: Job, base: str, docker_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What buildah built of the public index is started by Docker: JupyterLab answers, the requirement is there."""
    del monkeypatch
    job.repository.commit({"requirements.txt": "six\n", "slipway.toml": f'[image]\nbase = "{base}"\n'})
    assert job.run("--network", "host") == Exit.DONE
    report = job.report()
    image = f"{report['reference'].rpartition(':')[0]}@{report['digest']}"
    place = Workplace(
        folder=tmp_path, registry=job.registry.address, say=lambda _: None,
        credentials=Credentials(username="eve", password=PASSWORDS["eve"]),
    )  # fmt: skip
    write_authentication(docker_daemon.folder / "config" / "config.json", place)
    name = docker_daemon.run(
        "run", "--detach", "--publish", "127.0.0.1::8888", "--cap-drop=ALL", "--security-opt=no-new-privileges", image,
        "jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "--IdentityProvider.token=canary",
    )  # fmt: skip
    try:
        address = docker_daemon.run("port", name, "8888").splitlines()[0]
        _await_jupyter(f"http://{address}/api/status")
        program = "import os, six, sys; print(os.getuid(), sys.prefix)"
        assert docker_daemon.run("exec", name, "python", "-c", program) == "1000 /opt/python"
    finally:
        docker_daemon.run("rm", "--force", name)


def _await_jupyter(url: str) -> None:
    end = time.monotonic() + 90
    while True:
        try:
            request = urllib.request.Request(url, headers={"Authorization": "token canary"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                assert "kernels" in json.load(answer)
                return
        except OSError:
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.2)
