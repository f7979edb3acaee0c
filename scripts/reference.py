"""Writes the pages of docs/reference that the code says better than a person.

They are the commands, the configuration, the HTTP API, and the inputs of the CI template.

For: `scripts/docs`; `tests/meta` asks that what is committed is what this would write.
Promises: needs no service, no database, no network; the same code gives the same pages.
Must not know: what any of it does.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import yaml

from builder.cli import cli as builder
from spawner import config
from spawner.api import openapi
from spawner.cli import COMMANDS
from spawner.cli import main as spawner
from spawner.cli.exits import ExitCode
from spawner.context import EdgeOptions, ForgeAddress, NoAnnouncements
from spawner.http import create_app

if TYPE_CHECKING:
    from flask import Flask

    from spawner.services import Services

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
TEMPLATE = ROOT / "gitlab-ci-templates" / "image-build.gitlab-ci.yml"
_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "wrong usage",
    ExitCode.NO_RIGHT: "not signed in, or no right",
    ExitCode.NOT_FOUND: "not found",
    ExitCode.WAITED_TOO_LONG: "waited too long",
    ExitCode.UNAVAILABLE: "a dependency is unavailable",
    ExitCode.INTERRUPTED: "interrupted",
}


def pages() -> dict[str, str]:
    """Return every generated page by its file name."""
    document = api_document()
    return {
        "commands.md": commands_page(),
        "ci-template.md": template_page(TEMPLATE.read_text(encoding="utf-8")),
        "configuration.md": config.reference(),
        "api.md": api_page(document),
        "openapi.json": json.dumps(document, indent=1) + "\n",
    }


def template_page(template: str) -> str:
    """Return the inputs of the CI template, and the jobs that it defines."""
    header, body = yaml.safe_load_all(template)
    lines = [
        "# The CI template",
        "",
        "Generated from `gitlab-ci-templates/image-build.gitlab-ci.yml`. How it is used:",
        "[add the button](../how-to/add-the-button.md). No input changes what is built: that is in the commit.",
        "",
        *input_table(header["spec"]["inputs"]),
        "",
        "| job | when |",
        "| --- | --- |",
    ]
    name = next(iter(body))
    for job, told in body.items():
        when = "always" if job == name else "with `spawner_url`" + (", by hand" if "stop" in job else "")
        lines.append(f"| `{job.replace(name, '<job_name>')}` | {when}; {_limits(told)} |")
    return "\n".join([*lines, "", *_ARTIFACTS]) + "\n"


def input_table(inputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of inputs."""
    head = ["| input | default | what it is |", "| --- | --- | --- |"]
    return [*head, *(_input(name, told) for name, told in inputs.items())]


_ARTIFACTS = (
    "The job leaves `slipway-report.json` (what was built or reused, and why) as an artifact, and `IMAGE_REF`,",
    "`IMAGE_DIGEST` and `IMAGE_KEY` as variables for later jobs that need it.",
)


def _input(name: str, told: Mapping[str, Any]) -> str:
    default = told["default"] if isinstance(told["default"], str) else json.dumps(told["default"])
    choices = f" One of {', '.join(f'`{option}`' for option in told['options'])}." if "options" in told else ""
    shown = f"`{default}`" if told["default"] else "none"
    return f"| `{name}` | {shown} | {_cell(told['description'] + choices)} |"


def _limits(job: Mapping[str, Any]) -> str:
    words = ["not interrupted by newer pushes"] if job.get("interruptible") is False else []
    words += [f"tried again on {', '.join(job['retry']['when'])}"] if "retry" in job else []
    words += [f"environment `{job['environment']['name']}`"] if "environment" in job else []
    words += ["may fail"] if job.get("allow_failure") else []
    return ", ".join(words)


def empty_app() -> "Flask":
    """Return an app that serves nobody: it has every route and no service."""
    options = EdgeOptions(
        public_url="http://127.0.0.1:8000",
        cookie_keys=("documentation only",),
        forges=(ForgeAddress(name="default", web_url="https://gitlab.example.org"),),
        announcements=NoAnnouncements(lambda _: None),
    )
    return create_app(cast("Services", None), options)


def api_document() -> dict[str, Any]:
    """Return the OpenAPI document; it is made from the routes alone, and no view is called."""
    app = empty_app()
    with app.app_context():
        return openapi.document(app)


def api_page(document: Mapping[str, Any]) -> str:
    """Return the HTTP API as a table per family, for reading; the document is beside it."""
    lines = [
        "# HTTP API",
        "",
        "Generated from the code. The whole document, for programs: [openapi.json](openapi.json), and on a running",
        "spawner `/notebooks/spec.json`. What stands under `/notebooks` answers under `/api/notebooks` too.",
        "",
        "A program sends `Authorization: Bearer` with a GitLab token or one of its own tokens. Every error has the",
        'body `{"error": {"code", "message", "detail"}}`: codes from 1000 are the caller\'s, from 2000 ours, from 3000',
        "will pass.",
        "",
        "| method | path | what | answers |",
        "| --- | --- | --- | --- |",
    ]
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            answers = ", ".join(sorted(told["responses"]))
            lines.append(f"| {method.upper()} | `{path}` | {told['summary']} | {answers} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return both command lines with their options, and the exit codes."""
    lines = [
        "# Commands",
        "",
        "Generated from the code. With `--json` one document stands on stdout (of a stream, one per line), prose",
        "on stderr.",
        "",
        "## Exit codes",
        "",
        "| code | means |",
        "| --- | --- |",
        *(f"| {code.value} | {_MEANINGS[code]} |" for code in ExitCode),
        "| 10 | `builder`: a build step failed |",
        "| 11 | `builder`: the registry refused |",
        "| 12 | `builder`: no recipe fits |",
    ]
    with click.Context(spawner, info_name="spawner") as context:
        for name in COMMANDS:
            command = spawner.get_command(context, name)
            if command is not None:
                lines += _command(f"spawner {name}", command)
    for name, command in sorted(builder.commands.items()):
        lines += _command(f"builder {name}", command)
    return "\n".join(lines) + "\n"


def _command(name: str, command: click.Command) -> Iterator[str]:
    yield from ("", f"## `{name}`", "")
    yield " ".join((command.help or "").split())
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from _command(f"{name} {child.name}", child)
        return
    with click.Context(command, info_name=name, **spawner.context_settings) as context:
        usage = command.get_usage(context).removeprefix("Usage: ")
        records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    yield from ("", "```text", " ".join(usage.split()), "```", "")
    rows = [record for record in records if record is not None]
    if rows:
        yield from ("| option | |", "| --- | --- |")
        yield from (f"| `{_cell(left)}` | {_cell(right)} |" for left, right in rows)


def _cell(text: str) -> str:
    """Return text for a table's cell, where a bar would end it."""
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the pages that changed; with `--check` only name them, and return 1 when there are any."""
    only_checks = arguments == ["--check"]
    stale = 0
    for name, text in pages().items():
        path = REFERENCE / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"docs/reference/{name} is not what the code says" if only_checks else f"wrote docs/reference/{name}")
        if not only_checks:
            path.write_text(text, encoding="utf-8")
    return 1 if only_checks and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
