"""Mailers: how a letter leaves the house. Over SMTP, or onto the console where no mail server is set up."""

from __future__ import annotations

import contextlib
import logging
import smtplib
import ssl
import sys
from collections.abc import Callable
from email.message import EmailMessage
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from server.errors import KeyledgerError
from server.services.letters import masked_address
from server.settings import Settings
from server.storage.base import Letter

log = logging.getLogger(__name__)

Compose = Callable[[], EmailMessage]

SMTPS = 465  # the port on which TLS comes first
_REFUSED = frozenset({550, 551, 553, 554, 555, 556})  # 552 is a full mailbox, which its owner may empty
_CLOSING = 421
_NAMED = 10  # letters that one log line names


class MailError(KeyledgerError):
    """A letter did not go out; `permanent` where trying again is in vain.

    MailError
    ├── ConnectionLost       broken in the middle of this letter: the next one may fare better
    └── ServerUnreachable    no letter goes out now, whoever it is to
    """

    code = "MAIL_ERROR"

    def __init__(self, detail: str, permanent: bool = False) -> None:
        super().__init__(detail)
        self.permanent = permanent


class ConnectionLost(MailError):
    code = "CONNECTION_LOST"


class ServerUnreachable(MailError):
    code = "SERVER_UNREACHABLE"


class Mailer(Protocol):
    """Entered around a batch of letters. `delivers`: letters leave for good, so it is written down."""

    delivers: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def send(self, letter: Letter, compose: Compose) -> None:
        """Hand the letter over, composing it only if it is needed. Raises MailError, and whatever `compose` raises."""


class ConsoleMailer:
    """Prints letters where somebody is watching. Elsewhere stdout is a log, and keys do not belong there."""

    delivers = False

    def __init__(self) -> None:
        self._unseen: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unseen:
            log.info("mail is off (EMAIL_BACKEND=console): nobody got these letters", extra=self._told())
        self._unseen = []

    def _told(self) -> dict[str, object]:
        return {"count": len(self._unseen), "letters": self._unseen[:_NAMED]}

    def send(self, letter: Letter, compose: Compose) -> None:
        if sys.stdout.isatty():
            print(_as_text(compose()), flush=True)
        else:
            self._unseen.append(f"{letter.id} to {masked_address(letter.to)}")


def _as_text(message: EmailMessage) -> str:
    plain = message.get_body(("plain",))
    body = plain.get_content() if plain else ""
    rule = "-" * 72
    return f"{rule}\nTo: {message['To']}\nSubject: {message['Subject']}\n\n{body}{rule}"


