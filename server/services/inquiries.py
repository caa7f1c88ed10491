"""Inquiries: what a webhook does not tell, or does not prove, is asked of its platform's API.

Asked once before the event is recorded, with a short timeout. A platform that does not answer delays nobody else: the
event is recorded with its inquiry open, and the outbox asks again until it is settled. Nothing is asked inside the
folder lock, and nothing about an event that is settled already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from server.domain.fold import fold
from server.domain.purchase import CHARGES, Entry, EventKind, Inquiry, PurchaseEvent
from server.errors import BadRequest, Disowned, PlatformUnreachable
from server.platforms.base import Platform, Row
from server.platforms.web_client import NoSuchSale, RateLimited
from server.services.fulfilment import Fulfilment, completes
from server.storage.base import Store

log = logging.getLogger(__name__)

REST = timedelta(seconds=30)  # for which a platform that did not answer is left alone, so that webhooks do not queue up
LONGEST_REST = timedelta(minutes=10)


class Inquiries:
    def __init__(
        self, store: Store, platforms: Mapping[str, Platform], fulfilment: Fulfilment, clock: Callable[[], datetime]
    ) -> None:
        self._store, self._platforms, self._fulfilment, self._clock = store, platforms, fulfilment, clock
        self._resting: dict[str, tuple[datetime, PlatformUnreachable]] = {}

    def record(self, events: Sequence[PurchaseEvent]) -> list[Entry]:
        """Ask what is to be asked, then write it down. Raises StorageUnavailable."""
        return self._fulfilment.record([said for event in events for said in self._asked(event)])

    def settle(self, entry: Entry) -> None:
        """Ask again about a line whose inquiry is open, and write the answer down. Raises PlatformUnreachable."""
        newest = self._store.find_event(entry.identity) or entry
        if newest.inquiry is not None and not newest.is_withdrawn:
            self._fulfilment.record(self._settled(newest))

    def can_look_up(self, source: str) -> bool:
        """Whether the platform can be asked for one sale."""
        platform = self._platforms.get(source)
        return platform is not None and platform.confirms_sales

    def look_up(self, entry: Entry) -> list[PurchaseEvent]:
        """What the platform, asked for this one sale, says of it: the charge, and that it went back. Empty where it
        knows no such sale. Raises PlatformUnreachable, RateLimited among them; the caller is in no hurry."""
        charge = msgspec.structs.replace(entry.as_event(), inquiry=Inquiry.SALE, is_refunded=False, is_disputed=False)
        try:
            return self._with_its_end(self._platforms[entry.source].answer(charge))
        except NoSuchSale:
            return []
        except Disowned:
            return [charge]  # it is told otherwise there, but it is there
        except BadRequest as error:
            raise _unreadable(entry.source, error) from None

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
            return self._not_believed(event, seen, error.detail)

    def _not_believed(self, event: PurchaseEvent, seen: Entry | None, why: str) -> list[PurchaseEvent]:
        """What was recorded of it before was not asked yet, and may be so all the same: it is judged by its own words,
        since a forged repeat must not take back what a genuine notice gave."""
        if seen is None or seen.is_withdrawn:
            return [disowned(event, why, stays=False)]
        try:
            return self._settled(seen)
        except PlatformUnreachable:
            return [event]

    def _settled(self, entry: Entry) -> list[PurchaseEvent]:
        event = self._as_decided(entry.as_event(), entry)
        try:
            return self._confirmed(event)
        except Disowned as error:
            return [disowned(event, error.detail, stays=self._is_license_of(entry))]

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
        until, why = self._resting.get(event.source, (self._clock(), None))
        left = until - self._clock()
        if why is not None and timedelta(0) < left <= LONGEST_REST:  # more: the clock was set back meanwhile
            raise PlatformUnreachable(why.detail, why.is_refused)
        try:
            return platform.answer(event)
        except BadRequest as error:
            raise _unreadable(event.source, error) from None
        except PlatformUnreachable as error:
            self._resting[event.source] = (self._clock() + _rest(error), error)
            raise


def _answered(event: PurchaseEvent) -> PurchaseEvent:
    return msgspec.structs.replace(event, inquiry=None)


def _rest(error: PlatformUnreachable) -> timedelta:
    wanted = timedelta(seconds=error.wait) if isinstance(error, RateLimited) else REST
    return min(max(REST, wanted), LONGEST_REST)


def _unreadable(source: str, error: BadRequest) -> PlatformUnreachable:
    return PlatformUnreachable(f"{source} answers what cannot be read ({error.detail})")


def disowned(event: PurchaseEvent, why: str, stays: bool) -> PurchaseEvent:
    """An event that the platform says is not so. It counts for nothing, but stays what it was where a license rests on
    it, which is withdrawn then. It is believed when it comes again and the platform confirms it."""
    kind = event.event if stays else EventKind.IGNORED
    return msgspec.structs.replace(event, event=kind, is_withdrawn=True, note=f"not believed: {why}")
