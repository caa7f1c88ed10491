"""A Stripe shop seen from outside: what each signed event does to a license."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import pytest

from server.services.backlog import Backlog
from server.services.fulfilment import Fulfilment
from tests.standins.http import Json
from tests.standins.stripe_api import StripeApi, charge, dispute, event, invoice_line, refund
from tests.standins.stripe_objects import MONTH, WHEN
from tests.stripe_shop import (
    CATALOGUE,
    DAY,
    StripeShop,
    bought,
    first_invoice,
    later_invoice,
    lines,
    payment_of,
    subscription,
    team,
    wave,
)

OWNER, ANN = "owner@shop.example", "ann@example.com"
COMPLETED, SUCCEEDED = "checkout.session.completed", "checkout.session.async_payment_succeeded"
FIRST_END, SECOND_END, THIRD_END = "2026-12-06T21:20:30Z", "2027-01-05T21:20:30Z", "2027-02-04T21:20:30Z"
BOTH_SHAPES = pytest.mark.parametrize("old", [False, True], ids=["basil", "before basil"])


@pytest.fixture
def api(monkeypatch):
    """Stripe's API; between two tries its library waits no longer than it must."""
    monkeypatch.setattr("stripe.HTTPClient.INITIAL_DELAY", 0.01)
    with StripeApi() as api:
        yield api


@pytest.fixture
def shop(tmp_path, clock) -> StripeShop:
    """Without a key to the API."""
    return StripeShop(tmp_path / "data", clock)


@pytest.fixture
def asking(tmp_path, clock, api) -> StripeShop:
    return StripeShop(tmp_path / "asking", clock, api)


# ---------------------------------------------------------------------------------------------------- checkouts
def test_a_paid_checkout_becomes_a_license_that_validates(shop):
    told = shop.tell(COMPLETED, wave())
    (key,) = told["license_keys"]
    assert told == {"received": True, "outcome": "issued", "license_keys": [key]}
    assert shop.code(key) == "VALID"
    assert shop.record == {
        "email": "ann@example.com",
        "customer_name": "Jane Doe",
        "created_date": "2026-11-06T21:20:00Z",
        "expiry_date": None,
        "is_active": True,
        "hardware_id": None,
        "device_name": None,
        "last_validation": "2026-11-20T12:00:00Z",
        "validation_count": 1,
        "purchase_source": "stripe",
        "purchase_id": "cs_live_1",
        "product_id": "wave",
    }
    assert shop.letters() == [("delivery", ANN)]


def test_the_ledger_line_says_what_was_sold(shop):
    shop.tell(COMPLETED, wave(customer="cus_1", client_secret="cs_secret", url="https://checkout.stripe.com/c/pay/1"))
    (line,) = shop.ledger()
    told = {"event": "sale", "event_id": "cs_live_1:sale", "outcome": "issued", "sale_id": "cs_live_1"}
    told |= {"customer_id": "cus_1", "country": "US", "price": "49.00", "currency": "usd", "links": ["pi_1"]}
    told |= {"subscription_id": None, "source_product_id": "plink_wave", "purchase_date": "2026-11-06T21:20:00Z"}
    assert {name: line[name] for name in told} == told
    assert line["raw"]["data"]["object"]["payment_intent"] == "pi_1"
    assert "cs_secret" not in str(line)
    assert "checkout.stripe.com" not in str(line)


@pytest.mark.parametrize("customer", [None, "cus_1"])
def test_the_buyer_of_a_payment_link_may_be_a_guest(shop, customer):
    shop.sells(wave(customer=customer, client_reference_id="ref-7"))
    assert shop.ledger()[0]["customer_id"] == (customer or "ref-7")


def test_the_same_checkout_told_under_another_event_id_is_one_sale(shop):
    first = shop.tell(COMPLETED, wave(), id="evt_1")
    assert shop.tell(COMPLETED, wave(), id="evt_2") == first
    assert len(shop.ledger()) == 1
    assert shop.letters() == [("delivery", ANN)]


@pytest.mark.parametrize(("interval", "end"), [("month", "2026-12-06"), ("year", "2027-11-06")])
def test_a_subscriptions_checkout_is_paid_for_its_prices_interval(asking, api, interval, end):
    api.add(team())
    lines(api, "cs_live_1", bought("prod_team", interval=interval))
    asking.sells(team())
    assert (asking.record["product_id"], asking.record["expiry_date"]) == ("team", f"{end}T21:20:00Z")


def test_without_its_invoice_a_checkout_is_paid_for_as_long_as_the_product_says(shop):
    shop.sells(team())
    assert shop.record["expiry_date"] == "2026-12-06T21:20:00Z"


def test_a_free_order_is_a_sale(shop):
    shop.sells(wave(amount=0, payment_status="no_payment_required"))
    assert shop.ledger()[0]["price"] == "0.00"
    assert shop.record["is_active"]


def test_a_card_that_is_saved_is_no_sale(shop):
    told = shop.tell(COMPLETED, wave(mode="setup", payment_status="no_payment_required"))
    assert (told["outcome"], told["license_keys"], shop.licenses()) == ("ignored", [], {})


def test_money_that_is_on_its_way_makes_the_order_wait(shop):
    told = shop.tell(COMPLETED, wave(payment_status="unpaid"))
    assert (told["outcome"], told["license_keys"], shop.licenses()) == ("pending", [], {})
    told = shop.tell("checkout.session.async_payment_succeeded", wave(), created=WHEN + 3 * DAY)
    assert told["outcome"] == "issued"
    assert [(line["event"], line["event_id"]) for line in shop.ledger()] == [
        ("pending", "cs_live_1:sale"),
        ("sale", "cs_live_1:sale"),
    ]
    assert shop.revenue() == {"usd": "49.00"}
    assert shop.letters() == [("delivery", ANN)]


def test_the_license_is_the_same_whether_the_money_was_late_or_not(tmp_path, clock):
    late, prompt = StripeShop(tmp_path / "late", clock), StripeShop(tmp_path / "prompt", clock)
    late.tell(COMPLETED, wave(payment_status="unpaid"))
    late.tell("checkout.session.async_payment_succeeded", wave())
    prompt.tell(COMPLETED, wave())
    assert late.licenses() == prompt.licenses()


@pytest.mark.parametrize("type", ["checkout.session.async_payment_failed", "checkout.session.expired"])
def test_money_that_never_comes_leaves_nothing_that_waits(shop, type):
    shop.tell(COMPLETED, wave(payment_status="unpaid"))
    assert shop.services.audit.get_purchase_stats()["held"] == 1
    told = shop.tell(type, wave(payment_status="unpaid"))
    assert (told["outcome"], shop.licenses()) == ("ignored", {})
    assert shop.services.audit.get_purchase_stats()["held"] == 0
    assert shop.letters() == []


def test_a_checkout_that_nobody_finished_is_ignored(shop):
    left = wave(payment_status="unpaid", status="expired", customer_details=None)
    assert shop.tell("checkout.session.expired", left)["outcome"] == "ignored"
    assert shop.licenses() == {}


@pytest.mark.parametrize(
    "type",
    [COMPLETED, "checkout.session.async_payment_failed", "checkout.session.expired"],
    ids=["unpaid", "failed", "expired"],
)
def test_what_is_paid_stays_so_whatever_comes_late(shop, type):
    first = shop.tell("checkout.session.async_payment_succeeded", wave())
    late = shop.tell(type, wave(payment_status="unpaid"))
    assert late == first
    assert len(shop.ledger()) == 1
    assert shop.code(first["license_keys"][0]) == "VALID"


def test_money_that_came_after_all_is_a_sale(shop):
    shop.tell("checkout.session.async_payment_failed", wave(payment_status="unpaid"))
    assert shop.tell("checkout.session.async_payment_succeeded", wave())["outcome"] == "issued"


# ---------------------------------------------------------------------------------------------------- what was sold
@pytest.mark.parametrize(
    ("metadata", "product"),
    [
        ({"product_id": "wave"}, "wave"),
        ({"product": "wave-app"}, "wave"),
        ({"keyledger_product": "team"}, "team"),
        ({"product_id": "prod_team"}, "team"),
        ({"price_id": "price_solo"}, "solo"),
        ({"price": "price_solo"}, "solo"),
        ({"product_id": "unheard of", "price": "price_solo"}, "solo"),
    ],
)
def test_the_metadata_may_name_the_product(shop, metadata, product):
    shop.sells(wave(payment_link=None, metadata=metadata))
    assert shop.record["product_id"] == product


