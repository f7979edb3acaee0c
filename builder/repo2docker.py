"""Stacks that our own recipe does not know (conda, R, Julia): the Dockerfile and context that repo2docker assembles.

We do not rewrite repo2docker (https://repo2docker.readthedocs.io): its buildpack for the staged files says how they
are installed; only where and as whom is fixed, so that equal inputs give equal images. It promises to say how to get
it where it is missing. Needs the extra `builder-repo2docker`.
"""

from __future__ import annotations

import contextlib
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import BuildFailedError, ProjectError, UnavailableError, capped

if TYPE_CHECKING:
    from collections.abc import Mapping

ARGUMENTS: Mapping[str, str] = {"NB_USER": "jovyan", "NB_UID": "1000"}
REPOSITORY = "/opt/slipway/repository"  # where the staged files lie in the image: one place for every project
_OWN_FILES = ("repo2docker-entrypoint", "python3-login")  # that its Dockerfile copies from the context's top


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A Dockerfile's text, the folder it copies from, the arguments it wants, and what chose it (`conda`, …)."""

    dockerfile: str
    context: Path
    arguments: Mapping[str, str]
    buildpack: str


def assemble(staged: Path, context: Path, *, platform: str, base: str | None) -> Assembled:
    """Let repo2docker say how staged files are built, and lay its context into an empty folder.

    BuildFailedError where repo2docker is missing, ProjectError where it does not understand the files,
    UnavailableError where it cannot look up a release.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of what it imports
            from repo2docker.app import Repo2Docker  # noqa: PLC0415 - heavy, and only these stacks need it
            from repo2docker.buildpacks import base as package  # noqa: PLC0415 - as above
    except ImportError as error:
        raise BuildFailedError(
            "What this commit declares is built by repo2docker, which is not installed where the build runs: "
            "install slipway-spawner[builder-repo2docker]."
        ) from error
    application = Repo2Docker()
    with contextlib.chdir(staged):  # its buildpacks read the working directory
        pack = _chosen(application, base or str(application.base_image))
        pack.platform = platform
        try:
            text = str(pack.render(dict(ARGUMENTS)))
            for source in sorted(pack.get_build_script_files()):
                name, path = pack.generate_build_context_filename(source)
                (context / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, context / name)
                shutil.copymode(path, context / name)
        except (OSError, RuntimeError) as error:  # it looks up which releases of R and Julia there are
            raise UnavailableError(f"repo2docker could not look up what it needs: {capped(str(error))}") from error
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ProjectError(f"repo2docker does not understand this commit: {capped(str(error))}.") from error
    for name in _OWN_FILES:
        shutil.copy(Path(str(package.HERE)) / name, context / name)
    shutil.copytree(staged, context / "src", symlinks=True)
    arguments = {**ARGUMENTS, "REPO_DIR": REPOSITORY}
    return Assembled(dockerfile=text, context=context, arguments=arguments, buildpack=type(pack).__name__)


def _chosen(application: Any, base: str) -> Any:
    for kind in application.buildpacks:
        pack = kind(base) if kind.__name__ != "LegacyBinderDockerBuildPack" else kind()
        if pack.detect():
            return pack
    return application.default_buildpack(base)
