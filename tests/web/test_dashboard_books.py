"""The dashboard's books: purchases, orders, letters, the catalogue and their files, as the owner uses them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from server.domain.keys import license_id
from server.services import audit, order_audit
from server.services.caretaker import Caretaker
from server.services.order_refunds import OrderRefunds, Refund, RefundStanding
from server.services.spreadsheet import BOM
from tests.conftest import CATALOGUE, Clock, sale_ping
from tests.dashboard import HASH, OwnerBrowser, forms_of, shop_with_dashboard
from tests.services.bazaar import Bazaar
from tests.services.test_order_refunds import CATALOGUE as SHOP_FRONT
from tests.services.test_order_refunds import Front
from tests.standins.easypaisa import EasyPaisaApi
from tests.standins.jazzcash import JazzCashApi
from tests.standins.payu import PayuApi

ANN, BOB = "ann@example.com", "bob@example.com"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nobody but the test sends letters."""
    monkeypatch.setattr(Caretaker, "poke", lambda self: None)


@pytest.fixture
def shop(tmp_path, clock):
    return shop_with_dashboard(tmp_path / "data", clock)


@pytest.fixture
def owner(shop):
    return OwnerBrowser(shop)


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page.partition("<main")[2])))


def lines_on(page: str) -> list[int]:
    """The lines of the ledger that a list leads to."""
    return [int(seq) for seq in re.findall(r'<tr>\s*<td><a href="/admin/webhooks/(\d+)"', page)]


def listed(owner: OwnerBrowser, place: str, **query: str) -> list[int]:
    return lines_on(str(owner.client.get(f"/admin/{place}", query_string=query).text))


def table(owner: OwnerBrowser, path: str) -> list[dict[str, str]]:
    answered = owner.client.get(f"/admin{path}")
    assert answered.status_code == 200
    assert answered.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answered.headers["Content-Disposition"].startswith('attachment; filename="')
    text = answered.get_data().decode()
    assert text.startswith(BOM)
    return list(csv.DictReader(io.StringIO(text.removeprefix(BOM))))


def confirm(owner: OwnerBrowser, path: str, **typed: str) -> Any:
    """Through the page that says what will happen."""
    page = owner.send(path, **typed).text if typed else owner.get(path)
    (form,) = [one for one in forms_of(page) if one["action"] == f"/admin{path}"]
    return owner.client.post(form["action"], data=form["fields"])


# ---------------------------------------------------------------------------------------------------- purchases
def test_purchases_are_narrowed_by_whatever_the_owner_has(shop, owner):
    first = shop.sale("s1", ANN)
    shop.sale("s2", BOB, "G-TEAM==")
    shop.ping(sale_ping("s3", " ANN@Example.com", "G-NOBODY"))
    shop.refund("s1")
    shop.owner("POST", f"/licenses/{first}/suspend")
    assert listed(owner, "purchases") == [5, 4, 3, 2, 1]
    assert listed(owner, "purchases", email="Ann@example.com ") == [5, 4, 3, 1]
    assert listed(owner, "purchases", license_key=first.lower()) == [5, 4, 1]
    assert listed(owner, "purchases", sale_id="s2") == [2]
    assert listed(owner, "purchases", event="refund") == [4]
    assert listed(owner, "purchases", outcome="unmapped") == [3]
    assert listed(owner, "purchases", source="owner") == [5]
    assert listed(owner, "purchases", product="team") == [2]
    assert listed(owner, "purchases", test="yes") == []
    assert listed(owner, "purchases", since="2026-11-06", until="2026-11-30") == [5]
    assert listed(owner, "purchases", email=ANN, event="sale", until="2026-11-05") == [3, 1]
    page = owner.get("/purchases?email=nobody@example.com")
    assert "Nothing fits." in text_of(page)


def test_a_purchase_leads_to_its_license_its_line_and_its_money(shop, owner):
    key = shop.sale("s1", ANN, price=2999, gumroad_fee=330)
    page = owner.get("/purchases")
    assert f'href="/admin/licenses/{license_id(key)}"' in page
    assert 'href="/admin/webhooks/1"' in page
    assert "29.99 USD" in text_of(page)
    assert "3.30 USD" in text_of(page)


