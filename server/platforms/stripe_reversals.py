"""Money that Stripe gives back, takes back, or holds: refunds and disputes. https://docs.stripe.com/api/refunds and
/api/disputes
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.platforms import stripe_objects as objects
from server.platforms.document import Document
from server.platforms.stripe_objects import ignored, said

DISPUTES = {
    "needs_response": EventKind.DISPUTE,
    "under_review": EventKind.DISPUTE,
    "won": EventKind.DISPUTE_WON,
    "warning_closed": EventKind.DISPUTE_WON,
    "lost": EventKind.DISPUTE_LOST,
}
INQUIRIES_OF_BANKS = frozenset({"warning_needs_response", "warning_under_review"})


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
        refunded_total=objects.money_of(charge, back).get("price"),
        **objects.money_of(charge, max(0, back - before)),
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
        **objects.amount(refund, "amount"),
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
    known |= objects.amount(dispute, "amount")
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
    return {"sale_id": payment or charge_id, "links": objects.present(payment, charge_id, obj.reference("invoice"))}
