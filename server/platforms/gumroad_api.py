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
from server.domain.license import EARLIEST, LATEST
from server.domain.purchase import PAID, EventKind, PurchaseEvent
from server.errors import BadRequest, Disowned, PlatformUnreachable
from server.platforms.base import Page
from server.platforms.document import Document
from server.platforms.web_client import PATIENT, NoSuchSale, get_json

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
        """The event, once its sale was read back: what it says must be so, and the rest is what Gumroad says.

        Raises Disowned where Gumroad tells the sale otherwise, NoSuchSale where it knows none; PlatformUnreachable
        where nothing is known.
        """
        sale_id = event.sale_id or ""
        status, found = self._get(f"/v2/sales/{quote(sale_id, safe='')}", {})
        if status == 404 or ("success" in found and not found.flag("success")):
            raise NoSuchSale("Gumroad knows no such sale")
        sale = found.part("sale")
        if sale.text("id") != sale_id:
            raise PlatformUnreachable("Gumroad answers with something that is not the sale")
        _require_same(event, sale)
        _require_state(event, sale)
        return msgspec.structs.replace(event, inquiry=None, **_last_word(event, sale))

    def page(self, since: datetime, at: str | None) -> Page:
        """Ten sales, the newest first, with what went wrong with each; `after` is a whole day, in UTC."""
        wanted = {"after": f"{since.astimezone(UTC):%Y-%m-%d}"} | ({"page_key": at} if at else {})
        status, found = self._get("/v2/sales", wanted, PATIENT)
        if status == 404 or not found.flag("success") or "sales" not in found:
            raise PlatformUnreachable("Gumroad answers with something that is not its list of sales")
        events: list[PurchaseEvent] = []
        unreadable = 0
        for sale in found.parts("sales"):
            try:
                events += list(sale_events(sale))  # all of a sale or nothing: one without its refund would be paid
            except BadRequest:
                unreadable += 1
        return Page(tuple(events), found.text("next_page_key"), unreadable)

    def _get(
        self, path: str, wanted: dict[str, str], timeout: tuple[float, float] | None = None
    ) -> tuple[int, Document]:
        try:
            return get_json(f"{self._base}{path}", {"access_token": self._token} | wanted, timeout)
        except PlatformUnreachable as error:
            if not error.is_refused:
                raise
            why = "it was revoked, or it lacks the scope view_sales"
            raise PlatformUnreachable(f"Gumroad refuses GUMROAD_ACCESS_TOKEN: {why}", is_refused=True) from None


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
        product_aliases=(permalink,) if (permalink := sale.text("product_permalink")) else (),
        product_name=sale.text("product_name"),
        variants=_variants(sale) or (),
        quantity=sale.number("quantity", low=1, high=100_000) or 1,
        price=money.told(_price(sale), "usd"),
        currency="usd",
        fee=money.told(sale.number("gumroad_fee") or 0, "usd"),
        purchase_date=_moment(sale),
        is_recurring=is_recurring,
        is_refunded=sale.flag("refunded"),
        is_disputed=(sale.flag("disputed") or sale.flag("chargedback")) and not sale.flag("dispute_won"),
        country=sale.text("country"),
        months=MONTHS.get(sale.text("subscription_duration") or "") if subscription_id else None,
        raw=sale.as_json(),
    )


def _price(sale: Document) -> int:
    """As the ping has it: without the tax and the shipping that the seller collects, which the API's price holds."""
    extra = (sale.number("tax_cents") or 0) + (sale.number("shipping_cents") or 0)
    return max(0, (sale.number("price") or 0) - extra)


def _variants(sale: Document) -> tuple[str, ...] | None:
    """None where they are not told; a sale that has none leaves them out."""
    variants = sale.values.get("variants")
    if isinstance(variants, dict):
        return tuple(dict.fromkeys(str(name) for name in variants.values() if name))
    return () if variants is None and _is_whole(sale) else None


def _moment(sale: Document) -> datetime | None:
    text = sale.text("created_at")
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise BadRequest(f"created_at: {text!r:.40} is no date and time") from None
    if found is None or found.tzinfo is None:
        return None
    if not EARLIEST <= found <= LATEST:
        raise BadRequest(f"created_at: {text!r:.40} is not between {EARLIEST:%Y} and {LATEST:%Y}")
    return found.astimezone(UTC)


def _last_word(event: PurchaseEvent, sale: Document) -> dict[str, object]:
    """What else decides who gets what, and for how long, where Gumroad tells it: to whom, when, which tier, for which
    period; and whether it went back by now."""
    theirs = _charge(sale)
    said: dict[str, object] = {
        "email": theirs.email,
        "customer_name": theirs.customer_name,
        "purchase_date": theirs.purchase_date,
        "variants": _variants(sale),
        "months": theirs.months,
    }
    if event.event in PAID:
        said |= {"is_refunded": theirs.is_refunded, "is_disputed": theirs.is_disputed}
    return {name: value for name, value in said.items() if value is not None}


def _require_same(event: PurchaseEvent, sale: Document) -> None:
    """What the sale is known by. A price is no such thing: it decides nothing here."""
    told: dict[str, tuple[object, object]] = {
        "product_id": (event.source_product_id, sale.text("product_id")),
        "quantity": (event.quantity, sale.number("quantity", low=1, high=100_000)),
        "subscription_id": (
            event.subscription_id or "",
            sale.text("subscription_id") or ("" if _is_whole(sale) else None),
        ),
    }
    if event.event in PAID and _is_whole(sale):
        told["is_recurring_charge"] = (event.event is EventKind.RENEWAL, _is_renewal(sale))
        told["is_preorder_authorization"] = (False, sale.flag("is_preorder_authorization"))
    for name, (ours, theirs) in told.items():
        if theirs is not None and ours != theirs:
            raise Disowned(f"Gumroad's own record of this sale has another {name}")


def _is_renewal(sale: Document) -> bool:
    """As the ping has it: for the API a gift's receiver, too, is no original buyer (purchase.rb)."""
    return sale.flag("recurring_charge") and not sale.flag("is_gift_receiver_purchase")


def _is_whole(sale: Document) -> bool:
    """Whether what is missing is not so: Gumroad leaves out what a sale has not, and never this flag."""
    return "is_recurring_billing" in sale


def _require_state(event: PurchaseEvent, sale: Document) -> None:
    """A refund or a dispute that the API denies takes nothing from the customer."""
    names = [name for name in _STATES.get(event.event, ()) if name in sale]
    if names and not any(sale.flag(name) for name in names):
        raise Disowned(f"Gumroad's own record of this sale tells of no {event.event}")
