r"""A CI job's log as people read it.

Promises: control sections, colours and overwritten lines are gone; the text is bounded; cleaning a longer log
of the same job gives a text that starts with the text before, unless the job's log was started anew.
Must not know: where logs come from.
Source: GitLab's job log sections, `section_start:<unix time>:<name>[options]\r\x1b[0K` (17.x).
"""

import re

LOG_LIMIT_BYTES = 1_000_000  # a guess: enough for a build's whole story, small enough for a row
_SECTION = re.compile(r"section_(?:start|end):\d+:[^\r\n\x1b]*\r?(?:\x1b\[0K)?")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def clean(raw: bytes) -> str:
    """Return the log without control sections and escapes; an unfinished last line is left for the next look."""
    text = _SECTION.sub("", raw[:LOG_LIMIT_BYTES].decode("utf-8", errors="replace"))
    text = _ESCAPE.sub("", text)
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
    cleaned = _CONTROL.sub("", "\n".join(lines))
    if len(raw) > LOG_LIMIT_BYTES:
        cleaned += "\n[the log goes on; the rest is kept by GitLab only]\n"
    return cleaned


def failing_lines(text: str, *, count: int = 12) -> tuple[str, ...]:
    """Return the lines that most likely say why a build failed: the last ones before the job's own epilogue."""
    lines = [line for line in text.splitlines() if line.strip()]
    ends = [n for n, line in enumerate(lines) if line.startswith(("ERROR: Job failed", "Cleaning up project"))]
    return tuple(lines[: ends[0]][-count:] if ends else lines[-count:])
