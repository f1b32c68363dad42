# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rendered site on a real nginx, the distribution's and a current one, proven from outside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.vhost import header_lines, render_vhost, vhost_from

from tests.e2e.edges import binary_of, free_port

NAME = "shop.example"
LONG = "a-name-that-does-not-fit-in-a-cell-of-the-hash.shop.example"
ORIGIN = "https://app.example"
LONG_ORIGIN = f"https://{LONG}:8443"
SECURE = {
    "Strict-Transport-Security": "max-age=300",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'self'; img-src \"x\" *",
    "X-Robots-Tag": "noindex",
}
GIVEN = {"csp": SECURE["Content-Security-Policy"], "headers": {"X-Robots-Tag": "noindex"}}


class App(BaseHTTPRequestHandler):
    """An app with an opinion on each header, and none of them the edge's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.headers["Upgrade"] == "websocket":
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
            self.wfile.write(self.connection.recv(100).upper())
            self.close_connection = True
            return
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response({"/missing": 404, "/moved": 302}.get(self.path, 200))
        for name in SECURE:
            self.send_header(name, "of-the-app")
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Credentials", "true")
        body = json.dumps({"path": self.path, "method": self.command, "address": self.headers["X-Real-IP"]}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_OPTIONS = do_GET

    def log_message(self, *_args: object) -> None:
        pass


class Answer:
    """What came back."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read().decode()

    @property
    def app(self) -> dict[str, Any]:
        """What the app says it received."""
        return dict(json.loads(self.body))

    def secure(self) -> dict[str, str]:
        """Return the security headers; a doubled one shows both values."""
        return {name: "|".join(self.headers.get_all(name)) for name in SECURE if name in self.headers}


