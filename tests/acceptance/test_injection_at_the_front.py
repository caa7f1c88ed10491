"""The same hostile words at the store front: in the catalogue, in every field of a buyer and of a customer, in every
address; and a look at each page, letter and line of the log that they come to."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from server.domain.keys import license_id
from server.domain.purchase import EventKind, PurchaseEvent
from server.services.logs import set_up_logging
from tests.acceptance.test_injection import (
    CANARIES,
    FORM,
    SECRETS,
    SIGNING_KEY,
    SOME,
    UNSEEN,
    Lines,
    Postbox,
    quoted,
    said,
)
from tests.acceptance.test_injection import without_halves as whole
from tests.conftest import CATALOGUE, Clock, Shop
from tests.device_codes import device_code
from tests.hostile_words import CANARY, HOSTILE
from tests.standins import jazzcash

ANN = "ann@example.com"
ORDER = {"package_ids": ["h0"], "email": ANN, "name": "Ann", "payment_provider": "jazzcash", "currency": "pkr"}
TYPED = {"name": "Ann", "email": ANN, "payment_provider": "jazzcash", "currency": "pkr", "phone": "03001234567"}
LINK = re.compile(r"/portal/sign-in/([^\s/\"]+)$", re.MULTILINE)


def catalogue(words: list[str]) -> dict[str, Any]:
    """A package for each word, whose texts are that word, and a bundle of each."""
    products: dict[str, Any] = {}
    for number, word in enumerate(map(whole, words)):
        texts = {"name": word, "description": word, "category": word, "includes": [word], "slug": f"{number}{word}"}
        sold = {"published": True, "price": {"pkr": "85.00"}, "original_price": {"pkr": "90.00"}, "features": [word]}
        products[f"h{number}"] = texts | sold
        products[f"b{number}"] = texts | sold | {"bundle": [f"h{number}", "wave"], "slug": ""}
    return CATALOGUE | {"products": CATALOGUE["products"] | products}


class Passer:
    """Somebody who comes by, types what he likes, and is a customer, too."""

    def __init__(self, folder: Path, postbox: Postbox, words: list[str]) -> None:
        settings = {"jazzcash_merchant_id": jazzcash.MERCHANT, "jazzcash_password": jazzcash.PASSWORD}
        settings |= {"jazzcash_integrity_salt": jazzcash.SALT, "allowed_origins": ("https://shop.example",)}
        settings |= {"signing_key": (SIGNING_KEY,)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("server.wiring._mailer", lambda _: postbox)
            self.shop = Shop(folder, Clock(), catalogue(words), **settings, **SECRETS)
        self.answers: list[Any] = []
        _, self.cookie = self.shop.services.customers.sessions.begin(ANN)
        self.token = self.get("/api/v1/me").json["csrf_token"]

    def get(self, path: str) -> Any:
        return self.send("GET", path)

    def send(self, method: str, path: str, body: bytes = b"", kind: str = FORM, **environ: str) -> Any:
        """As a browser does that is signed in, so that all errors are pages where there are pages."""
        told = {"HTTP_ACCEPT": "text/html", "HTTP_COOKIE": f"keyledger={self.cookie}"}
        client = self.shop.app.test_client(use_cookies=False)
        answered = client.open(path, method=method, data=body, content_type=kind, environ_overrides=told | environ)
        self.answers.append(answered)
        return answered

    def types(self, path: str, **fields: str) -> Any:
        return self.send("POST", path, urlencode(fields, errors="replace").encode())

    # ------------------------------------------------------------------------------------------------ the doors
    def everywhere(self, number: int, word: str) -> None:
        self.looks(number, word)
        self.orders(number, word)
        self.asks_by_the_api(word)
        self.buys(number, word)
        self.is_a_customer(word)

    def looks(self, number: int, word: str) -> None:
        for path in (
            f"/shop/h{number}",
            f"/shop/b{number}",
            f"/shop/{quoted(f'{number}{word}')}",
            f"/shop/{quoted(word)}",
        ):
            self.get(path)
        for path in ("/shop?category=", "/shop/h0?currency=", "/api/v1/packages?category=", "/portal?done="):
            self.get(path + quoted(word))
        self.get("/portal/sign-in")
        for path in (f"/api/v1/packages/b{number}", f"/api/v1/packages/b{number}/bundle", f"/{quoted(word)}"):
            self.get(path)
        for path in ("/order/%s", "/order/%s/again", "/pay/%s", "/pay/%s/back", "/api/v1/checkout/order/%s"):
            self.get(path % quoted(word))

    def orders(self, number: int, word: str) -> None:
        for field in TYPED:
            self.types(f"/shop/h{number}", **TYPED | {field: word})

    def asks_by_the_api(self, word: str) -> None:
        more = {"phone": word, "success_url": word, "cancel_url": f"https://shop.example/{word}"}
        for name in ORDER | more:
            told = ORDER | {name: [word] if name == "package_ids" else more.get(name, word)}
            self.send("POST", "/api/v1/checkout/initiate", said(told), "application/json")

    def buys(self, number: int, word: str) -> None:
        """And gives a name, a way back and an address that the platform brings."""
        told = ORDER | {"package_ids": [f"b{number}"], "name": whole(word) or "Ann", "email": f"x{number}@example.com"}
        asked = told | {"success_url": f"https://shop.example/{whole(word)}"}
        answered = self.send("POST", "/api/v1/checkout/initiate", said(asked), "application/json")
        if answered.status_code != 201:
            answered = self.send("POST", "/api/v1/checkout/initiate", said(told | {"name": "Ann"}), "application/json")
        begun = answered.json
        order_id, claim = begun["order_id"], begun["status_url"].partition("claim=")[2]
        for path in (f"/pay/{order_id}", f"/pay/{order_id}/back?auth_token={quoted(word)}&status={quoted(word)}"):
            self.get(path)
        self.get(f"/order/{order_id}?claim={quoted(word)}")
        proof = f"order-{order_id}={claim}"
        self.send("GET", f"/order/{order_id}", HTTP_COOKIE=proof)
        self.is_paid(order_id, begun)
        self.send("GET", f"/order/{order_id}", HTTP_COOKIE=proof)
        self.send("GET", f"/order/{order_id}", HTTP_COOKIE=f"order-{order_id}={whole(word)}".encode().decode("latin-1"))
        self.get(f"/pay/{order_id}")

    def is_paid(self, order_id: str, begun: dict[str, Any]) -> None:
        said = PurchaseEvent(
            event=EventKind.SALE,
            event_id=f"{order_id}:sale",
            source="jazzcash",
            sale_id=order_id,
            order_id=order_id,
            price=begun["amount"],
            currency=begun["currency"],
            occurred_at=self.shop.clock(),
        )
        (entry,) = self.shop.services.fulfilment.record([said])
        assert len(entry.license_keys) == 2

    def is_a_customer(self, word: str) -> None:
        """Ann, whose apps say who they are in such words."""
        key = self.shop.sale(f"s{len(self.answers)}", ANN)
        device = {"license_key": key, "hardware_id": word, "device_name": word}
        self.send("POST", "/api/v1/licenses/activate", said(device), "application/json")
        self.get("/portal")
        name = license_id(key)
        proof = {"csrf_token": self.token, "number": "1", "hardware_id": "pc"}
        for field in proof:
            self.types(f"/portal/licenses/{name}/release", **proof | {field: word})
        for button in ("release", "room", "resend", "offline"):
            self.types(f"/portal/licenses/{quoted(word)}/{button}", **proof)
        for path in ("/portal/sign-out", "/portal/sign-out-everywhere"):
            self.types(path, csrf_token=word)
        self.types("/portal/sign-in", email=word)
        self.types("/portal/sign-in", email=ANN, why=word)
        self.looks_at_a_license(key, word)
        for path in ("/portal/sign-in/%s", "/portal/sign-in/%s/again"):
            self.types(path % quoted(word))
        self.get(f"/portal/sign-in/{quoted(word)}")
        for path in ("/api/v1/orders/%s", "/api/v1/package-enrollments/%s/check"):
            self.get(path % quoted(word))
        self.get("/api/v1/package-enrollments/me")
        path = f"/api/v1/me/licenses/{name}/devices/1/release"
        self.send("POST", path, said({"hardware_id": word}), "application/json", HTTP_X_CSRF_TOKEN=self.token)

    def looks_at_a_license(self, key: str, word: str) -> None:
        """One whose only device has such a name, as has the one that is refused."""
        path, of = f"/portal/licenses/{license_id(key)}", quoted(word)
        device = {"license_key": key, "hardware_id": "pc2", "device_name": word}
        self.send("POST", "/api/v1/licenses/activate", said(device), "application/json")
        for end in (
            "",
            "/devices/1/release",
            "/devices/1/file",
            f"?done={of}",
            f"/devices/{of}/release",
            f"/devices/{of}/file",
        ):
            self.get(path + end)
        for other in (f"/portal/licenses/{of}", f"/portal/receipts/{of}", f"/portal/sign-in?why={of}"):
            self.get(other)
        for payment in self.shop.services.payments.of(ANN)[:1]:
            self.get(f"/portal/receipts/{payment.id}")
        for code in (word, device_code("pc3", whole(word)[:100]), device_code("pc4", "PC", whole(word)[:100])):
            self.types(f"{path}/offline", csrf_token=self.token, device_code=code)

    def gets_a_link(self, postbox: Postbox) -> None:
        self.types("/portal/sign-in", email=ANN)
        self.shop.services.outbox.send_due()
        (token,) = LINK.findall(body(postbox.inbox[-1][1], "plain"))
        for method in ("GET", "POST", "GET"):
            self.send(method, f"/portal/sign-in/{token}")


def body(message: Any, form: str) -> str:
    return str(message.get_body((form,)).get_content()).replace("\r\n", "\n")


class Aftermath:
    def __init__(self, folder: Path, words: list[str]) -> None:
        self.log, self.postbox = Lines(), Postbox()
        set_up_logging()
        logging.getLogger("server").addHandler(self.log)
        try:
            self.passer = Passer(folder / "data", self.postbox, words)
            for number, word in enumerate(words):
                self.passer.everywhere(number, word)
            self.passer.shop.services.outbox.send_due()
            self.passer.gets_a_link(self.postbox)
        finally:
            logging.getLogger("server").removeHandler(self.log)

    @property
    def pages(self) -> Iterator[Any]:
        return (answered for answered in self.passer.answers if answered.mimetype == "text/html")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory) -> Aftermath:
    return Aftermath(tmp_path_factory.mktemp("harmless"), ["Ann", "Bob"])


@pytest.fixture(scope="module")
def after(tmp_path_factory) -> Aftermath:
    return Aftermath(tmp_path_factory.mktemp("hostile"), SOME)


class Tags(HTMLParser):
    """Which tags there are, with the names of their attributes, and what stands in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[tuple[str, str]] = set()
        self.links: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags |= {(tag, name) for name, _ in attrs} | {(tag, "")}
        self.links += [value or "" for name, value in attrs if name in ("href", "action", "src")]

    handle_startendtag = handle_starttag

    def handle_comment(self, data: str) -> None:
        self.tags.add(("comment", ""))

    def unknown_decl(self, data: str) -> None:
        self.tags.add(("declaration", ""))


