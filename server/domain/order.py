"""Orders of the own store front: what was ordered, and how it stands.

An order keeps no second truth: whether it is paid or refunded is read from the ledger's entries of its sale. Its own
lines tell only what the ledger does not: that it was placed and begun, that the buyer is on his way, that a platform
gave it up, and which refunds were asked for. How it stands is a function of the set of both, never of their order.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from server.domain import money
from server.domain.catalogue import Item
from server.domain.license import Moment
from server.domain.purchase import ISSUING, Entry, EventKind, Inquiry, PurchaseEvent

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32
VALID_FOR = timedelta(hours=24)  # in which an order can be paid; the platforms are told so
MONEY_TAKES = timedelta(days=14)  # at most, after the buyer did his part: bank debits take days


class OrderState(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    PAID = "paid"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"
    PARTIALLY_REFUNDED = "partially_refunded"


OPEN = frozenset({OrderState.PENDING, OrderState.PROCESSING})
SETTLED = frozenset({OrderState.PAID, OrderState.REFUNDED, OrderState.PARTIALLY_REFUNDED})


class OrderItem(msgspec.Struct, frozen=True, kw_only=True):
    """One package of an order; `price` is in minor units of the order's currency, for each."""

    product_id: str
    name: str
    price: int
    quantity: int = 1


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was ordered, of whom and for how much; never changed.

    `order_id` is our reference at the platform too: 20 letters and digits, which is all that JazzCash takes, and
    unguessable. `source` is the platform, `merchant` whose account there; `amount` is in minor units of `currency`.
    """

    order_id: str
    number: str
    source: str
    merchant: str
    email: str
    name: str
    items: tuple[OrderItem, ...]
    amount: int
    currency: str
    placed_at: Moment
    phone: str | None = None
    is_test: bool = False
    success_url: str | None = None
    cancel_url: str | None = None

    @property
    def price(self) -> str:
        return money.told(self.amount, self.currency)

    @property
    def expires_at(self) -> datetime:
        return self.placed_at + VALID_FOR

    @property
    def ledger_name(self) -> str:
        """By what the ledger's entries of its sale are found."""
        return f"sale\0{self.source}\0{self.order_id}"


class Step(StrEnum):
    """What a line of an order tells."""

    PLACED = "placed"
    BEGUN = "begun"  # the platform knows it: `reference` is its own id, `payment_url` where the buyer pays
    PROCESSING = "processing"  # the platform waits for the money
    HINTED = "hinted"  # something happened to the payment, what it was the platform has still to say
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUSPICIOUS = "suspicious"  # something was told of it that is not believed; the ledger has it
    REFUND_ASKED = "refund_asked"  # of the platform, or is about to be: never a second time under this refund_id
    REFUND_ACCEPTED = "refund_accepted"
    REFUND_REFUSED = "refund_refused"


