"""Figures: several runs of a measurement, beside another of the same run, as a table and as JSON.

For: every bench. Promises: what is printed and what is written are the same numbers; a missed target says
"falls short"; a figure without a target is only shown.
Must not know: what is measured.
"""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS = ("flask", "gunicorn", "sqlalchemy", "python-gitlab", "requests", "psycopg")
FALLS_SHORT = "falls short"


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: `ours` and `beside` are the single runs, in `unit`.

    `beside_what` names the alternative or the limit. `met` is None where there is no target. `is_paired`: the runs of
    the two were made in turn, so that each pair met the same machine; their ratios then say more than the medians'.
    """

    name: str
    unit: str
    ours: tuple[float, ...]
    beside: tuple[float, ...] = ()
    beside_what: str = ""
    target: str = ""
    met: bool | None = None
    note: str = ""
    is_paired: bool = False

    @property
    def ratio(self) -> float | None:
        """Our median over the other's; of paired runs, the median of the pairs' ratios."""
        if not self.beside or statistics.median(self.beside) == 0:
            return None
        if self.is_paired:
            return statistics.median(ours / theirs for ours, theirs in zip(self.ours, self.beside, strict=True))
        return statistics.median(self.ours) / statistics.median(self.beside)

    def cells(self) -> tuple[str, ...]:
        """Return the line's texts, one per heading."""
        ratio = self.ratio
        verdict = {None: "", True: "met", False: FALLS_SHORT}[self.met]
        return (
            self.name,
            _shown(self.ours, self.unit),
            _spread(self.ours),
            f"{_shown(self.beside, self.unit)} ({self.beside_what})" if self.beside else self.beside_what,
            _spread(self.beside),
            "" if ratio is None else f"{ratio:.2f}",
            self.target,
            verdict,
        )

    def document(self) -> dict[str, Any]:
        """Return the line as JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": _summary(self.ours),
            "beside": _summary(self.beside) if self.beside else None,
            "beside_what": self.beside_what,
            "ratio": self.ratio,
            "target": self.target,
            "met": self.met,
            "is_paired": self.is_paired,
            "note": self.note,
        }


HEADINGS = ("measured", "ours", "min-max", "beside", "min-max", "ratio", "target", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One bench's figures and what must be said about them."""

    name: str
    job: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    machine: dict[str, Any] = field(default_factory=lambda: _machine())  # noqa: PLW0108 - defined below
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_met(self) -> bool:
        """Say whether no target was missed."""
        return all(row.met is not False for row in self.rows)

    def document(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "bench": self.name,
            "job": self.job,
            "at": self.at.isoformat(),
            "machine": self.machine,
            "is_met": self.is_met,
            "rows": [row.document() for row in self.rows],
            "notes": list(self.notes),
            "table": [list(HEADINGS), *(list(row.cells()) for row in self.rows)],
        }


def text(document: dict[str, Any]) -> str:
    """Return a report's document as lines for a terminal."""
    table: list[list[str]] = document["table"]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = [f"{document['bench']}: {document['job']}", ""]
    for number, line in enumerate(table):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    lines += ["", _machine_line(document), *(f"- {note}" for note in document["notes"])]
    return "\n".join(lines)


def markdown(document: dict[str, Any]) -> str:
    """Return a report's document as a section of a page."""
    table: list[list[str]] = document["table"]
    lines = [f"## {document['bench']}", "", f"{document['job']}.", ""]
    for number, line in enumerate(table):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |")
        if number == 0:
            lines.append("|" + " --- |" * len(line))
    lines += ["", *(f"- {note}" for note in document["notes"])]
    if document["notes"]:
        lines.append("")
    lines.append(f"{_machine_line(document)}; {document['at'][:16].replace('T', ' ')} UTC.")
    return "\n".join(lines)


def _machine() -> dict[str, Any]:
    """Return what the figures depend on: cores, load, versions."""
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "processor": _processor(),
        "python": platform.python_version(),
        "git": _said("git", "--version").removeprefix("git version "),
        "commit": _said("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"),
        **{name: metadata.version(name) for name in VERSIONS},
    }


def _machine_line(document: dict[str, Any]) -> str:
    found = document["machine"]
    versions = ", ".join(f"{name} {found[name]}" for name in ("python", "git", "flask", "gunicorn", "sqlalchemy"))
    return f"{found['cores']} cores ({found['processor']}), load {found['load']}; {versions}; commit {found['commit']}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip() or "unknown"


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "runs": len(values),
        "median": statistics.median(values),
        "minimum": min(values),
        "maximum": max(values),
        "p99": quantile(values, 0.99),
        "values": [round(value, 6) for value in values][:50],
    }


def _shown(values: Sequence[float], unit: str) -> str:
    return f"{_number(statistics.median(values))} {unit}".strip()


def _spread(values: Sequence[float]) -> str:
    return f"{_number(min(values))}-{_number(max(values))}, n={len(values)}" if len(values) > 1 else ""


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def write(document: dict[str, Any], path: Path) -> None:
    """Write JSON, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def page(folder: Path, names: Sequence[str]) -> str:
    """Return the page of the newest results in a folder; a bench without a result says so."""
    parts = [
        "# Bench results",
        (
            "Written by `scripts/bench --write-page` from the newest run of each bench; do not edit. What the benches "
            "measure and why is on the page [Performance](performance.md). “Beside” is the alternative or the limit, "
            "measured in the same run; ratios count more than milliseconds, which are this machine's."
        ),
    ]
    for name in names:
        path = folder / f"{name}.json"
        parts.append(markdown(json.loads(path.read_text("utf-8"))) if path.is_file() else f"## {name}\n\nNot run yet.")
    return "\n\n".join(parts) + "\n"
