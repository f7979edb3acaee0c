"""`spawner doctor`: is everything there that the settings point to?

Promises: one line per check and one remedy per line that is not right; every look is bounded in time; nothing is
changed; exit code 0 when nothing is wrong, 1 otherwise, 7 when all that is wrong is something that cannot be reached.
Must not know: how services use any of it.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import click
import requests

from builder.oci import is_loopback
from spawner import config, runtimes
from spawner.cli.connection import as_given, read_token
from spawner.cli.exits import CommandFailed, ExitCode
from spawner.cli.findings import Finding, Verdict, report
from spawner.cli.printing import document, json_option, prose
from spawner.cli.resp import ping
from spawner.cli.serving import exposed_cookie
from spawner.config import Settings
from spawner.errors import SpawnerError, TemporaryError
from spawner.gitlab.hookwatch import HookState
from spawner.ports import Credential, CredentialKind
from spawner.store import migrations
from spawner.wiring import DOCKER, Wired, hook_watch, runtime_names, wire

_LOOK_SECONDS = 5.0
_FIRST_SERVER_ERROR = 500
_LEAST_FREE_BYTES = 2_000_000_000  # a guess: three environments of a common size
_WANTED_SCOPES = (frozenset({"api", "read_api"}), frozenset({"api", "read_repository", "write_repository"}))


Check = Callable[[Settings], Iterator[Finding]]


@click.command("doctor")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A GitLab token whose rights are looked at too, - for standard input.",
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Also write what this installation confirms of the documentation; it names no host, person or secret.",
)
@json_option
def doctor_command(*, token_file: Path | None, page: Path | None, as_json: bool) -> int:
    """Check settings, GitLab, token rights, registry, database, Redis and runtime: one line and one remedy each."""
    findings = []
    token = None if token_file is None else read_token(token_file)
    for finding in examine(token):
        findings.append(finding)
        if not as_json:
            _say(finding)
    if as_json:
        document({"findings": [asdict(each) for each in findings]})
    if page is not None:
        _write_report(page, findings, token)
    verdicts = {each.verdict for each in findings}
    if Verdict.WRONG in verdicts:
        return ExitCode.FAILED
    return ExitCode.UNAVAILABLE if Verdict.AWAY in verdicts else ExitCode.DONE


def _write_report(page: Path, findings: Sequence[Finding], token: str | None) -> None:
    settings = config.load()
    found = None
    if token is not None:
        answer = requests.get(
            f"{settings.gitlab.url}/api/v4/version", headers={"PRIVATE-TOKEN": token}, auth=as_given,
            timeout=_LOOK_SECONDS, verify=_certificates(settings),
        )  # fmt: skip
        found = str(answer.json().get("version")) if answer.ok else None
    text = report(settings, findings, gitlab_version=found)
    if str(page) == "-":
        click.echo(text)
    else:
        page.write_text(text, encoding="utf-8")
        prose(f"Wrote {page}: look it over, and hand it in.")


def _say(finding: Finding) -> None:
    colour = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.WRONG: "red", Verdict.AWAY: "red"}[finding.verdict]
    click.echo(f"{click.style(f'{finding.verdict.value:<5}', fg=colour)}  {finding.check:<9}  {finding.message}")
    if finding.remedy:
        click.echo(f"                  -> {finding.remedy}")


def examine(token: str | None) -> Iterator[Finding]:
    """Yield every finding; ends early where settings do not fit, because all else stands on them."""
    try:
        settings = config.load()
        wired = wire(settings)
    except SpawnerError as error:
        yield _of("settings", error)
        return
    yield Finding(check="settings", verdict=Verdict.OK, message=f"fit; people come to {settings.http.public_url}")
    try:
        yield from _guarded("database", lambda: _database(wired))
        yield from _guarded("gitlab", lambda: _gitlab(settings))
        yield from _guarded("hooks", lambda: _hooks(settings, wired))
        yield from _guarded("sign-in", lambda: _application(settings))
        yield from _guarded("token", lambda: _token(wired, token))
        yield from _guarded("registry", lambda: _registries(settings))
        yield from _guarded("redis", lambda: _redis(settings))
        yield from _guarded("runtime", lambda: _runtime(settings))
    finally:
        wired.engine.dispose()


def _guarded(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except SpawnerError as error:
        yield _of(check, error)
    except requests.RequestException as error:
        yield Finding(
            check=check,
            verdict=Verdict.AWAY,
            message=f"cannot be reached: {type(error).__name__}",
            remedy="Check the address, the network and, for https, SPAWNER_GITLAB__CA_FILE.",
        )


def _is_away(answer: requests.Response) -> bool:
    """Say whether a server, or the proxy before it, is there but cannot answer just now."""
    return answer.status_code == requests.codes.too_many_requests or answer.status_code >= _FIRST_SERVER_ERROR


def _away(check: str, name: str, answer: requests.Response) -> Finding:
    return Finding(
        check=check,
        verdict=Verdict.AWAY,
        message=f"{name} answers {answer.status_code}: it is there, and cannot serve just now",
        remedy="Look again in a minute; where it stays so, look at that server's own log.",
    )


def _of(check: str, error: SpawnerError) -> Finding:
    verdict = Verdict.AWAY if isinstance(error, TemporaryError) else Verdict.WRONG
    return Finding(check=check, verdict=verdict, message=error.message, remedy=error.remedy)


# ---------------------------------------------------------------- the checks


def _database(wired: Wired) -> Iterator[Finding]:
    if migrations.is_current(wired.engine):
        kind = wired.engine.dialect.name
        yield Finding(check="database", verdict=Verdict.OK, message=f"{kind}, of this release")
        return
    yield Finding(
        check="database", verdict=Verdict.WRONG, message="is not of this release", remedy="Run `spawner migrate`."
    )


def _gitlab(settings: Settings) -> Iterator[Finding]:
    url = settings.gitlab.url
    answer = requests.get(f"{url}/api/v4/version", auth=as_given, timeout=_LOOK_SECONDS, verify=_certificates(settings))
    # Without a token GitLab refuses this address with 401, in JSON; anything else is no GitLab.
    is_gitlab = answer.status_code in {200, 401} and answer.headers.get("Content-Type", "").startswith(
        "application/json"
    )
    if _is_away(answer):
        yield _away("gitlab", url, answer)
    elif is_gitlab:
        yield Finding(check="gitlab", verdict=Verdict.OK, message=f"{url} answers")
    else:
        yield Finding(
            check="gitlab",
            verdict=Verdict.WRONG,
            message=f"{url} answers {answer.status_code} to /api/v4/version, which no GitLab does",
            remedy="Set SPAWNER_GITLAB__URL to GitLab's own address.",
        )
    if settings.gitlab.webhook_secret_file is None:
        yield Finding(
            check="hooks",
            verdict=Verdict.NOTE,
            message="are refused; builds are polled for every 2 to 20 s",
            remedy="For promptness set SPAWNER_GITLAB__WEBHOOK_SECRET_FILE, and a hook in each project.",
        )


def _hooks(settings: Settings, wired: Wired) -> Iterator[Finding]:
    if (watch := hook_watch(settings, wired.engine)) is None:
        return
    remedy = "See its recent events in GitLab for what went wrong; then send a test, which switches it on again."
    seen = watch.look()
    stopped = [hook for hook in seen if hook.state is not HookState.SENT]
    for hook in stopped:
        until = f" until {hook.until:%Y-%m-%d %H:%M} UTC" if hook.until else ""
        message = f"GitLab has switched the hook {hook.hook_id} of project {hook.project_id} off{until}"
        yield Finding(check="hooks", verdict=Verdict.WRONG, message=message, remedy=remedy)
    if not stopped:
        yield Finding(check="hooks", verdict=Verdict.OK, message=f"GitLab sends the {len(seen)} that lead here")


def _application(settings: Settings) -> Iterator[Finding]:
    forge = settings.gitlab
    if not forge.client_id:
        yield Finding(
            check="sign-in",
            verdict=Verdict.NOTE,
            message="nobody can sign in by browser; programs can, with a GitLab token",
            remedy="Add an OAuth application in GitLab and set SPAWNER_GITLAB__CLIENT_ID and …_CLIENT_SECRET_FILE.",
        )
        return
    fields = {
        "grant_type": "authorization_code",
        "code": "doctor",  # no such code: a known application is told so, an unknown one that it is unknown
        "client_id": forge.client_id,
        "redirect_uri": f"{settings.http.public_url}/login/callback",
        "code_verifier": "doctor",
    }
    if forge.client_secret_file is not None:
        setting = "SPAWNER_GITLAB__CLIENT_SECRET_FILE"
        fields["client_secret"] = config.read_secret(forge.client_secret_file, setting=setting)
    answer = requests.post(
        f"{forge.url}/oauth/token", data=fields, auth=as_given, timeout=_LOOK_SECONDS, verify=_certificates(settings)
    )
    if _is_away(answer):
        yield _away("sign-in", forge.url, answer)
        return
    error = answer.json().get("error") if "json" in answer.headers.get("Content-Type", "") else None
    if error == "invalid_grant":
        asked = ", ".join(forge.scopes)
        message = f"GitLab knows the OAuth application; it has to have the scopes {asked}"
        yield Finding(check="sign-in", verdict=Verdict.OK, message=message)
        return
    yield Finding(
        check="sign-in",
        verdict=Verdict.WRONG,
        message=f"GitLab does not accept the OAuth application ({error or answer.status_code})",
        remedy="Compare SPAWNER_GITLAB__CLIENT_ID and the secret's file with the application in GitLab.",
    )


def _token(wired: Wired, token: str | None) -> Iterator[Finding]:
    if token is None:
        return
    credential = Credential(forge=config.DEFAULT_FORGE, token=token, kind=CredentialKind.PERSONAL)
    user = wired.services.forge.user(credential)
    scopes = wired.services.forge.scopes(credential)
    missing = [min(wanted - {"api"}) for wanted in _WANTED_SCOPES if not wanted & scopes]
    if missing:
        yield Finding(
            check="token",
            verdict=Verdict.WRONG,
            message=f"of {user.username} lacks {', '.join(missing)}",
            remedy="Make a token with read_api, read_repository (write_repository to push), or with api.",
        )
        return
    yield Finding(check="token", verdict=Verdict.OK, message=f"of {user.username} may {', '.join(sorted(scopes))}")
    if "api" not in scopes:
        yield Finding(
            check="token", verdict=Verdict.NOTE, message="cannot start builds", remedy="That needs the scope api."
        )


def _registries(settings: Settings) -> Iterator[Finding]:
    hosts = settings.registry.allowed_hosts
    if not hosts:
        yield Finding(check="registry", verdict=Verdict.OK, message="GitLab's own, as each project names it")
    for host in hosts:
        scheme = "http" if is_loopback(host) else "https"
        answer = requests.get(f"{scheme}://{host}/v2/", auth=as_given, timeout=_LOOK_SECONDS)
        if _is_away(answer):
            yield _away("registry", host, answer)
            continue
        is_registry = answer.status_code in {200, 401}
        yield Finding(
            check="registry",
            verdict=Verdict.OK if is_registry else Verdict.WRONG,
            message=f"{host} answers {answer.status_code} to /v2/",
            remedy="" if is_registry else "Remove it from SPAWNER_REGISTRY__ALLOWED_HOSTS, or correct it there.",
        )


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis.url is None:
        yield Finding(check="redis", verdict=Verdict.OK, message="not needed: tasks run in the web process")
        return
    parts = urlsplit(settings.redis.url)
    password = None
    if settings.redis.password_file is not None:
        password = config.read_secret(settings.redis.password_file, setting="SPAWNER_REDIS__PASSWORD_FILE")
    try:
        said = ping(parts, password, timeout_seconds=_LOOK_SECONDS)
    except OSError as error:
        yield Finding(
            check="redis",
            verdict=Verdict.AWAY,
            message=f"{parts.hostname} cannot be reached: {error}",
            remedy="Start it, or correct SPAWNER_REDIS__URL. Until then due sessions are swept, at most 0.5 s later.",
        )
        return
    if said.startswith("+PONG"):
        yield Finding(check="redis", verdict=Verdict.OK, message=f"{parts.hostname} answers")
    elif said.startswith("-"):
        yield Finding(
            check="redis",
            verdict=Verdict.WRONG,
            message=f"{parts.hostname} refuses: {said[1:]}",
            remedy="Set SPAWNER_REDIS__PASSWORD_FILE to a file with its password, or to none where it has none.",
        )
    else:
        yield Finding(
            check="redis",
            verdict=Verdict.WRONG,
            message=f"{parts.hostname} answers what no Redis does",
            remedy="Correct SPAWNER_REDIS__URL.",
        )


def _runtime(settings: Settings) -> Iterator[Finding]:
    names = runtime_names(settings)
    for name in names:
        runtimes.factory(name)
        yield Finding(check="runtime", verdict=Verdict.OK, message=f"{name} is installed")
    if "standalone" in names:
        yield from _standalone(settings)
    if DOCKER in names:
        yield from _guarded(DOCKER, lambda: _docker(settings))


def _docker(settings: Settings) -> Iterator[Finding]:
    from spawner.runtimes.docker import checking, network_name  # noqa: PLC0415 - only where it is chosen

    network = network_name(settings.docker.network, settings.sessions.instance)
    for look in checking.check(host=settings.docker.host, network=network):
        verdict = Verdict.OK if look.is_right else Verdict.WRONG
        yield Finding(check=DOCKER, verdict=verdict, message=look.message, remedy=look.remedy)


def _standalone(settings: Settings) -> Iterator[Finding]:
    yield _git()
    yield _space(settings.standalone.root)
    yield _separation()
    danger = exposed_cookie(settings)
    if danger:
        remedy = "Put a proxy with TLS in front, and set SPAWNER_HTTP__PUBLIC_URL to its https address."
        yield Finding(check="cookie", verdict=Verdict.NOTE, message=danger, remedy=remedy)


def _git() -> Finding:
    try:
        told = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=_LOOK_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return Finding(check="git", verdict=Verdict.WRONG, message="is not here", remedy="Install Git 2.30 or newer.")
    return Finding(check="git", verdict=Verdict.OK, message=told.stdout.strip())


def _space(root: Path) -> Finding:
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK):
        return Finding(
            check="folder",
            verdict=Verdict.WRONG,
            message=f"{root} cannot be written",
            remedy="Give it to the user that runs the spawner, or set SPAWNER_STANDALONE__ROOT.",
        )
    free = shutil.disk_usage(there).free
    is_enough = free >= _LEAST_FREE_BYTES
    return Finding(
        check="folder",
        verdict=Verdict.OK if is_enough else Verdict.WRONG,
        message=f"{root}: {free / 1e9:.1f} GB free",
        remedy="" if is_enough else "Free some space: environments and workspaces are kept there.",
    )


def _separation() -> Finding:
    if os.geteuid() == 0:
        return Finding(
            check="people", verdict=Verdict.OK, message="each person's sessions run under a user id of theirs"
        )
    return Finding(
        check="people",
        verdict=Verdict.NOTE,
        message="are not separated: one at a time is admitted, and sessions run as you",
        remedy="Launch only code you trust as yourself; for several people run the spawner as root.",
    )


def _certificates(settings: Settings) -> str | bool:
    path = settings.gitlab.ca_file
    if path is not None and not path.is_file():
        raise CommandFailed(f"SPAWNER_GITLAB__CA_FILE names {path}, which is not there.", code=ExitCode.USAGE)
    return True if path is None else str(path)
