"""What a review by random histories found: each as the shortest history that shows it."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from server.platforms.document import Document
from server.platforms.stripe_objects import session_event
from tests.conftest import Shop, sale_ping, subscription_ping
from tests.standins import stripe_billing as billing
from tests.standins import stripe_objects as stripe
from tests.standins.gumroad_api import TOKEN, GumroadApi, sale
from tests.stripe_shop import DAY, StripeShop, first_invoice, later_invoice, payment_of, team, wave
from tests.tills import JVZooTill, StripeTill, jvzoo, shop_of_three

MONTH = (stripe.WHEN, stripe.WHEN + stripe.MONTH)


def test_a_first_charge_paid_in_part_by_credit_is_refunded_in_any_order(tmp_path, clock):
    """The checkout says 25.00, its invoice and the payment 20.00: a refund of 20.00 is the whole."""
    first = billing.invoice("in_1", "sub_1", amount=2000, billing_reason="subscription_create", period=MONTH)
    told = [
        ("checkout.session.completed", stripe.session(
            "cs_live_1", amount=2500, mode="subscription", subscription="sub_1", invoice="in_1",
            payment_link="plink_team", payment_intent=None,
        )),
        ("invoice.paid", first),
        ("invoice_payment.paid", billing.invoice_payment("inpay_1", "in_1", "pi_1", 2000)),
        ("charge.refunded", stripe.charge("ch_1", "pi_1", 2000, amount_refunded=2000)),
    ]  # fmt: skip
    for number, order in enumerate(itertools.permutations(told)):
        till = StripeTill(shop_of_three(tmp_path / str(number), clock))
        for word, obj in order:
            till.tell(word, obj)
        (record,) = till.shop.licenses().values()
        assert record["inactive_reason"] == "refunded", [word for word, _ in order]


@pytest.mark.parametrize("test_first", [True, False])
def test_a_test_of_the_same_receipt_does_not_touch_a_real_license(tmp_path, clock, test_first):
    till = JVZooTill(shop_of_three(tmp_path / "data", clock))
    notices = [jvzoo.v1("R1", "TEST_SALE", ctranstime=jvzoo.SOLD_AT - 60), jvzoo.v1("R1")]
    for notice in notices if test_first else notices[::-1]:
        till.tell(notice)
    (record,) = till.shop.licenses().values()
    assert record.get("is_test", False) is False
    assert record["expiry_date"] is None


@pytest.mark.parametrize("end_first", [True, False])
def test_instalments_that_are_paid_off_give_a_license_for_life_in_any_order(shop, end_first):
    sale = sale_ping("s1", "ann@example.com", "G-WAVE==", subscription_id="sub", recurrence="monthly")
    end = subscription_ping(
        "subscription_ended",
        "sub",
        "G-WAVE==",
        ended_at="2026-11-06T00:00:00Z",
        ended_reason="fixed_subscription_period_ended",
    )
    for ping in (end, sale) if end_first else (sale, end):
        shop.ping(ping)
    (record,) = shop.licenses().values()
    assert (record["is_active"], record["expiry_date"]) == (True, None)


@pytest.mark.parametrize("sale_first", [True, False])
def test_seats_that_only_the_first_invoice_tells_are_the_subscriptions(tmp_path, clock, sale_first):
    """Without a key to Stripe's API nobody knows how many the checkout sold."""
    shop = StripeShop(tmp_path / "data", clock)
    told = [("checkout.session.completed", team()), ("invoice.paid", first_invoice(quantity=3))]
    for word, about in told if sale_first else told[::-1]:
        shop.tell(word, about)
    assert shop.record["max_devices"] == 6


# ---------------------------------------------------------------------------------------------------- after a reissue
def reissued(shop: Shop, key: str) -> str:
    return str(shop.owner("POST", f"/licenses/{key}/reissue").json["license_key"])


def assert_sound(shop: Shop) -> None:
    """The books are, and a rebuild says the same."""
    store = shop.services.store
    before = shop.licenses()
    assert [finding for finding in store.inspect() if not finding.is_note] == []
    store.rebuild()
    assert shop.licenses() == before


def test_a_renewal_after_a_reissue_is_of_the_same_license(tmp_path, clock):
    shop = StripeShop(tmp_path / "data", clock)
    old = shop.subscribes()
    new = reissued(shop, old)
    shop.tell("invoice.paid", later_invoice())
    assert {key: record["purchase_id"] for key, record in shop.licenses().items()} == {
        old: "cs_live_1",
        new: "cs_live_1",
    }
    for number in (1, 2):
        shop.tell("invoice_payment.paid", payment_of(number))
    shop.tell("charge.refunded", stripe.charge("ch_1", "pi_1", 2500, amount_refunded=2500))
    assert (shop.code(old), shop.code(new)) == ("BANNED", "SUSPENDED")
    assert_sound(shop)


def test_a_provisional_sale_that_was_reissued_is_confirmed_under_its_new_key(tmp_path, clock):
    with GumroadApi() as api:
        shop = Shop(tmp_path / "data", clock, gumroad_access_token=TOKEN, gumroad_api_base=api.url)
        api.down()
        old = shop.sale("s1")
        new = reissued(shop, old)
        api.up()
        api.add(sale("s1"))
        shop.services.outbox.send_due(by_hand=True)
        assert (shop.code(old), shop.code(new), shop.licenses()[new]["expiry_date"]) == ("BANNED", "VALID", None)
        assert_sound(shop)


# ---------------------------------------------------------------------------------------------------- what was paid
def test_a_cancellation_to_the_end_of_a_refunded_period_gives_nothing_for_nothing(shop):
    first = {"subscription_id": "sub", "recurrence": "monthly"}
    shop.sale("s1", product="G-TEAM==", sale_timestamp="2026-10-05T00:00:00Z", **first)
    renewal = first | {"is_recurring_charge": "true", "sale_timestamp": "2026-11-05T00:00:00Z"}
    for resource, refunded in (("sale", "false"), ("refund", "true")):
        shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", resource, refunded=refunded, **renewal))
    shop.ping(subscription_ping("cancellation", "sub", cancelled_at="2026-12-05T00:00:00Z", cancelled_by_buyer="true"))
    (record,) = shop.licenses().values()
    assert record["expiry_date"] == "2026-11-05T00:00:00Z"


@pytest.mark.parametrize("invoice_first", [True, False])
def test_a_renewal_never_lifts_the_refund_of_a_first_charge_though_its_checkout_was_never_told(
    tmp_path, clock, invoice_first
):
    shop = StripeShop(tmp_path / "data", clock)
    refund = ("charge.refunded", stripe.charge("ch_1", "pi_1", 2500, amount_refunded=2500))
    told = [("invoice.paid", first_invoice()), ("invoice_payment.paid", payment_of(1)), refund]
    for word, about in [*told, ("invoice.paid", later_invoice())] if invoice_first else told[::-1]:
        shop.tell(word, about)
    assert shop.record["inactive_reason"] == "refunded"


@pytest.mark.parametrize("list_first", [True, False])
def test_a_late_payment_runs_from_its_day_whether_a_list_or_the_webhook_told_it_first(tmp_path, clock, list_first):
    shop = StripeShop(tmp_path / "data", clock)
    paid = wave(payment_link="plink_team")
    listed = msgspec.structs.replace(session_event(Document(paid)), inquiry=None)
    for is_list in (list_first, not list_first):
        if is_list:
            shop.services.fulfilment.record([listed])
        else:
            shop.tell("checkout.session.async_payment_succeeded", paid, created=stripe.WHEN + 5 * DAY)
    assert shop.record["expiry_date"] == "2026-12-11T21:20:00Z"
