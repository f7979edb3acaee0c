"""The `builder` command: `key`, `explain`, `plan`, `build`, `retag`, `init`.

An edge: it parses, calls, and prints. With `--json` one document goes to stdout; prose goes to stderr always. In a
GitLab job the registry, the project and the credentials come from the job's own variables, on a laptop from options
and a file; no secret is ever an argument. CI variables never change what is built. Exit codes: one table, below.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder import build as flow
from builder import choices, draft, errors, job, starter
from builder.build import Policy
from builder.entries import Kind
from builder.environment import this_platform
from builder.key import Key, environment_key
from builder.report import write, write_failure
from builder.tags import environment_tag, extra_tags, published_tags
from builder.trees import GitTree, checked_sha, resolve_commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Exit(IntEnum):
    """What an exit code says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_RIGHT = 3
    NOT_FOUND = 4
    UNAVAILABLE = 7
    BUILD_FAILED = 10
    REGISTRY_REFUSED = 11
    NO_RECIPE = 12
    INTERRUPTED = 130


_EXITS: Mapping[type[errors.BuilderError], Exit] = {  # the first that fits counts
    errors.UsageError: Exit.USAGE,
    errors.NoRecipeError: Exit.NO_RECIPE,
    errors.ProjectError: Exit.BUILD_FAILED,
    errors.CommitNotFoundError: Exit.NOT_FOUND,
    errors.GitError: Exit.UNAVAILABLE,
    errors.BuildFailedError: Exit.BUILD_FAILED,
    errors.FullError: Exit.UNAVAILABLE,
    errors.UnavailableError: Exit.UNAVAILABLE,
    errors.RegistryError: Exit.REGISTRY_REFUSED,
    errors.BuilderError: Exit.FAILED,
}


def say(text: str) -> None:
    """Print prose, on stderr."""
    click.echo(text, err=True)


def show(document: Mapping[str, Any]) -> None:
    """Print one document, on stdout."""
    click.echo(json.dumps(document, indent=2, sort_keys=True))