def test_our_own_id_in_the_metadata_goes_before_the_payment_link(shop):
    shop.sells(wave(metadata={"product_id": "team"}))
    assert shop.record["product_id"] == "team"


def test_metadata_that_cannot_be_a_name_is_passed_over(shop):
    shop.sells(wave(metadata={"product_id": "x" * 500, "product": "", "price": "a\nb", "note": "thanks"}))
    assert shop.record["product_id"] == "wave"


@pytest.mark.parametrize(
    ("item", "product"),
    [(bought("prod_wave"), "wave"), (bought("prod_unheard_of", price_id="price_solo"), "solo")],
    ids=["product", "price"],
)
def test_what_the_event_does_not_name_the_line_items_do(asking, api, item, product):
    api.add(wave(payment_link=None))
    lines(api, "cs_live_1", item)
    asking.sells(wave(payment_link=None))
    assert asking.record["product_id"] == product
    assert api.asked == ["/v1/checkout/sessions/cs_live_1/line_items?limit=100"]


def test_a_price_that_is_mapped_goes_before_its_product(asking, api):
    api.add(wave(payment_link=None))
    lines(api, "cs_live_1", bought("prod_wave", price_id="price_solo"))
    asking.sells(wave(payment_link=None))
    assert asking.record["product_id"] == "solo"


def test_a_payment_link_that_nobody_mapped_leaves_it_to_the_line_items(asking, api):
    api.add(wave(payment_link="plink_unheard_of"))
    lines(api, "cs_live_1", bought("prod_wave"))
    asking.sells(wave(payment_link="plink_unheard_of"))
    assert asking.record["product_id"] == "wave"


def test_the_quantity_is_the_number_of_seats(asking, api):
    api.add(wave(payment_link="plink_team"))
    lines(api, "cs_live_1", bought("prod_team", 3))
    asking.sells(wave(payment_link="plink_team"))
    assert asking.record["max_devices"] == 6  # three times the product's two
    assert (asking.ledger()[0]["quantity"], asking.ledger()[0]["product_name"]) == (3, "Wave")


def test_a_cart_is_one_license_for_each_product(asking, api):
    cart = wave(payment_link=None)
    api.add(cart)
    lines(api, "cs_live_1", bought("prod_wave", 2), bought("prod_team", 3))
    told = asking.tell(COMPLETED, cart)
    assert len(told["license_keys"]) == 2
    found = {record["product_id"]: record.get("max_devices", 1) for record in asking.licenses().values()}
    assert found == {"wave": 2, "team": 6}


def test_two_prices_of_one_product_are_one_license_with_all_their_seats(asking, api):
    cart = wave(payment_link=None)
    api.add(cart)
    lines(api, "cs_live_1", bought("prod_team", 1), bought("prod_team", 2, price_id="price_discounted"))
    asking.sells(cart)
    assert asking.record["max_devices"] == 6


def test_a_refund_of_a_cart_takes_all_of_it(asking, api):
    cart = wave(payment_link=None)
    api.add(cart)
    lines(api, "cs_live_1", bought("prod_wave"), bought("prod_team"))
    keys = asking.tell(COMPLETED, cart)["license_keys"]
    asking.tell("charge.refunded", charge(amount_refunded=4900))
    assert [asking.code(key) for key in keys] == ["SUSPENDED", "SUSPENDED"]


def test_what_is_mapped_in_a_cart_is_issued(asking, api):
    cart = wave(payment_link=None)
    api.add(cart)
    lines(api, "cs_live_1", bought("prod_t_shirt"), bought("prod_wave"))
    asking.sells(cart)
    assert asking.record["product_id"] == "wave"


def test_a_bundle_is_one_license_for_each_child(asking, api):
    api.add(wave(payment_link=None))
    lines(api, "cs_live_1", bought("prod_studio"))
    assert len(asking.tell(COMPLETED, wave(payment_link=None))["license_keys"]) == 2
    assert {record["product_id"] for record in asking.licenses().values()} == {"wave", "team"}


def test_an_unmapped_product_is_kept_for_the_owner_and_issued_later(asking, api):
    api.add(wave(payment_link=None))
    lines(api, "cs_live_1", bought("prod_new"))
    told = asking.tell(COMPLETED, wave(payment_link=None))
    assert (told["outcome"], told["license_keys"], asking.licenses()) == ("unmapped", [], {})
    assert asking.ledger()[0]["source_product_id"] == "prod_new"
    assert asking.letters() == [("alert_unmapped", OWNER)]


def test_without_an_address_the_license_is_issued_and_the_owner_is_told(shop):
    key = shop.sells(wave(customer_details={"email": None, "name": None, "address": None}))
    assert (shop.code(key), shop.record["email"]) == ("VALID", "")
    assert shop.letters() == [("alert_unmapped", OWNER)]


def test_a_company_has_a_name_too(shop):
    shop.sells(wave(customer_details={"email": "bob@example.com", "name": None, "business_name": "Bob & Sons"}))
    assert shop.record["customer_name"] == "Bob & Sons"


def test_an_address_that_was_only_prefilled_is_better_than_none(shop):
    shop.sells(wave(customer_details=None, customer_email="bob@example.com"))
    assert shop.record["email"] == "bob@example.com"


@pytest.mark.parametrize(
    ("currency", "amount", "price"),
    [("usd", 4900, "49.00"), ("jpy", 4900, "4900"), ("kwd", 12340, "12.340"), ("huf", 99, "0.99"), ("clp", 0, "0")],
)
def test_an_amount_is_told_in_the_decimals_of_its_currency(shop, currency, amount, price):
    shop.sells(wave(amount=amount, currency=currency))
    assert (shop.ledger()[0]["price"], shop.ledger()[0]["currency"]) == (price, currency)
    assert shop.revenue() == {currency: price}


def test_what_the_buyer_saw_in_his_own_currency_is_no_revenue(shop):
    shop.sells(wave(presentment_details={"presentment_amount": 4521, "presentment_currency": "eur"}))
    assert shop.revenue() == {"usd": "49.00"}


def test_a_sale_in_test_mode_is_marked_ends_after_a_week_and_is_no_revenue(shop, clock):
    key = shop.sells(wave("cs_test_1", livemode=False), livemode=False)
    assert (shop.record["is_test"], shop.record["expiry_date"]) == (True, "2026-11-27T12:00:00Z")
    assert shop.revenue() == {}
    clock.forward(days=11)
    assert shop.code(key) == "EXPIRED"


def test_an_event_of_test_mode_never_touches_a_real_license(shop):
    key = shop.sells()
    shop.tell("charge.refunded", charge(amount_refunded=4900, livemode=False), livemode=False)
    assert shop.code(key) == "VALID"


# ---------------------------------------------------------------------------------------------------- not for us
def thin() -> Json:
    related = {"id": "sub_1", "type": "subscription", "url": "/v1/subscriptions/sub_1"}
    more = {"created": "2026-11-06T21:20:00.000Z", "related_object": related, "livemode": True}
    return {"id": "evt_1", "object": "v2.core.event", "type": "v1.customer.subscription.updated"} | more


@pytest.mark.parametrize(
    "told",
    [
        thin(),
        event(COMPLETED, wave(), account="acct_another_merchant"),
        event("payment_intent.succeeded", {"id": "pi_1", "object": "payment_intent", "amount": 4900}),
        event("charge.succeeded", charge()),
        event("invoice.created", first_invoice()),
        event("customer.subscription.created", subscription()),
        event("moon.landed", {"id": "moon_1", "object": "moon"}),
    ],
    ids=lambda told: told["type"] + (" by Connect" if "account" in told else ""),
)
def test_what_concerns_nobody_here_is_recorded_and_answered(shop, told):
    answered = shop.deliver(told)
    assert (answered.status_code, answered.json["outcome"]) == (200, "ignored")
    (line,) = shop.ledger()
    assert (line["event"], line["event_id"]) == ("ignored", "evt_1")
    assert told["type"] in line["note"]
    assert (shop.licenses(), shop.letters()) == ({}, [])


# ---------------------------------------------------------------------------------------------------- the API is asked
@pytest.mark.parametrize("refuse", [True, False], ids=["refused", "dropped"])
def test_while_the_api_is_down_a_known_product_is_issued_and_its_seats_are_corrected_later(asking, api, clock, refuse):
    api.add(wave(payment_link="plink_team"))
    lines(api, "cs_live_1", bought("prod_team", 3))
    api.down(refuse)
    key = asking.sells(wave(payment_link="plink_team"))
    assert asking.record["max_devices"] == 2
    assert asking.letters() == [("delivery", ANN)]
    api.up()
    clock.forward(minutes=2)
    asking.services.outbox.send_due()
    assert (asking.code(key), asking.record["max_devices"]) == ("VALID", 6)
    assert asking.letters() == [("delivery", ANN)]
    assert asking.revenue() == {"usd": "49.00"}


