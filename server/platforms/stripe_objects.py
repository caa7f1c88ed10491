"""Stripe's objects as purchases: the same reading for a webhook's object and for one that its API lists.

An object's shape follows the API version of whoever asked for it, so both are read: before 2025-03-31.basil and since.
https://docs.stripe.com/changelog/basil and https://docs.stripe.com/api
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from server.domain import money
from server.domain.catalogue import Item
from server.domain.purchase import EventKind, Inquiry, PurchaseEvent, Standing
from server.errors import BadRequest
from server.platforms.document import Document

NAME = "stripe"
OUR_IDS = ("product_id", "product", "keyledger_product")  # metadata in which a seller may name our product

# Links that open without a sign-in, and what a page needs to pay in the customer's name.
SECRETS = frozenset({"client_secret", "hosted_invoice_url", "invoice_pdf", "receipt_url", "url"})

STANDINGS = {
    "trialing": Standing.OK,
    "active": Standing.OK,
    "past_due": Standing.GRACE,
    "unpaid": Standing.PAYMENT_FAILED,
    "paused": Standing.SUSPENDED,
    "incomplete": Standing.SUSPENDED,
}
ENDED = frozenset({"canceled", "incomplete_expired"})
DISPUTES = {
    "needs_response": EventKind.DISPUTE,
    "under_review": EventKind.DISPUTE,
    "won": EventKind.DISPUTE_WON,
    "warning_closed": EventKind.DISPUTE_WON,
    "lost": EventKind.DISPUTE_LOST,
}
INQUIRIES_OF_BANKS = frozenset({"warning_needs_response", "warning_under_review"})
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
    session_id = session.required("id")
    if session.text("mode") == "setup":
        return ignored(session, f"{session_id}:setup", "a card was saved; nothing was sold")
    paid = session.text("payment_status") in ("paid", "no_payment_required")
    if paid:
        kind, note = EventKind.SALE, None
    elif is_over or session.text("status") == "expired":
        kind, note = EventKind.IGNORED, "the checkout ended without a payment"
    else:
        kind, note = EventKind.PENDING, "the payment is on its way; Stripe tells when it has arrived"
    subscription, buyer = session.reference("subscription"), session.part("customer_details")
    event = said(
        session,
        kind,
        f"{session_id}:sale",
        note=note,
        sale_id=session_id,
        subscription_id=subscription,
        links=_present(
            session.reference("payment_intent"), session.reference("invoice"), subscription and f"{subscription}:first"
        ),
        customer_id=session.reference("customer") or session.text("client_reference_id"),
        email=buyer.text("email") or session.text("customer_email"),
        customer_name=buyer.text("name") or buyer.text("business_name"),
        country=buyer.part("address").text("country"),
        purchase_date=(at if is_late else None) or session.moment("created"),
        occurred_at=at,
        inquiry=Inquiry.LINE_ITEMS if kind is EventKind.SALE else None,
        **_sold(session.part("metadata"), session.reference("payment_link")),
        **_amount(session, "amount_total"),
    )
    is_whole = "line_items" in session and not session.part("line_items").flag("has_more")
    return with_line_items(event, session.parts("line_items")) if is_whole and event.inquiry else event


def with_line_items(event: PurchaseEvent, lines: Iterable[Document]) -> PurchaseEvent:
    """The sale with what the checkout's line items tell: what was sold, how many, and for how long."""
    found = [(line, _item(line)) for line in lines]
    items = tuple(item for _, item in found if item.ids)
    rhythm = found[0][0].part("price").part("recurring") if len(found) == 1 else Document({})
    months = MONTHS.get(rhythm.text("interval") or "", 0) * (rhythm.number("interval_count", high=1200) or 1)
    return msgspec.structs.replace(
        event,
        inquiry=None,
        items=items,
        quantity=_whole_quantity(items),
        months=(months or None) if event.subscription_id else None,
        source_product_id=event.source_product_id or _only(items),
        product_name=event.product_name or (found[0][0].text("description") if found else None),
    )