class SmtpMailer:
    """One connection a batch, opened by the first letter and opened again after it broke."""

    delivers = True

    def __init__(
        self,
        settings: Settings,
        timeout: float = 10.0,
        context: ssl.SSLContext | None = None,
        tls_port: int = SMTPS,
    ) -> None:
        self._settings, self._timeout, self._context = settings, timeout, context
        self._tls_first = settings.smtp_port == tls_port
        self._smtp: smtplib.SMTP | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._smtp is not None:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                self._smtp.quit()
            self._close()

    def send(self, letter: Letter, compose: Compose) -> None:
        message = compose()
        smtp = self._connection()
        try:
            smtp.send_message(message, _plain(message, "From"), [_plain(message, "To")])
        except (smtplib.SMTPException, OSError) as error:
            raise self._said(error) from error

    def knock(self) -> None:
        """Connect, with TLS and login as for letters, and send nothing. Raises ServerUnreachable."""
        with self:
            self._connection()

    def _said(self, error: Exception) -> MailError:
        """What an error in the middle of a letter means for it and for those behind it."""
        match error:
            case smtplib.SMTPRecipientsRefused(recipients=refused):
                return self._refusal(*next(iter(refused.values())))
            case smtplib.SMTPSenderRefused(smtp_code=code, smtp_error=text) if code != _CLOSING:
                return ServerUnreachable(f"the mail server refuses the sender: {_answer(code, text)}")
            case smtplib.SMTPNotSupportedError():
                return MailError("the mail server does not take addresses beyond ASCII", permanent=True)
            case smtplib.SMTPResponseException(smtp_code=code, smtp_error=text):
                return self._refusal(code, text)
        return ConnectionLost(f"the connection to the mail server broke: {_reason(error)}")

    def _refusal(self, code: int, text: bytes | str) -> MailError:
        """5.7 is about us and our settings (relaying, sender policy), not about the address: it may be put right."""
        answer = _answer(code, text)
        if code == _CLOSING:
            return ConnectionLost(answer)
        return MailError(answer, permanent=code in _REFUSED and not _enhanced(text).startswith("5.7."))

    # ------------------------------------------------------------------------------------------------ connecting
    def _connection(self) -> smtplib.SMTP:
        if self._smtp is not None and not self._still_there(self._smtp):
            self._close()
        if self._smtp is None:
            try:
                self._smtp = self._connect()
            except (smtplib.SMTPException, OSError) as error:
                raise ServerUnreachable(self._why_unreachable(error)) from error
        return self._smtp

    def _still_there(self, smtp: smtplib.SMTP) -> bool:
        """Servers close connections that were used for long, and say so only when asked."""
        try:
            return smtp.noop()[0] == 250
        except (smtplib.SMTPException, OSError):
            return False

    def _connect(self) -> smtplib.SMTP:
        smtp = self._reach(self._settings.smtp_host, self._settings.smtp_port)
        try:
            self._start_tls(smtp)
            if self._settings.smtp_username:
                smtp.login(self._settings.smtp_username, self._settings.smtp_password or "")
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _reach(self, host: str, port: int) -> smtplib.SMTP:
        if self._tls_first:
            return smtplib.SMTP_SSL(host, port, self._own_name(), timeout=self._timeout, context=self._tls())
        return smtplib.SMTP(host, port, self._own_name(), timeout=self._timeout)

    def _start_tls(self, smtp: smtplib.SMTP) -> None:
        wanted = self._settings.smtp_starttls
        smtp.ehlo_or_helo_if_needed()
        if self._tls_first or wanted == "false":
            return
        if smtp.has_extn("starttls"):
            smtp.starttls(context=self._tls())
        elif wanted == "true" or self._settings.smtp_password:
            raise smtplib.SMTPNotSupportedError("it offers no STARTTLS, and SMTP_STARTTLS=false is not set")

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context()
        return self._context

    def _own_name(self) -> str:
        """For EHLO; smtplib's own guess may ask a slow name server first."""
        host = urlsplit(self._settings.app_url).hostname or ""
        return host if "." in host and not host.replace(".", "").isdigit() else "[127.0.0.1]"

    def _why_unreachable(self, error: Exception) -> str:
        place = f"{self._settings.smtp_host}:{self._settings.smtp_port}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{place}: its certificate is not trusted ({error.verify_message}); SMTP_STARTTLS=false goes without"
        if isinstance(error, smtplib.SMTPAuthenticationError):
            return f"{place}: it refuses SMTP_USERNAME and SMTP_PASSWORD: {_answer(error.smtp_code, error.smtp_error)}"
        return f"{place}: {_reason(error)}"

    def _close(self) -> None:
        if self._smtp is not None:
            self._smtp.close()
        self._smtp = None


def _plain(message: EmailMessage, header: str) -> str:
    address: str = message[header].addresses[0].addr_spec
    return address


def _answer(code: int, text: bytes | str) -> str:
    said = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    return f"{code} {' '.join(said.split())}"[:300]


def _enhanced(text: bytes | str) -> str:
    """The first word, which is the enhanced status code where the server gives one (RFC 3463)."""
    words = _answer(0, text).split()
    return words[1] if len(words) > 1 else ""


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
