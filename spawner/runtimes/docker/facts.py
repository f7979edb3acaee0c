"""What a session must know of its image: the user, the entrypoint, the variables.

For: the runtime and the container it makes.
Promises: pure; a session's user is a number and never root's.
Must not know: the daemon, workloads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spawner.errors import LaunchRefused

UID_LABEL = "io.slipway.uid"
_USUAL_UID = 1000  # jovyan's, in every image of Jupyter's and Renku's
_LARGEST_UID = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What a container of an image is made with. `user` is numeric, `uid` or `uid:gid`."""

    user: str
    entrypoint: tuple[str, ...]
    variables: Mapping[str, str]

    @property
    def uid(self) -> int:
        """The user id everything of the session runs under."""
        return int(self.user.partition(":")[0])

    @property
    def gid(self) -> int:
        """The group of the files we add."""
        return int(self.user.partition(":")[2] or self.uid)


def facts_of(described: Mapping[str, Any]) -> ImageFacts:
    """Return what the daemon's description of an image says; raises LaunchRefused for an entrypoint in one word."""
    config = described.get("Config") or {}
    entrypoint = config.get("Entrypoint") or []
    if not isinstance(entrypoint, list):
        raise LaunchRefused("This image's entrypoint is no list.", remedy="Build it anew with a current builder.")
    labels = config.get("Labels") or {}
    pairs = (variable.partition("=") for variable in config.get("Env") or ())
    return ImageFacts(
        user=user(str(config.get("User") or ""), label=str(labels.get(UID_LABEL, ""))),
        entrypoint=tuple(str(word) for word in entrypoint),
        variables={name: value for name, _, value in pairs},
    )


def user(named: str, *, label: str) -> str:
    """Return the numeric user of a session: the image's own, else its label's, else the usual one; never root."""
    uid, _, gid = named.partition(":")
    if _is_person(uid):
        return f"{uid}:{gid}" if _is_person(gid) else uid
    return label if _is_person(label) else str(_USUAL_UID)


def _is_person(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= _LARGEST_UID
