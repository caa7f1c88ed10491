"""Stripe's webhooks: which of them are proven, what they say in our words, and what its API may answer."""

from __future__ import annotations

import contextlib
import copy
import hmac
import json
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.domain.purchase import EventKind, Inquiry, PurchaseEvent, Standing
from server.errors import BadRequest, PlatformUnreachable
from server.platforms import WebhookRequest
from server.platforms.stripe import READERS, Stripe
from server.platforms.stripe_api import StripeApi as OurApi
from server.platforms.web_client import RateLimited
from tests.conftest import settings_for
from tests.standins.http import Answer, Asked, Json, StandIn
from tests.standins.stripe_api import charge, dispute, event, invoice_payment, refund, signed
from tests.standins.stripe_objects import WHEN
from tests.stripe_shop import (
    WHSEC,
    StripeShop,
    bought,
    first_invoice,
    later_invoice,
    payment_of,
    subscription,
    team,
    wave,
)

COMPLETED = "checkout.session.completed"
UPDATED = "customer.subscription.updated"
BOTH_SHAPES = pytest.mark.parametrize("old", [False, True], ids=["basil", "before basil"])


@pytest.fixture
def shop(tmp_path, clock) -> StripeShop:
    return StripeShop(tmp_path / "data", clock)


@cache
def platform(**more: Any) -> Stripe:
    made = Stripe.from_settings(settings_for(Path("unused"), **({"stripe_webhook_secret": (WHSEC,)} | more)))
    assert made is not None
    return made


def parsed(told: Json | bytes, **more: Any) -> list[PurchaseEvent]:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    return platform(**more).parse(WebhookRequest(body, {}, {}.get))


def said(type: str, about: Json, previous: Json | None = None, **more: Any) -> PurchaseEvent:
    (found,) = parsed(event(type, about, previous, **more))
    return found


def signature(body: bytes, secret: str = WHSEC, ago: float = 0, scheme: str = "v1") -> str:
    """As Stripe makes it; `ago` is its age in seconds."""
    at = int(time.time() - ago)
    return f"t={at},{scheme}={hmac.new(secret.encode(), b'%d.%b' % (at, body), 'sha256').hexdigest()}"


def posted(shop: StripeShop, body: bytes, header: str | None) -> tuple[int, str | None]:
    """Status and error code."""
    headers = {"Content-Type": "application/json"} | ({} if header is None else {"Stripe-Signature": header})
    answered = shop.post_signed(body, headers)
    return answered.status_code, answered.json["errors"][0]["code"] if "errors" in answered.json else None


def sale(**more: Any) -> bytes:
    return json.dumps(event(COMPLETED, wave(), **more)).encode()


REFUSED = (400, "BAD_SIGNATURE")


# ---------------------------------------------------------------------------------------------------- signatures
def test_a_signed_event_is_taken(shop):
    body = sale()
    assert posted(shop, body, signature(body)) == (200, None)
    assert len(shop.ledger()) == 1


def test_any_of_several_secrets_may_have_signed(tmp_path, clock):
    shop = StripeShop(tmp_path / "d", clock, stripe_webhook_secret=("whsec_old", "whsec_new"))
    body = sale()
    assert posted(shop, body, signature(body, "whsec_old")) == (200, None)
    assert posted(shop, body, signature(body, "whsec_new")) == (200, None)
    assert posted(shop, body, signature(body, "whsec_other")) == REFUSED


def test_while_a_secret_is_rolled_the_header_has_two_signatures(shop):
    body = sale()
    for one, other in ((WHSEC, "whsec_next"), ("whsec_next", WHSEC)):
        rolled = f"{signature(body, one)},{signature(body, other).partition(',')[2]}"
        assert rolled.count("v1=") == 2
        assert posted(shop, body, rolled) == (200, None)


