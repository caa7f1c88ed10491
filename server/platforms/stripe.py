"""Stripe: signed webhooks, read as plain JSON. https://docs.stripe.com/webhooks

The signature covers the raw bytes (t and v1 of the Stripe-Signature header); while a secret is rolled there are two.
Stripe repeats for three days whatever is not answered 2xx and then switches the endpoint off, so what was understood
is never refused: what concerns nobody here is recorded as ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from server.domain.order import Order
from server.domain.purchase import EventKind, PurchaseEvent
from server.errors import BadSignature, Unprocessable
from server.platforms import stripe_billing as billing
from server.platforms import stripe_objects as objects
from server.platforms import stripe_reversals as reversals
from server.platforms.base import (
    Begun,
    Checkout,
    Page,
    Platform,
    Refunds,
    RefundWord,
    Row,
    Trial,
    Way,
    WebhookRequest,
    event_of_row,
    kind_of_row,
)
from server.platforms.document import Document
from server.platforms.stripe_api import StripeApi
from server.platforms.stripe_checkout import StripeCheckout
from server.settings import Settings
from server.storage.base import Shelf

LONGEST_NAME = 1024
TOLERANCE = 300  # seconds of age, as Stripe's own libraries have it


class Occasion(msgspec.Struct, frozen=True):
    """An event's object, what of it had been different before, and when."""

    obj: Document
    before: Document
    at: datetime | None


READERS: dict[str, Callable[[Occasion], list[PurchaseEvent]]] = {  # anything else is recorded as ignored
    "checkout.session.completed": lambda said: [objects.session_event(said.obj, said.at)],
    "checkout.session.async_payment_succeeded": lambda said: [objects.session_event(said.obj, said.at, is_late=True)],
    "checkout.session.async_payment_failed": lambda said: [objects.session_event(said.obj, said.at, is_over=True)],
    "checkout.session.expired": lambda said: [objects.session_event(said.obj, said.at, is_over=True)],
    "invoice.paid": lambda said: [billing.invoice_event(said.obj, said.at)],
    "invoice.payment_succeeded": lambda said: [billing.invoice_event(said.obj, said.at)],
    "invoice.payment_failed": lambda said: [billing.failed_invoice_event(said.obj, said.at)],
    "invoice_payment.paid": lambda said: [billing.invoice_payment_event(said.obj)],
    "customer.subscription.updated": lambda said: billing.subscription_events(said.obj, said.before, said.at),
    "customer.subscription.deleted": lambda said: [billing.ended_subscription_event(said.obj, said.at)],
    "customer.subscription.paused": lambda said: [billing.paused_subscription_event(said.obj, said.at)],
    "customer.subscription.resumed": lambda said: [billing.resumed_subscription_event(said.obj, said.at)],
    "charge.refunded": lambda said: [reversals.refunded_charge_event(said.obj, said.at, _refunded_before(said))],
    "refund.created": lambda said: [reversals.refund_event(said.obj, said.at)],
    "refund.updated": lambda said: [reversals.refund_event(said.obj, said.at)],
    "refund.failed": lambda said: [reversals.refund_event(said.obj, said.at)],
    "charge.refund.updated": lambda said: [reversals.refund_event(said.obj, said.at)],
    "charge.dispute.created": lambda said: [reversals.dispute_event(said.obj, said.at)],
    "charge.dispute.updated": lambda said: [reversals.dispute_event(said.obj, said.at)],
    "charge.dispute.funds_withdrawn": lambda said: [reversals.dispute_event(said.obj, said.at)],
    "charge.dispute.funds_reinstated": lambda said: [reversals.dispute_event(said.obj, said.at)],
    "charge.dispute.closed": lambda said: [reversals.dispute_event(said.obj, said.at, is_closed=True)],
}