class Site:
    """An nginx of its own with one rendered site, in a configuration as Debian's: old protocols are allowed around it."""

    def __init__(self, folder: Path, binary: str, tls: Path) -> None:
        self.folder, self.tls, self.binary = folder, tls, binary
        self.command = [binary, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=10, check=True).stderr)
        assert found
        self.version = (int(found[1]), int(found[2]), int(found[3]))
        self.http, self.https, self.old = free_port(), free_port(), free_port()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), App)
        self.server.daemon_threads, self.server.block_on_close = True, False
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def write(self, version: tuple[int, int, int] | None = None, app: str = "shop", **values: Any) -> None:
        """Write the configuration."""
        given = {
            "names": [NAME, LONG, f"*.{LONG}"], "certificate": str(self.tls / "site.pem"), "key": str(self.tls / "site.key"),
            "https_port": self.https, "http_port": self.http, "address": "127.0.0.1", **values,
        }  # fmt: skip
        vhost = vhost_from(given)
        closed = "".join(f"    {line}\n" for line in ("add_header Retry-After 60 always;", *header_lines(vhost)))
        (self.folder / "server.conf").write_text(
            "add_header Set-Cookie seen=1 always;\nlocation / {\n"
            f"    proxy_pass http://127.0.0.1:{self.server.server_address[1]};\n    proxy_http_version 1.1;\n    proxy_set_header Upgrade $http_upgrade;\n"
            "    proxy_set_header Connection $test_connection;\n    proxy_set_header X-Real-IP $remote_addr;\n}\n"
            f"location /dead {{ proxy_pass http://127.0.0.1:{free_port()}; }}\nlocation /closed {{\n{closed}    return 503;\n}}\n",
            encoding="utf-8",
        )
        (self.folder / "site.conf").write_text(render_vhost(app, app, vhost, str(self.folder / "server.conf"), version or self.version), encoding="utf-8")
        temporary = "".join(f"{kind}_temp_path {self.folder}/tmp_{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.folder / "nginx.conf").write_text(
            ("user root;\n" if os.geteuid() == 0 else "")
            + f"worker_processes 1;\npid {self.folder}/nginx.pid;\nerror_log {self.folder}/error.log;\nevents {{ worker_connections 512; }}\n"
            + f"http {{\n{temporary}access_log off;\nssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;\nssl_ciphers DEFAULT:@SECLEVEL=0;\n"
            + 'map $http_upgrade $test_connection { default upgrade; "" ""; }\n'
            + f"include {self.folder}/site.conf;\nserver {{\n    listen 127.0.0.1:{self.old} ssl;\n    ssl_certificate {self.tls}/site.pem;\n"
            + f"    ssl_certificate_key {self.tls}/site.key;\n    return 200;\n}}\n}}\n",
            encoding="utf-8",
        )

    def serve(self, **values: Any) -> Site:
        """Write the configuration, start nginx, and wait until it listens."""
        self.write(**values)
        subprocess.run(self.command, check=True, timeout=10, capture_output=True)
        self.wait_for(self.listens)
        return self

    def listens(self) -> bool:
        """Return whether somebody can connect."""
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.old), timeout=1).close()
            return True
        return False

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until something is true, five seconds at most."""
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "error.log").read_text()
            time.sleep(0.01)

    def master(self) -> int:
        """Return the process id of nginx, 0 when it does not run."""
        try:
            return int((self.folder / "nginx.pid").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def stop(self) -> None:
        """End nginx by its own process id, and the app."""
        pid = self.master()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            self.wait_for(lambda: not self.master())
        self.server.shutdown()
        self.server.server_close()

    def context(self, protocol: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """Return the trust in the site's certificate, for one version of TLS or all."""
        context = ssl.create_default_context(cafile=str(self.tls / "site.pem"))
        if protocol:
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, protocol
            context.minimum_version = protocol
        return context

    def handshake(self, protocol: ssl.TLSVersion, port: int = 0) -> str | None:
        """Return the version of TLS that was agreed on."""
        plain = socket.create_connection(("127.0.0.1", port or self.https), timeout=5)
        with plain, self.context(protocol).wrap_socket(plain, server_hostname=NAME) as secured:
            return secured.version()

    def open(self, tls: bool = True, name: str = NAME) -> http.client.HTTPConnection:
        """Return a connection to the site."""
        connection = http.client.HTTPConnection("127.0.0.1", self.https if tls else self.http, timeout=5)
        connection.connect()
        if tls:
            connection.sock = self.context().wrap_socket(connection.sock, server_hostname=name)
        return connection

    def ask(self, path: str = "/", method: str = "GET", tls: bool = True, body: bytes | None = None, **headers: str) -> Answer:
        """Send one request on a connection of its own; ``Header_Name`` is ``Header-Name``."""
        with contextlib.closing(self.open(tls)) as connection:
            connection.request(method, path, body, {"Host": NAME, **{name.replace("_", "-"): value for name, value in headers.items()}})
            return Answer(connection.getresponse())

    def statuses(self, path: str, number: int, **headers: str) -> Counter[int]:
        """Send a request several times; return how often each status came back."""
        return Counter(self.ask(path, **headers).status for _number in range(number))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a self-signed certificate."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={NAME}",
         "-addext", f"subjectAltName=DNS:{NAME},DNS:{LONG},DNS:*.{LONG}", "-keyout", str(folder / "site.key"), "-out", str(folder / "site.pem")],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return folder


@pytest.fixture(params=["distribution", "current"])
def site(request: pytest.FixtureRequest, tmp_path: Path, tls: Path) -> Iterator[Site]:
    """Return a site that is not served yet."""
    site = Site(tmp_path, binary_of(request.param), tls)
    try:
        yield site
    finally:
        site.stop()


@pytest.mark.parametrize("path", ["/", "/a/b?c=d&e=%2F%20f", "//other.example/x?y=https://z"])
def test_the_redirect_keeps_path_and_query(site: Site, path: str) -> None:
    site.serve(**GIVEN)
    answer = site.ask(path, tls=False)
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{NAME}:{site.https}{path}")
    # HSTS means nothing on a plain connection.
    assert answer.secure() == {name: value for name, value in SECURE.items() if name != "Strict-Transport-Security"}
    assert answer.headers["Server"] == "nginx"


