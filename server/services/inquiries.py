"""Inquiries: what a webhook does not tell, or does not prove, is asked of its platform's API.

Asked once before the event is recorded, with a short timeout. A platform that does not answer delays nobody else: the
event is recorded with its inquiry open, and the outbox asks again until it is settled. Nothing is asked inside the
folder lock, and nothing about an event that is settled already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from server.domain.fold import fold
from server.domain.order import OrderLine, Step
from server.domain.purchase import CHARGES, Entry, EventKind, Inquiry, PurchaseEvent
from server.errors import BadRequest, Disowned, PlatformUnreachable
from server.platforms.base import Checkout, Platform, Row
from server.platforms.web_client import NoSuchSale, RateLimited
from server.services.fulfilment import Fulfilment, completes
from server.services.record import is_of_money
from server.storage.base import Store

log = logging.getLogger(__name__)

# For how long a platform that did not answer is left alone, so that webhooks do not queue up; longer each time.
RESTS = tuple(timedelta(seconds=s) for s in (2, 5, 10, 30))
LONGEST_REST = timedelta(minutes=10)
PATIENCE = timedelta(seconds=2)  # for all that one webhook asks: Gumroad waits 5 s, and each question may take 2


class Inquiries:
    def __init__(
        self, store: Store, platforms: Mapping[str, Platform], fulfilment: Fulfilment, clock: Callable[[], datetime]
    ) -> None:
        self._store, self._platforms, self._fulfilment, self._clock = store, platforms, fulfilment, clock
        self._resting: dict[str, _Rest] = {}

    def record(self, events: Sequence[PurchaseEvent]) -> list[Entry]:
        """Ask what is to be asked, as long as there is time, then write it down. Raises StorageUnavailable."""
        begun, said = self._clock(), list[PurchaseEvent]()
        for event in events:
            said += self._asked(event) if self._clock() - begun < PATIENCE else [event]
        recorded = self._fulfilment.record(said)
        for entry in recorded:
            if entry.is_withdrawn and entry.order_id:
                self._mark_order(entry, entry.order_id)
        return recorded

    def _mark_order(self, entry: Entry, order_id: str) -> None:
        """What was told of an order and is not believed stands in its own lines, too, once."""
        if self._store.orders.find(order_id):
            note = (entry.note or "")[:200]
            line = OrderLine(timestamp=self._clock(), order_id=order_id, step=Step.SUSPICIOUS, note=note)
            self._store.orders.note(line)

    def settle(self, entry: Entry) -> None:
        """Ask again about a line whose inquiry is open, and write the answer down. Raises PlatformUnreachable."""
        newest = self._store.find_event(entry.identity) or entry
        if newest.inquiry is not None:
            self._fulfilment.record(self._settled(newest))

    def wake(self) -> None:
        """Let no platform rest any longer: somebody wants to know now."""
        self._resting.clear()

    def can_look_up(self, entry: Entry) -> bool:
        """Whether the platform can be asked for this one sale."""
        platform = self._platforms.get(entry.source)
        return platform is not None and (platform.confirms_sales or self._checkout_of(entry) is not None)

    def _checkout_of(self, entry: Entry) -> Checkout | None:
        """By which the order of this entry is asked about."""
        platform = self._platforms.get(entry.source)
        return platform if entry.order_id and isinstance(platform, Checkout) else None

    def look_up(self, entry: Entry) -> list[PurchaseEvent]:
        """What the platform, asked for this one sale, says of it: the charge, and that it went back. Empty where it
        knows no such sale. Raises PlatformUnreachable, RateLimited among them; the caller is in no hurry."""
        if (checkout := self._checkout_of(entry)) is not None:
            return self._look_up_order(checkout, entry)
        charge = msgspec.structs.replace(entry.as_event(), inquiry=Inquiry.SALE, is_refunded=False, is_disputed=False)
        try:
            return self._with_its_end(self._platforms[entry.source].answer(charge))
        except NoSuchSale:
            return []
        except Disowned:
            return [charge]  # it is told otherwise there, but it is there
        except BadRequest as error:
            raise _unreadable(entry.source, error) from None

    def _look_up_order(self, checkout: Checkout, entry: Entry) -> list[PurchaseEvent]:
        file = self._store.orders.find(entry.order_id or "")
        if file is not None:
            checkout.require(file.order)
        try:
            said = checkout.ask(file.order, file.reference) if file else []
        except BadRequest as error:
            raise _unreadable(entry.source, error) from None
        return [event for event in map(self._fulfilment.ordered, said) if is_of_money(event)]

    def trace(self, event: PurchaseEvent) -> PurchaseEvent:
        """The event with the charge that its payment is of, as far as the platform tells. Raises PlatformUnreachable,
        RateLimited among them; the caller is in no hurry."""
        try:
            return self._platforms[event.source].answer(event)
        except BadRequest as error:
            raise _unreadable(event.source, error) from None

    # ------------------------------------------------------------------------------------------------ before it counts
    def _asked(self, event: PurchaseEvent) -> list[PurchaseEvent]:
        if event.inquiry is None:
            return [event]
        seen = self._store.find_event(event.identity)
        if seen is not None and not completes(_answered(event), seen):
            return [event]
        event = self._as_decided(event, seen)
        try:
            return self._confirmed(event)
        except PlatformUnreachable as error:
            why = {"platform": event.source, "inquiry": event.inquiry, "why": error.detail}
            log.warning("inquiry put off", extra=why)
            return [event]
        except Disowned as error:
            return self._not_believed(event, seen, error)

    def _not_believed(self, event: PurchaseEvent, seen: Entry | None, error: Disowned) -> list[PurchaseEvent]:
        """What was recorded of it before was not asked yet, and may be so all the same: it is judged by its own words,
        since a forged repeat must not take back what a genuine notice gave."""
        if seen is None or seen.is_withdrawn:
            return [disowned(event, error, stays=False)]
        try:
            return self._settled(seen)
        except PlatformUnreachable:
            return [event]

    def _settled(self, entry: Entry) -> list[PurchaseEvent]:
        event = self._as_decided(_as_told(entry), entry)
        try:
            return self._confirmed(event)
        except Disowned as error:
            return [disowned(event, error, stays=self._is_license_of(entry))]

    def _as_decided(self, event: PurchaseEvent, seen: Entry | None) -> PurchaseEvent:
        """A provisional license stays that of its product, though nobody maps that any more."""
        if seen is None or not seen.grants or self._fulfilment.is_mapped(event):
            return event
        return msgspec.structs.replace(event, own_product_id=seen.product_id)

    def _is_license_of(self, entry: Entry) -> bool:
        """Whether a license was issued by this line and no other: only that one is withdrawn with it."""
        others = [other for other in self._store.history(entry.names()) if other.identity != entry.identity]
        return any(grant.license_key for grant in entry.grants) and entry.issues and not fold(others)

    # ------------------------------------------------------------------------------------------------ asking
    def _confirmed(self, event: PurchaseEvent) -> list[PurchaseEvent]:
        said = (event.is_refunded, event.is_disputed)
        answered = self._answer(event)
        return self._with_its_end(answered) if said != (answered.is_refunded, answered.is_disputed) else [answered]

    def _with_its_end(self, charge: PurchaseEvent) -> list[PurchaseEvent]:
        """A charge that went back before it was asked about: what took it back, under the names of its webhooks."""
        words = {EventKind.REFUND: charge.is_refunded, EventKind.DISPUTE: charge.is_disputed}
        found = [charge]
        for kind in (kind for kind, is_so in words.items() if is_so and charge.event in CHARGES):
            row = Row(event=kind, sale_id=charge.sale_id or "")
            if (told := self._platforms[charge.source].event_of(row)) is not None:
                found.append(msgspec.structs.replace(charge, event=told.event, event_id=told.event_id))
        return found

    def _answer(self, event: PurchaseEvent) -> PurchaseEvent:
        if event.inquiry is Inquiry.PAYMENT and any(e.event in CHARGES for e in self._store.history(event.names())):
            return _answered(event)  # whose payment it is, is known
        platform = self._platforms.get(event.source)
        if platform is None:
            raise PlatformUnreachable(f"{event.source} is not configured any more")
        rest = self._resting.get(event.source)
        left = rest.until - self._clock() if rest is not None else timedelta(0)
        if rest is not None and timedelta(0) < left <= LONGEST_REST:  # more: the clock was set back meanwhile
            raise PlatformUnreachable(rest.why.detail, rest.why.is_refused)
        try:
            answered = platform.answer(event)
        except BadRequest as error:
            raise _unreadable(event.source, error) from None
        except PlatformUnreachable as error:
            failures = rest.failures + 1 if rest else 1
            self._resting[event.source] = _Rest(self._clock() + _pause(error, failures), error, failures)
            raise
        self._resting.pop(event.source, None)
        return answered


class _Rest(NamedTuple):
    until: datetime
    why: PlatformUnreachable
    failures: int


def _answered(event: PurchaseEvent) -> PurchaseEvent:
    return msgspec.structs.replace(event, inquiry=None)


def _pause(error: PlatformUnreachable, failures: int) -> timedelta:
    usual = RESTS[min(failures, len(RESTS)) - 1]
    wanted = timedelta(seconds=error.wait) if isinstance(error, RateLimited) else usual
    return min(max(usual, wanted), LONGEST_REST)


def _unreadable(source: str, error: BadRequest) -> PlatformUnreachable:
    return PlatformUnreachable(f"{source} answers what cannot be read ({error.detail})")


def _as_told(entry: Entry) -> PurchaseEvent:
    told = entry.as_event()
    return msgspec.structs.replace(told, event=told.told_as or told.event, told_as=None, is_withdrawn=False)


def disowned(event: PurchaseEvent, error: Disowned, stays: bool) -> PurchaseEvent:
    """An event that the platform says is not so. It counts for nothing, but stays what it was where a license rests on
    it, which is withdrawn then. It is believed when it comes again and the platform confirms it; a sale that it does
    not know may only be too young, and stays to be asked about."""
    is_final = not isinstance(error, NoSuchSale)
    return msgspec.structs.replace(
        event,
        event=event.event if stays else EventKind.IGNORED,
        told_as=None if stays else event.event,
        is_withdrawn=True,
        inquiry=None if is_final else event.inquiry,
        note=f"not believed: {error.detail}",
    )