def test_purchases_are_paged_and_no_line_comes_twice(shop, owner, monkeypatch):
    monkeypatch.setattr("server.web.admin.purchases.PAGE", 2)
    for number in range(1, 6):
        shop.sale(f"s{number}", ANN if number % 2 else BOB)
    seen, path = list[int](), "/purchases"
    for _ in range(3):
        page = owner.get(path)
        seen += lines_on(page)
        following = re.search(r'<a href="/admin(/purchases\?[^"]+)" rel="next"', page)
        path = unescape(following[1]) if following else ""
    assert (seen, path) == ([5, 4, 3, 2, 1], "")
    assert listed(owner, "purchases", email=ANN) == [5, 3]
    assert listed(owner, "purchases", email=ANN, below="3") == [1]


def test_a_long_search_goes_on_where_it_stopped(shop, owner, monkeypatch):
    monkeypatch.setattr(audit, "MOST_LOOKED_AT", 2)
    shop.sale("s1", ANN)
    shop.refund("s1")
    for number in range(2, 6):
        shop.sale(f"s{number}", BOB)
    page = owner.get("/purchases?event=refund")
    assert lines_on(page) == []
    assert "Nothing of it among the newest lines." in text_of(page)
    assert 'href="/admin/purchases?event=refund&amp;below=5" rel="next"' in page
    assert lines_on(owner.get("/purchases?event=refund&below=3")) == [2]


@pytest.mark.parametrize(
    ("query", "named"),
    [("since=yesterday", "since"), ("event=lost", "event"), ("below=x", "below"), ("until=2026-99-01", "until")],
)
def test_a_filter_that_cannot_be_is_named(owner, query, named):
    assert named in text_of(owner.get(f"/purchases?{query}", status=400)).lower()


# ---------------------------------------------------------------------------------------------------- orders
@pytest.fixture
def front(tmp_path: Path, clock: Clock) -> Iterator[Front]:
    with PayuApi() as api:
        api.clock = clock
        yield Front(tmp_path / "front", clock, api, admin_password_hash=HASH)


def place(front: Front, **more: str) -> str:
    said = {"package_ids": ["wave"], "email": BOB, "name": "Bob", "payment_provider": "payu"} | more
    return str(front.shop.client.post("/api/v1/checkout/initiate", json=said).json["order_id"])


def orders_on(page: str) -> list[str]:
    return re.findall(r'<td><a href="/admin/orders/([A-Z0-9]{20})"', page)


def test_orders_are_listed_by_state_platform_and_day_the_newest_first(front):
    front.clock.forward(days=2)
    owner, paid, waiting = OwnerBrowser(front.shop), front.order["order_id"], place(front)
    assert orders_on(owner.get("/orders")) == [waiting, paid]
    assert orders_on(owner.get("/orders?state=paid")) == [paid]
    assert orders_on(owner.get("/orders?state=pending&source=payu")) == [waiting]
    assert orders_on(owner.get("/orders?source=stripe")) == []
    assert orders_on(owner.get("/orders?email=BOB@example.com")) == [waiting]
    assert orders_on(owner.get("/orders?until=2026-11-20")) == [paid]
    assert orders_on(owner.get("/orders?since=2026-11-21")) == [waiting]
    assert orders_on(owner.get(f"/orders?after={waiting}")) == [paid]
    assert "119.00 PLN" in text_of(owner.get("/orders"))


def test_a_long_list_of_orders_goes_on_where_it_stopped(front, monkeypatch):
    owner, paid = OwnerBrowser(front.shop), front.order["order_id"]
    later = [place(front) for _ in range(3)]
    monkeypatch.setattr(order_audit, "MOST_LOOKED_AT", 2)
    page = owner.get("/orders?state=paid")
    assert orders_on(page) == []
    assert f"after={later[1]}" in page
    assert orders_on(owner.get(f"/orders?state=paid&after={later[1]}")) == [paid]


def test_one_order_tells_all_of_it(front):
    owner, order = OwnerBrowser(front.shop), front.order
    page = owner.get(f"/orders/{order['order_number']}")
    (key,) = front.shop.licenses()
    told = text_of(page)
    for words in (order["order_number"], "paid", "1 of Wave", "119.00 PLN", ANN, key, "made known to the platform"):
        assert words in told
    assert lines_on(page) == [1]
    owner.get("/orders/NOBODY", status=404)