def test_the_redirect_goes_to_the_first_name_and_leaves_acme_alone(site: Site, tmp_path: Path) -> None:
    token = tmp_path / "acme" / ".well-known" / "acme-challenge" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("proof")
    site.serve(acme_directory=str(tmp_path / "acme"))
    assert site.ask(tls=False, Host=f"deep.{LONG}").headers["Location"] == f"https://{NAME}:{site.https}/"
    assert site.ask("/.well-known/acme-challenge/token", tls=False).body == "proof"
    assert site.ask("/.well-known/acme-challenge/other", tls=False).status == 404
    assert site.ask("/.well-known/other", tls=False).status == 301


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated")
def test_only_current_protocols_are_spoken(site: Site) -> None:
    site.serve()
    versions = ssl.TLSVersion
    assert site.handshake(versions.TLSv1_2) == "TLSv1.2"
    assert site.handshake(versions.TLSv1_3) == "TLSv1.3"
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        site.handshake(versions.TLSv1_1)
    # The operator's own server beside it speaks the old one, so it is the site that refuses.
    assert site.handshake(versions.TLSv1_1, site.old) == "TLSv1.1"


def test_a_session_is_resumed(site: Site) -> None:
    site.serve()
    context, session = site.context(ssl.TLSVersion.TLSv1_2), None
    for again in (False, True):
        with (
            socket.create_connection(("127.0.0.1", site.https), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=NAME, session=session) as secured,
        ):
            assert secured.session_reused is again
            session = secured.session


def test_names_nobody_has_get_no_answer(site: Site) -> None:
    site.serve()
    for name in ("other.example", f"not.{NAME}"):
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            site.open(name=name)
        for tls in (False, True):
            with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
                site.ask(tls=tls, Host=name)
    for name in (LONG, f"deep.{LONG}"):
        with contextlib.closing(site.open(name=name)) as connection:
            connection.request("GET", "/", headers={"Host": name})
            assert connection.getresponse().status == 200


def test_an_nginx_that_cannot_reject_a_handshake_gives_no_answer(site: Site) -> None:
    site.serve(version=(1, 18, 0))
    with pytest.raises(ssl.SSLCertVerificationError):
        site.open(name="other.example")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        site.ask(Host="other.example")
    assert site.ask().status == 200


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/missing", 404), ("/moved", 302), ("/dead", 502), ("/closed", 503), ("/upload", 413)])
def test_each_answer_has_each_security_header_once(site: Site, path: str, status: int) -> None:
    site.serve(**GIVEN, upload_limit="1k")
    answer = site.ask(path, "POST" if status == 413 else "GET", body=b"x" * 2000 if status == 413 else None)
    assert answer.status == status
    assert answer.secure() == SECURE
    # What server.conf adds beside them arrives as well; a location with an add_header of its own has dropped it.
    assert answer.headers["Set-Cookie"] == (None if path == "/closed" else "seen=1")
    assert answer.headers["Server"] == "nginx"
    assert "nginx/" not in answer.body


def test_headers_that_are_not_wanted_are_left_to_the_app(site: Site) -> None:
    site.serve(hsts_seconds=0, frame_options="", permissions_policy="", referrer_policy="", cors_origins=[])
    answer = site.ask()
    assert answer.secure() == {**dict.fromkeys(SECURE, "of-the-app"), "X-Content-Type-Options": "nosniff"}
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in answer.headers


