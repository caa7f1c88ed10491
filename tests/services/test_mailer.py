"""Letters leave over SMTP, on a real server: what is refused for good, what is tried again, what stops everything."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

import pytest

from server.services.mailer import ConnectionLost, ConsoleMailer, MailError, ServerUnreachable, SmtpMailer
from server.storage.base import Letter
from tests.services.mail_room import PostOffice, certificate, free_port, settings_for


@pytest.fixture
def office() -> Iterator[PostOffice]:
    with PostOffice(auth_require_tls=False) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def letter(to: str = "ann@example.com") -> Letter:
    return Letter(id="1:delivery", kind="delivery", to=to)


def message(to: str = "ann@example.com", text: str = "your key") -> EmailMessage:
    local, _, domain = to.rpartition("@")
    made = EmailMessage(policy=SMTP)
    made["From"], made["To"] = Address(addr_spec="shop@shop.example"), Address(username=local, domain=domain)
    made["Subject"] = "Your license key"
    made.set_content(text)
    return made


def send(mailer: SmtpMailer, *to: str) -> None:
    with mailer:
        for address in to or ("ann@example.com",):
            mailer.send(letter(address), lambda: message(address))  # noqa: B023  called before the next turn


def refusal(mailer: SmtpMailer, to: str = "ann@example.com") -> MailError:
    with pytest.raises(MailError) as caught:
        send(mailer, to)
    return caught.value


def answering(text: str, only: str = "ann@example.com") -> Callable[[str], str | None]:
    return lambda address: text if address == only else None


def test_a_batch_goes_out_over_one_connection(office: PostOffice, folder: Path) -> None:
    send(SmtpMailer(settings_for(folder, smtp_port=office.port)), "ann@example.com", "bob@example.com")
    assert office.recipients == ["ann@example.com", "bob@example.com"]
    assert office.connections == 1
    assert office.inbox[0][1]["Subject"] == "Your license key"


# ---------------------------------------------------------------------------------------------------- TLS
def test_auto_takes_the_tls_that_is_offered(folder: Path) -> None:
    server, client = certificate(folder)
    with PostOffice(tls_context=server) as office:
        send(SmtpMailer(settings_for(folder, smtp_port=office.port), context=client))
        assert office.recipients == ["ann@example.com"]
        assert office.was_encrypted


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(folder: Path) -> None:
    server, _ = certificate(folder)
    with PostOffice(tls_context=server) as office:
        error = refusal(SmtpMailer(settings_for(folder, smtp_port=office.port)))
        assert isinstance(error, ServerUnreachable)
        assert "certificate" in error.detail
        assert office.inbox == []


def test_tls_can_be_demanded_and_left_out(office: PostOffice, folder: Path) -> None:
    demanded = SmtpMailer(settings_for(folder, smtp_port=office.port, smtp_starttls="true"))
    assert isinstance(refusal(demanded), ServerUnreachable)
    server, _ = certificate(folder)
    with PostOffice(tls_context=server) as offering:
        send(SmtpMailer(settings_for(folder, smtp_port=offering.port, smtp_starttls="false")))
        assert not offering.was_encrypted


def test_a_password_is_never_sent_in_the_clear_unless_told_so(office: PostOffice, folder: Path) -> None:
    login = {"smtp_port": office.port, "smtp_username": "shop", "smtp_password": "right"}
    error = refusal(SmtpMailer(settings_for(folder, **login)))
    assert isinstance(error, ServerUnreachable)
    assert "STARTTLS" in error.detail
    assert office.logins == []
    send(SmtpMailer(settings_for(folder, **login, smtp_starttls="false")))
    assert office.logins == [b"shop"]


def test_signing_in_over_tls(folder: Path) -> None:
    server, client = certificate(folder)
    with PostOffice(tls_context=server, auth_required=True) as office:
        login = {"smtp_port": office.port, "smtp_username": "shop"}
        send(SmtpMailer(settings_for(folder, **login, smtp_password="right"), context=client))
        assert office.recipients == ["ann@example.com"]
        error = refusal(SmtpMailer(settings_for(folder, **login, smtp_password="wrong"), context=client))
        assert isinstance(error, ServerUnreachable)
        assert "SMTP_PASSWORD" in error.detail


def test_on_the_port_of_smtps_tls_comes_first(folder: Path) -> None:
    server, client = certificate(folder)
    with PostOffice(ssl_context=server) as office:
        send(SmtpMailer(settings_for(folder, smtp_port=office.port), context=client, tls_port=office.port))
        assert office.recipients == ["ann@example.com"]
        assert office.was_encrypted


# ---------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("answer", "permanent"),
    [
        ("550 no such user", True),
        ("550 5.1.1 no such user", True),
        ("553 no such mailbox", True),
        ("554 no thanks", True),
        ("551 gone away", True),
        ("450 greylisted", False),
        ("451 try later", False),
        ("452 full for now", False),
        ("552 mailbox full", False),
        ("550 5.7.1 relaying denied", False),
        ("530 5.7.0 authentication required", False),
    ],
)
def test_only_a_bad_address_is_refused_for_good(office: PostOffice, folder: Path, answer: str, permanent: bool) -> None:
    office.on_rcpt = answering(answer)
    error = refusal(SmtpMailer(settings_for(folder, smtp_port=office.port)))
    assert (error.permanent, type(error)) == (permanent, MailError)
    assert answer in error.detail
    office.on_rcpt, office.on_data = answering(""), answering(answer)
    error = refusal(SmtpMailer(settings_for(folder, smtp_port=office.port)))
    assert (error.permanent, type(error)) == (permanent, MailError)


def test_a_refusal_leaves_the_connection_for_the_next_letter(office: PostOffice, folder: Path) -> None:
    office.on_rcpt = answering("550 no such user")
    mailer = SmtpMailer(settings_for(folder, smtp_port=office.port))
    with mailer:
        with pytest.raises(MailError):
            mailer.send(letter(), message)
        mailer.send(letter("bob@example.com"), lambda: message("bob@example.com"))
    assert office.recipients == ["bob@example.com"]
    assert office.connections == 1


def test_a_refused_sender_concerns_every_letter(office: PostOffice, folder: Path) -> None:
    office.on_mail = answering("553 not your address", only="shop@shop.example")
    assert isinstance(refusal(SmtpMailer(settings_for(folder, smtp_port=office.port))), ServerUnreachable)


@pytest.mark.parametrize("answer", ["DROP", "421 closing down"])
def test_a_broken_connection_is_opened_again_for_the_next_letter(office: PostOffice, folder: Path, answer: str) -> None:
    office.on_data = answering(answer)
    mailer = SmtpMailer(settings_for(folder, smtp_port=office.port))
    with mailer:
        with pytest.raises(ConnectionLost) as caught:
            mailer.send(letter(), message)
        assert not caught.value.permanent
        mailer.send(letter("bob@example.com"), lambda: message("bob@example.com"))
    assert office.recipients == ["bob@example.com"]
    assert office.connections == 2


def test_a_server_that_falls_silent_costs_one_timeout(office: PostOffice, folder: Path) -> None:
    office.on_data = answering("SILENCE")
    error = refusal(SmtpMailer(settings_for(folder, smtp_port=office.port), timeout=0.1))
    assert isinstance(error, ConnectionLost)


def test_a_connection_that_was_closed_while_idle_is_not_used_again(folder: Path) -> None:
    with _OneLetterAConnection() as office:
        send(SmtpMailer(settings_for(folder, smtp_port=office.port)), "ann@example.com", "bob@example.com")
        assert office.letters == 2


def test_no_server_and_a_server_that_never_speaks(folder: Path) -> None:
    refused = refusal(SmtpMailer(settings_for(folder, smtp_port=free_port())))
    assert isinstance(refused, ServerUnreachable)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        silent = refusal(SmtpMailer(settings_for(folder, smtp_port=port), timeout=0.1))
        assert isinstance(silent, ServerUnreachable)
        assert str(port) in silent.detail


def test_an_address_beyond_ascii_goes_where_the_server_takes_it(folder: Path) -> None:
    with PostOffice(enable_SMTPUTF8=True) as office:
        send(SmtpMailer(settings_for(folder, smtp_port=office.port)), "jörg@example.com")
        assert office.recipients == ["jörg@example.com"]
    with PostOffice(enable_SMTPUTF8=False) as office:
        assert refusal(SmtpMailer(settings_for(folder, smtp_port=office.port)), "jörg@example.com").permanent


# ---------------------------------------------------------------------------------------------------- the console
def test_without_a_terminal_nothing_is_composed_and_nothing_secret_is_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def never() -> EmailMessage:
        raise AssertionError("composed")

    with caplog.at_level(logging.INFO), ConsoleMailer() as mailer:
        mailer.send(Letter(id="1:delivery", kind="delivery", to="ann@example.com", license_key="SECRET-KEY"), never)
    (record,) = caplog.records
    said = f"{record.getMessage()} {vars(record)}"
    assert "1:delivery to a…@e…" in said
    assert "ann@" not in said
    assert "SECRET-KEY" not in said
    assert capsys.readouterr().out == ""


def test_on_a_terminal_the_letter_is_printed() -> None:
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, contextlib.redirect_stdout(terminal), ConsoleMailer() as mailer:
        mailer.send(letter(), lambda: message(text="here is your key"))
    shown = os.read(master, 4096).decode()
    os.close(master)
    assert "To: ann@example.com" in shown
    assert "here is your key" in shown


class _OneLetterAConnection:
    """A server of few words that hangs up after each letter without a good-bye."""

    def __init__(self) -> None:
        self.letters = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(5)
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> _OneLetterAConnection:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        for _ in range(2):
            connection, _address = self._socket.accept()
            with connection, connection.makefile("rwb", buffering=0) as wire:
                wire.write(b"220 hello\r\n")
                self._talk(wire)

    def _talk(self, wire: Any) -> None:
        for line in wire:
            if line.upper().startswith(b"DATA"):
                wire.write(b"354 go on\r\n")
                while wire.readline() != b".\r\n":
                    pass
                self.letters += 1
                wire.write(b"250 taken\r\n")
                return
            wire.write(b"250 fine\r\n")
