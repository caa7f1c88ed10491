"""Stripe as our own store front: checkouts of our orders, how they stand, and refunds of them.
https://docs.stripe.com/api/checkout/sessions/create and /api/refunds/create

Each order is one checkout and each refund is made once, however often it is asked for: our own id of it is the
idempotency key. So what is sent must be the same each time, and hangs on nothing but the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from server.domain.order import Order
from server.domain.purchase import PurchaseEvent
from server.errors import BadRequest, PlatformUnreachable, Unprocessable
from server.platforms import stripe_objects as objects
from server.platforms import stripe_reversals as reversals
from server.platforms.base import Begun, RefundState, RefundWord, Way
from server.platforms.document import Document
from server.platforms.stripe_api import found, plain, stripe_client, told_apart

if TYPE_CHECKING:
    from stripe import StripeClient, StripeError

BUYERS = (2.0, 6.0)  # seconds to connect and to answer, while a buyer waits; one repeat
CLOCKS = timedelta(minutes=10)  # by which ours may be ahead: no checkout may last longer than 24 hours of Stripe's
LONGEST_NAME = 250

# Methods that pay in some currencies only: offered with another one, Stripe refuses the whole checkout.
# https://docs.stripe.com/payments/payment-methods/payment-method-support
BOUND = {
    "bancontact": {"eur"},
    "blik": {"pln"},
    "eps": {"eur"},
    "ideal": {"eur"},
    "p24": {"eur", "pln"},
    "sepa_debit": {"eur"},
    "swish": {"sek"},
    "twint": {"chf"},
}
REFUND = "keyledger_refund"  # metadata of a refund: our id of it
STATES = {"succeeded": RefundState.DONE, "failed": RefundState.REFUSED, "canceled": RefundState.REFUSED}
NEVER_PAID = frozenset({"requires_payment_method", "canceled"})  # of a payment whose checkout is through


class StripeCheckout:
    def __init__(self, key: str, base: str, methods: tuple[str, ...] = ()) -> None:
        self._key, self._base, self._methods = key, base, methods
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def is_test(self) -> bool:
        return self._key.startswith(("sk_test_", "rk_test_"))

    @cached_property
    def _client(self) -> StripeClient:
        return stripe_client(self._key, self._base, BUYERS, retries=1)

    # ------------------------------------------------------------------------------------------------ selling
    def begin(self, order: Order, way: Way) -> Begun:
        from stripe import InvalidRequestError

        wanted: Any = self._wanted(order, way)
        with _answered():
            try:
                create = self._client.v1.checkout.sessions.create
                session = plain(lambda: create(wanted, {"idempotency_key": order.order_id}))
            except InvalidRequestError as error:
                raise Unprocessable(f"Stripe takes no such order: {self._objection(error)}") from None
            return Begun(session.required("id"), session.required("url"))

    def _wanted(self, order: Order, way: Way) -> dict[str, Any]:
        if order.currency == "ugx":
            raise Unprocessable("Stripe's own pages disagree on what a shilling of UGX is in its API: take another one")
        names = {objects.ORDER: order.order_id}
        return {
            "mode": "payment",
            "line_items": [
                {
                    "price_data": {
                        "currency": order.currency,
                        "unit_amount": item.price,
                        "product_data": {"name": item.name[:LONGEST_NAME]},
                    },
                    "quantity": item.quantity,
                }
                for item in order.items
            ],
            "customer_email": order.email,
            "client_reference_id": order.order_id,
            "metadata": names,
            "payment_intent_data": {"metadata": names},
            "success_url": way.back,
            "cancel_url": way.cancelled,
            "expires_at": int((order.expires_at - CLOCKS).timestamp()),
        } | self._chosen_methods(order.currency)

    def _chosen_methods(self, currency: str) -> dict[str, list[str]]:
        """Without any, Stripe offers what is switched on in its dashboard."""
        if not self._methods:
            return {}
        chosen = [name for name in self._methods if currency in BOUND.get(name, {currency})]
        if not chosen:
            raise Unprocessable(f"none of STRIPE_PAYMENT_METHODS ({', '.join(self._methods)}) takes {currency}")
        return {"payment_method_types": chosen}

    def _objection(self, error: StripeError) -> str:
        said = " ".join((error.user_message or error.code or type(error).__name__).split())
        return said.replace(self._key, "…")[:300]

    # ------------------------------------------------------------------------------------------------ asking
    def ask(self, order: Order, reference: str | None) -> list[PurchaseEvent]:
        """Its checkout as a webhook would tell it, and what went back of its payment. A checkout that is open says
        nothing: the buyer may still be choosing."""
        if reference is None:
            return []
        expanded: Any = {"expand": ["payment_intent.latest_charge"]}
        with _answered():
            told = found(lambda: self._client.v1.checkout.sessions.retrieve(reference, expanded))
            if objects.order_of(told) != order.order_id or told.text("status") == "open":
                return []
            payment = _part(told, "payment_intent")
            session = Document(told.values | {"payment_intent": told.reference("payment_intent")})
            event = objects.session_event(session, is_over=payment.text("status") in NEVER_PAID)
            return [event, *self._went_back(payment)]

    def _went_back(self, payment: Document) -> Iterator[PurchaseEvent]:
        """Each refund as its webhook told it, or would have; where one failed, how it stands after that."""
        charge, before = _part(payment, "latest_charge"), 0
        if not charge.flag("paid"):
            return
        refunds = list(reversed(list(self._refunds_of(payment.required("id")))))  # told newest first
        failed = [refund for refund in refunds if refund.text("status") in ("failed", "canceled")]
        if failed:
            yield from self._after_failures(charge, refunds, failed)
            return
        for refund in refunds:
            back = before + (refund.number("amount") or 0)
            yield _known(reversals.refunded_charge_event(_with(charge, back), refund.moment("created"), before), charge)
            before = back

    def _after_failures(
        self, charge: Document, refunds: list[Document], failed: list[Document]
    ) -> Iterator[PurchaseEvent]:
        """Stripe does not say when a refund failed, only that it did by now: so it is after every sum that was told
        before, and the sum that stands is a second later."""
        now = self.clock()
        for refund in failed:
            yield _known(reversals.refund_event(refund, now), charge)
        if back := sum(refund.number("amount") or 0 for refund in refunds if refund not in failed):
            stands = reversals.refunded_charge_event(_with(charge, back), now + timedelta(seconds=1))
            name = f"{charge.required('id')}:stands:{back}:{len(failed)}:{len(refunds)}"  # the same however often told
            yield _known(msgspec.structs.replace(stands, event_id=name), charge)

    def _refunds_of(self, payment_id: str) -> Iterator[Document]:
        wanted: Any = {"payment_intent": payment_id, "limit": 100}
        while True:
            page = found(lambda: self._client.v1.refunds.list(wanted))
            refunds = list(page.parts("data"))
            yield from refunds
            if not page.flag("has_more") or not refunds:
                return
            wanted["starting_after"] = refunds[-1].required("id")

    # ------------------------------------------------------------------------------------------------ giving back
    def refund(self, order: Order, names: Sequence[str], amount: int, refund_id: str) -> RefundWord:
        from stripe import CardError, InvalidRequestError

        payment = _payment_in(names)
        if payment is None:
            return RefundWord(RefundState.REFUSED, note="Stripe has no payment of this order")
        wanted: Any = {"payment_intent": payment, "amount": amount, "metadata": {REFUND: refund_id}}
        with _answered():
            try:
                create = self._client.v1.refunds.create
                return _word(plain(lambda: create(wanted, {"idempotency_key": refund_id})))
            except (CardError, InvalidRequestError) as error:
                refused = RefundWord(RefundState.REFUSED, note=self._objection(error))
        # Stripe forgets an idempotency key after a day, and then calls our own refund one that was made already.
        return self.find_refund(order, names, refund_id) or refused

    def find_refund(self, order: Order, names: Sequence[str], refund_id: str) -> RefundWord | None:
        payment = _payment_in(names)
        if payment is None:
            return None
        with _answered():
            same = (one for one in self._refunds_of(payment) if one.part("metadata").text(REFUND) == refund_id)
            return next((_word(one) for one in same), None)


@contextmanager
def _answered() -> Iterator[None]:
    """An answer that makes no sense is none: whether it was done is not known."""
    with told_apart():
        try:
            yield
        except Unprocessable:
            raise
        except BadRequest as error:
            raise PlatformUnreachable(f"Stripe's API answers what cannot be read ({error.detail})") from None


def _part(obj: Document, name: str) -> Document:
    """An expanded object; an empty one where only its id stands there, or nothing."""
    return obj.part(name) if isinstance(obj.values.get(name), dict) else Document({})


def _with(charge: Document, back: int) -> Document:
    """The charge as it was when so much of it had gone back."""
    whole = charge.number("amount_captured") or charge.number("amount") or 0
    return Document(charge.values | {"amount_refunded": back, "refunded": back >= whole})


def _payment_in(names: Sequence[str]) -> str | None:
    return next((name for name in names if name.startswith("pi_")), None)


def _word(refund: Document) -> RefundWord:
    state = STATES.get(refund.text("status") or "", RefundState.ACCEPTED)
    note = refund.text("failure_reason") if state is RefundState.REFUSED else None
    return RefundWord(state, refund.required("id"), note)


def _known(event: PurchaseEvent, charge: Document) -> PurchaseEvent:
    """Whose payment it is, is known; and a refund's mode is its charge's, since it tells none."""
    return msgspec.structs.replace(event, inquiry=None, is_test=not charge.flag("livemode"))
