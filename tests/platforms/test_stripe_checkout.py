"""Stripe as our own store front: Stripe's real library against a stand-in on a socket, and orders from the request for
one to the license and back."""

from __future__ import annotations

import copy
import http.client
import json
import math
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from server.domain.order import Order, OrderItem, is_order_id
from server.domain.purchase import EventKind, PurchaseEvent
from server.errors import PlatformUnreachable, Unprocessable
from server.platforms import PLATFORMS, WebhookRequest, stripe_checkout
from server.platforms.base import Checkout, Refunds, RefundState, RefundWord, Way
from server.platforms.stripe import StripeStoreFront
from tests.conftest import NOW, Clock, settings_for, some_of
from tests.standins.http import Answer, Json
from tests.standins.stripe_api import KEY, TEST_KEY, StripeApi, event, session, signed
from tests.stripe_shop import CATALOGUE, WHSEC, StripeShop

ID = "K0123456789ABCDEFGHJ"
OTHER = "M0123456789ABCDEFGHJ"
REFUND_ID = "5f0e1d2c3b4a59687706"
PAID, LATE, FAILED, EXPIRED = (
    f"checkout.session.{word}" for word in ("completed", "async_payment_succeeded", "async_payment_failed", "expired")
)


@pytest.fixture
def api(monkeypatch, clock) -> Iterator[StripeApi]:
    """Between two tries the library waits no longer than it must."""
    monkeypatch.setattr("stripe.HTTPClient.INITIAL_DELAY", 0.01)
    with StripeApi(clock=lambda: int(clock().timestamp())) as api:
        yield api


@pytest.fixture
def short_patience(monkeypatch):
    monkeypatch.setattr(stripe_checkout, "BUYERS", (0.3, 0.3))


def front(api: StripeApi, key: str = KEY, methods: tuple[str, ...] = ()) -> StripeStoreFront:
    given = {"stripe_secret_key": key, "stripe_webhook_secret": (WHSEC,), "stripe_api_base": api.url}
    made = PLATFORMS["stripe"].from_settings(settings_for(Path(), stripe_payment_methods=methods, **given))
    assert isinstance(made, StripeStoreFront)
    return made


def order(
    *items: OrderItem, order_id: str = ID, currency: str = "usd", is_test: bool = False, email: str = "ann@example.com"
) -> Order:
    chosen = items or (OrderItem(product_id="wave", name="Wave", price=4900),)
    return Order(
        order_id=order_id,
        number="ORD-20261120-0001",
        source="stripe",
        merchant="",
        email=email,
        name="Ann Buyer",
        items=chosen,
        amount=sum(item.price * item.quantity for item in chosen),
        currency=currency,
        placed_at=NOW,
        is_test=is_test,
    )


WAY = Way(
    notify="https://shop.example/api/v1/webhooks/stripe",
    back=f"https://shop.example/pay/{ID}/back",
    cancelled=f"https://shop.example/pay/{ID}/cancelled",
    client="203.0.113.7",
    now=NOW,
)


# ---------------------------------------------------------------------------------------------------- beginning
def test_what_stripe_is_told_of_an_order(api):
    two = (
        OrderItem(product_id="wave", name="Wave", price=4900),
        OrderItem(product_id="team", name="Team — for «you»", price=2500, quantity=3),
    )
    begun = front(api).begin(order(*two), WAY)
    (sent,) = api.desk.sent
    assert (sent.path, sent.idempotency_key) == ("checkout/sessions", ID)
    assert sent.fields == {
        "mode": "payment",
        "line_items": [
            {
                "price_data": {"currency": "usd", "unit_amount": "4900", "product_data": {"name": "Wave"}},
                "quantity": "1",
            },
            {
                "price_data": {"currency": "usd", "unit_amount": "2500", "product_data": {"name": "Team — for «you»"}},
                "quantity": "3",
            },
        ],
        "customer_email": "ann@example.com",
        "client_reference_id": ID,
        "metadata": {"keyledger_order": ID},
        "payment_intent_data": {"metadata": {"keyledger_order": ID}},
        "success_url": WAY.back,
        "cancel_url": WAY.cancelled,
        "expires_at": str(int((NOW + timedelta(hours=23, minutes=50)).timestamp())),
    }
    (made,) = api.sessions.values()
    assert (begun.reference, begun.payment_url, begun.form) == (made["id"], made["url"], None)
    assert made["amount_total"] == 12400


