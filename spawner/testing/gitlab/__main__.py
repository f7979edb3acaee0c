"""`python -m spawner.testing.gitlab`: runs a stand-in alone.

Promises: it says where it listens, and ends cleanly on Ctrl-C.
Must not know: anything the server does not.
"""

from __future__ import annotations

from pathlib import Path

import click

from spawner.testing.gitlab import server


@click.command()
@click.option("--port", type=int, required=True, help="GitLab's port; 0 takes a free one.")
@click.option("--registry-port", type=int, help="The registry's port; by default the one after, or a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where everything is kept."
)
@click.option("--external-url", help="The address that people use, when it is not the one listened on.")
@click.option(
    "--token-life", type=click.IntRange(min=1), default=7200, show_default=True, help="Seconds an OAuth token lives."
)
@click.option(
    "--stuck-after", type=float, default=3600.0, show_default=True, help="Seconds until a pending job is dropped."
)
@click.option(
    "--abandoned-after", type=float, default=3600.0, show_default=True, help="Seconds until a silent job is dropped."
)
@click.option(
    "--calls-per-hour", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="A person's API calls."
)
@click.option(
    "--seed", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A JSON file of people and projects."
)
@click.option("--runner/--no-runner", default=True, show_default=True, help="Run a shell runner beside it.")
@click.option("--premium", is_flag=True, help="Have what GitLab's paid editions have: hooks of groups.")
@click.option("--pick-user", is_flag=True, help="Let browsers sign in as people without a password by a click.")
def main(**given: object) -> None:
    """Run a GitLab stand-in: Git, REST, CI, OAuth, hooks and a registry."""
    port = int(str(given["port"]))
    registry_port = given["registry_port"] if given["registry_port"] is not None else (port + 1 if port else 0)
    options = server.Options(
        data=Path(str(given["data"])).resolve(),
        host=str(given["host"]),
        port=port,
        registry_port=int(str(registry_port)),
        external_url=str(given["external_url"]) if given["external_url"] else None,
        token_life_seconds=int(str(given["token_life"])),
        stuck_seconds=float(str(given["stuck_after"])),
        abandoned_seconds=float(str(given["abandoned_after"])),
        calls_per_hour=int(str(given["calls_per_hour"])),
        is_premium=bool(given["premium"]),
        seed=Path(str(given["seed"])) if given["seed"] else None,
        with_runner=bool(given["runner"]),
        may_pick_user=bool(given["pick_user"]),
    )
    click.echo(f"GitLab stand-in: data in {options.data}, addresses in {options.data / 'stand-in.json'}", err=True)
    server.serve(options)


if __name__ == "__main__":
    main()
