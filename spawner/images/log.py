r"""A CI job's log as people read it.

Promises: control sections, colours and overwritten lines are gone; the text is bounded, and keeps both its beginning
and its end; while a job runs its text only grows at the end, so that whoever has read a part reads on from there, and
what is kept when it has ended begins with what was kept before, unless the job's log was started anew.
Must not know: where logs come from.
Source: GitLab's job log sections, `section_start:<unix time>:<name>[options]\r\x1b[0K` (17.x).
"""

import re

HEAD_BYTES = 600_000  # with the end, a guess: enough for a build's whole story, small enough for a row
TAIL_BYTES = 400_000
GOES_ON = "[the log goes on; its end is shown when the job has ended, the whole of it by GitLab]\n"
_SECTION = re.compile(r"section_(?:start|end):\d+:[^\r\n\x1b]*\r?(?:\x1b\[0K)?")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def clean(raw: bytes, *, is_over: bool) -> str:
    """Return the log without control sections and escapes; of a running job, without its unfinished last line."""
    whole = raw if is_over else raw[: raw.rfind(b"\n") + 1]
    if len(whole) <= HEAD_BYTES:
        return _cleaned(whole)
    head = whole[: whole.rfind(b"\n", 0, HEAD_BYTES) + 1]
    begun = _cleaned(head) + GOES_ON
    if not is_over:
        return begun
    rest = whole[len(head) :]
    if len(rest) <= TAIL_BYTES:
        return begun + _cleaned(rest)
    tail = rest[-TAIL_BYTES:]
    kept = tail[tail.find(b"\n") + 1 :]
    return f"{begun}[{len(rest) - len(kept)} bytes are left out]\n{_cleaned(kept)}"


def _cleaned(raw: bytes) -> str:
    text = _ESCAPE.sub("", _SECTION.sub("", raw.decode("utf-8", errors="replace")))
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))
    return _CONTROL.sub("", "\n".join(lines))


def failing_lines(text: str, *, count: int = 12) -> tuple[str, ...]:
    """Return the lines that most likely say why a build failed: the last ones before the job's own epilogue."""
    lines = [line for line in text.splitlines() if line.strip()]
    ends = [n for n, line in enumerate(lines) if line.startswith(("ERROR: Job failed", "Cleaning up project"))]
    return tuple(lines[: ends[0]][-count:] if ends else lines[-count:])