def test_a_platform_is_asked_from_the_order(front):
    owner, waiting = OwnerBrowser(front.shop), place(front)
    page = f"/orders/{waiting}"
    told = owner.told(owner.press(page, f"{page}/ask"))
    assert told == "Done. PayU was asked. Nothing is new: the order is pending."
    front.api.pay(next(name for name in front.api.orders if name != front.name))
    assert "the order is paid" in owner.told(owner.press(page, f"{page}/ask"))
    assert len(front.shop.licenses()) == 2
    front.api.down()
    assert "PayU cannot be asked now" in owner.told(owner.press(page, f"{page}/ask"))


def test_a_refund_in_doubt_is_not_called_done(front, monkeypatch):
    owner, path = OwnerBrowser(front.shop), f"/orders/{front.order['order_id']}/refund"
    doubt = Refund(refund_id="r1", amount=2000, standing=RefundStanding.IN_DOUBT, note="it is not known")
    monkeypatch.setattr(OrderRefunds, "refund", lambda *_: doubt)
    told = owner.told(owner.send(path, amount="20.00", once="abcdefgh99"))
    assert told == "20.00 PLN: it is not known."


def test_an_order_is_refunded_once_after_a_word_what_will_happen(front):
    owner, path = OwnerBrowser(front.shop), f"/orders/{front.order['order_id']}/refund"
    assert "119.00 PLN of 119.00 PLN can be given back" in text_of(owner.get(path))
    page = owner.send(path, amount="20.00").text
    assert "PayU is asked to give 20.00 PLN back to Ann." in text_of(page)
    assert "Its licenses stay valid." in text_of(page)
    assert front.api.refunds.get(front.name, []) == []
    (form,) = [one for one in forms_of(page) if one["action"] == f"/admin{path}"]
    for _ in range(2):
        told = owner.told(owner.client.post(form["action"], data=form["fields"]))
        assert told == "Done. PayU took the refund of 20.00 PLN, and tells when it is done."
    assert [one["amount"] for one in front.api.refunds[front.name]] == ["2000"]
    page = owner.send(path).text
    assert "99.00 PLN" in text_of(page)
    assert "licenses end with it" in text_of(page)
    assert confirm(owner, path, amount="99.00").status_code == 303
    assert [one["amount"] for one in front.api.refunds[front.name]] == ["2000", "9900"]
    for place_ in range(2):
        front.api.settle(front.name, place_)
    front.clock.forward(minutes=1)
    front.outbox()
    assert front.state() == "refunded"
    assert "Refund" not in text_of(owner.get(path.removesuffix("/refund"))).split("What happened")[0]
    assert "a refund of all of it is on its way" in text_of(owner.get(path))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"amount": "119.01"}, "Amount: 119.01 is not between 0 and the 119.00 pln that are left"),
        ({"amount": "0"}, "Amount: 0 is not between"),
        ({"amount": "ten"}, "amount"),
        ({"reference": "R-1"}, "Reference: payu refunds by its API; leave it out"),
        ({"once": "x"}, "once"),
    ],
)
def test_a_refund_that_cannot_be_says_why_on_its_form(front, typed, words):
    owner, path = OwnerBrowser(front.shop), f"/orders/{front.order['order_id']}/refund"
    answered = owner.send(path, **typed)
    assert answered.status_code == 400
    assert words in text_of(answered.text)
    assert front.api.refunds.get(front.name, []) == []


def test_money_that_went_back_in_a_portal_is_written_down(tmp_path, clock):
    with JazzCashApi() as jazz, EasyPaisaApi() as easy:
        market = Bazaar(tmp_path / "data", clock, jazz, easy, admin_password_hash=HASH)
        ref = market.paid("easypaisa")
        owner, path = OwnerBrowser(market.shop), f"/orders/{ref}/refund"
        assert "Reference in the portal" in text_of(owner.get(path))
        assert "name the reference" in text_of(owner.send(path, amount="100.00").text)
        page = owner.send(path, reference="EP-77").text
        assert "No money moves by this." in text_of(page)
        (form,) = [one for one in forms_of(page) if one["action"] == f"/admin{path}"]
        assert form["fields"]["reference"] == "EP-77"
        for _ in range(2):
            assert owner.told(owner.client.post(form["action"], data=form["fields"])) == "Done. 8500.00 PKR went back."
        assert market.status(ref) == "refunded"
        assert market.keys() == [False]
        assert [line["event"] for line in market.shop.ledger()] == ["sale", "refund"]


