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


def nulls(names: str) -> Json:
    return dict.fromkeys(names.split())


def listed(data: list[Json], url: str, has_more: bool = False) -> Json:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def price(
    id: str = "price_1", product: str = "prod_1", amount: int = 4900, *, interval: str | None = None, **more: Any
) -> Json:
    recurring = {"interval": interval, "interval_count": 1, "usage_type": "licensed"} | nulls("meter trial_period_days")
    told = nulls("custom_unit_amount lookup_key nickname tiers_mode transform_quantity") | {
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
    address = nulls("city line1 line2 state") | {"country": "US", "postal_code": "12207"}
    buyer: Json = {"address": address, "email": email, "name": "Jane Doe", "phone": None, "tax_exempt": "none"}
    told = nulls(
        "after_expiration allow_promotion_codes billing_address_collection cancel_url client_reference_id "
        "client_secret consent consent_collection currency_conversion customer_email locale payment_method_collection "
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
        "custom_text": nulls("after_submit shipping_address submit terms_of_service_acceptance"),
        "customer": customer,
        "customer_creation": "if_required",
        "customer_details": buyer | {"tax_ids": []},
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
        told |= nulls("collected_information customer_account discounts integration_identifier origin_context")
        told |= nulls("permissions presentment_details wallet_options") | {"managed_payments": {"enabled": False}}
        told["customer_details"] |= nulls("business_name individual_name")
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
    address = nulls("city country line1 line2 postal_code state")
    card = {"brand": "visa", "country": "US", "exp_month": 8, "exp_year": 2030, "funding": "credit", "last4": "4242"}
    told = nulls(
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


def payment_intent(
    id: str = "pi_1",
    amount: int = 4900,
    *,
    status: str = "succeeded",
    latest_charge: str | None = "ch_1",
    created: int = WHEN,
    livemode: bool = True,
    **more: Any,
) -> Json:
    told = nulls(
        "application application_fee_amount canceled_at cancellation_reason customer customer_account description "
        "last_payment_error next_action on_behalf_of presentment_details processing receipt_email review "
        "setup_future_usage shipping source statement_descriptor statement_descriptor_suffix transfer_data "
        "transfer_group"
    ) | {
        "id": id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": amount if status == "succeeded" else 0,
        "capture_method": "automatic_async",
        "client_secret": f"{id}_secret_standin",
        "confirmation_method": "automatic",
        "created": created,
        "currency": "usd",
        "latest_charge": latest_charge,
        "livemode": livemode,
        "metadata": {},
        "payment_method": f"pm_{id[3:]}",
        "payment_method_options": {"card": nulls("installments mandate_options network")},
        "payment_method_types": ["card"],
        "status": status,
    }
    return told | more


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
    told = nulls(
        "customer customer_account payment_method receipt_number source_transfer_reversal transfer_reversal"
    ) | {
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
    evidence = nulls("customer_email_address customer_name product_description receipt uncategorized_text")
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
    signature = WebhookSignature.generate_signature_header(body, secret, timestamp)
    return body.encode(), {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature,
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
    }
