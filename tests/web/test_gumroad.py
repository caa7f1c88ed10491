"""A Gumroad shop seen from outside: what each ping does to a license."""

from __future__ import annotations

import json

import pytest

from tests.conftest import SECRET, Shop, form, sale_ping, subscription_ping

FIRST = {"subscription_id": "sub", "recurrence": "monthly"}
RENEWAL = {**FIRST, "is_recurring_charge": "true", "sale_timestamp": "2026-12-05T19:38:56Z"}


def record(shop: Shop) -> dict:
    (found,) = shop.licenses().values()
    return found


def test_a_sale_becomes_a_license_that_validates(shop):
    key = shop.sale("s1", "ann@example.com", full_name="Ann Lee")
    assert shop.code(key) == "VALID"
    assert record(shop) == {
        "email": "ann@example.com",
        "customer_name": "Ann Lee",
        "created_date": "2026-11-05T19:38:56Z",
        "expiry_date": None,
        "is_active": True,
        "hardware_id": None,
        "device_name": None,
        "last_validation": "2026-11-20T12:00:00Z",
        "validation_count": 1,
        "purchase_source": "gumroad",
        "purchase_id": "s1",
        "product_id": "wave",
    }


def test_the_ledger_line_says_what_was_sold_in_us_cents(shop):
    shop.sale("s1", currency="jpy")
    (line,) = shop.ledger()
    assert (line["event"], line["outcome"], line["price"], line["currency"], line["fee"]) == (
        "sale",
        "issued",
        "29.99",
        "usd",
        "3.30",
    )
    assert line["event_id"] == "s1:sale:false"
    assert line["prev"] is None
    assert line["seq"] == 1


def test_the_same_sale_delivered_again_gives_the_same_answer_and_nothing_else(shop):
    first = shop.ping(sale_ping("s1", "ann@example.com"))
    again = shop.ping(sale_ping("s1", "ann@example.com", retry_count=1))
    assert again == first == {"received": True, "outcome": "issued", "license_keys": first["license_keys"]}
    assert len(shop.ledger()) == 1


def test_two_purchases_of_one_customer_are_two_licenses(shop):
    assert shop.sale("s1", "ann@example.com") != shop.sale("s2", "ann@example.com")
    assert len(shop.licenses()) == 2


def test_a_refund_revokes_its_own_sale_and_no_other(shop):
    first, second = shop.sale("s1"), shop.sale("s2")
    assert shop.refund("s1") == {"received": True, "outcome": "revoked", "license_keys": [first]}
    assert shop.code(first) == "SUSPENDED"
    assert shop.code(second) == "VALID"
    assert shop.licenses()[first]["inactive_reason"] == "refunded"


def test_a_partial_refund_is_only_recorded(shop):
    key = shop.sale("s1")
    told = shop.ping(sale_ping("s1", "ann@example.com", resource="refund", refunded="false"))
    assert told["outcome"] == "recorded"
    assert shop.code(key) == "VALID"
    assert shop.ledger()[-1]["event"] == "partial_refund"


def test_a_sale_whose_refund_came_first_gets_an_inactive_license(shop):
    assert shop.refund("s1") == {"received": True, "outcome": "recorded", "license_keys": []}
    told = shop.ping(sale_ping("s1", "ann@example.com"))
    assert told["outcome"] == "revoked"
    assert shop.code(told["license_keys"][0]) == "SUSPENDED"
    assert record(shop)["inactive_reason"] == "refunded"


def test_a_dispute_suspends_and_only_its_own_win_lifts_it(shop):
    first, second = shop.sale("s1"), shop.sale("s2")
    shop.ping(sale_ping("s1", "ann@example.com", resource="dispute", disputed="true"))
    assert (shop.code(first), shop.code(second)) == ("SUSPENDED", "VALID")
    shop.ping(sale_ping("s2", "ann@example.com", resource="dispute_won", disputed="true", dispute_won="true"))
    assert shop.code(first) == "SUSPENDED"
    shop.ping(sale_ping("s1", "ann@example.com", resource="dispute_won", disputed="true", dispute_won="true"))
    assert shop.code(first) == "VALID"


def test_a_renewal_extends_the_same_license(shop):
    key = shop.sale("s1", product="G-TEAM==", **FIRST)
    assert record(shop)["expiry_date"] == "2026-12-05T19:38:56Z"
    told = shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWAL))
    assert told == {"received": True, "outcome": "extended", "license_keys": [key]}
    assert record(shop)["expiry_date"] == "2027-01-05T19:38:56Z"


