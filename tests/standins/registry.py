# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry of images on this machine, for one image and one user: what `docker login` and `docker pull` ask of it, and no more."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """One image with one layer.

    :param layer: the layer, as an uncompressed tar.
    """

    def __init__(self, layer: bytes, user: str, password: str) -> None:
        config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]}, "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}
        self.blobs = {digest(blob): blob for blob in (layer, json.dumps(config).encode())}
        layered, configured = list(self.blobs)
        described = [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": len(layer), "digest": layered}]
        head = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": len(self.blobs[configured]), "digest": configured}
        self.manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": head, "layers": described}).encode()
        self.digest = digest(self.manifest)
        self.wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.asked: list[str] = []
        self.port = 0


def digest(data: bytes) -> str:
    """Return how a registry calls some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextmanager
def serving(registry: Registry) -> Iterator[Registry]:
    """Serve a registry on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        """Answers what an engine asks."""

        def do_GET(self) -> None:
            registry.asked.append(self.path)
            if self.headers.get("Authorization") != registry.wanted:
                self.answer(401, b"{}", "application/json", {"WWW-Authenticate": 'Basic realm="registry"'})
            elif "/manifests/" in self.path:
                self.answer(200, registry.manifest, MANIFEST, {"Docker-Content-Digest": registry.digest})
            elif "/blobs/" in self.path:
                self.answer(200, registry.blobs[self.path.rpartition("/")[2]], "application/octet-stream", {})
            else:
                self.answer(200, b"{}", "application/json", {})

        do_HEAD = do_GET

        def answer(self, status: int, body: bytes, kind: str, more: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
