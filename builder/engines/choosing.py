"""Which engine builds: the one asked for, else the first that is present on this machine.

It promises to say what to install where there is none. The `environment` engine makes another kind of image and is
not among these.
"""

from __future__ import annotations

import shutil
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from builder.engines.buildah import PROGRAM as BUILDAH
from builder.engines.buildah import Buildah
from builder.engines.docker import Docker, find_docker
from builder.errors import UsageError

if TYPE_CHECKING:
    from builder.engines.containers import Engine, Workplace


class EngineName(StrEnum):
    """The engines that make container images, in the order in which they are looked for."""

    BUILDAH = "buildah"
    DOCKER = "docker"


def choose(asked: str | None) -> EngineName:
    """Choose an engine. UsageError if none is present, or not the one asked for."""
    wanted = list(EngineName) if asked is None else [EngineName(asked)]
    found = next((name for name in wanted if _is_present(name)), None)
    if found is None:
        raise UsageError(
            f"No {' and no '.join(wanted)} is installed here: a container image needs one of them to be built with."
        )
    return found


def open_engine(name: EngineName, place: Workplace) -> Engine:
    """Make an engine ready to work in an empty, private folder."""
    match name:
        case EngineName.BUILDAH:
            return Buildah(place)
        case EngineName.DOCKER:
            return Docker(place)
        case _:
            assert_never(name)


def _is_present(name: EngineName) -> bool:
    match name:
        case EngineName.BUILDAH:
            return shutil.which(BUILDAH) is not None
        case EngineName.DOCKER:
            return find_docker() is not None
        case _:
            assert_never(name)
