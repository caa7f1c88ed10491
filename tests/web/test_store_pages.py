"""The buyer's pages by their requests: who sees what, how it is answered, and what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from server.domain.rate import Rate
from server.errors import StorageUnavailable
from server.services.limits import Kind
from server.web import sessions
from tests.conftest import CATALOGUE, Clock, Shop
from tests.standins import jazzcash, payu
from tests.standins.payu_notices import SECOND_KEY

PACKAGES: dict[str, Any] = {
    "tiers": CATALOGUE["tiers"],
    "products": {
        "wave": {"name": "Wave", "price": {"pln": "119.00", "pkr": "8500.00"}, "published": True, "category": "Tools"},
        "team": {
            "name": "Team",
            "price": {"PLN": "200.00", "usd": "50.00"},
            "published": True,
            "slug": "for teams",
            "category": "Office",
        },
        "inner": {"name": "Inner", "price": {"pln": "1.00"}},
        "dollars": {"name": "Dollars", "price": {"usd": "5.00"}, "published": True, "category": "Tools"},
        "all": {"name": "All", "bundle": ["wave", "inner"], "price": {"pln": "119.50"}, "published": True},
    },
}
SETTINGS = {
    "payu_pos_id": payu.POS,
    "payu_client_id": payu.POS,
    "payu_client_secret": payu.CLIENT_SECRET,
    "payu_second_key": SECOND_KEY,
    "jazzcash_merchant_id": jazzcash.MERCHANT,
    "jazzcash_password": jazzcash.PASSWORD,
    "jazzcash_integrity_salt": jazzcash.SALT,
    "jazzcash_flow": "wallet",
}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FORM = {"name": "Ann Example", "email": "ann@example.com", "payment_provider": "payu", "currency": "pln"}


class Front:
    """A shop with a front of its own, PayU beside it, and a buyer's browser."""

    def __init__(self, shop: Shop, api: payu.PayuApi) -> None:
        self.shop, self.api, self.browser = shop, api, shop.client

    def get(self, path: str, client: Any = None) -> Any:
        return (client or self.browser).get(path, headers=BROWSER)

    def send(self, path: str = "/shop/wave", **fields: str) -> Any:
        return self.browser.post(path, data=FORM | fields, headers=BROWSER)

    def order(self, path: str = "/shop/wave", **fields: str) -> str:
        """Its id."""
        answered = self.send(path, **fields)
        assert answered.status_code == 303, answered.text
        return str(self.api.created[-1]["extOrderId"])

    @property
    def reference(self) -> str:
        return list(self.api.orders)[-1]

    def hear(self, notice: Any) -> None:
        answered = self.shop.client.post("/api/v1/webhooks/payu", data=notice.body, headers=notice.headers)
        assert answered.status_code == 200, answered.text

    def paid(self, path: str = "/shop/wave") -> str:
        order_id = self.order(path)
        self.api.pay(self.reference)
        self.hear(self.api.notice(self.reference))
        return order_id

    def given_up(self) -> str:
        order_id = self.order()
        self.api.give_up(self.reference)
        self.hear(self.api.notice(self.reference))
        return order_id

    def stranger(self) -> Any:
        return self.shop.app.test_client()

    def keys(self, page: Any) -> list[str]:
        return re.findall(r"<textarea[^>]*>([^<]+)</textarea>", page.text)


def title(page: Any) -> str:
    found = re.search(r"<h1>(.*?)</h1>", page.text, re.S)
    return unescape(found[1]) if found else ""


@pytest.fixture
def front(tmp_path: Path, clock: Clock) -> Iterator[Front]:
    with payu.PayuApi() as api:
        api.clock = clock
        yield Front(Shop(tmp_path / "data", clock, PACKAGES, **(SETTINGS | {"payu_api_url": api.url})), api)


