"""Addresses that the documents name are addresses that somebody answers.

Covered: paths in code spans and URLs of example hosts, in every page a person wrote. Left out: generated pages, which
are made from the routes, and what an address answers.
"""

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter, RequestRedirect

from spawner.testing.gitlab.app import gitlab_app
from spawner.testing.gitlab.instance import Limits, open_instance

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "gitlab-ci-templates").glob("*.md"))
    if path.parent.name != "reference"
]
_FOLDERS = ("/etc/", "/var/", "/opt/", "/usr/", "/tmp/", "/proc/")  # of the machine's files
_OURS = r"https?://(?:slipway\.example\.org|s|127\.0\.0\.1:8000|localhost:8000)"  # `<…>` has become `s` by then
_NAMED = re.compile(rf"`(?:[A-Z]+ )?(/[^\s`?]*)|{_OURS}(/[^\s`?)\"]*)")


def paths(text: str) -> Iterator[str]:
    """Yield the paths of addresses in a page; a placeholder (`<name>`, `…`) becomes a word."""
    plain = re.sub(r"<[^>\n]*>|…", "s", text)
    for found in _NAMED.finditer(plain):
        path = found[1] or found[2]
        if not path.startswith(_FOLDERS):
            yield path


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[MapAdapter]]:
    """The routes of the spawner and of the stand-in."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = tmp_path_factory.mktemp("gitlab")
    instance = open_instance(data=data, url="http://gitlab", registry_url="http://registry", limits=Limits())
    yield [app.url_map.bind("host") for app in (module.empty_app(), gitlab_app(instance))]
    instance.store.close()


def _is_answered(path: str, adapters: list[MapAdapter]) -> bool:
    """Say whether a path is a route, or begins one, or is one below the compatible prefix that pages leave out."""
    return any(
        _begins(adapter, path) or _is_route(adapter, path) or _is_route(adapter, f"/notebooks{path}")
        for adapter in adapters
    )


def _begins(adapter: MapAdapter, path: str) -> bool:
    return path.endswith("/") and any(rule.rule.startswith(path) for rule in adapter.map.iter_rules())


def _is_route(adapter: MapAdapter, path: str) -> bool:
    for method in ("GET", "POST", "PATCH", "DELETE"):
        with contextlib.suppress(HTTPException, RequestRedirect):
            rule, _ = adapter.match(path, method=method, return_rule=True)
            if not rule.rule.startswith("/<"):  # a project's own path, which may be anything
                return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_address_is_answered(page: Path, adapters: list[MapAdapter]) -> None:
    """Whoever types what a page says is answered."""
    wrong = [path for path in paths(page.read_text(encoding="utf-8")) if not _is_answered(path, adapters)]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`https://<spawner>/hooks/gitlab`", ["/hooks/gitlab"]),
        ("`POST /servers` and `/etc/slipway/keys`", ["/servers"]),
        ("https://slipway.example.org/launch/<project path>/-/tree/<branch>", ["/launch/s/-/tree/s"]),
        ("https://gitlab.example.org/group/project", []),
    ],
)
def test_addresses_are_found(text: str, found: list[str]) -> None:
    """The pages are read as a person reads them."""
    assert list(paths(text)) == found


def test_an_address_that_nobody_answers_is_found(adapters: list[MapAdapter]) -> None:
    """A path that looks like one of ours and is none does not pass."""
    assert not _is_answered("/api/slipway/v1/hooks/gitlab", adapters)
