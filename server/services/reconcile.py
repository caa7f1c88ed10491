"""Reconciliation: the ledger held against a platform's own record, in both directions.

The record comes as the events that the platform's webhooks would have been, so whatever is missing is repaired by the
path that every sale takes, and a webhook that comes late finds its event told already. What is in the ledger alone is
only told: a license is never taken because a list did not name its sale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from server.domain.fold import fold
from server.domain.purchase import (
    CHARGES,
    PAID,
    Entry,
    EventKind,
    Outcome,
    PurchaseEvent,
    charge_groups,
    charges_of,
    event_name,
)
from server.services.fulfilment import Fulfilment
from server.services.inquiries import Inquiries
from server.services.revenue import amount
from server.storage.base import Progress, Store, no_progress

JUST_NOW = timedelta(hours=1)  # in which the two may differ because one of them is still on its way
_WENT_BACK = {EventKind.REFUND, EventKind.DISPUTE_LOST}


class Kind(StrEnum):
    """What differs. The last two are only told."""

    NO_LICENSE = "paid without a license"
    REFUNDED = "refunded but active"
    DISPUTED = "disputed but active"
    UNRECORDED = "not in the ledger"
    MISMATCH = "told differently"
    UNPAID = "license without payment"
    UNMAPPED = "product not mapped"


TOLD_ONLY = frozenset({Kind.UNPAID, Kind.UNMAPPED})
NOTES = frozenset({Kind.UNMAPPED})


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One difference; `event` is what repairs it. `field`, `theirs` and `ours` say what a mismatch is about."""

    kind: Kind
    sale_id: str | None
    email: str | None
    field: str = ""
    theirs: str = ""
    ours: str = ""
    license_keys: tuple[str, ...] = ()
    event: PurchaseEvent | None = None

    @property
    def can_be_repaired(self) -> bool:
        return self.kind not in TOLD_ONLY


class Reconciliation:
    def __init__(
        self, store: Store, fulfilment: Fulfilment, inquiries: Inquiries, clock: Callable[[], datetime]
    ) -> None:
        self._store, self._fulfilment, self._inquiries, self._clock = store, fulfilment, inquiries, clock

    def compare(
        self,
        source: str,
        record: Iterable[PurchaseEvent],
        since: datetime,
        until: datetime | None = None,
        progress: Progress = no_progress,
    ) -> list[Drift]:
        """What differs between the platform's record from `since` on and the ledger, the oldest first."""
        events = sorted((e for e in record if not e.is_test), key=_when)
        paid = _names(event for event in events if event.event in CHARGES)
        found: dict[tuple[str, ...], Drift] = {}
        for done, event in enumerate(events, 1):
            for drift in self._drifts(event, paid):
                found.setdefault((drift.kind, drift.field, event.event, *sorted(_names([event]))), drift)
            progress(done, len(events))
        return [*found.values(), *self._unpaid(source, paid, since, until or self._clock() - JUST_NOW)]

    def repair(self, drifts: Sequence[Drift], progress: Progress = no_progress) -> int:
        """Write what is missing or was told differently; returns how many were repaired. Done twice it does nothing:
        each difference is looked at again before anything is written. Raises StorageUnavailable.

        What went back comes first, so that nobody is mailed the key of a sale that was refunded long ago.
        """
        repaired = 0
        for done, drift in enumerate(sorted(drifts, key=_is_charge), 1):
            if drift.event is not None and drift.can_be_repaired:
                repaired += self._repair(drift.event)
            progress(done, len(drifts))
        return repaired

    def _repair(self, event: PurchaseEvent) -> bool:
        left = [drift.kind for drift in self._drifts(event, _names([event]))]
        if not left:
            return False
        if Kind.MISMATCH in left or (Kind.NO_LICENSE in left and self._store.find_event(event.identity)):
            self._fulfilment.correct(msgspec.structs.replace(event, inquiry=None))
        else:
            self._inquiries.record([event])
        return True

    # ------------------------------------------------------------------------------------------------ their record
    def _drifts(self, event: PurchaseEvent, paid: set[str]) -> Iterator[Drift]:
        history = self._store.history(event.names())
        if event.event in CHARGES:
            yield from self._charge(event, history)
        elif not _names([event]).isdisjoint(paid | _names(e for e in history if e.event in CHARGES)):
            yield from self._reversal(event, history)

    def _charge(self, event: PurchaseEvent, history: Sequence[Entry]) -> Iterator[Drift]:
        entry = _same_charge(event, history)
        if entry is None or entry.event not in CHARGES or entry.is_withdrawn:
            yield _drift(Kind.NO_LICENSE, event)
        elif entry.outcome in (Outcome.UNMAPPED, Outcome.PENDING) and not fold(history):
            kind = Kind.NO_LICENSE if self._fulfilment.is_mapped(event) else Kind.UNMAPPED
            yield _drift(kind, event)
        elif entry.event in PAID:  # what the owner decided himself is not corrected
            yield from _mismatches(event, entry)

    def _reversal(self, event: PurchaseEvent, history: Sequence[Entry]) -> Iterator[Drift]:
        if _is_told(event, history):
            return
        licenses = fold(history)
        keys = tuple(key for key, license in licenses.items() if license.is_active)
        if event.event in _WENT_BACK:
            kind = Kind.REFUNDED if keys else Kind.UNRECORDED
        else:
            kind = Kind.DISPUTED if keys and event.event is EventKind.DISPUTE else Kind.UNRECORDED
        yield msgspec.structs.replace(_drift(kind, event), license_keys=keys)

    # ------------------------------------------------------------------------------------------------ our ledger
    def _unpaid(self, source: str, paid: set[str], since: datetime, until: datetime) -> Iterator[Drift]:
        """Licenses of this time whose charge the platform does not name."""
        looked_at: set[str] = set()
        for line in self._store.scan(_Line):
            moment = line.purchase_date or line.timestamp
            is_ours = line.source == source and line.event in PAID and not line.is_test and since <= moment <= until
            if not is_ours or line.event_id in looked_at or not paid.isdisjoint((line.sale_id, *line.links)):
                continue
            looked_at.add(line.event_id)
            if (entry := self._store.find_event(event_name(source, line.event_id))) is not None:
                yield from self._unpaid_one(entry, paid)

    def _unpaid_one(self, entry: Entry, paid: set[str]) -> Iterator[Drift]:
        """Unless the charge is named otherwise, or the platform knows it when it is asked for this one."""
        history = self._store.history(entry.names())
        linked = _names(other for other in history if _touches(other, entry, history))
        active = [key for key, license in fold(history).items() if license.is_active]
        if entry.is_withdrawn or not active or not linked.isdisjoint(paid) or self._inquiries.is_known(entry):
            return
        yield Drift(
            kind=Kind.UNPAID,
            sale_id=entry.sale_id,
            email=entry.email,
            ours=f"{entry.event} {entry.price or ''} {entry.currency or ''}".strip(),
            license_keys=tuple(active),
        )


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


