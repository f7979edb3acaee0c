"""Signatures: rotation, separation of purposes, forged and damaged texts. Left out: storage and revocation."""

import base64
import json

import pytest

from spawner.errors import Misconfigured
from spawner.names import WorkloadName
from spawner.users.keys import Keyring, derive, looks_like_ours

WORKLOAD = WorkloadName("flights-1234567-00112233445566aa")


def test_a_credential_is_believed_under_every_key_and_signed_with_the_newest() -> None:
    """After a rotation old credentials still hold, and new ones are of the new key."""
    old, rotated, new = Keyring([b"old"]), Keyring([b"new", b"old"]), Keyring([b"new"])
    before, after = old.session_credential(WORKLOAD, 3), rotated.session_credential(WORKLOAD, 3)
    found = (rotated.read_session_credential(before), new.read_session_credential(before))
    assert found == ((WORKLOAD, 3), None)
    assert new.read_session_credential(after) == (WORKLOAD, 3)


@pytest.mark.parametrize("damage", ["", "slws_", "slws_a.1.", "slws_..", "slws_é.1.x", "x" * 5000, "{0}x", "x{0}"])
def test_a_text_that_is_no_credential_is_none(damage: str) -> None:
    """Anything but an exact credential is None, never an error."""
    ring = Keyring([b"key"])
    assert ring.read_session_credential(damage.format(ring.session_credential(WORKLOAD, 1))) is None


def test_a_generation_cannot_be_changed() -> None:
    """The signature covers workload and generation."""
    ring = Keyring([b"key"])
    credential = ring.session_credential(WORKLOAD, 1)
    assert ring.read_session_credential(credential.replace(".1.", ".2.")) is None


def test_each_purpose_has_its_own_key() -> None:
    """Sub-keys differ by purpose and by key."""
    found = {derive(b"a", "x"), derive(b"a", "y"), derive(b"b", "x")}
    assert len(found) == 3


def test_a_token_is_read_back_under_every_key_and_forgeries_are_not() -> None:
    """Our JWT is believed with its signature only; `alg: none` and a stranger's key are nothing."""
    token = Keyring([b"old"]).sign_token({"sub": "a", "jti": "b", "exp": 1})
    header, payload, _ = token.split(".")
    unsigned = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")
    ring = Keyring([b"new", b"old"])
    found = [
        ring.read_token(text) for text in (f"{header}.{payload}.", f"{unsigned}.{payload}.", "a.b.c", "é", "x" * 5000)
    ]
    assert found == [None] * 5
    assert Keyring([b"new"]).read_token(token) is None
    assert ring.read_token(token) == {"sub": "a", "jti": "b", "exp": 1, "iss": "slipway"}
    assert (looks_like_ours(token), looks_like_ours("glpat-x"), looks_like_ours("a.b.c")) == (True, False, False)


@pytest.mark.parametrize("keys", [[], [b""]])
def test_no_key_is_refused_at_once(keys: list[bytes]) -> None:
    """A service without a secret key does not begin."""
    with pytest.raises(Misconfigured):
        Keyring(keys)