def test_a_renewal_before_its_sale_waits_for_it(shop):
    told = shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWAL))
    assert (told["outcome"], told["license_keys"], shop.licenses()) == ("pending", [], {})
    shop.sale("s1", product="G-TEAM==", **FIRST)
    assert record(shop)["expiry_date"] == "2027-01-05T19:38:56Z"


def test_the_refund_of_a_renewal_takes_back_that_period_alone(shop):
    key = shop.sale("s1", product="G-TEAM==", **FIRST)
    shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWAL))
    shop.refund("s2", product_id="G-TEAM==", **RENEWAL)
    assert shop.code(key) == "VALID"
    assert record(shop)["expiry_date"] == "2026-12-05T19:38:56Z"


def test_the_quantity_is_the_number_of_seats(shop):
    shop.sale("s1", product="G-TEAM==", quantity=5, is_multiseat_license="true", **FIRST)
    assert record(shop)["max_devices"] == 10  # 5 times the product's two


def test_a_cancelled_membership_lives_to_the_end_of_its_paid_period(shop, clock):
    key = shop.sale("s1", product="G-TEAM==", **FIRST)
    told = shop.ping(
        subscription_ping(
            "cancellation", "sub", cancelled="true", cancelled_at="2026-12-05T19:38:56Z", cancelled_by_buyer="true"
        )
    )
    assert (told["outcome"], shop.code(key)) == ("recorded", "VALID")
    clock.forward(days=16)
    assert shop.code(key) == "EXPIRED"


def test_a_cancellation_for_failed_payments_suspends_until_the_next_charge(shop):
    key = shop.sale("s1", product="G-TEAM==", **FIRST)
    failed = {"cancelled": "true", "cancelled_at": "2026-11-18T08:00:00Z", "cancelled_due_to_payment_failures": "true"}
    assert shop.ping(subscription_ping("cancellation", "sub", **failed))["outcome"] == "suspended"
    assert (shop.code(key), record(shop)["inactive_reason"]) == ("SUSPENDED", "payment_failed")
    shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWAL))
    assert shop.code(key) == "VALID"


def test_a_subscription_ends_and_restarts_with_the_same_key(shop):
    key = shop.sale("s1", product="G-TEAM==", **FIRST)
    shop.ping(subscription_ping("subscription_ended", "sub", ended_at="2026-11-17T19:38:56Z", ended_reason="cancelled"))
    assert shop.code(key) == "EXPIRED"
    told = shop.ping(subscription_ping("subscription_restarted", "sub", restarted_at="2026-11-19T12:00:00Z"))
    assert told == {"received": True, "outcome": "reinstated", "license_keys": [key]}
    assert shop.code(key) == "VALID"


def test_all_instalments_paid_leaves_a_license_for_life(shop):
    key = shop.sale("s1", **FIRST)
    fixed = {"ended_at": "2026-11-17T19:38:56Z", "ended_reason": "fixed_subscription_period_ended"}
    shop.ping(subscription_ping("subscription_ended", "sub", product="G-WAVE==", **fixed))
    assert shop.code(key) == "VALID"
    assert record(shop)["expiry_date"] is None


def test_a_plan_change_takes_effect_when_it_says(shop, clock):
    key = shop.sale("s1", product="G-TEAM==", **FIRST)
    plan = {"new_plan[quantity]": 3, "new_plan[tier][name]": "Team", "new_plan[recurrence]": "monthly"}
    shop.ping(
        subscription_ping("subscription_updated", "sub", type="upgrade", effective_as_of="2026-11-16T10:00:00Z", **plan)
    )
    assert record(shop)["max_devices"] == 6
    plan |= {"new_plan[quantity]": 1, "new_plan[tier][name]": "Solo"}
    shop.ping(
        subscription_ping(
            "subscription_updated", "sub", type="downgrade", effective_as_of="2026-11-25T00:00:00Z", **plan
        )
    )
    assert shop.ask("validate", license_key=key)["license"]["max_devices"] == 6
    clock.forward(days=6)
    told = shop.ask("validate", license_key=key)["license"]
    assert (told["product_id"], told["max_devices"]) == ("solo", 1)