# ---------------------------------------------------------------------------------------------------- invoices
def invoice_event(invoice: Document, at: datetime | None = None) -> PurchaseEvent:
    """A paid invoice of a subscription: one renewal, paid through the latest end of its lines' periods (the invoice's
    own period_end is not the new period's). It issues the license where the checkout was never seen. It may be marked
    as paid later than it says (`at`)."""
    invoice_id, subscription = invoice.required("id"), _subscription_of(invoice)
    if subscription is None:
        return ignored(invoice, f"{invoice_id}:paid", "an invoice of no subscription: its checkout tells the sale")
    lines = _paid_lines(invoice)
    items = tuple(item for item in map(_item, lines) if item.ids)
    ends = [end for line in lines if (end := line.part("period").moment("end"))]
    if not ends:
        return ignored(invoice, f"{invoice_id}:paid", "nothing but fees: no period was paid")
    moments = invoice.part("status_transitions")
    paid_at = moments.moment("paid_at") or invoice.moment("created")
    is_first = invoice.text("billing_reason") == "subscription_create"
    return said(
        invoice,
        EventKind.RENEWAL,
        f"{invoice_id}:paid",
        sale_id=invoice_id,
        subscription_id=subscription,
        links=_present(*_payments_of(invoice), f"{subscription}:first" if is_first else None),
        customer_id=invoice.reference("customer"),
        email=invoice.text("customer_email"),
        customer_name=invoice.text("customer_name"),
        country=invoice.part("customer_address").text("country"),
        purchase_date=paid_at,
        occurred_at=max((moment for moment in (paid_at, at) if moment), default=None),
        effective_at=moments.moment("finalized_at"),
        paid_until=max(ends, default=None),
        is_recurring=not is_first,
        may_issue=True,
        items=items,
        quantity=_whole_quantity(items),
        product_name=lines[0].text("description") if lines else None,
        **_sold(_subscription_details(invoice).part("metadata"), _only(items)),
        **_amount(invoice, "amount_paid"),
    )


def failed_invoice_event(invoice: Document, at: datetime | None) -> PurchaseEvent:
    """Stripe goes on trying, or the subscription's own events say what becomes of it: until then it is grace."""
    invoice_id, attempt = invoice.required("id"), invoice.number("attempt_count") or 0
    tries_again = invoice.moment("next_payment_attempt")
    return said(
        invoice,
        EventKind.PAYMENT_FAILED,
        f"{invoice_id}:failed:{attempt}",
        sale_id=invoice_id,
        subscription_id=_subscription_of(invoice),
        customer_id=invoice.reference("customer"),
        email=invoice.text("customer_email"),
        occurred_at=at,
        standing=Standing.GRACE,
        note=f"Stripe tries again on {tries_again:%Y-%m-%d}" if tries_again else "Stripe does not try again",
        **_amount(invoice, "amount_due"),
    )


def invoice_payment_event(payment: Document) -> PurchaseEvent:
    """Says only which payment paid which invoice: a later refund names nothing but the payment."""
    paid_by = payment.part("payment")
    links = _present(paid_by.reference("payment_intent"), paid_by.reference("charge"))
    note = "tells which payment paid the invoice"
    return ignored(payment, f"{payment.required('id')}:paid", note, sale_id=payment.reference("invoice"), links=links)


def _subscription_details(invoice: Document) -> Document:
    parent = invoice.part("parent")
    return parent.part("subscription_details") if "parent" in invoice else invoice.part("subscription_details")


def _subscription_of(invoice: Document) -> str | None:
    return _subscription_details(invoice).reference("subscription") or invoice.reference("subscription")


def subscription_of_payment(payment: Document) -> str | None:
    """Of the invoice that it paid, where that was asked for with it."""
    return _subscription_of(payment.part("invoice")) if isinstance(payment.values.get("invoice"), dict) else None