OURS = {("input", "autofocus"), ("input", "aria-invalid"), ("input", "checked")}  # of a form with what is to be mended


def test_no_word_is_a_500_and_no_answer_shows_a_secret(after):
    assert len(after.passer.answers) > 50 * len(SOME)
    for answered in after.passer.answers:
        assert answered.status_code < 500, (answered.request.path, answered.text)
        assert answered.headers["X-Content-Type-Options"] == "nosniff"
        assert not any(canary in answered.text for canary in CANARIES)
        assert CANARY not in answered.text
        assert not any(UNSEEN.search(value) for _, value in answered.headers)


def adds_nothing(after: Aftermath, harmless: Aftermath) -> None:
    """No page of the one has a tag, an attribute or a link that those of the other have not."""
    known = set().union(*(Tags(page.text).tags for page in harmless.pages)) | OURS
    for page in after.pages:
        found = Tags(page.text) if page.data else Tags("")
        assert found.tags <= known, (page.request.path, found.tags - known)
        here = (
            "/",
            "#",
            "?",
            "https://shop.example/",
            "https://payments.jazzcash.com.pk/",
            "mailto:owner@shop.example",
        )
        assert all(link.startswith(here) and not link.startswith("//") for link in found.links), found.links
        if page.status_code != 303 and page.request.method != "OPTIONS":
            policy = page.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        to = page.headers.get("Location", "/")
        assert to.startswith(("/", "http://127.0.0.1:8000/", "https://shop.example/")), to


