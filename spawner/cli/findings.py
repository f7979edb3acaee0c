"""What the doctor finds, and what of the documentation an installation confirms by it.

For: `spawner doctor` and its `--report`. Promises: a report names no host, person, path or secret, so that it can be
handed to anybody; a line is confirmed only where this installation is of that kind and every check that it stands on
is well.
Must not know: how anything is checked.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from urllib.parse import urlsplit

from spawner.config import Settings


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    NOTE = "note"  # works, and somebody should know
    WRONG = "wrong"
    AWAY = "away"  # cannot be reached now


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's."""

    check: str
    verdict: Verdict
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Something the documentation promises: whether an installation is of that kind, and which checks must be well."""

    words: str
    is_of: Callable[[Settings], bool]
    checks: frozenset[str]


_FORGE = frozenset({"gitlab", "token"})
LINES = (
    Line(words="a GitLab at a host name of its own", is_of=lambda found: not _path(found), checks=_FORGE),
    Line(words="a GitLab below a path", is_of=lambda found: bool(_path(found)), checks=_FORGE),
    Line(words="GitLab.com", is_of=lambda found: urlsplit(found.gitlab.url).hostname == "gitlab.com", checks=_FORGE),
    Line(
        words="a private certificate authority", is_of=lambda found: found.gitlab.ca_file is not None, checks=_FORGE
    ),
    Line(words="sign-in by browser", is_of=lambda found: bool(found.gitlab.client_id), checks=frozenset({"sign-in"})),
    Line(
        words="hooks", is_of=lambda found: found.gitlab.webhook_secret_file is not None, checks=frozenset({"gitlab"})
    ),
    Line(
        words="PostgreSQL", is_of=lambda found: found.database.url.startswith("postgresql"),
        checks=frozenset({"database"}),
    ),
    Line(words="Redis and workers", is_of=lambda found: found.redis.url is not None, checks=frozenset({"redis"})),
    Line(
        words="the runtime standalone", is_of=lambda found: found.sessions.runtime == "standalone",
        checks=frozenset({"runtime"}),
    ),
    Line(
        words="the runtime docker", is_of=lambda found: found.sessions.runtime == "docker",
        checks=frozenset({"runtime"}),
    ),
)  # fmt: skip


def report(settings: Settings, findings: Sequence[Finding], *, gitlab_version: str | None) -> str:
    """Write what this installation confirms, as Markdown."""
    verdicts: dict[str, set[Verdict]] = {}
    for finding in findings:
        verdicts.setdefault(finding.check, set()).add(finding.verdict)
    rows = [f"| {line.words} | {_standing(line, settings, verdicts)} |" for line in LINES]
    heads = [
        f"Slipway {version('slipway-spawner')}, Python {platform.python_version()}, {platform.system()}",
        f"GitLab {gitlab_version or 'of a version that no token was given to ask for'}",
    ]
    return "\n".join(["# What an installation of Slipway confirms", "", *(f"- {head}" for head in heads), "",
                      "| what the documentation says | here |", "| --- | --- |", *rows, ""])  # fmt: skip


def _standing(line: Line, settings: Settings, verdicts: dict[str, set[Verdict]]) -> str:
    if not line.is_of(settings):
        return "not of this kind"
    asked = [verdicts.get(check, set()) for check in line.checks]
    if not all(asked):
        return "not looked at: give --token-file"
    is_well = all(found <= {Verdict.OK, Verdict.NOTE} for found in asked)
    return "confirmed" if is_well else "not well: see the doctor's own lines"


def _path(settings: Settings) -> str:
    return urlsplit(settings.gitlab.url).path.strip("/")
