"""PayU's orders and refunds as events: the same whether a notification tells them or the API is asked.

Amounts are whole hundredths of the currency, told as text: also of the forint, which has no smaller coin.
https://developers.payu.com/europe/docs/payment-flows/lifecycle and /refunds
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec

from server.domain import money
from server.domain.license import EARLIEST, LATEST
from server.domain.order import doubted
from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.errors import BadRequest
from server.platforms.document import Document

NAME = "payu"
KINDS = {  # an order's status; anything else (REJECTED of the older protocol) is recorded as ignored
    "COMPLETED": EventKind.SALE,
    "PENDING": EventKind.PENDING,
    "WAITING_FOR_CONFIRMATION": EventKind.PENDING,
    "CANCELED": EventKind.CANCELLATION,
}
WAITING = "WAITING_FOR_CONFIRMATION"  # paid, and to be captured: the POS does not collect by itself
FINAL = {"FINALIZED": EventKind.PARTIAL_REFUND, "CANCELED": EventKind.REFUND_FAILED}  # what became of a refund
PERSONAL = frozenset({"phone", "customerIp", "nin"})  # of what is told, what nobody needs in the books
ANOTHER_POS = "merchantPosId is that of another point of sale"
_LARGEST = 10**12


def order_event(order: Document, pos: str, is_test: bool, received: str | None = None) -> PurchaseEvent:
    """`received` is when the money came in, which only a notification tells. Raises BadRequest, naming the field."""
    status, our_id, payu_id = order.required("status"), _id(order, "extOrderId"), _id(order, "orderId")
    if our_id is None:
        return ignored(order, f"an order that names none of ours ({status[:40]})", is_test)
    paid_at = moment(received)
    event = PurchaseEvent(
        event=KINDS.get(status, EventKind.IGNORED),
        event_id=f"{our_id}:sale" if status in KINDS else f"{our_id}:{status[:40]}",
        source=NAME,
        sale_id=our_id,
        order_id=our_id,
        links=(payu_id,) if payu_id else (),
        **_buyer(order.part("buyer")),
        price=amount(order, "totalAmount", "order.totalAmount"),
        currency=money.currency_code(order.required("currencyCode"), "order.currencyCode"),
        occurred_at=paid_at,
        purchase_date=(paid_at or moment(order.text("orderCreateDate"))) if status == "COMPLETED" else None,
        is_test=is_test,
        inquiry=Inquiry.ORDER if status == WAITING else None,
        note=None if status in KINDS else f"an order of the status {status[:40]!r}",
        raw=order.as_json(PERSONAL),
    )
    if order.text("merchantPosId") != pos:
        return doubted(event, ANOTHER_POS)
    return event


def refund_event(refund: Document, our_id: str | None, payu_id: str | None, is_test: bool) -> PurchaseEvent:
    """One refund, of any part of an order. Its failure has an id of its own, so that it is news after its success."""
    status, refund_id = refund.required("status"), _id(refund, "refundId")
    if our_id is None or refund_id is None:
        return ignored(refund, f"a refund that names no order of ours, or not itself ({status[:40]})", is_test)
    if status not in FINAL:
        return ignored(refund, f"a refund of the status {status[:40]!r}", is_test)
    kind = FINAL[status]
    return PurchaseEvent(
        event=kind,
        event_id=f"{our_id}:refund:{refund_id}" + (":failed" if kind is EventKind.REFUND_FAILED else ""),
        source=NAME,
        sale_id=our_id,
        order_id=our_id,
        links=(payu_id,) if payu_id else (),
        incident=refund_id,
        price=amount(refund, "amount", "refund.amount"),
        currency=money.currency_code(refund.required("currencyCode"), "refund.currencyCode"),
        occurred_at=moment(refund.text("statusDateTime") or refund.text("statusDatetime")),
        is_test=is_test,
        raw=refund.as_json(PERSONAL),
    )


def is_nameless(refund: Document) -> bool:
    """Whether it is over, but told without its id: it cannot be told from another one of the order then."""
    return refund.text("status") in FINAL and _id(refund, "refundId") is None


def hint(event: PurchaseEvent, our_id: str) -> PurchaseEvent:
    """That something came of a refund: what, PayU's own list of the order's refunds tells."""
    told = {"event": EventKind.PENDING, "sale_id": our_id, "order_id": our_id, "inquiry": Inquiry.ORDER, "note": None}
    return msgspec.structs.replace(event, **told)


def ignored(told: Document, note: str, is_test: bool) -> PurchaseEvent:
    """What PayU has signed, and is about nothing of ours."""
    raw = told.as_json(PERSONAL)
    digest = hashlib.sha256(bytes(raw)).hexdigest()[:32]
    return PurchaseEvent(
        event=EventKind.IGNORED, event_id=f"notice:{digest}", source=NAME, is_test=is_test, note=note, raw=raw
    )


def refund_ids(notice: Document) -> tuple[str | None, str | None]:
    """Our id and PayU's of the order that a refund is of. They stand beside it, or in an order that came with it."""
    order = notice.part("order")
    return tuple(_id(notice, name) or _id(order, name) for name in ("extOrderId", "orderId"))  # type: ignore[return-value]


def amount(told: Document, name: str, field: str) -> str:
    """A decimal string of what PayU tells in hundredths; some of its answers tell a number for the text."""
    value = told.values.get(name)
    text = str(value) if type(value) is int else told.required(name)
    if not (text.isascii() and text.isdigit() and int(text[:20]) < _LARGEST):
        raise BadRequest(f"{field}: {text[:40]!r} is no whole number of hundredths")
    return f"{int(text) // 100}.{int(text) % 100:02d}"


def moment(text: str | None) -> datetime | None:
    """None for a time that cannot be read: what it belongs to is told all the same."""
    try:
        found = datetime.fromisoformat(text) if text else None
        if found is None or found.tzinfo is None or not EARLIEST <= found <= LATEST:
            return None
        return found.astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        return None


def _id(told: Document, name: str) -> str | None:
    return told.required(name) if told.text(name) else None


def _buyer(buyer: Document) -> dict[str, Any]:
    """Of an order that nobody knows here it is all that tells whose it is."""
    names = (buyer.text("firstName"), buyer.text("lastName"))
    return {"email": buyer.text("email"), "customer_name": " ".join(name for name in names if name) or None}
