"""What is asked of Stripe's API, by its own library (imported when first needed: it takes a tenth of a second)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.errors import BadRequest, PlatformUnreachable
from server.platforms import stripe_billing as billing
from server.platforms import stripe_objects as objects
from server.platforms import stripe_reversals as reversals
from server.platforms.base import Page
from server.platforms.document import Document
from server.platforms.web_client import PATIENT, RateLimited, is_loopback

if TYPE_CHECKING:
    from stripe import StripeClient

log = logging.getLogger(__name__)

QUICK = (1.5, 2.0)  # seconds to connect and to answer, while a webhook waits


class StripeApi:
    def __init__(self, key: str, base: str) -> None:
        self._key, self._base = key, base
        self._questions: dict[Inquiry, Callable[[PurchaseEvent], PurchaseEvent]] = {
            Inquiry.LINE_ITEMS: self._ask_line_items,
            Inquiry.PAYMENT: self._ask_payment,
            Inquiry.CHARGE: self._ask_charge,
        }

    def answer(self, event: PurchaseEvent) -> PurchaseEvent:
        """The event with the answer to its inquiry. What Stripe does not know (the event is of the other mode, say)
        is no answer, but the end of asking. Raises PlatformUnreachable."""
        if event.inquiry is None:
            return event
        with told_apart():
            return self._questions[event.inquiry](event)

    def _ask_line_items(self, event: PurchaseEvent) -> PurchaseEvent:
        lines = found(lambda: self._quick.v1.checkout.sessions.line_items.list(event.sale_id or "", {"limit": 100}))
        return objects.with_line_items(event, lines.parts("data"))

    def _ask_payment(self, event: PurchaseEvent) -> PurchaseEvent:
        """The invoice that this payment paid, since a charge does not name it any more, and its subscription: the
        invoice itself may never have been told here."""
        if not (event.sale_id or "").startswith("pi_"):
            return msgspec.structs.replace(event, inquiry=None)
        payment: Any = {"type": "payment_intent", "payment_intent": event.sale_id}
        wanted: Any = {"payment": payment, "expand": ["data.invoice"]}
        payments = list(found(lambda: self._quick.v1.invoice_payments.list(wanted)).parts("data"))
        invoices = [invoice for one in payments if (invoice := one.reference("invoice"))]
        subscriptions = [name for one in payments if (name := billing.subscription_of_payment(one))]
        return msgspec.structs.replace(
            event,
            inquiry=None,
            links=tuple(dict.fromkeys([*event.links, *invoices])),
            subscription_id=event.subscription_id or next(iter(subscriptions), None),
        )

    def _ask_charge(self, event: PurchaseEvent) -> PurchaseEvent:
        charge_id = next((link for link in event.links if link.startswith(("ch_", "py_"))), None)
        charge = found(lambda: self._quick.v1.charges.retrieve(charge_id)) if charge_id else Document({})
        if "refunded" not in charge:
            return msgspec.structs.replace(event, inquiry=None)
        return reversals.settled_dispute_event(event, charge, datetime.now(UTC).replace(microsecond=0))

    # ------------------------------------------------------------------------------------------------ the record
    def page(self, since: datetime, at: str | None) -> Page:
        """A page of one kind of object; behind the last page of a kind comes the first of the next. `at` is the kind
        and the id of the last object that was read."""
        kind, _, after = (at or SECTIONS[0]).partition("|")
        wanted: dict[str, Any] = {"created": {"gte": int(since.timestamp())}, "limit": 100}
        if after:
            wanted["starting_after"] = after
        with told_apart():
            listed = plain(lambda: self._list(kind, wanted))
        objects_found = list(listed.parts("data"))
        events, unreadable = _read_all(objects_found, READERS[kind])
        if listed.flag("has_more") and objects_found:
            return Page(events, f"{kind}|{objects_found[-1].required('id')}", unreadable)
        later = SECTIONS[SECTIONS.index(kind) + 1 :]
        return Page(events, later[0] if later else None, unreadable)

    def _list(self, kind: str, wanted: Any) -> Any:
        stripe = self._patient.v1
        if kind == "sessions":
            return stripe.checkout.sessions.list(wanted | {"expand": ["data.line_items"]})
        if kind == "invoices":
            return stripe.invoices.list(wanted | {"status": "paid", "expand": ["data.payments"]})
        if kind == "refunds":
            return stripe.refunds.list(wanted | {"expand": ["data.charge"]})
        return stripe.charges.list(wanted) if kind == "charges" else stripe.disputes.list(wanted)

    @cached_property
    def _patient(self) -> StripeClient:
        return stripe_client(self._key, self._base, PATIENT, retries=0)  # who lists is patient himself

    @cached_property
    def _quick(self) -> StripeClient:
        return stripe_client(self._key, self._base, QUICK, retries=1)


# ---------------------------------------------------------------------------------------------------- reading lists
def _read_session(session: Document) -> PurchaseEvent | None:
    event = objects.session_event(session)
    return event if event.event is EventKind.SALE else None


def _read_invoice(invoice: Document) -> PurchaseEvent | None:
    return billing.invoice_event(invoice)


def _read_charge(charge: Document) -> PurchaseEvent | None:
    return reversals.refunded_charge_event(charge, None) if charge.number("amount_refunded") else None


def _read_refund(refund: Document) -> PurchaseEvent | None:
    """The refund's moment, and how its charge stands with it."""
    charge = refund.part("charge") if isinstance(refund.values.get("charge"), dict) else Document({})
    if refund.text("status") in ("failed", "canceled"):
        return reversals.refund_event(refund, refund.moment("created"))
    return (
        reversals.refunded_charge_event(charge, refund.moment("created")) if charge.number("amount_refunded") else None
    )