def test_the_test_scheme_v0_proves_nothing(shop):
    body = sale()
    assert posted(shop, body, signature(body, scheme="v0")) == REFUSED
    assert shop.ledger() == []
    assert posted(shop, body, f"{signature(body)},v0={'0' * 64}") == (200, None)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "garbage",
        "t",
        "t=",
        "t=,v1=",
        "v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd",
        "t=now,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd",
        f"t={'9' * 5000},v1=00",
        "t=1794000000",
        "t=4102444800,v1=\xe9",
        "\xfc=\xe9,t=\xe9",
        "=" * 10_000,
        "," * 10_000,
    ],
)
def test_a_header_that_is_missing_or_garbled_is_a_400(shop, header):
    assert posted(shop, sale(), header) == REFUSED
    assert shop.ledger() == []


def test_a_signature_that_is_not_ascii_is_a_400(shop):
    body = sale()
    assert posted(shop, body, f"{signature(body).partition(',')[0]},v1=\xe9") == REFUSED


def test_a_signature_counts_for_five_minutes(shop):
    body = sale()
    assert posted(shop, body, signature(body, ago=310)) == REFUSED
    assert shop.ledger() == []
    assert posted(shop, body, signature(body, ago=280)) == (200, None)


def test_another_secrets_signature_is_refused(shop):
    body = sale()
    for secret in ("whsec_other", WHSEC.removeprefix("whsec_"), WHSEC.upper(), f"{WHSEC} "):
        assert posted(shop, body, signature(body, secret)) == REFUSED
    assert shop.ledger() == []


def test_the_signature_is_that_of_the_very_bytes(shop):
    body = sale()
    header = signature(body)
    for tampered in (body.replace(b"4900", b"1"), body + b" ", json.dumps(json.loads(body), indent=1).encode(), b""):
        assert posted(shop, tampered, header) == REFUSED
    assert shop.ledger() == []


def test_the_moment_is_signed_too(shop):
    body = sale()
    of_then = signature(body, ago=3600).partition(",")[2]
    assert posted(shop, body, f"t={int(time.time())},{of_then}") == REFUSED


def test_a_body_that_is_no_utf8_is_a_400(shop):
    body = sale().replace(b"Jane", b"J\xe4ne")
    assert posted(shop, body, signature(body)) == REFUSED


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"text"', b"{", b"", b"{}", b'{"id": "evt_1"}', b"[" * 90_000])
def test_signed_json_that_is_no_event_is_a_400(shop, body):
    assert posted(shop, body, signature(body)) == (400, "BAD_REQUEST")
    assert shop.ledger() == []


@pytest.mark.parametrize("depth", [400, 600, 900, 950, 980, 1000, 40_000])
def test_nesting_without_end_is_no_500(shop, depth):
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    body = sale().replace(b'"custom_fields": []', b'"custom_fields": ' + nested)
    assert posted(shop, body, signature(body))[0] in (200, 400)


def test_a_form_in_name_is_read_as_the_bytes_it_is(shop):
    body, headers = signed(event(COMPLETED, wave()), WHSEC)
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    assert shop.post_signed(body, headers).json["outcome"] == "issued"


def test_without_a_webhook_secret_the_platform_is_off(tmp_path, clock):
    shop = StripeShop(tmp_path / "d", clock, stripe_webhook_secret=())
    body = sale()
    for secret in ("", " ", WHSEC):
        assert posted(shop, body, signature(body, secret)) == (404, "PLATFORM_NOT_CONFIGURED")
    assert shop.ledger() == []


def test_the_older_door_asks_for_the_same_signature(shop):
    answered = shop.deliver(event(COMPLETED, wave()), door="/webhooks/stripe")
    assert (answered.status_code, answered.json["outcome"]) == (200, "issued")
    again = shop.deliver(event(COMPLETED, wave()))
    assert again.json == answered.json
    forged = shop.deliver(event(COMPLETED, wave("cs_live_2")), "whsec_other", "/webhooks/stripe")
    assert (forged.status_code, forged.json["errors"][0]["code"]) == REFUSED


def test_with_the_verification_taken_out_forged_events_would_pass(shop, monkeypatch):
    body = sale()
    assert posted(shop, body, None) == REFUSED
    monkeypatch.setattr(Stripe, "verify", lambda platform, request: None)
    assert posted(shop, body, None) == (200, None)
    assert len(shop.licenses()) == 1