def _payments_of(invoice: Document) -> list[str | None]:
    """By their own fields before basil; since then only in `payments`, where that was asked for."""
    payments = [one.part("payment") for one in invoice.parts("payments")]
    found = [invoice.reference("payment_intent"), invoice.reference("charge")]
    return found + [one.reference(name) for one in payments for name in ("payment_intent", "charge")]


def _paid_lines(invoice: Document) -> list[Document]:
    """The lines of whole periods; of an invoice that only settles a change of plan, those that were charged for."""
    lines = list(invoice.parts("lines"))
    whole = [line for line in lines if _is_of_subscription(line) and not _is_proration(line)]
    settled = (line for line in lines if _is_proration(line))
    return whole or [line for line in settled if (line.number("amount", low=-(10**12)) or 0) >= 0]


def _is_of_subscription(line: Document) -> bool:
    """Not a single item, such as a fee, that is charged with the subscription."""
    kind = line.text("type") or line.part("parent").text("type")
    return kind in (None, "subscription", "subscription_item_details")


def _is_proration(line: Document) -> bool:
    parent = line.part("parent")
    details = (parent.part("subscription_item_details"), parent.part("invoice_item_details"))
    return line.flag("proration") or any(detail.flag("proration") for detail in details)


# ---------------------------------------------------------------------------------------------------- money back
def refunded_charge_event(charge: Document, at: datetime | None, before: int = 0) -> PurchaseEvent:
    """`amount_refunded` is what went back so far, `before` what of it was known; only all of it is a refund."""
    charge_id, back = charge.required("id"), charge.number("amount_refunded") or 0
    whole = charge.number("amount_captured") or charge.number("amount") or 0
    is_full = charge.flag("refunded") or (back >= whole > 0)
    return said(
        charge,
        EventKind.REFUND if is_full else EventKind.PARTIAL_REFUND,
        f"{charge_id}:refunded:{back}:{int(at.timestamp()) if at else 0}",
        **_charge_names(charge, charge_id),
        customer_id=charge.reference("customer"),
        email=charge.part("billing_details").text("email"),
        refunded_total=_money(charge, back).get("price"),
        **_money(charge, max(0, back - before)),
        is_refunded=is_full,
        occurred_at=at,
        inquiry=Inquiry.PAYMENT,
    )


def refund_event(refund: Document, at: datetime | None) -> PurchaseEvent:
    """A refund by itself says nothing that its charge does not say better, unless it failed."""
    refund_id, status = refund.required("id"), refund.text("status") or "unknown"
    names = _charge_names(refund, refund.reference("charge"))
    if status not in ("failed", "canceled"):
        return ignored(refund, f"{refund_id}:{status}", "the charge tells how much was refunded", **names)
    return said(
        refund,
        EventKind.REFUND_FAILED,
        f"{refund_id}:failed",
        **names,
        **_amount(refund, "amount"),
        occurred_at=at,
        note=refund.text("failure_reason"),
        inquiry=Inquiry.PAYMENT,
    )


def dispute_event(dispute: Document, at: datetime | None, is_closed: bool = False) -> PurchaseEvent:
    """By its status alone, so that events of one dispute may come in any order. An inquiry of the bank takes nothing
    back. How the charge stands after an end of another kind is asked first."""
    dispute_id, status = dispute.required("id"), dispute.text("status") or "unknown"
    kind, inquiry = DISPUTES.get(status), Inquiry.PAYMENT
    known = _charge_names(dispute, dispute.reference("charge")) | {"incident": dispute_id, "occurred_at": at}
    known |= _amount(dispute, "amount")
    if kind is not None:
        is_disputed = kind is not EventKind.DISPUTE_WON
        note = dispute.text("reason")
        return said(dispute, kind, f"{dispute_id}:{kind}", **known, is_disputed=is_disputed, note=note, inquiry=inquiry)
    if status in INQUIRIES_OF_BANKS:
        return ignored(dispute, f"{dispute_id}:warning", "the bank asks about the charge: answer it in Stripe", **known)
    is_over = is_closed or status == "prevented"  # for which Stripe names no event that closes it
    word, asked = (f"closed:{status}", Inquiry.CHARGE) if is_over else (status, None)
    return ignored(dispute, f"{dispute_id}:{word}", f"the dispute's status is {status}", **known, inquiry=asked)


