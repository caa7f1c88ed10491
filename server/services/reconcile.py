"""Reconciliation: the ledger held against a platform's own record, in both directions.

The record comes as the events that the platform's webhooks would have been, so whatever is missing is repaired by the
path that every sale takes, and a webhook that comes late finds its event told already. What the platform says now is
compared, not how it came about: a dispute that was won, or a refund that failed, of which neither beginning nor end was
ever heard here, is no difference. What is in the ledger alone is only told: a license is never taken because a list did
not name its sale.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from server.domain.fold import fold
from server.domain.money import amount
from server.domain.purchase import (
    CHARGES,
    PAID,
    Entry,
    EventKind,
    Inquiry,
    PurchaseEvent,
    event_name,
)
from server.errors import PlatformUnreachable
from server.services.fulfilment import Fulfilment
from server.services.inquiries import Inquiries
from server.services.record import (
    Record,
    after_its_refund,
    charges_about,
    counts,
    has_license,
    is_heard_of,
    is_settled,
    is_told,
    mismatches,
    names_of,
    same_charge,
)
from server.services.repair import Repair, names_product
from server.services.statement import Sleep, patiently
from server.storage.base import Progress, Store, no_progress

JUST_NOW = timedelta(hours=1)  # in which the two may differ because one of them is still on its way
_WENT_BACK = frozenset({EventKind.REFUND, EventKind.DISPUTE_LOST})
Answer = Sequence[PurchaseEvent]
Ask = Callable[[str, Callable[[], Answer]], Answer]  # what it is about, and how it is asked


class Kind(StrEnum):
    """What differs. Some can only be told."""

    NO_LICENSE = "paid without a license"
    PROVISIONAL = "paid, license provisional"
    REFUNDED = "refunded but active"
    DISPUTED = "disputed but active"
    UNRECORDED = "not in the ledger"
    MISMATCH = "told differently"
    LONE = "renewal without its sale"
    UNPAID = "license without payment"
    SUSPICIOUS = "does not fit its order"
    UNMAPPED = "product not mapped"


TOLD_ONLY = frozenset({Kind.LONE, Kind.UNPAID, Kind.UNMAPPED})
NOTES = frozenset({Kind.UNMAPPED})


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One difference; `event` is what repairs it. `field`, `theirs` and `ours` say what a mismatch is about.

    `tells_quantity`: the record says how many were sold.
    """

    kind: Kind
    sale_id: str | None
    email: str | None
    field: str = ""
    theirs: str = ""
    ours: str = ""
    license_keys: tuple[str, ...] = ()
    event: PurchaseEvent | None = None
    tells_quantity: bool = True

    @property
    def can_be_repaired(self) -> bool:
        return self.kind not in TOLD_ONLY

    @property
    def name(self) -> tuple[object, ...]:
        """By what the same difference is known in another comparison."""
        about = (self.event.event, self.event.incident) if self.event else ()
        return (self.kind, self.field, self.sale_id, *about)