def test_while_the_api_is_down_an_unknown_product_waits_and_is_issued_with_its_letter(asking, api, clock):
    api.add(wave(payment_link=None))
    lines(api, "cs_live_1", bought("prod_wave"))
    api.down()
    told = asking.tell(COMPLETED, wave(payment_link=None))
    assert (told["outcome"], asking.licenses(), asking.letters()) == ("pending", {}, [])
    clock.forward(minutes=2)
    asking.services.outbox.send_due()  # still down
    assert asking.licenses() == {}
    api.up()
    clock.forward(hours=1)
    asking.services.outbox.send_due()
    assert asking.record["product_id"] == "wave"
    assert asking.letters() == [("delivery", ANN)]


def test_an_api_that_hangs_delays_no_webhook(asking, api, monkeypatch):
    monkeypatch.setattr("server.platforms.stripe_api.QUICK", (0.2, 0.2))
    api.hang = math.inf
    began = time.perf_counter()
    asking.sells()
    assert time.perf_counter() - began < 2
    assert asking.tell(COMPLETED, wave("cs_live_2", "pi_2"))["outcome"] == "issued"
    assert not [path for path in api.asked if "cs_live_2" in path]  # it is left alone for a while


@pytest.mark.parametrize("status", [500, 429, 409])
def test_an_api_in_trouble_is_asked_again(asking, api, clock, status):
    api.add(wave(payment_link=None))
    lines(api, "cs_live_1", bought("prod_wave"))
    api.fail_next(status, times=2)
    assert asking.tell(COMPLETED, wave(payment_link=None))["outcome"] == "pending"
    for _ in range(2):
        clock.forward(hours=1)
        asking.services.outbox.send_due()
    assert asking.record["product_id"] == "wave"


@pytest.mark.files
def test_an_api_that_refuses_the_key_is_told_to_the_owner_once(tmp_path, clock, api):
    shop = StripeShop(tmp_path / "d", clock, api, stripe_secret_key="sk_live_revoked")
    shop.sells()
    for _ in range(5):
        clock.forward(minutes=30)
        shop.services.outbox.send_due()
    assert shop.letters().count(("alert_platform", OWNER)) == 1
    alert = next(letter for letter in shop.services.outbox.list() if letter.kind == "alert_platform")
    assert "STRIPE_SECRET_KEY" in (alert.text or "")
    assert "sk_live_revoked" not in (shop.folder / "outbox.jsonl").read_text()


def test_what_the_api_does_not_know_ends_the_asking(asking, api, clock):
    api.add(wave("cs_test_1", payment_link=None, livemode=False))  # of the other mode than our key
    told = asking.tell(COMPLETED, wave("cs_test_1", payment_link=None, livemode=False), livemode=False)
    assert told["outcome"] == "unmapped"
    clock.forward(hours=1)
    asking.services.outbox.send_due()
    assert len(api.asked) == 1


def test_a_repeat_asks_nothing(asking, api):
    api.add(wave())
    lines(api, "cs_live_1", bought("prod_wave"))
    for _ in range(3):
        asking.tell(COMPLETED, wave())
    assert len(api.asked) == 1


def test_a_repeat_asks_what_is_still_open(asking, api, clock):
    api.add(wave(payment_link=None))
    lines(api, "cs_live_1", bought("prod_wave"))
    api.down()
    assert asking.tell(COMPLETED, wave(payment_link=None))["outcome"] == "pending"
    api.up()
    clock.forward(minutes=1)
    assert asking.tell(COMPLETED, wave(payment_link=None))["outcome"] == "issued"


def test_what_is_not_proven_is_never_asked_about(asking, api):
    assert asking.deliver(event(COMPLETED, wave()), "whsec_other").status_code == 400
    assert api.asked == []


def test_without_a_key_to_the_api_nothing_waits_for_it(shop):
    told = shop.tell(COMPLETED, wave(payment_link=None))
    assert (told["outcome"], shop.letters()) == ("unmapped", [("alert_unmapped", OWNER)])


@pytest.mark.parametrize("type", [COMPLETED, "checkout.session.expired"], ids=["unpaid", "expired"])
def test_what_is_paid_stays_so_while_the_api_is_down(asking, api, type):
    api.down()
    asking.sells()
    asking.tell(type, wave(payment_status="unpaid"))
    assert [line["event"] for line in asking.ledger()] == ["sale"]


# ---------------------------------------------------------------------------------------------------- invoices
@BOTH_SHAPES
def test_a_renewal_extends_to_the_end_of_its_lines_period(shop, clock, old):
    key = shop.subscribes(old)
    assert shop.record["expiry_date"] == FIRST_END
    clock.forward(days=17)
    told = shop.tell("invoice.paid", later_invoice(2, old), old=old)
    assert told == {"received": True, "outcome": "extended", "license_keys": [key]}
    assert (shop.record["expiry_date"], shop.code(key)) == (SECOND_END, "VALID")
    assert shop.revenue() == {"usd": "50.00"}


@BOTH_SHAPES
def test_both_events_of_a_paid_invoice_are_one_renewal(shop, clock, old):
    shop.subscribes(old)
    clock.forward(days=17)
    first = shop.tell("invoice.paid", later_invoice(2, old), old=old)
    assert shop.tell("invoice.payment_succeeded", later_invoice(2, old), old=old) == first
    assert len(shop.ledger()) == 3
    assert shop.revenue() == {"usd": "50.00"}
    assert shop.letters().count(("renewal", ANN)) == 1


@BOTH_SHAPES
def test_a_late_invoice_never_shortens(shop, clock, old):
    shop.subscribes(old)
    clock.forward(days=48)
    shop.tell("invoice.paid", later_invoice(3, old), old=old)
    shop.tell("invoice.paid", later_invoice(2, old), old=old)
    assert shop.record["expiry_date"] == THIRD_END


@BOTH_SHAPES
@pytest.mark.parametrize("checkout_first", [True, False])
def test_the_first_invoice_and_its_checkout_are_one_charge(shop, old, checkout_first):
    told = [(COMPLETED, team(old=old)), ("invoice.paid", first_invoice(old))]
    keys = [shop.tell(*one, old=old)["license_keys"] for one in (told if checkout_first else told[::-1])]
    assert keys[0] == keys[1]
    assert (shop.record["expiry_date"], shop.record["purchase_id"]) == (FIRST_END, "cs_live_1")
    assert shop.revenue() == {"usd": "25.00"}
    assert shop.services.audit.get_purchase_stats()["total_purchases"] == 1


def test_a_first_invoice_before_its_checkout_owes_one_letter(shop):
    shop.tell("invoice.paid", first_invoice())
    shop.tell(COMPLETED, team())
    assert shop.letters() == [("delivery", ANN)]


def test_a_first_invoice_after_its_checkout_owes_no_second_letter(asking, api):
    api.add(team())
    lines(api, "cs_live_1", bought("prod_team", interval="month"))
    asking.subscribes()
    assert asking.letters() == [("delivery", ANN)]


def test_a_first_charge_counts_once_though_the_api_was_down(asking, api, clock):
    api.add(team())
    lines(api, "cs_live_1", bought("prod_team", interval="month"))
    api.down()
    asking.subscribes()
    api.up()
    clock.forward(minutes=2)
    asking.services.outbox.send_due()
    assert asking.revenue() == {"usd": "25.00"}


def test_an_invoice_may_overtake_a_checkout_that_alone_names_the_product(tmp_path, clock):
    by_link = {"products": {"team": {"name": "Team", "platform_ids": {"stripe": ["plink_team"]}}}}
    shop = StripeShop(tmp_path / "d", clock, catalogue=by_link)
    shop.tell("invoice.paid", first_invoice())
    shop.tell(COMPLETED, team())
    assert (shop.record["expiry_date"], shop.letters()) == (FIRST_END, [("delivery", ANN)])


@BOTH_SHAPES
@pytest.mark.parametrize("number", [1, 2])
def test_an_invoice_whose_checkout_was_never_seen_issues_the_license(shop, clock, old, number):
    clock.forward(days=17)
    told = shop.tell("invoice.paid", first_invoice(old) if number == 1 else later_invoice(2, old), old=old)
    assert (told["outcome"], shop.record["product_id"], shop.record["email"]) == ("issued", "team", ANN)
    assert (shop.ledger()[0]["product_name"], shop.ledger()[0]["customer_id"]) == ("1 x Team", "cus_1")
    assert shop.record["customer_name"] == "Jane Doe"
    assert shop.record["expiry_date"] == (FIRST_END if number == 1 else SECOND_END)
    assert shop.letters() == [("delivery", ANN)]


