"""The bodies and queries of the API: what is accepted, and the words for what is not.

For: every request field has one line here, with its alias; `openapi` prints the same classes.
Promises: a body that does not fit raises FieldErrors with the reference's own sentences (marshmallow's), in
the order of the fields; a query that does not fit raises it without detail. Text is free of control characters.
Must not know: services, Flask's globals other than the request given to it.
Source of names, defaults and sentences: Renku's notebooks service 1.31.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from flask import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import UnprocessableEntity

from spawner.errors import MalformedRequest
from spawner.images.model import BuildPolicy, FallbackPolicy

M = TypeVar("M", bound=BaseModel)

# The database keeps no control characters, and neither do names, URLs and arguments.
Text = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
# Where a session sends a browser that it has let in: below its own address. A browser reads a backslash as a slash.
_LOCAL = r"^(/([^/\\\x00-\x1f\x7f][^\\\x00-\x1f\x7f]*)?)?$"
LocalPath = Annotated[str, Field(max_length=1024, pattern=_LOCAL)]
LONGEST_LOG_LINES = 100_000
LARGEST_ID = 2**31 - 1  # of a column that both databases have


class FieldErrors(UnprocessableEntity):
    """A request whose fields are wrong; `detail` names them (None for queries, as the contract has it)."""

    def __init__(self, detail: str | None) -> None:
        super().__init__()
        self.detail = detail


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=False)


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=False)


# ---------------------------------------------------------------- bodies


class ServerOptionsBody(_Strict):
    """The legacy options, matched to the smallest resource class that has as much."""

    cpu_request: float | Text | None = None
    mem_request: float | Text | None = None
    disk_request: float | Text | None = None
    gpu_request: int | None = Field(default=None, ge=0, le=LARGEST_ID)
    default_url: LocalPath | None = Field(default=None, alias="defaultUrl")
    lfs_auto_fetch: bool | None = None


class LaunchBody(_Strict):
    """`POST /servers`. The last three fields are ours."""

    namespace: Name
    project: Name
    commit_sha: Name
    branch: Name | None = None
    image: Text | None = None
    notebook: Text | None = None
    resource_class_id: int | None = Field(default=None, ge=-LARGEST_ID, le=LARGEST_ID)
    storage: float | None = Field(default=1, ge=-LARGEST_ID, le=LARGEST_ID)
    server_options: ServerOptionsBody | None = Field(default=None, alias="serverOptions")
    default_url: LocalPath | None = None
    lfs_auto_fetch: bool | None = None
    environment_variables: dict[Name, Annotated[str, Field(max_length=32768, pattern=r"^[^\x00]*$")]] = {}
    cloudstorage: list[Any] | None = Field(default=None, max_length=0)
    user_secrets: None = None
    build: BuildPolicy = BuildPolicy.WAIT
    fallback: FallbackPolicy | None = None
    runtime: Name | None = None


class PatchBody(_Lenient):
    """`PATCH /servers/{name}`. The last two fields are ours; unknown ones are ignored."""

    state: Literal["running", "hibernated"] | None = None
    resource_class_id: int | None = Field(default=None, gt=0, le=LARGEST_ID)
    start: Literal["now"] | None = None
    image: Literal["built"] | None = None


class TokenBody(_Strict):
    """`POST /api/slipway/v1/tokens`."""

    name: Annotated[
        str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$")
    ]
    expires_in_days: int | None = Field(default=None, ge=1, le=36_500)  # the settings may allow less


class ReportBody(_Lenient):
    """What an agent reports about the session it stands beside."""

    event: Literal["ready", "exited", "step", "activity"]
    message: Text = ""
    exit_code: int | None = Field(default=None, ge=-LARGEST_ID, le=LARGEST_ID)
    is_out_of_memory: bool = False
    port: int | None = Field(default=None, ge=1, le=65535)


class RedeemBody(_Lenient):
    """A one-time code that somebody brought to a session."""

    code: Name


# ---------------------------------------------------------------- queries


class ListQuery(_Lenient):
    """Exact filters of `GET /servers`; the list is whole unless a page is asked for."""

    project: Text | None = None
    namespace: Text | None = None
    branch: Text | None = None
    commit_sha: Text | None = None
    page: int | None = Field(default=None, ge=1, le=LARGEST_ID)
    per_page: int | None = Field(default=None, ge=1, le=100)


class StopQuery(_Lenient):
    """`forced` is today's name, `force` the older one."""

    forced: bool = False
    force: bool = False