def test_what_is_not_believed_of_an_order_is_told(front):
    owner, waiting = OwnerBrowser(front.shop), place(front)
    name = next(name for name in front.api.orders if name != front.name)
    front.api.orders[name]["totalAmount"] = "100"
    front.api.pay(name)
    front.tell(front.api.notice(name))
    assert "is not the 119.00 pln of order" in text_of(owner.get(f"/orders/{waiting}"))
    assert "not all is believed" in text_of(owner.get("/orders"))
    assert orders_on(owner.get("/orders?doubted=yes")) == [waiting]


# ---------------------------------------------------------------------------------------------------- letters
def test_letters_are_listed_by_state_and_read(shop, owner):
    key = shop.sale("s1", ANN)
    shop.sale("s2", "nobody")
    shop.services.outbox.send_due()
    told = text_of(owner.get("/letters"))
    assert "delivery" in told
    assert "dead (1)" in told
    dead = owner.get("/letters?state=dead")
    assert "this is no valid e-mail address" in text_of(dead)
    assert re.findall(r'<td><a href="/admin/letters/([^"]+)"', dead) == ["2%3Adelivery"]
    page = text_of(owner.get("/letters/1:delivery"))
    assert key in page
    assert "Subject Your license key for Wave" in page
    assert "line 1 of the ledger" in page
    assert "there is no address" in text_of(owner.get("/letters/2:delivery"))
    owner.get("/letters/nothing", status=404)


def test_a_letter_is_sent_once_more_and_the_button_counts_once(shop, owner, capsys):
    key = shop.sale("s1", ANN)
    shop.services.outbox.send_due()
    capsys.readouterr()
    page = owner.get("/letters/1:delivery/again")
    assert f"The letter goes out once more to {ANN}, as it reads today." in text_of(page)
    (form,) = [one for one in forms_of(page) if "once" in one["fields"]]
    for _ in range(2):
        told = owner.told(owner.client.post(form["action"], data=form["fields"]))
        assert told == "Done. It is on its way once more."
        shop.services.outbox.send_due()
    assert capsys.readouterr().out.count(f"\n{key}\n") == 1 or len(shop.services.outbox.list("sent")) == 2
    assert len(shop.services.outbox.list()) == 2


def test_dead_letters_are_tried_again_one_and_all(shop, owner):
    for number in range(1, 4):
        shop.sale(f"s{number}", f"bad{number}")
    shop.services.outbox.send_due()
    assert owner.told(owner.press("/letters/1:delivery", "/letters/1%3Adelivery/retry")) == (
        "Done. It is tried again at once, and for a week more."
    )
    assert [one.state for one in shop.services.outbox.list() if one.kind == "delivery"] == ["queued", "dead", "dead"]
    assert owner.told(owner.press("/letters", "/letters/retry")) == (
        "Done. 2 letters will be tried again, for a week more."
    )
    told = owner.told(owner.press("/letters", "/letters/send"))
    assert "3 given up" in told
    assert told.startswith("Not done.")
    assert "only one that was not sent" not in told


def test_a_letter_that_was_sent_cannot_be_tried_again(shop, owner):
    shop.sale("s1", ANN)
    shop.services.outbox.send_due()
    answered = owner.send("/letters/1:delivery/retry")
    assert answered.status_code == 409
    assert "only one that was not sent can be tried again" in text_of(answered.text)


def test_why_a_letter_is_not_sent_once_more_is_told(shop, owner):
    shop.sale("s1", ANN)
    shop.services.outbox.send_due()
    shop.refund("s1")
    assert owner.told(owner.client.get("/admin/letters/1:delivery/again")) == "Not done. The license is inactive."


def test_letters_are_paged(shop, owner, monkeypatch):
    monkeypatch.setattr("server.web.admin.letters.PAGE", 2)
    for number in range(1, 6):
        shop.sale(f"s{number}", ANN)
    shop.services.outbox.send_due()
    seen, path = list[str](), "/letters?state=sent"
    for _ in range(3):
        page = owner.get(path)
        seen += re.findall(r'<td><a href="/admin/letters/(\d)%3Adelivery"', page)
        following = re.search(r'<a href="/admin(/letters\?[^"]+)" rel="next"', page)
        path = unescape(following[1]) if following else ""
    assert (seen, path) == (["5", "4", "3", "2", "1"], "")


