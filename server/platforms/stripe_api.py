"""What is asked of Stripe's API, by its own library (imported when first needed: it takes a tenth of a second)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from server.domain.purchase import Inquiry, PurchaseEvent
from server.errors import PlatformUnreachable
from server.platforms import stripe_objects as objects
from server.platforms.document import Document
from server.platforms.web_client import is_loopback

if TYPE_CHECKING:
    from stripe import StripeClient

QUICK = (2.0, 3.0)  # seconds to connect and to answer, while a webhook waits
PATIENT = (10.0, 60.0)


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
        found = self._found(
            lambda: self._quick.v1.checkout.sessions.line_items.list(event.sale_id or "", {"limit": 100})
        )
        return objects.with_line_items(event, found.parts("data"))

    def _ask_payment(self, event: PurchaseEvent) -> PurchaseEvent:
        """The invoice that this payment paid, since a charge does not name it any more."""
        payment: Any = {"type": "payment_intent", "payment_intent": event.sale_id}
        if not (event.sale_id or "").startswith("pi_"):
            return msgspec.structs.replace(event, inquiry=None)
        found = self._found(lambda: self._quick.v1.invoice_payments.list({"payment": payment}))
        invoices = [invoice for one in found.parts("data") if (invoice := one.reference("invoice"))]
        return msgspec.structs.replace(event, inquiry=None, links=tuple(dict.fromkeys([*event.links, *invoices])))

    def _ask_charge(self, event: PurchaseEvent) -> PurchaseEvent:
        charge_id = next((link for link in event.links if link.startswith(("ch_", "py_"))), "")
        charge = self._found(lambda: self._quick.v1.charges.retrieve(charge_id))
        return objects.settled_dispute_event(event, charge, datetime.now(UTC).replace(microsecond=0))

    def _found(self, ask: Callable[[], Any]) -> Document:
        """What was asked for as plain values (the library's objects are no dicts); empty where Stripe has no such."""
        from stripe import InvalidRequestError

        try:
            return Document(ask().to_dict(for_json=True))
        except InvalidRequestError as error:
            if error.http_status == 404:
                return Document({})
            raise

    @cached_property
    def _quick(self) -> StripeClient:
        return self._client(QUICK, retries=1)

    def _client(self, timeout: tuple[float, float], retries: int) -> StripeClient:
        import requests
        from stripe import RequestsClient, StripeClient

        session = None
        if is_loopback(self._base):
            session = requests.Session()
            session.trust_env = False  # no proxy stands before a stand-in
        return StripeClient(
            self._key,
            base_addresses={"api": self._base},
            http_client=RequestsClient(timeout=timeout, session=session),
            max_network_retries=retries,
        )


@contextmanager
def told_apart() -> Iterator[None]:
    """Whatever keeps Stripe from answering, as the one error that callers know."""
    import stripe

    try:
        yield
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise PlatformUnreachable(f"Stripe refuses STRIPE_SECRET_KEY ({error.http_status})", is_refused=True) from None
    except stripe.StripeError as error:
        raise PlatformUnreachable(f"Stripe's API does not answer ({type(error).__name__})") from None
