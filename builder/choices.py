"""What `builder build` may be told about a container image, and the maker that comes of it.

The options are one list, so that the command and its reference page agree. It promises that what would change the
result without the commit saying so is known as such (`Options.is_own`), and that no value of a secret is an argument.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from builder.build import ENGINE, EnvironmentMaker, Maker
from builder.container import ContainerMaker, Options
from builder.engines.choosing import EngineName, choose
from builder.engines.containers import Network
from builder.entries import Kind
from builder.errors import UsageError, capped
from builder.settings import SETTINGS_FILE, image_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.trees import GitTree

Command = TypeVar("Command", bound="Callable[..., Any]")
AUTO = "auto"  # no engine in particular: what the commit asks for, with the first that is here
ENGINES = (AUTO, ENGINE, *(str(name) for name in EngineName))
_OPTIONS = (
    click.option("--build-arg", "arguments", multiple=True, metavar="NAME=VALUE",
                 help="An argument besides the commit's; implies --no-reuse."),
    click.option("--secret", "secrets", multiple=True, metavar="ID=FILE",
                 help="A file that a step may mount; it is in no layer."),
    click.option("--base", metavar="IMAGE", help="Another base image than the commit's; implies --no-reuse."),
    click.option("--base-mirror", "mirror", metavar="HOST[/PATH]", envvar="SLIPWAY_BASE_MIRROR",
                 help="Fetch Docker Hub's base images from here, where they have the same names."),
    click.option("--network", type=click.Choice([str(name) for name in Network]), default=str(Network.DEFAULT),
                 envvar="SLIPWAY_BUILD_NETWORK", help="What the steps of a build may reach."),
    click.option("--layer-cache/--no-layer-cache", "has_cache", default=True,
                 help="Keep layers in the registry for later builds."),
)  # fmt: skip


def container_options(command: Command) -> Command:
    """Add the options about container images to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen_kind(kind: str | None, engine: str | None, source: GitTree) -> Kind:
    """Decide what is made: what was asked for, what the engine makes, else the first kind that the commit names."""
    if kind is not None:
        return Kind(kind)
    if engine is not None:
        return Kind.ENVIRONMENT if engine == ENGINE else Kind.CONTAINER
    has_settings = any(entry.name == SETTINGS_FILE for entry in source.tree(""))
    kinds = image_settings(source.read(SETTINGS_FILE) if has_settings else None).kinds
    return kinds[0] if kinds else Kind.ENVIRONMENT


def chosen_maker(kind: Kind, engine: str | None, *, is_fresh: bool, container: dict[str, Any]) -> Maker:
    """Choose who makes an image of a kind. UsageError if nobody here can, or an option does not go with it."""
    if engine is not None and (engine == ENGINE) is not (kind is Kind.ENVIRONMENT):
        raise UsageError(f"The engine {engine} makes no {kind} images; leave --kind or --engine out.")
    options = Options(
        arguments=dict(_pairs(container["arguments"], "--build-arg NAME=VALUE")), base=container["base"],
        mirror=container["mirror"], secrets=_files(container["secrets"]), network=Network(container["network"]),
        has_cache=container["has_cache"], is_fresh=is_fresh,
    )  # fmt: skip
    if kind is Kind.CONTAINER:
        return ContainerMaker(choose(engine), options)
    if options.is_own or options.secrets:
        raise UsageError("--build-arg, --base and --secret are for container images: add --kind container.")
    return EnvironmentMaker()


def present_engine() -> str:
    """Name the engine that would build a container image here; `none` if there is none."""
    try:
        return str(choose(None))
    except UsageError:
        return "none"


def _pairs(texts: Sequence[str], form: str) -> list[tuple[str, str]]:
    for text in texts:
        if "=" not in text or text.startswith("="):
            raise UsageError(f"“{capped(text)}” is not understood: write {form}.")
    return [(name, value) for name, _, value in (text.partition("=") for text in texts)]


def _files(texts: Sequence[str]) -> dict[str, Path]:
    found = {name: Path(value) for name, value in _pairs(texts, "--secret ID=FILE")}
    for name, path in found.items():
        if not path.is_file():
            raise UsageError(f"The file of the secret {capped(name)} cannot be read.")
    return found
