"""What a review by random histories found: each as the shortest history that shows it."""

from __future__ import annotations

import itertools

import pytest

from tests.conftest import sale_ping, subscription_ping
from tests.standins import stripe_billing as billing
from tests.standins import stripe_objects as stripe
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