@BOTH_SHAPES
def test_a_later_invoice_may_come_before_everything_else(shop, clock, old):
    clock.forward(days=17)
    (key,) = shop.tell("invoice.paid", later_invoice(2, old), old=old)["license_keys"]
    assert shop.subscribes(old) == key
    assert (shop.record["expiry_date"], shop.record["purchase_id"]) == (SECOND_END, "cs_live_1")


@BOTH_SHAPES
def test_a_subscriptions_metadata_may_name_the_product(shop, old):
    shop.tell("invoice.paid", first_invoice(old, product="prod_new", metadata={"product_id": "team"}), old=old)
    assert shop.record["product_id"] == "team"


@BOTH_SHAPES
def test_the_invoices_quantity_is_the_number_of_seats(shop, old):
    shop.tell("invoice.paid", first_invoice(old, quantity=4, amount=10000), old=old)
    assert shop.record["max_devices"] == 8


def change_of_plan(old: bool, *more: Json) -> Json:
    """What is left of one seat is given back, and three are charged for the rest of the period."""
    rest = {"period": (WHEN + 10 * DAY, WHEN + 30 + MONTH), "proration": True, "old": old}
    settled = [("il_back", 1, -1600), ("il_rest", 3, 4800)]
    kind = {"type": "invoiceitem"} if old else {}
    parts = [invoice_line(id, product="prod_team", quantity=n, amount=sum_, **rest, **kind) for id, n, sum_ in settled]
    paid = {"lines": [*parts, *more], "amount": 3200, "created": WHEN + 10 * DAY}
    return later_invoice(7, old, billing_reason="subscription_update", **paid)


@BOTH_SHAPES
def test_an_invoice_of_a_change_of_plan_is_paid_through_the_period_that_runs(shop, old):
    key = shop.subscribes(old)
    told = shop.tell("invoice.paid", change_of_plan(old), old=old)
    assert told["license_keys"] == [key]
    assert (shop.record["expiry_date"], shop.record["max_devices"]) == (FIRST_END, 6)
    assert shop.revenue() == {"usd": "57.00"}


@BOTH_SHAPES
def test_a_renewal_that_also_settles_a_change_of_plan_is_the_whole_periods(shop, clock, old):
    shop.subscribes(old)
    clock.forward(days=17)
    period = (WHEN + 30 + MONTH, WHEN + 30 + 2 * MONTH)
    whole = invoice_line("il_whole", product="prod_team", quantity=2, amount=5000, period=period, old=old)
    shop.tell("invoice.paid", change_of_plan(old, whole), old=old)
    assert (shop.record["expiry_date"], shop.record["max_devices"]) == (SECOND_END, 4)


def fee(old: bool) -> Json:
    """A single item that is charged with a subscription."""
    at = {"period": (WHEN + 30, WHEN + 30 + 300 * DAY), "old": old}
    line = invoice_line("il_fee", product="prod_wave", price_id="price_fee", amount=9900, **at)
    if old:
        return line | {"type": "invoiceitem", "plan": None}
    details = {"invoice_item": "ii_1", "proration": False, "proration_details": None, "subscription": "sub_1"}
    parent = {"type": "invoice_item_details", "invoice_item_details": details, "subscription_item_details": None}
    return line | {"parent": parent}


@BOTH_SHAPES
def test_a_fee_beside_the_first_period_changes_nothing(shop, old):
    first = first_invoice(old)
    first["lines"]["data"].insert(0, fee(old))
    shop.tell("invoice.paid", first, old=old)
    assert (shop.record["product_id"], shop.record["expiry_date"]) == ("team", FIRST_END)


@BOTH_SHAPES
def test_an_invoice_of_nothing_but_fees_renews_nothing(shop, old):
    shop.subscribes(old)
    told = shop.tell("invoice.paid", later_invoice(7, old, billing_reason="manual", lines=[fee(old)]), old=old)
    assert (told["outcome"], shop.record["expiry_date"]) == ("ignored", FIRST_END)


@BOTH_SHAPES
def test_a_trial_is_a_license_until_it_ends(shop, clock, old):
    trial = {"amount": 0, "period": (WHEN + 30, WHEN + 30 + 16 * DAY)}
    key = shop.sells(team(amount=0, payment_status="no_payment_required", old=old))
    shop.tell("invoice.paid", first_invoice(old, **trial), old=old)
    assert (shop.record["expiry_date"], shop.code(key)) == ("2026-11-22T21:20:30Z", "VALID")
    assert shop.revenue() == {"usd": "0.00"}
    clock.forward(days=6)
    assert shop.code(key) == "EXPIRED"
    shop.tell("invoice.paid", later_invoice(2, old), old=old)
    assert shop.code(key) == "VALID"


def test_an_invoice_of_no_subscription_is_told_by_its_checkout(shop):
    shop.sells(wave(invoice="in_1"))
    told = shop.tell("invoice.paid", first_invoice(subscription=None))
    assert (told["outcome"], len(shop.licenses()), shop.revenue()) == ("ignored", 1, {"usd": "49.00"})


@BOTH_SHAPES
@pytest.mark.parametrize("next_attempt", [WHEN + 33 * DAY, None])
def test_a_failed_payment_is_grace(shop, clock, old, next_attempt):
    key = shop.subscribes(old)
    clock.forward(days=17)
    failed = later_invoice(2, old, status="open", next_payment_attempt=next_attempt)
    assert shop.tell("invoice.payment_failed", failed, old=old)["outcome"] == "recorded"
    assert (shop.code(key), shop.record["expiry_date"]) == ("VALID", FIRST_END)
    assert ("2026-12-09" in shop.ledger()[-1]["note"]) == (next_attempt is not None)
    assert ("payment_failed", ANN) not in shop.letters()


def test_several_failures_of_one_invoice_are_told_each(shop):
    shop.subscribes()
    for attempt in (1, 2, 2):
        shop.tell("invoice.payment_failed", later_invoice(status="open", attempt_count=attempt))
    assert [line["event_id"] for line in shop.ledger()[2:]] == ["in_2:failed:1", "in_2:failed:2"]


# ---------------------------------------------------------------------------------------------------- renewals refunded
def refunded(number: int = 2, old: bool = False) -> Json:
    """The charge of that invoice, given back in full."""
    invoice_id = f"in_{number}" if old else None
    more = {"amount_refunded": 2500, "customer": "cus_1", "invoice": invoice_id, "created": WHEN + MONTH + DAY}
    return charge(f"ch_{number}", f"pi_{number}", 2500, old=old, **more)


@pytest.mark.parametrize("linked_first", [True, False])
def test_the_refund_of_a_renewal_takes_back_that_period_alone(shop, clock, linked_first):
    key = shop.subscribes()
    clock.forward(days=17)
    shop.tell("invoice.paid", later_invoice())
    told = [("invoice_payment.paid", payment_of()), ("charge.refunded", refunded())]
    for one in told if linked_first else told[::-1]:
        shop.tell(*one)
    assert (shop.code(key), shop.record["expiry_date"]) == ("VALID", FIRST_END)
    assert shop.revenue() == {"usd": "25.00"}


def test_before_basil_the_charge_itself_names_its_invoice(shop, clock):
    key = shop.subscribes(old=True)
    clock.forward(days=17)
    shop.tell("invoice.paid", later_invoice(old=True), old=True)
    shop.tell("charge.refunded", refunded(old=True), old=True)
    assert (shop.code(key), shop.record["expiry_date"]) == ("VALID", FIRST_END)


def test_where_no_event_linked_the_payment_the_api_is_asked_for_its_invoice(asking, api, clock):
    key = asking.subscribes()
    clock.forward(days=17)
    asking.tell("invoice.paid", later_invoice())
    api.add(payment_of())
    api.asked.clear()
    asking.tell("charge.refunded", refunded())
    assert (asking.code(key), asking.record["expiry_date"]) == ("VALID", FIRST_END)
    assert api.asked == [
        "/v1/invoice_payments?payment[type]=payment_intent&payment[payment_intent]=pi_2&expand[0]=data.invoice"
    ]


def test_where_the_payment_is_known_the_api_is_not_asked(asking, api):
    asking.sells()
    api.asked.clear()
    asking.tell("charge.refunded", charge(amount_refunded=4900))
    assert api.asked == []


