"""The smallest container image, pushed as `docker push` does: docker's media types, no label, one layer."""

import gzip
import hashlib
import json

from builder.oci import Credentials, Manifest, RegistryClient, digest_of

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def push_container(reference: str, credentials: Credentials, *, token_host: str) -> str:
    """Push an image under a tag; return its digest."""
    name, _, tag = reference.rpartition(":")
    host, _, repository = name.partition("/")
    tar = bytes(1024)
    layer = gzip.compress(tar, mtime=0)
    diff = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]}}
    ).encode()
    client = RegistryClient(host, credentials=lambda: credentials, trusted_hosts=(token_host,))
    try:
        for blob in (config, layer):
            client.upload(repository, digest_of(blob), blob)
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": _CONFIG, "size": len(config), "digest": digest_of(config)},
            "layers": [{"mediaType": _LAYER, "size": len(layer), "digest": digest_of(layer)}],
        }
        content = json.dumps(document).encode()
        manifest = Manifest(content=content, media_type=MANIFEST, digest=digest_of(content))
        client.put_manifest(repository, tag, manifest)
        return manifest.digest
    finally:
        client.close()
