"""A small mail server on this machine."""

from __future__ import annotations

import queue
import socketserver
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default


class Mailbox(socketserver.ThreadingTCPServer):
    """Takes any letter over SMTP and keeps it in `letters`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.letters: queue.Queue[EmailMessage] = queue.Queue()
        super().__init__(("127.0.0.1", 0), MailSession)


class MailSession(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"220 demo\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                self.keep()
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 well\r\n")

    def keep(self) -> None:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))
        letter = message_from_bytes(b"".join(lines), policy=default)
        assert isinstance(letter, EmailMessage)
        assert isinstance(self.server, Mailbox)
        self.server.letters.put(letter)
