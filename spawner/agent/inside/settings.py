"""Settings of a session's JupyterLab, and who may enter it.

For: `jupyter lab --config`; read from a private folder, with `session.json` beside it.
Promises: nobody enters without this session's token or a cookie from a one-time code; a GET never sets that cookie;
the server answers to its own name and to loopback addresses only.
Must not know: how the spawner makes a code; it asks `<report_url>/redeem` by POST.
Source: jupyter-server 2 `IdentityProvider`, https://jupyter-server.readthedocs.io/en/latest/operators/security.html
"""
# ruff: noqa: D102, D103 - overrides of documented methods in an untyped library

import asyncio
import hashlib
import html
import json
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import Any

try:
    from jupyter_server.auth.identity import IdentityProvider, User  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    sys.exit("This image's Jupyter server is too old: install jupyter-server 2 or newer in it.")
try:
    from jupyter_server.auth.decorator import allow_unauthenticated  # type: ignore[import-not-found,unused-ignore]
except ImportError:  # before 2.13 what asks nobody who they are is open as it is

    def allow_unauthenticated(method: Any) -> Any:
        return method


from jupyter_server.base.handlers import JupyterHandler  # type: ignore[import-not-found,unused-ignore]
from tornado import web  # type: ignore[import-not-found,import-untyped,unused-ignore]

