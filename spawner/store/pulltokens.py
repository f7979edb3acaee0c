"""Pull tokens of projects (`spawner.images.pulling.PullTokenStore`), sealed at rest.

Promises: one token per project; of two processes that bring one at once, one is kept and both are told which; what no
key opens any more is as if it were not there.
Must not know: GitLab, when a token is old.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Engine, delete, select, update

from spawner.ports import PullToken
from spawner.store import tables
from spawner.store.engine import reading, writing
from spawner.store.sealing import Seal
from spawner.store.upsert import insert_new

_tokens = tables.pull_tokens


class PullTokenRows:
    """`PullTokenStore` over an engine; `keys` are the key file's lines, the first writes, all read."""

    def __init__(self, engine: Engine, keys: Sequence[bytes]) -> None:
        self._engine = engine
        self._seal = Seal(keys)

    def get(self, forge: str, project_id: int) -> PullToken | None:
        """Return the project's token, or None; None also when no key opens it."""
        with reading(self._engine) as connection:
            row = connection.execute(select(_tokens).where(*_key(forge, project_id))).mappings().first()
        opened = None if row is None else self._seal.open(_sealed_for(forge, project_id), row["sealed"])
        if row is None or opened is None:
            return None
        return PullToken(id=row["token_id"], username=row["username"], token=opened[0], expires_at=row["expires_at"])

    def put(self, forge: str, project_id: int, token: PullToken, *, instead_of: int | None) -> bool:
        """Keep a token in the place of another one, by its id, or of none; False when that is no longer so."""
        columns = {
            "token_id": token.id,
            "username": token.username,
            "sealed": self._seal.close(_sealed_for(forge, project_id), token.token, None),
            "expires_at": token.expires_at,
        }
        with writing(self._engine) as connection:
            if instead_of is None:
                self._clear(connection, forge, project_id)
                return insert_new(connection, _tokens, {"forge": forge, "project_id": project_id, **columns})
            held = (*_key(forge, project_id), _tokens.c.token_id == instead_of)
            return connection.execute(update(_tokens).where(*held).values(**columns)).rowcount == 1

    def remove(self, forge: str, project_id: int, token_id: int) -> None:
        """Forget a token; a no-op when another one has its place, or none."""
        with writing(self._engine) as connection:
            connection.execute(delete(_tokens).where(*_key(forge, project_id), _tokens.c.token_id == token_id))

    def _clear(self, connection: Connection, forge: str, project_id: int) -> None:
        """Delete a row that no key opens."""
        sealed = connection.execute(select(_tokens.c.sealed).where(*_key(forge, project_id))).scalar()
        if sealed is not None and self._seal.open(_sealed_for(forge, project_id), sealed) is None:
            connection.execute(delete(_tokens).where(*_key(forge, project_id), _tokens.c.sealed == sealed))


def _key(forge: str, project_id: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return _tokens.c.forge == forge, _tokens.c.project_id == project_id


def _sealed_for(forge: str, project_id: int) -> tuple[str, ...]:
    return "pull token", forge, str(project_id)
