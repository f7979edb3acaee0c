"""The app for any WSGI server: `gunicorn --worker-class gthread 'spawner.wsgi:create()'`.

For: people who run a server of their own; `spawner serve` needs none of this.
Promises: nothing is read or connected at import; one call wires and starts one process, after its fork.
Must not know: which server calls it.
"""

import atexit

from flask import Flask

from spawner import config, log
from spawner.http import create_app
from spawner.wiring import wire


def create() -> Flask:
    """Return the app over the settings of the environment; raises Misconfigured."""
    settings = config.load()
    log.configure(level=settings.log.level.value, form=settings.log.form.value)
    wired = wire(settings)
    wired.start()
    atexit.register(wired.stop)
    return create_app(wired.services, wired.edge)
