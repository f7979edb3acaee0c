"""Images that this runtime can install: an environment image of a registry, or the default that ships with us.

For: the runtime; the one place that knows the builder's format.
Promises: what is handed on was checked by the builder's own reader; a registry's failure keeps its meaning.
Must not know: where environments are kept, sessions.
"""

from collections.abc import Callable
from pathlib import Path

from builder import environment as format_
from builder.errors import FormatError
from spawner.errors import LaunchRefused
from spawner.ports import Registry, WorkloadImage
from spawner.runtimes import default_environment
from spawner.runtimes.standalone.installing import Unpack, Unpacked


def digest_of(image: WorkloadImage | None) -> str:
    """Return the digest that an image's environment is kept under; the default's when there is no image."""
    return default_environment.digest() if _is_default(image) or image is None else image.digest


def unpacker(image: WorkloadImage | None, registry: Registry) -> Unpack:
    """Return what writes an image's lock and wheels into a folder.

    It raises LaunchRefused for something that is not an environment of this machine.
    """
    if image is None or _is_default(image):
        return _unpack_default
    return _unpacker(image, registry)


def _is_default(image: WorkloadImage | None) -> bool:
    if image is None or not image.reference.startswith("builtin/"):
        return False
    if image.reference.partition("@")[0] != default_environment.NAME:
        raise LaunchRefused(f"There is no environment '{image.reference}' in this release.", remedy="Name another.")
    return True


def _unpack_default(folder: Path) -> Unpacked:
    lock = folder / "requirements.lock"
    lock.write_text(default_environment.lock(), encoding="utf-8")
    return Unpacked(python=default_environment.python(), lock=lock, wheels=None, project=None)


def _unpacker(image: WorkloadImage, registry: Registry) -> Callable[[Path], Unpacked]:
    def fetch(digest: str, target: Path, largest_bytes: int) -> None:
        registry.save_blob(
            image.reference, digest, target, largest_bytes=largest_bytes, credential=image.pull_credential
        )

    def unpack(folder: Path) -> Unpacked:
        manifest = registry.manifest(image.reference, image.pull_credential)
        try:
            found = format_.unpack(manifest, fetch, folder)
        except FormatError as exc:
            raise LaunchRefused(
                f"{image.reference} cannot be started here: {exc}", remedy="Build it again for this runtime."
            ) from exc
        if found.platform != format_.this_platform():
            raise LaunchRefused(
                f"This environment is for {found.platform}; this machine is {format_.this_platform()}.",
                remedy="Build it on a machine of this kind.",
            )
        wheels = folder / format_.WHEELS_FOLDER
        return Unpacked(
            python=found.python,
            lock=folder / format_.LOCK_FILE,
            wheels=wheels if wheels.is_dir() else None,
            project=found.project,
        )

    return unpack
