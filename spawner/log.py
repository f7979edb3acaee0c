"""Logs: structlog, set up once per process.

For: entry points call `configure`; every other module asks `get_logger(__name__)` for its logger.
Promises: one line per event, readable on a terminal and JSON elsewhere; tokens of GitLab, `Authorization`
values and credentials within URLs are masked wherever in an event they stand, tracebacks included; logs of
libraries come out in the same form. Nothing is configured at import.
Must not know: settings, what is logged.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

MASK = "[masked]"

_SECRET_NAMES = re.compile(r"(authorization|token|secret|password|cookie|credential|private[-_]key)s?$", re.IGNORECASE)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # GitLab's token prefixes, and longer texts under prefixes of newer releases.
    # Source: GitLab "Token overview", "Token prefixes", 17.x.
    (re.compile(r"\bgl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|wt|soat|ffct)-[A-Za-z0-9_.=-]{4,}"), MASK),
    (re.compile(r"\bgl[a-z]{2,8}-[A-Za-z0-9_.=-]{20,}"), MASK),
    # Ours: a session's credential; a hook's signing key (Standard Webhooks).
    (re.compile(r"\b(?:slws_|whsec_)[A-Za-z0-9_.+/=-]{4,}"), MASK),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {MASK}"),
    (re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?)(?!(?:bearer|basic)\s)[^\s'\",}]+"), rf"\1{MASK}"),
    # JSON Web Tokens: three base64url parts, the first of which is a JSON object.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*"), MASK),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@:]*:[^/\s@]+@"), rf"\1{MASK}@"),
    (re.compile(r"(?i)([?&](?:private_token|access_token|job_token|refresh_token|code)=)[^&\s'\"]+"), rf"\1{MASK}"),
)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of a module; it becomes real at its first use, so this is safe at import."""
    return cast("FilteringBoundLogger", structlog.stdlib.get_logger(name))


def masked(text: str) -> str:
    """Return the text without anything that looks like a secret."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def mask_event(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask every value of an event, however deep; a structlog processor."""
    del logger, method
    for name in event:
        event[name] = _masked_value(name, event[name])
    return event


def _masked_value(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return MASK if value and _SECRET_NAMES.search(name) else masked(value)
    if isinstance(value, bytes):
        return _masked_value(name, value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {key: _masked_value(str(key), each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_masked_value(name, each) for each in value]
    if isinstance(value, BaseException):
        return masked(repr(value))
    return value


def configure(*, level: str = "INFO", form: str = "auto", stream: TextIO | None = None) -> None:
    """Set up logging of this process; may be called again.

    `form` is `console`, `json` or `auto`: console on a terminal, JSON elsewhere. `stream` is standard error.
    """
    out = sys.stderr if stream is None else stream
    is_console = form == "console" or (form == "auto" and out.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Any] = (
        [structlog.processors.format_exc_info, mask_event, structlog.dev.ConsoleRenderer(colors=out.isatty())]
        if is_console
        else [structlog.processors.format_exc_info, mask_event, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("urllib3", "alembic", "kombu", "amqp", "werkzeug", "celery"):
        logging.getLogger(name).setLevel(logging.WARNING)