# ---------------------------------------------------------------------------------------------------- the shop
@pytest.mark.parametrize("path", ["/shop", "/shop/wave"])
def test_without_a_way_to_pay_there_is_no_shop(tmp_path, clock, path):
    client = Shop(tmp_path / "d", clock, PACKAGES).client
    page = client.get(path, headers=BROWSER)
    assert (page.status_code, page.mimetype, title(page)) == (404, "text/html", "Nothing here")
    assert client.get(path).json["errors"][0]["code"] == "NOT_FOUND"  # a program is told in JSON


def test_without_anything_published_there_is_no_shop(tmp_path, clock):
    shop = Shop(tmp_path / "d", clock, CATALOGUE, **SETTINGS)
    assert shop.client.get("/shop").status_code == 404


def test_a_category_is_shown_alone(front):
    page = front.get("/shop?category=Tools")
    assert re.findall(r'<h2><a href="[^"]*">(.*?)</a>', page.text) == ["Wave", "Dollars"]
    assert 'href="/shop" aria-current' in front.get("/shop").text
    assert "nothing in this category" in front.get("/shop?category=Other").text


def test_a_package_is_found_by_its_slug_and_priced_in_what_can_be_paid(front):
    assert '<a href="/shop/for%20teams">Team</a>' in front.get("/shop").text
    page = front.get("/shop/for%20teams")
    assert (page.status_code, title(page)) == (200, "Team")
    assert "200.00" in page.text
    assert "currency=usd" in page.text  # PayU takes these too
    assert front.get("/shop/inner").status_code == 404  # which is not published


def test_what_cannot_be_paid_for_here_has_no_form(tmp_path, clock):
    settings = {name: value for name, value in SETTINGS.items() if name.startswith("jazzcash")}
    page = Shop(tmp_path / "d", clock, PACKAGES, **settings).client.get("/shop/dollars", headers=BROWSER)
    assert "cannot be paid for here" in page.text
    assert "<form" not in page.text


def test_links_keep_the_path_that_the_owner_serves_it_under(tmp_path, clock):
    shop = Shop(tmp_path / "d", clock, PACKAGES, **SETTINGS, app_url="https://shop.example/licenses")
    for path in ("/shop", "/shop/wave", "/shop/all"):
        links = re.findall(r'(?:href|action)="([^"]*)"', shop.client.get(path, headers=BROWSER).text)
        assert links
        assert all(link.startswith(("/licenses/", "#", "?")) for link in links), links


# ---------------------------------------------------------------------------------------------------- ordering
def test_an_order_leads_to_the_payment_and_is_known_to_its_browser(front):
    answered = front.send()
    order_id = front.api.created[-1]["extOrderId"]
    assert (answered.status_code, answered.headers["Location"][: len(front.api.url)]) == (303, front.api.url)
    (cookie,) = answered.headers.getlist("Set-Cookie")
    assert cookie.startswith(f"order-{order_id}=")
    assert {"HttpOnly", f"Path=/order/{order_id}", "SameSite=Lax"} <= set(cookie.split("; "))


def test_the_proof_of_an_order_is_for_the_path_that_the_owner_serves_it_under(tmp_path, clock):
    """Or the browser would never bring it back, and its buyer would see no key."""
    with payu.PayuApi() as api:
        api.clock = clock
        settings = SETTINGS | {"payu_api_url": api.url, "app_url": "https://shop.example/licenses"}
        front = Front(Shop(tmp_path / "d", clock, PACKAGES, **settings), api)
        (cookie,) = front.send().headers.getlist("Set-Cookie")
        assert {"Secure", f"Path=/licenses/order/{api.created[-1]['extOrderId']}"} <= set(cookie.split("; "))