def test_the_api_is_asked_although_the_refund_itself_was_announced_before(asking, api, clock):
    asking.subscribes()
    clock.forward(days=17)
    asking.tell("invoice.paid", later_invoice())
    api.add(payment_of())
    asking.tell("refund.created", refund("re_1", "ch_2", "pi_2", 2500, created=WHEN + MONTH + DAY))
    asking.tell("charge.refunded", refunded())
    assert asking.record["expiry_date"] == FIRST_END


def test_a_refund_while_the_api_is_down_finds_its_renewal_later(asking, api, clock):
    asking.subscribes()
    clock.forward(days=17)
    asking.tell("invoice.paid", later_invoice())
    api.add(payment_of())
    api.down()
    asking.tell("charge.refunded", refunded())
    assert asking.record["expiry_date"] == SECOND_END
    api.up()
    clock.forward(minutes=2)
    asking.services.outbox.send_due()
    assert asking.record["expiry_date"] == FIRST_END


@pytest.mark.parametrize("number", [1, 2])
def test_a_refund_of_a_renewal_twice_told_is_one(shop, clock, number):
    shop.subscribes()
    clock.forward(days=17)
    shop.tell("invoice.paid", later_invoice())
    shop.tell("invoice_payment.paid", payment_of(number))
    first = shop.tell("charge.refunded", refunded(number))
    assert shop.tell("charge.refunded", refunded(number)) == first
    assert first["outcome"] == ("revoked" if number == 1 else "recorded")


def test_the_refund_of_the_first_charge_revokes_the_license(shop):
    key = shop.subscribes()
    shop.tell("invoice_payment.paid", payment_of(1))
    shop.tell("charge.refunded", refunded(1))
    assert (shop.code(key), shop.record["inactive_reason"]) == ("SUSPENDED", "refunded")
    assert shop.revenue() == {"usd": "0.00"}


# ---------------------------------------------------------------------------------------------------- subscriptions
def updated(shop: StripeShop, previous: Json, at: int = 10 * DAY, old: bool = False, **now: Any) -> dict[str, Any]:
    more = {"created": WHEN + at, "old": old}
    return shop.tell("customer.subscription.updated", subscription(old, **now), previous, **more)


@BOTH_SHAPES
def test_more_seats_and_fewer(shop, old):
    key = shop.subscribes(old)
    assert updated(shop, {"quantity": 1, "items": {}}, old=old, quantity=3)["license_keys"] == [key]
    assert shop.record["max_devices"] == 6
    updated(shop, {"quantity": 3, "items": {}}, 11 * DAY, old, quantity=1)
    assert shop.record["max_devices"] == 2


def test_an_update_that_comes_late_does_not_count_over_a_later_one(shop):
    shop.subscribes()
    updated(shop, {"items": {}}, 11 * DAY, quantity=5)
    updated(shop, {"items": {}}, 10 * DAY, quantity=3)
    assert shop.record["max_devices"] == 10


def test_a_change_of_plan_keeps_the_key(shop, clock):
    key = shop.subscribes()
    updated(shop, {"items": {}}, product="prod_small", price_id="price_solo")
    assert (shop.record["product_id"], shop.record.get("max_devices", 1)) == ("solo", 1)
    clock.forward(days=17)
    period = (WHEN + 30 + MONTH, WHEN + 30 + 2 * MONTH)
    line = invoice_line("il_2", product="prod_small", price_id="price_solo", period=period)
    shop.tell("invoice.paid", later_invoice(lines=[line]))
    assert list(shop.licenses()) == [key]
    assert (shop.record["product_id"], shop.record["expiry_date"]) == ("solo", SECOND_END)


CANCELLED = {"cancel_at": WHEN + 30 + MONTH, "canceled_at": WHEN + 10 * DAY}


@pytest.mark.parametrize(
    ("old", "now"),
    [
        (False, CANCELLED),
        (False, CANCELLED | {"cancel_at_period_end": True}),
        (False, {"cancel_at_period_end": True, "canceled_at": WHEN + 10 * DAY}),
        (True, {"cancel_at_period_end": True, "canceled_at": WHEN + 10 * DAY}),
    ],
    ids=["flexible billing", "both", "flag only", "flag only, before basil"],
)
def test_a_cancelled_subscription_lives_to_the_end_of_its_period(shop, clock, old, now):
    key = shop.subscribes(old)
    told = updated(shop, dict.fromkeys(now), old=old, **now)
    assert (told["outcome"], shop.code(key)) == ("recorded", "VALID")
    assert shop.ledger()[-1]["event"] == "cancellation"
    clock.forward(days=16)
    assert shop.code(key) == "VALID"
    clock.forward(days=1)  # no days of grace are left
    assert (shop.code(key), shop.record["expiry_date"]) == ("EXPIRED", FIRST_END)


@pytest.mark.parametrize("before", [{"cancel_at": WHEN + MONTH}, {"cancel_at_period_end": True}, {"canceled_at": WHEN}])
def test_a_cancellation_may_be_taken_back(shop, clock, before):
    key = shop.subscribes()
    updated(shop, dict.fromkeys(CANCELLED), **CANCELLED)
    updated(shop, before, 12 * DAY)
    assert shop.ledger()[-1]["event"] == "uncancellation"
    clock.forward(days=18)
    assert shop.code(key) == "VALID"  # the days of grace are back


def test_seats_may_change_while_a_cancellation_waits(shop):
    shop.subscribes()
    updated(shop, dict.fromkeys(CANCELLED), **CANCELLED)
    updated(shop, {"items": {}}, 11 * DAY, quantity=3, **CANCELLED)
    assert (shop.record["max_devices"], shop.record["expiry_date"]) == (6, FIRST_END)
    assert [line["event"] for line in shop.ledger()[2:]] == ["cancellation", "subscription_updated"]


def test_past_due_is_grace(shop):
    key = shop.subscribes()
    assert updated(shop, {"status": "active"}, status="past_due")["outcome"] == "recorded"
    assert (shop.code(key), shop.ledger()[-1]["event"]) == ("VALID", "payment_failed")


def test_unpaid_suspends_and_active_lifts_it(shop):
    key = shop.subscribes()
    assert updated(shop, {"status": "past_due"}, status="unpaid")["outcome"] == "suspended"
    assert (shop.code(key), shop.record["inactive_reason"]) == ("SUSPENDED", "payment_failed")
    assert ("payment_failed", ANN) in shop.letters()
    assert updated(shop, {"status": "unpaid"}, 12 * DAY)["outcome"] == "reinstated"
    assert shop.code(key) == "VALID"


def test_unpaid_may_come_again_and_be_lifted_again(shop):
    key = shop.subscribes()
    for days in (1, 4):
        updated(shop, {"status": "past_due"}, days * DAY, status="unpaid")
        assert shop.code(key) == "SUSPENDED"
        updated(shop, {"status": "unpaid"}, (days + 1) * DAY)
        assert shop.code(key) == "VALID"


def test_unpaid_is_lifted_while_a_cancellation_waits(shop):
    key = shop.subscribes()
    updated(shop, dict.fromkeys(CANCELLED), **CANCELLED)
    updated(shop, {"status": "past_due"}, 11 * DAY, status="unpaid", **CANCELLED)
    assert shop.code(key) == "SUSPENDED"
    updated(shop, {"status": "unpaid"}, 12 * DAY, **CANCELLED)
    assert (shop.code(key), shop.record["expiry_date"]) == ("VALID", FIRST_END)


def test_an_invoice_that_is_paid_after_all_lifts_unpaid(shop, clock):
    key = shop.subscribes()
    clock.forward(days=17)
    updated(shop, {"status": "past_due"}, MONTH + DAY, status="unpaid")
    assert shop.code(key) == "SUSPENDED"
    finalized = later_invoice()["created"]
    moments = {"finalized_at": finalized, "paid_at": WHEN + MONTH + 2 * DAY}
    shop.tell("invoice.paid", later_invoice(status_transitions=moments))
    assert shop.code(key) == "VALID"


def test_an_update_from_before_the_failure_lifts_nothing(shop):
    key = shop.subscribes()
    updated(shop, {"status": "past_due"}, 12 * DAY, status="unpaid")
    updated(shop, {"status": "past_due"}, 10 * DAY)
    assert shop.code(key) == "SUSPENDED"


