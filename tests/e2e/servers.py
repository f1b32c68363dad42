# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real servers on loopback, each made wrong on purpose where a test wants it: names, TLS, HTTP, Redis, mail; and one module called as Ansible would."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from ansible_collections.sluice.deploy.tests.harness.checkout import cannot_run
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dnslib import QTYPE, RCODE, RR, DNSRecord
from dnslib.server import DNSLogger, DNSServer

from tests.sandbox.world import free_ports

CHECKOUT = Path(__file__).resolve().parents[2]


def call(folder: Path, module: str, **params: Any) -> dict[str, Any]:
    """Run one module of the collection to its end and return its result, a failure included."""
    link = folder / "path" / "ansible_collections" / "sluice" / "deploy"
    if not link.exists():
        link.parent.mkdir(parents=True)
        link.symlink_to(CHECKOUT)
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {"_ansible_remote_tmp": str(folder), **params}})
    words = [sys.executable, "-m", f"ansible_collections.sluice.deploy.plugins.modules.{module}"]
    env = {**os.environ, "PYTHONPATH": str(folder / "path")}
    done = subprocess.run(words, input=arguments, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return {"said": done.stdout + done.stderr, **json.loads(done.stdout)}


def gates(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a result's gates by their names."""
    assert "gates" in result, result
    return {gate["name"]: gate for gate in result["gates"]}


def verdicts(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdict of each gate, and ``warn`` for one that does not stop."""
    return {name: gate.get("severity") or gate["verdict"] for name, gate in gates(result).items()}


# Names


class Names:
    """A real server of the domain name system. A name with no records does not exist; one may be told to fail or to keep silent."""

    def __init__(self, records: Mapping[tuple[str, str], Sequence[str]], address: str = "127.0.0.1", port: int = 0, authoritative: bool = True) -> None:
        self.records, self.authoritative, self.ttl = dict(records), authoritative, 300
        self.codes: dict[str, str] = {}
        self.port = port or free_ports(1)[0]
        quiet = DNSLogger(log="-request,-reply,-truncated,-error,-recv,-send,-data", prefix=False)
        self._servers = [DNSServer(self, address=address, port=self.port, tcp=tcp, logger=quiet) for tcp in (False, True)]
        for server in self._servers:
            server.start_thread()
        self.address = f"{address}:{self.port}"

    def resolve(self, request: DNSRecord, _handler: Any) -> DNSRecord:
        """Answer one question."""
        name, kind = str(request.q.qname).rstrip("."), QTYPE[request.q.qtype]
        code = self.codes.get(name, "")
        if code == "SILENT":
            time.sleep(4)
        reply = request.reply(aa=int(self.authoritative))
        if code and code != "SILENT":
            reply.header.rcode = getattr(RCODE, code)
            return reply
        if not any(held == name for held, _kind in self.records):
            reply.header.rcode = RCODE.NXDOMAIN
        for held in (kind, "CNAME"):
            for value in self.records.get((name, held), ()):
                text = " ".join(f'"{value[at : at + 200]}"' for at in range(0, len(value), 200)) if held == "TXT" else value
                reply.add_answer(*RR.fromZone(f"{name}. {self.ttl} IN {held} {text}"))
        return reply

    def stop(self) -> None:
        """End both servers."""
        for server in self._servers:
            server.stop()
            server.server.server_close()


# Certificates


class Authority:
    """An authority with an intermediate, and the certificates it makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root, self._middle = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.root = self._sign("Test Root", self._root, "Test Root", self._root, authority=True)
        self.middle = self._sign("Test Intermediate", self._middle, "Test Root", self._root, authority=True)
        self.ca = folder / "root.pem"
        self.ca.write_bytes(_pem(self.root))

    def _sign(self, name: str, key: Any, issuer: str, by: Any, names: Sequence[str] = (), days: float = 90, authority: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        begins, ends = now - datetime.timedelta(days=30), now + datetime.timedelta(days=days, minutes=5)
        public = key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(issuer))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )
        if authority:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        if names:
            listed = [x509.IPAddress(ipaddress.ip_address(each)) if each[0].isdigit() else x509.DNSName(each) for each in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(listed), critical=False)
        return builder.sign(by, hashes.SHA256())

    def issue(self, file: str, names: Sequence[str], days: float = 90, chain: bool = True, self_signed: bool = False) -> Path:
        """Write certificate, chain and key into one file, and return it."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer, by = (names[0], key) if self_signed else ("Test Intermediate", self._middle)
        own = self._sign(names[0], key, issuer, by, names, days)
        path = self.folder / f"{file}.pem"
        text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + _pem(own)
        path.write_bytes(text + (_pem(self.middle) if chain and not self_signed else b""))
        return path


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def context_of(path: Path, lowest: str = "TLSv1_2", highest: str = "TLSv1_3") -> ssl.SSLContext:
    """Return the server's side of TLS with these versions only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of old versions: the gate that finds them is to meet them
        context.minimum_version, context.maximum_version = ssl.TLSVersion[lowest], ssl.TLSVersion[highest]
    return context


# HTTP


class Web:
    """A web server whose answers a function makes: request -> (status, headers, body)."""

    def __init__(self, answer: Callable[[Any], tuple[int, Sequence[tuple[str, str]], str]], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, str, dict[str, str], str]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version = "hidden", ""

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                web.requests.append((self.command, self.path, dict(self.headers), body))
                status, headers, text = answer(self)
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_OPTIONS = do_GET

            def log_message(self, *_args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, block_on_close, request_queue_size = True, False, 64

            def finish_request(self, request: Any, client_address: Any) -> None:
                # In the request's own thread: a visitor that breaks its handshake off must not hold the others up.
                with contextlib.suppress(OSError):
                    line = tls.wrap_socket(request, server_side=True) if tls else request
                    super().finish_request(line, client_address)
                    if tls:
                        line.close()

            def handle_error(self, _request: Any, _client_address: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def serving(*servers: Any) -> Iterator[Any]:
    """Stop servers at the end."""
    try:
        yield servers[0] if len(servers) == 1 else servers
    finally:
        for server in servers:
            server.stop()


class Silent:
    """A port that takes connections and never says a word."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._socket.getsockname()[1]

    def stop(self) -> None:
        """Let go of the port."""
        self._socket.close()


# Redis and mail


class Cache:
    """A real Redis with a password."""

    def __init__(self, folder: Path, password: str, tls: Path | None = None, ca: Path | None = None) -> None:
        program = shutil.which("redis-server")
        if not program:
            cannot_run("redis-server is not installed (apt-get install redis-server)")
        self.port, self.password = free_ports(1)[0], password
        config = folder / f"redis-{self.port}.conf"
        lines = [f"dir {folder}", 'save ""', "bind 127.0.0.1", f"requirepass {password}", f"pidfile {folder}/redis.pid"]
        if tls:
            lines += ["port 0", f"tls-port {self.port}", f"tls-cert-file {tls}", f"tls-key-file {tls}", f"tls-ca-cert-file {ca}", "tls-auth-clients no"]
        else:
            lines.append(f"port {self.port}")
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        config.chmod(0o600)
        self._process = subprocess.Popen([str(program), str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.scheme = "rediss" if tls else "redis"
        for _attempt in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.02)
        raise AssertionError("redis-server did not start")

    @property
    def url(self) -> str:
        """Address with the password."""
        return f"{self.scheme}://:{self.password}@127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(timeout=10)


class Mail:
    """A real mail server with one user, which remembers what was sent through it."""

    def __init__(self, user: str, password: str, tls: ssl.SSLContext | None = None, implicit: bool = False) -> None:
        self.mails: list[Any] = []

        def known(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
            return AuthResult(success=(data.login, data.password) == (user.encode(), password.encode()), handled=False)

        mails = self.mails

        class Box:
            async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
                mails.append(envelope)
                return "250 OK"

        class Post(Controller):
            def factory(self) -> SMTP:
                return SMTP(Box(), hostname="mail.shop.test", authenticator=known, auth_require_tls=False, tls_context=None if implicit else tls)

        self.port = free_ports(1)[0]
        self._controller = Post(Box(), hostname="127.0.0.1", port=self.port, ssl_context=tls if implicit else None)
        self._controller.start()

    def stop(self) -> None:
        """End it."""
        self._controller.stop()
