"""What a Binder link names: `gl/<namespace%2Fproject>/<ref>?urlpath=…`, as badges all over the world have it. Pure.

Promises: a project of ours, a revision and a file of it, or InvalidInput; whatever else a link asks to be opened (a
program, another repository to be pulled) is left out: the session then opens where it always opens.
Must not know: Flask, services, which revisions exist.
Source: https://mybinder.readthedocs.io/en/latest/howto/user_interface.html and BinderHub's `gl` and `git` providers
(2026-04).
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from spawner.errors import InvalidInput
from spawner.sessions.addresses import Destination, Reading, parse_pasted, parse_path

GITLAB, GIT = "gl", "git"  # Binder's names of providers
_DEFAULT_REF = "HEAD"
# What Binder's links open, before the file's own path.
_OPENERS = re.compile(r"(?:doc/tree|lab/tree|tree|notebooks|edit|retro/notebooks|voila/render)/(?P<path>.+)")


def parse_spec(provider: str, spec: str, forge_urls: Sequence[str]) -> Destination:
    """Read `<project>/<ref>` as Binder writes it, each percent-encoded whole; raises InvalidInput.

    A proxy may have decoded the project's slashes: the ref is then the last segment.
    """
    first, _, rest = spec.strip("/").partition("/")
    if provider == GIT:
        project = parse_pasted(unquote(first), forge_urls).project
    elif provider == GITLAB:
        if "/" not in unquote(first):
            first, _, rest = spec.strip("/").rpartition("/")
        project = parse_path(unquote(first)).project
    else:
        raise InvalidInput(
            f"This service launches projects of {forge_urls[0]} only.", remedy="Use a link of `/v2/gl/`."
        )
    revision = unquote(rest)
    if revision in {"", _DEFAULT_REF}:
        return Destination(project=project)
    if any(part in {"", ".", ".."} for part in revision.split("/")):
        raise InvalidInput("This link names no branch, tag or commit.", remedy="Mend what follows the project in it.")
    return Destination(project=project, readings=(Reading(revision=revision),), page=f"tree/{revision}")


def file_of(query: Mapping[str, str]) -> str:
    """Return the file that a Binder link opens; empty for none, or for what is no file."""
    for name in ("filepath", "labpath"):
        if query.get(name):
            return query[name].strip("/")
    found = _OPENERS.fullmatch(re.split("[?#]", query.get("urlpath", ""), maxsplit=1)[0].strip("/"))
    return found["path"] if found is not None else ""