def _drift(kind: Kind, event: PurchaseEvent, field: str = "", theirs: str = "", ours: str = "") -> Drift:
    told = theirs or f"{event.event} {event.price or ''} {event.currency or ''}".strip()
    return Drift(kind=kind, sale_id=event.sale_id, email=event.email, field=field, theirs=told, ours=ours, event=event)


def _names(told: Iterable[PurchaseEvent | Entry]) -> set[str]:
    return {name for one in told for name in (one.sale_id, *one.links) if name}


def _when(event: PurchaseEvent) -> tuple[float, bool]:
    """Charges before what went back of them."""
    moment = event.purchase_date or event.occurred_at
    return (moment.timestamp() if moment else float("inf"), event.event not in CHARGES)


def _is_charge(drift: Drift) -> bool:
    return drift.event is not None and drift.event.event in CHARGES


def _touches(entry: Entry, charge: Entry, history: Sequence[Entry]) -> bool:
    groups = charge_groups(history)
    return not charges_of(entry, groups).isdisjoint(charges_of(charge, groups))


def _same_charge(event: PurchaseEvent, history: Sequence[Entry]) -> Entry | None:
    """The newest line of this event, else of one that tells the same charge."""
    same = [entry for entry in history if entry.identity == event.identity]
    if not same:
        names = _names([event])
        same = [e for e in history if e.event in CHARGES and e.event is event.event and e.sale_id in names]
    return max(same, key=lambda entry: entry.revision, default=None)


def _is_told(event: PurchaseEvent, history: Sequence[Entry]) -> bool:
    """Whether the ledger knows already: this event, or the same of the same charge in other words."""
    groups = charge_groups(history)
    own = charges_of(event, groups)
    newest: dict[str, Entry] = {}
    for entry in history:
        if entry.identity not in newest or entry.revision > newest[entry.identity].revision:
            newest[entry.identity] = entry
    about = [e for e in newest.values() if not e.is_withdrawn and not own.isdisjoint(charges_of(e, groups))]
    if event.event is EventKind.REFUND:
        failed = [e.moment for e in about if e.event is EventKind.REFUND_FAILED]
        return any(e.event is EventKind.REFUND and not any(f >= e.moment for f in failed) for e in about)
    if event.event is EventKind.PARTIAL_REFUND:
        partial = [e for e in about if e.event in (EventKind.PARTIAL_REFUND, EventKind.REFUND)]
        return any(e.refunded_total in (None, event.refunded_total) or e.event is EventKind.REFUND for e in partial)
    same = [e for e in about if e.event is event.event]
    return any(event.incident is None or e.incident in (None, event.incident) for e in same)


def _mismatches(event: PurchaseEvent, entry: Entry) -> Iterator[Drift]:
    """Only what both tell is compared."""
    pairs = {
        "product": (event.source_product_id, entry.source_product_id),
        "email": (_folded(event.email), _folded(entry.email)),
        "currency": (event.currency, entry.currency),
    }
    if event.inquiry is None:
        pairs["quantity"] = (str(event.quantity), str(entry.quantity))
    if event.currency == entry.currency:
        theirs, ours = amount(event.price, event.currency), amount(entry.price, entry.currency)
        if theirs and ours and theirs != ours:
            pairs["amount"] = (event.price, entry.price)
    for field, (theirs, ours) in pairs.items():  # type: ignore[assignment]
        if theirs and ours and theirs != ours:
            yield _drift(Kind.MISMATCH, event, field, str(theirs), str(ours))


def _folded(email: str | None) -> str | None:
    return email.strip().lower() if email else None