def settled_dispute_event(event: PurchaseEvent, charge: Document, at: datetime) -> PurchaseEvent:
    """What became of a dispute that ended neither won nor lost, by how its charge stands now. A refund of it is the
    charge's, which undoes it where it fails, and no longer the dispute's."""
    told = msgspec.structs.replace(event, inquiry=None, occurred_at=event.occurred_at or at)
    if charge.flag("refunded"):
        return msgspec.structs.replace(told, event=EventKind.REFUND, is_refunded=True, incident=None)
    return msgspec.structs.replace(told, event=EventKind.DISPUTE_WON, is_refunded=False)


def _charge_names(obj: Document, charge_id: str | None) -> dict[str, Any]:
    payment = obj.reference("payment_intent")
    return {"sale_id": payment or charge_id, "links": _present(payment, charge_id, obj.reference("invoice"))}


# ---------------------------------------------------------------------------------------------------- subscriptions
def subscription_events(subscription: Document, before: Document, at: datetime | None) -> list[PurchaseEvent]:
    """What an update tells: the state after it, and in `before` what had been different."""
    status = subscription.text("status") or ""
    if status in ENDED:
        return [ended_subscription_event(subscription, at)]
    found: list[PurchaseEvent] = []
    if STANDINGS.get(status) in (Standing.GRACE, Standing.PAYMENT_FAILED) and "status" in before:
        found.append(_state(subscription, EventKind.PAYMENT_FAILED, status, at))
    if ends := _cancelled_to(subscription):
        found.append(_cancellation(subscription, ends, at))
    elif {"cancel_at", "cancel_at_period_end", "canceled_at"} & before.values.keys():
        found.append(_state(subscription, EventKind.UNCANCELLATION, "renewing", at))
    if not found or {"items", "quantity", "plan", "status"} & before.values.keys() - _told_by(found):
        found.append(_state(subscription, EventKind.SUBSCRIPTION_UPDATED, status, at))
    return found


def ended_subscription_event(subscription: Document, at: datetime | None) -> PurchaseEvent:
    """Terminal at Stripe: it never starts again, and an update that comes late must not bring it back."""
    subscription_id = subscription.required("id")
    return said(
        subscription,
        EventKind.SUBSCRIPTION_ENDED,
        f"{subscription_id}:deleted",
        subscription_id=subscription_id,
        customer_id=subscription.reference("customer"),
        occurred_at=subscription.moment("ended_at") or at,
        is_final=True,
        note=subscription.part("cancellation_details").text("reason"),
    )


def paused_subscription_event(subscription: Document, at: datetime | None) -> PurchaseEvent:
    paused = _state(subscription, EventKind.SUBSCRIPTION_UPDATED, "paused", at)
    return msgspec.structs.replace(paused, standing=Standing.SUSPENDED, note="paused")


def resumed_subscription_event(subscription: Document, at: datetime | None) -> PurchaseEvent:
    """Only of the pause: a cancellation that still stands is not taken back."""
    is_cancelled = _cancelled_to(subscription) is not None
    kind = EventKind.SUBSCRIPTION_UPDATED if is_cancelled else EventKind.SUBSCRIPTION_RESTARTED
    return _state(subscription, kind, "resumed", at)


def _told_by(found: list[PurchaseEvent]) -> set[str]:
    """A failed payment tells the status already; what else was changed is an update of its own."""
    return {"status"} if any(event.event is EventKind.PAYMENT_FAILED for event in found) else set()


def _cancelled_to(subscription: Document) -> datetime | None:
    """Flexible billing sets cancel_at alone; older versions only the flag, beside the period's end."""
    if ends := subscription.moment("cancel_at"):
        return ends
    return _period_end(subscription) if subscription.flag("cancel_at_period_end") else None


