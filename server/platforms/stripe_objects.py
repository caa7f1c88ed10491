"""Stripe's objects as purchases: the same reading for a webhook's object and for one that its API lists. Here are its
checkouts, and what all objects have in common; stripe_billing and stripe_reversals read the others.

An object's shape follows the API version of whoever asked for it, so both are read: before 2025-03-31.basil and since.
https://docs.stripe.com/changelog/basil and https://docs.stripe.com/api
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from server.domain import money
from server.domain.catalogue import Item
from server.domain.order import is_order_id
from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.errors import BadRequest
from server.platforms.document import Document

NAME = "stripe"
ORDER = "keyledger_order"  # metadata of what our own store front sells: the order's id
OUR_IDS = ("product_id", "product", "keyledger_product")  # metadata in which a seller may name our product

# Links that open without a sign-in, and what a page needs to pay in the customer's name.
SECRETS = frozenset({"client_secret", "hosted_invoice_url", "invoice_pdf", "receipt_url", "url"})

MOST_SEATS = 100_000  # what is metered comes in millions
MONTHS = {"month": 1, "year": 12}


def said(obj: Document, kind: EventKind, event_id: str, **more: Any) -> PurchaseEvent:
    """An event about an object. Test mode is the object's own word."""
    is_test = "livemode" in obj and not obj.flag("livemode")
    given: dict[str, Any] = {"is_test": is_test, "raw": obj.as_json(SECRETS)} | more
    return PurchaseEvent(event=kind, event_id=event_id, source=NAME, **given)


def ignored(obj: Document, event_id: str, note: str, **more: Any) -> PurchaseEvent:
    return said(obj, EventKind.IGNORED, event_id, note=note, **more)


# ---------------------------------------------------------------------------------------------------- checkout
def session_event(
    session: Document, at: datetime | None = None, is_over: bool = False, is_late: bool = False
) -> PurchaseEvent:
    """One event for all that is said of a checkout: that it waits for its money, that it is paid (`is_late`: days after
    it was begun), or (`is_over`) that it never will be. What is paid stays so, whatever comes later. The amount is in
    the seller's currency; what the buyer saw (presentment_details) is not."""
    session_id, order_id = session.required("id"), order_of(session)
    if session.text("mode") == "setup":
        return ignored(session, f"{session_id}:setup", "a card was saved; nothing was sold")
    kind, note = _standing(session, is_over, order_id)
    subscription, buyer = session.reference("subscription"), session.part("customer_details")
    event = said(
        session,
        kind,
        f"{session_id}:sale",
        note=note,
        sale_id=session_id,
        subscription_id=subscription,
        links=present(
            session.reference("payment_intent"),
            session.reference("invoice"),
            subscription and f"{subscription}:first",
            order_id,
        ),
        customer_id=session.reference("customer") or session.text("client_reference_id"),
        email=buyer.text("email") or session.text("customer_email"),
        customer_name=buyer.text("name") or buyer.text("business_name"),
        country=buyer.part("address").text("country"),
        purchase_date=(at if is_late else None) or session.moment("created"),
        occurred_at=at,
        inquiry=Inquiry.LINE_ITEMS if kind is EventKind.SALE and order_id is None else None,
        order_id=order_id,
        **sold(session.part("metadata"), session.reference("payment_link")),
        **amount(session, "amount_total"),
    )
    is_whole = "line_items" in session and not session.part("line_items").flag("has_more")
    return with_line_items(event, session.parts("line_items")) if is_whole and event.inquiry else event


def order_of(session: Document) -> str | None:
    """The order of our own that a checkout is of. Whoever makes checkouts in this account may write what he likes."""
    order_id = _word(session.part("metadata"), ORDER)
    return order_id if order_id and is_order_id(order_id) else None


def _standing(session: Document, is_over: bool, order_id: str | None) -> tuple[EventKind, str | None]:
    """How its payment stands. What ended without one says so of our own orders; of others nobody has to be told."""
    if session.text("payment_status") in ("paid", "no_payment_required"):
        return EventKind.SALE, None
    is_expired = session.text("status") == "expired"
    if not is_over and not is_expired:
        return EventKind.PENDING, "the payment is on its way; Stripe tells when it has arrived"
    ended = EventKind.CANCELLATION if is_expired else EventKind.PAYMENT_FAILED
    return ended if order_id else EventKind.IGNORED, "the checkout ended without a payment"


def with_line_items(event: PurchaseEvent, lines: Iterable[Document]) -> PurchaseEvent:
    """The sale with what the checkout's line items tell: what was sold, how many, and for how long."""
    found = [(line, item(line)) for line in lines]
    items = tuple(item for _, item in found if item.ids)
    rhythm = found[0][0].part("price").part("recurring") if len(found) == 1 else Document({})
    months = MONTHS.get(rhythm.text("interval") or "", 0) * (rhythm.number("interval_count", high=1200) or 1)
    return msgspec.structs.replace(
        event,
        inquiry=None,
        items=items,
        quantity=whole_quantity(items),
        months=(months or None) if event.subscription_id else None,
        source_product_id=event.source_product_id or only(items),
        product_name=event.product_name or (found[0][0].text("description") if found else None),
    )


# ---------------------------------------------------------------------------------------------------- small parts
def item(line: Document) -> Item:
    """Ids of price and product, wherever this version has them; `plan` is the oldest place."""
    priced = line.part("pricing").part("price_details")
    ids = [priced.reference("price"), priced.reference("product")]
    for name in ("price", "plan"):
        if isinstance(line.values.get(name), dict):
            ids += [line.reference(name), line.part(name).reference("product")]
        else:
            ids.append(line.text(name))
    quantity = line.number("quantity")
    return Item(present(*ids), min(max(1, 1 if quantity is None else quantity), MOST_SEATS))


def only(items: tuple[Item, ...]) -> str | None:
    """The product, where it is one: none of several stands for the whole sale."""
    return items[0].ids[-1] if len(items) == 1 else None


def whole_quantity(items: tuple[Item, ...]) -> int:
    """How many of the sale as a whole: one that has several lines is one, unless all are sold as often."""
    quantities = {item.quantity for item in items}
    return quantities.pop() if len(quantities) == 1 else 1


def sold(metadata: Document, source_product_id: str | None) -> dict[str, Any]:
    """What the seller wrote into the metadata may be our own id or one of Stripe's."""
    named = present(*(_word(metadata, name) for name in (*OUR_IDS, "price", "price_id")))
    own = next((found for name in OUR_IDS if (found := _word(metadata, name))), None)
    return {"own_product_id": own, "source_product_id": source_product_id, "product_aliases": named}


def _word(metadata: Document, name: str) -> str | None:
    value = metadata.values.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable() else None


def amount(obj: Document, name: str) -> dict[str, Any]:
    amount = obj.number(name)
    return {} if amount is None else money_of(obj, amount)


def money_of(obj: Document, amount: int) -> dict[str, Any]:
    """Empty for a currency of a kind that is not known yet: the sum stands in `raw`."""
    try:
        code = money.currency_code(obj.text("currency") or "")
    except BadRequest:
        return {}
    return {"price": money.told(amount, code), "currency": code}


def present(*values: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
