"""A TLS front on port 443, as a reverse proxy gives one: a test CA, and bytes passed on to a plain server.

For: clients that speak to `https://<host>` on 443 and to nothing else. Promises: loopback only, at an address of its
own (127.0.0.0/8), so that several fronts may stand at once; certificates live as long as the front.
Must not know: HTTP.
"""

import datetime as dt
import ipaddress
import secrets
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PIECE_BYTES = 65_536
_IDLE_SECONDS = 60.0
_LIFE = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """A front that is open. `ca_file` is what a client must trust."""

    address: str
    ca_file: Path

    @property
    def url(self) -> str:
        """Where people reach it."""
        return f"https://{self.address}"


def free_address() -> str:
    """Return an address of 127.0.0.0/8 on which port 443 is free; skips aloud where it may not be taken."""
    for _ in range(20):
        address = f"127.{1 + secrets.randbelow(250)}.{secrets.randbelow(250)}.{2 + secrets.randbelow(250)}"
        try:
            with socket.create_server((address, 443)):
                return address
        except PermissionError:
            pytest.skip("port 443 may not be opened by this user: run as root, or allow unprivileged ports from 443")
        except OSError:
            continue
    pytest.skip("no address of 127.0.0.0/8 has port 443 free: only 127.0.0.1 may be set up on this system")


@contextmanager
def tls_front(address: str, *, port: int, folder: Path) -> Iterator[Front]:
    """Serve `https://<address>` over a certificate of a new CA, passing on to 127.0.0.1:`port`."""
    ca_file, chain = _certificates(address, folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)

    class Passing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as outside:
                outside.settimeout(_IDLE_SECONDS)
                with socket.create_connection(("127.0.0.1", port), timeout=_IDLE_SECONDS) as inside:
                    _pass_both(outside, inside)

    server = socketserver.ThreadingTCPServer((address, 443), Passing)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield Front(address=address, ca_file=ca_file)
    finally:
        server.shutdown()
        server.server_close()


def _pass_both(outside: socket.socket, inside: socket.socket) -> None:
    back = threading.Thread(target=_pass, args=(inside, outside), daemon=True)
    back.start()
    _pass(outside, inside)
    back.join(_IDLE_SECONDS)


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _certificates(address: str, folder: Path) -> tuple[Path, Path]:
    """Write a CA's certificate, and a server's chain with its key; returns both files."""
    now = dt.datetime.now(dt.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])

    def begun(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _LIFE)
            .not_valid_after(now + _LIFE)
        )

    ca = (
        begun(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    server = begun(name, key.public_key()).add_extension(names, critical=False).sign(ca_key, hashes.SHA256())
    form = serialization.Encoding.PEM
    private = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    ca_file, chain = folder / "ca.pem", folder / "chain.pem"
    ca_file.write_bytes(ca.public_bytes(form))
    chain.write_bytes(private + server.public_bytes(form))
    chain.chmod(0o600)
    return ca_file, chain