def _read_dispute(dispute: Document) -> PurchaseEvent | None:
    return reversals.dispute_event(dispute, dispute.moment("created"), is_closed=True)


READERS: dict[str, Callable[[Document], PurchaseEvent | None]] = {
    "sessions": _read_session,
    "invoices": _read_invoice,
    "refunds": _read_refund,
    "charges": _read_charge,
    "disputes": _read_dispute,
}
SECTIONS = tuple(READERS)


def _read_all(
    found: list[Document], reader: Callable[[Document], PurchaseEvent | None]
) -> tuple[tuple[PurchaseEvent, ...], int]:
    events, unreadable = [], 0
    for one in found:
        try:
            event = reader(one)
        except BadRequest as error:
            log.warning("an object of Stripe's record cannot be read: %s", error.detail)
            unreadable += 1
            continue
        if event is not None and (event.event is not EventKind.IGNORED or event.inquiry):
            events.append(event)
    return tuple(events), unreadable


def stripe_client(key: str, base: str, timeout: tuple[float, float], retries: int) -> StripeClient:
    from stripe import RequestsClient, StripeClient

    # An empty proxy is none, whatever the environment says: nothing stands before a stand-in.
    proxy: Any = {"http": "", "https": ""} if is_loopback(base) else None
    client = RequestsClient(timeout=timeout, proxy=proxy)
    return StripeClient(key, base_addresses={"api": base}, http_client=client, max_network_retries=retries)


def found(ask: Callable[[], Any]) -> Document:
    """What was asked for; empty where Stripe has no such."""
    from stripe import InvalidRequestError

    try:
        return plain(ask)
    except InvalidRequestError as error:
        if error.http_status == 404:
            return Document({})
        raise


def plain(ask: Callable[[], Any]) -> Document:
    """The answer as plain values: the library's objects are no dicts, and it trips over JSON that is not Stripe's."""
    try:
        return Document(ask().to_dict(for_json=True))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise PlatformUnreachable(f"Stripe's API answers what cannot be read ({type(error).__name__})") from None


@contextmanager
def told_apart() -> Iterator[None]:
    """Whatever keeps Stripe from answering, as the one error that callers know."""
    import stripe

    try:
        yield
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise PlatformUnreachable(f"Stripe refuses STRIPE_SECRET_KEY ({error.http_status})", is_refused=True) from None
    except stripe.RateLimitError as error:
        wait = (error.headers or {}).get("Retry-After", "")
        raise RateLimited("Stripe wants to be asked more slowly", float(wait) if wait.isdigit() else 2.0) from None
    except stripe.StripeError as error:
        raise PlatformUnreachable(f"Stripe's API does not answer ({type(error).__name__})") from None
