"""Image references: parse what people write, print what registries want.

Promises: `parse(text).name` always has a host; Docker Hub's short forms are completed as Docker does.
Must not know: whether an image exists.
Source: distribution/reference, grammar of v0.6 (2024): `[host[:port]/]path[:tag][@digest]`.
"""

import re
from dataclasses import dataclass

from spawner.errors import ImageUnparsable, foreign

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DOCKER_HUB = "registry-1.docker.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A parsed reference; `tag` is `latest` when neither tag nor digest was written."""

    host: str
    path: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """Host and repository, without tag or digest."""
        return f"{self.host}/{self.path}"

    def __str__(self) -> str:
        """The whole reference as registries take it; a digest beats a tag."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse(text: str) -> Reference:
    """Parse an image reference; raises ImageUnparsable naming it."""
    rest, _, digest = text.strip().partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise _unparsable(text, "its digest is not sha256: and 64 hexadecimal digits")
    rest, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _unparsable(text, "its tag has characters that tags cannot have")
    host, path = _split_host(rest)
    if not _HOST.fullmatch(host) or not _PATH.fullmatch(path):
        raise _unparsable(text, "the name must be lower case: host/path:tag")
    return Reference(host=host, path=path, tag=tag or (None if digest else "latest"), digest=digest or None)


def _split_tag(text: str) -> tuple[str, str | None]:
    head, slash, last = text.rpartition("/")
    name, colon, tag = last.partition(":")
    return f"{head}{slash}{name}", tag if colon else None


def _split_host(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return DOCKER_HUB, text if slash else f"library/{text}"


def _unparsable(text: str, why: str) -> ImageUnparsable:
    return ImageUnparsable(
        f"The image reference '{foreign(text, limit=120)}' does not parse: {why}.",
        remedy="Write it as host/group/project:tag or host/group/project@sha256:….",
    )