def test_no_word_becomes_a_tag_or_a_link_of_a_page(after, harmless):
    assert sum(page.status_code == 200 for page in after.pages) > 8 * len(SOME)
    adds_nothing(after, harmless)


def test_no_word_becomes_a_tag_or_a_header_of_a_letter(after, harmless):
    known = set().union(*(Tags(body(message, "html")).tags for _, message in harmless.postbox.inbox))
    headers = {name.lower() for _, message in harmless.postbox.inbox for name in message.keys()}  # noqa: SIM118
    bought = [message for to, message in after.postbox.inbox if to.startswith("x")]
    assert len(bought) == len(SOME)
    for to, message in after.postbox.inbox:
        found = Tags(body(message, "html"))
        assert found.tags <= known, found.tags - known
        assert all(link.startswith("http://127.0.0.1:8000/portal") for link in found.links)
        assert {name.lower() for name in message.keys()} <= headers  # noqa: SIM118
        assert not UNSEEN.search(message["Subject"])
        assert CANARY not in body(message, "plain")
        assert "evil@" not in to


def test_every_line_of_the_log_is_one_object_in_ascii_and_names_nobody(after):
    tokens = [token for _, message in after.postbox.inbox for token in LINK.findall(body(message, "plain"))]
    keys = list(after.passer.shop.licenses())
    assert len(after.log.lines) > len(SOME)
    assert len(tokens) > len(SOME)
    for line in after.log.lines:
        assert line.isascii()
        assert set(json.loads(line)) >= {"ts", "level", "logger", "message"}
        assert '"level":"error"' not in line
    everything = "\n".join(after.log.lines)
    assert not any(word in everything for word in (*keys, *tokens, ANN, *CANARIES))
    assert '"message":"forged"' not in everything


@pytest.mark.files
def test_the_books_are_sound_afterwards(after):
    assert [finding for finding in after.passer.shop.services.audit.verify() if not finding.is_note] == []
    for line in (after.passer.shop.folder / "orders.jsonl").read_bytes().splitlines():
        assert line.isascii()
        assert json.loads(line)


@pytest.mark.slow
def test_every_word_is_answered_and_becomes_no_tag(tmp_path, harmless):
    told = Aftermath(tmp_path, HOSTILE)
    assert all(answered.status_code < 500 for answered in told.passer.answers)
    adds_nothing(told, harmless)