@pytest.mark.parametrize(
    ("currency", "minor", "told"), [("jpy", 4900, "4900"), ("usd", 4900, "49.00"), ("kwd", 4900, "4.900")]
)
def test_each_currency_is_told_in_its_own_smallest_unit(api, currency, minor, told):
    wanted = order(OrderItem(product_id="wave", name="Wave", price=minor), currency=currency)
    shop = front(api)
    begun = shop.begin(wanted, WAY)
    assert api.desk.sent[0].fields["line_items"][0]["price_data"]["unit_amount"] == str(minor)
    api.desk.pay(begun.reference or "")
    (sale,) = shop.ask(wanted, begun.reference)
    assert (sale.price, sale.currency) == (told, currency)


@pytest.mark.parametrize("word", ["4905 kwd", "49 usd", "100 pln"])
def test_an_amount_that_stripe_does_not_take_is_told_in_its_words(api, word):
    minor, currency = word.split()
    wanted = order(OrderItem(product_id="wave", name="Wave", price=int(minor)), currency=currency)
    with pytest.raises(Unprocessable, match=r"Stripe takes no such order: .*(must end in 0|at least)"):
        front(api).begin(wanted, WAY)
    assert api.sessions == {}


def test_shillings_of_which_nobody_knows_how_stripe_counts_them_are_not_sold(api):
    with pytest.raises(Unprocessable, match="UGX"):
        front(api).begin(order(currency="ugx"), WAY)
    assert api.desk.sent == []


@pytest.mark.parametrize(
    ("methods", "currency", "offered"),
    [
        ((), "pln", None),
        (("card",), "usd", ["card"]),
        (("card", "blik", "p24"), "pln", ["card", "blik", "p24"]),
        (("card", "blik", "p24"), "eur", ["card", "p24"]),
        (("card", "blik", "p24"), "usd", ["card"]),
    ],
)
def test_methods_of_payment_are_those_of_the_settings_that_take_the_currency(api, methods, currency, offered):
    front(api, methods=methods).begin(order(currency=currency), WAY)
    assert api.desk.sent[0].fields.get("payment_method_types") == offered


def test_where_no_method_takes_the_currency_it_is_said(api):
    with pytest.raises(Unprocessable, match=r"STRIPE_PAYMENT_METHODS \(blik\) takes usd"):
        front(api, methods=("blik",)).begin(order(), WAY)
    assert api.desk.sent == []


def test_a_method_that_stripe_does_not_know_is_told_in_its_words(api):
    with pytest.raises(Unprocessable, match="Invalid payment_method_types: cheque"):
        front(api, methods=("cheque",)).begin(order(), WAY)


def test_an_objection_of_stripes_tells_no_key(api, monkeypatch):
    error = {"type": "invalid_request_error", "message": f"Not allowed\nfor {KEY}: {'x' * 900}"}
    monkeypatch.setattr(api, "answer", lambda asked: Answer(400, {"error": error}))
    with pytest.raises(Unprocessable) as caught:
        front(api).begin(order(), WAY)
    assert "Not allowed for …: xxx" in caught.value.detail
    assert len(caught.value.detail) < 400


def test_an_order_begun_twice_is_one_checkout(api, clock):
    first = front(api).begin(order(), WAY)
    clock.forward(hours=3)
    later = msgspec.structs.replace(WAY, now=clock(), client="198.51.100.9")
    assert front(api).begin(order(), later) == first
    assert (len(api.sessions), len(api.desk.sent)) == (1, 2)


def test_an_order_that_was_told_in_other_words_before_is_in_doubt(api):
    """The address of our pages was changed meanwhile, say."""
    front(api).begin(order(), WAY)
    with pytest.raises(PlatformUnreachable, match="IdempotencyError"):
        front(api).begin(order(), msgspec.structs.replace(WAY, back="https://elsewhere.example/"))
    assert len(api.sessions) == 1


def test_a_lost_answer_is_asked_for_again_and_is_the_same_checkout(api):
    api.lose_next()
    begun = front(api).begin(order(), WAY)
    assert (list(api.sessions), len(api.desk.sent)) == ([begun.reference], 2)


