"""The base images and the daemon that other suites stand on: they are what they say, and leave nothing.

Left out: building (tests/contract/engine), sessions (tests/contract/runtime).
"""

import json
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from builder.errors import UnauthorizedError
from builder.oci import RegistryClient
from builder.recipes import PREFERRED
from tests.containers.daemon import Daemon, docker_daemon
from tests.containers.layout import Image
from tests.containers.registry import Guarded


def test_a_base_image_is_pushed_with_a_token_and_pulled_again(tiny_image: Image, container_registry: Guarded) -> None:
    """What the registry gives back is what was pushed, and a stranger gets nothing."""
    client = container_registry.client()
    digest = tiny_image.push(client, "bases/tiny", "1")
    found = client.manifest("bases/tiny", "1")
    assert found is not None
    assert (found.digest, found.content) == (digest, tiny_image.manifest().content)
    client.close()
    assert "ada" in {user for user, _ in container_registry.service.requests}
    stranger = RegistryClient(container_registry.address, trusted_hosts=[container_registry.token_host])
    with pytest.raises(UnauthorizedError):
        stranger.manifest("bases/tiny", "1")
    stranger.close()


def test_a_notebook_image_runs_in_docker_and_answers(
    docker_daemon: Daemon, notebook_image: Image, tmp_path: Path
) -> None:
    """JupyterLab on port 8888, as user 1000, with settings from JUPYTER_CONFIG_PATH, the arguments replaced."""
    notebook_image.archive(tmp_path / "notebook.tar", "slipway/notebook:1")
    docker_daemon.run("load", "--input", str(tmp_path / "notebook.tar"))
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "jupyter_server_config.json").write_text(json.dumps({"IdentityProvider": {"token": "canary"}}))
    settings.chmod(0o755)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    name = docker_daemon.run(
        "run", "--detach", "--publish", "127.0.0.1::8888", "--volume", f"{settings}:/settings:ro",
        "--env", "JUPYTER_CONFIG_PATH=/settings", "--cap-drop=ALL", "--security-opt=no-new-privileges",
        "slipway/notebook:1", "jupyter", "lab", "--ip=0.0.0.0", "--no-browser",
    )  # fmt: skip
    try:
        address = docker_daemon.run("port", name, "8888").splitlines()[0]
        assert _get(f"http://{address}/api/status", "wrong") == 403
        assert _get(f"http://{address}/api/status", "canary") == 200
        said = docker_daemon.run(
            "exec", name, "python3", "-c", "import os, jupyterlab as j; print(os.getuid(), j.__version__)"
        )
        assert said == f"1000 {PREFERRED['jupyterlab']}"
    finally:
        docker_daemon.run("rm", "--force", name)


def _get(url: str, token: str) -> int:
    """Ask until it answers, 60 s at most; the status."""
    end = time.monotonic() + 60
    while True:
        try:
            request = urllib.request.Request(url, headers={"Authorization": f"token {token}"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.2)


def test_a_daemon_leaves_nothing() -> None:
    """Its folder, its bridge and its mounts go when it goes."""
    with docker_daemon() as daemon:
        daemon.run("info")
        assert Path(f"/sys/class/net/{daemon.bridge}").exists()
    assert not daemon.folder.exists()
    assert not Path(f"/sys/class/net/{daemon.bridge}").exists()
    assert str(daemon.folder) not in Path("/proc/self/mountinfo").read_text()
