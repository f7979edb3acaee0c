"""Pages of lists, as GitLab's API cuts them (https://docs.gitlab.com/api/rest/#pagination, 18.x).

Promises: offset pages of at most 100 rows with `X-*` headers and `Link`; keyset pages where a list offers them. The
`Link` addresses keep the scheme, host and port that the client used.
Must not know: what the rows are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

import flask

from spawner.testing.gitlab import web

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

R = TypeVar("R")
_DEFAULT_ROWS = 20
_MOST_ROWS = 100
_COUNTED_ROWS = 10_000


def window() -> tuple[int, int]:
    """Return the asked page and rows per page.

    Raises:
        APIError: 400 when one of them is no number or not positive.
    """
    page, rows = web.whole("page", 1) or 1, web.whole("per_page", _DEFAULT_ROWS)
    if page < 1:
        web.invalid("page does not have a valid value")
    if rows is None or rows < 1:
        web.invalid("per_page has a value not allowed")
    return page, min(rows, _MOST_ROWS)


def listed(rows: Sequence[R], shape: Callable[[R], object], *, counted: bool = True) -> flask.Response:
    """Answer one page of rows."""
    page, per_page = window()
    part = rows[(page - 1) * per_page : page * per_page]
    return sliced([shape(row) for row in part], total=len(rows), counted=counted)


def sliced(part: list[object], *, total: int, counted: bool = True) -> flask.Response:
    """Answer one page that was cut already, of `total` rows; uncounted lists tell no total."""
    page, per_page = window()
    pages = max(1, -(-total // per_page))
    after = page + 1 if page < pages else None
    before = page - 1 if page > 1 else None
    headers = {
        "X-Page": str(page),
        "X-Per-Page": str(per_page),
        "X-Next-Page": str(after or ""),
        "X-Prev-Page": str(before or ""),
    }
    links = [("prev", before), ("next", after), ("first", 1)]
    if counted and total <= _COUNTED_ROWS:
        headers |= {"X-Total": str(total), "X-Total-Pages": str(pages)}
        links.append(("last", pages))
    headers["Link"] = ", ".join(
        f'<{address(page=number, per_page=per_page)}>; rel="{name}"' for name, number in links if number
    )
    return web.answer(part, headers=headers)


def keyset(rows: Sequence[R], shape: Callable[[R], object], *, key: Callable[[R], int]) -> flask.Response:
    """Answer rows by `id_after` or `id_before`; only a `next` link is given.

    Raises:
        APIError: 405 when the order is not by id.
    """
    _, per_page = window()
    if web.text("order_by") not in {None, "id"}:
        raise web.APIError(405, {"error": "Keyset pagination is not yet available for this type of request"})
    falling = web.text("sort") != "asc"
    name = "id_before" if falling else "id_after"
    edge = web.whole(name)
    ordered = sorted(rows, key=key, reverse=falling)
    if edge is not None:
        ordered = [row for row in ordered if (key(row) < edge if falling else key(row) > edge)]
    part = ordered[:per_page]
    headers = {}
    if len(ordered) > per_page:
        headers["Link"] = f'<{address(**{name: key(part[-1])})}>; rel="next"'
    return web.answer([shape(row) for row in part], headers=headers)


def wants_keyset() -> bool:
    """Tell whether the caller asked for keyset pages."""
    return web.text("pagination") == "keyset"


def address(**changed: object) -> str:
    """Return this request's address with other parameters."""
    request = flask.request
    kept = [
        (name, value)
        for name, value in request.args.items(multi=True)
        if name not in changed and name not in {"private_token", "access_token", "job_token"}
    ]
    raw = (request.environ.get("RAW_URI") or request.path).partition("?")[0]
    query = urlencode([*kept, *((name, str(value)) for name, value in changed.items())])
    return f"{request.scheme}://{request.host}{raw}?{query}"
