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

from server.domain.purchase import CHARGES, Entry, EventKind, Inquiry, PurchaseEvent
from server.errors import BadRequest, Disowned, PlatformUnreachable
from server.platforms.base import Platform
from server.services.fulfilment import Fulfilment, completes
from server.storage.base import Store

log = logging.getLogger(__name__)

REST = timedelta(seconds=30)  # for which a platform that did not answer is left alone, so that webhooks do not queue up


class Inquiries:
    def __init__(
        self, store: Store, platforms: Mapping[str, Platform], fulfilment: Fulfilment, clock: Callable[[], datetime]
    ) -> None:
        self._store, self._platforms, self._fulfilment, self._clock = store, platforms, fulfilment, clock
        self._left_alone: dict[str, datetime] = {}

    def record(self, events: Sequence[PurchaseEvent]) -> list[Entry]:
        """Ask what is to be asked, then write it down. Raises StorageUnavailable."""
        return self._fulfilment.record([self._asked(event) for event in events])

    def settle(self, entry: Entry) -> None:
        """Ask again about a line whose inquiry is open, and write the answer down. Raises PlatformUnreachable."""
        newest = self._store.find_event(entry.identity) or entry
        if newest.inquiry is None or newest.is_withdrawn:
            return
        event = newest.as_event()
        try:
            answered = self._answer(event)
        except Disowned as error:
            answered = disowned(event, error.detail, newest.grants != ())
        self._fulfilment.record([answered])

    def is_known(self, entry: Entry) -> bool:
        """Whether the platform, asked for this one sale, knows it; also where it cannot be asked."""
        platform = self._platforms.get(entry.source)
        if platform is None or not platform.confirms_sales:
            return False
        try:
            platform.answer(msgspec.structs.replace(entry.as_event(), inquiry=Inquiry.SALE))
        except Disowned:
            return False
        except PlatformUnreachable:
            return True
        return True

    def _asked(self, event: PurchaseEvent) -> PurchaseEvent:
        if event.inquiry is None or not self._is_news(event):
            return event
        try:
            return self._answer(event)
        except PlatformUnreachable as error:
            log.warning(
                "inquiry put off", extra={"platform": event.source, "inquiry": event.inquiry, "why": error.detail}
            )
            return event
        except Disowned as error:
            return disowned(event, error.detail, is_issued=False)

    def _is_news(self, event: PurchaseEvent) -> bool:
        seen = self._store.find_event(event.identity)
        return seen is None or completes(msgspec.structs.replace(event, inquiry=None), seen)

    def _answer(self, event: PurchaseEvent) -> PurchaseEvent:
        if event.inquiry is Inquiry.PAYMENT and self._store.history(event.names()):
            return msgspec.structs.replace(event, inquiry=None)  # whose payment it is, is known
        platform = self._platforms.get(event.source)
        if platform is None:
            raise PlatformUnreachable(f"{event.source} is not configured any more")
        if self._clock() < self._left_alone.get(event.source, self._clock()):
            raise PlatformUnreachable(f"{event.source} did not answer a moment ago")
        try:
            return platform.answer(event)
        except BadRequest as error:
            raise PlatformUnreachable(f"{event.source} answers what cannot be read ({error.detail})") from None
        except PlatformUnreachable:
            self._left_alone[event.source] = self._clock() + REST
            raise


def disowned(event: PurchaseEvent, why: str, is_issued: bool) -> PurchaseEvent:
    """An event that the platform says is not so. A license that was issued provisionally is withdrawn; else the event
    is only recorded, and believed when it comes again and the platform confirms it."""
    is_charge = event.event in CHARGES
    kind = event.event if is_issued and is_charge else EventKind.IGNORED
    return msgspec.structs.replace(event, event=kind, is_withdrawn=True, note=f"not believed: {why}")