def test_paused_suspends_and_resumed_lifts_it(shop):
    key = shop.subscribes()
    paused = subscription(status="paused")
    assert shop.tell("customer.subscription.paused", paused, created=WHEN + 9 * DAY)["outcome"] == "suspended"
    updated(shop, {"status": "active"}, 9 * DAY, status="paused")
    assert (shop.code(key), shop.record["inactive_reason"]) == ("SUSPENDED", "suspended")
    resumed = shop.tell("customer.subscription.resumed", subscription(), created=WHEN + 12 * DAY)
    assert (resumed["outcome"], shop.code(key)) == ("reinstated", "VALID")


def test_a_pause_that_ends_takes_no_cancellation_back(shop):
    key = shop.subscribes()
    updated(shop, dict.fromkeys(CANCELLED), **CANCELLED)
    shop.tell("customer.subscription.paused", subscription(status="paused", **CANCELLED), created=WHEN + 11 * DAY)
    assert shop.code(key) == "SUSPENDED"
    shop.tell("customer.subscription.resumed", subscription(**CANCELLED), created=WHEN + 12 * DAY)
    assert shop.code(key) == "VALID"
    shop.clock.forward(days=17)
    assert shop.code(key) == "EXPIRED"


def ended(**more: Any) -> Json:
    return subscription(status="canceled", ended_at=WHEN + 12 * DAY, canceled_at=WHEN + 12 * DAY, **more)


@pytest.mark.parametrize("type", ["customer.subscription.deleted", "customer.subscription.updated"])
@pytest.mark.parametrize("status", ["canceled", "incomplete_expired"])
def test_an_ended_subscription_is_over(shop, type, status):
    key = shop.subscribes()
    shop.tell(type, ended() | {"status": status}, {"status": "active"}, created=WHEN + 12 * DAY)
    assert (shop.code(key), shop.record["inactive_reason"]) == ("EXPIRED", "ended")


def test_nothing_that_comes_late_brings_an_ended_subscription_back(shop, clock):
    key = shop.subscribes()
    shop.tell("customer.subscription.deleted", ended(), created=WHEN + 12 * DAY)
    updated(shop, {"status": "past_due"}, 13 * DAY)
    shop.tell("customer.subscription.resumed", subscription(), created=WHEN + 13 * DAY)
    clock.forward(days=17)
    assert shop.tell("invoice.paid", later_invoice())["outcome"] == "recorded"
    assert (shop.code(key), shop.record["inactive_reason"]) == ("EXPIRED", "ended")


def test_an_end_may_be_told_before_the_sale(shop):
    shop.tell("customer.subscription.deleted", ended(), created=WHEN + 12 * DAY)
    assert shop.code(shop.subscribes()) == "EXPIRED"


def test_seats_may_be_told_before_the_sale(shop):
    updated(shop, {"items": {}}, quantity=3)
    shop.subscribes()
    assert shop.record["max_devices"] == 6


def test_a_status_that_nobody_knows_yet_changes_nothing(shop):
    key = shop.subscribes()
    updated(shop, {"status": "active"}, status="hibernating")
    assert shop.code(key) == "VALID"


# ---------------------------------------------------------------------------------------------------- refunds
def gave_back(shop: StripeShop, total: int, known: int | None = None, at: int = 3 * DAY, **more: Any) -> dict[str, Any]:
    """`total` is what went back so far, `known` how much of it was told before."""
    previous = None if known is None else {"amount_refunded": known}
    return shop.tell("charge.refunded", charge(amount_refunded=total, **more), previous, created=WHEN + at)


def refund_lines(shop: StripeShop) -> list[tuple[str, str, str]]:
    told = [line for line in shop.ledger() if "refunded_total" in line]
    return [(line["event"], line["price"], line["refunded_total"]) for line in told]


def test_a_full_refund_revokes(shop):
    key = shop.sells()
    assert gave_back(shop, 4900, 0) == {"received": True, "outcome": "revoked", "license_keys": [key]}
    assert (shop.code(key), shop.record["inactive_reason"]) == ("SUSPENDED", "refunded")
    assert shop.revenue() == {"usd": "0.00"}
    assert shop.letters() == [("refund", ANN)]  # the key itself was not sent yet


def test_a_partial_refund_is_only_recorded(shop):
    key = shop.sells()
    assert gave_back(shop, 1000, 0)["outcome"] == "recorded"
    assert shop.code(key) == "VALID"
    assert refund_lines(shop) == [("partial_refund", "10.00", "10.00")]


def test_what_was_refunded_adds_up(shop):
    key = shop.sells()
    gave_back(shop, 1000, 0, 3 * DAY)
    gave_back(shop, 2500, 1000, 4 * DAY)
    assert shop.code(key) == "VALID"
    gave_back(shop, 4900, 2500, 5 * DAY)
    assert shop.code(key) == "SUSPENDED"
    assert refund_lines(shop) == [
        ("partial_refund", "10.00", "10.00"),
        ("partial_refund", "15.00", "25.00"),
        ("refund", "24.00", "49.00"),
    ]


def test_a_refund_is_told_in_the_currency_of_its_charge(shop):
    shop.sells(wave(currency="jpy"))
    gave_back(shop, 1000, 0, currency="jpy")
    assert (refund_lines(shop), shop.ledger()[-1]["currency"]) == ([("partial_refund", "1000", "1000")], "jpy")


def test_two_equal_partial_refunds_are_two(shop):
    shop.sells()
    gave_back(shop, 1000, 0, 3 * DAY)
    gave_back(shop, 2000, 1000, 3 * DAY)
    assert len(refund_lines(shop)) == 2


def test_all_that_was_captured_is_all(shop):
    key = shop.sells()
    gave_back(shop, 3000, 0, amount_captured=3000, refunded=False)
    assert shop.code(key) == "SUSPENDED"


FAILED = {"status": "failed", "failure_reason": "lost_or_stolen_card"}


@pytest.mark.parametrize("type", ["refund.failed", "refund.updated", "charge.refund.updated"])
@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_refund_that_failed_gives_the_license_back(shop, type, status):
    key = shop.sells()
    gave_back(shop, 4900, 0)
    told = shop.tell(type, refund(status=status), created=WHEN + 5 * DAY)
    assert (told["outcome"], shop.code(key)) == ("reinstated", "VALID")
    assert shop.revenue() == {"usd": "49.00"}


def test_a_refund_after_the_failure_revokes_again(shop):
    key = shop.sells()
    gave_back(shop, 4900, 0)
    shop.tell("refund.failed", refund(**FAILED), created=WHEN + 5 * DAY)
    gave_back(shop, 4900, 0, 6 * DAY)
    assert (shop.code(key), shop.revenue()) == ("SUSPENDED", {"usd": "0.00"})


def test_a_failure_that_comes_before_its_refund_undoes_it_all_the_same(shop):
    key = shop.sells()
    shop.tell("refund.failed", refund(**FAILED), created=WHEN + 5 * DAY)
    gave_back(shop, 4900, 0)
    assert shop.code(key) == "VALID"


@pytest.mark.parametrize("status", ["pending", "requires_action", "succeeded"])
def test_the_refunds_own_events_say_nothing_that_its_charge_does_not(shop, status):
    key = shop.sells()
    for type in ("refund.created", "refund.updated", "charge.refund.updated"):
        assert shop.tell(type, refund(status=status))["outcome"] == "ignored"
    assert (shop.code(key), len(shop.ledger())) == ("VALID", 2)


def test_a_sale_whose_refund_came_first_gets_an_inactive_license_and_no_letter(shop):
    assert gave_back(shop, 4900, 0) == {"received": True, "outcome": "recorded", "license_keys": []}
    told = shop.tell(COMPLETED, wave())
    assert told["outcome"] == "revoked"
    assert (shop.code(told["license_keys"][0]), shop.record["inactive_reason"]) == ("SUSPENDED", "refunded")
    assert shop.letters() == []


# ---------------------------------------------------------------------------------------------------- disputes
def disputed(
    shop: StripeShop, status: str, word: str = "created", at: int = 4 * DAY, id: str = "du_1"
) -> dict[str, Any]:
    return shop.tell(f"charge.dispute.{word}", dispute(id, status=status), created=WHEN + at)


@pytest.mark.parametrize("status", ["needs_response", "under_review"])
def test_a_dispute_suspends_and_tells_the_owner(shop, status):
    key = shop.sells()
    assert disputed(shop, status) == {"received": True, "outcome": "suspended", "license_keys": [key]}
    assert (shop.code(key), shop.record["inactive_reason"]) == ("SUSPENDED", "disputed")
    assert ("alert_dispute", OWNER) in shop.letters()