@pytest.mark.parametrize("trouble", ["down", "drops", "hangs", "503", "429", "401", "403", "nonsense", "no id"])
@pytest.mark.parametrize("deed", ["begin", "ask", "refund", "find_refund"])
@pytest.mark.usefixtures("short_patience")
def test_while_stripe_cannot_be_asked_nothing_is_known(api, deed, trouble, monkeypatch):
    shop = front(api, "sk_live_unknown" if trouble == "401" else KEY)
    if trouble == "down":
        api.down()
    elif trouble == "drops":
        api.down(refuse=False)
    elif trouble == "hangs":
        api.hang = math.inf
    elif trouble in ("nonsense", "no id"):
        body: Any = b"<html>" if trouble == "nonsense" else {"object": "refund", "metadata": {}, "data": [{"id": 3}]}
        monkeypatch.setattr(api, "answer", lambda asked: Answer(200, body))
    elif trouble != "401":
        api.fail_next(int(trouble), times=9)
    names = ("cs_live_1", "pi_1", ID)
    does = {
        "begin": lambda: shop.begin(order(), WAY),
        "ask": lambda: shop.ask(order(), "cs_live_1"),
        "refund": lambda: shop.refund(order(), names, 100, REFUND_ID),
        "find_refund": lambda: shop.find_refund(order(), names, REFUND_ID),
    }
    if trouble == "no id" and deed in ("ask", "find_refund"):
        return  # an object that is none of ours says nothing
    with pytest.raises(PlatformUnreachable) as caught:
        does[deed]()
    assert caught.value.is_refused == (trouble in ("401", "403"))
    assert len(api.asked) <= 2
    assert "sk_" not in caught.value.detail


