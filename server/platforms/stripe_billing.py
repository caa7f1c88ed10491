"""Stripe's invoices and subscriptions as purchases. https://docs.stripe.com/api/invoices and /api/subscriptions"""

from __future__ import annotations

import hashlib
from datetime import datetime

import msgspec

from server.domain.purchase import EventKind, PurchaseEvent, Standing
from server.platforms import stripe_objects as objects
from server.platforms.document import Document
from server.platforms.stripe_objects import ignored, said

STANDINGS = {
    "trialing": Standing.OK,
    "active": Standing.OK,
    "past_due": Standing.GRACE,
    "unpaid": Standing.PAYMENT_FAILED,
    "paused": Standing.SUSPENDED,
    "incomplete": Standing.SUSPENDED,
}
ENDED = frozenset({"canceled", "incomplete_expired"})


# ---------------------------------------------------------------------------------------------------- invoices
def invoice_event(invoice: Document, at: datetime | None = None) -> PurchaseEvent:
    """A paid invoice of a subscription: one renewal, paid through the latest end of its lines' periods (the invoice's
    own period_end is not the new period's). It issues the license where the checkout was never seen. It may be marked
    as paid later than it says (`at`)."""
    invoice_id, subscription = invoice.required("id"), _subscription_of(invoice)
    if subscription is None:
        return ignored(invoice, f"{invoice_id}:paid", "an invoice of no subscription: its checkout tells the sale")
    lines = _paid_lines(invoice)
    items = tuple(item for item in map(objects.item, lines) if item.ids)
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
        links=objects.present(*_payments_of(invoice), f"{subscription}:first" if is_first else None),
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
        quantity=objects.whole_quantity(items),
        product_name=lines[0].text("description") if lines else None,
        **objects.sold(_subscription_details(invoice).part("metadata"), objects.only(items)),
        **objects.amount(invoice, "amount_paid"),
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
        **objects.amount(invoice, "amount_due"),
    )


def invoice_payment_event(payment: Document) -> PurchaseEvent:
    """Says only which payment paid which invoice: a later refund names nothing but the payment."""
    paid_by = payment.part("payment")
    links = objects.present(paid_by.reference("payment_intent"), paid_by.reference("charge"))
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
    items = tuple(item for item in map(objects.item, subscription.parts("items")) if item.ids)
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
        quantity=objects.whole_quantity(items),
        **objects.sold(subscription.part("metadata"), objects.only(items)),
    )