class Stripe(Platform):
    name = objects.NAME

    def __init__(self, secrets: tuple[str, ...], api: StripeApi | None) -> None:
        super().__init__(None)
        self._secrets, self._api = secrets, api

    @classmethod
    def from_settings(cls, settings: Settings) -> Stripe | None:
        """Without a key nothing can be sold here: it is no Checkout then, and takes only webhooks."""
        secrets, key, base = settings.stripe_webhook_secret, settings.stripe_secret_key, settings.stripe_api_base
        if not secrets:
            return None
        if not key:
            return Stripe(secrets, None)
        checkout = StripeCheckout(key, base, settings.stripe_payment_methods)
        return StripeStoreFront(secrets, StripeApi(key, base), checkout)

    def verify(self, request: WebhookRequest) -> None:
        """Any of the secrets may have signed. The library raises a TypeError where a signature is not ASCII."""
        from stripe import SignatureVerificationError, WebhookSignature

        header = request.header("Stripe-Signature") or ""
        for secret in self._secrets:
            try:
                WebhookSignature.verify_header(request.body, header, secret, TOLERANCE)
                return
            except (SignatureVerificationError, ValueError, TypeError):
                continue
        raise BadSignature("Stripe-Signature: missing, too old, or not made with STRIPE_WEBHOOK_SECRET")

    def trial(self) -> Trial:
        from stripe import WebhookSignature

        header = WebhookSignature.generate_signature_header("{}", self._secrets[0])
        return Trial(b"{}", headers={"Stripe-Signature": header})

    def parse(self, request: WebhookRequest) -> list[PurchaseEvent]:
        event = Document.from_json(request.body)
        event_id, word = event.required("id"), event.required("type")
        if event.text("object") == "v2.core.event":
            return [objects.ignored(event, event_id, f"{word}: a thin event")]
        if event.text("account"):
            return [objects.ignored(event, event_id, f"{word}: another merchant's, by Connect")]
        reader, data = READERS.get(word), event.part("data")
        if reader is None:
            return [objects.ignored(event, event_id, f"{word}: says nothing about licenses")]
        occasion = Occasion(data.part("object"), data.part("previous_attributes"), event.moment("created"))
        raw = event.as_json(objects.SECRETS)
        live = {"raw": raw, "is_test": not event.flag("livemode")}
        return [self._asked(msgspec.structs.replace(said, **live, **_short(said))) for said in reader(occasion)]

    def _asked(self, event: PurchaseEvent) -> PurchaseEvent:
        """Without a key to its API there is nothing that can be asked."""
        return event if self._api else msgspec.structs.replace(event, inquiry=None)

    def answer(self, event: PurchaseEvent) -> PurchaseEvent:
        return self._api.answer(event) if self._api else msgspec.structs.replace(event, inquiry=None)

    def page(self, since: datetime, at: str | None) -> Page:
        if self._api is None:
            raise Unprocessable("STRIPE_SECRET_KEY is missing: without it Stripe's own record cannot be read")
        return self._api.page(since, at)

    @classmethod
    def event_of(cls, row: Row) -> PurchaseEvent:
        """A row's sale_id is the checkout session's id, a renewal's the invoice's, and for money that went back the
        payment intent's; an incident is the dispute's id."""
        kind = kind_of_row(row)
        event_id = {EventKind.SALE: f"{row.sale_id}:sale", EventKind.RENEWAL: f"{row.sale_id}:paid"}.get(kind)
        told = event_of_row(row, cls.name, event_id or f"{row.incident or row.sale_id}:{kind}", kind)
        return msgspec.structs.replace(told, may_issue=kind is EventKind.RENEWAL)


class StripeStoreFront(Stripe, Checkout, Refunds):
    """Stripe where there is a key to its API: it can sell our own packages, too."""

    currency = "usd"

    def __init__(self, secrets: tuple[str, ...], api: StripeApi, checkout: StripeCheckout) -> None:
        super().__init__(secrets, api)
        self._checkout = checkout
        self.is_test = checkout.is_test

    def use_shelf(self, shelf: Shelf, clock: Callable[[], datetime]) -> None:
        self._checkout.clock = clock

    def begin(self, order: Order, way: Way) -> Begun:
        return self._checkout.begin(order, way)

    def ask(self, order: Order, reference: str | None) -> list[PurchaseEvent]:
        return self._checkout.ask(order, reference)

    def refund(self, order: Order, names: Sequence[str], amount: int, refund_id: str) -> RefundWord:
        return self._checkout.refund(order, names, amount, refund_id)

    def find_refund(self, order: Order, names: Sequence[str], refund_id: str) -> RefundWord | None:
        return self._checkout.find_refund(order, names, refund_id)


def _short(said: PurchaseEvent) -> dict[str, str]:
    """A name is made of several words of the event, each of which may be of any length."""
    if len(said.event_id) <= LONGEST_NAME:
        return {}
    return {"event_id": f"{said.event_id[:256]}:{hashlib.sha256(said.event_id.encode()).hexdigest()}"}


def _refunded_before(said: Occasion) -> int:
    return said.before.number("amount_refunded") or 0