@pytest.mark.parametrize(
    ("field", "typed", "told"),
    [
        ("name", " ", "Tell us your name"),
        ("name", "x" * 129, "Tell us your name"),
        ("email", "ann@", "Write the whole address"),
        ("email", "", "Write the whole address"),
        ("payment_provider", "paypal", "is not configured here"),
        ("payment_provider", "", "Choose how you want to pay"),
        ("currency", "pkr", "Payu takes"),
    ],
)
def test_a_wrong_field_is_told_and_the_rest_is_kept(front, field, typed, told):
    kept = {"name": "Ann <b>&\"'", "email": "ann+kept@example.com"} | {field: typed}
    page = front.send(**kept)
    assert (page.status_code, page.mimetype) == (422, "text/html")
    assert told.lower() in page.text.lower()
    values = [unescape(value) for value in re.findall(r'<input type="(?:text|email)"[^>]*value="([^"]*)"', page.text)]
    assert values == [kept["name"].strip(), kept["email"].strip()]
    assert (front.api.created, (front.shop.folder / "orders.jsonl").exists()) == ([], False)


@pytest.mark.parametrize(
    ("typed", "told"), [("", "mobile number is needed"), ("12", "mobile number is needed"), ("<b>", "in digits")]
)
def test_a_wallet_wants_a_number(front, typed, told):
    page = front.send(currency="pkr", payment_provider="jazzcash", phone=typed)
    assert page.status_code == 422
    assert told in re.findall(r'id="phone-wrong">(.*?)</p>', page.text)[0]


def test_what_the_platform_objects_to_is_told_above_the_form(front):
    front.order()  # so that PayU's token is known, and the next answer is that of the order
    front.api.fail_next(400)
    page = front.send()
    assert page.status_code == 422
    assert "PayU does not take this order" in page.text
    assert 'role="alert"' in page.text


def test_a_body_that_is_no_form_is_refused(front):
    for body in (b"name=%ff", b"&".join(b"a=1" for _ in range(60))):
        assert front.browser.post("/shop/wave", data=body, headers=BROWSER).status_code == 400
    large = front.browser.post("/shop/wave", data=b"name=" + b"x" * 300_000, headers=BROWSER)
    assert (large.status_code, large.mimetype) == (413, "text/html")
    assert front.browser.post("/shop/wave", data=b"x" * 300_000).json["errors"][0]["code"]


def test_orders_are_limited_by_address_like_the_api(tmp_path, clock):
    shop = Shop(tmp_path / "d", clock, PACKAGES, **SETTINGS, rate_limit="3/hour")
    pages = [shop.client.post("/shop/wave", data=FORM | {"name": ""}, headers=BROWSER) for _ in range(4)]
    assert [page.status_code for page in pages] == [422, 422, 422, 429]
    assert (title(pages[-1]), int(pages[-1].headers["Retry-After"]) > 0) == ("Too many requests", True)


def test_the_way_to_the_payment_is_limited_too(tmp_path, clock):
    """Each look may be a question to the platform."""
    client = Shop(tmp_path / "d", clock, PACKAGES, **SETTINGS, rate_limit="3/hour").client
    paths = [f"/pay/K7Q2M4X9P1R8T5V3W6Z0{way}" for way in ("", "/back", "/cancelled", "")]
    pages = [client.get(path, headers=BROWSER) for path in paths]
    assert [page.status_code for page in pages] == [404, 404, 404, 429]
    assert title(pages[-1]) == "Too many requests"


def test_orders_are_a_quarter_of_what_may_be_asked(tmp_path, clock):
    """Each stays in the books for ever, and a platform hears of it."""
    settings = SETTINGS | {"jazzcash_flow": "hosted"}
    client = Shop(tmp_path / "d", clock, PACKAGES, **settings, rate_limit="20/hour").client
    form = FORM | {"currency": "pkr", "payment_provider": "jazzcash"}
    asked = {"package_ids": ["wave"], "email": "a@example.com", "name": "A", "payment_provider": "jazzcash"}
    told = [client.post("/shop/wave", data=form, headers=BROWSER).status_code for _ in range(4)]
    told += [client.post("/api/v1/checkout/initiate", json=asked).status_code for _ in range(2)]
    assert told == [303, 303, 303, 303, 201, 429]
    assert client.get("/shop/wave").status_code == 200
    other = client.post("/shop/wave", data=form, environ_overrides={"REMOTE_ADDR": "10.1.1.1"})
    assert other.status_code == 303