def test_a_variant_goes_before_the_plain_product(shop):
    shop.sale("s1", product="G-TEAM==", **{"variants[Tier]": "Solo"})
    assert record(shop)["product_id"] == "solo"


def test_a_bundle_gives_one_license_for_each_child(shop):
    told = shop.ping(sale_ping("s1", "ann@example.com", "G-STUDIO=="))
    assert len(told["license_keys"]) == 2
    assert {r["product_id"] for r in shop.licenses().values()} == {"wave", "team"}
    shop.refund("s1", product_id="G-STUDIO==")
    assert {r["is_active"] for r in shop.licenses().values()} == {False}


def test_an_unmapped_product_is_kept_and_issued_later(shop):
    told = shop.ping(sale_ping("s1", "ann@example.com", "G-NEW=="))
    assert (told["outcome"], told["license_keys"], shop.licenses()) == ("unmapped", [], {})


def test_a_preorder_is_pending(shop):
    told = shop.ping(sale_ping("s1", "ann@example.com", is_preorder_authorization="true"))
    assert (told["outcome"], shop.licenses()) == ("pending", {})
    assert shop.ping(sale_ping("s1", "ann@example.com"))["outcome"] == "issued"


def test_a_gift_belongs_to_its_receiver(shop):
    shop.sale("s1", "gift@example.com", price=0, is_gift_receiver_purchase="true", gifter_email="ann@example.com")
    assert record(shop)["email"] == "gift@example.com"


def test_a_test_sale_is_marked_and_ends_after_a_week(shop, clock):
    key = shop.sale("s1", test="true")
    assert (record(shop)["is_test"], record(shop)["expiry_date"]) == (True, "2026-11-27T12:00:00Z")
    clock.forward(days=11)
    assert shop.code(key) == "EXPIRED"


def test_the_settings_test_ping_touches_nothing(shop):
    shop.sale("s1")
    before = record(shop)
    told = shop.ping(sale_ping("s1", "ann@example.com", resource=None, test="true", refunded="true"))
    assert (told["outcome"], told["license_keys"]) == ("ignored", [])
    assert record(shop) == before


def test_a_sale_told_late_says_that_it_was_refunded(shop):
    shop.ping(sale_ping("s1", "ann@example.com", refunded="true"))
    assert record(shop)["inactive_reason"] == "refunded"
    assert [(line["event"], line["outcome"]) for line in shop.ledger()] == [("refund", "recorded"), ("sale", "revoked")]
    assert shop.refund("s1")["outcome"] == "recorded"
    assert len(shop.ledger()) == 2


def test_a_custom_field_that_hides_a_real_one_holds_the_sale_for_the_owner(shop):
    hidden = sale_ping("s1", "thief@example.com", **{"custom_fields[email]": "thief@example.com"})
    told = shop.ping(hidden)
    assert (told["outcome"], shop.licenses()) == ("pending", {})
    assert shop.ping(hidden | {"retry_count": 1}) == told
    assert len(shop.ledger()) == 1
    assert "email" in shop.ledger()[0]["note"]


def test_a_hidden_address_holds_neither_renewals_nor_refunds(shop):
    key = shop.sale("s1", product="G-TEAM==", **FIRST)
    hidden = {"custom_fields[email]": "x"}
    renewed = shop.ping(sale_ping("s2", "x", "G-TEAM==", **RENEWAL, **hidden))
    assert renewed["outcome"] == "extended"
    refunded = shop.refund("s1", product_id="G-TEAM==", **FIRST, **hidden)
    assert (refunded["outcome"], shop.code(key)) == ("revoked", "SUSPENDED")


def test_a_refund_whose_sale_is_hidden_goes_to_the_owner_and_touches_nothing(shop):
    key = shop.sale("s1")
    told = shop.refund("s1", **{"custom_fields[sale_id]": "s1"})
    assert (told["outcome"], shop.code(key)) == ("ignored", "VALID")
    assert "sale_id" in shop.ledger()[-1]["note"]


def test_an_unknown_event_is_recorded_and_answered(shop):
    assert shop.ping(sale_ping("s1", "ann@example.com", resource="moon_landing"))["outcome"] == "ignored"
    assert shop.ledger()[0]["event"] == "ignored"