def _period_end(subscription: Document) -> datetime | None:
    ends = [end for item in subscription.parts("items") if (end := item.moment("current_period_end"))]
    return max(ends, default=None) or subscription.moment("current_period_end")


def _cancellation(subscription: Document, ends: datetime, at: datetime | None) -> PurchaseEvent:
    cancelled_at = subscription.moment("canceled_at") or at
    told = f"{ends.timestamp():.0f}:{cancelled_at.timestamp() if cancelled_at else 0:.0f}"
    return said(
        subscription,
        EventKind.CANCELLATION,
        f"{subscription.required('id')}:cancelled:{told}",
        subscription_id=subscription.required("id"),
        customer_id=subscription.reference("customer"),
        occurred_at=cancelled_at,
        effective_at=ends,
        note=subscription.part("cancellation_details").text("reason"),
    )


def _state(subscription: Document, kind: EventKind, word: str, at: datetime | None) -> PurchaseEvent:
    """The subscription as it stands: its plan, its seats, and whether it is paid for."""
    subscription_id = subscription.required("id")
    items = tuple(item for item in map(_item, subscription.parts("items")) if item.ids)
    told = f"{word}\0{items}\0{subscription.text('status')}"
    digest = hashlib.sha256(told.encode(errors="replace")).hexdigest()[:8]
    return said(
        subscription,
        kind,
        f"{subscription_id}:{word}:{int(at.timestamp()) if at else 0}:{digest}",
        subscription_id=subscription_id,
        customer_id=subscription.reference("customer"),
        occurred_at=at,
        standing=STANDINGS.get(subscription.text("status") or ""),
        items=items,
        quantity=_whole_quantity(items),
        **_sold(subscription.part("metadata"), _only(items)),
    )


# ---------------------------------------------------------------------------------------------------- small parts
def _item(line: Document) -> Item:
    """Ids of price and product, wherever this version has them; `plan` is the oldest place."""
    priced = line.part("pricing").part("price_details")
    ids = [priced.reference("price"), priced.reference("product")]
    for name in ("price", "plan"):
        if isinstance(line.values.get(name), dict):
            ids += [line.reference(name), line.part(name).reference("product")]
        else:
            ids.append(line.text(name))
    quantity = line.number("quantity")
    return Item(_present(*ids), min(max(1, 1 if quantity is None else quantity), MOST_SEATS))


def _only(items: tuple[Item, ...]) -> str | None:
    """The product, where it is one: none of several stands for the whole sale."""
    return items[0].ids[-1] if len(items) == 1 else None


def _whole_quantity(items: tuple[Item, ...]) -> int:
    """How many of the sale as a whole: one that has several lines is one, unless all are sold as often."""
    quantities = {item.quantity for item in items}
    return quantities.pop() if len(quantities) == 1 else 1


def _sold(metadata: Document, source_product_id: str | None) -> dict[str, Any]:
    """What the seller wrote into the metadata may be our own id or one of Stripe's."""
    named = _present(*(_word(metadata, name) for name in (*OUR_IDS, "price", "price_id")))
    own = next((found for name in OUR_IDS if (found := _word(metadata, name))), None)
    return {"own_product_id": own, "source_product_id": source_product_id, "product_aliases": named}


def _word(metadata: Document, name: str) -> str | None:
    value = metadata.values.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable() else None


def _amount(obj: Document, name: str) -> dict[str, Any]:
    amount = obj.number(name)
    return {} if amount is None else _money(obj, amount)


def _money(obj: Document, amount: int) -> dict[str, Any]:
    """Empty for a currency of a kind that is not known yet: the sum stands in `raw`."""
    try:
        code = money.currency_code(obj.text("currency") or "")
    except BadRequest:
        return {}
    return {"price": money.told(amount, code), "currency": code}


def _present(*values: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
