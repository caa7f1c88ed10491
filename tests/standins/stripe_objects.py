"""Stripe's objects in their real shape, whole, as API version 2026-10-28.endive has them: https://docs.stripe.com/api

`old=True` gives the shape before 2025-03-31.basil. The API answers in the version that the caller asks for (the
library pins its own), so old shapes come in webhooks only: there the endpoint's version decides.

`more` replaces or adds any field. Money is minor units, times are Unix seconds.
"""

from __future__ import annotations

import json
from typing import Any

from tests.standins.http import Json

VERSION, OLD_VERSION = "2026-10-28.endive", "2024-12-18.acacia"
WHEN = 1_794_000_000  # 2026-11-06
MONTH = 30 * 86400


def _nulls(names: str) -> Json:
    return dict.fromkeys(names.split())


def listed(data: list[Json], url: str, has_more: bool = False) -> Json:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def price(
    id: str = "price_1", product: str = "prod_1", amount: int = 4900, *, interval: str | None = None, **more: Any
) -> Json:
    recurring = {"interval": interval, "interval_count": 1, "usage_type": "licensed"} | _nulls(
        "meter trial_period_days"
    )
    told = _nulls("custom_unit_amount lookup_key nickname tiers_mode transform_quantity") | {
        "id": id,
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": WHEN - MONTH,
        "currency": "usd",
        "livemode": True,
        "metadata": {},
        "product": product,
        "recurring": recurring if interval else None,
        "tax_behavior": "unspecified",
        "type": "recurring" if interval else "one_time",
        "unit_amount": amount,
        "unit_amount_decimal": str(amount),
    }
    return told | more


def session(
    id: str = "cs_live_1",
    email: str = "ann@example.com",
    amount: int = 4900,
    *,
    created: int = WHEN,
    mode: str = "payment",
    payment_status: str = "paid",
    payment_intent: str | None = "pi_1",
    subscription: str | None = None,
    invoice: str | None = None,
    customer: str | None = None,
    payment_link: str | None = "plink_1",
    metadata: dict[str, str] | None = None,
    livemode: bool = True,
    old: bool = False,
    **more: Any,
) -> Json:
    """Without line_items: they come by expansion or from their own list."""
    address = _nulls("city line1 line2 state") | {"country": "US", "postal_code": "12207"}
    buyer = {"address": address, "email": email, "name": "Jane Doe", "phone": None, "tax_exempt": "none", "tax_ids": []}
    told = _nulls(
        "after_expiration allow_promotion_codes billing_address_collection cancel_url client_reference_id client_secret "
        "consent consent_collection currency_conversion customer_email locale payment_method_collection "
        "payment_method_configuration_details recovered_from setup_intent shipping_address_collection shipping_cost "
        "submit_type url"
    ) | {
        "id": id,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": False},
        "amount_subtotal": amount,
        "amount_total": amount,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "created": created,
        "currency": "usd",
        "custom_fields": [],
        "custom_text": _nulls("after_submit shipping_address submit terms_of_service_acceptance"),
        "customer": customer,
        "customer_creation": "if_required",
        "customer_details": buyer,
        "expires_at": created + 86400,
        "invoice": invoice,
        "invoice_creation": {"enabled": False, "invoice_data": None} if mode == "payment" else None,
        "livemode": livemode,
        "metadata": metadata or {},
        "mode": mode,
        "payment_intent": payment_intent if mode == "payment" and amount else None,
        "payment_link": payment_link,
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "payment_status": payment_status,
        "phone_number_collection": {"enabled": False},
        "saved_payment_method_options": None,
        "shipping_options": [],
        "status": "complete",
        "subscription": subscription,
        "success_url": "https://stripe.com",
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted" if old else "hosted_page",
    }
    if not old:
        told |= _nulls("collected_information customer_account discounts integration_identifier origin_context ")
        told |= _nulls("permissions presentment_details wallet_options") | {"managed_payments": {"enabled": False}}
        told["customer_details"] = buyer | _nulls("business_name individual_name")
    return told | more


