"""A small package index on loopback: real wheels and sources, made on the spot, with or without a password.

It speaks the simple repository API (PEP 503, with hashes), which is all that `uv` asks of an index.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BACKEND = """
import pathlib, zipfile
NAME, VERSION = "{name}", "{version}"
def build_wheel(folder, config=None, metadata=None):
    filename = f"{{NAME}}-{{VERSION}}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder, filename), "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{{NAME}}.py"), "built = True\\n")
        info = f"{{NAME}}-{{VERSION}}.dist-info"
        metadata = f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n"
        archive.writestr(zipfile.ZipInfo(f"{{info}}/METADATA"), metadata)
        tags = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        archive.writestr(zipfile.ZipInfo(f"{{info}}/WHEEL"), tags)
        archive.writestr(zipfile.ZipInfo(f"{{info}}/RECORD"), "")
    return filename
"""
SOURCE_PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "{name}"
version = "{version}"
"""


def wheel(name: str, version: str, requires: Sequence[str] = (), python: str = "") -> tuple[str, bytes]:
    """Make a wheel: its file name and bytes."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    needs += f"Requires-Python: {python}\n" if python else ""
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{name}-{version}-py3-none-any.whl", target.getvalue()


def source_files(name: str, version: str) -> dict[str, str]:
    """Write a project that builds itself, without any other package."""
    return {
        "pyproject.toml": SOURCE_PROJECT.format(name=name, version=version),
        "backend.py": BACKEND.format(name=name, version=version),
    }


def source(name: str, version: str) -> tuple[str, bytes]:
    """Make a source archive of such a project: its file name and bytes."""
    target = io.BytesIO()
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for path, text in {**source_files(name, version), "PKG-INFO": metadata}.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return f"{name}-{version}.tar.gz", target.getvalue()


@dataclass(kw_only=True)
class Index:
    """The files by project name, the requests that came, and what to do at the first of them."""

    files: dict[str, dict[str, bytes]]
    password: str | None = None
    port: int = 0
    requests: list[str] = field(default_factory=list)
    forged: frozenset[str] = frozenset()  # files that are sent otherwise than their hash says
    meanwhile: Callable[[], None] | None = None

    @property
    def url(self) -> str:
        """Where it is, with its password if it has one."""
        login = f"reader:{self.password}@" if self.password else ""
        return f"http://{login}127.0.0.1:{self.port}/simple"

    def add(self, file: tuple[str, bytes]) -> None:
        """Publish a file."""
        name = file[0].split("-")[0].replace("_", "-")
        self.files.setdefault(name, {})[file[0]] = file[1]

    def answer(self, path: str) -> bytes | None:
        """Answer one request; None: there is no such page."""
        self.requests.append(path)
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()
        parts = path.strip("/").split("/")
        found = self.files.get(parts[1], {}) if len(parts) > 1 else {}
        if parts[0] == "files" and len(parts) == 3:
            content = found.get(parts[2])
            return content + b" " if content is not None and parts[2] in self.forged else content
        links = [
            f'<a href="/files/{parts[1]}/{name}#sha256={hashlib.sha256(content).hexdigest()}">{name}</a>'
            for name, content in found.items()
        ]
        return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode() if links else None


@contextmanager
def package_index(password: str | None = None) -> Iterator[Index]:
    """Run an index that has what a session needs, and what the tests add."""
    index = Index(files={}, password=password)
    for name, version in (("jupyterlab", "4.6.6"), ("jupyter_server", "2.21.1"), ("ipykernel", "7.4.0"),
                          ("jupyterlab", "4.9.0"), ("gauge", "1.0"), ("gauge", "2.0")):  # fmt: skip
        index.add(wheel(name, version))

    class Answers(BaseHTTPRequestHandler):
        """Answers one request."""

        def do_GET(self) -> None:
            """Check the password, then serve."""
            expected = base64.b64encode(f"reader:{password}".encode()).decode()
            is_allowed = password is None or self.headers.get("Authorization") == f"Basic {expected}"
            content = index.answer(self.path) if is_allowed else b""
            self.send_response(401 if not is_allowed else 404 if content is None else 200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET  # noqa: N815 - the name http.server calls

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name http.server has
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    index.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        thread.join(timeout=30)
        server.server_close()