# ---------------------------------------------------------------------------------------------------- what they say
@BOTH_SHAPES
@pytest.mark.parametrize(
    ("type", "make", "kind", "event_id"),
    [
        (COMPLETED, team, "sale", "cs_live_1:sale"),
        ("checkout.session.async_payment_succeeded", team, "sale", "cs_live_1:sale"),
        ("invoice.paid", first_invoice, "renewal", "in_1:paid"),
        ("invoice.payment_succeeded", first_invoice, "renewal", "in_1:paid"),
        ("invoice.payment_failed", first_invoice, "payment_failed", "in_1:failed:1"),
        ("invoice_payment.paid", lambda old: payment_of(1), "ignored", "inpay_1:paid"),
        ("customer.subscription.deleted", subscription, "subscription_ended", "sub_1:deleted"),
        ("charge.refunded", lambda old: charge(amount_refunded=4900), "refund", "ch_1:refunded:4900:1794000000"),
        ("charge.refunded", lambda old: charge(amount_refunded=1), "partial_refund", "ch_1:refunded:1:1794000000"),
        ("refund.created", lambda old: refund(), "ignored", "re_1:succeeded"),
        ("refund.failed", lambda old: refund(status="failed"), "refund_failed", "re_1:failed"),
        ("charge.dispute.created", lambda old: dispute(), "dispute", "du_1:dispute"),
        ("charge.dispute.closed", lambda old: dispute(status="won"), "dispute_won", "du_1:dispute_won"),
        ("charge.dispute.closed", lambda old: dispute(status="warning_closed"), "dispute_won", "du_1:dispute_won"),
        ("charge.dispute.closed", lambda old: dispute(status="lost"), "dispute_lost", "du_1:dispute_lost"),
    ],
)  # fmt: skip
def test_an_event_in_our_words(old, type, make, kind, event_id):
    found = said(type, make(old=old), old=old, id="evt_of_any_name")
    assert (found.event, found.event_id, found.source, found.is_test) == (kind, event_id, "stripe", False)


@pytest.mark.parametrize(
    ("status", "standing"),
    [
        ("trialing", Standing.OK),
        ("active", Standing.OK),
        ("past_due", Standing.GRACE),
        ("unpaid", Standing.PAYMENT_FAILED),
        ("paused", Standing.SUSPENDED),
        ("incomplete", Standing.SUSPENDED),
        ("of next year", None),
    ],
)
def test_how_a_subscription_stands(status, standing):
    assert said(UPDATED, subscription(status=status), {"items": {}}).standing is standing


@BOTH_SHAPES
def test_an_invoice_is_paid_through_its_lines_period_and_not_its_own(old):
    found = said("invoice.paid", first_invoice(old), old=old)
    assert (str(found.paid_until), found.subscription_id) == ("2026-12-06 21:20:30+00:00", "sub_1")
    assert found.items[0].ids == ("price_1", "prod_team")


def test_only_before_basil_an_invoice_names_its_payment():
    assert said("invoice.paid", first_invoice(), id="evt_1").links == ("sub_1:first",)
    assert said("invoice.paid", first_invoice(old=True), old=True).links == ("pi_1", "ch_1", "sub_1:first")
    expanded = first_invoice() | {"payments": {"object": "list", "data": [invoice_payment(payment_intent="pi_1")]}}
    assert said("invoice.paid", expanded).links == ("pi_1", "sub_1:first")


def in_full(about: Json) -> Json:
    """The same object with other objects where it had their ids."""
    names = ("customer", "payment_intent", "subscription", "invoice", "payment_link", "charge", "product", "price")
    found = copy.deepcopy(about)
    for inner in nested(found):
        for name in names:
            if isinstance(inner.get(name), str):
                inner[name] = {"id": inner[name], "object": name, "metadata": {}, "livemode": True}
    return found


def nested(value: Any) -> Iterator[Json]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from nested(inner)


