"""How a session's server is started: on a prepared environment, or by its image's own entrypoint.

For: the supervisor.
Promises: pure; no secret in an argument: the settings name the private file that holds it.
Must not know: when it is started, what its settings say.
"""

from spawner.agent.plan import Plan

# After the entrypoint, which may be what puts Jupyter on the PATH. Each of the three serves the same pages.
_SCRIPT = """
for command in jupyter-lab jupyter-notebook jupyter-server; do
    if command -v "$command" >/dev/null 2>&1; then exec "$command" "$@"; fi
done
echo "This image has no Jupyter on its PATH." >&2
exit 127
"""


def command(plan: Plan) -> list[str]:
    """Return what starts the server."""
    if plan.image is None:
        return [str(plan.own_environment / "bin" / "python"), str(plan.private / "jupyter-lab")]
    return [*plan.image.entrypoint, "/bin/sh", "-c", _SCRIPT, "sh", f"--config={plan.private / 'settings.py'}"]