class Reconciliation:
    """`unchecked` counts what had to be looked up one by one, and could not be: licenses that the record does not name,
    and refunds and disputes of which neither side knows the charge."""

    def __init__(
        self,
        store: Store,
        fulfilment: Fulfilment,
        inquiries: Inquiries,
        clock: Callable[[], datetime],
        sleep: Sleep = time.sleep,
        ask: Ask | None = None,
    ) -> None:
        """`ask` has an answer to what is asked one by one, or raises PlatformUnreachable."""
        self._store, self._fulfilment, self._inquiries = store, fulfilment, inquiries
        self._repair, self._clock = Repair(store, fulfilment, inquiries), clock
        self._ask = ask or (lambda about, question: patiently(question, sleep))
        self.unchecked = 0
        self._answers: dict[str, Answer] = {}  # several events may be about one payment

    def compare(
        self,
        source: str,
        record: Iterable[PurchaseEvent],
        since: datetime,
        until: datetime | None = None,
        progress: Progress = no_progress,
        without_quantity: Collection[str] = frozenset(),
        as_of: datetime | None = None,
    ) -> list[Drift]:
        """What differs between the platform's record from `since` on and the ledger, the oldest first.

        What was charged earlier is only compared where the ledger knows of it: a seller may have begun with us later.
        `without_quantity` are the events that do not tell how many were sold, `as_of` is when the record was made.
        """
        self.unchecked = 0
        self._answers = {}
        record = [self._fulfilment.ordered(event) for event in record]
        told = Record(record, self._is_mapped, (since, until), without_quantity)
        found = {drift.name: drift for drift in self._suspicious(record)}
        for done, event in enumerate(told.events, 1):
            for drift in self._drifts(event, told):
                found.setdefault(drift.name, drift)
            progress(done, len(told.events))
        for drift in self._unpaid(source, told, since, until or (as_of or self._clock()) - JUST_NOW):
            found.setdefault(drift.name, drift)
        return list(found.values())

    def repair(self, drifts: Sequence[Drift], progress: Progress = no_progress) -> None:
        """All that can be, see `repairing`."""
        number = sum(drift.can_be_repaired for drift in drifts)
        for done, _ in enumerate(self.repairing(drifts), 1):
            progress(done, number)

    def repairing(self, drifts: Sequence[Drift]) -> Iterator[Drift]:
        """Write what is missing or was told differently, each before it is given. Done twice it does nothing: each
        difference is looked at again before anything is written. Raises StorageUnavailable.

        What went back comes first, so that nobody is mailed the key of a sale that was refunded long ago.
        """
        fields: dict[str, set[str]] = defaultdict(set)
        for drift in drifts:
            if drift.event is not None and drift.kind is Kind.MISMATCH:
                fields[drift.event.identity].add(drift.field)
        for drift in sorted((drift for drift in drifts if drift.can_be_repaired), key=_is_charge):
            if drift.event is not None and drift.kind is Kind.MISMATCH:
                self._repair.correct(drift.event, fields.pop(drift.event.identity, set()))
            elif drift.event is not None:
                self._repair.tell(drift.event, drift.tells_quantity)
            yield drift

    # ------------------------------------------------------------------------------------------------ their record
    def _suspicious(self, record: Iterable[PurchaseEvent]) -> Iterator[Drift]:
        """What is told of an order and does not fit it gives nothing, and is written down once for the owner."""
        for event in record:
            if event.is_withdrawn and self._store.find_event(event.identity) is None:
                told = f"{event.told_as or event.event} {event.price or ''} {event.currency or ''}".strip()
                why = (event.note or "").removeprefix("not believed: ")
                yield _drift(Kind.SUSPICIOUS, event, theirs=f"{told}: {why}")

    def _drifts(self, event: PurchaseEvent, told: Record) -> Iterator[Drift]:
        event = told.linked(event)
        history = self._store.history(event.names())
        if event.event in CHARGES:
            if told.is_in_time(event) or is_heard_of(event, history):
                yield from self._charge(event, history, told)
        elif told.is_sold(event) or charges_about(event, history):
            yield from _reversal(event, history, told)
        elif event.inquiry is Inquiry.PAYMENT:
            yield from self._traced(event, told)

    def _traced(self, event: PurchaseEvent, told: Record) -> Iterator[Drift]:
        """Money that went back of a payment that neither side names: it may have paid a renewal that was charged
        before this time, so its platform is asked."""
        answer = self._answer(f"payment {event.sale_id}", lambda: [self._inquiries.trace(event)])
        if answer is None:
            return
        (traced,) = answer
        event = msgspec.structs.replace(event, inquiry=None, links=traced.links, subscription_id=traced.subscription_id)
        history = self._store.history(event.names())
        if charges_about(event, history):
            yield from _reversal(event, history, told)

    def _charge(self, event: PurchaseEvent, history: Sequence[Entry], told: Record) -> Iterator[Drift]:
        entry, is_licensed = same_charge(event, history), has_license(event, history)
        if entry is None or not is_licensed or not counts(entry):
            if kind := self._missing(event, entry, is_licensed, told):
                yield _drift(kind, event, tells_quantity=told.tells_quantity(event))
        elif entry.inquiry is Inquiry.SALE:
            yield _drift(Kind.PROVISIONAL, event, tells_quantity=told.tells_quantity(event))
        elif entry.event in PAID:  # what the owner decided himself is not corrected
            for field, (theirs, ours) in self._mismatches(event, entry, told).items():
                yield _drift(Kind.MISMATCH, event, field, theirs, ours)

    def _missing(self, event: PurchaseEvent, entry: Entry | None, is_licensed: bool, told: Record) -> Kind | None:
        """What a charge is called that is not in the ledger, or of which the customer has nothing there. Of renewals
        whose sale is missing, too, it is the sale that is told of."""
        is_renewal = event.event is EventKind.RENEWAL
        if entry is None and (is_licensed or (is_renewal and told.has_sale(event))):
            return Kind.UNRECORDED
        if is_renewal and told.has_sale(event) and entry is not None and counts(entry):
            return Kind.PROVISIONAL if entry.inquiry is Inquiry.SALE else None
        if not any(self._is_mapped(said) for said in (event, entry and entry.as_event()) if said):
            return Kind.UNMAPPED
        return Kind.LONE if is_renewal and not event.may_issue and not is_licensed else Kind.NO_LICENSE

    def _mismatches(self, event: PurchaseEvent, entry: Entry, told: Record) -> dict[str, tuple[str, str]]:
        return mismatches(event, entry, told.tells_quantity(event), names_product(self._fulfilment, event))

    def _is_mapped(self, event: PurchaseEvent) -> bool:
        return self._fulfilment.is_mapped(event)

    # ------------------------------------------------------------------------------------------------ our ledger
    def _unpaid(self, source: str, told: Record, since: datetime, until: datetime) -> Iterator[Drift]:
        """Licenses of this time whose charge the platform does not name."""
        looked_at: set[str] = set()
        for line in self._store.scan(_Line):
            if line.source != source or line.event not in PAID or line.is_test or line.event_id in looked_at:
                continue
            if not since <= line.made_at <= until or told.names(line.sale_id, *line.links):
                continue
            looked_at.add(line.event_id)
            entry = self._store.find_event(event_name(source, line.event_id))
            if entry is not None and not entry.is_withdrawn:
                yield from self._unpaid_one(entry, told)

    def _unpaid_one(self, entry: Entry, told: Record) -> Iterator[Drift]:
        """Unless the charge is named otherwise, or the platform knows it when it is asked for this one."""
        history = self._store.history(entry.names())
        active = tuple(key for key, license in fold(history).items() if license.is_active)
        if not active or told.names(*names_of(charges_about(entry, history, CHARGES | {EventKind.IGNORED}))):
            return
        found = self._looked_up(entry)
        if found is not None and not found:
            ours = f"{entry.event} {entry.price or ''} {entry.currency or ''}".strip()
            yield Drift(kind=Kind.UNPAID, sale_id=entry.sale_id, email=entry.email, ours=ours, license_keys=active)
        for event in found or ():
            if event.event not in CHARGES:
                yield from _reversal(event, history, told)

    def _looked_up(self, entry: Entry) -> Answer | None:
        """Asked for one by one, since a list leaves out what a gift's receiver got; None where there was no answer."""
        if not self._inquiries.can_look_up(entry):
            return None if _is_free(entry) else []  # nothing was to be paid for it
        return self._answer(f"sale {entry.identity}", lambda: self._inquiries.look_up(entry))

    def _answer(self, about: str, question: Callable[[], Answer]) -> Answer | None:
        if about not in self._answers:
            try:
                self._answers[about] = self._ask(about, question)
            except PlatformUnreachable:
                self.unchecked += 1
                return None
        return self._answers[about]