@BOTH_SHAPES
@pytest.mark.parametrize(
    ("type", "make"),
    [
        (COMPLETED, team),
        ("invoice.paid", first_invoice),
        ("invoice_payment.paid", lambda old: payment_of(1)),
        (UPDATED, subscription),
        ("charge.refunded", lambda old: charge(amount_refunded=4900, customer="cus_1", invoice="in_1", old=old)),
        ("refund.failed", lambda old: refund(status="failed")),
        ("charge.dispute.created", lambda old: dispute()),
    ],
)
def test_other_objects_may_stand_there_in_full(old, type, make):
    brief, full = make(old=old), in_full(make(old=old))
    assert brief != full
    found = said(type, full, {"items": {}}, old=old)
    assert msgspec.structs.replace(found, raw=msgspec.Raw(b"{}")) == msgspec.structs.replace(
        said(type, brief, {"items": {}}, old=old), raw=msgspec.Raw(b"{}")
    )


@pytest.mark.parametrize(
    ("type", "about"),
    [
        (COMPLETED, team(url="https://checkout.stripe.com/c/pay/1", client_secret="https://secret")),
        ("invoice.paid", first_invoice()),
        ("charge.refunded", charge(amount_refunded=1)),
    ],
)
def test_no_link_that_opens_without_a_sign_in_is_kept(type, about):
    raw = bytes(said(type, about).raw).decode()
    assert "https://" not in raw.replace("https://stripe.com", "")
    assert json.loads(raw)["data"]["object"]["id"] == about["id"]


@pytest.mark.parametrize("ends", [WHEN + 1, None])
def test_an_update_may_tell_several_things(ends):
    now = {"status": "past_due", "cancel_at": ends, "quantity": 3}
    found = parsed(event(UPDATED, subscription(**now), {"status": "active", "cancel_at": 1, "items": {}}))
    cancelled = EventKind.CANCELLATION if ends else EventKind.UNCANCELLATION
    assert [one.event for one in found] == [EventKind.PAYMENT_FAILED, cancelled, EventKind.SUBSCRIPTION_UPDATED]


def test_an_event_without_a_mode_is_a_test():
    told = event(COMPLETED, wave())
    del told["livemode"]
    (found,) = parsed(told)
    assert found.is_test


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", None),
        ("id", 3),
        ("id", "x" * 600),
        ("amount_total", -1),
        ("amount_total", 10**13),
        ("amount_total", 49.5),
        ("amount_total", "4900"),
        ("amount_total", True),
        ("created", 10**11),
        ("created", "2026-11-06T21:20:00Z"),
        ("customer_details", []),
        ("metadata", "wave"),
        ("payment_intent", ["pi_1"]),
        ("subscription", {"id": 3}),
        ("customer_email", {}),
        ("payment_status", 3),
    ],
)
def test_a_malformed_field_is_named(shop, field, value):
    about = wave(customer_details=None) | {field: value}
    answered = shop.deliver(event(COMPLETED, about, created=WHEN))
    assert (answered.status_code, answered.json["errors"][0]["code"]) == (400, "BAD_REQUEST")
    assert field in answered.json["errors"][0]["detail"]
    assert shop.ledger() == []


def test_a_malformed_field_deep_inside_is_named_with_its_whole_path():
    about = first_invoice()
    about["lines"]["data"][0]["period"]["end"] = "soon"
    with pytest.raises(BadRequest) as caught:
        said("invoice.paid", about)
    assert caught.value.detail == "data.object.lines[0].period.end: is no whole number"


def test_names_in_any_script_are_kept(shop):
    shop.sells(wave(customer_details={"email": "li@example.com", "name": "Zoë 李 😀"}))
    assert shop.record["customer_name"] == "Zoë 李 😀"


