"""A GitLab with a runner that has `builder`, a package index, and a `docker` for jobs that ask for one."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawner.testing.gitlab import StandIn
from tests.unit.builder.index import Index, package_index

# As much of Docker's command line as a build job of Renku's uses; what it pushes is a real image to the real registry.
_DOCKER = """\
#!{python}
import pathlib, sys
sys.path.insert(0, {root!r})
from builder.oci import Credentials, RegistryClient
from tests.contract.template.containers import push_container
login = pathlib.Path({home!r}, "login")
match sys.argv[1:]:
    case ["login", "-u", user, "-p", password, address]:
        login.write_text(chr(10).join([user, password, address.partition("://")[2]]))
    case ["build", "--tag", tag, "."]:
        assert pathlib.Path("Dockerfile").is_file()
    case ["push", tag]:
        user, password, host = login.read_text().split(chr(10))
        push_container(tag, Credentials(username=user, password=password), token_host={gitlab!r} or host)
    case other:
        sys.exit(f"docker: {{other}} is more than this one does")
"""


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    """The packages that there are."""
    with package_index() as found:
        yield found


@pytest.fixture(scope="module")
def runner_stand_in(tmp_path_factory: pytest.TempPathFactory, index: Index) -> Iterator[StandIn]:
    """A stand-in whose jobs find `builder` and `docker`, and that index."""
    folder = tmp_path_factory.mktemp("template")
    programs = folder / "bin"
    programs.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        path = [str(programs), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        patch.setenv("PATH", os.pathsep.join(path))
        patch.setenv("UV_DEFAULT_INDEX", index.url)
        patch.setenv("UV_CACHE_DIR", str(folder / "uv-cache"))
        for name in ("UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
            patch.delenv(name, raising=False)
        with StandIn.start(data=folder / "gitlab") as started:
            root = str(Path(__file__).parents[3])
            host = started.url.partition("://")[2]
            text = _DOCKER.format(python=sys.executable, root=root, home=str(folder), gitlab=host)
            (programs / "docker").write_text(text)
            (programs / "docker").chmod(0o755)
            yield started