def test_json_delivery_says_the_same(shop):
    fields = sale_ping("s1", "ann@example.com") | {"price": 2999, "refunded": False, "variants": {"Tier": "Solo"}}
    answered = shop.client.post(
        "/api/v1/webhooks/gumroad?secret=gumroad-secret-of-the-tests-1234",
        data=json.dumps(fields),
        content_type="application/json",
    )
    assert answered.json["outcome"] == "issued"
    assert shop.ledger()[0]["variants"] == ["Solo"]


@pytest.mark.parametrize("secret", [None, "", "wrong", "gumroad-secret-of-the-tests-1235"])
def test_a_wrong_secret_is_refused_and_changes_nothing(shop, secret):
    answered = shop.post(sale_ping("s1", "ann@example.com"), secret=secret)
    assert (answered.status_code, answered.json["errors"][0]["code"]) == (403, "BAD_SECRET")
    assert shop.ledger() == []


def test_the_seller_must_be_the_configured_one(tmp_path, clock):
    shop = Shop(tmp_path / "d", clock, gumroad_seller_id="seller==")
    assert shop.post(sale_ping("s1", "ann@example.com")).status_code == 200
    assert shop.post(sale_ping("s2", "ann@example.com", seller_id="other==")).status_code == 403
    assert shop.post(subscription_ping("cancellation", "sub", cancelled_at="2026-12-05T19:38:56Z")).status_code == 200


def test_a_platform_without_its_secret_is_off(tmp_path, clock):
    shop = Shop(tmp_path / "d", clock, gumroad_webhook_secret=None)
    for path in ("gumroad?secret=", "paypal"):
        answered = shop.client.post(f"/api/v1/webhooks/{path}", data=b"a=b")
        assert (answered.status_code, answered.json["errors"][0]["code"]) == (404, "PLATFORM_NOT_CONFIGURED")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sale_id", ""),
        ("sale_id", "x" * 600),
        ("refunded", "maybe"),
        ("email", "a\0b@example.com"),
    ],
)
def test_a_malformed_field_is_named(shop, field, value):
    answered = shop.post(sale_ping("s1", "ann@example.com") | {field: value})
    assert answered.status_code == 400
    assert field in answered.json["errors"][0]["detail"]
    assert shop.ledger() == []


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"null",
        b"3",
        b'"text"',
        b"{",
        b'{"price": NaN, "sale_id": "s1"}',
        b'{"sale_id": "\\ud800"}',
        b"\xff\xfe",
        b'{"sale_id": 1' + b"0" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_ping_is_a_400(shop, body):
    path = "/api/v1/webhooks/gumroad?secret=gumroad-secret-of-the-tests-1234"
    assert shop.client.post(path, data=body, content_type="application/json").status_code == 400
    assert shop.client.post(path, data=body, content_type="application/x-www-form-urlencoded").status_code == 400


@pytest.mark.parametrize("resource", [None, "sale", "refund", "dispute", "dispute_won"])
def test_a_charge_of_a_membership_that_names_no_sale_is_a_400(shop, resource):
    told = sale_ping("", "ann@example.com", product="G-TEAM==", resource=resource, **FIRST)
    del told["sale_id"]
    answered = shop.post(told)
    assert (answered.status_code, answered.json["errors"][0]["detail"]) == (400, "sale_id: is missing")
    assert shop.ledger() == []


def test_a_body_that_is_too_large_is_a_413(shop):
    answered = shop.post(sale_ping("s1", "ann@example.com", filler="x" * 300_000))
    assert answered.status_code == 413


@pytest.mark.files
def test_names_in_any_script_are_stored_as_they_are(shop):
    shop.sale("s1", full_name="Zoë Müller 李 😀")
    assert record(shop)["customer_name"] == "Zoë Müller 李 😀"
    assert (shop.folder / "purchases.jsonl").read_bytes().isascii()
    assert b"Zo%C3%AB" in form({"full_name": "Zoë"})


def test_a_test_event_never_touches_a_real_license(shop):
    key = shop.sale("s1")
    assert shop.refund("s1", test="true")["outcome"] == "recorded"
    assert shop.code(key) == "VALID"