def line_item(
    id: str = "li_1",
    product: str = "prod_1",
    quantity: int = 1,
    amount: int = 4900,
    *,
    price_id: str = "price_1",
    interval: str | None = None,
    **more: Any,
) -> Json:
    """One line of a checkout session; `amount` is its total. It has no livemode of its own."""
    told = {
        "id": id,
        "object": "item",
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": "usd",
        "description": "Wave",
        "price": price(price_id, product, amount // max(quantity, 1), interval=interval),
        "quantity": quantity,
    }
    return told | more


def charge(
    id: str = "ch_1",
    payment_intent: str | None = "pi_1",
    amount: int = 4900,
    *,
    amount_refunded: int = 0,
    disputed: bool = False,
    email: str = "ann@example.com",
    customer: str | None = None,
    invoice: str | None = None,
    created: int = WHEN,
    livemode: bool = True,
    old: bool = False,
    **more: Any,
) -> Json:
    """`invoice` is only told in the old shape. `refunds` are not in it unless expanded."""
    address = _nulls("city country line1 line2 postal_code state")
    card = {"brand": "visa", "country": "US", "exp_month": 8, "exp_year": 2030, "funding": "credit", "last4": "4242"}
    told = _nulls(
        "application application_fee application_fee_amount calculated_statement_descriptor description "
        "failure_balance_transaction failure_code failure_message on_behalf_of receipt_email receipt_number review "
        "shipping source_transfer statement_descriptor statement_descriptor_suffix transfer_data transfer_group"
    ) | {
        "id": id,
        "object": "charge",
        "amount": amount,
        "amount_captured": amount,
        "amount_refunded": amount_refunded,
        "balance_transaction": f"txn_{id[3:]}",
        "billing_details": {"address": address, "email": email, "name": "Jane Doe", "phone": None, "tax_id": None},
        "captured": True,
        "created": created,
        "currency": "usd",
        "customer": customer,
        "disputed": disputed,
        "fraud_details": {},
        "livemode": livemode,
        "metadata": {},
        "outcome": {"network_status": "approved_by_network", "risk_level": "normal", "type": "authorized"},
        "paid": True,
        "payment_intent": payment_intent,
        "payment_method": f"pm_{id[3:]}",
        "payment_method_details": {"card": card | {"network": "visa", "wallet": None}, "type": "card"},
        "receipt_url": f"https://pay.stripe.com/receipts/payment/{id}",
        "refunded": amount_refunded >= amount > 0,
        "status": "succeeded",
    }
    return told | ({"invoice": invoice, "destination": None, "order": None} if old else {}) | more


def refund(
    id: str = "re_1",
    charge: str = "ch_1",
    payment_intent: str | None = "pi_1",
    amount: int = 4900,
    *,
    status: str = "succeeded",
    created: int = WHEN,
    **more: Any,
) -> Json:
    """`amount` is of this refund alone. A refund has no livemode: its charge's decides."""
    how = {"reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund"}
    told = _nulls("receipt_number source_transfer_reversal transfer_reversal") | {
        "id": id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": f"txn_{id[3:]}",
        "charge": charge,
        "created": created,
        "currency": "usd",
        "destination_details": {"card": how, "type": "card"},
        "metadata": {},
        "payment_intent": payment_intent,
        "reason": "requested_by_customer",
        "status": status,
    }
    return told | more


def dispute(
    id: str = "du_1",
    charge: str = "ch_1",
    payment_intent: str | None = "pi_1",
    amount: int = 4900,
    *,
    status: str = "needs_response",
    reason: str = "fraudulent",
    created: int = WHEN,
    livemode: bool = True,
    **more: Any,
) -> Json:
    evidence = _nulls("customer_email_address customer_name product_description receipt uncategorized_text")
    due = {"due_by": created + 9 * 86400, "has_evidence": False, "past_due": False, "submission_count": 0}
    card = {"brand": "visa", "case_type": "chargeback", "network_reason_code": "10.4"}
    told = {
        "id": id,
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge,
        "created": created,
        "currency": "usd",
        "enhanced_eligibility_types": [],
        "evidence": evidence | {"enhanced_evidence": {}},
        "evidence_details": due | {"enhanced_eligibility": {}},
        "is_charge_refundable": status.startswith("warning"),
        "livemode": livemode,
        "metadata": {},
        "payment_intent": payment_intent,
        "payment_method_details": {"card": card, "type": "card"},
        "reason": reason,
        "status": status,
    }
    return told | more


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
        "description": f"{quantity} × Team",
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
    told = _nulls(
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
        "payment_settings": _nulls("default_mandate payment_method_options payment_method_types"),
        "period_end": created,  # not the new period: that is the lines'
        "period_start": created,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": status,
        "status_transitions": _nulls("marked_uncollectible_at voided_at")
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
        return told | _nulls("discount quote tax transfer_data") | {"paid_out_of_band": False} | more
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
    item = {
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
    told = _nulls(
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
        "cancellation_details": _nulls("comment feedback reason"),
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
        "payment_settings": _nulls("payment_method_options payment_method_types")
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


def event(
    type: str,
    object: Json,
    previous: Json | None = None,
    *,
    created: int = WHEN,
    livemode: bool = True,
    id: str = "evt_1",
    old: bool = False,
    **more: Any,
) -> Json:
    """A webhook's envelope. `old` is the endpoint's version: give it an object of the old shape."""
    told = {
        "id": id,
        "object": "event",
        "api_version": OLD_VERSION if old else VERSION,
        "created": created,
        "data": {"object": object} | ({} if previous is None else {"previous_attributes": previous}),
        "livemode": livemode,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": type,
    }
    return told | more


def signed(event: Json, secret: str, timestamp: int | None = None) -> tuple[bytes, dict[str, str]]:
    """Body and headers as Stripe delivers them, signed by its own library; without `timestamp`: now."""
    from stripe import WebhookSignature

    body = json.dumps(event, indent=2, ensure_ascii=False)
    signature: str = WebhookSignature.generate_signature_header(body, secret, timestamp)  # type: ignore[no-untyped-call]
    return body.encode(), {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature,
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
    }
