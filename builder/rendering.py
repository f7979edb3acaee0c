"""The Python recipe as a Dockerfile: a short text that any engine builds, and that `builder init --dockerfile` writes.

Pure. Layers are ordered so that a changed requirement installs anew what it changed: system packages, then what a
session needs at the versions that go with the project's, then the project's dependencies. What is installed is first
resolved as a whole, in a stage of its own, so that the two never disagree. Indexes and certificates of the machine
that builds come as secrets (`builder.indexes`), so that they are in no layer. It must not know an engine or a registry.

Nothing is kept between builds but layers: a cache that several projects' builds write to would let one of them decide
what another installs.
"""

from __future__ import annotations

import base64
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet

from builder.recipes import OWN_FOLDER, PREFERRED, SESSION_PACKAGES, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NOTES_FOLDER = "/opt/slipway"
HOME = "/home/jovyan"
UV_VERSION = "0.13.8"
MINORS = ("3.12", "3.13", "3.11", "3.14", "3.10")  # of Python, the first that fits counts
APT_NOTE = "apt.txt is not applied"
_DOCKER_HUB = "docker.io"
_RUN = (
    "RUN --mount=type=secret,id=slipway-index,uid={uid} --mount=type=secret,id=slipway-ca,uid={uid} \\\n"
    "    [ ! -f /run/secrets/slipway-index ] || . /run/secrets/slipway-index; set -eu; \\\n    "
)
_ACCOUNT = r"""
import json, platform, re
def pins(path):
    return dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^\s;]+)", open(path).read()))
own, every = pins("/locks/project.txt"), pins("/locks/all.txt")
added = sorted(f"{name}=={every[name]}" for name in SESSION if name in every and name not in own)
count = len([line for line in open("/locks/all.txt") if line.strip() and not line.startswith((" ", "#"))])
account = {"packages": count, "added": added, "project": PROJECT}
account["python"] = ".".join(platform.python_version_tuple()[:2])
json.dump(account, open("/locks/environment.json", "w"))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRecipe:
    """What the Dockerfile is made of.

    `paths` are the files and folders that the resolver reads, all of the repository if `is_everything`; `base` is
    the image to lie on; `folder` is where `apt.txt` lies, if `has_apt`. With `has_account`, the image says in
    `environment.json` what was installed, for the report.
    """

    plan: Plan
    paths: tuple[str, ...]
    base: str
    is_everything: bool = False
    has_apt: bool = False
    folder: str = ""
    has_account: bool = True

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know; system packages are installed here."""
        return tuple(note for note in self.plan.notes if not note.startswith(APT_NOTE))


def base_image(image: Mapping[str, Any], plan: Plan, *, override: str | None, mirror: str | None) -> str:
    """Choose the image to lie on: the one asked for, the commit's, else Python's own of a version that fits.

    `mirror` is a registry, with a path if need be, that has Docker Hub's images under their own names.
    """
    base = override or str(image.get("base") or f"python:{_minor(plan.python)}-slim-bookworm")
    first, separator, rest = base.partition("/")
    is_hosted = bool(separator) and ("." in first or ":" in first or first == "localhost")
    if mirror is None or (is_hosted and first != _DOCKER_HUB):
        return base
    return f"{mirror.rstrip('/')}/{rest if is_hosted else base}"


def _minor(specifier: str) -> str:
    wanted = SpecifierSet(specifier)
    return next((minor for minor in MINORS if any(wanted.contains(f"{minor}.{patch}") for patch in (0, 99))), MINORS[0])


def container_dockerfile(recipe: ContainerRecipe) -> str:
    """Write the recipe's Dockerfile."""
    return "\n".join([*_base_stage(recipe), "", *_lock_stage(recipe), "", *_final_stage(recipe), ""])


def _base_stage(recipe: ContainerRecipe) -> Iterator[str]:
    yield f"FROM {recipe.base} AS base"
    yield "USER root"
    yield (
        "RUN command -v git >/dev/null || { apt-get update && apt-get install -y --no-install-recommends \\\n"
        "    git ca-certificates && rm -rf /var/lib/apt/lists/*; }"
    )
    if recipe.has_apt:
        yield f"COPY {_words(_within(recipe.folder, 'apt.txt'))} {NOTES_FOLDER}/apt.txt"
        yield (
            f"RUN apt-get update && sed 's/#.*//' {NOTES_FOLDER}/apt.txt | xargs -r apt-get install -y \\\n"
            "    --no-install-recommends && rm -rf /var/lib/apt/lists/*"
        )
    pip = f"python3 -m pip install --quiet --no-cache-dir uv=={UV_VERSION}"
    yield f"{_RUN.format(uid=0)}command -v uv >/dev/null || {pip}"
    yield (
        "RUN getent passwd 1000 >/dev/null || \\\n"
        f"    useradd --uid 1000 --gid 100 --create-home --home-dir {HOME} jovyan; \\\n"
        f"    mkdir -p {HOME} {NOTES_FOLDER} /opt/python /build /locks; \\\n"
        f"    chown 1000:100 {HOME} /opt/python /build /locks"
    )
    yield (
        f"ENV HOME={HOME} VIRTUAL_ENV=/opt/python PATH=/opt/python/bin:$PATH \\\n"
        "    UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1"
    )
    yield "USER 1000"
    wanted = f"--python {shlex.quote(recipe.plan.python or 'python3')}"
    yield f"{_RUN.format(uid=1000)}uv venv --quiet --allow-existing {wanted} /opt/python"


