"""Hostile words through every field that a stranger may fill, and a look at every surface that shows them.

Letters are read as a mail program reads their bytes, the owner's commands print their real tables. Nothing of a
stranger's becomes a tag, a header, a formula, a control sequence, a line of the log or a value of a template, and no
secret is shown.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import re
import time
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import SMTP
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from stripe import WebhookSignature

from scripts import audit, licenses, outbox, reconcile
from server.services.importer import Importer
from server.services.legacy import read_old_books
from server.services.logs import JsonLines
from server.services.mailer import Compose
from server.storage.base import Letter
from tests import databases
from tests import jvzoo_notices as jvzoo
from tests.conftest import OWNER_KEY, SECRET, Clock, sale_ping, subscription_ping
from tests.hostile_words import CANARY, HOSTILE
from tests.standins import stripe_objects as stripe
from tests.tills import WHSEC, shop_of_three

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
SECRETS = {
    "smtp_password": "secret-canary-of-the-mail-server",
    "secret_key": ("secret-canary-of-the-sessions",),
    "license_secret": "secret-canary-of-the-licenses",
    "admin_api_key": OWNER_KEY,
    "gumroad_webhook_secret": SECRET,
    "jvzoo_secret_key": jvzoo.KEY,
    "jvzoo_webhook_secret": "secret-canary-of-the-second-jvzoo",
    "stripe_webhook_secret": (WHSEC,),
}
SIGNING_KEY = b"secret-canary-of-the-signatures!"
CANARIES = [value for told in SECRETS.values() for value in ((told,) if isinstance(told, str) else told)]
CANARIES += [SIGNING_KEY.decode(), base64.b64encode(SIGNING_KEY).decode()]
SHOWN = "full_name product_name permalink license_key ip_country purchaser_id referrer recurrence currency".split()
ASKED = "license_key hardware_id device_name product email nonce".split()
KEPT = "email customer_name product_id note".split()
HEADERS = [f"HTTP_{name}" for name in "X_REQUEST_ID USER_AGENT REFERER X_FORWARDED_FOR STRIPE_SIGNATURE ORIGIN".split()]
# What turns the direction of text, and what else no terminal should be sent: control characters but the newline.
TURNING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
UNSEEN = re.compile(f"{TURNING.pattern}|[\u061c\u200e\u200f]")
SOME = [
    word for place, word in enumerate(HOSTILE) if place % 8 in (0, 3, 6)
]  # all of them, and each field alone, in the slow test
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Postbox:
    """A mailer that reads what it is given, as bytes."""

    delivers = False

    def __init__(self, *_: object) -> None:
        self.inbox: list[tuple[str, Any]] = []

    def __enter__(self) -> Postbox:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def send(self, letter: Letter, compose: Compose) -> None:
        wire = compose().as_bytes(policy=SMTP.clone(utf8=not letter.to.isascii()))
        self.inbox.append((letter.to, message_from_bytes(wire, policy=SMTP)))


class Stranger:
    """Whoever fills in forms, posts notices and writes apps; and the owner who copies what they tell him."""

    def __init__(self, folder: Path, postbox: Postbox) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("server.wiring._mailer", lambda _: postbox)
            self.shop = shop_of_three(folder, Clock(), trusted_proxies=1, signing_key=(SIGNING_KEY,), **SECRETS)
        self.answers: list[Any] = []
        self.slowest = 0.0
        self.key = self.issue(email="seats@example.com", max_devices=10_000)

    def send(self, method: str, path: str, body: bytes = b"", content_type: str = JSON, **environ: str) -> Any:
        began = time.thread_time()  # our own work: a busy machine's waits are not ours
        answered = self.shop.client.open(
            path, method=method, data=body, content_type=content_type, environ_overrides=environ
        )
        self.slowest = max(self.slowest, time.thread_time() - began)
        self.answers.append(answered)
        return answered

    def owner(self, method: str, path: str, told: Any = None) -> Any:
        body = b"" if told is None else json.dumps(told).encode()
        return self.send(method, f"/api/v1{path}", body, HTTP_AUTHORIZATION=f"Bearer {OWNER_KEY}")

    def issue(self, **more: Any) -> str:
        told = {"email": "ann@example.com", "customer_name": "Ann", "product_id": "wave"} | more
        return str((self.owner("POST", "/licenses", told).json or {}).get("license_key"))

    # ------------------------------------------------------------------------------------------------ the doors
    def everywhere(self, number: int, word: str) -> None:
        self.on_gumroad(number, word)
        self.on_stripe(number, word)
        self.on_jvzoo(number, word)
        self.in_an_app(word)
        self.to_the_owner(word)
        self.around_a_request(word)

    def on_gumroad(self, number: int, word: str) -> None:
        told = dict.fromkeys(SHOWN, word) | {"custom_fields[Name]": word, "variants[Tier]": word, "url_params[a]": word}
        self.ping(sale_ping(f"g{number}", "ann@example.com", **told))
        self.ping(sale_ping(f"g{number}", "ann@example.com", resource="refund", refunded="true", **told))
        self.ping(sale_ping(f"d{number}", "ann@example.com", **told))
        self.ping(sale_ping(f"d{number}", "ann@example.com", resource="dispute", disputed="true", **told))
        self.ping(sale_ping(f"e{number}", word))
        self.ping(sale_ping(word, "ann@example.com"))
        self.ping(sale_ping(f"u{number}", "ann@example.com", word, product_name=word, full_name=word))
        self.ping(sale_ping(f"c{number}", "ann@example.com", "G-TEAM==", subscription_id=word, full_name=word))
        failed = {"cancelled": "true", "cancelled_due_to_payment_failures": "true", "ended_reason": word}
        self.ping(subscription_ping("cancellation", word, user_email=word, product_name=word, **failed))
        self.send("POST", f"/api/v1/webhooks/gumroad?secret={quoted(word)}", b"sale_id=x", FORM)

    def ping(self, told: dict[str, Any]) -> None:
        pairs = ((name, value) for name, value in told.items() if not isinstance(value, list))
        body = "&".join(f"{quoted(name)}={quoted(str(value))}" for name, value in pairs)
        self.send("POST", f"/api/v1/webhooks/gumroad?secret={SECRET}", body.encode(), FORM)

    def on_stripe(self, number: int, word: str) -> None:
        for email, name, metadata in (("ann@example.com", word, {"x": word}), (word, "Ann", {"product_id": word})):
            session = stripe.session(f"cs_{number}_{len(metadata)}_{name == word}", email, payment_link="plink_wave")
            session |= {"customer_details": {"email": email, "name": name}, "metadata": metadata}
            event = {"id": f"evt_{number}", "type": "checkout.session.completed", "created": stripe.WHEN}
            body = json.dumps({**event, "livemode": True, "data": {"object": session}})
            header = WebhookSignature.generate_signature_header(body, WHSEC)
            self.send("POST", "/api/v1/webhooks/stripe", body.encode(), HTTP_STRIPE_SIGNATURE=header)

    def on_jvzoo(self, number: int, word: str) -> None:
        named = {"ccustname": word, "cprodtitle": word, "ccuststate": word, "cvendthru": word, "ctransaffiliate": word}
        for told in (
            jvzoo.v1(f"J{number}", **named),
            jvzoo.v1(f"E{number}", ccustemail=word),
            jvzoo.v2(f"V{number}", customer_first_name=word, product_name=word, sku=word),
        ):
            told = {name: without_halves(str(value)) for name, value in told.items()}
            door = f"/ipn?secret={SECRETS['jvzoo_webhook_secret']}"
            self.send("POST", door, jvzoo.signed(told), FORM)

    def in_an_app(self, word: str) -> None:
        for field in ASKED:
            self.send("POST", "/api/v1/licenses/validate", said({"license_key": self.key, field: word}))
        device = {"license_key": self.key, "hardware_id": word, "device_name": word}
        self.send("POST", "/api/v1/licenses/activate", said(device))
        self.send("POST", "/api/v1/licenses/validate", said(device | {"features": [word]}))
        self.send("POST", "/api/validate-license", said({"license_key": word, "email": word}))
        self.send("POST", "/api/verify", said({"license": word}))

    def to_the_owner(self, word: str) -> None:
        for field in KEPT:
            self.issue(**{field: word})
        for path in (f"/licenses/{quoted(word)}", f"/licenses?email={quoted(word)}&status={quoted(word)}"):
            self.owner("GET", path)
        self.owner("GET", f"/purchases?email={quoted(word)}&source={quoted(word)}&license_key={quoted(word)}")
        self.owner("GET", f"/outbox?state={quoted(word)}")
        self.owner("POST", f"/licenses/{self.key}/transfer", {"email": "eve@example.com", "customer_name": word})
        self.owner("POST", f"/licenses/{self.key}/extend", {"until": word})

    def around_a_request(self, word: str) -> None:
        """Headers as a server hands them on: bytes as Latin-1. A line break cannot come in by one."""
        value = word.encode("utf-8", "replace").decode("latin-1").replace("\r", "").replace("\n", "").replace("\0", "")
        self.send("POST", "/api/v1/webhooks/stripe", b"{}", **dict.fromkeys(HEADERS, value))
        self.send("POST", "/api/v1/stats", HTTP_AUTHORIZATION=f"Bearer {value}")
        self.send("GET", "/docs", HTTP_HOST=value)
        self.send(value.upper() or "X", f"/{quoted(word)}")

    # ------------------------------------------------------------------------------------------------ the owner's files
    def imported(self, folder: Path, words: list[str]) -> None:
        """Old books in which every field is such a word, one license a word."""
        old = {
            f"OLD-{number}-{word}"[:128]: {
                "email": "ann@example.com",
                "customer_name": word,
                "created_date": "2024-01-05T10:00:00Z",
                "expiry_date": None,
                "is_active": True,
                "hardware_id": word or None,
                "device_name": word or None,
                "last_validation": None,
                "validation_count": 0,
                "purchase_source": "import",
                "purchase_id": f"o{number}-{word}",
                "product_id": "wave",
            }
            for number, word in enumerate(map(without_halves, words))
        }
        path = folder / "licenses.json"
        path.write_text(json.dumps(old))
        ours = self.shop.services
        importer = Importer(ours.store, ours.catalogue, ours.fulfilment, ours.clock)
        self.old = importer.plan(read_old_books(path), None)
        importer.run(self.old)
        for key, _ in list(ours.store.licenses()):
            if key.startswith("OLD-"):
                ours.outbox.resend(key)

    def mailed(self) -> None:
        """Until nothing is left that can go out; another thread may be at it."""
        for _ in range(600):
            report = self.shop.services.outbox.send_due(by_hand=True)
            if not report.busy and not report.sent and not report.dead:
                return
            time.sleep(0.05 if report.busy else 0)
        raise AssertionError("letters are left")


def quoted(text: str) -> str:
    return quote(text, safe="", errors="replace")


def said(told: dict[str, Any]) -> bytes:
    return json.dumps(told).encode()


def without_halves(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class Aftermath:
    def __init__(self, folder: Path, words: list[str]) -> None:
        self.log = Lines()
        logging.getLogger("server").addHandler(self.log)
        try:
            postbox = Postbox()
            self.stranger = Stranger(folder / "data", postbox)
            for number, word in enumerate(words):
                self.stranger.everywhere(number, word)
            self.stranger.imported(folder, words)
            self.stranger.mailed()
            self.inbox = postbox.inbox
        finally:
            logging.getLogger("server").removeHandler(self.log)
        self.shop, self.folder = self.stranger.shop, folder
        self.shop.services.store.tidy(force=True)


@pytest.fixture(scope="module")
def harmless(tmp_path_factory) -> Aftermath:
    return Aftermath(tmp_path_factory.mktemp("harmless"), ["Ann"])


@pytest.fixture(scope="module")
def after(tmp_path_factory) -> Aftermath:
    return Aftermath(tmp_path_factory.mktemp("hostile"), SOME)


# ---------------------------------------------------------------------------------------------------- answers
def test_no_word_is_a_500_and_no_answer_shows_a_secret(after):
    assert len(SOME) >= 60
    assert len(after.stranger.answers) > 30 * len(SOME)
    for answered in after.stranger.answers:
        assert answered.status_code < 500, answered.text
        assert answered.headers["X-Content-Type-Options"] == "nosniff"
        assert answered.mimetype in ("application/json", "text/plain", "text/html")
        assert not any(canary in answered.text for canary in CANARIES)
        assert not any(UNSEEN.search(value) for _, value in answered.headers)
        assert answered.mimetype != "text/html" or answered.request.path == "/docs"


def test_the_books_are_sound_afterwards(after):
    assert [finding for finding in after.shop.services.audit.verify() if not finding.is_note] == []
    assert after.shop.licenses()


# ---------------------------------------------------------------------------------------------------- letters
class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[tuple[str, tuple[tuple[str, str | None], ...]]] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add((tag, tuple(attrs)))

    handle_startendtag = handle_starttag

    def handle_comment(self, data):
        self.tags.add(("comment", ()))

    def unknown_decl(self, data):
        self.tags.add(("declaration", ()))


def content(message: Any, form: str) -> str:
    return str(message.get_body((form,)).get_content())


def test_no_word_becomes_a_tag_or_a_header_of_a_letter(after, harmless):
    tags = set().union(*(Page(content(message, "html")).tags for _, message in harmless.inbox))
    headers = {name.lower() for _, message in harmless.inbox for name in message.keys()}  # noqa: SIM118
    breaking = [word for word in HOSTILE if len(word) > 2 and set(word) & set("<\"'") and "doctype" not in word]
    assert len(after.inbox) > 3 * len(SOME)
    for _, message in after.inbox:
        html = content(message, "html")
        assert Page(html).tags <= tags, html
        assert not any(word in html for word in breaking)
        assert {name.lower() for name in message.keys()} <= headers  # noqa: SIM118
        assert not UNSEEN.search(message["Subject"])


def test_letters_are_plain_and_each_goes_to_one_address(after):
    for to, message in after.inbox:
        (address,) = message["To"].addresses
        local, _, domain = to.rpartition("@")
        assert address.username.encode("utf-8", "surrogateescape").decode() == local
        assert (address.domain, "evil@" in to) == (domain.encode("idna").decode(), False)
        for form in ("plain", "html"):
            text = content(message, form).replace("\r\n", "\n")
            assert not TURNING.search(text), (form, text)
            assert CANARY not in text
            assert not any(canary in text for canary in CANARIES)


# ---------------------------------------------------------------------------------------------------- tables
@pytest.fixture
def command(after, monkeypatch):
    """The scripts in this process; what they would print on the owner's terminal."""
    told = {"DATA_DIR": after.shop.folder, "ENV_FILE": "/dev/null", "EMAIL_BACKEND": "console", "TERM": "xterm"}
    told |= {name.upper(): value if isinstance(value, str) else value[0] for name, value in SECRETS.items()}
    del told["SMTP_PASSWORD"]  # which would have to be a good one
    for name, value in (told | databases.environment(after.shop.folder)).items():
        monkeypatch.setenv(name, str(value))

    def run(program: Any, *arguments: str) -> str:
        done = CliRunner().invoke(program, arguments)
        assert done.exit_code in (0, 1), (arguments, done.output, done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert not any(canary in done.output for canary in CANARIES)
        assert "--csv" in arguments or not UNSEEN.search(done.output), (arguments, UNSEEN.search(done.output))
        assert CANARY not in done.output
        return done.stdout

    for module in (licenses, outbox, reconcile):
        module.services.cache_clear()
    yield run
    for module in (licenses, outbox, reconcile):
        module.services.cache_clear()


TABLES = [
    (audit.audit, "list", "--limit", "0"),
    (audit.audit, "refunds"),
    (audit.audit, "find", "ann"),
    (audit.audit, "stats"),
    (audit.audit, "verify"),
    (audit.audit, "revenue"),
    (licenses.licenses, "list"),
    (licenses.licenses, "fulfil"),
    (outbox.outbox, "list"),
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: " ".join(table[1:]))
def test_no_word_moves_the_terminal(command, table):
    program, *arguments = table
    assert len(command(program, *arguments).splitlines()) > 1 or arguments[0] == "verify"


def test_no_word_is_taken_for_a_part_of_the_json(command):
    for program, *arguments in (TABLES[0], TABLES[2], TABLES[6], TABLES[8]):
        assert json.loads(command(program, *arguments, "--json"))


def test_every_license_can_be_shown_and_explained(command, after):
    for key, _ in list(after.shop.services.store.licenses())[::20]:
        assert "customer" in command(audit.audit, "explain", "--", key)
        assert command(licenses.licenses, "show", "--", key)


def test_a_record_of_such_words_is_compared_and_printed(command, tmp_path):
    fields = "sale_id email customer_name product_id product_name".split()
    rows = [
        {"event": "sale", "sale_id": f"r{number}", "price": "5", "currency": "usd", "email": "ann@example.com"}
        | {field: word}
        for number, word in enumerate(map(without_halves, HOSTILE))
        for field in fields
        if word.strip() and "\0" not in word and len(word) < 500
    ]
    path = tmp_path / "record.json"
    path.write_text(json.dumps(rows))
    for form in ([], ["--csv"], ["--json"]):
        assert command(reconcile.reconcile, "gumroad", "--since", "2020-01-01", "--from", str(path), *form)


def cells_of(text: str) -> Iterator[str]:
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    for row in rows:
        yield from row


def is_safe(cell: str) -> bool:
    return not cell.startswith(FORMULA) or re.fullmatch(r"-\d+(\.\d+)?", cell, re.ASCII) is not None


def test_no_cell_is_a_formula(command, after, tmp_path):
    path = tmp_path / "books.csv"
    command(audit.audit, "export", str(path))
    exported = path.read_bytes().decode("utf-8-sig")
    assert all(map(is_safe, cells_of(exported)))
    assert len(list(csv.reader(io.StringIO(exported)))) == len(after.shop.ledger()) + 1
    assert not any(canary in exported for canary in CANARIES)


@pytest.mark.parametrize(
    ("program", "name"), [(audit.audit, "list"), (licenses.licenses, "list"), (outbox.outbox, "list")]
)
def test_no_cell_that_is_printed_is_a_formula(monkeypatch, command, program, name):
    done = CliRunner().invoke(program, [name, "--csv"])
    assert all(map(is_safe, cells_of(done.stdout)))


# ---------------------------------------------------------------------------------------------------- logs and files
def test_every_line_of_the_log_is_one_object_in_ascii_and_names_nobody(after):
    assert len(after.log.lines) > len(SOME)
    keys = [key for key in after.shop.licenses() if not key.startswith("OLD-")]
    for line in after.log.lines:
        assert line.isascii(), line
        assert not UNSEEN.search(line), line
        assert set(json.loads(line)) >= {"ts", "level", "logger", "message"}
        assert not any(canary in line for canary in CANARIES), line
    everything = "\n".join(after.log.lines)
    assert not any(key in everything for key in keys)
    assert "ann@example.com" not in everything
    assert '"message":"forged"' not in everything
    assert '"level":"error"' not in everything


@pytest.mark.files
def test_no_file_of_the_folder_holds_a_secret_or_is_for_other_eyes(after):
    files = [path for path in after.shop.folder.iterdir() if path.is_file()]
    assert {"purchases.jsonl", "licenses.json", "outbox.jsonl"} <= {path.name for path in files}
    for path in files:
        held = path.read_bytes()
        assert path.name == "products.json" or path.stat().st_mode & 0o077 == 0, path.name
        assert [canary for canary in CANARIES if canary.encode() in held] == [], path.name


@pytest.mark.slow
def test_every_word_alone_in_every_field_is_answered_with_less_than_a_second_of_work(tmp_path):
    stranger = Stranger(tmp_path / "data", Postbox())
    fields = sorted(sale_ping("s", "a@b.c"))
    for number, word in enumerate(HOSTILE):
        stranger.everywhere(number, word)
        for field in fields:
            stranger.ping(sale_ping(f"{field}{number}", "ann@example.com") | {field: word})
    assert all(answered.status_code < 500 for answered in stranger.answers)
    assert len(stranger.answers) > 50 * len(HOSTILE)
    assert stranger.slowest < 1.0
