"""The Dockerfile that `builder init --dockerfile` drafts: the recipe's own, to be changed by whoever asked for it.

It promises to write over nothing. It must not know engines.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from builder.container import recipe_of
from builder.entries import Kind
from builder.folder import Folder
from builder.key import DOCKERFILE_RECIPE, environment_key
from builder.rendering import container_dockerfile

if TYPE_CHECKING:
    from pathlib import Path

DOCKERFILE = "Dockerfile"
DOCKERFILE_HEAD = """\
# Written by `builder init --dockerfile`, and yours from here on: what it copies decides when an image is built anew.
# It needs nothing but an engine: `docker build .` works. It ends as a numeric user and listens on 8888, as a session
# expects. The secrets are this machine's package index and certificates; where there are none, none are needed.
"""


def write_dockerfile(folder: Path) -> bool:
    """Write the Dockerfile of the recipe that would build this folder; False where there is one already.

    NoRecipeError or ProjectError where it declares nothing that can be built, or what cannot be followed.
    """
    tree = Folder(folder)
    key = environment_key(tree.tree, tree.read, kind=Kind.CONTAINER)
    if key.recipe == DOCKERFILE_RECIPE:
        return False
    with (folder / DOCKERFILE).open("x", encoding="utf-8") as file:
        recipe = dataclasses.replace(recipe_of(folder, key), has_account=False)
        file.write(f"{DOCKERFILE_HEAD}{container_dockerfile(recipe)}")
    return True
