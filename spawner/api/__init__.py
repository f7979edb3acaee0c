"""The HTTP API: the compatible contract, what is ours beside it, the Git relay, hooks and health.

Views parse, call one service method and render. Must not know: adapters, pages, each other's insides.
"""

from flask import Blueprint, Flask

from spawner.api import agent, binder, git, health, hooks, openapi, projects, servers, side, stream, tokens

COMPATIBLE_PREFIXES = {"notebooks": "/notebooks", "api_notebooks": "/api/notebooks"}
OWN_PREFIX = "/api/slipway/v1"


def register(app: Flask) -> None:
    """Give the app every route of the API."""
    for name, prefix in COMPATIBLE_PREFIXES.items():
        compatible = Blueprint(name, __name__, url_prefix=prefix)
        servers.register(compatible)
        stream.register(compatible)
        openapi.register(compatible)
        app.register_blueprint(compatible)
    own = Blueprint("own", __name__, url_prefix=OWN_PREFIX)
    stream.register_own(own)
    tokens.register(own)
    projects.register(own)
    agent.register(own)
    app.register_blueprint(own)
    bare = Blueprint("bare", __name__)
    for part in (health, side, hooks, git, binder):
        part.register(bare)
    app.register_blueprint(bare)
