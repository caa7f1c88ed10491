"""What a platform's record says as a whole, and which of the ledger's lines are about the same.

One charge goes by several names (a checkout, its invoice, the payments of that), and what became of it is told by
several events; here they are brought together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime

import msgspec

from server.domain.fold import fold
from server.domain.money import amount
from server.domain.purchase import (
    CHARGES,
    OWNER_ISSUING,
    PAID,
    Entry,
    EventKind,
    Inquiry,
    Outcome,
    PurchaseEvent,
    charge_groups,
    charges_of,
)

_DISPUTES = frozenset({EventKind.DISPUTE, EventKind.DISPUTE_WON, EventKind.DISPUTE_LOST})
_REVERSALS = _DISPUTES | {EventKind.REFUND, EventKind.PARTIAL_REFUND, EventKind.REFUND_FAILED}
_WITHOUT_LICENSE = frozenset({Outcome.UNMAPPED, Outcome.PENDING})


class Record:
    """A platform's record as a whole: which names are of one charge, and what becomes of a charge in the end."""

    def __init__(
        self,
        record: Iterable[PurchaseEvent],
        is_mapped: Callable[[PurchaseEvent], bool],
        span: tuple[datetime, datetime | None],
        without_quantity: Collection[str],
    ) -> None:
        known = [event for event in record if not event.is_test and is_of_money(event)]
        self.events = sorted(known, key=_when)
        self._since, self._until = span
        self._without_quantity = without_quantity
        self._siblings = _siblings(self.events)
        charges = [event for event in self.events if event.event in CHARGES]
        self._charged = names_of(charges)
        new = [event for event in charges if self.is_in_time(event)]
        mapped = [event for event in new if is_mapped(event)]
        self._orders = {event.order for event in mapped if event.event is EventKind.SALE}
        ours = mapped + [event for event in new if event.order in self._orders]  # a renewal may name only its price
        self._sold = {name for event in ours for name in self._group(event)}
        self._told = {(event.event, event.sale_id) for event in self.events}
        self._won = [event for event in self.events if event.event is EventKind.DISPUTE_WON]

    def _group(self, event: PurchaseEvent) -> Collection[str]:
        names = (event.sale_id, *event.links)
        return next((self._siblings[name] for name in names if name in self._siblings), ())

    def linked(self, event: PurchaseEvent) -> PurchaseEvent:
        """With all names that the record has for its charge: a payment is the invoice's that it paid."""
        more = sorted(set(self._group(event)) - {event.sale_id, *event.links})
        if event.event in CHARGES or not more:
            return event
        inquiry = None if event.inquiry is Inquiry.PAYMENT else event.inquiry
        return msgspec.structs.replace(event, links=(*event.links, *more), inquiry=inquiry)

    def is_in_time(self, charge: PurchaseEvent) -> bool:
        moment = charge.purchase_date
        return moment is None or (self._since <= moment and (self._until is None or moment <= self._until))

    def is_sold(self, event: PurchaseEvent) -> bool:
        """Whether it is about a charge of this time, of something that we sell."""
        return not self._sold.isdisjoint(names_of([event]))

    def has_sale(self, renewal: PurchaseEvent) -> bool:
        """Whether the sale of its subscription is of this time, too, and of something that we sell."""
        return renewal.order in self._orders

    def names(self, *names: str | None) -> bool:
        """Whether one of these is a charge's name here."""
        return not self._charged.isdisjoint(names)

    def tells_quantity(self, event: PurchaseEvent) -> bool:
        return event.identity not in self._without_quantity

    def says(self, kind: EventKind, event: PurchaseEvent) -> bool:
        """Whether the record says this, too, of the same payment."""
        return (kind, event.sale_id) in self._told

    def is_won(self, dispute: PurchaseEvent) -> bool:
        if not self.says(EventKind.DISPUTE_WON, dispute):
            return False
        return any(_is_incident(dispute, won) and dispute.sale_id == won.sale_id for won in self._won)


def is_of_money(event: PurchaseEvent) -> bool:
    """Not what only tells of itself; a dispute that ended in another way is still to be asked about."""
    return event.event in PAID or event.event in _REVERSALS or event.inquiry is Inquiry.CHARGE


