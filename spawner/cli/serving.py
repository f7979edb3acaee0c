"""The processes of a spawner: `serve`, `worker`, `beat`.

Promises: a setting that does not fit is one sentence before anything listens; nothing connects before the fork; SIGTERM
ends in seconds, and sessions run on; a server whose parent was killed dies with it and frees its port.
Must not know: what requests and tasks do.
"""

import ctypes
import os
import signal
from typing import Any
from urllib.parse import urlsplit

import click
from flask import Flask
from gunicorn.app.base import BaseApplication
from werkzeug.middleware.proxy_fix import ProxyFix

from builder.oci import is_loopback
from spawner import config, log
from spawner.config import Dispatching, Settings
from spawner.errors import Misconfigured
from spawner.http import create_app
from spawner.store import migrations
from spawner.wiring import Wired, more_addresses, wire

_log = log.get_logger(__name__)

_PR_SET_PDEATHSIG = 1  # source: linux/prctl.h
_GRACEFUL_SECONDS = 5
_KEEP_ALIVE_SECONDS = 75  # longer than a proxy keeps an idle connection, so that it is the one to close
_SILENT_SECONDS = 120  # a worker whose main thread did not move for so long is replaced


class Server(BaseApplication):  # type: ignore[misc] # gunicorn is published without types
    """Gunicorn, set up in code: one process of threads, or several."""

    def __init__(self, settings: Settings, *, processes: int) -> None:
        self._settings = settings
        self._processes = processes
        self._wired: Wired | None = None
        super().__init__()

    def load_config(self) -> None:
        """Give gunicorn its settings; the environment's and its files' do not count."""
        http = self._settings.http
        host = f"[{http.host}]" if ":" in http.host else http.host
        for name, value in {
            "bind": [f"{host}:{http.port}", *more_addresses(self._settings)],
            "workers": self._processes,
            "worker_class": "gthread",
            "threads": http.threads,
            "timeout": _SILENT_SECONDS,
            "graceful_timeout": _GRACEFUL_SECONDS,
            "keepalive": _KEEP_ALIVE_SECONDS,
            "loglevel": "warning",
            "proc_name": "slipway",
            "control_socket_disable": True,
            "post_fork": lambda _server, _worker: die_with_parent(),
            "worker_exit": lambda _server, _worker: self._stop(),
        }.items():
            if name in self.cfg.settings:  # `control_socket_disable` is younger than gunicorn 23
                self.cfg.set(name, value)

    def load(self) -> Flask:
        """Wire this process's services, after the fork, and return the app."""
        log.configure(level=self._settings.log.level.value, form=self._settings.log.form.value)
        self._wired = wire(self._settings)
        self._wired.start()
        return application(self._settings, self._wired)

    def _stop(self) -> None:
        if self._wired is not None:
            self._wired.stop()


def application(settings: Settings, wired: Wired) -> Flask:
    """Return the app, believing as many proxies as the settings say."""
    app = create_app(wired.services, wired.edge)
    count = settings.http.trusted_proxies
    if count:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=count, x_proto=count, x_host=count)  # type: ignore[method-assign]
    return app


def die_with_parent() -> None:
    """Have the system kill this process when its parent dies, however that happens."""
    ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@click.command("serve")
@click.option("--embedded", is_flag=True, help="Everything in one process: web, tasks and sweep; migrates first.")
@click.option("--host", help="Address to listen on.  [env: SPAWNER_HTTP__HOST]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [env: SPAWNER_HTTP__PORT]")
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Not with --embedded.")
def serve_command(*, embedded: bool, host: str | None, port: int | None, processes: int) -> None:
    """Serve the API, the pages and the event streams."""
    settings = _settings(embedded=embedded, host=host, port=port)
    if embedded and processes > 1:
        raise click.UsageError("--embedded is one process: its tasks run in it.")
    if not embedded and settings.tasks.dispatcher is Dispatching.INPROCESS:
        raise Misconfigured(
            "Nobody would do the work: tasks run in this process, and this is not --embedded.",
            remedy="`spawner serve --embedded`, or SPAWNER_TASKS__DISPATCHER=celery and `spawner worker`.",
        )
    log.configure(level=settings.log.level.value, form=settings.log.form.value)
    danger = exposed_cookie(settings)
    if danger:
        _log.warning("login_cookie_exposed", message=danger)
    _check(settings, migrates=embedded)
    Server(settings, processes=processes).run()


def exposed_cookie(settings: Settings) -> str | None:
    """Say that sessions of some could read the login cookie of others; None where people are not separated anyway.

    Browsers send a cookie to every port of its host, and one that is not `Secure` over plain http too.
    """
    address = urlsplit(settings.http.public_url)
    if os.geteuid() != 0 or address.scheme == "https" or is_loopback(address.netloc):
        return None
    return (
        f"People come to {settings.http.public_url} over plain http: a session's program that listens on another port "
        f"of {address.hostname} is sent the login cookie of whoever follows a link to it."
    )


def _check(settings: Settings, *, migrates: bool) -> None:
    """Say what is wrong now, once, instead of in every process."""
    engine = wire(settings).engine
    try:
        if migrates:
            migrations.migrate(engine)
        if not migrations.is_current(engine):
            raise Misconfigured("The database is not of this release.", remedy="Run `spawner migrate`.")
    finally:
        engine.dispose()


def _settings(*, embedded: bool, host: str | None, port: int | None) -> Settings:
    settings = config.load()
    wanted: dict[str, Any] = settings.http.model_dump(exclude_unset=True)
    wanted |= {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if "public_url" not in wanted:
        listens = wanted.get("host", settings.http.host)
        shown = f"[{listens}]" if ":" in listens else listens
        wanted["public_url"] = f"http://{shown}:{wanted.get('port', settings.http.port)}"
    groups: dict[str, Any] = {"http": wanted}
    if embedded:
        groups["tasks"] = {**settings.tasks.model_dump(exclude_unset=True), "dispatcher": Dispatching.INPROCESS}
    return config.load(**groups)


@click.command("worker")
@click.option("--processes", type=click.IntRange(1, 64), help="Tasks at a time.  [env: SPAWNER_TASKS__PROCESSES]")
def worker_command(*, processes: int | None) -> int:
    """Work on sessions and builds (Celery); sweeps too, so that a lost Redis or beat stops nothing."""
    from spawner import worker  # noqa: PLC0415 - only these two commands need Celery

    settings = _celery_settings()
    if processes is not None:
        wanted = {**settings.tasks.model_dump(exclude_unset=True), "processes": processes}
        settings = config.load(tasks=wanted)
    _check(settings, migrates=False)
    return worker.run_worker(settings)


@click.command("beat")
def beat_command() -> int:
    """Wake what is due (Celery beat)."""
    from spawner import worker  # noqa: PLC0415 - only these two commands need Celery

    return worker.run_beat(_celery_settings())


def _celery_settings() -> Settings:
    settings = config.load()
    if settings.redis.url is None:
        raise Misconfigured("No Redis is set.", remedy="Set SPAWNER_REDIS__URL, e.g. redis://127.0.0.1:6379/0.")
    log.configure(level=settings.log.level.value, form=settings.log.form.value)
    return settings