class OrderLine(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A line of `orders.jsonl`, chained as the ledger's are. `amount` is that of a refund, in minor units."""

    seq: int = 0
    prev: str | None = None
    timestamp: Moment
    order_id: str
    step: Step
    order: Order | None = None
    reference: str | None = None
    payment_url: str | None = None
    refund_id: str | None = None
    amount: int | None = None
    note: str | None = None


class OrderFile(msgspec.Struct, frozen=True):
    """An order with all its lines, in the order they were written."""

    order: Order
    lines: tuple[OrderLine, ...]

    def of(self, step: Step) -> list[OrderLine]:
        return [line for line in self.lines if line.step is step]

    @property
    def reference(self) -> str | None:
        return next((line.reference for line in self.of(Step.BEGUN) if line.reference), None)

    @property
    def payment_url(self) -> str | None:
        return next((line.payment_url for line in self.of(Step.BEGUN) if line.payment_url), None)

    def has(self, line: OrderLine) -> bool:
        """Whether this line would say nothing new."""
        said = (line.step, line.reference, line.refund_id, line.note if line.step is Step.SUSPICIOUS else None)
        return any(
            said == (x.step, x.reference, x.refund_id, x.note if x.step is Step.SUSPICIOUS else None)
            for x in self.lines
        )


# The incident of a refund of which its platform tells no sum: it is taken for all, unless the owner says how much.
WITHOUT_SUM = "refunded"


def new_order_id() -> str:
    """100 random bits; a letter first, since some programs take a reference of digits for a number."""
    return secrets.choice(ALPHABET[10:]) + "".join(secrets.choice(ALPHABET) for _ in range(19))


def is_order_id(text: str) -> bool:
    return len(text) == 20 and text[0] in ALPHABET[10:] and all(c in ALPHABET for c in text)


def new_number(now: datetime) -> str:
    """ORD-YYYYMMDD-XXXX; whoever places the order sees to it that no other one has it."""
    return f"ORD-{now:%Y%m%d}-{''.join(secrets.choice(ALPHABET) for _ in range(4))}"


# ---------------------------------------------------------------------------------------------------- how it stands
class Account(msgspec.Struct, frozen=True):
    """What was paid for an order and what of it went back, in minor units; `sale` is the entry of its payment."""

    sale: Entry | None
    paid: int
    refunded: int


def account(order: Order, entries: Iterable[Entry]) -> Account:
    """From the ledger's entries of its sale, of which the newest revision counts."""
    newest: dict[str, Entry] = {}
    for entry in entries:
        known = newest.get(entry.identity)
        if known is None or entry.revision > known.revision:
            newest[entry.identity] = entry
    sales = [e for e in newest.values() if e.event in ISSUING and not e.is_withdrawn and not e.is_item]
    if not sales:
        return Account(None, 0, 0)
    return Account(
        min(sales, key=lambda e: e.order_key), order.amount, min(order.amount, _went_back(order, list(newest.values())))
    )


def _went_back(order: Order, entries: Sequence[Entry]) -> int:
    """A refund with a name of its own tells its part, and what failed of it names it, too. One without, as Stripe's,
    tells the sum so far: of that comes off what failed later."""
    if any(e.event is EventKind.DISPUTE_LOST for e in entries):
        return order.amount
    failures = [e for e in entries if e.event is EventKind.REFUND_FAILED]
    sums, parts = [0], dict[str | None, int]()
    for refund in (e for e in entries if e.event in (EventKind.REFUND, EventKind.PARTIAL_REFUND)):
        failed = [failure for failure in failures if _undoes(failure, refund)]
        if total := money.amount(refund.refunded_total, refund.currency):
            sums.append(total[1] - sum(known[1] for f in failed if (known := money.amount(f.price, f.currency))))
        elif refund.event is EventKind.REFUND:
            sums.append(0 if failed else order.amount)
        elif not failed and (part := money.amount(refund.price, refund.currency)):
            parts[refund.incident] = part[1]
    return max(sums) + sum(parts.values())


def _undoes(failure: Entry, refund: Entry) -> bool:
    """By the fold's own rule: one that was made after the failure stands."""
    if (failure.incident or failure.sale_id) != (refund.incident or refund.sale_id):
        return False
    is_dated = failure.occurred_at is not None and refund.occurred_at is not None
    return not is_dated or failure.moment >= refund.moment


def state_of(file: OrderFile, entries: Iterable[Entry], now: datetime) -> OrderState:
    """The ledger goes before the order's own lines: what is paid stays so, whatever else is told of it."""
    stands = account(file.order, entries)
    if stands.sale is not None:
        if stands.refunded >= stands.paid > 0:
            return OrderState.REFUNDED
        return OrderState.PARTIALLY_REFUNDED if stands.refunded else OrderState.PAID
    steps = {line.step for line in file.lines}
    if Step.FAILED in steps:
        return OrderState.FAILED
    is_under_way = not steps.isdisjoint({Step.PROCESSING, Step.HINTED})
    end = file.order.placed_at + MONEY_TAKES if is_under_way else file.order.expires_at
    if Step.CANCELLED in steps or now >= end:
        return OrderState.CANCELLED
    return OrderState.PROCESSING if is_under_way else OrderState.PENDING


def open_refunds(file: OrderFile, entries: Iterable[Entry]) -> list[OrderLine]:
    """The refunds that were asked for, were not refused and did not fail, and that the ledger does not tell of yet."""
    entries = list(entries)
    failed = {e.incident or e.event_id.partition(":")[0] for e in entries if e.event is EventKind.REFUND_FAILED}
    refused = {line.refund_id for line in file.of(Step.REFUND_REFUSED)}
    refused |= {line.refund_id for line in file.of(Step.REFUND_ACCEPTED) if line.reference in failed}
    told, found = account(file.order, entries).refunded, list[OrderLine]()
    for line in file.of(Step.REFUND_ASKED):
        if line.refund_id in refused:
            continue
        told -= line.amount or 0
        if told < 0:
            found.append(line)
            told = 0
    return found


def payment_names(file: OrderFile, sale: Entry) -> list[str]:
    """By what the platform knows the payment of an order."""
    return [name for name in (sale.sale_id, *sale.links, file.reference) if name]


# ---------------------------------------------------------------------------------------------------- what is believed
def as_ordered(event: PurchaseEvent, order: Order | None) -> PurchaseEvent:
    """What a platform says of an order, with what was ordered; or why it is not believed, and then it gives nothing.

    An order is paid only where platform, currency, amount and mode are its own; the merchant's account is what the
    platform's file has looked at.
    """
    if event.is_withdrawn or event.event is EventKind.IGNORED:
        return event
    if order is None:
        return _homeless(event)
    if doubt := _doubt(event, order):
        return doubted(event, doubt)
    return _of_order(event, order)


def _homeless(event: PurchaseEvent) -> PurchaseEvent:
    """An order that nobody knows here. Money for one that looks like ours waits for the owner, as a sale that nobody
    mapped; what another shop of the same account sold is only written down."""
    if event.event is not EventKind.SALE or is_order_id(event.order_id or ""):
        return event
    return of_nobody(event)


def of_nobody(event: PurchaseEvent) -> PurchaseEvent:
    """What is told of an order that is none of ours, as it is written down."""
    note = "there is no such order here"
    return msgspec.structs.replace(event, event=EventKind.IGNORED, told_as=event.event, inquiry=None, note=note)


def _doubt(event: PurchaseEvent, order: Order) -> str | None:
    if event.source != order.source:
        return f"order {order.number} is {order.source}'s"
    if event.is_test != order.is_test:
        return f"order {order.number} is {'a test' if order.is_test else 'no test'}"
    if event.event in (EventKind.SALE, EventKind.REFUND):
        return other_amount(event, order)
    return _no_part(event, order) if event.event in (EventKind.PARTIAL_REFUND, EventKind.REFUND_FAILED) else None


def other_amount(event: PurchaseEvent, order: Order) -> str | None:
    """Why the sum that an event names is not the order's; None where it is."""
    told = money.amount(event.price, event.currency)
    if told is None:
        return "it names no amount that can be read"
    if told != (order.currency, order.amount):
        return f"{event.price} {event.currency} is not the {order.price} {order.currency} of order {order.number}"
    return None


def _no_part(event: PurchaseEvent, order: Order) -> str | None:
    """Why the sum that an event names cannot be a part of the order's; None where it can."""
    told = money.amount(event.price, event.currency)
    if told is None:
        return "it names no amount that can be read"
    if told[0] != order.currency or not 0 < told[1] <= order.amount:
        whole = f"{order.price} {order.currency} of order {order.number}"
        return f"{event.price} {event.currency} is no part of the {whole}"
    return None


def _of_order(event: PurchaseEvent, order: Order) -> PurchaseEvent:
    if event.event is EventKind.PARTIAL_REFUND and money.amount(event.price, event.currency) == (
        order.currency,
        order.amount,
    ):
        event = msgspec.structs.replace(event, event=EventKind.REFUND, is_refunded=True)
    if event.event not in ISSUING | {EventKind.PENDING}:
        return event
    items = tuple(Item(ids=(i.product_id,), quantity=i.quantity, product_id=i.product_id) for i in order.items)
    return msgspec.structs.replace(
        event,
        items=items,
        email=order.email,
        customer_name=order.name,
        product_name=event.product_name or order.items[0].name,
        quantity=1,
        purchase_date=event.purchase_date or event.occurred_at,
        inquiry=None if event.inquiry is Inquiry.LINE_ITEMS else event.inquiry,
    )


def doubted(event: PurchaseEvent, why: str) -> PurchaseEvent:
    """The event as the ledger keeps what is not believed: it gives nothing, and the owner is told. Under a name of its
    own, so that the platform's true word is still news when it comes."""
    return msgspec.structs.replace(
        event,
        event=EventKind.IGNORED,
        event_id=f"{event.event_id}:doubted:{event.price or ''}:{event.currency or ''}",
        told_as=event.event,
        is_withdrawn=True,
        inquiry=None,
        note=f"not believed: {why}",
    )