def _siblings(events: Iterable[PurchaseEvent]) -> dict[str, set[str]]:
    """All names of the charge that a name is of."""
    found: dict[str, set[str]] = {}
    for event in events:
        names = names_of([event])
        for known in {id(found[name]): found[name] for name in names if name in found}.values():
            names |= known
        found.update(dict.fromkeys(names, names))
    return found


def names_of(told: Iterable[PurchaseEvent | Entry]) -> set[str]:
    return {name for one in told for name in (one.sale_id, *one.links) if name}


def _when(event: PurchaseEvent) -> tuple[float, bool]:
    """Charges before what went back of them."""
    moment = event.purchase_date or event.occurred_at
    return (moment.timestamp() if moment else float("inf"), event.event not in CHARGES)


# ---------------------------------------------------------------------------------------------------- the ledger
def charges_about(
    said: PurchaseEvent | Entry, history: Sequence[Entry], kinds: Collection[EventKind] = CHARGES
) -> list[Entry]:
    """The newest lines of such kinds that are about the same charge, and that the platform did not disown."""
    newest: dict[str, Entry] = {}
    for entry in history:
        if entry.identity not in newest or entry.revision > newest[entry.identity].revision:
            newest[entry.identity] = entry
    groups = charge_groups(history)
    own = charges_of(said, groups)
    found = (entry for entry in newest.values() if entry.event in kinds and not entry.is_withdrawn)
    return [entry for entry in found if not own.isdisjoint(charges_of(entry, groups))]


def is_heard_of(event: PurchaseEvent, history: Sequence[Entry]) -> bool:
    return any(entry.identity == event.identity for entry in history) or same_charge(event, history) is not None


def same_charge(event: PurchaseEvent, history: Sequence[Entry]) -> Entry | None:
    """The line of this event, else one that tells the same charge, or by which the owner fulfilled it."""
    charges, names = charges_about(event, history), names_of([event])
    same = [entry for entry in charges if entry.identity == event.identity]
    kinds = OWNER_ISSUING | {event.event}
    same = same or [entry for entry in charges if entry.event in kinds and entry.sale_id in names]
    return same[0] if same else None


# ---------------------------------------------------------------------------------------------------- money back
def is_told(event: PurchaseEvent, history: Sequence[Entry]) -> bool:
    """Whether the ledger tells already, with effect, what went back or came to us by this event."""
    about = charges_about(event, history, frozenset(EventKind))
    return is_known(event, about) and is_joined(about, history)


def is_known(event: PurchaseEvent, about: Sequence[Entry]) -> bool:
    """Whether one of these lines says so: this event, or the same of the same charge in other words."""
    if event.event is EventKind.REFUND:
        return _stands_refunded(event, about)
    if event.event is EventKind.PARTIAL_REFUND and event.order_id and event.refunded_total is None:
        return any(entry.identity == event.identity for entry in about)  # several parts, each told by itself
    if event.event is EventKind.PARTIAL_REFUND:
        totals = {entry.refunded_total for entry in about if entry.event is EventKind.PARTIAL_REFUND}
        return event.refunded_total in totals or None in totals or (event.refunded_total is None and bool(totals))
    if any(entry.identity == event.identity for entry in about):
        return True
    is_dispute = event.event in _DISPUTES
    return is_dispute and any(entry.event is event.event and _is_incident(event, entry) for entry in about)


def is_joined(about: Sequence[Entry], history: Sequence[Entry]) -> bool:
    """Whether the ledger itself has these lines together. What only the platform's record brings together, such as a
    refunded payment and the invoice that it paid, has no effect on a license."""
    groups = charge_groups(history)
    rest = [names for entry in about if (names := charges_of(entry, groups))]
    joined = rest.pop() if rest else set()
    while near := [names for names in rest if not joined.isdisjoint(names)]:
        joined = joined.union(*near)
        rest = [names for names in rest if joined.isdisjoint(names)]
    return not rest