class LogsQuery(_Lenient):
    """How many of the last lines of each container."""

    max_lines: int = Field(default=250, ge=0, le=LONGEST_LOG_LINES)


class ImageQuery(_Lenient):
    """The image asked about."""

    image_url: Text


class EventsQuery(_Lenient):
    """When to end, and where to begin where no `Last-Event-ID` can be sent."""

    until: Literal["ready"] | None = None
    after: Text | None = None


class RevisionQuery(_Lenient):
    """What of a project: a branch or tag, a full SHA, or (`revision`) either, as it stands in an address."""

    ref: Name | None = None
    sha: Name | None = None
    revision: Name | None = None


class AddressQuery(_Lenient):
    """What a person pastes (`address`: any GitLab page, a clone URL, a project's path), and what wins over it."""

    address: str = Field(min_length=1, max_length=2048, pattern=r"^[^\x00-\x1f\x7f]+$")
    ref: Name | None = None
    sha: Name | None = None


# ---------------------------------------------------------------- reading requests


def read_body(request: Request, model: type[M]) -> M:
    """Return the request's JSON body as `model`; another content type counts as an empty body.

    Raises MalformedRequest for what is not JSON, FieldErrors for what does not fit.
    """
    fields: Any = {}
    if request.is_json:
        content = request.get_data(cache=True)
        fields = _parse(content) if content.strip() else {}
    if not isinstance(fields, dict):
        raise FieldErrors("Field '_schema' has errors: Invalid input type.")
    try:
        return model.model_validate(fields)
    except ValidationError as exc:
        raise FieldErrors(detail_of(exc)) from exc


def read_query(request: Request, model: type[M]) -> M:
    """Return the request's query as `model`, the first value of each name; unknown names are ignored."""
    try:
        return model.model_validate(request.args.to_dict(flat=True))
    except ValidationError as exc:
        raise FieldErrors(None) from exc


def _parse(content: bytes) -> object:
    try:
        parsed: object = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise MalformedRequest("The body is not valid JSON.", remedy="Send one JSON object.") from exc
    return parsed


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)


# ---------------------------------------------------------------- words for errors

_SENTENCES: Mapping[str, str] = {
    "missing": "Missing data for required field.",
    "extra_forbidden": "Unknown field.",
    "string_type": "Not a valid string.",
    "string_unicode": "Not a valid string.",
    "int_type": "Not a valid integer.",
    "int_parsing": "Not a valid integer.",
    "int_parsing_size": "Not a valid integer.",
    "int_from_float": "Not a valid integer.",
    "float_type": "Not a valid number.",
    "float_parsing": "Not a valid number.",
    "bool_type": "Not a valid boolean.",
    "bool_parsing": "Not a valid boolean.",
    "dict_type": "Not a valid mapping type.",
    "model_type": "Invalid input type.",
    "model_attributes_type": "Invalid input type.",
    "list_type": "Not a valid list.",
    "none_required": "User secrets are not available here.",
    "too_long": "Cloud storage is not available here.",
    "string_too_long": "Longer than maximum length.",
    "string_too_short": "Shorter than minimum length 1.",
    "string_pattern_mismatch": "Control characters are not allowed.",
}


def detail_of(error: ValidationError) -> str:
    """Return `Field 'a.b' has errors: …` for every field, in order, joined by spaces."""
    found: dict[str, list[str]] = {}
    for name, sentence in _faults(error):
        sentences = found.setdefault(name, [])
        if sentence not in sentences:
            sentences.append(sentence)
    return " ".join(f"Field '{name}' has errors: {' '.join(sentences)}" for name, sentences in found.items())


def _faults(error: ValidationError) -> Iterator[tuple[str, str]]:
    for fault in error.errors(include_url=False, include_context=True):
        parts = [str(part) for part in fault["loc"] if not _is_branch_of_a_union(part)]
        if parts[0] == "environment_variables" and len(parts) > 1:
            parts = [*parts[:2], "key" if parts[-1] == "[key]" else "value"]
        if fault["input"] is None and fault["type"] != "missing":
            sentence = "Field may not be null."
        elif fault.get("ctx", {}).get("pattern") == _LOCAL:
            sentence = "Not a path, which begins with one slash."
        else:
            sentence = _SENTENCES.get(fault["type"], fault["msg"].rstrip(".") + ".")
        yield ".".join(parts)[:256], sentence


def _is_branch_of_a_union(part: str | int) -> bool:
    return isinstance(part, str) and (part in {"float", "str"} or part.startswith("constrained-"))