def _lock_stage(recipe: ContainerRecipe) -> Iterator[str]:
    """Resolve: the project's own dependencies, all with what a session needs, and what of that a session needs."""
    yield "FROM base AS lock"
    yield "WORKDIR /build"
    if recipe.is_everything:
        yield "COPY --chown=1000:100 . /build/"
    else:
        yield from (f"COPY --chown=1000:100 {_words(path)} /build/{path}" for path in recipe.paths)
    steps = " \\\n    ".join(f"{step};" for step in _lock_steps(recipe))
    yield f"{_RUN.format(uid=1000)}{steps.removesuffix(';')}"


def _lock_steps(recipe: ContainerRecipe) -> Iterator[str]:
    plan = recipe.plan
    for path, text in plan.written.items():
        lines = " ".join(shlex.quote(line) for line in text.splitlines())
        yield f"mkdir -p {shlex.quote(str(PurePosixPath(path).parent))}"
        yield f"printf '%s\\n' {lines} >{shlex.quote(path)}" if lines else f": >{shlex.quote(path)}"
    if plan.exported:
        yield f"mkdir -p {OWN_FOLDER}"
        yield (
            "uv export --quiet --frozen --no-emit-project --no-header --no-annotate --no-hashes --no-editable "
            f"--output-file {shlex.quote(plan.inputs[0])}"
        )
    options = [*plan.inputs, *(part for path in plan.constraints for part in ("--constraint", path))]
    options += [part for extra in plan.extras for part in ("--extra", extra)]
    asked = "".join(f"{shlex.quote(option)} " for option in options)
    preferred = " ".join(f"{name}=={version}" for name, version in PREFERRED.items())
    session = " ".join(shlex.quote(line) for line in (*SESSION_PACKAGES, "pip", *plan.build_requires))
    yield "lock='uv pip compile --quiet --no-header --no-annotate --python /opt/python/bin/python'"
    yield "pins='^[A-Za-z0-9._-]+=='"
    yield f"printf '%s\\n' {session} >/locks/session.in"
    yield f"$lock {asked}-o /locks/project.txt" if plan.inputs else ": >/locks/project.txt"
    yield f"{{ printf '%s\\n' {preferred}; grep -E \"$pins\" /locks/project.txt || true; }} >/locks/all.txt"
    yield f"$lock {asked}/locks/session.in -o /locks/all.txt"
    yield 'grep -E "$pins" /locks/all.txt >/locks/pins.txt'
    yield "$lock /locks/session.in --constraint /locks/pins.txt -o /locks/session.txt"
    if recipe.has_account:
        account = f"SESSION = {list(SESSION_PACKAGES)!r}; PROJECT = {plan.project!r}{_ACCOUNT}"
        yield f"printf %s {base64.b64encode(account.encode()).decode()} | base64 -d | python3 -"


def _final_stage(recipe: ContainerRecipe) -> Iterator[str]:
    install = "uv pip install --quiet --compile-bytecode --requirement"
    yield "FROM base"
    yield f"WORKDIR {HOME}"
    yield f"COPY --from=lock /locks/session.txt {NOTES_FOLDER}/session.txt"
    yield f"{_RUN.format(uid=1000)}{install} {NOTES_FOLDER}/session.txt"
    if _has_local(recipe):
        yield "COPY --from=lock --chown=1000:100 /build /build"
    account = " /locks/environment.json" if recipe.has_account else ""
    yield f"COPY --from=lock /locks/all.txt{account} {NOTES_FOLDER}/"
    yield f"{_RUN.format(uid=1000)}cd /build && {install} {NOTES_FOLDER}/all.txt"
    yield "EXPOSE 8888"
    yield 'CMD ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser"]'


def _has_local(recipe: ContainerRecipe) -> bool:
    """Tell whether something may be installed from the commit itself, and not only from indexes."""
    declaring = (".txt", ".toml", ".lock", "Pipfile", ".cfg", ".py", ".in")
    return recipe.is_everything or any(not path.endswith(declaring) for path in recipe.paths)


def _words(path: str) -> str:
    return path if " " not in path else path.replace(" ", "\\ ")


def _within(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
