"""What was built or reused, and why: as JSON for programs, as dotenv for later jobs, as text for people.

The JSON's fields are an interface (`slipway-report.json`); additions are free. The dotenv file keeps to what GitLab
accepts of one (https://docs.gitlab.com/ci/yaml/artifacts_reports/#artifactsreportsdotenv, 18.x): plain values, no
quotes, no line breaks. It must not know how anything was built.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.errors import BuilderError
    from builder.key import Key

REPORT_FILE = "slipway-report.json"
DOTENV_FILE = "slipway.env"


class Outcome(StrEnum):
    """What became of a build."""

    BUILT = "built"
    REUSED = "reused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of one build: where the image is, and why it is that one.

    `reference` names the commit's tag, `tags` all that were pushed, `added` what the recipe put in for the session,
    `notes` what a person should know, `seconds` the time it took, `base_digest` the image that it lies on.
    """

    outcome: Outcome
    reason: str
    key: Key
    engine: str
    commit: str
    reference: str
    digest: str
    tags: tuple[str, ...]
    seconds: float
    python: str | None = None
    packages: int | None = None
    added: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    base_digest: str = ""

    def document(self) -> dict[str, Any]:
        """Return the report as `slipway-report.json` holds it."""
        return {
            "outcome": str(self.outcome),
            "reason": self.reason,
            "commit": self.commit,
            "key": self.key.digest,
            "kind": str(self.key.kind),
            "platform": self.key.platform,
            "recipe": self.key.recipe_name,
            "engine": self.engine,
            "reference": self.reference,
            "digest": self.digest,
            "tags": list(self.tags),
            "inputs": [{"path": i.path, "mode": i.mode, "fingerprint": i.fingerprint} for i in self.key.inputs],
            "everything": self.key.everything,
            "mutable": list(self.key.mutable),
            "python": self.python,
            "packages": self.packages,
            "added": list(self.added),
            "notes": list(self.notes),
            "base_digest": self.base_digest,
            "seconds": round(self.seconds, 3),
        }

    def dotenv(self) -> str:
        """Return the variables for later jobs."""
        return f"IMAGE_REF={self.reference}\nIMAGE_DIGEST={self.digest}\nIMAGE_KEY={self.key.digest}\n"

    def summary(self) -> Iterator[str]:
        """Say it to a person, line by line."""
        yield f"{self.outcome.capitalize()} in {self.seconds:.1f} s: {self.reason}."
        yield f"  image     {self.reference}"
        yield f"  digest    {self.digest}"
        yield f"  key       {self.key.digest}"
        if self.python is not None:
            yield f"  Python    {self.python}, {self.packages} packages"
        if self.added:
            yield f"  added     {', '.join(self.added)} (a session needs them, the commit does not name them)"
        yield f"  inputs    {', '.join(found.path for found in self.key.inputs) or 'none'}"
        if self.key.everything is not None:
            yield f"  all files count: {self.key.everything}"
        for line in (*self.key.mutable, *self.notes):
            yield f"  note      {line}"


def write(report: Report, folder: Path) -> None:
    """Write the report and the dotenv file into a folder, over older ones."""
    text = json.dumps(report.document(), indent=2, sort_keys=True)
    (folder / REPORT_FILE).write_text(f"{text}\n", encoding="utf-8")
    (folder / DOTENV_FILE).write_text(report.dotenv(), encoding="utf-8")


def write_failure(folder: Path, error: BuilderError, *, commit: str, engine: str | None) -> None:
    """Write why a build failed, at which step, and the last lines it said; there is no image, and so no dotenv."""
    tail, step = getattr(error, "tail", ""), getattr(error, "step", "")
    document = {
        "outcome": str(Outcome.FAILED), "commit": commit, "engine": engine, "reason": str(error), "step": step,
        "log": tail.splitlines(),
    }  # fmt: skip
    (folder / REPORT_FILE).write_text(f"{json.dumps(document, indent=2, sort_keys=True)}\n", encoding="utf-8")
    (folder / DOTENV_FILE).unlink(missing_ok=True)
