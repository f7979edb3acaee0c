"""What suites about containers share: base images, a registry that wants tokens, a Docker daemon.

For: any suite; registered once for all. Each is made when a test asks for it, one per run (per worker of a parallel
run); images are made once per machine (`bases`).
"""

from collections.abc import Iterator

import pytest

from tests.containers import bases
from tests.containers.daemon import Daemon
from tests.containers.daemon import docker_daemon as running_daemon
from tests.containers.layout import Image
from tests.containers.registry import Guarded, guarded_registry


@pytest.fixture(scope="session")
def container_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A registry that checks tokens: ada may push, eve may only pull."""
    with guarded_registry(tmp_path_factory.mktemp("container-registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[Daemon]:
    """A Docker daemon of this run's own."""
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def tiny_image() -> Image:
    """An image of busybox."""
    return bases.tiny()


@pytest.fixture(scope="session")
def python_image() -> Image:
    """An image of Debian with Python, Git and uv."""
    return bases.python()


@pytest.fixture(scope="session")
def notebook_image() -> Image:
    """An image with JupyterLab that a session can run."""
    return bases.notebook()
