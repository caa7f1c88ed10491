"""Stripe's stand-in is strict where something is done, and tells of it as Stripe does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tests.standins.http import Answer, Asked, Json, StandIn
from tests.standins.stripe_api import KEY, TEST_KEY, StripeApi
from tests.standins.stripe_objects import WHEN

SECRET = "whsec_of_the_tests"
WANTED: Json = {
    "mode": "payment",
    "line_items": [
        {"price_data": {"currency": "usd", "unit_amount": 4900, "product_data": {"name": "Wave"}}, "quantity": 2}
    ],
    "customer_email": "ann@example.com",
    "success_url": "https://shop.example/back",
    "cancel_url": "https://shop.example/cancelled",
    "expires_at": WHEN + 86_400,
}


@pytest.fixture
def api() -> Iterator[StripeApi]:
    with StripeApi(clock=lambda: WHEN) as api:
        yield api


def client(api: StripeApi, key: str = KEY) -> Any:
    http = stripe.RequestsClient(timeout=5, proxy={"http": "", "https": ""})
    return stripe.StripeClient(key, base_addresses={"api": api.url}, http_client=http, max_network_retries=0).v1


def opened(api: StripeApi, key: str = KEY, **options: Any) -> Any:
    return client(api, key).checkout.sessions.create(WANTED, options)


class Shop(StandIn):
    """Where webhooks are sent to."""

    def __init__(self) -> None:
        self.heard: list[Json] = []
        self.status = 200
        super().__init__()

    def answer(self, asked: Asked) -> Answer:
        stripe.WebhookSignature.verify_header(asked.body, asked.headers["Stripe-Signature"], SECRET, 300)
        self.heard.append(json.loads(asked.body))
        return Answer(self.status)

    def fault(self, status: int) -> Answer:
        return Answer(status)


@pytest.fixture
def shop(api: StripeApi) -> Iterator[Shop]:
    with Shop() as shop:
        api.desk.webhook = (f"{shop.url}/hooks", SECRET)
        yield shop


@pytest.mark.parametrize(
    ("odd", "objection"),
    [
        ({"mode": "setup"}, "Invalid mode"),
        ({"line_items": []}, "Missing required param: line_items"),
        ({"customer": "cus_1"}, "unknown parameter: customer"),
        ({"customer_email": "ann"}, "Invalid email address"),
        ({"success_url": "/back"}, "Not a valid URL"),
        ({"expires_at": WHEN + 1799}, "at least 30 minutes"),
        ({"expires_at": WHEN + 86_401}, "less than 24 hours"),
        ({"payment_method_types": ["blik"]}, "cannot be used with usd"),
    ],
)
def test_a_checkout_that_stripe_would_not_open(api: StripeApi, odd: Json, objection: str) -> None:
    with pytest.raises(stripe.InvalidRequestError, match=objection):
        client(api).checkout.sessions.create(WANTED | odd)
    assert api.sessions == {}


def test_an_open_checkout_is_real_and_has_no_payment(api: StripeApi) -> None:
    told = client(api).checkout.sessions.retrieve(opened(api).id, {"expand": ["payment_intent", "line_items"]})
    assert (told.status, told.payment_status, told.payment_intent, told.amount_total) == ("open", "unpaid", None, 9800)
    (line,) = told.line_items.data
    assert (line.description, line.quantity, line.amount_total) == ("Wave", 2, 9800)


def test_an_idempotency_key_is_good_for_one_request_in_one_mode(api: StripeApi) -> None:
    first = opened(api, idempotency_key="one")
    again = opened(api, idempotency_key="one")
    assert (again.id, again.last_response.headers["Idempotent-Replayed"]) == (first.id, "true")
    with pytest.raises(stripe.IdempotencyError, match="same parameters"):
        client(api).checkout.sessions.create(WANTED | {"customer_email": "b@example.com"}, {"idempotency_key": "one"})
    assert opened(api, TEST_KEY, idempotency_key="one").id.startswith("cs_test_")
    assert opened(api).id != opened(api).id


def test_a_key_of_what_was_refused_is_still_good(api: StripeApi) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        client(api).checkout.sessions.create(WANTED | {"mode": "setup"}, {"idempotency_key": "one"})
    assert opened(api, idempotency_key="one").id in api.sessions


def test_what_happens_is_told_signed_and_again_until_it_is_taken(api: StripeApi, shop: Shop) -> None:
    session = opened(api)
    shop.status = 503
    api.desk.pay(session.id)
    api.desk.deliver()
    shop.status = 200
    api.desk.deliver()
    api.desk.deliver()
    assert [one["type"] for one in shop.heard] == ["checkout.session.completed"] * 2
    assert shop.heard[0]["data"]["object"]["payment_intent"] in api.payment_intents


def test_a_refund_is_told_by_itself_and_by_its_charge(api: StripeApi, shop: Shop) -> None:
    api.desk.is_held = True
    payment = api.desk.pay(opened(api).id)["payment_intent"]
    made = client(api).refunds.create({"payment_intent": payment, "amount": 1000, "metadata": {"a": "b"}})
    api.desk.fail_refund(made.id)
    assert shop.heard == []
    api.desk.deliver()
    told = [(one["type"], one["data"].get("previous_attributes", {}).get("amount_refunded")) for one in shop.heard[1:]]
    assert told == [("refund.created", None), ("charge.refunded", 0), ("refund.failed", None)]
    assert shop.heard[2]["data"]["object"]["amount_refunded"] == 1000
    assert client(api).charges.retrieve(made.charge).amount_refunded == 0


def test_what_was_not_paid_cannot_be_refunded(api: StripeApi) -> None:
    payment = api.desk.pay(opened(api).id, later=True)["payment_intent"]
    with pytest.raises(stripe.InvalidRequestError, match="does not have a successful charge"):
        client(api).refunds.create({"payment_intent": payment})


def test_an_answer_that_is_lost_was_given_all_the_same(api: StripeApi) -> None:
    api.lose_next()
    with pytest.raises(stripe.APIConnectionError):
        opened(api)
    assert len(api.sessions) == 1
