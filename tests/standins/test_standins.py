"""The stand-ins speak as the platforms do: asked by Stripe's own library, and by plain HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from itertools import chain
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import stripe

from tests.standins import stripe_api as s
from tests.standins.gumroad_api import TOKEN, GumroadApi, external_id, sale
from tests.standins.http import StandIn
from tests.standins.stripe_api import KEY, TEST_KEY, StripeApi
from tests.standins.stripe_objects import WHEN

SECRET = "whsec_of_the_tests"
DAY = datetime(2026, 11, 5, 12, 0, tzinfo=UTC)


def get(url: str, timeout: float = 5, **headers: str) -> tuple[int, bytes, Message]:
    request = Request(url, headers=headers)
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=timeout) as answered:
            return answered.status, answered.read(), answered.headers
    except HTTPError as refused:
        with refused:
            return refused.code, refused.read(), refused.headers


@pytest.fixture
def gumroad() -> Iterator[GumroadApi]:
    with GumroadApi() as api:
        yield api


@pytest.fixture
def api() -> Iterator[StripeApi]:
    with StripeApi() as api:
        yield api


def ask(gumroad: GumroadApi, path: str) -> dict[str, Any]:
    url = f"{gumroad.url}{path}{'&' if '?' in path else '?'}access_token={TOKEN}"
    return dict(json.loads(get(url)[1]))


def client(api: StripeApi, key: str = KEY, timeout: float = 5) -> Any:
    http = stripe.RequestsClient(timeout=timeout, proxy={"http": "", "https": ""})
    return stripe.StripeClient(key, base_addresses={"api": api.url}, http_client=http, max_network_retries=0)


# -------------------------------------------------------------------------------------------------- faults, of both
@pytest.fixture(params=["gumroad", "stripe"])
def standin(request: pytest.FixtureRequest, gumroad: GumroadApi, api: StripeApi) -> tuple[StandIn, str]:
    known: dict[str, tuple[StandIn, str]] = {"gumroad": (gumroad, "/v2/sales"), "stripe": (api, "/v1/charges")}
    return known[request.param]


def status(standin: StandIn, path: str, timeout: float = 5) -> tuple[int, str | None]:
    key = TOKEN if path.startswith("/v2") else KEY
    found, _, headers = get(standin.url + path, timeout, Authorization=f"Bearer {key}")
    return found, headers["Retry-After"]


def test_fails_as_often_as_told(standin: tuple[StandIn, str]) -> None:
    standin[0].fail_next(503, times=2)
    standin[0].fail_next(429, retry_after=7)
    assert [status(*standin) for _ in range(4)] == [(503, None), (503, None), (429, "7"), (200, None)]
    assert standin[0].asked == [standin[1]] * 4


def test_each_third_request_is_one_too_many(standin: tuple[StandIn, str]) -> None:
    standin[0].rate_limit(every=3)
    assert [status(*standin) for _ in range(6)] == [(200, None), (200, None), (429, "0")] * 2
    standin[0].rate_limit(every=0)
    assert [status(*standin)[0] for _ in range(3)] == [200] * 3


def test_down_refuses_and_comes_up_at_the_same_place(standin: tuple[StandIn, str]) -> None:
    standin[0].down()
    standin[0].down()
    with pytest.raises(URLError, match="refused"):
        status(*standin)
    standin[0].up()
    standin[0].up()
    assert status(*standin)[0] == 200


def test_drops_the_connection_without_an_answer(standin: tuple[StandIn, str]) -> None:
    standin[0].down(refuse=False)
    with pytest.raises(ConnectionError):
        status(*standin)
    standin[0].up()
    assert status(*standin)[0] == 200
    assert len(standin[0].asked) == 2


def test_hangs_until_the_client_gives_up(standin: tuple[StandIn, str]) -> None:
    standin[0].hang = math.inf
    with pytest.raises((TimeoutError, URLError)):
        status(*standin, timeout=0.1)
    standin[0].hang = 0.01
    assert status(*standin)[0] == 200


# -------------------------------------------------------------------------------------------------- Gumroad
def test_gumroad_pages_are_newest_first_and_end(gumroad: GumroadApi) -> None:
    gumroad.add(*(sale(external_id(f"sale {n}"), created_at=DAY + timedelta(minutes=n // 2)) for n in range(23)))
    told: dict[str, Any] = {"next_page_url": "/v2/sales?product_id=G-WAVE%3D%3D&after=2026-11-05"}
    seen: list[list[str]] = []
    while path := told.get("next_page_url", ""):
        told = ask(gumroad, path)
        seen.append([one["id"] for one in told["sales"]])
        assert ("next_page_key" in told) == ("next_page_url" in told)
    assert [len(page) for page in seen] == [10, 10, 3]
    assert list(chain(*seen)) == [external_id(f"sale {n}") for n in reversed(range(23))]
    assert gumroad.asked[1].startswith("/v2/sales?after=2026-11-05&page_key=20261105120600000000-")
    assert gumroad.asked[1].endswith("&product_id=G-WAVE==")
    assert TOKEN not in str(gumroad.asked)


def test_gumroad_dates_are_days_in_utc(gumroad: GumroadApi) -> None:
    moments = {
        "eve": DAY.replace(hour=0),
        "noon": DAY,
        "morrow": DAY.replace(day=6, hour=0),
        "last": DAY.replace(day=7),
    }
    gumroad.add(*(sale(name, created_at=at) for name, at in moments.items()))
    told = ask(gumroad, "/v2/sales?after=2026-11-05&before=2026-11-06")
    assert [one["id"] for one in told["sales"]] == ["noon", "eve"]
    found, body, _ = get(f"{gumroad.url}/v2/sales?after=2026-11-05T00:00&access_token={TOKEN}")
    assert (found, json.loads(body)["status"]) == (400, 400)


def test_gumroad_lists_what_was_charged_but_shows_all(gumroad: GumroadApi) -> None:
    gift: Any = {"giftee_email": "bob@example.com", "gifter_email": "ann@example.com"}
    gumroad.add(
        sale("given", is_gift_sender_purchase=True, **gift),
        sale("got", "bob@example.com", price=0, is_gift_receiver_purchase=True, **gift),
        sale("mine"),
    )
    gumroad.tests.add("mine")
    assert [one["id"] for one in ask(gumroad, "/v2/sales")["sales"]] == ["given"]
    assert ask(gumroad, "/v2/sales/got")["sale"]["giftee_email"] == "bob@example.com"


def test_gumroad_filters_and_shows_one(gumroad: GumroadApi) -> None:
    id = external_id("team")
    team = sale(id, "bob@example.com", "G-TEAM==", subscription_id="sub==", recurring_charge=True, cancelled=True)
    gumroad.add(sale("other", refunded=True), team)
    assert [one["id"] for one in ask(gumroad, "/v2/sales?product_id=G-TEAM%3D%3D&email=BOB@example.com")["sales"]] == [
        id
    ]
    told = ask(gumroad, f"/v2/sales/{quote(id, safe='')}")["sale"]
    assert told == team
    assert (told["recurring_charge"], told["cancelled"], told["ended"]) == (True, True, False)
    assert "refunded" not in sale("free", price=0)


def test_gumroad_knows_no_such_sale_with_status_200(gumroad: GumroadApi) -> None:
    url = f"{gumroad.url}/v2/sales/nobody%3D%3D"
    found, body, _ = get(url, Authorization=f"Bearer {TOKEN}")
    assert (found, json.loads(body)) == (200, {"success": False, "message": "The sale was not found."})
    gumroad.unknown_status = 404
    assert get(url, Authorization=f"Bearer {TOKEN}")[0] == 404


def test_gumroad_refuses_without_a_body(gumroad: GumroadApi) -> None:
    assert get(gumroad.url + "/v2/sales")[:2] == (401, b"")
    assert get(gumroad.url + "/v2/sales?access_token=wrong")[:2] == (401, b"")
    gumroad.is_forbidden = True
    assert get(f"{gumroad.url}/v2/sales?access_token={TOKEN}")[:2] == (403, b"")


# -------------------------------------------------------------------------------------------------- Stripe
def test_stripe_pages_through_sessions_with_their_lines(api: StripeApi) -> None:
    api.add(*(s.session(f"cs_live_{n}", created=WHEN + n // 2) for n in range(25)))
    api.line_items["cs_live_24"] = [s.line_item("li_1", "prod_7", 3), s.line_item("li_2")]
    params = {"created": {"gte": WHEN + 1, "lte": WHEN + 12}, "limit": 10, "expand": ["data.line_items"]}
    found = list(client(api).v1.checkout.sessions.list(params).auto_paging_iter())
    assert [one.id for one in found] == [f"cs_live_{n}" for n in reversed(range(2, 25))]
    assert found[0].line_items is not None
    assert found[0].line_items.data[0].price.product == "prod_7"
    assert len(api.asked) == 3
    assert "created[gte]=1794000001" in api.asked[0]
    assert "starting_after=cs_live_15" in api.asked[1]


def test_stripe_lines_are_a_list_of_their_own(api: StripeApi) -> None:
    api.add(s.session())
    api.line_items["cs_live_1"] = [s.line_item(f"li_{n}") for n in range(12)]
    assert "line_items" not in client(api).v1.checkout.sessions.retrieve("cs_live_1")
    lines = client(api).v1.checkout.sessions.line_items.list("cs_live_1", {"limit": 5})
    assert [line.id for line in lines.auto_paging_iter()] == [f"li_{n}" for n in range(12)]
    assert client(api).v1.checkout.sessions.list({"payment_intent": "pi_1"}).data[0].id == "cs_live_1"


def test_stripe_expands_what_an_id_names(api: StripeApi) -> None:
    api.add(s.charge(amount_refunded=900), s.refund(amount=900), s.dispute())
    listed = client(api).v1.refunds.list({"expand": ["data.charge"]})
    assert listed.data[0].charge.amount_refunded == 900
    assert client(api).v1.refunds.list().data[0].charge == "ch_1"
    assert client(api).v1.disputes.retrieve("du_1", {"expand": ["charge"]}).charge.id == "ch_1"
    assert client(api).v1.charges.retrieve("ch_1", {"expand": ["refunds"]}).refunds.data[0].id == "re_1"
    with pytest.raises(stripe.InvalidRequestError, match=r"try expanding 'data\.charge' instead"):
        client(api).v1.refunds.list({"expand": ["charge"]})


def test_stripe_finds_the_invoice_of_a_payment(api: StripeApi) -> None:
    api.add(s.invoice(), s.invoice("in_2", "sub_2", status="open"), s.invoice_payment(), s.subscription())
    payment = {"type": "payment_intent", "payment_intent": "pi_1"}
    assert client(api).v1.invoice_payments.list({"payment": payment}).data[0].invoice == "in_1"
    with pytest.raises(stripe.InvalidRequestError, match="payment\\[type\\]"):
        client(api).v1.invoice_payments.list({"payment": {"payment_intent": "pi_1"}})
    paid = client(api).v1.invoices.list({"status": "paid", "expand": ["data.payments"]}).data
    assert [one.id for one in paid] == ["in_1"]
    assert paid[0].payments.data[0].payment.payment_intent == "pi_1"
    way = "parent.subscription_details.subscription"
    told = client(api).v1.invoices.retrieve("in_1", {"expand": [way]})
    assert told.parent.subscription_details.subscription.status == "active"
    assert client(api).v1.invoices.list({"subscription": "sub_2"}).data[0].id == "in_2"


def test_stripe_lists_no_canceled_subscriptions_unless_asked(api: StripeApi) -> None:
    api.add(s.subscription(), s.subscription("sub_2", status="canceled", ended_at=WHEN))
    assert [one.id for one in client(api).v1.subscriptions.list().data] == ["sub_1"]
    assert [one.id for one in client(api).v1.subscriptions.list({"status": "all"}).data] == ["sub_2", "sub_1"]


def test_stripe_keeps_events(api: StripeApi) -> None:
    api.add(s.event("charge.refunded", s.charge()), s.event("invoice.paid", s.invoice(), id="evt_2"))
    assert [one.id for one in client(api).v1.events.list({"types": ["invoice.paid", "x"]}).data] == ["evt_2"]
    assert [one.id for one in client(api).v1.events.list({"type": "charge.*"}).data] == ["evt_1"]


def test_stripe_refuses_as_stripe_does(api: StripeApi) -> None:
    with pytest.raises(stripe.AuthenticationError, match="Invalid API Key provided: sk_live_"):
        client(api, "sk_live_of_somebody_else").v1.charges.list()
    assert json.loads(get(api.url + "/v1/charges")[1])["error"]["message"].startswith("You did not provide an API key")
    with pytest.raises(stripe.InvalidRequestError, match="less than or equal to 100") as refused:
        client(api).v1.charges.list({"limit": 101})
    assert (refused.value.http_status, refused.value.param) == (400, "limit")
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter: email"):
        client(api).v1.charges.list({"email": "ann@example.com"})
    with pytest.raises(stripe.InvalidRequestError, match="No such charge: 'ch_9'") as missing:
        client(api).v1.charges.retrieve("ch_9")
    assert (missing.value.http_status, missing.value.code) == (404, "resource_missing")
    assert missing.value.request_id
    api.fail_next(429)
    with pytest.raises(stripe.RateLimitError):
        client(api).v1.charges.list()
    api.hang = math.inf
    with pytest.raises(stripe.APIConnectionError):
        client(api, timeout=0.1).v1.charges.list()


def test_stripe_tells_test_from_live(api: StripeApi) -> None:
    api.add(s.charge(), s.charge("ch_2", livemode=False), s.refund(), s.refund("re_2", "ch_2"))
    assert [one.id for one in client(api, TEST_KEY).v1.charges.list().data] == ["ch_2"]
    assert [one.id for one in client(api).v1.refunds.list().data] == ["re_1"]
    with pytest.raises(stripe.InvalidRequestError, match="exists in live mode, but a test mode key"):
        client(api, TEST_KEY).v1.charges.retrieve("ch_1")


def test_stripe_signs_its_webhooks() -> None:
    told = s.event("charge.refunded", s.charge(amount_refunded=4900), {"amount_refunded": 0, "refunded": False})
    body, headers = s.signed(told, SECRET)
    read = stripe.Webhook.construct_event(body, headers["Stripe-Signature"], SECRET)
    assert (read.type, read.data.object.refunded) == ("charge.refunded", True)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(body, s.signed(told, SECRET, 1)[1]["Stripe-Signature"], SECRET, 300)


def test_old_shapes_say_where_the_new_ones_do_not() -> None:
    new, old = s.invoice(), s.invoice(old=True)
    assert new["parent"]["subscription_details"]["subscription"] == old["subscription"] == "sub_1"
    assert not {"subscription", "paid", "charge", "payment_intent"} & set(new)
    assert old["paid"]
    assert "parent" not in old
    assert new["lines"]["data"][0]["pricing"]["price_details"]["product"] == "prod_1"
    assert old["lines"]["data"][0]["price"]["product"] == old["lines"]["data"][0]["plan"]["product"] == "prod_1"
    new, old = s.subscription(), s.subscription(old=True)
    assert "current_period_end" in new["items"]["data"][0]
    assert "current_period_end" not in new
    assert "current_period_end" in old
    assert "invoice" in s.charge(old=True)
    assert "invoice" not in s.charge()
