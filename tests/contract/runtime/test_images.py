"""A session on an environment image: packed by the builder's own format, fetched, installed, its project editable.

Covers: the way of an image from a registry to a kernel. Leaves out: a registry's protocol (its own contract suite).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from builder import environment as format_
from builder.tags import Label
from spawner.errors import ImageUnavailable, LaunchRefused
from spawner.ports import Credential, Health, ImageKind, Login, RegistryImage, WorkloadImage
from spawner.runtimes import default_environment
from spawner.runtimes.standalone import StandaloneRuntime
from tests.contract.runtime.conftest import Bench
from tests.contract.runtime.door import Kernel, program_headers
from tests.contract.runtime.places import Place, make_repository
from tests.contract.runtime.wheels import make_wheel

_PROJECT = {
    "pyproject.toml": """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "sample"
version = "1.0"
""",
    "src/sample/__init__.py": "ANSWER = 42\n",
}


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A registry of one image, in memory."""

    packed: format_.Packed

    def find(self, reference: str, credential: Credential | None) -> RegistryImage | None:
        """Know nothing: the runtime is handed pinned references."""
        raise NotImplementedError(reference, credential)

    def tags(self, name: str, credential: Credential | None) -> Sequence[str]:
        """Know nothing."""
        raise NotImplementedError(name, credential)

    def manifest(self, reference: str, credential: Credential | None) -> bytes:
        """Return the image's manifest, if it is the one."""
        del credential
        if reference.partition("@")[2] != self.packed.digest:
            raise ImageUnavailable(f"{reference} is gone.")
        return self.packed.manifest

    def login(self, reference: str, credential: Credential | None) -> Login | None:
        """Know nobody."""
        raise NotImplementedError(reference, credential)

    def save_blob(
        self, reference: str, digest: str, target: Path, *, largest_bytes: int, credential: Credential | None
    ) -> None:
        """Write one blob."""
        del reference, credential
        content = next(blob.path.read_bytes() for blob in self.packed.blobs if blob.digest == digest)
        assert len(content) <= largest_bytes
        target.write_bytes(content)


def _packages() -> Mapping[str, tuple[str, frozenset[str]]]:
    """Return the packages of the default environment that this machine gets, as the builder locks them."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    oldest = {"python_full_version": f"{default_environment.python()}.0"}
    lines = "\n".join(line for line in default_environment.lock().splitlines() if not line.startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        text, *hashes = line.split(" --hash=sha256:")
        requirement = Requirement(text.strip())
        if requirement.marker is None or requirement.marker.evaluate(oldest):
            version = str(requirement.specifier).removeprefix("==")
            found[requirement.name] = (version, frozenset(digest.strip() for digest in hashes))
    return found


def _pack(folder: Path, *, platform: str) -> format_.Packed:
    folder.mkdir()
    wheel = make_wheel(folder / "wheels", "slipsample", "1.0")
    packages = {**_packages(), "slipsample": ("1.0", frozenset({_sha256(wheel)}))}
    environment = format_.Environment(
        python=default_environment.python(), platform=platform, recipe="python-1", key="0" * 64, project="",
        lock=format_.render_lock(packages),
    )  # fmt: skip
    (folder / "blobs").mkdir()
    return format_.pack(environment, [wheel], {Label.KIND: "environment"}, folder / "blobs")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _image(shelf: Shelf) -> WorkloadImage:
    digest = shelf.packed.digest
    return WorkloadImage(reference=f"registry.invalid/sample@{digest}", digest=digest, kind=ImageKind.ENVIRONMENT)


@pytest.fixture
def project(
    shared_root: Path, make_standalone: Callable[..., StandaloneRuntime], tmp_path: Path
) -> Iterator[tuple[Bench, Shelf]]:
    """Serve a repository with a Python project, and an image of its environment."""
    shelf = Shelf(packed=_pack(tmp_path / "image", platform=format_.this_platform()))
    bare, commits = make_repository(shared_root / f"project-{tmp_path.name}", _PROJECT)
    runtime = make_standalone(registry=shelf)
    with Place(credential="project-credential", served=bare.parents[1]) as place:
        bench = Bench(runtime=runtime, place=place, commits=commits)
        yield bench, shelf
        for owned in list(runtime.inventory()):
            runtime.stop(owned.state, grace_seconds=0)
            bench.until(owned.state, Health.GONE, within_seconds=20)


def test_an_image_becomes_a_session_with_its_project(project: tuple[Bench, Shelf]) -> None:
    """A kernel has the image's packages, those it brings as wheels, and the project itself, editable."""
    bench, shelf = project
    steps = list(bench.runtime.start(bench.workload("project", image=_image(shelf))))
    state = steps[-1].state
    bench.until(state, Health.READY)
    code = """import json, numpy, sample, slipsample
is_here = sample.__file__.endswith("/work/sample/src/sample/__init__.py")
print(json.dumps([sample.ANSWER, slipsample.VERSION, is_here]))"""
    with Kernel(state=state, headers=program_headers(bench.place, state)) as kernel:
        seen = json.loads(kernel.run(code))

    assert seen == [42, "1.0", True]
    reported = [report["message"] for report in bench.place.reports]
    assert "Installing the project itself, editable" in reported


def test_an_image_of_another_machine_is_refused(
    make_standalone: Callable[..., StandaloneRuntime], real: Bench, tmp_path: Path
) -> None:
    """An environment of another platform is refused by name, before anything is installed."""
    shelf = Shelf(packed=_pack(tmp_path / "image", platform="plan9/mips"))
    runtime = make_standalone(registry=shelf)

    with pytest.raises(LaunchRefused, match="plan9/mips"):
        list(runtime.start(real.workload("foreign", image=_image(shelf))))


def test_an_image_that_is_gone_stays_gone(
    make_standalone: Callable[..., StandaloneRuntime], real: Bench, tmp_path: Path
) -> None:
    """An image that the registry lost ends the launch in its own words."""
    shelf = Shelf(packed=_pack(tmp_path / "image", platform=format_.this_platform()))
    lost = WorkloadImage(reference="registry.invalid/sample@sha256:1", digest="sha256:1", kind=ImageKind.ENVIRONMENT)

    with pytest.raises(ImageUnavailable, match="is gone"):
        list(make_standalone(registry=shelf).start(real.workload("lost", image=lost)))
