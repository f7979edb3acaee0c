"""What a session can read: a search that runs in a real kernel of it, and the forms in which a secret may show.

For: the isolation of people. Promises: the words looked for are never themselves left in the session (they travel
disguised, a kernel's history keeps what it ran); the search says how much it read, so that an empty one shows.
Must not know: whose session it is.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from spawner.testing.democheck import Kernel

_DISGUISE = 0x5A
_LEAD = {0: 0, 1: 2, 2: 3}  # base64 characters that depend on what stands before, by its length modulo 3

SEARCH_SECONDS = 600.0  # every file that a session may read, on a machine that has many

# Runs in the kernel. ROOTS are walked, PATHS read as they are; `found` names places, never contents.
_LOOK = r"""
import glob, json, os, pwd, re, socket, subprocess
words = [bytes(each ^ 0x5A for each in bytes.fromhex(word)) for word in WORDS]
found, counts = [], {"files": 0, "processes": 0, "ports": 0, "bytes": 0}
def look(place, data):
    counts["bytes"] += len(data)
    found.extend([place, number] for number, word in enumerate(words) if word in data)
    return len(data)
def read(path, limit=4_000_000):
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError:
        return b""
SKIPPED = {"environments", "interpreters", "uv-cache", "site-packages", "node_modules"}
for root in ROOTS:
    for folder, folders, files in os.walk(root):
        folders[:] = [each for each in folders if each not in SKIPPED]
        look(folder + "/", "\n".join([folder, *folders, *files]).encode())
        for each in files:
            path = os.path.join(folder, each)
            counts["files"] += os.path.isfile(path) and bool(look(path, read(path)))
for path in PATHS:
    counts["files"] += bool(look(path, read(path)))
    look(path + "/*", "\n".join(glob.glob(path + "/*")).encode())
look("environment", repr(dict(os.environ)).encode())
for pid in (each for each in os.listdir("/proc") if each.isdigit()):
    counts["processes"] += 1
    for each in ("cmdline", "environ", "maps", "mountinfo"):
        look(f"/proc/{pid}/{each}", read(f"/proc/{pid}/{each}"))
    try:
        look(f"/proc/{pid}/fd", "\n".join(map(os.readlink, glob.glob(f"/proc/{pid}/fd/*"))).encode())
    except OSError:
        pass
look("ps", subprocess.run(["ps", "auxwwe"], capture_output=True).stdout)
look("git", subprocess.run(["git", "config", "--list", "--show-origin"], capture_output=True).stdout)
look("accounts", repr(pwd.getpwall()).encode())
ports = set()
for table in ("/proc/net/tcp", "/proc/net/tcp6"):
    for line in read(table).decode().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            ports.add(int(fields[1].rpartition(":")[2], 16))
for port in sorted(ports):
    said = b""
    for path in ("/", "/api/notebooks/servers", "/api/contents", "/metrics", "/health", "/slipway/open?code=x"):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
                connection.sendall(request.encode())
                while piece := connection.recv(65536):
                    said += piece
        except OSError:
            pass
    counts["ports"] += bool(look(f"port {port}", said))
