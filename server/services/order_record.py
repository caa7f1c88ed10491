"""The record of a platform that lists no payments: every order of our own book that was placed there, asked about one
by one. A page is one order, so whoever is interrupted asks about none twice."""

from __future__ import annotations

from datetime import datetime

from server.domain.order import VALID_FOR
from server.platforms.base import Checkout, Page, Platform
from server.services.record import is_of_money
from server.services.settlement import Settlement
from server.services.statement import Paged
from server.storage.base import Store


class OrderRecord:
    def __init__(self, platform: Platform, store: Store, settlement: Settlement) -> None:
        self.name, self._store, self._settlement = platform.name, store, settlement

    def page(self, since: datetime, at: str | None) -> Page:
        """An order may be paid as long as it is valid: what was paid from `since` on was placed that much earlier."""
        orders = self._store.orders.placed(self.name, since - VALID_FOR, at)
        file, following = next(orders, None), next(orders, None)
        if file is None:
            return Page(())
        said = self._settlement.answer(file) if self._settlement.may_be_asked(file) else []
        events = tuple(event for event in said if is_of_money(event) or event.is_withdrawn)
        return Page(events, file.order.order_id if following else None)


def record_of(platform: Platform, store: Store, settlement: Settlement) -> Paged:
    """Its own list where it has one."""
    has_list = type(platform).page is not Platform.page
    return platform if has_list or not isinstance(platform, Checkout) else OrderRecord(platform, store, settlement)