@pytest.mark.usefixtures("short_patience")
def test_no_proxy_stands_before_a_stand_in(api, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert front(api).begin(order(), WAY).reference in api.sessions


@pytest.mark.parametrize(
    ("key", "is_test"), [(KEY, False), (TEST_KEY, True), ("rk_test_1", True), ("rk_live_1", False)]
)
def test_the_key_tells_whether_it_is_a_test(api, key, is_test):
    assert front(api, key).is_test is is_test


def test_in_test_mode_everything_is_a_test(api):
    shop = front(api, TEST_KEY)
    begun = shop.begin(order(is_test=True), WAY)
    assert (begun.reference or "").startswith("cs_test_")
    api.desk.pay(begun.reference or "")
    payment = api.sessions[begun.reference or ""]["payment_intent"]
    shop.refund(order(is_test=True), [payment], 100, REFUND_ID)
    assert [told.is_test for told in shop.ask(order(is_test=True), begun.reference)] == [True, True]
    assert front(api).ask(order(), begun.reference) == []


def test_without_a_key_it_takes_webhooks_and_is_no_store_front(tmp_path):
    made = PLATFORMS["stripe"].from_settings(settings_for(tmp_path, stripe_webhook_secret=(WHSEC,)))
    assert made is not None
    assert not isinstance(made, Checkout)
    assert not isinstance(made, Refunds)


def test_without_the_webhooks_secret_it_is_off(tmp_path):
    assert PLATFORMS["stripe"].from_settings(settings_for(tmp_path, stripe_secret_key=KEY)) is None


# ---------------------------------------------------------------------------------------------------- asking
def read(shop: StripeStoreFront, told: Json) -> list[PurchaseEvent]:
    """What a webhook says."""
    body, headers = signed(told, WHSEC)
    return shop.events(WebhookRequest(body, {}, headers.get))


def same(event: PurchaseEvent) -> Json:
    """All but its payload, its moment, and what is still to be asked."""
    left_out = {"raw", "occurred_at", "inquiry"}
    return {name: getattr(event, name) for name in event.__struct_fields__ if name not in left_out}


def test_an_order_that_nobody_paid_yet_says_nothing(api):
    shop = front(api)
    begun = shop.begin(order(), WAY)
    assert shop.ask(order(), begun.reference) == []
    assert shop.ask(order(), None) == []
    assert shop.ask(order(), "cs_live_unknown") == []


def test_asked_it_says_what_its_webhooks_said(api):
    """Paid, a part refunded, another part, which failed."""
    shop = front(api)
    begun = shop.begin(order(), WAY)
    payment = api.desk.pay(begun.reference or "")["payment_intent"]
    shop.refund(order(), [payment], 1000, REFUND_ID)
    shop.refund(order(), [payment], 500, "another")
    failed = next(one["id"] for one in api.refunds.values() if one["amount"] == 500)
    heard = [told for one in api.desk.told for told in read(shop, one) if told.event is not EventKind.IGNORED]
    assert [(told.event, told.price, told.refunded_total) for told in heard] == [
        ("sale", "49.00", None),
        ("partial_refund", "10.00", "10.00"),
        ("partial_refund", "5.00", "15.00"),
    ]
    assert list(map(same, shop.ask(order(), begun.reference))) == list(map(same, heard))
    api.desk.fail_refund(failed)
    told = shop.ask(order(), begun.reference)
    assert [(one.event, one.price) for one in told] == [
        ("sale", "49.00"),
        ("refund_failed", "5.00"),
        ("partial_refund", "10.00"),
    ]
    assert same(told[1]) == same(read(shop, api.desk.told[-1])[0])


def test_the_sale_names_its_order_and_asks_nothing(api):
    shop = front(api)
    begun = shop.begin(order(), WAY)
    paid = api.desk.pay(begun.reference or "")
    (sale,) = shop.ask(order(), begun.reference)
    assert (sale.event_id, sale.sale_id, sale.order_id) == (f"{begun.reference}:sale", begun.reference, ID)
    assert sale.links == (paid["payment_intent"], ID)
    assert sale.inquiry is None
    assert "secret" not in bytes(sale.raw).decode()


def test_a_checkout_that_expired_is_an_order_cancelled(api):
    shop = front(api)
    begun = shop.begin(order(), WAY)
    api.desk.expire(begun.reference or "")
    (told,) = shop.ask(order(), begun.reference)
    assert (told.event, told.event_id, told.order_id) == ("cancellation", f"{begun.reference}:sale", ID)
    assert same(told) == same(read(shop, api.desk.told[-1])[0])


@pytest.mark.parametrize(("succeeds", "word"), [(True, "sale"), (False, "payment_failed")])
def test_money_that_takes_days(api, succeeds, word):
    shop = front(api)
    begun = shop.begin(order(), WAY)
    api.desk.pay(begun.reference or "", later=True)
    (waiting,) = shop.ask(order(), begun.reference)
    assert (waiting.event, waiting.order_id) == ("pending", ID)
    assert same(waiting) == same(read(shop, api.desk.told[-1])[0])
    api.desk.settle(begun.reference or "", succeeds)
    (told,) = shop.ask(order(), begun.reference)
    (heard,) = read(shop, api.desk.told[-1])
    assert (told.event, heard.event, told.event_id) == (word, word, heard.event_id)


def test_a_checkout_of_another_order_says_nothing_of_this_one(api):
    shop = front(api)
    begun = shop.begin(order(order_id=OTHER), WAY)
    api.desk.pay(begun.reference or "")
    assert shop.ask(order(), begun.reference) == []


def test_more_refunds_than_a_page_holds(api):
    shop = front(api)
    begun = shop.begin(order(), WAY)
    payment = api.desk.pay(begun.reference or "")["payment_intent"]
    for number in range(101):
        shop.refund(order(), [payment], 1, f"refund {number}")
    told = shop.ask(order(), begun.reference)
    assert [one.refunded_total for one in told[1:]] == [f"{cents / 100:.2f}" for cents in range(1, 102)]
    assert shop.find_refund(order(), [payment], "refund 0") is not None


# ---------------------------------------------------------------------------------------------------- giving back
@pytest.fixture
def paid(api) -> tuple[StripeStoreFront, list[str]]:
    """A shop, and the names that its ledger has for a paid order of 49 dollars."""
    shop = front(api)
    begun = shop.begin(order(), WAY)
    told = api.desk.pay(begun.reference or "")
    return shop, [told["id"], told["payment_intent"], ID, told["id"]]


def test_what_stripe_is_told_of_a_refund(api, paid):
    shop, names = paid
    word = shop.refund(order(), names, 1000, REFUND_ID)
    sent = api.desk.sent[-1]
    assert (sent.path, sent.idempotency_key) == ("refunds", REFUND_ID)
    assert sent.fields == {
        "payment_intent": names[1],
        "amount": "1000",
        "metadata": {"keyledger_refund": REFUND_ID},
    }
    (made,) = api.refunds.values()
    assert word == RefundWord(RefundState.DONE, made["id"])
    assert shop.find_refund(order(), names, REFUND_ID) == word
    assert shop.find_refund(order(), names, "another") is None


@pytest.mark.parametrize(
    ("status", "state", "note"),
    [
        ("succeeded", "done", None),
        ("pending", "accepted", None),
        ("requires_action", "accepted", None),
        ("in_a_word_of_next_year", "accepted", None),
        ("failed", "refused", "expired_or_canceled_card"),
        ("canceled", "refused", None),
    ],
)
def test_how_a_refund_stands(api, paid, status, state, note):
    shop, names = paid
    api.desk.refund_status = status
    word = shop.refund(order(), names, 1000, REFUND_ID)
    assert (word.state, word.note) == (state, note)
    assert shop.find_refund(order(), names, REFUND_ID) == word


def test_a_refund_asked_for_twice_is_made_once(api, paid):
    shop, names = paid
    assert shop.refund(order(), names, 1000, REFUND_ID) == shop.refund(order(), names, 1000, REFUND_ID)
    assert len(api.refunds) == 1


@pytest.mark.usefixtures("short_patience")
def test_a_refund_of_which_no_answer_came_is_in_doubt_and_is_found(api, paid):
    shop, names = paid
    api.lose_next(2)
    with pytest.raises(PlatformUnreachable):
        shop.refund(order(), names, 1000, REFUND_ID)
    (made,) = api.refunds.values()
    assert shop.find_refund(order(), names, REFUND_ID) == RefundWord(RefundState.DONE, made["id"])


def test_a_refund_under_an_id_that_was_used_for_another_is_in_doubt(api, paid):
    shop, names = paid
    shop.refund(order(), names, 1000, REFUND_ID)
    with pytest.raises(PlatformUnreachable, match="IdempotencyError"):
        shop.refund(order(), names, 2000, REFUND_ID)


def test_a_refund_that_stripe_does_not_make_says_why(api, paid):
    shop, names = paid
    too_much = shop.refund(order(), names, 5000, "r1")
    assert (too_much.state, too_much.reference) == ("refused", None)
    assert "greater than unrefunded amount" in (too_much.note or "")
    shop.refund(order(), names, 4900, "r2")
    again = shop.refund(order(), names, 100, "r3")
    assert (again.state, again.note) == ("refused", "Charge ch_s3 has already been refunded.")
    elsewhere = shop.refund(order(), ["pi_unknown"], 100, "r4")
    assert (elsewhere.state, elsewhere.note) == ("refused", "No such payment_intent: 'pi_unknown'")
    nothing = shop.refund(order(), ["cs_live_1", ID], 100, "r5")
    assert (nothing.state, nothing.note) == ("refused", "Stripe has no payment of this order")
    assert shop.find_refund(order(), ["cs_live_1", ID], "r5") is None
    assert len(api.refunds) == 1


def test_our_own_refund_is_known_after_stripe_forgot_its_key(api, paid):
    shop, names = paid
    done = shop.refund(order(), names, 4900, REFUND_ID)
    api.desk.forget_keys()
    assert shop.refund(order(), names, 4900, REFUND_ID) == done
    assert len(api.refunds) == 1


# ---------------------------------------------------------------------------------------------------- whole stories
class Front(StripeShop):
    """A shop that sells on its own pages."""

    def __init__(self, folder: Path, clock: Clock, api: StripeApi, **settings: Any) -> None:
        catalogue = copy.deepcopy(CATALOGUE)
        for name, price in (("wave", "49.00"), ("studio", "99.00")):
            catalogue["products"][name] |= {"price": {"usd": price}, "published": True}
        super().__init__(folder, clock, api, catalogue, **settings)
        self.api = api

    def orders(self, *packages: str, **more: Any) -> Json:
        wish = {"package_ids": packages or ("wave",), "email": "ann@example.com", "name": "Ann Buyer"}
        answered = self.client.post(
            "/api/v1/checkout/initiate", json=wish | {"payment_provider": "stripe", "currency": "usd"} | more
        )
        assert answered.status_code == 201, answered.text
        return dict(answered.json)

    def session_of(self, order: Json) -> str:
        return next(id for id, one in self.api.sessions.items() if one["client_reference_id"] == order["order_id"])

    def hears(self, *types: str) -> list[Json]:
        """What Stripe has told so far, or some of it, and what is answered."""
        told = [one for one in self.api.desk.told if not types or one["type"] in types]
        answers = [self.deliver(one) for one in told]
        assert {one.status_code for one in answers} <= {200}, [one.text for one in answers]
        return [dict(one.json) for one in answers]

    def status(self, order: Json) -> str:
        return str(self.client.get(f"/api/v1/checkout/order/{order['order_id']}").json["status"])

    def steps(self) -> list[str]:
        lines = (self.folder / "orders.jsonl").read_bytes().splitlines()
        return [json.loads(line)["step"] for line in lines]

    def asks(self, order: Json) -> None:
        self.services.settlement.ask(order["order_id"])

    def refunds(self, order: Json, **body: Any) -> Any:
        return self.owner("POST", f"/orders/{order['order_id']}/refund", body)


@pytest.fixture
def selling(tmp_path, clock, api) -> Front:
    return Front(tmp_path / "data", clock, api)


def test_an_order_is_paid_and_delivered_once(selling, api):
    placed = selling.orders()
    assert is_order_id(placed["order_id"])
    session = selling.session_of(placed)
    assert placed["payment_url"] == api.sessions[session]["url"]
    assert selling.status(placed) == "pending"
    api.desk.pay(session)
    (told,) = selling.hears()
    assert told["outcome"] == "issued"
    assert selling.hears() == [told]
    assert (selling.status(placed), selling.code(told["license_keys"][0])) == ("paid", "VALID")
    (line,) = selling.ledger()
    assert (line["event"], line["event_id"], line["order_id"]) == ("sale", f"{session}:sale", placed["order_id"])
    assert (line["product_id"], line["email"], line["price"]) == ("wave", "ann@example.com", "49.00")
    assert selling.letters() == [("delivery", "ann@example.com")]
    assert selling.revenue() == {"usd": "49.00"}


def test_a_bundle_gives_its_contents(selling, api):
    placed = selling.orders("studio", "wave")
    api.desk.pay(selling.session_of(placed))
    selling.hears()
    assert sorted(one["product_id"] for one in selling.licenses().values()) == ["team", "wave"]
    assert [line["price"] for line in selling.ledger()] == ["148.00"]


def test_a_buyer_pays_on_stripes_page_and_comes_back(selling, api):
    """By what a browser does, over HTTP; the webhook is on its way when he is back, and the order asks by itself."""
    placed = selling.orders()
    page = browse("GET", placed["payment_url"])[1]
    assert (b"Pay</button>" in page, b"Give up</button>" in page) == (True, True)
    assert (
        browse("POST", placed["payment_url"] + "/cancel")[0]
        == f"http://127.0.0.1:8000/pay/{placed['order_id']}/cancelled"
    )
    assert selling.status(placed) == "pending"
    assert browse("POST", placed["payment_url"] + "/pay")[0] == f"http://127.0.0.1:8000/pay/{placed['order_id']}/back"
    selling.clock.forward(minutes=1)
    assert selling.client.get(f"/pay/{placed['order_id']}/back").status_code == 303
    assert selling.status(placed) == "paid"


def browse(method: str, url: str) -> tuple[str | None, bytes]:
    """Where it leads, and what stands there."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    connection.request(method, parts.path)
    with connection.getresponse() as answered:
        found = answered.headers["Location"], answered.read()
    connection.close()
    return found


def test_lost_webhooks_cost_nothing(selling, api, clock):
    placed = selling.orders()
    api.desk.pay(selling.session_of(placed))
    clock.forward(minutes=1)
    assert selling.status(placed) == "paid"
    before = selling.ledger()
    selling.hears()
    assert selling.ledger() == before
    assert selling.letters() == [("delivery", "ann@example.com")]


def test_a_checkout_that_expires_is_no_line_of_the_ledger(selling, api):
    placed = selling.orders()
    api.desk.expire(selling.session_of(placed))
    selling.hears()
    assert (selling.status(placed), selling.ledger(), selling.steps()[-1]) == ("cancelled", [], "cancelled")


def test_money_on_its_way_and_what_becomes_of_it(selling, api):
    first, second = selling.orders(), selling.orders("studio")
    for placed in (first, second):
        api.desk.pay(selling.session_of(placed), later=True)
    selling.hears()
    assert (selling.status(first), selling.status(second), selling.ledger()) == ("processing", "processing", [])
    api.desk.settle(selling.session_of(first))
    api.desk.settle(selling.session_of(second), succeeds=False)
    selling.hears(LATE, FAILED)
    assert (selling.status(first), selling.status(second)) == ("paid", "failed")
    assert [line["event"] for line in selling.ledger()] == ["sale"]


@pytest.mark.parametrize("late", [PAID, FAILED, EXPIRED])
def test_what_is_paid_stays_so_whatever_comes_late(selling, api, late):
    placed = selling.orders()
    session = api.desk.pay(selling.session_of(placed))
    selling.hears()
    stale = session | {"payment_status": "unpaid", "status": "expired" if late == EXPIRED else "complete"}
    assert selling.deliver(event(late, stale, id="evt_late")).status_code == 200
    assert selling.status(placed) == "paid"
    assert selling.record["is_active"]


@pytest.mark.parametrize(
    "other",
    [
        {"amount_total": 4800},
        {"amount_total": 490000},
        {"currency": "eur"},
        {"amount_total": None},
        {"livemode": False},
    ],
)
def test_what_does_not_agree_with_the_order_gives_nothing(selling, api, other):
    placed = selling.orders()
    session = api.desk.pay(selling.session_of(placed))
    is_live = other.get("livemode", True)
    assert selling.deliver(event(PAID, session | other, livemode=is_live, id="evt_odd")).json["license_keys"] == []
    assert (selling.licenses(), selling.ledger()[0]["is_withdrawn"]) == ({}, True)
    selling.hears()
    assert selling.status(placed) == "paid"


def test_a_refund_that_only_its_payment_names_finds_the_order(selling, api):
    """A refund from Stripe's dashboard: its charge has none of our metadata."""
    placed = selling.orders()
    payment = api.desk.pay(selling.session_of(placed))["payment_intent"]
    (told,) = selling.hears()
    front(api).refund(order(), [payment], 4900, "by hand")
    assert api.charges[api.payment_intents[payment]["latest_charge"]]["metadata"] == {}
    selling.hears("charge.refunded")
    assert (selling.status(placed), selling.code(told["license_keys"][0])) == ("refunded", "SUSPENDED")
    assert "order_id" not in selling.ledger()[-1]
    assert selling.revenue() == {"usd": "0.00"}


def test_a_refund_by_the_owner_is_told_and_asked_alike(selling, api, clock):
    placed = selling.orders()
    api.desk.pay(selling.session_of(placed))
    (told,) = selling.hears()
    clock.forward(minutes=5)
    part = selling.refunds(placed, amount="9.00")
    assert (part.status_code, part.json["refund_status"], part.json["status"]) == (200, "done", "partially_refunded")
    selling.hears()
    assert selling.code(told["license_keys"][0]) == "VALID"
    clock.forward(minutes=5)
    assert selling.refunds(placed).json["amount"] == "40.00"
    selling.hears()
    assert (selling.status(placed), selling.code(told["license_keys"][0])) == ("refunded", "SUSPENDED")
    assert [line["event"] for line in selling.ledger() if line["event"] != "ignored"] == [
        "sale",
        "partial_refund",
        "refund",
    ]
    assert len(api.refunds) == 2


def test_a_refund_in_doubt_is_looked_up_and_not_made_again(selling, api, clock, short_patience):
    placed = selling.orders()
    api.desk.pay(selling.session_of(placed))
    selling.hears()
    api.lose_next(2)
    asked = selling.owner("POST", f"/orders/{placed['order_id']}/refund", {}, Idempotency_Key="once")
    assert (asked.status_code, asked.json["refund_status"]) == (202, "in_doubt")
    again = selling.owner("POST", f"/orders/{placed['order_id']}/refund", {}, Idempotency_Key="once")
    assert (again.status_code, again.json["refund_status"], again.json["status"]) == (200, "done", "refunded")
    assert len(api.refunds) == 1


def test_a_refund_that_came_back_gives_the_license_back_and_may_be_made_again(selling, api, clock):
    placed = selling.orders()
    api.desk.pay(selling.session_of(placed))
    (told,) = selling.hears()
    api.desk.refund_status = "pending"
    assert selling.refunds(placed).json["refund_status"] == "accepted"
    selling.hears("charge.refunded")
    assert selling.code(told["license_keys"][0]) == "SUSPENDED"
    clock.forward(days=1)
    api.desk.fail_refund(next(iter(api.refunds)))
    selling.hears("refund.failed")
    assert (selling.status(placed), selling.code(told["license_keys"][0])) == ("paid", "VALID")
    api.desk.refund_status = "succeeded"
    clock.forward(days=1)
    assert selling.refunds(placed).json["status"] == "refunded"
    assert selling.revenue() == {"usd": "0.00"}


def test_of_two_refunds_the_one_that_failed_counts_no_more(selling, api, clock):
    placed = selling.orders()
    api.desk.pay(selling.session_of(placed))
    selling.hears()
    for amount in ("9.00", "5.00"):
        clock.forward(minutes=5)
        selling.refunds(placed, amount=amount)
    clock.forward(minutes=5)
    api.desk.fail_refund(next(one["id"] for one in api.refunds.values() if one["amount"] == 500))
    selling.hears()
    told = selling.client.get(f"/api/v1/checkout/order/{placed['order_id']}").json
    assert (told["refunded_amount"], told["status"]) == ("9.00", "partially_refunded")
    assert selling.revenue() == {"usd": "40.00"}
    assert selling.refunds(placed, amount="40.00").status_code == 200


def test_while_stripe_is_down_the_order_is_kept_and_begun_later(selling, api, clock):
    api.down()
    wish = {"package_ids": ["wave"], "email": "ann@example.com", "name": "Ann Buyer", "payment_provider": "stripe"}
    refused = selling.client.post("/api/v1/checkout/initiate", json=wish)
    assert (refused.status_code, refused.json["errors"][0]["code"]) == (503, "PLATFORM_UNREACHABLE")
    api.up()
    gone = selling.client.get(f"/pay/{refused.json['order_id']}")
    assert (gone.status_code, gone.headers["Location"]) == (303, next(iter(api.sessions.values()))["url"])


def test_without_a_key_the_checkout_says_that_stripe_is_not_configured(tmp_path, clock):
    shop = StripeShop(tmp_path / "keyless", clock)
    wish = {"package_ids": ["wave"], "email": "ann@example.com", "name": "Ann Buyer", "payment_provider": "stripe"}
    refused = shop.client.post("/api/v1/checkout/initiate", json=wish)
    assert (refused.status_code, refused.json["errors"][0]["code"]) == (404, "PLATFORM_NOT_CONFIGURED")


# ---------------------------------------------------------------------------------------------------- others' sessions
@pytest.mark.parametrize("name", ["ORD-1", "", "k0123456789abcdefghj", "1" * 20, ID + "A", " " + ID])
def test_metadata_that_is_no_order_of_ours_changes_nothing(api, name):
    shop = front(api)
    plain, odd = (
        read(shop, event(PAID, session(metadata=metadata)))[0] for metadata in ({}, {"keyledger_order": name})
    )
    assert odd.order_id is None
    assert same(odd) == same(plain)
    assert odd.inquiry == plain.inquiry == "line_items"


def test_money_for_an_order_that_nobody_knows_waits_for_the_owner(selling):
    """From a folder that was lost, say: nothing is issued, and nothing is forgotten."""
    told = selling.tell(PAID, session(metadata={"keyledger_order": OTHER}))
    assert (told["outcome"], told["license_keys"], selling.licenses()) == ("unmapped", [], {})


@pytest.mark.parametrize("type", [PAID, FAILED, EXPIRED])
def test_an_unknown_order_that_was_not_paid_is_written_down_alone(selling, type):
    told = selling.tell(type, session(metadata={"keyledger_order": OTHER}, payment_status="unpaid"))
    assert (told["outcome"], selling.licenses()) == ("ignored", {})
    assert selling.ledger()[0]["note"] == "there is no such order here"


def test_who_names_the_order_of_another_in_a_cheaper_checkout_gets_nothing(selling):
    """Metadata can be written by whoever makes checkouts in this account."""
    placed = selling.orders("studio")
    selling.tell(PAID, session(amount=100, metadata={"keyledger_order": placed["order_id"]}))
    assert (selling.licenses(), selling.ledger()[0]["event"]) == ({}, "ignored")
    assert selling.status(placed) == "pending"


# ---------------------------------------------------------------------------------------------------- refunds that fail
@pytest.mark.parametrize("seed", some_of(range(300), 12))
def test_order_license_and_sums_agree_whatever_failed_and_whatever_was_heard_of_it(selling, api, clock, seed):
    """Refunds are made and come back; of the webhooks some are lost, some are late; now and then Stripe is asked."""
    chance = random.Random(seed)
    placed = selling.orders()
    session = selling.session_of(placed)
    api.desk.pay(session)
    (told,) = selling.hears()
    (paid,), late = api.charges.values(), list[Json]()
    for _ in range(chance.randrange(2, 7)):
        clock.forward(minutes=chance.randrange(1, 3))
        done = [one["id"] for one in api.refunds.values() if one["status"] != "failed"]
        before, left = len(api.desk.told), paid["amount_captured"] - paid["amount_refunded"]
        if done and (chance.random() < 0.4 or not left):
            api.desk.fail_refund(chance.choice(done))
        else:
            api.desk.give_back(paid["payment_intent"], chance.choice([left, min(left, 1000), min(left, 2450)]))
        late += [one for one in api.desk.told[before:] if chance.random() < 0.7]
        chance.shuffle(late)
        while late and chance.random() < 0.6:
            selling.deliver(late.pop())
        if chance.random() < 0.3:
            selling.asks(placed)
    for one in late:
        selling.deliver(one)
    clock.forward(minutes=1)
    selling.asks(placed)
    back = paid["amount_refunded"]
    shown = selling.client.get(f"/api/v1/checkout/order/{placed['order_id']}").json
    state = "refunded" if back == 4900 else "partially_refunded" if back else "paid"
    assert (shown["status"], shown["refunded_amount"]) == (state, f"{back / 100:.2f}")
    assert selling.code(told["license_keys"][0]) == ("SUSPENDED" if back == 4900 else "VALID")
    assert selling.revenue() == {"usd": f"{(4900 - back) / 100:.2f}"}