print(json.dumps({"found": found, "counts": counts, "uid": os.getuid(), "groups": os.getgroups()}))
"""

# Runs in the kernel: everything that the relay will say to this session, headers and bodies, searched and counted.
_RELAY = r"""
import base64, glob, hashlib, http.client, json, os, re, subprocess
from urllib.parse import urlsplit
words = [bytes(each ^ 0x5A for each in bytes.fromhex(word)) for word in WORDS]
private = os.path.dirname(os.environ["GIT_CONFIG_SYSTEM"])
told = json.load(open(private + "/session.json"))
remote = subprocess.check_output(["git", "ls-remote", "--get-url", "origin"], text=True).strip()
said, statuses = b"", {}
def call(name, method, url, body=None, **headers):
    global said
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    target = parts.path + ("?" + parts.query if parts.query else "")
    headers = {"Authorization": "Bearer " + told["credential"], **{k.replace("_", "-"): v for k, v in headers.items()}}
    connection.request(method, target, body=body, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    said += repr(answer.getheaders()).encode() + content
    statuses[name] = answer.status
    return content
lfs = {"Content_Type": "application/vnd.git-lfs+json", "Accept": "application/vnd.git-lfs+json"}
content = b"a large object of a session\n"
oid = hashlib.sha256(content).hexdigest()
objects = [{"oid": oid, "size": len(content)}]
def batch(operation):
    body = json.dumps({"operation": operation, "transfers": ["basic"], "objects": objects})
    return json.loads(call("batch " + operation, "POST", base + "/info/lfs/objects/batch", body, **lfs))
base = remote if remote.endswith(".git") else remote + ".git"
for service in ("git-upload-pack", "git-receive-pack"):
    call(service, "GET", f"{base}/info/refs?service={service}")
href = batch("upload")["objects"][0]["actions"]["upload"]["href"]
call("upload", "PUT", href, content)
href = batch("download")["objects"][0]["actions"]["download"]["href"]
assert call("download", "GET", href) == content
call("lock", "POST", base + "/info/lfs/locks", json.dumps({"path": "large.bin"}), **lfs)
call("locks", "GET", base + "/info/lfs/locks", **lfs)
call("verify", "POST", base + "/info/lfs/locks/verify", "{}", **lfs)
call("another project", "GET", base.rpartition("/")[0] + "/other.git/info/refs?service=git-upload-pack")
open("made.txt", "w").write("made here\n")
tracing = {**os.environ, "GIT_TRACE_CURL": "1", "GIT_TRACE_REDACT": "0", "GIT_TRACE_PACKET": "1"}
for arguments in (["fetch"], ["add", "made.txt"], ["commit", "-qm", "Make."], ["push", "origin", "HEAD"]):
    done = subprocess.run(["git", *arguments], capture_output=True, env=tracing, stdin=subprocess.DEVNULL)
    statuses["git " + arguments[0]] = done.returncode
    said += done.stdout + done.stderr
found = [number for number, word in enumerate(words) if word in said]
print(json.dumps({"found": found, "bytes": len(said), "statuses": statuses}))
"""


def forms(secret: str) -> Sequence[bytes]:
    """Return the bytes in which a secret may show: clear, escaped for a URL, and base64 wherever it begins."""
    raw = secret.encode()
    found = {raw, quote(secret, safe="").encode()}
    found |= {"".join(f"%{byte:{form}}" for byte in raw).encode() for form in ("02x", "02X")}
    for lead, skipped in _LEAD.items():
        padded = b"\0" * lead + raw
        whole = len(padded) * 8 // 6  # the characters that depend on nothing behind
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(padded)[skipped:whole])
    return sorted(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came across: places by the name of the secret; how much it looked at; and as whom."""

    places: Mapping[str, Sequence[str]]
    counts: Mapping[str, int]
    uid: int
    groups: Sequence[int]


def search(kernel: Kernel, secrets: Mapping[str, str], *, roots: Sequence[str], paths: Sequence[str]) -> Found:
    """Look for secrets, by name, in everything that code in a session can read."""
    words = [(name, form) for name, secret in secrets.items() for form in forms(secret)]
    code = f"ROOTS, PATHS = {list(roots)!r}, {list(paths)!r}\n{_told(words)}\n{_LOOK}"
    told = json.loads(kernel.run(code, within_seconds=SEARCH_SECONDS))
    places: dict[str, list[str]] = {}
    for place, number in told["found"]:
        places.setdefault(words[number][0], []).append(place)
    return Found(places=places, counts=told["counts"], uid=told["uid"], groups=told["groups"])


def relayed(kernel: Kernel, secrets: Mapping[str, str]) -> tuple[set[str], dict[str, int], int]:
    """Use the whole relay from a session; return the secrets found, each call's status, and how many bytes came."""
    words = [(name, form) for name, secret in secrets.items() for form in forms(secret)]
    told: dict[str, Any] = json.loads(kernel.run(f"{_told(words)}\n{_RELAY}", within_seconds=SEARCH_SECONDS))
    return {words[number][0] for number in told["found"]}, told["statuses"], told["bytes"]


def _told(words: Sequence[tuple[str, bytes]]) -> str:
    return f"WORDS = {[bytes(each ^ _DISGUISE for each in form).hex() for _, form in words]!r}"
