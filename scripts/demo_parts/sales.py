"""What platforms tell of sales that were made on their own pages, proven as each of them proves it."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import urlencode

from stripe import WebhookSignature

from scripts.demo_parts.shop import Shop

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
SALE = {
    "seller_id": "kL0psVL2admJSYRNs-OCMg==",
    "product_id": "32-nPAicqbLj8B_WswVlMw==",
    "product_name": "ImageWave Converter",
    "permalink": "imagewave",
    "short_product_id": "QMGY",
    "email": "ann@example.com",
    "full_name": "Ann Example",
    "price": "2999",
    "gumroad_fee": "350",
    "currency": "usd",
    "quantity": "1",
    "order_number": "524459935",
    "sale_id": "FO8TXN-dbxYaBdahG97Y-Q==",
    "sale_timestamp": "2026-11-05T19:38:56Z",
    "ip_country": "Poland",
    "is_gift_receiver_purchase": "false",
    "refunded": "false",
    "resource_name": "sale",
    "disputed": "false",
    "dispute_won": "false",
}
CHECKOUT = {
    "id": "cs_live_a1YS1URlnyQCN5fUUduORoQ7Pw41PJqDWk",
    "object": "checkout.session",
    "mode": "payment",
    "payment_status": "paid",
    "status": "complete",
    "amount_total": 2999,
    "currency": "eur",
    "created": 1794137936,
    "customer_details": {"email": "bea@example.com", "name": "Bea Example", "address": {"country": "DE"}},
    "payment_intent": "pi_3PgafyB7WZ01zgkW0SjxsAJo",
    "payment_link": "plink_1Pgc78B7WZ01zgkW",
    "livemode": True,
}
IPN = {
    "ccustname": "Cem Example",
    "ccustemail": "cem@example.com",
    "ccustcc": "TR",
    "ccuststate": "",
    "cproditem": "406519",
    "cprodtitle": "ImageWave Converter",
    "cprodtype": "STANDARD",
    "ctransaction": "SALE",
    "ctransreceipt": "9U7RZQUDEMO00001A",
    "ctransamount": "29.99",
    "ctranspaymentmethod": "PYPL",
    "ctransvendor": "1140863",
    "ctransaffiliate": "0",
    "ctranstime": "1794137936",
    "caffitid": "",
    "cupsellreceipt": "",
    "cvendthru": "",
}


def ping(shop: Shop, **more: str) -> dict[str, Any]:
    """As Gumroad sends it: a form, proven by the secret in the URL."""
    return shop.send(f"webhooks/gumroad?secret={shop.secret}", urlencode(SALE | more), {"Content-Type": FORM})


def checkout(shop: Shop) -> dict[str, Any]:
    """As Stripe sends it: JSON, signed over its bytes."""
    event = {"id": "evt_1", "object": "event", "type": "checkout.session.completed", "created": 1794137940}
    body = json.dumps({**event, "livemode": True, "data": {"object": CHECKOUT}})
    signature = WebhookSignature.generate_signature_header(body, shop.secret)
    return shop.send("webhooks/stripe", body, {"Content-Type": JSON, "Stripe-Signature": signature})


def ipn(shop: Shop) -> dict[str, Any]:
    """As JVZoo sends it: a form, signed by eight digits of a hash over its values."""
    told = "|".join([*(IPN[name] for name in sorted(IPN)), shop.secret])
    cverify = hashlib.sha1(told.encode()).hexdigest()[:8].upper()  # noqa: S324 (JVZoo's, not ours)
    return shop.send("webhooks/jvzoo", urlencode({**IPN, "cverify": cverify}), {"Content-Type": FORM})