# ---------------------------------------------------------------------------------------------------- the catalogue
def test_the_catalogue_tells_what_is_sold_and_what_is_odd(shop, owner):
    shop.ping(sale_ping("s1", ANN, "G-NEW==", product_name="Brand new"))
    shop.ping(sale_ping("s2", ANN, "G-NEW==", product_name="Brand new"))
    shop.write_catalogue(CATALOGUE | {"products": CATALOGUE["products"] | {"lost": {"name": "Lost"}}})
    page = owner.get("/catalogue")
    told = text_of(page)
    assert "Bundle of Wave, Team" in told
    assert "tier elite: batch, api_access, extra" in told
    assert "lost has no platform_ids: no sale can mean it" in told
    assert "Brand new was sold on gumroad and is not mapped: 2 sales wait" in told
    assert '"platform_ids": {"gumroad": ["G-NEW=="]}' in told
    assert lines_on(page) == []
    assert 'href="/admin/webhooks/2"' in page
    assert "elite pro batch, api_access" in told


def test_a_catalogue_with_a_mistake_is_told_and_the_good_one_shown(shop, owner):
    owner.get("/catalogue")
    circle = {"a": {"name": "A", "bundle": ["b"]}, "b": {"name": "B", "bundle": ["a"]}}
    shop.write_catalogue({"products": circle})
    told = text_of(owner.get("/catalogue"))
    assert "products.a.bundle: contains itself by way of a -> b -> a" in told
    assert "Wave" in told


def test_prices_that_no_platform_takes_are_told(front):
    products = SHOP_FRONT["products"] | {"abroad": {"name": "Abroad", "published": True, "price": {"pkr": "10.00"}}}
    front.shop.write_catalogue({"products": products})
    told = text_of(OwnerBrowser(front.shop).get("/catalogue"))
    assert "abroad has no price that payu takes" in told
    assert "wave has no price" not in told


# ---------------------------------------------------------------------------------------------------- files
def test_each_list_is_a_file_narrowed_as_its_page(shop, owner, front):
    first = shop.sale("s1", ANN)
    shop.sale("s2", BOB, "G-TEAM==")
    shop.refund("s1")
    shop.services.outbox.send_due()
    assert [row["seq"] for row in table(owner, "/purchases.csv")] == ["1", "2", "3"]
    assert [row["event"] for row in table(owner, f"/purchases.csv?email={ANN}&event=refund")] == ["refund"]
    assert {row["license_key"]: row["status"] for row in table(owner, "/licenses.csv")}[first] == "suspended"
    assert [row["email"] for row in table(owner, "/licenses.csv?q=bob@")] == [BOB]
    assert [row["license_key"] for row in table(owner, "/licenses.csv?q=s1")] == [first]
    assert {row["state"] for row in table(owner, "/letters.csv")} == {"sent", "dropped"}
    assert [row["kind"] for row in table(owner, "/letters.csv?state=sent")] == ["refund", "delivery"]
    rows = table(OwnerBrowser(front.shop), "/orders.csv?state=paid")
    assert [(row["number"], row["amount"]) for row in rows] == [(front.order["order_number"], "119.00")]
    assert table(OwnerBrowser(front.shop), "/orders.csv?state=failed") == []


def test_no_cell_is_a_formula(shop, owner):
    shop.sale("s1", ANN, full_name='=HYPERLINK("https://evil.example")')
    names = {row["customer_name"] for path in ("/purchases.csv", "/licenses.csv") for row in table(owner, path)}
    assert names == {'\'=HYPERLINK("https://evil.example")'}


def test_files_and_pages_are_the_owner_s_alone(shop):
    stranger = OwnerBrowser(shop, is_signed_in=False)
    places = ("purchases", "orders", "letters", "licenses")
    for path in (*places, *(f"{one}.csv" for one in places), "webhooks", "webhooks/1", "catalogue", "letters/1"):
        answered = stranger.client.get(f"/admin/{path}")
        assert (answered.status_code, answered.headers["Location"][:15]) == (303, "/admin/sign-in?"), path
    for path in ("letters/send", "letters/retry", "webhooks/1/again", "orders/X/ask", "orders/X/refund"):
        assert stranger.client.post(f"/admin/{path}").status_code in (401, 403), path


def test_a_form_without_the_session_s_token_does_nothing(shop, owner):
    shop.sale("s1", "bad")
    shop.services.outbox.send_due()
    assert owner.client.post("/admin/letters/retry", data={"csrf_token": "x"}).status_code == 403
    assert [one.state for one in shop.services.outbox.list("dead")] == ["dead"]
