"""Notices by mail: plain text and HTML, through one SMTP server.

The message is built from the outbox's row for each try and is the same each time, including its
`Message-ID`. Each message has its own connection: notices are few, and an idle connection would
often be dead when it is needed.

A message that the server refuses permanently (5xx) is not tried again. After a temporary refusal
(4xx) or a connection error, it is.
"""

from __future__ import annotations

import html
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import TYPE_CHECKING, Any

from fastgate.billing.notices.notices import KINDS
from fastgate.billing.notices.outbox import DeliveryError, Outgoing
from fastgate.billing.templates import fill
from fastgate.errors import ConfigurationError
from fastgate.imports import import_late

if TYPE_CHECKING:
    from fastgate.model.billing import Smtp


def compose(outgoing: Outgoing, sender: str, public_url: str | None) -> EmailMessage:
    """The mail of a notice. `sender` as in the configuration, `Acme <billing@acme.example>`."""
    name, address = parseaddr(sender)
    domain = address.partition("@")[2]
    message = EmailMessage()
    message["From"] = Address(name, addr_spec=address)
    message["To"] = Address(addr_spec=outgoing.target)
    message["Subject"] = " ".join(outgoing.title.split())
    message["Date"] = format_datetime(outgoing.created)
    message["Message-ID"] = f"<{outgoing.id}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    kind = KINDS.get(outgoing.kind)
    link = f"{public_url.rstrip('/')}{kind.manage}" if public_url and kind and kind.manage else ""
    message.set_content(outgoing.body + (f"\n\n{link}\n" if link else "\n"))
    paragraphs = "\n".join(
        f"<p>{html.escape(part).replace(chr(10), '<br>')}</p>"
        for part in outgoing.body.split("\n\n")
    )
    button = f'<p><a href="{html.escape(link)}">{html.escape(link)}</a></p>' if link else ""
    title = html.escape(outgoing.title)
    message.add_alternative(
        fill("mail.html", title=title, paragraphs=paragraphs, button=button), subtype="html"
    )
    return message


class Mailer:
    """The sender of the channel `mail`."""

    def __init__(self, smtp: Smtp, public_url: str | None = None) -> None:
        self.smtp = smtp
        self.public_url = public_url

    async def send(self, outgoing: Outgoing) -> None:
        """Hand the mail to the server. Raises DeliveryError."""
        aiosmtplib: Any = await import_late("aiosmtplib")
        smtp = self.smtp
        try:
            message = compose(outgoing, smtp.sender, self.public_url)
        except (ValueError, IndexError) as error:
            raise DeliveryError(f"The address cannot be written to: {error}", permanent=True) from (
                error
            )
        try:
            await aiosmtplib.send(
                message,
                hostname=smtp.host,
                port=smtp.port,
                use_tls=smtp.tls == "implicit",
                start_tls=smtp.tls == "starttls",
                username=smtp.user,
                password=smtp.password.reveal() if smtp.password is not None else None,
                timeout=smtp.timeout.ms / 1000,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [refusal.code for refusal in error.recipients]
            raise DeliveryError(str(error), permanent=all(code >= 500 for code in codes)) from error
        except aiosmtplib.SMTPAuthenticationError as error:
            raise DeliveryError(f"The mail server refuses the login: {error.message}") from error
        except aiosmtplib.SMTPResponseException as error:
            said = f"{error.code} {error.message}"
            raise DeliveryError(said, permanent=error.code >= 500) from error
        except (aiosmtplib.SMTPException, OSError, ConfigurationError) as error:
            raise DeliveryError(str(error) or type(error).__name__) from error
