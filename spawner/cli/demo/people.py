"""The demo's people, their empty projects, and the spawner's OAuth application, written into the stand-in's data.

For: before the stand-in starts, because it has no address that makes people. Promises: idempotent over one data folder;
passwords and tokens are new each time.
Must not know: processes, Git.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spawner.cli.demo.seeding import MEMBER, OWNER, SAMPLE_NAMES, SeededUser
from spawner.testing.gitlab import oauth, people, tokens
from spawner.testing.gitlab.access import find_project, user_by_name
from spawner.testing.gitlab.instance import Instance, Limits, digest, open_instance
from spawner.testing.gitlab.records import Application, Level, User

APPLICATION = "Slipway"
# What a person's grant has to carry so that every button works; `api` is for starting builds.
SCOPES = ("api", "read_api", "read_repository", "write_repository", "read_registry", "openid", "profile", "email")
_PASSWORD_BYTES = 4  # of a person who exists in a stand-in on loopback, for as long as the demo runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """Who was made, and the application's credentials."""

    users: tuple[SeededUser, ...]
    client_id: str
    client_secret: str = field(repr=False)


def seed_people(data: Path, *, gitlab_url: str, registry_url: str, redirect_uris: Sequence[str]) -> Seeded:
    """Write people, projects and the application into the stand-in's data folder, which nobody else may have open."""
    instance = open_instance(data=data, url=gitlab_url, registry_url=registry_url, limits=Limits())
    try:
        with instance.store:
            users = tuple(_user(instance, name) for name in (OWNER, MEMBER))
            for name in SAMPLE_NAMES:
                _project(instance, f"{OWNER}/{name}")
            for kept in instance.store.all(Application, lambda row: row.name == APPLICATION):
                instance.store.drop(kept)
            application, secret = oauth.register(instance, name=APPLICATION, redirect_uris=redirect_uris, scopes=SCOPES)
            return Seeded(users=users, client_id=application.uid, client_secret=secret)
    finally:
        instance.store.close()


def _user(instance: Instance, name: str) -> SeededUser:
    password = secrets.token_hex(_PASSWORD_BYTES)
    user = user_by_name(instance, name) or people.add_user(instance, name)
    changed = instance.store.change(user, password_digest=digest(password))
    _, token = tokens.personal(
        instance, changed, name="demo", scopes=("api", "read_repository", "write_repository", "read_registry")
    )
    return SeededUser(username=name, token=token, password=password)


def _project(instance: Instance, path: str) -> None:
    if find_project(instance, path) is not None:
        return
    owner, member = (_known(instance, name) for name in (OWNER, MEMBER))
    people.add_member(instance, people.add_project(instance, path, creator=owner), member, Level.DEVELOPER)


def _known(instance: Instance, name: str) -> User:
    user = user_by_name(instance, name)
    if user is None:
        raise LookupError(name)
    return user
