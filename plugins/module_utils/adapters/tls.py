# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS as a visitor meets it: what is shown in a handshake, and which versions are spoken. Reading a certificate needs cryptography."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import ssl
from datetime import timezone
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.tls_rules import ACCEPTED, PROTOCOLS, REFUSED, UNKNOWN, Certificate, Served

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: the dates are judged by themselves
_VERSIONS = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
# What OpenSSL says when this side cannot even begin to speak a version.
_CANNOT = ("NO_PROTOCOLS_AVAILABLE", "NO_CIPHERS_AVAILABLE", "UNSUPPORTED_PROTOCOL_VERSION")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s*([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")


def look(host: str, address: tuple[str, int], timeout: float, ca: str = "") -> Served:
    """Return what an address shows when it is asked for ``host``; no handshake is an answer too.

    :param ca: file of the authorities that are trusted instead of the system's.
    :raises SluiceError: cryptography is missing, or the file cannot be read.
    """
    try:
        trusting = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise SluiceError(f"The authorities in {ca} cannot be read.", "Give a PEM file on the machine this runs on.") from error
    try:
        chain = tuple(_certificate(der) for der in shown(host, address, timeout))
    except OSError as error:
        return Served(host, error=_words(error))
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    code, reason = 0, ""
    try:
        _shake(trusting, host, address, timeout).close()
    except ssl.SSLCertVerificationError as error:
        code, reason = error.verify_code, error.verify_message
    except OSError as error:
        return Served(host, error=_words(error))
    return Served(host, chain, code, reason)


def shown(host: str, address: tuple[str, int], timeout: float) -> list[bytes]:
    """Return the certificates an address sends, in DER, the server's own first; nothing is verified.

    :raises OSError: there was no handshake.
    """
    line = _shake(_open_context(), host, address, timeout)
    try:
        # Public from Python 3.13 on; before, the object below it has the same call.
        holder: Any = line if hasattr(line, "get_unverified_chain") else getattr(line, "_sslobj", None)
        if hasattr(holder, "get_unverified_chain"):
            return [_der(each) for each in holder.get_unverified_chain() or ()]
        own = line.getpeercert(binary_form=True)
        return [own] if own else []
    finally:
        line.close()


def _der(certificate: Any) -> bytes:
    if isinstance(certificate, bytes):
        return certificate
    return ssl.PEM_cert_to_DER_cert(certificate.public_bytes())


def _open_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _shake(context: ssl.SSLContext, host: str, address: tuple[str, int], timeout: float) -> ssl.SSLSocket:
    line = socket.create_connection(address, timeout)
    try:
        return context.wrap_socket(line, server_hostname=host)
    except BaseException:
        line.close()
        raise


def offers(host: str, address: tuple[str, int], timeout: float) -> dict[str, str]:
    """Return for each version whether an address speaks it: accepted, refused, or unknown when this side cannot ask or had no answer."""
    return {version: _offers(version, host, address, timeout) for version in PROTOCOLS}


def _offers(version: str, host: str, address: tuple[str, int], timeout: float) -> str:
    context = _open_context()
    try:
        # Old versions need signatures that today's level of security forbids this side to offer.
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = _VERSIONS[version]
    except (ssl.SSLError, ValueError):
        return UNKNOWN
    try:
        line = socket.create_connection(address, timeout)
    except OSError:
        return UNKNOWN
    try:
        with context.wrap_socket(line, server_hostname=host):
            return ACCEPTED
    except ssl.SSLError as error:
        return UNKNOWN if (error.reason or "") in _CANNOT else REFUSED
    except (ConnectionResetError, BrokenPipeError):
        return REFUSED
    except OSError:
        return UNKNOWN
    finally:
        line.close()


def _certificate(der: bytes) -> Certificate:
    try:
        from cryptography import x509
    except ImportError as error:
        raise SluiceError("The gates of TLS need the Python package cryptography on the control node.", "pip install cryptography") from error
    read = x509.load_der_x509_certificate(der)
    try:
        alternative = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = (*alternative.get_values_for_type(x509.DNSName), *map(str, alternative.get_values_for_type(x509.IPAddress)))
    except x509.ExtensionNotFound:
        names = ()
    dates = (_seconds(read, "not_valid_before"), _seconds(read, "not_valid_after"))
    return Certificate(read.subject.rfc4514_string(), read.issuer.rfc4514_string(), names, *dates, fingerprint(der))


def _seconds(read: Any, name: str) -> float:
    # Before version 42 a date knew no time zone, and was always UTC.
    date = getattr(read, f"{name}_utc", None) or getattr(read, name).replace(tzinfo=timezone.utc)
    return float(date.timestamp())


def fingerprint(der: bytes) -> str:
    """Return a certificate's SHA-256 in hex digits."""
    return hashlib.sha256(der).hexdigest()


def first_in(path: str) -> str:
    """Return the fingerprint of a PEM file's first certificate; a key that lies in the same file is never kept.

    :raises SluiceError: there is no such file, or no certificate in it.
    """
    found = _PEM.search(read_text(path) or "")
    if not found:
        raise SluiceError(f"{path} holds no certificate in PEM form, or is not there.", "Give the file that ssl_certificate names.")
    return fingerprint(base64.b64decode(found.group(1)))


def _words(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__