def is_settled(event: PurchaseEvent, about: Sequence[Entry], told: Record) -> bool:
    """Whether it changes nothing any more, by what else the record says, or by what never was heard of here."""
    if event.event is EventKind.PARTIAL_REFUND:
        return told.says(EventKind.REFUND, event)
    if event.event is EventKind.REFUND_FAILED:
        return told.says(EventKind.REFUND, event) or not _stands_refunded(event, about)
    ends = (EventKind.DISPUTE_WON, EventKind.DISPUTE_LOST)
    if event.event is EventKind.DISPUTE:
        is_over = any(entry.event in ends and _is_incident(event, entry) for entry in about)
        return is_over or told.is_won(event)
    if event.event in (EventKind.DISPUTE_WON, EventKind.IGNORED):
        begun = (EventKind.DISPUTE, EventKind.DISPUTE_LOST)
        return not any(entry.event in begun and _is_incident(event, entry) for entry in about)
    return False


def _stands_refunded(event: PurchaseEvent, about: Sequence[Entry]) -> bool:
    """By the fold's own rule: a refund that did not fail, or one that was made after that."""
    failed = [entry for entry in about if entry.event is EventKind.REFUND_FAILED]
    return any(not any(_failed(refund, failure) for failure in failed) for refund in _refunds(event, about))


def _refunds(event: PurchaseEvent, about: Sequence[Entry]) -> list[Entry]:
    """Of the same payment: an invoice may be paid in parts. One that tells no sum is of the whole."""
    is_whole = event.event is EventKind.REFUND and event.refunded_total is None
    found = (entry for entry in about if entry.event is EventKind.REFUND)
    return [e for e in found if is_whole or e.refunded_total is None or e.sale_id == event.sale_id]


def _failed(refund: Entry, failure: Entry) -> bool:
    is_dated = refund.occurred_at is not None and failure.occurred_at is not None
    return refund.sale_id == failure.sale_id and (not is_dated or failure.moment >= refund.moment)


def after_its_refund(failure: PurchaseEvent, about: Sequence[Entry]) -> PurchaseEvent:
    """The record dates it by when the refund was made; it failed later than any refund of it was told."""
    moments = [refund.moment for refund in _refunds(failure, about)]
    return msgspec.structs.replace(failure, occurred_at=max([failure.occurred_at or moments[0], *moments]))


def _is_incident(event: PurchaseEvent, other: PurchaseEvent | Entry) -> bool:
    return event.incident is None or other.incident in (None, event.incident)


# ---------------------------------------------------------------------------------------------------- one charge
def has_license(event: PurchaseEvent, history: Sequence[Entry]) -> bool:
    """One that was withdrawn, because the platform did not know the sale then, is none."""
    newest = max((e for e in history if e.identity == event.identity), key=lambda e: e.revision, default=None)
    if newest is not None and newest.is_withdrawn:
        history = [entry for entry in history if entry.identity != event.identity]
    return bool(fold(history))


def counts(entry: Entry | None) -> bool:
    """Whether this charge gave or extended a license, or will once its sale is known."""
    return entry is not None and (bool(entry.grants) or entry.outcome not in _WITHOUT_LICENSE)


def mismatches(event: PurchaseEvent, entry: Entry, tells_quantity: bool, is_mapped: bool) -> dict[str, tuple[str, str]]:
    """Only what both tell is compared. A product that nobody mapped (`is_mapped`) is another name of the same one, or
    nothing that the license could become."""
    currency = event.currency or entry.currency
    pairs: dict[str, tuple[str | None, str | None]] = {
        "email": (_folded(event.email), _folded(entry.email)),
        "currency": (event.currency, entry.currency),
    }
    if tells_quantity and event.inquiry is None and entry.inquiry is None:
        pairs["quantity"] = (str(event.quantity), str(entry.quantity))
    theirs, ours = amount(event.price, currency), amount(entry.price, entry.currency)
    if currency == entry.currency and theirs and ours and theirs != ours:
        pairs["amount"] = (event.price, entry.price)
    if not _is_same_product(event, entry) and is_mapped:
        pairs["product"] = (event.source_product_id, entry.source_product_id)
    return {name: (a, b) for name, (a, b) in pairs.items() if a and b and a != b}


def _is_same_product(event: PurchaseEvent, entry: Entry) -> bool:
    """By its id, or where one of them says what is a further name for the other."""
    return event.source_product_id in _names_of_product(entry) or entry.source_product_id in _names_of_product(event)


def _names_of_product(said: PurchaseEvent | Entry) -> tuple[str | None, ...]:
    return (said.source_product_id, said.own_product_id, said.product_name, *said.product_aliases)


def _folded(email: str | None) -> str | None:
    return email.strip().casefold() if email else None