# ---------------------------------------------------------------------------------------------------- money back
def _reversal(event: PurchaseEvent, history: Sequence[Entry], told: Record) -> Iterator[Drift]:
    """What went back, or came back to us, where the ledger stands otherwise now."""
    about = charges_about(event, history, frozenset(EventKind))
    if is_told(event, history) or is_settled(event, about, told):
        return
    if event.event is EventKind.REFUND_FAILED:
        event = after_its_refund(event, about)
    active = tuple(key for key, license in fold(history).items() if license.is_active)
    kind = Kind.UNRECORDED
    if active and event.event in _WENT_BACK:
        kind = Kind.REFUNDED
    elif active and event.event is EventKind.DISPUTE:
        kind = Kind.DISPUTED
    yield msgspec.structs.replace(_drift(kind, event), license_keys=active)


# ---------------------------------------------------------------------------------------------------- small parts
class _Line(msgspec.Struct, gc=False):
    """What is needed of a ledger line to see whether its charge is of the time that is compared."""

    timestamp: datetime
    event: str
    event_id: str
    source: str
    sale_id: str | None
    purchase_date: datetime | None
    is_test: bool
    links: tuple[str, ...] = ()
    effective_at: datetime | None = None

    @property
    def made_at(self) -> datetime:
        """A platform lists an invoice by when it was made; it may be paid weeks later."""
        moment = self.purchase_date or self.timestamp
        return min(moment, self.effective_at or moment)


def _drift(
    kind: Kind, event: PurchaseEvent, field: str = "", theirs: str = "", ours: str = "", tells_quantity: bool = True
) -> Drift:
    return Drift(
        kind=kind,
        sale_id=event.sale_id,
        email=event.email,
        field=field,
        theirs=theirs or f"{event.event} {event.price or ''} {event.currency or ''}".strip(),
        ours=ours,
        event=event,
        tells_quantity=tells_quantity,
    )


def _is_charge(drift: Drift) -> bool:
    return drift.event is not None and drift.event.event in CHARGES


def _is_free(entry: Entry) -> bool:
    paid = amount(entry.price, entry.currency)
    return paid is not None and paid[1] == 0