def test_nobody_makes_a_phone_ring_again_and_again(tmp_path, clock, monkeypatch):
    """However its number is written, and from wherever it is asked."""
    rung: list[str | None] = []
    monkeypatch.setattr("server.platforms.jazzcash.JazzCash.begin", lambda self, order, way: rung.append(order.phone))
    shop = Shop(tmp_path / "d", clock, PACKAGES, **SETTINGS, rate_limit="1000/hour")
    monkeypatch.setattr(shop.services.desk, "_threads", False)
    limits = shop.services.limits
    assert limits is not None

    def order(phone: str, client: int) -> Any:
        form = FORM | {"currency": "pkr", "payment_provider": "jazzcash", "phone": phone}
        environ = {"REMOTE_ADDR": f"10.1.1.{client}"}
        return shop.client.post("/shop/wave", data=form, headers=BROWSER, environ_overrides=environ).status_code

    limits._rates[Kind.PHONE] = Rate(2, 3600 * 10**9)
    spellings = ["03001234567", "+92 300 1234567", "0300-1234567"]
    assert [order(phone, client) for client, phone in enumerate(spellings)] == [303, 303, 429]
    assert order("03007654321", 3) == 303
    assert len(rung) == 3


# ---------------------------------------------------------------------------------------------------- a platform down
def test_a_platform_that_is_down_keeps_the_order_and_the_browser_comes_again(front):
    front.api.down()
    page = front.send()
    (order_id,) = re.findall(r"/pay/([0-9A-Z]{20})", page.headers["Refresh"])
    assert (page.status_code, page.mimetype, title(page)) == (503, "text/html", "The payment waits")
    assert page.headers["Refresh"] == f"10; url=http://127.0.0.1:8000/pay/{order_id}"
    assert page.headers["Retry-After"] == "10"
    assert page.headers["Set-Cookie"].startswith(f"order-{order_id}=")
    assert front.get(f"/pay/{order_id}").status_code == 503
    assert front.browser.get(f"/pay/{order_id}").json["errors"][0]["code"] == "PLATFORM_UNREACHABLE"
    front.shop.clock.forward(minutes=20)
    assert front.get(f"/pay/{order_id}").headers["Refresh"].startswith("60; ")
    front.api.up()
    assert front.get(f"/pay/{order_id}").headers["Location"].startswith(front.api.url)


# ---------------------------------------------------------------------------------------------------- an order
def test_the_page_of_an_order_is_for_nobody_else(front):
    page = front.get(f"/order/{front.paid()}")
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["X-Robots-Tag"] == "noindex"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2  # the style, and the script that copies


@pytest.mark.parametrize(("minutes", "seconds"), [(0, 4), (3, 10), (30, 30), (300, 120)])
def test_it_looks_again_often_at_first_and_then_less(front, minutes, seconds):
    order_id = front.order()
    front.shop.clock.forward(minutes=minutes)
    page = front.get(f"/order/{order_id}")
    assert (title(page), page.headers["Refresh"]) == ("Waiting for your payment", str(seconds))
    assert f'href="/pay/{order_id}"' in page.text
    assert "Refresh" not in front.get(f"/order/{front.paid()}").headers


def test_who_may_not_have_paid_yet_can_still_go_and_pay(front):
    """Some platforms tell of a buyer who only looked at their page that his payment is on its way."""
    order_id = front.order()
    front.hear(front.api.notice(front.reference, "PENDING"))
    page = front.get(f"/order/{order_id}")
    assert title(page) == "Your key is on its way"
    assert f'href="/pay/{order_id}"' in page.text


