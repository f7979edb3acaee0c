"""`spawner connect` and `spawner disconnect`: set a GitLab up for launching, and take that back.

Promises: the token comes from a file, standard input or a prompt, and is kept nowhere; each step is said as it ends;
the exit code tells whether a right was lacking.
Must not know: how a step is done (`steps`, `undoing`), what GitLab's addresses are.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from spawner import config
from spawner.cli.connect.folder import SettingsFolder
from spawner.cli.connect.ledger import Ledger
from spawner.cli.connect.steps import Connecting, Outcome, Step, Wish
from spawner.cli.connect.undoing import disconnect
from spawner.cli.connection import read_token
from spawner.cli.exits import CommandFailed, ExitCode
from spawner.cli.printing import document, json_option, prose
from spawner.config.groups import HTTP, Forge, Images
from spawner.gitlab.administration import Administration
from spawner.ports import Credential, CredentialKind

F = TypeVar("F", bound=Callable[..., Any])
TIMEOUT_SECONDS = 30.0
BUILD_SCOPE = "api"
_COLOURS = {Outcome.LACKS: "red", Outcome.WOULD: "yellow", Outcome.KEPT: "cyan"}


def _shared(command: F) -> F:
    """Give a command what both ask for."""
    for option in (
        click.option("--dry-run", "is_dry", is_flag=True, help="Say what would be done, and do nothing."),
        click.option("--ca-file", type=click.Path(path_type=Path, exists=True), help="Certificates to trust besides."),
        click.option(
            "--folder",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path("slipway-settings"),
            show_default=True,
            help="Where settings, secrets and the record of what was made are kept.",
        ),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path, allow_dash=True),
            help="A file with a GitLab token, - for standard input; asked for otherwise.",
        ),
        json_option,
    ):
        command = option(command)
    return click.argument("gitlab_url")(command)


@click.command("connect")
@_shared
@click.option("--project", "projects", multiple=True, metavar="PATH", help="A project to give the button and builds.")
@click.option("--group", "groups", multiple=True, metavar="PATH", help="A group whose projects get them.")
@click.option("--template-project", metavar="PATH", help="A project to make for others to begin with.")
@click.option("--no-template", is_flag=True, help="Propose no build job to projects.")
@click.option("--public-url", help="Where people reach the spawner.  [default: the settings', else its default]")
def connect_command(  # noqa: PLR0913 - one parameter an option
    *,
    gitlab_url: str,
    projects: tuple[str, ...],
    groups: tuple[str, ...],
    template_project: str | None,
    no_template: bool,
    public_url: str | None,
    folder: Path,
    token_file: Path | None,
    ca_file: Path | None,
    is_dry: bool,
    as_json: bool,
) -> int:
    """Register sign-in, hooks and badges in a GitLab, and propose the build job to its projects."""
    kept = SettingsFolder(path=folder.absolute(), is_dry=is_dry)
    site = _site(gitlab_url, token_file, ca_file)
    there = kept.settings()
    wish = Wish(
        public_url=_origin(public_url or there.get("SPAWNER_HTTP__PUBLIC_URL") or HTTP().public_url),
        scopes=_scopes(there.get("SPAWNER_GITLAB__SCOPES", "")),
        build_job=there.get("SPAWNER_IMAGES__BUILD_JOB") or Images().build_job,
        projects=projects,
        groups=groups,
        template_project=template_project,
        with_template=not no_template,
        is_dry=is_dry,
    )
    ledger = Ledger.open(kept.path, site.url, is_kept=not is_dry)
    code = _told(Connecting(site, wish, kept, ledger, ca_file=ca_file).connect(), as_json=as_json)
    if not is_dry:
        prose(f"Next: set -a; . {kept.environment}; set +a; spawner doctor; spawner serve --embedded")
    return code


@click.command("disconnect")
@_shared
def disconnect_command(
    *, gitlab_url: str, folder: Path, token_file: Path | None, ca_file: Path | None, is_dry: bool, as_json: bool
) -> int:
    """Remove from a GitLab what `connect` made there, and nothing else; the folder of settings stays."""
    site = _site(gitlab_url, token_file, ca_file)
    ledger = Ledger.open(folder.absolute(), site.url, is_kept=not is_dry)
    return _told(disconnect(site, ledger, is_dry=is_dry), as_json=as_json)


def _site(gitlab_url: str, token_file: Path | None, ca_file: Path | None) -> Administration:
    if token_file is not None:
        token = read_token(token_file)
    else:
        token = click.prompt("A GitLab token with the scope api (it is not kept)", hide_input=True, err=True).strip()
    credential = Credential(forge=config.DEFAULT_FORGE, token=token, kind=CredentialKind.PERSONAL)
    return Administration(gitlab_url, credential, timeout_seconds=TIMEOUT_SECONDS, ca_file=ca_file)


def _scopes(asked: str) -> tuple[str, ...]:
    """Return what the application must have: what a sign-in asks for, and `api`, asked for when a build is pressed."""
    named = tuple(asked.replace(",", " ").split()) or Forge().scopes
    return named if BUILD_SCOPE in named else (*named, BUILD_SCOPE)


def _origin(url: str) -> str:
    try:
        return HTTP(public_url=url).public_url
    except ValueError as error:
        raise CommandFailed(
            f"{url} is no address of a spawner: give scheme, host and port alone.", code=ExitCode.USAGE
        ) from error


def _told(steps: Iterable[Step], *, as_json: bool) -> int:
    done = []
    for step in steps:
        done.append(step)
        if not as_json:
            _say(step)
    if as_json:
        document({"steps": [asdict(step) for step in done]})
    return ExitCode.NO_RIGHT if any(step.outcome is Outcome.LACKS for step in done) else ExitCode.DONE


def _say(step: Step) -> None:
    outcome = click.style(f"{step.outcome.value:<7}", fg=_COLOURS.get(step.outcome, "green"))
    click.echo(f"{outcome}  {step.thing:<24}  {step.message}")
    if step.remedy:
        click.echo(f"         -> {step.remedy}")