def test_a_dispute_that_is_won_gives_the_license_back(shop):
    key = shop.sells()
    disputed(shop, "needs_response")
    disputed(shop, "under_review", "updated", 5 * DAY)
    disputed(shop, "needs_response", "funds_withdrawn", 5 * DAY)
    assert disputed(shop, "won", "closed", 40 * DAY)["outcome"] == "reinstated"
    assert disputed(shop, "won", "funds_reinstated", 41 * DAY)["license_keys"] == [key]
    assert shop.code(key) == "VALID"
    assert [line["event"] for line in shop.ledger()] == ["sale", "dispute", "dispute_won"]
    assert [line["is_disputed"] for line in shop.ledger()] == [False, True, False]


def test_a_dispute_that_is_lost_bans_the_license(shop):
    key = shop.sells()
    disputed(shop, "needs_response")
    disputed(shop, "lost", "closed", 40 * DAY)
    assert (shop.code(key), shop.record["inactive_reason"]) == ("BANNED", "chargeback")
    assert shop.revenue() == {"usd": "0.00"}


def test_a_win_lifts_its_own_dispute_alone(shop):
    key = shop.sells()
    disputed(shop, "needs_response", id="du_1")
    disputed(shop, "needs_response", id="du_2")
    disputed(shop, "won", "closed", 40 * DAY, id="du_1")
    assert shop.code(key) == "SUSPENDED"
    disputed(shop, "won", "closed", 40 * DAY, id="du_2")
    assert shop.code(key) == "VALID"


@pytest.mark.parametrize("status", ["warning_needs_response", "warning_under_review"])
def test_an_inquiry_of_the_bank_only_tells_the_owner(shop, status):
    key = shop.sells()
    assert disputed(shop, status)["outcome"] == "ignored"
    assert shop.code(key) == "VALID"
    assert shop.letters() == [("delivery", ANN), ("alert_dispute", OWNER)]


def test_an_inquiry_that_is_closed_changes_nothing(shop):
    key = shop.sells()
    disputed(shop, "warning_needs_response")
    disputed(shop, "warning_closed", "closed", 40 * DAY)
    assert shop.code(key) == "VALID"


def test_an_inquiry_that_became_a_dispute_suspends(shop):
    key = shop.sells()
    disputed(shop, "warning_needs_response")
    disputed(shop, "needs_response", "updated", 9 * DAY)
    assert shop.code(key) == "SUSPENDED"


@pytest.mark.parametrize("words", [["closed"], ["updated", "closed"], ["updated"], ["closed", "updated"]])
@pytest.mark.parametrize(("back", "code"), [(4900, "SUSPENDED"), (0, "VALID")], ids=["refunded", "not refunded"])
def test_a_dispute_that_was_prevented_ends_as_its_charge_stands(asking, api, words, back, code):
    key = asking.sells()
    disputed(asking, "needs_response")
    api.add(charge(amount_refunded=back))
    for word in words:
        disputed(asking, "prevented", word, 5 * DAY)
    assert asking.code(key) == code
    assert asking.record.get("inactive_reason") == ("refunded" if back else None)
    assert api.asked.count("/v1/charges/ch_1") == 1


def test_the_refund_by_which_a_dispute_was_prevented_may_fail(asking, api):
    key = asking.sells()
    disputed(asking, "needs_response")
    api.add(charge(amount_refunded=4900))
    disputed(asking, "prevented", "closed", 5 * DAY)
    asking.tell("refund.failed", refund(**FAILED), created=WHEN + 9 * DAY)
    assert asking.code(key) == "SUSPENDED"
    disputed(asking, "won", "closed", 10 * DAY)
    assert asking.code(key) == "VALID"


def test_a_dispute_of_a_renewal_that_was_never_told_finds_its_subscription(asking, api):
    key = asking.subscribes()
    api.add(later_invoice(), payment_of())
    about = dispute("du_2", "ch_2", "pi_2", 2500)
    asking.tell("charge.dispute.created", about, created=WHEN + 40 * DAY)
    assert asking.record["inactive_reason"] == "disputed"
    asking.tell("charge.dispute.closed", about | {"status": "lost"}, created=WHEN + 50 * DAY)
    assert (asking.code(key), asking.record["inactive_reason"]) == ("BANNED", "chargeback")


def test_an_invoice_that_comes_before_its_checkout_alarms_nobody(tmp_path, clock, api):
    """Only the payment link is mapped, which the invoice does not name."""
    catalogue = {"products": {"team": {"name": "Team", "platform_ids": {"stripe": ["plink_team"]}}}}
    shop = StripeShop(tmp_path / "data", clock, api, catalogue, owner_email="owner@shop.example")
    assert shop.tell("invoice.paid", first_invoice())["outcome"] == "unmapped"
    assert shop.letters() == []
    shop.sells(team())
    clock.forward(minutes=10)
    assert [kind for kind, _ in shop.letters()] == ["delivery"]


@pytest.mark.parametrize("status", ["unpaid", "paused"])
def test_a_renewal_that_is_dated_by_an_old_payment_lifts_what_came_before_it(shop, status):
    """Resent, imported or paid out of band, an invoice may say that it was paid long ago."""
    key = shop.subscribes()
    updated(shop, {"status": "active"}, 20 * DAY, status=status)
    assert shop.code(key) == "SUSPENDED"
    late = later_invoice()
    late["status_transitions"] |= {"paid_at": WHEN, "finalized_at": WHEN}
    shop.tell("invoice.paid", late, created=WHEN + 21 * DAY)
    assert shop.code(key) == "VALID"


def test_of_two_invoices_dated_alike_the_one_that_is_paid_longer_tells_the_seats(shop):
    shop.subscribes()
    late = later_invoice(quantity=5) | {"id": "in_0"}
    late["status_transitions"] = first_invoice()["status_transitions"]
    shop.tell("invoice.paid", late, created=WHEN + 30)
    assert shop.record["max_devices"] == 10


def test_metered_quantities_and_unknown_currencies_hold_up_nobody(shop):
    key = shop.subscribes()
    shop.tell("invoice.paid", later_invoice(quantity=5_000_000, currency="usdc"))
    assert (shop.code(key), shop.record["expiry_date"], shop.ledger()[-1]["price"]) == ("VALID", SECOND_END, None)


def test_line_items_that_come_with_the_event_need_not_be_asked_for(shop):
    items = {"object": "list", "data": [bought(quantity=3)], "has_more": False}
    shop.sells(wave(payment_link=None) | {"line_items": items})
    assert (shop.record["product_id"], shop.record["max_devices"]) == ("wave", 3)


def test_what_is_paid_days_after_the_checkout_runs_from_its_payment(shop):
    sold = wave(payment_link="plink_team", payment_status="unpaid")
    shop.tell(COMPLETED, sold)
    shop.tell(SUCCEEDED, sold | {"payment_status": "paid"}, created=WHEN + 5 * DAY)
    assert shop.record["expiry_date"] == "2026-12-11T21:20:00Z"


def test_the_sale_says_what_was_sold_and_not_its_invoice(shop):
    """The link is mapped to one product, and the price that the invoice names to another."""
    shop.sells(team(payment_link=None, metadata={"product_id": "solo"}))
    shop.tell("invoice.paid", first_invoice())
    assert (shop.record["product_id"], shop.record.get("max_devices", 1)) == ("solo", 1)


@pytest.mark.parametrize("before", ["unpaid", "paused", "past_due"])
def test_a_subscription_that_ended_has_ended_whatever_came_before(shop, before):
    key = shop.subscribes()
    updated(shop, {"status": "active"}, 10 * DAY, status=before)
    shop.tell("customer.subscription.deleted", ended())
    assert (shop.record["inactive_reason"], shop.code(key)) == ("ended", "EXPIRED")


def test_parts_of_a_renewal_that_went_back_come_off_the_revenue(shop):
    shop.subscribes()
    shop.tell("invoice.paid", later_invoice())
    shop.tell("invoice_payment.paid", payment_of())
    for at, back in ((40, 500), (41, 800)):
        shop.tell("charge.refunded", charge("ch_2", "pi_2", 2500, amount_refunded=back), created=WHEN + at * DAY)
    assert shop.revenue() == {"usd": "42.00"}
    bounced = refund("re_2", "ch_2", "pi_2", 300, status="failed", failure_reason="lost_or_stolen_card")
    shop.tell("refund.failed", bounced, created=WHEN + 50 * DAY)
    assert shop.revenue() == {"usd": "45.00"}


