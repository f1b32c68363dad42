# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mail server as a client meets it: its banner, what it offers, TLS, and whether a password is taken. No mail is sent."""

from __future__ import annotations

import smtplib
import ssl
from contextlib import suppress

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.services_rules import IMPLICIT, STARTTLS, Greeting, Mailer


def greet(mailer: Mailer, timeout: float, ca: str = "") -> Greeting:
    """Talk with a mail server up to the point where a mail would begin, and return what was seen.

    :param timeout: seconds for each answer.
    :param ca: file of the authorities that are trusted instead of the system's.
    :raises SluiceError: the file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise SluiceError(f"The authorities in {ca} cannot be read.", "Give a PEM file on the app host.") from error
    seen = Greeting()
    client = smtplib.SMTP_SSL(timeout=timeout, context=context) if mailer.tls == IMPLICIT else smtplib.SMTP(timeout=timeout)
    # smtplib takes the name for TLS from here, which connect() does not set.
    client._host = mailer.host  # type: ignore[attr-defined]  # pylint: disable=protected-access
    try:
        code, banner = client.connect(mailer.host, mailer.port)
        seen = seen.after(code=code, banner=banner.decode("utf-8", "replace")[:120], secure=mailer.tls == IMPLICIT)
        if code != 220:
            return seen
        client.ehlo()
        seen = seen.after(starttls=client.has_extn("starttls"))
        if mailer.tls == STARTTLS and seen.starttls:
            client.starttls(context=context)
            client.ehlo()
            seen = seen.after(secure=True)
        # A password in clear would be a leak of our own.
        if mailer.user and seen.secure:
            client.login(mailer.user, mailer.password)
            seen = seen.after(logged_in=True)
        return seen
    except ssl.SSLCertVerificationError as error:
        return seen.after(tls_error=f"its certificate is refused: {error.verify_message}")
    except ssl.SSLError as error:
        return seen.after(tls_error=error.reason or "the TLS handshake failed")
    except smtplib.SMTPAuthenticationError as error:
        return seen.after(login_code=error.smtp_code)
    except smtplib.SMTPConnectError as error:
        return seen.after(code=error.smtp_code)
    except smtplib.SMTPException as error:
        return seen.after(error=type(error).__name__)
    except OSError as error:
        return seen.after(error=error.strerror or str(error) or type(error).__name__, refused=isinstance(error, ConnectionRefusedError))
    finally:
        with suppress(OSError, smtplib.SMTPException):
            client.quit()
        client.close()
