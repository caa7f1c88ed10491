"""What the tests of the mail share: a small shop over the services, a real mail server, a clock that tests move."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from pathlib import Path
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.domain.purchase import Entry, EventKind, PurchaseEvent
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.services.inquiries import Inquiries
from server.services.license_manager import LicenseManager
from server.services.mailer import Compose, Mailer
from server.services.outbox import Outbox
from server.services.settlement import Settlement
from server.settings import Settings
from server.storage.base import Letter
from server.storage.flatfile import FlatFileStore

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
OWNER = "owner@shop.example"
CATALOGUE: dict[str, Any] = {
    "tiers": {},
    "products": {
        "wave": {"name": "Wave", "platform_ids": {"gumroad": ["G-WAVE"]}},
        "team": {"name": "Team", "duration_days": 30, "max_devices": 2, "platform_ids": {"gumroad": ["G-TEAM"]}},
        "studio": {"name": "Studio", "bundle": ["wave", "team"], "platform_ids": {"gumroad": ["G-STUDIO"]}},
    },
}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


def settings_for(folder: Path, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "secret_key": ("secret-key-of-the-tests",),
        "license_secret": "license-secret-of-the-tests",
        "data_dir": folder,
        "owner_email": OWNER,
        "from_email": "shop@shop.example",
        "app_url": "https://licenses.shop.example",
        "smtp_host": "127.0.0.1",
    }
    return Settings(**(given | more))


class Pigeon:
    """A mailer that keeps what it is given. `trouble` may look at a letter and raise; it `delivers` like SMTP."""

    delivers = True

    def __init__(self, trouble: Callable[[Letter], None] | None = None) -> None:
        self.trouble = trouble
        self.letters: list[Letter] = []
        self.messages: list[EmailMessage] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def send(self, letter: Letter, compose: Compose) -> None:
        if self.trouble:
            self.trouble(letter)
        self.messages.append(compose())
        self.letters.append(letter)

    @property
    def sent(self) -> list[tuple[str, str]]:
        return [(letter.kind, letter.to) for letter in self.letters]


class Shop:
    """Services on a folder, without the web: sales go in, letters come out."""

    def __init__(self, folder: Path, clock: Clock | None = None, mailer: Mailer | None = None, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        if not (folder / "products.json").exists():
            (folder / "products.json").write_text(json.dumps(CATALOGUE))
        self.folder, self.clock = folder, clock or Clock()
        self.settings = settings_for(folder, **settings)
        self.pigeon = Pigeon()
        self.store = FlatFileStore(folder).open()
        self.catalogue = CatalogueFile(folder / "products.json")
        self.fulfilment = Fulfilment(self.store, self.catalogue, self.settings.license_secret, self.clock)
        self.licenses = LicenseManager(self.store, self.catalogue, self.fulfilment, self.clock)
        inquiries = Inquiries(self.store, {}, self.fulfilment, self.clock)
        settlement = Settlement(self.store, {}, inquiries, self.clock)
        post = mailer or self.pigeon
        self.outbox = Outbox(self.store, post, self.catalogue, inquiries, settlement, self.settings, self.clock)

    def says(self, event: EventKind, sale_id: str | None = "s1", product: str = "G-WAVE", **more: Any) -> Entry:
        said: dict[str, Any] = {
            "event": event,
            "event_id": f"{sale_id or more.get('subscription_id')}:{event}",
            "source": "gumroad",
            "sale_id": sale_id,
            "email": "ann@example.com",
            "customer_name": "Ann Example",
            "source_product_id": product,
            "product_name": "Wave",
            "price": "29.99",
            "currency": "usd",
            "purchase_date": self.clock(),
        }
        return self.fulfilment.record([PurchaseEvent(**(said | more))])[0]

    def sale(self, sale_id: str = "s1", email: str | None = "ann@example.com", **more: Any) -> Entry:
        return self.says(EventKind.SALE, sale_id, email=email, **more)

    def refund(self, sale_id: str = "s1", **more: Any) -> Entry:
        return self.says(EventKind.REFUND, sale_id, **more)

    def kinds_owed(self, entry: Entry) -> list[tuple[str, str]]:
        """What is sent for this one line."""
        self.outbox.send_due()
        return [(letter.kind, letter.to) for letter in self.pigeon.letters if letter.seq == entry.seq]

    def states(self) -> dict[str, str]:
        return {letter.id: letter.state for letter in self.outbox.list()}

    def letter(self, letter_id: str) -> Letter:
        return next(letter for letter in self.outbox.list() if letter.id == letter_id)


# ---------------------------------------------------------------------------------------------------- a mail server
Answer = Callable[[str], str | None]


class PostOffice:
    """aiosmtpd on loopback. `on_rcpt` and `on_data` may answer for an address; `inbox` is what was taken."""

    def __init__(self, **server: Any) -> None:
        self.inbox: list[tuple[list[str], EmailMessage]] = []
        self.logins: list[bytes] = []
        self.connections, self.was_encrypted = 0, False
        self.on_mail: Answer = lambda address: None
        self.on_rcpt: Answer = lambda address: None
        self.on_data: Answer = lambda address: None
        self._made = {"authenticator": self._authenticate, **server}

    def __enter__(self) -> Self:
        self.port = free_port()
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **self._made)
        self._controller.start()
        self.connections = 0  # the controller looked in itself
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    @property
    def recipients(self) -> list[str]:
        return [address for addresses, _ in self.inbox for address in addresses]

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, name: str, lines: list[str]
    ) -> list[str]:
        session.host_name = name
        if session.ssl is None:
            self.connections += 1
        self.was_encrypted = session.ssl is not None or _is_tls(server)
        return lines

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if answer := self.on_mail(address):
            return answer
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if answer := self.on_rcpt(address):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        answer = self.on_data(envelope.rcpt_tos[0])
        if answer == "DROP":
            _transport(server).abort()
            return "250 nobody hears this"
        if answer == "SILENCE":
            await asyncio.sleep(3600)
        if answer:
            return answer
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=POLICY)
        self.inbox.append((list(envelope.rcpt_tos), message))
        return "250 OK"

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        self.logins.append(data.login)
        return AuthResult(success=(data.login, data.password) == (b"shop", b"right"), handled=False)


def _transport(server: SMTP) -> asyncio.Transport:
    assert isinstance(server.transport, asyncio.Transport)
    return server.transport


def _is_tls(server: SMTP) -> bool:
    return isinstance(_transport(server).get_extra_info("sslcontext"), ssl.SSLContext)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts of a server with a certificate of its own making, and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))