def test_the_keys_are_shown_to_the_browser_that_began_the_order_alone(front):
    order_id = front.paid("/shop/all")
    assert len(front.keys(front.get(f"/order/{order_id}"))) == 2
    other = front.get(f"/order/{order_id}", front.stranger())
    assert other.status_code == 200
    assert not any(word in other.text for word in (*front.shop.licenses(), "Ann", "ann@", "a…@"))
    assert 'href="/portal/sign-in"' in other.text


def test_mutant_showing_keys_to_everybody_is_caught(front, monkeypatch):
    monkeypatch.setattr("server.web.order_page.may_see", lambda file: True)
    with pytest.raises(AssertionError):
        test_the_keys_are_shown_to_the_browser_that_began_the_order_alone(front)


def test_the_keys_are_shown_to_who_is_signed_in_with_the_orders_address(front):
    order_id = front.paid()
    for email, number in (("ann@example.com", 1), ("eve@example.com", 0)):
        client = front.stranger()
        _, cookie = front.shop.services.customers.sessions.begin(email)
        with front.shop.app.app_context():
            client.set_cookie(sessions.cookie_name(), cookie)
        assert len(front.keys(front.get(f"/order/{order_id}", client))) == number


def test_a_proof_in_the_address_is_kept_and_taken_out_of_it(front):
    order_id = front.paid()
    asked = {"package_ids": ["wave"], "email": "a@example.com", "name": "A", "payment_provider": "payu"}
    told = front.shop.client.post("/api/v1/checkout/initiate", json=asked).json
    for claim, keys in ((told["status_url"].partition("claim=")[2], None), ("0" * 32, 0)):
        client = front.stranger()
        answered = front.get(f"/order/{told['order_id']}?claim={claim}", client)
        assert (answered.status_code, answered.headers["Location"]) == (303, f"/order/{told['order_id']}")
        assert answered.headers["Referrer-Policy"] == "no-referrer"
        assert ("Set-Cookie" in answered.headers) == (keys is None)
    other = front.stranger()
    front.get(f"/order/{order_id}?claim={told['status_url'].partition('claim=')[2]}", other)  # another order's
    assert front.keys(front.get(f"/order/{order_id}", other)) == []


def test_a_refund_takes_the_key_off_the_page(front):
    order_id = front.paid()
    answered = front.shop.owner("POST", f"/orders/{order_id}/refund")
    assert answered.status_code == 200, answered.text
    front.api.settle(front.reference)
    front.hear(front.api.refund_notice(front.reference))
    page = front.get(f"/order/{order_id}")
    assert title(page) == "The order was refunded"
    assert "119.00 PLN went back to you by PayU" in page.text
    assert "refunded: this key is not valid" in page.text
    assert front.keys(page) == []


def test_a_partial_refund_leaves_the_key(front):
    order_id = front.paid()
    front.shop.owner("POST", f"/orders/{order_id}/refund", {"amount": "19.00"})
    front.api.settle(front.reference)
    front.hear(front.api.refund_notice(front.reference))
    page = front.get(f"/order/{order_id}")
    assert "19.00 of 119.00 PLN went back" in page.text
    assert len(front.keys(page)) == 1


def test_a_key_that_was_replaced_or_passed_on_is_not_shown(front):
    order_id = front.paid()
    (first,) = front.keys(front.get(f"/order/{order_id}"))
    assert front.shop.owner("POST", f"/licenses/{first}/reissue").status_code == 200
    (second,) = front.keys(front.get(f"/order/{order_id}"))
    assert second != first
    told = {"email": "eve@example.com", "customer_name": "Eve"}
    assert front.shop.owner("POST", f"/licenses/{second}/transfer", told).status_code == 200
    page = front.get(f"/order/{order_id}")
    assert second not in page.text
    assert "Refresh" not in page.headers


