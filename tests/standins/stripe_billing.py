"""Stripe's objects of subscriptions: invoices, their lines and payments. As in stripe_objects.py: `old=True` gives the
shape before 2025-03-31.basil, `more` replaces or adds any field."""

from __future__ import annotations

from typing import Any

from tests.standins.http import Json
from tests.standins.stripe_objects import MONTH, WHEN, listed, nulls, price


def invoice_line(
    id: str = "il_1",
    subscription: str = "sub_1",
    product: str = "prod_1",
    quantity: int = 1,
    amount: int = 2500,
    *,
    period: tuple[int, int] = (WHEN, WHEN + MONTH),
    proration: bool = False,
    price_id: str = "price_1",
    invoice: str = "in_1",
    livemode: bool = True,
    old: bool = False,
    **more: Any,
) -> Json:
    item = {"subscription": subscription, "subscription_item": f"si_{subscription[4:]}", "proration": proration}
    told = {
        "id": id,
        "object": "line_item",
        "amount": amount,
        "currency": "usd",
        "description": f"{quantity} x Team",
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice,
        "livemode": livemode,
        "metadata": {},
        "period": {"start": period[0], "end": period[1]},
        "pretax_credit_amounts": [],
        "quantity": quantity,
    }
    each = price(price_id, product, amount // max(quantity, 1), interval="month")
    if old:
        told |= item | {"type": "subscription", "price": each, "plan": _plan(each), "tax_amounts": [], "tax_rates": []}
        return told | {"proration_details": {"credited_items": None}} | more
    details = item | {"invoice_item": None, "proration_details": {"credited_items": None}}
    parent = {"type": "subscription_item_details", "invoice_item_details": None, "subscription_item_details": details}
    pricing = {"type": "price_details", "price_details": {"price": price_id, "product": product}}
    pricing["unit_amount_decimal"] = each["unit_amount_decimal"]
    return told | {"parent": parent, "pricing": pricing, "subtotal": amount, "taxes": []} | more


def invoice(
    id: str = "in_1",
    subscription: str | None = "sub_1",
    email: str = "ann@example.com",
    amount: int = 2500,
    *,
    billing_reason: str = "subscription_cycle",
    status: str = "paid",
    period: tuple[int, int] = (WHEN, WHEN + MONTH),
    product: str = "prod_1",
    quantity: int = 1,
    lines: list[Json] | None = None,
    customer: str = "cus_1",
    metadata: dict[str, str] | None = None,
    payment_intent: str | None = "pi_1",
    charge: str | None = "ch_1",
    created: int = WHEN,
    livemode: bool = True,
    old: bool = False,
    **more: Any,
) -> Json:
    """`metadata` is the subscription's, copied. `payment_intent` and `charge` are only told in the old shape: now
    `payments` tells them, where it is expanded."""
    is_paid = status == "paid"
    if lines is None:
        at: Json = {"period": period, "invoice": id, "livemode": livemode, "old": old}
        lines = [invoice_line(f"il_{id[3:]}", subscription, product, quantity, amount, **at)] if subscription else []
    told = nulls(
        "account_name account_tax_ids application automatically_finalizes_at custom_fields customer_address "
        "customer_phone customer_shipping default_payment_method default_source description due_date footer "
        "from_invoice last_finalization_error latest_revision on_behalf_of receipt_number rendering shipping_cost "
        "shipping_details statement_descriptor test_clock"
    ) | {
        "id": id,
        "object": "invoice",
        "account_country": "US",
        "amount_due": amount,
        "amount_paid": amount if is_paid else 0,
        "amount_remaining": 0 if is_paid else amount,
        "amount_shipping": 0,
        "attempt_count": 1,
        "attempted": True,
        "auto_advance": not is_paid,
        "automatic_tax": {"enabled": False, "liability": None, "status": None, "disabled_reason": None},
        "billing_reason": billing_reason,
        "collection_method": "charge_automatically",
        "created": created,
        "currency": "usd",
        "customer": customer,
        "customer_email": email,
        "customer_name": "Jane Doe",
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "effective_at": created,
        "ending_balance": 0,
        "hosted_invoice_url": f"https://invoice.stripe.com/i/{id}",
        "invoice_pdf": f"https://pay.stripe.com/invoice/{id}/pdf",
        "issuer": {"type": "self"},
        "lines": listed(lines, f"/v1/invoices/{id}/lines"),
        "livemode": livemode,
        "metadata": {},
        "next_payment_attempt": None,
        "number": f"SHOP-{id[3:]}",
        "payment_settings": nulls("default_mandate payment_method_options payment_method_types"),
        "period_end": created,  # not the new period: that is the lines'
        "period_start": created,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": status,
        "status_transitions": nulls("marked_uncollectible_at voided_at")
        | {"finalized_at": created, "paid_at": created if is_paid else None},
        "subtotal": amount,
        "subtotal_excluding_tax": amount,
        "total": amount,
        "total_discount_amounts": [],
        "total_excluding_tax": amount,
        "total_pretax_credit_amounts": [],
        "webhooks_delivered_at": created,
    }
    if old:
        told |= {"subscription": subscription, "subscription_details": {"metadata": metadata or {}}, "paid": is_paid}
        told |= {"payment_intent": payment_intent if amount else None, "charge": charge if amount else None}
        return told | nulls("discount quote tax transfer_data") | {"paid_out_of_band": False} | more
    details = {"metadata": metadata or {}, "subscription": subscription}
    parent = {"type": "subscription_details", "quote_details": None, "subscription_details": details}
    told |= {"parent": parent if subscription else None, "amount_overpaid": 0, "total_taxes": []}
    return told | {"customer_account": None} | more


def invoice_payment(
    id: str = "inpay_1",
    invoice: str = "in_1",
    payment_intent: str = "pi_1",
    amount: int = 2500,
    *,
    status: str = "paid",
    created: int = WHEN,
    livemode: bool = True,
    **more: Any,
) -> Json:
    told = {
        "id": id,
        "object": "invoice_payment",
        "amount_paid": amount if status == "paid" else None,
        "amount_requested": amount,
        "created": created,
        "currency": "usd",
        "invoice": invoice,
        "is_default": True,
        "livemode": livemode,
        "payment": {"type": "payment_intent", "payment_intent": payment_intent},
        "status": status,
        "status_transitions": {"canceled_at": None, "paid_at": created if status == "paid" else None},
    }
    return told | more


def subscription(
    id: str = "sub_1",
    product: str = "prod_1",
    quantity: int = 1,
    *,
    status: str = "active",
    period: tuple[int, int] = (WHEN, WHEN + MONTH),
    amount: int = 2500,
    price_id: str = "price_1",
    customer: str = "cus_1",
    latest_invoice: str | None = "in_1",
    metadata: dict[str, str] | None = None,
    created: int = WHEN,
    livemode: bool = True,
    old: bool = False,
    **more: Any,
) -> Json:
    """`amount` is of one seat. The paid period is the item's, in the old shape the subscription's."""
    span = {"current_period_start": period[0], "current_period_end": period[1]}
    each = price(price_id, product, amount, interval="month", livemode=livemode)
    item: Json = {
        "id": f"si_{id[4:]}",
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": created,
        "discounts": [],
        "metadata": {},
        "plan": _plan(each),
        "price": each,
        "quantity": quantity,
        "subscription": id,
        "tax_rates": [],
    }
    told = nulls(
        "application application_fee_percent billing_cycle_anchor_config billing_thresholds cancel_at canceled_at "
        "days_until_due default_payment_method default_source description ended_at next_pending_invoice_item_invoice "
        "on_behalf_of pause_collection pending_invoice_item_interval pending_setup_intent pending_update schedule "
        "test_clock transfer_data trial_end trial_start"
    ) | {
        "id": id,
        "object": "subscription",
        "automatic_tax": {"enabled": False, "liability": None, "disabled_reason": None},
        "billing_cycle_anchor": created,
        "cancel_at_period_end": False,
        "cancellation_details": nulls("comment feedback reason"),
        "collection_method": "charge_automatically",
        "created": created,
        "currency": "usd",
        "customer": customer,
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": listed([item if old else item | span], f"/v1/subscription_items?subscription={id}"),
        "latest_invoice": latest_invoice,
        "livemode": livemode,
        "metadata": metadata or {},
        "payment_settings": nulls("payment_method_options payment_method_types")
        | {"save_default_payment_method": "off"},
        "start_date": created,
        "status": status,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
    }
    if old:
        return told | span | {"discount": None, "plan": _plan(each), "quantity": quantity} | more
    told |= {"billing_mode": {"type": "classic"}, "billing_schedules": [], "managed_payments": {"enabled": False}}
    return told | {"customer_account": None} | more


def _plan(of: Json) -> Json:
    kept = {name: of[name] for name in ("id", "active", "billing_scheme", "created", "currency", "livemode", "product")}
    span = {name: of["recurring"][name] for name in ("interval", "interval_count", "usage_type", "trial_period_days")}
    amount = {"amount": of["unit_amount"], "amount_decimal": of["unit_amount_decimal"]}
    return kept | span | amount | {"object": "plan", "metadata": {}, "nickname": None}
