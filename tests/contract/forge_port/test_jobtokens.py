"""ID tokens of CI jobs: what a real job was given is believed, and nothing that differs from it in anything.

Covered: a token of a job that ran; issuer, audience, times, signature, algorithm, claims; keys that rotate, a GitLab
that is away, key names that somebody invented. Left out: what a job may do (functional/api).
"""

import base64
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from spawner.errors import ForgeUnavailable, TokenRejected
from spawner.gitlab.jobtokens import GitLabJobTokens
from spawner.testing.gitlab import StandIn
from spawner.users.oauth import JobClaims

AUDIENCE = "https://slipway.example.org"
JOB = f"""\
launch:
  id_tokens:
    SLIPWAY_TOKEN:
      aud: {AUDIENCE}
  script: ['echo "here: $(printf %s "$SLIPWAY_TOKEN" | base64 -w 0)"']
"""
KEYS = "GET /oauth/discovery/keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A job that ran, and the token that it had."""

    standin: StandIn
    token: str
    claims: JobClaims
    key: RSAKey

    @property
    def says(self) -> dict[str, Any]:
        """What the token says."""
        part = self.token.split(".")[1]
        found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return found

    def signed(self, key: RSAKey | None = None, *, header: dict[str, str] | None = None, **changed: Any) -> str:
        """Return the token with some claims changed (None: left out), signed as GitLab does."""
        says = {name: value for name, value in {**self.says, **changed}.items() if value is not None}
        names = {"alg": "RS256", "kid": self.key.thumbprint(), **(header or {})}
        return jwt.encode(names, says, key or self.key, algorithms=["RS256"])

    def tokens(self, audience: str = AUDIENCE) -> GitLabJobTokens:
        return GitLabJobTokens(self.standin.url, audience=audience)

    def asked(self) -> int:
        """Return how often GitLab was asked for its keys."""
        return self.standin.requests().get(KEYS, 0)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    data = tmp_path_factory.mktemp("jobs") / "gitlab"
    with StandIn.start(data=data) as standin:
        ada = standin.add_user("ada")
        project = standin.add_project("ada/launched", owner=ada)
        sha = standin.commit(project, {".gitlab-ci.yml": JOB})
        job = standin.wait_for_job(project, sha, "launch")
        assert job["status"] == "success"
        log = _log_of(standin, project.id, job["id"], ada.token)
        token = base64.b64decode(log.rpartition("here: ")[2].split()[0]).decode()
        claims = JobClaims(subject=str(ada.id), project_id=project.id, job_id=str(job["id"]))
        key = RSAKey.import_key((data / "signing.pem").read_text())
        yield Ran(standin=standin, token=token, claims=claims, key=key)


def _log_of(standin: StandIn, project_id: int, job_id: int, token: str) -> str:
    import requests  # noqa: PLC0415 - one call that is no JSON

    url = f"{standin.url}/api/v4/projects/{project_id}/jobs/{job_id}/trace"
    return requests.get(url, headers={"PRIVATE-TOKEN": token}, timeout=10).text


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def now() -> datetime:
    return datetime.now(UTC)


def test_a_jobs_token_says_who_started_it_and_where(ran: Ran) -> None:
    """What a real job was given names its person and its project; our own signing of the same is as good."""
    tokens = ran.tokens()
    assert (tokens.issuer, tokens.read(ran.token, now())) == (ran.standin.url, ran.claims)
    assert tokens.read(ran.signed(), now()) == ran.claims
    assert tokens.read(ran.signed(aud=["https://other.example.org", AUDIENCE]), now()) == ran.claims


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "https://other.example.org"},
        {"aud": f"{AUDIENCE}.evil.example.org"},
        {"aud": None},
        {"aud": 7},
        {"iss": "https://gitlab.example.org"},
        {"iss": None},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": 1_700_000_000},
        {"nbf": 4_000_000_000},
        {"user_id": None},
        {"user_id": "1 or 2"},
        {"user_id": True},
        {"project_id": None},
        {"job_id": None},
    ],
)
def test_any_claim_that_does_not_fit_is_refused(ran: Ran, changed: dict[str, Any]) -> None:
    """Signed by GitLab, and made for another purpose, person or time: nobody."""
    with pytest.raises(TokenRejected):
        ran.tokens().read(ran.signed(**changed), now())


def test_only_gitlabs_key_and_algorithm_count(ran: Ran) -> None:
    """Another key of the same name, `none`, and the public key taken for a secret prove nothing."""
    tokens = ran.tokens()
    head, body, mac = ran.token.split(".")
    none = encoded(b'{"alg":"none"}')
    confused = encoded(json.dumps({"alg": "HS256", "kid": ran.key.thumbprint()}).encode()) + f".{body}"
    public_as_secret = hmac.digest(ran.key.as_pem(private=False), confused.encode(), "sha256")
    forged = [
        ran.signed(RSAKey.generate_key(2048)),
        f"{none}.{body}.",
        f"{confused}.{encoded(public_as_secret)}",
        f"{head}.{body}.{mac[:-4]}AAAA",
        f"{head}.{body}",
        "",
    ]
    for token in forged:
        with pytest.raises(TokenRejected):
            tokens.read(token, now())


def test_a_token_ends(ran: Ran) -> None:
    """Half a minute after its end, for clocks that differ, a token is worth nothing."""
    tokens, ends = ran.tokens(), datetime.fromtimestamp(ran.says["exp"], UTC)
    assert tokens.read(ran.token, ends + timedelta(seconds=29)) == ran.claims
    with pytest.raises(TokenRejected):
        tokens.read(ran.token, ends + timedelta(seconds=31))


def test_invented_keys_cost_gitlab_nothing(ran: Ran) -> None:
    """A hundred tokens with unknown keys have GitLab asked once more, a minute after it was asked."""
    tokens, before = ran.tokens(), ran.asked()
    stranger = ran.signed(header={"kid": "invented"})
    for _ in range(100):
        with pytest.raises(TokenRejected):
            tokens.read(stranger, now())
    assert ran.asked() - before == 1
    for _ in range(100):
        with pytest.raises(TokenRejected):
            tokens.read(stranger, now() + timedelta(seconds=61))
    assert ran.asked() - before == 2


def test_keys_outlive_a_gitlab_that_is_away(ran: Ran, tmp_path: Path) -> None:
    """Keys that were known hold while GitLab cannot be asked; without any it is said, and not asked each time."""
    with StandIn.start(data=tmp_path / "gitlab", runner=False) as other:
        tokens = GitLabJobTokens(other.url, audience=AUDIENCE)
        key = RSAKey.import_key((tmp_path / "gitlab" / "signing.pem").read_text())
        token = ran.signed(key, header={"kid": key.thumbprint()}, iss=other.url)
        at = now()
        assert tokens.read(token, at) == ran.claims
    assert tokens.read(token, at + timedelta(minutes=2)) == ran.claims
    away = GitLabJobTokens(other.url, audience=AUDIENCE)
    for _ in range(2):
        with pytest.raises(ForgeUnavailable):
            away.read(token, at)
