"""Gumroad's API as its own source has it (antiwork/gumroad: api/v2/sales_controller.rb, models/purchase.rb `as_json`
version 2, config/initializers/rack_attack.rb): https://gumroad.com/api#sales

What surprises, and is so:
- a sale that is not there is HTTP 200 with `success: false` (the documentation says 404: set `unknown_status`)
- 401 and 403 have no body; a 429 comes from Rack::Attack as text and without Retry-After
- the list tells successful charges and free trials only: never a gift's receiver, a pre-order's authorization or a test
- `email` is the buyer's account's, `purchase_email` the one typed at the checkout, which is the ping's `email`
- `refunded` is missing where nothing was ever charged; `disputed` stays true after a win, `chargedback` does not
- `created_at` has whole seconds in UTC; `after` (from its 00:00 UTC) and `before` (until its 00:00 UTC) are dates
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from itertools import count
from typing import Any
from urllib.parse import quote, unquote

from tests.standins.http import Answer, Asked, Json, StandIn

TOKEN = "gumroad-token-of-the-tests"
PER_PAGE = 10
WHEN = datetime(2026, 11, 5, 19, 38, 56, tzinfo=UTC)
FORMAT = "Dates must be in the format YYYY-MM-DD."
TOO_SLOW = "Query timed out. Try narrowing your date range with 'after'/'before' or filtering by product_id."
DEPRECATED = "The 'page' parameter is deprecated. Please use 'page_key' instead: https://gumroad.com/api#sales"
_serial = count(524459935)


def external_id(seed: str) -> str:
    """An id as Gumroad encrypts it: urlsafe base64 of one AES block, with its padding."""
    return urlsafe_b64encode(hashlib.sha256(seed.encode()).digest()[:16]).decode()


def sale(
    id: str,
    email: str = "ann@example.com",
    product_id: str = "G-WAVE==",
    *,
    price: int = 2999,
    created_at: datetime = WHEN,
    quantity: int = 1,
    variants: dict[str, str] | None = None,
    custom_fields: dict[str, str] | None = None,
    license_key: str | None = "85DB562A-C11D4B06-A2335A6B-8C079166",
    subscription_id: str | None = None,
    recurring_charge: bool = False,
    **more: Any,
) -> Json:
    """A sale as the API tells it. `price` and all `*_cents` are USD cents, whatever the listing currency. None in
    `more` leaves a field out, as Gumroad does."""
    money, names = f"{price / 100:.2f}".removesuffix(".00"), variants or {}
    period = " a month" if subscription_id else ""
    told: Json = {
        "id": id,
        "email": email,
        "seller_id": "seller==",
        "timestamp": "3 days ago",
        "daystamp": f"{created_at:%e %b %Y %l:%M %p}",  # in the seller's time zone, space-padded
        "created_at": f"{created_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "product_name": "Wave",
        "product_has_variants": bool(variants),
        "price": price,
        "gumroad_fee": 0 if price == 0 else round(price * 0.129) + 80,
        "is_bundle_purchase": False,
        "is_bundle_product_purchase": False,
        "subscription_duration": "monthly" if subscription_id else None,
        "formatted_display_price": f"${money}{period}",
        "formatted_total_price": f"${money}{period}",
        "currency_symbol": "$",
        "currency": "usd",
        "amount_refundable_in_currency": money,
        "product_id": product_id,
        "product_permalink": "wave",
        "refunded": False if price else None,
        "partially_refunded": False,
        "chargedback": False,
        "purchase_email": email,
        "full_name": "Jane Doe",
        "zip_code": "12207",
        "state": "NY",
        "country": "United States",
        "paid": price != 0,
        "has_variants": bool(variants),
        "variants": variants,
        "variants_and_quantity": f"({', '.join(names.values())})" if names else "",
        "has_custom_fields": bool(custom_fields),
        "custom_fields": custom_fields or {},
        "order_id": next(_serial),
        "is_product_physical": False,
        "purchaser_id": "5550321502811",
        "is_recurring_billing": subscription_id is not None,
        "can_contact": True,
        "is_following": False,
        "disputed": False,
        "dispute_won": False,
        "is_additional_contribution": False,
        "discover_fee_charged": False,
        "is_upgrade_purchase": False,
        "is_more_like_this_recommended": False,
        "is_gift_sender_purchase": False,
        "is_gift_receiver_purchase": False,
        "referrer": "direct",
        "invoice_url": f"https://gumroad.com/purchases/{quote(id)}/invoice/new?email={quote(email)}",
        "paypal_refund_expired": False,
        "tax_cents": 0,
        "shipping_cents": 0,
        "access_revoked": False,
        "variants_price_cents": 0,
        "sent_abandoned_cart_email": False,
    }
    card = {"visual": "**** **** **** 4242", "type": "visa"} if price else {"visual": None, "type": None}
    tail: Json = {"card": card | dict.fromkeys(("bin", "expiry_month", "expiry_year")), "product_rating": None}
    if subscription_id is not None:
        states = {"cancelled": False, "dead": False, "ended": False, "free_trial_ended": None}
        tail |= {"subscription_id": subscription_id} | states
        tail |= {"free_trial_ends_on": None, "recurring_charge": recurring_charge}
    if license_key is not None:
        tail |= {"license_key": license_key, "license_id": external_id(license_key), "license_disabled": False}
        tail |= {"license_uses": 0, "is_multiseat_license": False}
    told = {name: value for name, value in (told | more).items() if value is not None}
    return told | {name: more.get(name, value) for name, value in tail.items()} | {"quantity": quantity}


class GumroadApi(StandIn):
    credentials = ("access_token",)

    def __init__(self, *sales: Json, token: str = TOKEN) -> None:
        self.token = token
        self.is_forbidden = False  # True: the token lacks the scope view_sales
        self.unknown_status = 200
        self.sales: dict[str, Json] = {one["id"]: one for one in sales}
        self.tests: set[str] = set()  # ids of sales that the seller made to himself
        super().__init__()

    def add(self, *sales: Json) -> None:
        self.sales |= {one["id"]: one for one in sales}

    def answer(self, asked: Asked) -> Answer:
        if self.token not in (asked.bearer, asked.find("access_token")):
            error = 'error="invalid_token", error_description="The access token is invalid"'
            return Answer(401, b"", {"WWW-Authenticate": f'Bearer realm="Doorkeeper", {error}'})
        if self.is_forbidden:
            return Answer(403)
        if asked.method == "GET" and asked.path in ("/v2/sales", "/v2/sales.json"):
            return self._list(asked)
        one = re.fullmatch(r"/v2/sales/([^/.]+)", asked.path)
        if asked.method != "GET" or one is None:
            return Answer(404, {"success": False, "error": "Not found"})
        found = self.sales.get(unquote(one[1]))
        if found is None:
            return Answer(self.unknown_status, {"success": False, "message": "The sale was not found."})
        return Answer(200, {"success": True, "sale": found})

    def fault(self, status: int) -> Answer:
        if status == 429:
            return Answer(429, b"Retry later\n")
        if status == 400:
            return _refused(TOO_SLOW)
        return Answer(status, b"<!DOCTYPE html><title>Gumroad</title>", {"Content-Type": "text/html"})

    def _list(self, asked: Asked) -> Answer:
        dates: dict[str, str] = {}
        for name in ("before", "after"):
            try:
                if (given := asked.find(name)) is not None:
                    dates[name] = datetime.strptime(given, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
            except ValueError:
                return _refused(f"Invalid date format provided in field '{name}'. {FORMAT}")
        if not re.fullmatch(r"[\w-]+={0,2}|", asked.find("product_id") or ""):
            return _refused("Invalid product ID.")
        if asked.find("page"):
            return _refused(DEPRECATED)
        rows = self._newest_first()
        if key := asked.find("page_key"):
            orders = [str(one["order_id"]) for one in rows]
            if (last := key.partition("-")[2]) not in orders:
                return _refused("Invalid page_key.")
            rows = rows[orders.index(last) + 1 :]
        rows = [one for one in rows if _matches(one, asked, dates)]
        page = rows[:PER_PAGE]
        return Answer(200, {"success": True, "sales": page} | (_next(asked, page[-1]) if rows[PER_PAGE:] else {}))

    def _newest_first(self) -> list[Json]:
        """Of two of one second the one that was added later comes first."""
        hidden = ("is_gift_receiver_purchase", "is_preorder_authorization")
        listed = [one for one in self.sales.values() if not any(one.get(name) for name in hidden)]
        listed = [one for one in reversed(listed) if one["id"] not in self.tests]
        return sorted(listed, key=lambda one: one["created_at"], reverse=True)


def _matches(one: Json, asked: Asked, dates: dict[str, str]) -> bool:
    if one["created_at"] < dates.get("after", "") or one["created_at"] >= dates.get("before", "9"):
        return False
    loose = {"email": one["purchase_email"], "license_key": one.get("license_key", ""), "order_id": one["order_id"]}
    given = {name: (asked.find(name) or "").strip().lower() for name in loose}
    product = asked.find("product_id") or one["product_id"]
    return product == one["product_id"] and all(v in ("", str(loose[n]).lower()) for n, v in given.items())


def _next(asked: Asked, last: Json) -> Json:
    """A path without host, its query sorted by name and without the token."""
    key = re.sub(r"[^0-9]", "", last["created_at"]) + f"000000-{last['order_id']}"
    kept = {n: v for n, v in asked.query if n not in ("access_token", "page", "page_key")} | {"page_key": key}
    query = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in sorted(kept.items()))
    return {"next_page_key": key, "next_page_url": f"{asked.path}?{query}"}


def _refused(error: str) -> Answer:
    return Answer(400, {"status": 400, "error": error})
