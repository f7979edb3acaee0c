"""The default environment: what a session starts in when its commit has no environment of its own.

For: the standalone runtime, and the wiring, which names it as the default image of the kind `environment`.
Promises: the lock ships with the package; its digest changes when and only when the lock does.
Must not know: how a lock becomes an environment.
"""

import hashlib
import sys
from importlib import resources

NAME = "builtin/default-environment"


def lock() -> str:
    """Return the lock: exact versions with the hashes of their wheels, for Python 3.11 or newer."""
    return resources.files(__name__).joinpath("requirements.lock").read_text(encoding="utf-8")


def python() -> str:
    """Return the minor version it is installed on: this process's own, which is there for certain."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def digest() -> str:
    """Return `sha256:` and the hash of the lock and its Python."""
    return "sha256:" + hashlib.sha256(f"{python()}\n{lock()}".encode()).hexdigest()


def reference() -> str:
    """Return the pinned reference that stands for it wherever an image is named."""
    return f"{NAME}@{digest()}"