_directory = click.argument(
    "directory", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False
)
_commit = click.option("--commit", metavar="SHA", help="The commit; by default the job's, else HEAD.")
_kind = click.option("--kind", type=click.Choice([str(kind) for kind in Kind]), default=str(Kind.ENVIRONMENT))
_platform = click.option("--platform", metavar="OS/ARCH", default=None, help="By default this machine's.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """From a commit to its image: compute its environment key, reuse or build, push."""


@cli.command()
@_directory
@_commit
@_kind
@_platform
@_as_json
def key(directory: Path, commit: str | None, kind: str, platform: str | None, *, as_json: bool) -> None:
    """Print the environment key of a commit: 64 hex characters."""
    found = _key(job.where(directory, commit), kind, platform)
    if as_json:
        show(_key_document(found))
    else:
        click.echo(found.digest)


@cli.command()
@_directory
@_commit
@_kind
@_platform
@click.option("--against", metavar="SHA", help="Compare with this commit; by default with the first parent.")
@_as_json
def explain(
    directory: Path, commit: str | None, kind: str, platform: str | None, against: str | None, *, as_json: bool
) -> None:
    """List what decides a commit's environment, and what changed against another commit."""
    where = job.where(directory, commit)
    found = _key(where, kind, platform)
    other_sha = resolve_commit(where.git_dir, against) if against else _parent(where)
    other = _other_key(where, other_sha, kind, platform)
    changes = _changes(other, found) if other is not None else []
    if as_json:
        compared = None if other is None else {"commit": other_sha, "key": other.digest, "changes": changes}
        show(_key_document(found) | {"against": compared})
        return
    click.echo(f"key      {found.digest}")
    click.echo(f"recipe   {found.recipe_name} ({found.kind}, {found.platform})")
    for one in found.inputs:
        click.echo(f"input    {one.mode} {one.fingerprint[:12]} {one.path}")
    for line in ([f"all files count: {found.everything}"] if found.everything else []) + list(found.mutable):
        click.echo(f"note     {line}")
    if other is not None and other_sha is not None:
        same = "the same environment" if other.digest == found.digest else "another environment"
        click.echo(f"against  {other_sha[:8]}: {same}")
        for change in changes:
            click.echo(f"  {change['change']:<8} {change['path']}")


_registry_image = click.option(
    "--registry-image",
    metavar="HOST/PATH",
    help="The project's repository in the registry; in a job CI_REGISTRY_IMAGE.",
)
_user = click.option("--user", metavar="NAME", help="The registry's user; in a job CI_REGISTRY_USER.")
_token_file = click.option(
    "--token-file",
    metavar="FILE|-",
    help="A file with the registry's token, - for stdin; in a job CI_REGISTRY_PASSWORD.",
)
_trusted = click.option(
    "--token-host",
    "trusted",
    multiple=True,
    metavar="HOST",
    help="A host that may be shown the token besides the registry.",
)


@cli.command("plan")
@_directory
@_commit
@_kind
@_platform
@_registry_image
@_user
@_token_file
@_trusted
@_as_json
def plan_command(  # noqa: PLR0913, PLR0917 - one parameter per option
    directory: Path,
    commit: str | None,
    kind: str,
    platform: str | None,
    registry_image: str | None,
    user: str | None,
    token_file: str | None,
    trusted: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Say what `build` would do and why, and do nothing."""
    where = job.where(directory, commit)
    found = _key(where, kind, platform)
    tag = environment_tag(found.digest)
    action, reason = "build", "no registry was named to look in"
    if registry_image or os.environ.get("CI_REGISTRY_IMAGE"):
        target = job.target(where.commit, registry_image, user, token_file, trusted)
        existing = target.registry.head(target.repository, tag)
        action = "build" if existing is None else "reuse"
        reason = f"{target.reference(tag)} {'does not exist' if existing is None else f'is {existing.digest}'}"
    tags = [tag, *published_tags(where.commit, found.kind)]
    engine = flow.ENGINE if found.kind is Kind.ENVIRONMENT else choices.present_engine()
    if as_json:
        show(_key_document(found) | {"action": action, "reason": reason, "engine": engine, "tags": tags})
        return
    click.echo(f"{action}: {reason}")
    click.echo(f"engine {engine}, recipe {found.recipe_name}, dependencies from {found.source}, tags {', '.join(tags)}")


@cli.command("build")
@_directory
@_commit
@click.option(
    "--kind", type=click.Choice([str(kind) for kind in Kind]), default=None,
    help="By default what the engine makes, else what the commit names, else an environment.",
)  # fmt: skip
@_platform
@click.option(
    "--engine", type=click.Choice(choices.ENGINES), default=choices.AUTO, show_default=True,
    help="auto: the first that is present and makes what the commit asks for.",
)  # fmt: skip
@click.option("--refresh", is_flag=True, help="Build anew and move the environment's tag: for schedules.")
@click.option("--no-reuse", is_flag=True, help="Build anew, and push the commit's tag only.")
@click.option("--max-age-days", default=30, show_default=True, help="Build anew what is older; 0: never.")
@click.option("--extra-tags", "more", metavar="NAMES", default="", help="Further tags, separated by blanks.")
@_registry_image
@_user
@_token_file
@_trusted
@choices.container_options
@_as_json
def build_command(  # noqa: PLR0913, PLR0917 - one parameter per option
    directory: Path,
    commit: str | None,
    kind: str | None,
    platform: str | None,
    engine: str,
    refresh: bool,  # noqa: FBT001 - click passes by name
    no_reuse: bool,  # noqa: FBT001 - click passes by name
    max_age_days: int,
    more: str,
    registry_image: str | None,
    user: str | None,
    token_file: str | None,
    trusted: Sequence[str],
    *,
    as_json: bool,
    **container: Any,
) -> None:
    """Reuse or build the commit's image, and push it."""
    if refresh and no_reuse:
        raise errors.UsageError("--refresh and --no-reuse exclude each other.")
    if platform not in {None, this_platform()}:
        raise errors.UsageError(f"A build is for the machine that it runs on, {this_platform()}.")
    where = job.where(directory, commit)
    target = job.target(where.commit, registry_image, user, token_file, trusted)
    target = replace(target, extra_tags=extra_tags(more))
    policy = Policy(is_reusing=not no_reuse, is_refreshing=refresh, max_age_days=max_age_days)
    with GitTree(where.git_dir, where.commit) as source:
        try:
            named = None if engine == choices.AUTO else engine
            wanted = choices.chosen_kind(kind, named, source)
            maker = choices.chosen_maker(wanted, named, is_fresh=refresh, container=container)
            found = environment_key(source.tree, source.read, kind=wanted, platform=this_platform())
            report = flow.build(source, found, target, policy, maker, say=say)
        except errors.BuilderError as error:
            write_failure(Path.cwd(), error, commit=where.commit, engine=engine)
            raise
    write(report, Path.cwd())
    for line in report.summary():
        say(line)
    if as_json:
        show(report.document())


@cli.command()
@click.argument("source")
@click.option("--commit", metavar="SHA", required=True, help="The commit whose tags are set.")
@_kind
@_registry_image
@_user
@_token_file
@_trusted
@_as_json
def retag(  # noqa: PLR0913, PLR0917 - one parameter per option
    source: str,
    commit: str,
    kind: str,
    registry_image: str | None,
    user: str | None,
    token_file: str | None,
    trusted: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Put an existing image (a tag, a digest, or another repository's REPOSITORY:TAG) under a commit's tags."""
    target = job.target(checked_sha(commit), registry_image, user, token_file, trusted)
    tags = published_tags(target.commit, Kind(kind))
    repository, name = job.split_source(source, target)
    if repository == target.repository:
        manifest = flow.retag(target, name, tags)
    else:
        manifest = flow.adopt(target, repository, name, tags)
    if manifest is None:
        say(f"{target.registry.address}/{repository} has no image {name}.")
        raise click.exceptions.Exit(Exit.NOT_FOUND)
    references = [target.reference(tag) for tag in tags]
    say(f"{', '.join(references)} is {manifest.digest}.")
    if as_json:
        show({"references": references, "digest": manifest.digest, "tags": list(tags)})


@cli.command()
@_directory
@click.option("--dockerfile", is_flag=True, help="Also write the Dockerfile that the recipe builds by, to change it.")
@_as_json
def init(directory: Path, *, dockerfile: bool, as_json: bool) -> None:
    """Write a .gitlab-ci.yml with the build job, and a requirements file; what is there stays as it is."""
    written, kept = starter.write(directory)
    if dockerfile:
        is_new = draft.write_dockerfile(directory)
        written, kept = (*written, *["Dockerfile"] * is_new), (*kept, *["Dockerfile"] * (not is_new))
    for name in written:
        say(f"Wrote {name}.")
    for name in kept:
        say(f"Kept {name}, which was there.")
    if as_json:
        show({"written": list(written), "kept": list(kept)})


def _key(where: job.Where, kind: str, platform: str | None) -> Key:
    with GitTree(where.git_dir, where.commit) as source:
        return environment_key(source.tree, source.read, kind=Kind(kind), platform=platform or this_platform())


def _parent(where: job.Where) -> str | None:
    try:
        return resolve_commit(where.git_dir, f"{where.commit}^")
    except errors.CommitNotFoundError:
        return None


def _other_key(where: job.Where, sha: str | None, kind: str, platform: str | None) -> Key | None:
    if sha is None:
        return None
    try:
        return _key(job.Where(git_dir=where.git_dir, commit=sha), kind, platform)
    except errors.ProjectError as error:
        say(f"{sha[:8]} has no environment to compare with: {error}")
        return None


def _changes(old: Key, new: Key) -> list[dict[str, str]]:
    """List what differs between two keys, by path; the recipe and the settings as names without a path."""
    before, after = ({one.path: (one.mode, one.fingerprint) for one in found.inputs} for found in (old, new))
    changes = [
        {"path": path, "change": "added" if path not in before else "removed" if path not in after else "changed"}
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]
    if old.image != new.image:
        changes.append({"path": "slipway.toml [image]", "change": "changed"})
    if old.recipe_name != new.recipe_name:
        changes.append({"path": f"recipe {old.recipe_name} → {new.recipe_name}", "change": "changed"})
    return changes


def _key_document(found: Key) -> dict[str, Any]:
    return {
        "key": found.digest,
        "scheme": found.scheme,
        "kind": str(found.kind),
        "platform": found.platform,
        "recipe": found.recipe_name,
        "source": str(found.source),
        "inputs": [{"path": one.path, "mode": one.mode, "fingerprint": one.fingerprint} for one in found.inputs],
        "everything": found.everything,
        "mutable": list(found.mutable),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with a code from the table; a cancelled job ends what its build started."""
    signal.signal(signal.SIGTERM, _end)
    sys.exit(run(arguments))


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    try:
        result = cli.main(args=None if arguments is None else list(arguments), standalone_mode=False)
    except errors.BuilderError as error:
        if isinstance(error, errors.BuildFailedError | errors.FullError) and error.tail and not error.is_shown:
            say(error.tail)
        say(f"builder: {error}")
        return next(code for kind, code in _EXITS.items() if isinstance(error, kind))
    except OSError as error:
        say(
            f"builder: {errors.capped(str(error.strerror or error))}: {errors.capped(str(error.filename or 'a file'))}."
        )
        return Exit.FAILED
    except click.exceptions.Abort:
        say("builder: interrupted.")
        return Exit.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    return result if isinstance(result, int) else Exit.DONE


if __name__ == "__main__":
    main()
