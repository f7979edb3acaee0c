"""LFS answers written anew: links lead to the relay, and no token passes.

Covered: batch and lock answers with everything a forge may put there. Left out: the relay over HTTP.
"""

import json

import pytest

from spawner.api.git import _ADDRESS, batch_answer, lock_answer

OID = "a" * 64
RELAY = "http://127.0.0.1:8000/git/s/grp/proj.git"
CANARY = "glpat-canary"


def test_batch() -> None:
    """Of a batch answer nothing is kept but ids, sizes, errors and which actions there are."""
    told = {
        "transfer": "lfs-standalone-file",
        "objects": [
            {
                "oid": OID,
                "size": 7,
                "actions": {
                    "download": {"href": f"https://x:{CANARY}@gitlab/a", "header": {"Authorization": CANARY}},
                    "upload": {"href": CANARY, "header": {"Authorization": CANARY}},
                    "verify": {"href": CANARY, "header": {"Authorization": CANARY}},
                },
                CANARY: CANARY,
            },
            {"oid": OID, "size": 8, "error": {"code": 404, "message": "Object does not exist"}},
            {"oid": f"../{CANARY}", "size": 1},
            CANARY,
        ],
        "token": CANARY,
    }
    expected = {
        "transfer": "basic",
        "objects": [
            {
                "oid": OID,
                "size": 7,
                "authenticated": True,
                "actions": {
                    "download": {"href": f"{RELAY}/gitlab-lfs/objects/{OID}"},
                    "upload": {"href": f"{RELAY}/gitlab-lfs/objects/{OID}/7"},
                },
            },
            {
                "oid": OID,
                "size": 8,
                "authenticated": True,
                "error": {"code": 404, "message": "Object does not exist"},
            },
        ],
    }
    found = batch_answer(told, RELAY)
    assert expected == found
    assert CANARY not in json.dumps(found)


def test_locks() -> None:
    """Of an answer about locks the fields that the client reads are kept."""
    lock = {"id": "1", "path": "a.bin", "locked_at": "2026-01-01T00:00:00Z", "owner": {"name": "ada"}}
    told = {"locks": [{**lock, "header": CANARY}], "ours": [lock], "theirs": "x", "next_cursor": "2", "href": CANARY}
    assert lock_answer(told) == {"locks": [lock], "ours": [lock], "next_cursor": "2"}


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("grp/proj.git/info/refs", ("grp/proj", "info/refs")),
        ("grp/sub/proj/git-upload-pack", ("grp/sub/proj", "git-upload-pack")),
        ("grp/proj.git/git-receive-pack", ("grp/proj", "git-receive-pack")),
        ("grp/proj.git/info/lfs/objects/batch", ("grp/proj", "info/lfs/objects/batch")),
        ("grp/proj.git/info/lfs/locks/12/unlock", ("grp/proj", "info/lfs/locks/12/unlock")),
        (f"grp/proj.git/gitlab-lfs/objects/{OID}/12", ("grp/proj", f"gitlab-lfs/objects/{OID}/12")),
        ("grp/proj.git/objects/info/packs", None),
        ("grp/proj.git/HEAD", None),
        ("grp/proj.git/info/refs/..", None),
        ("git-upload-pack", None),
        ("grp/proj.git/gitlab-lfs/objects/../../x", None),
    ],
)
def test_address(rest: str, expected: tuple[str, str] | None) -> None:
    """Only the suffixes of Git and LFS are known."""
    found = _ADDRESS.fullmatch(rest)
    assert expected == (None if found is None else (found["project"], found["suffix"]))