# ---------------------------------------------------------------------------------------------------- carts
def backlog(shop: StripeShop) -> Backlog:
    return Backlog(shop.services.store, shop.services.catalogue, shop.services.fulfilment)


def cart(api: StripeApi, *products: str) -> Json:
    sold = wave(payment_link=None, amount=4900 * len(products))
    api.add(sold)
    lines(api, "cs_live_1", *(bought(product) for product in products))
    return sold


def test_what_nobody_mapped_beside_mapped_items_waits_for_its_license(asking, api, clock):
    sold = cart(api, "prod_wave", "prod_new")
    key = asking.sells(sold)
    assert [(line["outcome"], line["price"], line["source_product_id"]) for line in asking.ledger()] == [
        ("issued", "98.00", None),
        ("unmapped", None, "prod_new"),
    ]
    assert ("alert_unmapped", "owner@shop.example") in asking.letters()
    (waiting,) = backlog(asking).waiting()
    assert waiting.source_product_id == "prod_new"
    catalogue = copy.deepcopy(CATALOGUE)
    catalogue["products"]["new"] = {"name": "New", "platform_ids": {"stripe": ["prod_new"]}}
    asking.write_catalogue(catalogue)
    (done,) = backlog(asking).complete_all()
    assert done.outcome == "issued"
    assert (asking.code(key), asking.code(done.license_keys[0])) == ("VALID", "VALID")
    assert {record["product_id"] for record in asking.licenses().values()} == {"wave", "new"}
    assert (backlog(asking).waiting(), asking.revenue()) == ([], {"usd": "98.00"})
    asking.tell("charge.refunded", charge(amount=9800, amount_refunded=9800))
    assert (asking.code(key), asking.code(done.license_keys[0])) == ("SUSPENDED", "SUSPENDED")


def test_an_item_that_was_mapped_to_what_the_sale_has_already_adds_its_seats(asking, api):
    asking.sells(cart(api, "prod_team", "prod_more"))
    catalogue = copy.deepcopy(CATALOGUE)
    catalogue["products"]["team"]["platform_ids"]["stripe"].append("prod_more")
    asking.write_catalogue(catalogue)
    backlog(asking).complete_all()
    assert asking.record["max_devices"] == 4


@pytest.mark.parametrize(("known", "unknown"), [(1, 5), (5, 3)])
def test_what_waits_of_a_cart_changes_no_seats_of_what_was_mapped(asking, api, known, unknown):
    sold = cart(api, "prod_wave", "prod_new")
    lines(api, "cs_live_1", bought(quantity=known), bought("prod_new", quantity=unknown))
    asking.sells(sold)
    assert asking.record.get("max_devices", 1) == known
    catalogue = copy.deepcopy(CATALOGUE)
    catalogue["products"]["new"] = {"name": "New", "platform_ids": {"stripe": ["prod_new"]}}
    asking.write_catalogue(catalogue)
    backlog(asking).complete_all()
    seats = {record["product_id"]: record.get("max_devices", 1) for record in asking.licenses().values()}
    assert seats == {"wave": known, "new": unknown}


def test_a_cart_told_again_waits_once(asking, api):
    sold = cart(api, "prod_wave", "prod_new")
    asking.sells(sold)
    once = asking.ledger()
    asking.sells(sold)
    assert asking.ledger() == once


def test_what_waits_of_a_cart_is_written_by_the_repeat_where_a_crash_came_between(asking, api, monkeypatch):
    sold = cart(api, "prod_wave", "prod_new")
    with monkeypatch.context() as patch:
        patch.setattr(Fulfilment, "_keep_items", lambda *given: None)
        asking.sells(sold)
    assert len(asking.ledger()) == 1
    asking.sells(sold)
    assert [line["outcome"] for line in asking.ledger()] == ["issued", "unmapped"]


def test_a_checkout_that_is_mapped_as_a_whole_leaves_nothing_over(asking, api):
    asking.sells(cart(api, "prod_wave", "prod_new") | {"payment_link": "plink_wave"})
    assert [line["outcome"] for line in asking.ledger()] == ["issued"]


def test_a_status_of_a_dispute_that_nobody_knows_yet_is_asked_about_when_it_is_closed(asking, api):
    key = asking.sells()
    disputed(asking, "needs_response")
    api.add(charge())
    api.asked.clear()
    disputed(asking, "in_arbitration", "updated", 5 * DAY)
    assert (asking.code(key), api.asked) == ("SUSPENDED", [])
    disputed(asking, "settled", "closed", 6 * DAY)
    assert (asking.code(key), api.asked) == ("VALID", ["/v1/charges/ch_1"])


def test_while_nobody_can_tell_how_a_charge_stands_its_dispute_stays(asking, api, clock):
    key = asking.sells()
    disputed(asking, "needs_response")
    api.add(charge())
    api.down()
    disputed(asking, "prevented", "closed", 5 * DAY)
    assert asking.code(key) == "SUSPENDED"
    api.up()
    clock.forward(minutes=2)
    asking.services.outbox.send_due()
    assert asking.code(key) == "VALID"


def test_where_stripe_does_not_know_the_charge_its_dispute_stays(asking, api, clock):
    key = asking.sells()
    disputed(asking, "needs_response")
    disputed(asking, "prevented", "closed", 5 * DAY)
    asked = len(api.asked)
    clock.forward(hours=1)
    asking.services.outbox.send_due()
    assert (asking.code(key), len(api.asked)) == ("SUSPENDED", asked)


def test_without_a_key_to_the_api_a_prevented_dispute_stays_for_the_owner(shop):
    key = shop.sells()
    disputed(shop, "needs_response")
    assert disputed(shop, "prevented", "closed", 5 * DAY)["outcome"] == "ignored"
    assert shop.code(key) == "SUSPENDED"


def test_a_dispute_may_be_told_before_its_sale(shop):
    disputed(shop, "needs_response")
    told = shop.tell(COMPLETED, wave())
    assert (told["outcome"], shop.record["inactive_reason"]) == ("suspended", "disputed")


def test_what_stripe_gives_as_a_reason_is_kept(shop):
    shop.subscribes()
    details = {"cancellation_details": {"reason": "cancellation_requested", "comment": None, "feedback": None}}
    shop.tell("refund.failed", refund(**FAILED))
    disputed(shop, "lost", "closed")
    updated(shop, dict.fromkeys(CANCELLED), **CANCELLED, **details)
    shop.tell("customer.subscription.deleted", ended(**details))
    assert [line["note"] for line in shop.ledger()[2:]] == [
        "lost_or_stolen_card",
        "fraudulent",
        "cancellation_requested",
        "cancellation_requested",
    ]


# ---------------------------------------------------------------------------------------------------- several purchases
def test_two_purchases_of_one_customer_are_two_licenses(shop):
    first = shop.sells(wave("cs_live_1", "pi_1", customer="cus_1"))
    second = shop.sells(wave("cs_live_2", "pi_2", customer="cus_1"))
    assert first != second
    assert len(shop.licenses()) == 2
    assert shop.revenue() == {"usd": "98.00"}


def test_a_refund_touches_its_own_purchase_alone(shop):
    first = shop.sells(wave("cs_live_1", "pi_1", customer="cus_1"))
    second = shop.sells(wave("cs_live_2", "pi_2", customer="cus_1"))
    shop.tell("charge.refunded", charge("ch_2", "pi_2", amount_refunded=4900, customer="cus_1"))
    assert (shop.code(first), shop.code(second)) == ("VALID", "SUSPENDED")


def test_a_dispute_touches_its_own_purchase_alone(shop):
    first = shop.sells(wave("cs_live_1", "pi_1", customer="cus_1"))
    second = shop.sells(wave("cs_live_2", "pi_2", customer="cus_1"))
    shop.tell("charge.dispute.closed", dispute("du_1", "ch_1", "pi_1", status="lost"))
    assert (shop.code(first), shop.code(second)) == ("BANNED", "VALID")


def test_one_of_two_subscriptions_may_end(shop):
    key = shop.subscribes()
    more = {"subscription": "sub_2", "invoice": "in_9", "id": "cs_live_9"}
    other = shop.sells(team() | more)
    assert other != key
    shop.tell("customer.subscription.deleted", ended() | {"id": "sub_2"})
    assert (shop.code(key), shop.code(other)) == ("VALID", "EXPIRED")


def test_a_refund_of_something_else_that_the_customer_bought_links_nothing(shop):
    key = shop.subscribes()
    told = shop.tell("charge.refunded", charge("ch_7", "pi_7", amount_refunded=4900, customer="cus_1"))
    assert (told["license_keys"], shop.code(key)) == ([], "VALID")
