"""What a session finds when it starts: its folders, its private files, its own thin environment.

For: the agent, before it starts anything.
Promises: doing it again changes nothing that is the person's; every private file is 0600 and theirs alone;
no secret is in any environment variable or argument. Takes milliseconds: a thin environment is a
folder, three links and a `.pth`, exactly what `python -m venv --without-pip` would leave behind.
Must not know: Git's protocol, Jupyter's options (they stand in `inside/`), the spawner.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from spawner.agent.checkout import git_configuration
from spawner.agent.files import write_json, write_whole
from spawner.agent.plan import MARKER, EnvironmentPlan, Plan

_INSIDE = Path(__file__).parent / "inside"
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
OWN_VARIABLES = frozenset({
    "PATH", "HOME", "TMPDIR", "VIRTUAL_ENV", "GIT_CONFIG_SYSTEM", "GIT_TERMINAL_PROMPT", "JUPYTER_PATH",
    "JUPYTER_CONFIG_PATH", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_DIR", MARKER,
})  # fmt: skip
"""The variables that are the session's own, whatever a launch asks for."""


def make_run_folder(plan: Plan) -> None:
    """Make the folder of sockets for the person; to be called as the agent, whose folder may lie above it."""
    plan.run.mkdir(mode=0o700)
    if plan.person is not None:
        os.chown(plan.run, plan.person.uid, plan.person.gid, follow_symlinks=False)


def prepare(plan: Plan) -> bool:
    """Make folders, private files and the thin environment; to be called as the person.

    Returns whether an older thin environment had to be put aside, because it was of another Python.
    """
    defaults = plan.private / "labconfig" / "default_setting_overrides.json"  # JupyterLab's name for it
    for folder in (plan.private, plan.home, plan.checkout_path, plan.private / "tmp", defaults.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(plan.private / "gitconfig", git_configuration(plan.checkout, plan.credential))
    for name in ("jupyter-lab", "settings.py"):
        write_whole(plan.private / name, (_INSIDE / name.replace("-", "_")).with_suffix(".py").read_text("utf-8"))
    write_whole(defaults, (_INSIDE / "defaults.json").read_text("utf-8"))
    write_json(plan.private / "session.json", _settings(plan))
    return plan.environment is not None and _thin_environment(plan, plan.environment)


def forget_secrets(plan: Plan) -> None:
    """Remove the private files that hold a secret, once the session has ended; to be called as the person."""
    for name in ("gitconfig", "session.json"):
        with suppress(OSError):
            (plan.private / name).unlink()


def variables(plan: Plan) -> dict[str, str]:
    """Return the environment of everything that runs in the session; nothing in it is secret."""
    name, _, value = plan.marker.partition("=")
    given = {} if plan.image is None else {name: text for name, text in os.environ.items() if text}
    around = {
        "LANG": "C.UTF-8",
        "SHELL": _shell(),
        "USER": "session",
        "LOGNAME": "session",
        **given,
        **plan.variables,
    }
    below = _image_variables(plan, around) if plan.environment is None else _shared_variables(plan, plan.environment)
    return {
        **around,
        "TMPDIR": str(plan.private / "tmp"),
        "GIT_TERMINAL_PROMPT": "0",
        "JUPYTER_RUNTIME_DIR": str(plan.run),
        **below,
        name: value,
    }


def _shared_variables(plan: Plan, shared: EnvironmentPlan) -> dict[str, str]:
    own = plan.own_environment
    folders = [f"{own}/bin", f"{shared.path}/bin"]
    if shared.uv is not None:
        folders.append(str(Path(shared.uv).parent))
    return {
        "PATH": ":".join([*folders, _SYSTEM_PATH]),
        "HOME": str(plan.home),
        "VIRTUAL_ENV": str(own),
        "GIT_CONFIG_SYSTEM": str(plan.private / "gitconfig"),  # in an image the system's own includes it
        "JUPYTER_PATH": f"{shared.path}/share/jupyter",
        "JUPYTER_CONFIG_PATH": f"{plan.private}:{shared.path}/etc/jupyter",
        "JUPYTERLAB_DIR": f"{shared.path}/share/jupyter/lab",
    }


def _image_variables(plan: Plan, around: Mapping[str, str]) -> dict[str, str]:
    """Keep what the image says; its home is the person's too, where they can write in it."""
    home = around.get("HOME", "")
    is_ours = Path(home).is_absolute() and os.access(home, os.W_OK | os.X_OK)
    paths = [str(plan.private), *filter(None, [around.get("JUPYTER_CONFIG_PATH")])]
    return {"HOME": home if is_ours else str(plan.home), "JUPYTER_CONFIG_PATH": ":".join(paths)}


def _shell() -> str:
    return "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"


def _settings(plan: Plan) -> dict[str, str | int]:
    return {
        "session": plan.session,
        "listen_host": plan.listen_host,
        "port": plan.port,
        "public_host": plan.public_host,
        "default_url": plan.default_url,
        "root": str(plan.checkout_path),
        "report_url": plan.report_url,
        "credential": plan.credential,
        "token": secrets.token_urlsafe(32),
        "shell": _shell(),
    }


def _thin_environment(plan: Plan, shared: EnvironmentPlan) -> bool:
    own = plan.own_environment
    configuration = (
        f"home = {Path(shared.python).parent}\n"
        "include-system-site-packages = false\n"
        f"version = {shared.version}\n"
        f"executable = {shared.python}\n"
    )
    written = own / "pyvenv.cfg"
    is_put_aside = written.exists() and written.read_text("utf-8") != configuration
    if is_put_aside:
        own.rename(own.with_name(f"environment-{secrets.token_hex(4)}"))
    minor = ".".join(shared.version.split(".")[:2])
    site_packages = own / "lib" / f"python{minor}" / "site-packages"
    (own / "bin").mkdir(mode=0o700, parents=True, exist_ok=True)
    site_packages.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, target in (("python", shared.python), ("python3", "python"), (f"python{minor}", "python")):
        if not os.path.lexists(own / "bin" / name):
            (own / "bin" / name).symlink_to(target)
    # `addsitedir`, not a bare path, so that the `.pth` files of the shared environment count too.
    write_whole(site_packages / "_slipway.pth", f"import site; site.addsitedir({shared.site_packages!r})\n")
    _pip(shared, own / "bin")
    write_whole(written, configuration)
    return is_put_aside


def _pip(shared: EnvironmentPlan, folder: Path) -> None:
    """Write `pip`, which installs into the session's own environment whatever the shared one holds."""
    has_pip = (Path(shared.site_packages) / "pip").is_dir()
    command = '"${0%/*}/python" -m pip' if has_pip else "uv pip"
    for name in ("pip", "pip3"):
        if not (folder / name).exists():
            write_whole(folder / name, f'#!/bin/sh\nexec {command} "$@"\n', mode=0o700)