def test_hsts_grows_when_told(site: Site) -> None:
    site.serve(hsts_seconds=31536000, hsts_subdomains=True)
    assert site.ask().secure()["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"


def test_a_burst_is_limited_and_exempt_paths_are_not(site: Site) -> None:
    limit = {"name": "login", "path": "/login", "rate": "1r/m", "burst": 4}
    site.serve(**GIVEN, rate_limits=[limit], rate_exempt=["/login/hook", "/hook/"])
    assert site.statuses("/login", 12) == {200: 5, 429: 7}
    refused = site.ask("/login")
    assert refused.secure() == SECURE
    # Another way to write it is no way around it.
    for path in (
        "/LOGIN",
        "/login/more",
        "//login",
        "/hook/../login",
        "/hook/%2e%2e/login",
        "/%6cogin",
        "/login/hook/../x",
        "/login/x/../hook",
        "/login/hooks",
    ):
        assert site.statuses(path, 2) == {429: 2}, path
    for path in ("/login/hook", "/login/hook/stripe?a=b", "/hook/stripe", "/other", "/"):
        assert site.statuses(path, 15) == {200: 15}, path


def test_a_changed_limit_takes_effect_with_a_reload(site: Site) -> None:
    limits = [{"name": "all", "path": "/", "rate": "1r/m", "burst": 2}, {"name": "pay", "path": "/pay", "rate": "1r/m", "burst": 0}]
    site.serve(rate_limits=limits)
    assert site.statuses("/pay", 3) == {200: 1, 429: 2}
    assert site.statuses("/", 5) == {200: 2, 429: 3}
    site.write(rate_limits=[{**limits[0], "path": "/else", "burst": 1}])
    os.kill(site.master(), signal.SIGHUP)
    site.wait_for(lambda: site.ask("/pay").status == 200)
    time.sleep(0.15)
    assert site.statuses("/pay", 5) == {200: 5}
    assert site.statuses("/else", 5) == {200: 2, 429: 3}
    assert "[emerg]" not in (site.folder / "error.log").read_text()


def cors(answer: Answer) -> dict[str, str]:
    """Return what a browser is told about origins."""
    return {name.removeprefix("Access-Control-"): "|".join(answer.headers.get_all(name)) for name in answer.headers if name.startswith("Access-Control-")}


def test_only_known_origins_may_read(site: Site) -> None:
    site.serve(cors_origins=[ORIGIN, LONG_ORIGIN, "http://localhost:3000"], cors_credentials=True, cors_methods=["GET", "PUT"], cors_headers=["X-A", "X-B"])
    for origin in (ORIGIN, LONG_ORIGIN, "http://localhost:3000"):
        for path in ("/", "/missing", "/dead"):
            answer = site.ask(path, Origin=origin)
            assert cors(answer) == {"Allow-Origin": origin, "Allow-Credentials": "true"}
            assert answer.headers["Vary"] == "Origin"
        preflight = site.ask(method="OPTIONS", Origin=origin, Access_Control_Request_Method="PUT")
        assert (preflight.status, preflight.body, preflight.headers["Vary"]) == (204, "", "Origin")
        assert cors(preflight) == {
            "Allow-Origin": origin, "Allow-Credentials": "true", "Allow-Methods": "GET, PUT", "Allow-Headers": "X-A, X-B", "Max-Age": "600"
        }  # fmt: skip
    foreign = ("https://evil.example", f"{ORIGIN}.evil.example", f"x{ORIGIN}", ORIGIN.replace("https", "http"), LONG_ORIGIN.replace(".", "-"), "null", "*")
    for origin in foreign:
        for method, asked in (("GET", {}), ("OPTIONS", {"Access_Control_Request_Method": "PUT"})):
            answer = site.ask(method=method, Origin=origin, **asked)
            assert (cors(answer), answer.headers["Vary"], answer.app["method"]) == ({}, "Origin", method), origin
    assert (cors(site.ask()), site.ask().headers["Vary"]) == ({}, "Origin")
    # An OPTIONS that is no preflight is for the app.
    assert site.ask(method="OPTIONS", Origin=ORIGIN).app["method"] == "OPTIONS"


def test_credentials_are_allowed_by_the_edge_alone(site: Site) -> None:
    site.serve(cors_origins=[ORIGIN])
    assert cors(site.ask(Origin=ORIGIN)) == {"Allow-Origin": ORIGIN}


def test_an_upgraded_connection_goes_through(site: Site) -> None:
    site.serve()
    with contextlib.closing(site.open()) as connection:
        connection.sock.sendall(f"GET /live HTTP/1.1\r\nHost: {NAME}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".encode())
        head = connection.sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        connection.sock.sendall(b"hello")
        assert connection.sock.recv(100) == b"HELLO"


def test_an_upload_has_a_limit(site: Site) -> None:
    site.serve(upload_limit="2k")
    assert site.ask("/upload", "POST", body=b"x" * 2048).status == 200
    assert site.ask("/upload", "POST", body=b"x" * 2049).status == 413


def test_the_clients_address_is_believed_from_a_trusted_proxy_only(site: Site) -> None:
    limit = {"name": "all", "path": "/", "rate": "1r/m", "burst": 1}
    site.serve(real_ip_from=["127.0.0.0/8", "198.51.100.0/24"], rate_limits=[limit])
    assert site.ask(X_Forwarded_For="192.0.2.1, 203.0.113.9, 198.51.100.7").app["address"] == "203.0.113.9"
    assert site.statuses("/", 3, X_Forwarded_For="203.0.113.9") == {200: 1, 429: 2}
    assert site.statuses("/", 3, X_Forwarded_For="203.0.113.10") == {200: 2, 429: 1}


def test_the_clients_address_is_not_believed_from_anybody(site: Site) -> None:
    site.serve(real_ip_from=["10.0.0.0/8"])
    assert site.ask(X_Forwarded_For="203.0.113.9").app["address"] == "127.0.0.1"


@pytest.mark.parametrize("http2", [True, False])
def test_http2_is_spoken_when_wanted(site: Site, http2: bool) -> None:
    site.serve(http2=http2)
    context = site.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", site.https), timeout=5) as plain, context.wrap_socket(plain, server_hostname=NAME) as secured:
        assert secured.selected_alpn_protocol() == ("h2" if http2 else "http/1.1")
        if http2:
            secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            assert secured.recv(9)[3] == 4, "the first frame is a SETTINGS frame"


def test_without_tls_the_site_itself_is_on_the_plain_port(site: Site) -> None:
    site.serve(**GIVEN, tls=False, certificate="", key="")
    answer = site.ask(tls=False)
    # A proxy in front may speak TLS: its HSTS is its own, and the app's passes.
    assert (answer.status, answer.secure()) == (200, {**SECURE, "Strict-Transport-Security": "of-the-app"})
    with pytest.raises(ConnectionRefusedError):
        site.ask()


def test_all_addresses_are_listened_on(site: Site) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("cannot run here: this machine has no IPv6")
    site.serve(address="")
    for address in ("127.0.0.1", "::1"):
        with contextlib.closing(http.client.HTTPConnection(address, site.http, timeout=5)) as connection:
            connection.request("GET", "/", headers={"Host": NAME})
            assert connection.getresponse().status == 301


def test_the_log_of_the_site_is_json(site: Site) -> None:
    log = site.folder / "site.log"
    site.serve(access_log=str(log), rate_limits=[{"name": "all", "path": "/", "rate": "1r/m", "burst": 0}])
    statuses = [site.ask("/a?secret=b", tls=False).status, site.ask("/a").status, site.ask('/"').status]
    site.wait_for(lambda: len(log.read_text().splitlines()) == 3)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["st"] for entry in entries] == statuses == [301, 200, 429]
    assert {entry["a"] for entry in entries} == {"127.0.0.1"}
    assert "secret" not in log.read_text()


def test_the_longest_values_fit(site: Site) -> None:
    origins = [f"https://{'a' * length}.example" for length in range(1, 64)]
    limits = [{"name": f"limit_{number:04}", "path": f"/{number:>01000}", "rate": "1r/m"} for number in range(3)]
    site.serve(
        app="a" * 30, csp='"' * 2000, permissions_policy="x" * 2000, headers={"X" * 46: "'" * 2000}, cors_origins=origins, cors_credentials=True,
        rate_limits=limits, rate_exempt=["/" + "b" * 1900], names=[NAME, *(f"{'a' * length}.{NAME}" for length in range(1, 64)), f"*.{'a' * 63}.{NAME}"],
    )  # fmt: skip
    for origin in (origins[0], origins[-1]):
        answer = site.ask(Origin=origin, Host=f"b.{'a' * 63}.{NAME}")
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"], answer.headers["Content-Security-Policy"]) == (200, origin, '"' * 2000)
