"""Hostile words in every field that a stranger may fill: on the dashboard's books they stay words."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest

from server.services.caretaker import Caretaker
from tests.conftest import SECRET, Shop, sale_ping, some_of
from tests.dashboard import HASH, OwnerBrowser
from tests.hostile_words import CANARY, HOSTILE
from tests.platforms.test_payu import SETTINGS
from tests.services.test_order_refunds import CATALOGUE
from tests.standins.payu import PayuApi

WORDS = [word for place, word in enumerate(HOSTILE) if place % 8 in (0, 3, 6)]  # sixty of them
FORM = "application/x-www-form-urlencoded"
SHOWN = "full_name product_name permalink license_key ip_country purchaser_id referrer recurrence currency".split()
PLAIN = "Ann"
Tag = tuple[str, tuple[str, ...]]


class Tags(HTMLParser):
    """The tags of a page with the names of their attributes, and where they lead."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[Tag] = set()
        self.leads: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add((tag, tuple(sorted(name for name, _ in attrs))))
        self.leads |= {value or "" for name, value in attrs if name in ("href", "src", "action", "formaction")}


def tags_of(page: str) -> Tags:
    found = Tags()
    found.feed(page)
    return found


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nobody but the test sends letters."""
    monkeypatch.setattr(Caretaker, "poke", lambda self: None)


def quoted(text: str) -> str:
    return quote(text.encode("utf-8", "replace"), safe="")


def ping(shop: Shop, fields: dict[str, Any], secret: str = SECRET) -> None:
    body = "&".join(f"{quoted(name)}={quoted(str(value))}" for name, value in fields.items())
    path = f"/api/v1/webhooks/gumroad?secret={quoted(secret)}"
    shop.client.post(path, data=body.encode(), content_type=FORM)


def fill(shop: Shop, number: int, word: str) -> None:
    told = dict.fromkeys(SHOWN, word) | {"custom_fields[Name]": word, "variants[Tier]": word}
    ping(shop, sale_ping(f"g{number}", "ann@example.com", **told))
    ping(shop, sale_ping(f"g{number}", "ann@example.com", resource="refund", refunded="true", **told))
    ping(shop, sale_ping(f"u{number}", word, word, **told))
    ping(shop, sale_ping(word, "ann@example.com", word))
    ping(shop, {"resource_name": word, "sale_id": word, word: word})
    ping(shop, sale_ping(f"s{number}", "ann@example.com", custom_fields=word), secret=word)
    ping(shop, sale_ping(f"b{number}", "ann@example.com", price=word, is_recurring_charge=word))
    shop.client.post(f"/api/v1/webhooks/{quoted(word) or 'x'}", data=b"{}")
    said = {"package_ids": ["wave"], "email": "ann@example.com", "name": word, "payment_provider": "payu"}
    shop.client.post("/api/v1/checkout/initiate", json=said | {"phone": word})


def walk(shop: Shop, owner: OwnerBrowser, pages: list[str]) -> dict[str, str]:
    """These pages, and all lines, letters and orders that there are."""
    ours = shop.services
    lines = [f"/webhooks/{seq}" for seq in range(1, len(shop.ledger()) + 1)]
    letters = [f"/letters/{quoted(letter.id)}" for letter in ours.outbox.list()]
    orders = [
        f"/orders/{file.order.order_id}" for file in ours.store.orders.placed(None, ours.clock().replace(year=2000))
    ]
    every = [*pages, *lines, *letters, *orders, *(f"{one}/refund" for one in orders[:3])]
    return {path: owner.get(path) for path in every}


@pytest.mark.parametrize("words", some_of([WORDS[::3], WORDS], 1), ids=["some", "all"])
def test_no_word_becomes_a_tag_a_link_or_a_value(tmp_path, clock, words):
    pages = ["/catalogue", "/orders", "/letters?state=dead", "/waiting"]
    pages += [f"/{place}{query}" for place in ("purchases", "webhooks") for query in ("", "?email=ann@example.com")]
    with PayuApi() as api:
        api.clock = clock
        settings = SETTINGS | {"payu_api_url": api.url, "admin_password_hash": HASH}
        products = CATALOGUE["products"]["wave"] | {"platform_ids": {"gumroad": ["G-WAVE=="]}}
        plain, hostile = (
            Shop(tmp_path / name, clock, {"products": {"wave": products}}, **settings) for name in ("plain", "hostile")
        )
        for number in range(2):
            fill(plain, number, PLAIN)
        for number, word in enumerate(words):
            fill(hostile, number, word)
    for shop in (plain, hostile):
        shop.services.outbox.send_due()
    known = {tag for page in walk(plain, OwnerBrowser(plain), pages).values() for tag in tags_of(page).tags}
    owner = OwnerBrowser(hostile)
    searched = [
        f"/{place}?email={quoted(word)}&sale_id={quoted(word)}" for place in ("purchases", "webhooks") for word in words
    ]
    for path, page in walk(hostile, owner, pages).items():
        found = tags_of(page)
        extra = {tag for tag in found.tags if tag not in known and not _is_ours(tag)}
        assert extra == set(), path
        assert [lead for lead in found.leads if not re.match(r"/admin|/static/|#main$|data:,$", lead)] == [], path
        assert CANARY not in page, path
        assert "\u202e" not in page.partition("<pre")[2], path
    for path in searched:
        answered = owner.client.get(f"/admin{path}")
        assert answered.status_code in (200, 400), path
        assert (
            tags_of(answered.text).tags - known - {tag for tag in tags_of(answered.text).tags if _is_ours(tag)} == set()
        )


_AT_TIMES = {
    ("a", ("href", "rel")),
    ("nav", ("aria-label", "class")),
    ("label", ("for",)),
    ("input", ("id", "maxlength", "name", "required", "type")),  # an address, of a sale that names none
}
_PLAIN = frozenset("span p li ul h2 td br code pre strong dl dt dd div s".split())
_HARMLESS = frozenset("class data-label role aria-label tabindex".split())


def _is_ours(tag: Tag) -> bool:
    """What only some states of a thing, or a long list, have on their pages."""
    name, attributes = tag
    return tag in _AT_TIMES or (name in _PLAIN and _HARMLESS.issuperset(attributes))
