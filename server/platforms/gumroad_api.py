"""What is asked of Gumroad's API: whether a sale that a ping told is real, and all that was sold.

https://gumroad.com/api#sales. Pings are unsigned, so with an access token the API has the last word on what was sold
and to whom. A sale that is not there is 200 with `success: false` (sales_controller.rb; the documentation says 404).
`price` is US cents; `purchase_email` is what pings call `email`. The list leaves out what a gift's receiver got.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec

from server.domain import money
from server.domain.purchase import EventKind, PurchaseEvent
from server.errors import BadRequest, Disowned
from server.platforms.base import Page
from server.platforms.document import Document
from server.platforms.web_client import PATIENT, get_json

MONTHS = {"monthly": 1, "quarterly": 3, "biannually": 6, "yearly": 12, "every_two_years": 24}
EVENT_IDS = {  # as the pings' are made
    EventKind.SALE: "{}:sale:false",
    EventKind.RENEWAL: "{}:sale:false",
    EventKind.REFUND: "{}:refund:true",
    EventKind.PARTIAL_REFUND: "{}:refund:false",
    EventKind.DISPUTE: "{}:dispute:false",
    EventKind.DISPUTE_WON: "{}:dispute_won:false",
    EventKind.DISPUTE_LOST: "{}:dispute_lost:false",
}
_STATES = {  # what a ping says went wrong with a sale, and how the API tells the same
    EventKind.REFUND: ("refunded",),
    EventKind.PARTIAL_REFUND: ("partially_refunded", "refunded"),
    EventKind.DISPUTE: ("disputed", "chargedback"),
    EventKind.DISPUTE_WON: ("dispute_won",),
}


class GumroadApi:
    def __init__(self, token: str, base: str) -> None:
        self._token, self._base = token, base

    def answer(self, event: PurchaseEvent) -> PurchaseEvent:
        """The event, once its sale was read back: what it says must be so, and the buyer is who Gumroad says.

        Raises Disowned where Gumroad knows no such sale, or another one; PlatformUnreachable where nothing is known.
        """
        sale_id = event.sale_id or ""
        status, found = get_json(f"{self._base}/v2/sales/{quote(sale_id, safe='')}", {"access_token": self._token})
        sale = found.part("sale")
        if status == 404 or not found.flag("success") or sale.text("id") != sale_id:
            raise Disowned("Gumroad knows no such sale")
        _require_same(event, sale)
        _require_state(event, sale)
        theirs = _charge(sale)
        told = {name: getattr(theirs, name) for name in ("email", "customer_name", "purchase_date")}
        known = {name: value for name, value in told.items() if value is not None}
        return msgspec.structs.replace(event, inquiry=None, **known)

    def page(self, since: datetime, at: str | None) -> Page:
        """Ten sales, the newest first, with what went wrong with each; `after` is a whole day, in UTC."""
        wanted = {"access_token": self._token, "after": f"{since.astimezone(UTC):%Y-%m-%d}"}
        _, found = get_json(f"{self._base}/v2/sales", wanted | ({"page_key": at} if at else {}), PATIENT)
        events: list[PurchaseEvent] = []
        unreadable = 0
        for sale in found.parts("sales"):
            try:
                events += sale_events(sale)
            except BadRequest:
                unreadable += 1
        return Page(tuple(events), found.text("next_page_key"), unreadable)


def sale_events(sale: Document) -> Iterator[PurchaseEvent]:
    """A sale of the list as the pings that it made. A gift's sender has no license; its receiver is not listed."""
    if sale.flag("is_gift_sender_purchase"):
        return
    charge = _charge(sale)
    yield charge
    told = {
        EventKind.REFUND: sale.flag("refunded"),
        EventKind.PARTIAL_REFUND: sale.flag("partially_refunded") and not sale.flag("refunded"),
        EventKind.DISPUTE: sale.flag("disputed") or sale.flag("chargedback"),
        EventKind.DISPUTE_WON: sale.flag("dispute_won"),
    }
    for kind in (kind for kind, is_so in told.items() if is_so):
        yield msgspec.structs.replace(charge, event=kind, event_id=EVENT_IDS[kind].format(charge.sale_id))


def _charge(sale: Document) -> PurchaseEvent:
    sale_id, subscription_id = sale.required("id"), sale.text("subscription_id")
    is_recurring = sale.flag("recurring_charge")
    variants = sale.values.get("variants")
    return PurchaseEvent(
        event=EventKind.RENEWAL if is_recurring else EventKind.SALE,
        event_id=EVENT_IDS[EventKind.SALE].format(sale_id),
        source="gumroad",
        sale_id=sale_id,
        subscription_id=subscription_id,
        source_license_key=sale.text("license_key"),
        customer_id=sale.text("purchaser_id"),
        email=sale.text("purchase_email") or sale.text("email"),
        customer_name=sale.text("full_name"),
        source_product_id=sale.text("product_id"),
        product_name=sale.text("product_name"),
        variants=tuple(str(name) for name in variants.values()) if isinstance(variants, dict) else (),
        quantity=sale.number("quantity", low=1, high=100_000) or 1,
        price=money.told(_price(sale), "usd"),
        currency="usd",
        fee=money.told(sale.number("gumroad_fee") or 0, "usd"),
        purchase_date=_moment(sale),
        is_recurring=is_recurring,
        is_refunded=sale.flag("refunded"),
        is_disputed=sale.flag("disputed"),
        country=sale.text("country"),
        months=MONTHS.get(sale.text("subscription_duration") or "") if subscription_id else None,
        raw=sale.as_json(),
    )


def _price(sale: Document) -> int:
    """As the ping has it: without the tax and the shipping that the seller collects, which the API's price holds."""
    extra = (sale.number("tax_cents") or 0) + (sale.number("shipping_cents") or 0)
    return max(0, (sale.number("price") or 0) - extra)


def _moment(sale: Document) -> datetime | None:
    text = sale.text("created_at")
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise BadRequest(f"created_at: {text!r:.40} is no date and time") from None
    return found.astimezone(UTC) if found and found.tzinfo else None


def _require_same(event: PurchaseEvent, sale: Document) -> None:
    """Only what decides who gets what. A price is no such thing: the ping and the API may tell it differently."""
    told = {
        "product_id": (event.source_product_id, sale.text("product_id")),
        "subscription_id": (event.subscription_id, sale.text("subscription_id")),
        "quantity": (event.quantity, sale.number("quantity", low=1, high=100_000)),
    }
    for name, (ours, theirs) in told.items():
        if theirs is not None and ours != theirs:
            raise Disowned(f"Gumroad's own record of this sale has another {name}")


def _require_state(event: PurchaseEvent, sale: Document) -> None:
    """A refund or a dispute that the API denies takes nothing from the customer."""
    names = [name for name in _STATES.get(event.event, ()) if name in sale]
    if names and not any(sale.flag(name) for name in names):
        raise Disowned(f"Gumroad's own record of this sale tells of no {event.event}")