def test_what_is_paid_and_cannot_be_issued_yet_is_on_its_way(front):
    order_id = front.order()
    front.shop.write_catalogue({"products": {"other": {"name": "Other"}}})
    front.api.pay(front.reference)
    front.hear(front.api.notice(front.reference))
    page = front.get(f"/order/{order_id}")
    assert title(page) == "Your key is on its way"
    assert "The seller still has to make your key ready" in page.text
    assert "Refresh" in page.headers


def test_an_order_that_nobody_knows_is_a_page_for_a_browser(front):
    for path in ("/order/K7Q2M4X9P1R8T5V3W6Z0", "/order/x", "/pay/K7Q2M4X9P1R8T5V3W6Z0"):
        page = front.get(path)
        assert (page.status_code, page.mimetype, title(page)) == (404, "text/html", "Nothing here")
        assert front.browser.get(path).mimetype == "application/json"


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/", 404, "Nothing here"),
        ("/shop/wave/more", 404, "Nothing here"),
        ("/portal/sign-out", 405, "Not this way"),
        ("/order/K7Q2M4X9P1R8T5V3W6Z0/again", 405, "Not this way"),
    ],
)
def test_who_is_lost_is_told_so_in_his_own_way(front, path, status, told):
    page = front.get(path)
    assert (page.status_code, page.mimetype, title(page)) == (status, "text/html", told)
    assert page.headers["Content-Security-Policy"]
    assert ("Allow" in page.headers) == (status == 405)
    program = front.browser.get(path)
    assert (program.status_code, program.mimetype) == (status, "application/json")
    assert front.get("/api/v1/nothing").mimetype == "application/json"


# ---------------------------------------------------------------------------------------------------- again
def test_trying_again_is_a_new_order_of_the_same(front):
    before = front.given_up()
    page = front.get(f"/order/{before}")
    assert title(page) == "The order was cancelled"
    answered = front.browser.post(f"/order/{before}/again", headers=BROWSER)
    after = front.api.created[-1]["extOrderId"]
    assert after != before
    assert answered.headers["Location"].startswith(front.api.url)
    assert answered.headers["Set-Cookie"].startswith(f"order-{after}=")


def test_who_may_not_see_the_first_order_may_not_see_the_second(front):
    answered = front.stranger().post(f"/order/{front.given_up()}/again", headers=BROWSER)
    assert (answered.status_code, "Set-Cookie" in answered.headers) == (303, False)


def test_what_is_paid_is_not_ordered_again(front):
    order_id = front.paid()
    answered = front.browser.post(f"/order/{order_id}/again", headers=BROWSER)
    assert (answered.status_code, answered.headers["Location"]) == (303, f"/order/{order_id}")
    assert len(front.api.created) == 1


def test_what_is_sold_no_more_cannot_be_ordered_again(front):
    order_id = front.given_up()
    front.shop.write_catalogue({"products": {"other": {"name": "Other"}}})
    page = front.browser.post(f"/order/{order_id}/again", headers=BROWSER)
    assert (page.status_code, page.mimetype) == (422, "text/html")


# ---------------------------------------------------------------------------------------------------- coming back
def test_a_buyer_who_brings_a_payment_that_cannot_be_written_is_told_that_it_is_safe(front, monkeypatch):
    def full(*_: object) -> None:
        raise StorageUnavailable("the disk is full")

    monkeypatch.setattr(front.shop.services.settlement, "hear", full)
    body = jazzcash.signed({"pp_ResponseCode": "000", "pp_TxnRefNo": "K7Q2M4X9P1R8T5V3W6Z0"})
    page = front.browser.post("/api/v1/webhooks/jazzcash", data=body, headers=BROWSER)
    assert (page.status_code, page.mimetype, title(page)) == (503, "text/html", "Your payment is safe")
    assert page.headers["Retry-After"] == "30"
    told = front.browser.post("/api/v1/webhooks/jazzcash", json=body)
    assert (told.status_code, told.json["errors"][0]["code"]) == (503, "STORAGE_UNAVAILABLE")
