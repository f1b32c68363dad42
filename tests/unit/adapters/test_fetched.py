# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An archive at an address: fetched once, only when it is what was approved, from a real server that does well and badly."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import fetched
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

CONTENT = b"an archive" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Shelf(ThreadingHTTPServer):
    """A server of artefacts that counts its requests."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[str] = []
        shelf = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shelf.requests.append(self.path)
                name = self.path.partition("?")[0]
                told = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"ci:sentinel-of-the-shelf").decode()
                status = {"/gone.tar": 404, "/closed.tar": 200 if told else 401}.get(name, 200)
                self.send_response(status)
                self.send_header("Content-Length", str(1 << 60 if name == "/huge.tar" else len(CONTENT)))
                self.end_headers()
                if status == 200:
                    self.wfile.write(CONTENT[:100] if name == "/cut.tar" else CONTENT)

            def log_message(self, *_args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Shelf]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("http_proxy", raising=False)
    server = Shelf()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_it_is_fetched_once_by_whoever_comes_first(shelf: Shelf, tmp_path: Path) -> None:
    source = f"{shelf.url}/wallet.tar.gz?signature=sentinel"
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _number: fetched.here(source, SHA256, str(tmp_path / "builds")), range(4)))
    (path,) = found
    assert Path(path).read_bytes() == CONTENT and Path(path).parent == tmp_path / "builds" / "fetched"
    assert shelf.requests == ["/wallet.tar.gz?signature=sentinel"]
    assert Path(path).parent.stat().st_mode & 0o777 == 0o700


def test_a_path_is_left_as_it_is(tmp_path: Path) -> None:
    assert fetched.here(str(tmp_path / "wallet.tar"), SHA256, "/nowhere") == str(tmp_path / "wallet.tar")


@pytest.mark.parametrize(
    ("name", "sha256", "said"),
    [
        ("/other.tar?signature=sentinel", "0" * 64, f"/other.tar has the SHA-256 {SHA256}, not 0000"),
        ("/gone.tar?signature=sentinel", SHA256, "/gone.tar answered 404."),
        ("/closed.tar?signature=sentinel", SHA256, "/closed.tar answered 401. Write who may read it into ~/.netrc"),
        ("/cut.tar?signature=sentinel", SHA256, "/cut.tar ended after 100 of 50000 bytes"),
        ("/huge.tar?signature=sentinel", SHA256, "more than is free"),
    ],
)
def test_what_is_not_fetched_leaves_nothing_and_shows_no_signature(shelf: Shelf, tmp_path: Path, name: str, sha256: str, said: str) -> None:
    with pytest.raises(SluiceError) as refused:
        fetched.here(shelf.url + name, sha256, str(tmp_path / "builds"))
    assert said in str(refused.value) and "sentinel" not in str(refused.value)
    assert [path.name for path in (tmp_path / "builds" / "fetched").iterdir()] == [".lock"]


def test_who_must_sign_in_is_in_netrc_and_never_in_the_address(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match=r"holds the user or the password.*netrc") as refused:
        fetched.here(shelf.url.replace("//", "//ci:sentinel@") + "/closed.tar", SHA256, str(tmp_path))
    assert "sentinel" not in str(refused.value)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ci password sentinel-of-the-shelf\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert Path(fetched.here(f"{shelf.url}/closed.tar", SHA256, str(tmp_path))).read_bytes() == CONTENT


def test_a_server_that_is_not_there_is_named(tmp_path: Path, shelf: Shelf) -> None:
    shelf.server_close()
    with pytest.raises(SluiceError, match=r"wallet\.tar could not be fetched: .*refused"):
        fetched.here(f"{shelf.url}/wallet.tar", SHA256, str(tmp_path))


def test_the_newest_stay(shelf: Shelf, tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.tar").write_bytes(b"")
    path = fetched.here(f"{shelf.url}/wallet.tar", SHA256, str(tmp_path))
    assert len(list(folder.glob("*.tar"))) == fetched.KEEP and Path(path).exists()