_HERE = Path(__file__).parent
_SESSION = json.loads((_HERE / "session.json").read_text(encoding="utf-8"))
_UNIQUE = hashlib.sha256(_SESSION["session"].encode()).hexdigest()[:16]
_STATE_COOKIE = f"slipway-state-{_UNIQUE}"
_REDEEM_SECONDS = 10
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><meta name="referrer" content="strict-origin">
<style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:20vh auto;padding:0 1rem}}
@media (prefers-color-scheme:dark){{body{{background:#111;color:#eee}}}}</style></head><body>{body}</body></html>"""
_OPENING = """<h1>Opening your session</h1><form method="post" action="{action}">
<input type="hidden" name="code" value="{code}"><input type="hidden" name="state" value="{state}">
<button>Open JupyterLab</button></form><script nonce="{nonce}">document.forms[0].submit()</script>"""
_CLOSED = "<h1>{title}</h1><p>{text}</p><p>Open the session again from its page.</p>"


def redeem(code: str) -> dict[str, Any] | None:
    """Ask the spawner whose code this is; None when it is good for nobody."""
    request = urllib.request.Request(  # noqa: S310 - the spawner's own address
        _SESSION["report_url"].rstrip("/") + "/redeem",
        data=json.dumps({"code": code}).encode(),
        headers={"Authorization": f"Bearer {_SESSION['credential']}", "Content-Type": "application/json"},
        method="POST",
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=_REDEEM_SECONDS) as answer:
            value = json.loads(answer.read())
    except urllib.error.HTTPError as refusal:
        refusal.close()
        if refusal.code < 500:  # noqa: PLR2004 - HTTP's own number
            return None
        raise web.HTTPError(503, "The service that knows your code is busy.") from refusal
    except OSError as absence:
        raise web.HTTPError(503, "The service that knows your code is away.") from absence
    return value if isinstance(value, dict) else None


def user_of(redeemed: dict[str, Any]) -> Any:
    user = redeemed.get("user") or redeemed
    username = str(user.get("username", "session")) if isinstance(user, dict) else str(user)
    return User(username=username)


class OpenHandler(JupyterHandler):  # type: ignore[misc,unused-ignore]
    """The door: a page that posts its code, and the redeeming itself."""

    def check_xsrf_cookie(self) -> None:
        """The state below takes the place of Jupyter's own check, whose cookie nobody has yet."""

    @property
    def content_security_policy(self) -> str:
        return (
            f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{self._nonce}'; frame-ancestors 'none'"
        )

    @allow_unauthenticated  # type: ignore[untyped-decorator,unused-ignore]
    async def get(self) -> None:
        code = self.get_query_argument("code", "")
        self.set_header("Cache-Control", "no-store")
        # Without its origin the form below would be refused; of the address, which holds the code, nothing is told.
        self.set_header("Referrer-Policy", "strict-origin")
        if "application/json" in self.request.headers.get("Accept", ""):
            await self._answer_program(code)
            return
        own_host = str(_SESSION["public_host"]).lower()
        if self.request.host_name.lower() != own_host:
            # A browser that a program sent here; a cookie for loopback would be every session's. The name of the
            # session is told to nobody: whoever was given this address was given the name with it.
            if not secrets.compare_digest(self.get_query_argument("host", "").lower().encode(), own_host.encode()):
                self._refuse("This is not the session's own address", "It opens under its own name only.")
                return
            own = f"http://{own_host}:{_SESSION['port']}{self._path}"
            self.redirect(f"{own}?{urllib.parse.urlencode({'code': code})}")
            return
        state = secrets.token_urlsafe(24)
        self.set_cookie(_STATE_COOKIE, state, path=self._path, httponly=True, samesite="Strict", max_age=300)
        opening = _OPENING.format(action=self._path, code=html.escape(code), state=state, nonce=self._nonce)
        self.finish(_PAGE.format(title="Opening your session", body=opening))

    @allow_unauthenticated  # type: ignore[untyped-decorator,unused-ignore]
    async def post(self) -> None:
        self.set_header("Cache-Control", "no-store")
        state, sent = self.get_cookie(_STATE_COOKIE, ""), self.get_body_argument("state", "")
        if not state or not secrets.compare_digest(state.encode(), sent.encode()) or not self._is_own_origin():
            self._refuse("This form is not ours", "It was not sent from the page that this session showed you.")
            return
        redeemed = await asyncio.to_thread(redeem, self.get_body_argument("code", ""))
        if redeemed is None:
            self._refuse("This link has been used or is too old", "Such a link is good once, for a minute.")
            return
        self.clear_cookie(_STATE_COOKIE, path=self._path)
        self.identity_provider.set_login_cookie(self, user_of(redeemed))
        self.redirect(_SESSION["default_url"] or "/lab", status=303)

    @cached_property
    def _nonce(self) -> str:
        """Name the one script that may run on this one page."""
        return secrets.token_urlsafe(12)

    @property
    def _path(self) -> str:
        return str(self.base_url).rstrip("/") + "/slipway/open"

    async def _answer_program(self, code: str) -> None:
        self.set_header("Content-Type", "application/json")
        if await asyncio.to_thread(redeem, code) is None:
            self.set_status(403)
            self.finish(json.dumps({"message": "This code has been used or is too old."}))
            return
        base_url = f"http://127.0.0.1:{_SESSION['port']}/"
        headers = {"Authorization": f"token {_SESSION['token']}"}
        self.finish(json.dumps({"base_url": base_url, "headers": headers}))

    def _is_own_origin(self) -> bool:
        origin = self.request.headers.get("Origin")
        return origin is None or origin.partition("://")[2].lower() == self.request.host.lower()

    def _refuse(self, title: str, text: str) -> None:
        self.set_status(403)
        self.finish(_PAGE.format(title=title, body=_CLOSED.format(title=title, text=text)))


class SignInHandler(JupyterHandler):  # type: ignore[misc,unused-ignore]
    """Where Jupyter sends people without a cookie: there is no form, only the way back."""

    @allow_unauthenticated  # type: ignore[untyped-decorator,unused-ignore]
    def get(self) -> None:
        self.set_status(403)
        text = "This browser has not been let in yet, or no longer is."
        self.finish(_PAGE.format(title="Closed", body=_CLOSED.format(title="This session is closed to you", text=text)))


class SessionIdentity(IdentityProvider):  # type: ignore[misc,unused-ignore]
    """One session, one person: the cookie of a redeemed code, or the session's token in a header."""

    login_available = True

    def get_handlers(self) -> Any:
        return [*super().get_handlers(), (r"/slipway/open", OpenHandler)]

    def get_token(self, handler: Any) -> str | None:
        """Take the token from the header only: a URL is kept in histories and logs."""
        scheme, _, token = handler.request.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() in {"token", "bearer"} else None


c: Any = get_config()  # type: ignore[name-defined] # noqa: F821 - Jupyter's own, in every settings file
c.ServerApp.ip = _SESSION["listen_host"]
c.ServerApp.port = _SESSION["port"]
c.ServerApp.port_retries = 0
c.ServerApp.base_url = "/"
c.ServerApp.root_dir = _SESSION["root"]
c.ServerApp.open_browser = False
c.ServerApp.quit_button = False
c.ServerApp.allow_root = True  # where a session is root's, so is the spawner
c.ServerApp.local_hostnames = ["localhost", _SESSION["public_host"]]
if _SESSION["listen_host"] in {"0.0.0.0", "::"}:  # noqa: S104 - compared
    c.ServerApp.allow_remote_access = False  # or any Host would do; people know the name, programs come to loopback
c.ServerApp.cookie_secret_file = str(_HERE / "cookie-secret")
c.ServerApp.identity_provider_class = SessionIdentity
c.ServerApp.terminado_settings = {"shell_command": [_SESSION["shell"]]}  # not -l: /etc/profile replaces PATH
c.IdentityProvider.token = _SESSION["token"]
c.IdentityProvider.cookie_name = f"slipway-session-{_UNIQUE}"
c.IdentityProvider.cookie_options = {"samesite": "Lax"}
c.IdentityProvider.login_handler_class = SignInHandler
# Over TCP whoever may connect to loopback hears what a kernel prints: its channel of outputs asks nobody who they are.
c.KernelManager.transport = "ipc"
# jupyter-lsp would ask `npm` where it installs, a third of a second of work at every start.
c.LanguageServerManager.node_roots = [_SESSION["root"], "/usr/local/lib", "/usr/lib"]
c.FileContentsManager.delete_to_trash = False
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.news_url = None
if _SESSION["default_url"]:
    c.LabApp.default_url = _SESSION["default_url"]
    c.ServerApp.default_url = _SESSION["default_url"]
