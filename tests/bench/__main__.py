"""`python -m tests.bench [NAME…]`: runs benches, prints their tables, writes JSON; `scripts/bench` is its door.

Promises: exit code 0 although a target was missed (the table says so), 1 when a bench could not be run.
Must not know: what a bench measures.
"""

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from tests.bench import figures, stage

BENCHES = ("warm", "api", "hook", "waiters", "reuse")
OUTPUT = Path(".slipway/bench")
PAGE = Path("docs/explanation/bench-results.md")


@click.command("scripts/bench")
@click.argument("names", nargs=-1, type=click.Choice(BENCHES), metavar="[NAME]...")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all results here.")
@click.option("--runs", type=click.IntRange(5, 100), default=5, show_default=True, help="Runs of each measurement.")
@click.option("--write-page", is_flag=True, help=f"Write {PAGE} from the newest result of each bench.")
def main(names: tuple[str, ...], json_file: Path | None, runs: int, *, write_page: bool) -> None:
    """Measure warm, api, hook, waiters and reuse, or those that are named.

    Each prints a table: ours, the alternative or the limit measured in the same run, the ratio, the spread; and writes
    .slipway/bench/NAME.json.
    """
    # CI jobs run `builder`, the one of this installation.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    results: list[dict[str, Any]] = []
    failed: list[str] = []
    for name in names or (() if write_page else BENCHES):
        try:
            result = _measured(name, runs)
        except Exception:  # noqa: BLE001 - one bench that breaks must not hide the others' figures
            traceback.print_exc()
            failed.append(name)
            continue
        figures.write(result, OUTPUT / f"{name}.json")
        click.echo(f"\n{figures.text(result)}\n")
        results.append(result)
    if json_file is not None:
        figures.write({"benches": results, "failed": failed}, json_file)
    if write_page:
        PAGE.write_text(figures.page(OUTPUT, BENCHES), encoding="utf-8")
        click.echo(f"Wrote {PAGE}.")
    if failed:
        click.echo(f"Could not be run: {', '.join(failed)}.", err=True)
        sys.exit(1)


def _measured(name: str, runs: int) -> dict[str, Any]:
    click.echo(f"Measuring {name} …", err=True)
    bench = importlib.import_module(f"tests.bench.{name}")
    with stage.folder(name) as place:
        report: figures.Report = bench.measure(place, runs)
    return report.document()


if __name__ == "__main__":
    main(prog_name="scripts/bench")
