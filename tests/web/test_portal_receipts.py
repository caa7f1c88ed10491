"""Receipts and invoices from outside: what was paid, what went back, who sold it; and nobody sees another's."""

from __future__ import annotations

import re

import pytest

from server.domain.purchase import EventKind
from tests.conftest import CATALOGUE, Clock, sale_ping
from tests.customers import ANN, BOB, Browser, Counter, without_caretakers
from tests.standins.stripe_objects import charge
from tests.stripe_shop import StripeShop, wave
from tests.web.test_portal import Page

E = EventKind
SELLER = {"seller_name": "Ann <Software> GmbH", "seller_address": ("Main Street 1", "Berlin"), "seller_tax_id": "DE12"}


@pytest.fixture
def shop(tmp_path, clock, monkeypatch) -> Counter:
    without_caretakers(monkeypatch)
    return Counter(tmp_path / "data", clock)


def links(browser: Browser, path: str = "/portal") -> list[str]:
    return re.findall(r'href="(/portal/receipts/pay_[0-9a-f]{20})"', browser.client.get(path).text)


def told(browser: Browser, number: int = 0) -> str:
    answered = browser.client.get(links(browser)[number])
    assert answered.status_code == 200
    return " ".join(Page(answered.text).words.split())


def rows(browser: Browser, number: int = 0) -> list[list[str]]:
    text = browser.client.get(links(browser)[number]).text
    found = [
        re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    ]
    return [[" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in row] for row in found]


def test_an_order_has_a_receipt_with_all_its_lines(shop):
    order, _ = shop.buy("studio", "solo")
    browser = shop.sign_in()
    assert rows(browser) == [
        ["What", "Amount in PLN"],
        ["Studio Wave, Team", "119.00"],
        ["Solo", "119.00"],
        ["Paid", "238.00"],
    ]
    text = told(browser)
    for said in ("Receipt", order.number, "20 November 2026", "PayU", "Ann Example", ANN, "No tax was worked out"):
        assert said in text
    assert "Invoice" not in text


def test_what_went_back_has_lines_of_its_own(shop, clock):
    order, _ = shop.buy("wave", "team")
    clock.forward(days=1)
    shop.tell(order, E.PARTIAL_REFUND, event_id="r1", incident="r1", price="38.00")
    clock.forward(days=1)
    shop.tell(order, E.PARTIAL_REFUND, event_id="r2", incident="r2", price="50.50")
    browser = shop.sign_in()
    assert rows(browser)[3:] == [
        ["Paid", "238.00"],
        ["Refunded in part 21 November 2026", "\u221238.00"],
        ["Refunded in part 22 November 2026", "\u221250.50"],
        ["Total after refunds", "149.50"],
    ]
    clock.forward(days=1)
    shop.tell(order, E.REFUND_FAILED, event_id="r2:failed", incident="r2", price="50.50")
    browser = shop.sign_in()
    assert rows(browser)[-2:] == [
        ["A refund did not succeed 23 November 2026", "50.50"],
        ["Total after refunds", "200.00"],
    ]


def test_a_sale_of_gumroads_is_told_as_gumroad_told_it(tmp_path, clock, monkeypatch):
    """In US dollars, without the tax that Gumroad takes; and the tax document is Gumroad's own."""
    without_caretakers(monkeypatch)
    shop = Counter(tmp_path / "seller", clock, **SELLER)
    shop.sale("s1==", ANN, currency="jpy", quantity=2)
    shop.ping(sale_ping("s1==", ANN, resource="refund", refunded="false"))
    browser = shop.sign_in()
    assert rows(browser) == [
        ["What", "Amount in USD"],
        ["Wave \u00d7 2", "29.99"],
        ["Paid", "29.99"],
        ["Refunded in part 5 November 2026", "Gumroad did not tell how much"],
        ["Total after refunds", "29.99"],
    ]
    text = told(browser)
    assert text.count("Receipt") == 2  # title and heading
    for said in ("s1==", "Gumroad's own receipt", "Ann <Software> GmbH", "Tax id DE12", "United States"):
        assert said in text


def test_who_says_who_he_is_writes_invoices(tmp_path, clock, monkeypatch):
    without_caretakers(monkeypatch)
    shop = Counter(tmp_path / "seller", clock, **SELLER)
    order, _ = shop.buy("wave")
    text = told(shop.sign_in())
    for said in ("Invoice", order.number, "Ann <Software> GmbH", "Main Street 1", "Berlin", "Tax id DE12"):
        assert said in text
    assert "Receipt" not in text


def test_each_charge_of_a_subscription_has_its_own(shop, clock):
    more = {"subscription_id": "sub1", "recurrence": "monthly"}
    shop.sale("s1", ANN, "G-TEAM==", **more, sale_timestamp="2026-10-05T19:38:56Z")
    shop.sale("s2", ANN, "G-TEAM==", **more, is_recurring_charge="true")
    browser = shop.sign_in()
    assert len(links(browser)) == 2
    assert [row[1] for number in (0, 1) for row in rows(browser, number) if row[0] == "Paid"] == ["29.99", "29.99"]
    assert "renewal" in told(browser, 0)
    assert links(browser, "/portal/licenses/" + browser.get("/me/licenses")["licenses"][0]["id"]) == links(browser)


def test_a_purchase_stays_its_buyers_when_the_license_goes_to_another(shop):
    key = shop.sale("s1", ANN)
    ann = shop.sign_in(ANN)
    (path,) = links(ann)
    shop.owner("POST", f"/licenses/{key}/transfer", {"email": BOB})
    bob = shop.sign_in(BOB)
    assert links(bob) == []
    assert [one.client.get(path).status_code for one in (ann, bob, Browser(shop))] == [200, 404, 303]
    assert ann.client.get("/portal/receipts/pay_00000000000000000000").status_code == 404


def test_a_test_and_a_gift_are_not_money(shop):
    shop.sale("s1", ANN, test="true")
    shop.sale("s2", ANN, price=0)
    browser = shop.sign_in()
    assert len(links(browser)) == 1
    assert "This was a test: no money moved." in told(browser)


def test_stripes_sums_so_far_are_told_one_by_one(tmp_path):
    clock = Clock()
    shop = StripeShop(tmp_path / "data", clock)
    shop.tell("checkout.session.completed", wave())
    for at, so_far in ((1_763_600_000, 1000), (1_763_700_000, 2500)):
        shop.tell("charge.refunded", charge("ch_1", "pi_1", amount=4900, amount_refunded=so_far), created=at)
    (payment,) = shop.services.payments.of(ANN)
    assert [one.amount for one in payment.back] == ["-10.00", "-15.00"]
    assert (payment.amount, payment.net) == ("49.00", "24.00")


def test_an_owners_license_without_a_price_is_no_payment(shop):
    shop.owner("POST", "/licenses", {"email": ANN, "customer_name": "Ann", "product_id": "wave"})
    assert shop.services.payments.of(ANN) == []
    assert CATALOGUE["products"]["wave"]["name"] in shop.sign_in().client.get("/portal").text
