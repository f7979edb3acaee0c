"""What a command prints: one JSON document, a table for people, or plain lines for pipes.

Promises: with `--json` stdout carries nothing but JSON, and prose goes to stderr; without a terminal nothing is
coloured, wrapped or redrawn.
Must not know: where the values come from.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def document(value: object) -> None:
    """Print one JSON document on one line; of a stream, each is a line."""
    click.echo(json.dumps(value, default=str))


def prose(text: str) -> None:
    """Say something to the person, on stderr."""
    click.echo(text, err=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Print rows under headings: aligned on a terminal, tab-separated elsewhere; `empty` when there are none."""
    if not rows:
        prose(empty)
        return
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    from rich.console import Console  # noqa: PLC0415 - takes 60 ms to import, and only a terminal needs it
    from rich.table import Table  # noqa: PLC0415 - as above

    drawn = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        drawn.add_row(*row)
    Console().print(drawn)


class Steps:
    """Progress as people expect: on a terminal one living line below those that are done, elsewhere plain lines."""

    def __init__(self) -> None:
        self._is_live = sys.stderr.isatty()
        self._last = ""

    def step(self, text: str, *, seconds: float) -> None:
        """Say what happens now; a repetition is not printed again."""
        if text == self._last:
            return
        self._last = text
        stamp = click.style(f"{seconds:6.1f} s", dim=True) if self._is_live else f"{seconds:6.1f} s"
        click.echo(f"{stamp}  {text}", err=True)

    def log(self, text: str) -> None:
        """Pass a piece of another program's log through."""
        for line in text.splitlines():
            click.echo(click.style(f"          {line}", dim=True) if self._is_live else f"          {line}", err=True)