# ---------------------------------------------------------------------------------------------------- anything at all
POOL = [
    event(type, make(old=old), previous, old=old)
    for old in (False, True)
    for type, make, previous in [
        (COMPLETED, wave, None),
        (COMPLETED, team, None),
        ("checkout.session.async_payment_failed", team, None),
        ("checkout.session.expired", wave, None),
        ("invoice.paid", first_invoice, None),
        ("invoice.payment_failed", lambda old: later_invoice(2, old, status="open", next_payment_attempt=WHEN), None),
        ("invoice_payment.paid", lambda old: payment_of(2), None),
        (UPDATED, lambda old: subscription(old, status="unpaid", quantity=3), {"status": "active", "items": {}}),
        (UPDATED, lambda old: subscription(old, cancel_at=WHEN, canceled_at=WHEN), {"cancel_at": None}),
        (UPDATED, lambda old: subscription(old, cancel_at_period_end=True), {"cancel_at_period_end": False}),
        (UPDATED, subscription, {"cancel_at": WHEN, "quantity": 3}),
        ("customer.subscription.deleted", lambda old: subscription(old, status="canceled", ended_at=WHEN), None),
        ("customer.subscription.paused", lambda old: subscription(old, status="paused"), None),
        ("customer.subscription.resumed", subscription, None),
        ("charge.refunded", lambda old: charge(amount_refunded=100, old=old), {"amount_refunded": 0}),
        ("charge.refunded", lambda old: charge(amount_refunded=4900, invoice="in_1", old=old), None),
        ("refund.created", lambda old: refund(), None),
        ("refund.failed", lambda old: refund(status="failed"), None),
        ("charge.dispute.created", lambda old: dispute(), None),
        ("charge.dispute.closed", lambda old: dispute(status="prevented"), None),
        ("charge.dispute.closed", lambda old: dispute(status="lost"), None),
    ]
]
NUMBERS = st.integers() | st.sampled_from([-1, 0, 2**31, 2**53, 2**63, 2**64, 10**12, 10**18, 10**400, -(10**400)])
WORDS = st.text(max_size=20) | st.sampled_from(["", "\0", "usd", "JPY", "x" * 5000, "prod_team", "paid", "unpaid"])
PLAIN = st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | WORDS
ANYTHING = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=5
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with every key or index of it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real-shaped event in which a few values are others, or are missing."""
    told = copy.deepcopy(draw(st.sampled_from(POOL)))
    for _ in range(draw(st.integers(1, 4))):
        container, key = draw(st.sampled_from(list(places(told))))
        change = draw(st.sampled_from(["other", "missing", "in a list", "in an object"]))
        if change == "missing":
            del container[key]
        elif change == "other":
            container[key] = draw(ANYTHING)
        else:
            container[key] = [container[key]] if change == "in a list" else {"id": container[key]}
    return json.dumps(told).encode()


def test_the_pool_holds_events_of_every_kind_that_is_read():
    named = {told["type"] for told in POOL}
    alike = {"charge.refund.updated": "refund.created", "refund.updated": "refund.created"}
    alike |= {
        f"charge.dispute.{word}": "charge.dispute.created"
        for word in ("updated", "funds_withdrawn", "funds_reinstated")
    }
    alike |= {"checkout.session.async_payment_succeeded": COMPLETED, "invoice.payment_succeeded": "invoice.paid"}
    assert {alike.get(type, type) for type in READERS} == named


NASTY = [None, True, 0, -1, 10**400, 1.5, "", "x" * 600, "\0", [], {}, [None], {"id": 3}, {"data": 3}]


@pytest.mark.parametrize("told", POOL, ids=lambda told: f"{told['type']}-{told['api_version']}")
def test_no_single_value_makes_an_event_unreadable_without_a_name(told):
    """Every value of every event, by each that it cannot be."""
    told = copy.deepcopy(told)
    for container, key in list(places(told)):
        kept = container[key]
        for value in NASTY:
            container[key] = value
            with contextlib.suppress(BadRequest):
                assert parsed(told)
        container[key] = kept


def test_a_name_of_long_words_is_bounded_and_still_tells_events_apart():
    told = copy.deepcopy(next(one for one in POOL if one["type"] == "customer.subscription.updated"))
    names = set()
    for word in ("x" * 5000, "x" * 5000 + "y"):
        told["data"]["object"]["status"] = word
        names |= {event.event_id for event in parsed(told)}
    assert len(names) == 2
    assert all(len(name) < 2000 for name in names)


@settings(max_examples=300, deadline=None)
@given(body=mutated())
def test_whatever_an_event_holds_it_is_read_or_refused_by_name(body):
    try:
        found = parsed(body)
    except BadRequest:
        return
    assert found
    assert all(len(one.event_id) < 2000 for one in found)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=mutated())
def test_whatever_an_event_holds_it_is_no_500_and_never_half_done(shop, body):
    ledger = shop.folder / "purchases.jsonl"
    before = ledger.stat().st_size if ledger.exists() else 0
    status, code = posted(shop, body, signature(body))
    assert (status, code) in ((200, None), (400, "BAD_REQUEST"))
    assert status == 200 or (ledger.stat().st_size if ledger.exists() else 0) == before


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_signed_it_is_no_500(shop, body):
    assert posted(shop, body, signature(body))[0] in (200, 400)


# ---------------------------------------------------------------------------------------------------- the API's answers
class Odd(StandIn):
    """An API that answers anything at all."""

    told = Answer(200)

    def answer(self, asked: Asked) -> Answer:
        return self.told

    def fault(self, status: int) -> Answer:
        return Answer(status)


@pytest.fixture
def odd(monkeypatch):
    monkeypatch.setattr("stripe.HTTPClient.INITIAL_DELAY", 0.01)
    with Odd() as odd:
        yield odd


KEY = "sk_live_of_the_tests"
ASKED = [
    msgspec.structs.replace(said(COMPLETED, wave()), inquiry=Inquiry.LINE_ITEMS),
    msgspec.structs.replace(said("charge.refunded", charge(amount_refunded=4900)), inquiry=Inquiry.PAYMENT),
    msgspec.structs.replace(said("charge.dispute.closed", dispute(status="prevented")), inquiry=Inquiry.CHARGE),
]


def refusal(api: StandIn, question: PurchaseEvent) -> PlatformUnreachable:
    with pytest.raises(PlatformUnreachable) as caught:
        OurApi(KEY, api.url).answer(question)
    assert KEY not in caught.value.detail
    return caught.value


@pytest.mark.parametrize("question", ASKED, ids=lambda one: str(one.inquiry))
@pytest.mark.parametrize("status", [200, 404, 500])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"3", b'"x"', b"\xff", b'{"error": 3}', b"[" * 5000])
def test_an_answer_that_is_no_json_of_stripes_settles_nothing(odd, question, status, body):
    odd.told = Answer(status, body)
    if status == 200 and body.startswith(b"{"):
        settled = OurApi(KEY, odd.url).answer(question)
        assert (settled.event, settled.inquiry) == (question.event, None)
    else:
        assert not refusal(odd, question).is_refused


@pytest.mark.parametrize("question", ASKED, ids=lambda one: str(one.inquiry))
def test_what_keeps_stripe_from_answering_is_told_apart(odd, question):
    error = {"error": {"message": f"about {KEY}", "type": "invalid_request_error"}}
    for status in (401, 403):
        odd.told = Answer(status, error)
        assert refusal(odd, question).is_refused
    odd.told = Answer(429, error, {"Retry-After": "7"})
    slower = refusal(odd, question)
    assert isinstance(slower, RateLimited)
    assert slower.wait == 7.0
    for status in (400, 402, 409, 500, 503):
        odd.told = Answer(status, error)
        assert not refusal(odd, question).is_refused
    odd.told = Answer(302, b"", {"Location": "http://127.0.0.1:1/"})
    assert not refusal(odd, question).is_refused
    odd.down()
    assert not refusal(odd, question).is_refused


@pytest.mark.parametrize(
    "items",
    [
        [bought(quantity=10**13)],
        [bought() | {"quantity": "3"}],
        [bought() | {"price": [3]}],
        [{"price": {"id": "price_1", "recurring": {"interval": "month", "interval_count": 10**9}}}],
        [3],
    ],
)
def test_line_items_that_cannot_be_read_settle_nothing(tmp_path, clock, odd, items):
    shop = StripeShop(tmp_path / "d", clock, stripe_secret_key=KEY, stripe_api_base=odd.url)
    odd.told = Answer(200, {"object": "list", "data": items, "has_more": False})
    told = shop.tell(COMPLETED, wave())
    assert (told["outcome"], shop.ledger()[0]["inquiry"]) == ("issued", "line_items")