@pytest.mark.parametrize(
    ("field", "value", "read"),
    [
        ("price", "NaN", None),
        ("price", "49.00", None),
        ("gumroad_fee", "1.5", None),
        ("sale_timestamp", "yesterday", None),
        ("sale_timestamp", "9999-12-31T23:59:59Z", None),
        ("sale_timestamp", "0001-01-01T00:00:00Z", None),
        ("quantity", "9" * 400, 1),
        ("quantity", "-1", 1),
        ("quantity", "0", 1),
        ("quantity", "200000", 100_000),
    ],
)
def test_a_paid_sale_is_not_lost_for_a_field_that_cannot_be_read(shop, field, value, read):
    """Gumroad never repeats what is answered 4xx."""
    key = shop.sale("s1", **{field: value})
    assert shop.code(key) == "VALID"
    (line,) = shop.ledger()
    name = {"gumroad_fee": "fee", "sale_timestamp": "purchase_date"}.get(field, field)
    assert line[name] == read
    assert value in ("0", "200000") or line["note"] == f"could not be read: {field}"


def test_a_cancellation_after_a_restart_counts(shop):
    key = shop.sale("s1", product="G-TEAM==", subscription_id="sub", recurrence="yearly")
    shop.ping(subscription_ping("subscription_restarted", "sub", restarted_at="2026-11-10T00:00:00Z"))
    shop.ping(subscription_ping("cancellation", "sub", cancelled_at="2026-11-15T00:00:00Z", cancelled_by_admin="true"))
    assert shop.code(key) == "EXPIRED"


def test_a_restart_undoes_the_cancellation_at_the_end_of_its_period(shop, clock):
    key = shop.sale("s1", product="G-TEAM==", **FIRST)
    shop.ping(subscription_ping("cancellation", "sub", cancelled_at="2026-12-05T19:38:56Z", cancelled_by_buyer="true"))
    shop.ping(subscription_ping("subscription_restarted", "sub", restarted_at="2026-11-10T00:00:00Z"))
    shop.ping(sale_ping("s2", "ann@example.com", "G-TEAM==", **RENEWAL | {"sale_timestamp": "2026-12-01T00:00:00Z"}))
    clock.forward(days=35)
    assert shop.code(key) == "VALID"


def test_a_device_that_comes_and_goes_uses_up_no_moves(shop):
    key = shop.sale()
    for _ in range(15):
        assert shop.code(key, hardware_id="hw1") == "VALID"
        shop.ask("deactivate", license_key=key, hardware_id="hw1")


def test_a_tier_that_a_buyer_types_into_a_custom_field_of_that_name_is_not_his(shop):
    """In a form its brackets are escaped; JSON has no need to."""
    said = sale_ping("s1", "ann@example.com", "G-TEAM==") | {"variants": {"Tier": "Basic"}, "variants[Tier]": "Solo"}
    body = json.dumps(said | {"custom_fields": {"variants[Tier]": "Solo"}})
    url = f"/api/v1/webhooks/gumroad?secret={SECRET}"
    assert shop.client.post(url, data=body, content_type="application/json").status_code == 200
    assert record(shop)["product_id"] == "team"


def test_an_update_that_names_no_quantity_keeps_the_old_one(shop):
    shop.sale("s1", product="G-TEAM==", subscription_id="sub", recurrence="monthly", quantity=3)
    old = {"old_plan[quantity]": "3", "new_plan[tier][name]": "Pro"}
    shop.ping(subscription_ping("subscription_updated", "sub", effective_as_of="2026-11-10T00:00:00Z", **old))
    assert record(shop)["max_devices"] == 6


def test_a_renewal_that_does_not_say_for_how_long_goes_on_as_the_sale(shop):
    shop.sale("s1", subscription_id="sub", recurrence="yearly")
    more = {"subscription_id": "sub", "is_recurring_charge": "true", "sale_timestamp": "2027-11-05T19:38:56Z"}
    shop.ping(sale_ping("s2", "ann@example.com", **more))
    assert record(shop)["expiry_date"] == "2028-11-05T19:38:56Z"


def test_a_membership_that_ended_after_failed_payments_has_ended(shop):
    key = shop.sale("s1", product="G-TEAM==", subscription_id="sub", recurrence="monthly")
    failed = {"cancelled_at": "2026-11-10T00:00:00Z", "cancelled_due_to_payment_failures": "true"}
    shop.ping(subscription_ping("cancellation", "sub", **failed))
    assert shop.code(key) == "SUSPENDED"
    shop.ping(
        subscription_ping("subscription_ended", "sub", ended_at="2026-11-10T00:00:00Z", ended_reason="failed_payment")
    )
    assert (record(shop)["inactive_reason"], shop.code(key)) == ("ended", "EXPIRED")
