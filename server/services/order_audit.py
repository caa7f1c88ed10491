"""The order book for the owner: how each order stands, and what was told of one that is not believed. Only read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from server.domain import money
from server.domain.order import OrderFile, OrderState, Step, account, state_of
from server.domain.purchase import Entry
from server.errors import StorageUnavailable
from server.storage.base import Store

Row = dict[str, Any]

MOST_LOOKED_AT = 400  # orders of one page, each of which has to be looked up in the ledger
_ALWAYS = datetime.min.replace(tzinfo=UTC)

ORDER_COLUMNS = (
    "number state amount currency refunded source email name packages placed_at paid_at is_test suspicious order_id"
).split()
SUSPICIOUS_COLUMNS = "seq timestamp source told_as order price currency note sale_id event_id is_test".split()


class OrderFilters(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of orders is narrowed to; times are those at which they were placed, both ends belong to it.
    `is_doubted`: those of which something was told that is not believed."""

    is_doubted: bool = False
    source: str | None = None
    state: OrderState | None = None
    email: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def may_take(self, file: OrderFile) -> bool:
        """By what stands in the order alone; how it stands has to be looked up."""
        order = file.order
        is_its = self.email is None or self.email.strip().lower() == order.email.strip().lower()
        is_in_time = (self.since is None or order.placed_at >= self.since) and (
            self.until is None or order.placed_at <= self.until
        )
        is_doubtful = bool(file.of(Step.SUSPICIOUS)) or not self.is_doubted
        return is_its and is_in_time and is_doubtful and self.source in (None, order.source)


def order_rows(store: Store, wanted: OrderFilters, now: datetime) -> Iterator[Row]:
    """The oldest first. The store has to be open. Raises StorageUnavailable."""
    files = store.orders.placed(wanted.source, wanted.since or _ALWAYS, until=wanted.until)
    return (row for file in files if (row := _row_if(store, wanted, file, now)) is not None)


def order_page(
    store: Store, wanted: OrderFilters, now: datetime, limit: int = 50, after: str | None = None
) -> tuple[list[Row], str | None]:
    """The newest first, and the order to go on behind; None when there are no more. How an order stands is looked up
    for each: where few are wanted, so many are looked through, and the rest is for who goes on."""
    if wanted.email is not None:
        files = iter(store.orders.of_email(wanted.email))
        return [row for file in files if (row := _row_if(store, wanted, file, now))], None
    found, last = list[Row](), after
    files = store.orders.placed(wanted.source, wanted.since or _ALWAYS, after, wanted.until, newest_first=True)
    for looked, file in enumerate(files, 1):
        if len(found) == limit or looked > MOST_LOOKED_AT:
            return found, last
        last = file.order.order_id
        if (row := _row_if(store, wanted, file, now)) is not None:
            found.append(row)
    return found, None


def _row_if(store: Store, wanted: OrderFilters, file: OrderFile, now: datetime) -> Row | None:
    if not wanted.may_take(file):
        return None
    history = store.history([file.order.ledger_name])
    state = state_of(file, history, now)
    return _order_row(file, state, history) if wanted.state in (None, state) else None


def _order_row(file: OrderFile, state: OrderState, history: list[Entry]) -> Row:
    order, stands = file.order, account(file.order, history)
    return {
        "number": order.number,
        "state": state,
        "amount": order.price,
        "currency": order.currency,
        "refunded": money.told(stands.refunded, order.currency),
        "source": order.source,
        "email": order.email,
        "name": order.name,
        "packages": [item.product_id for item in order.items for _ in range(item.quantity)],
        "placed_at": order.placed_at,
        "paid_at": stands.sale.moment if stands.sale else None,
        "is_test": order.is_test,
        "suspicious": len(file.of(Step.SUSPICIOUS)),
        "order_id": order.order_id,
    }


def suspicious_rows(store: Store, since: datetime | None = None) -> list[Row]:
    """The ledger's lines of what was told and is not believed, unless the platform itself bore it out later; the newest
    first. The store need not be open."""
    found: dict[str, Entry] = {}
    for entry in store.scan(Entry):
        if entry.is_withdrawn:
            found[entry.identity] = entry
        else:
            found.pop(entry.identity, None)
    young = [entry for entry in found.values() if since is None or entry.timestamp >= since]
    return [_suspicious_row(store, entry) for entry in sorted(young, key=lambda entry: entry.seq, reverse=True)]


def _suspicious_row(store: Store, entry: Entry) -> Row:
    return {
        "seq": entry.seq,
        "timestamp": entry.timestamp,
        "source": entry.source,
        "told_as": entry.told_as or entry.event,
        "order": _number(store, entry.order_id),
        "price": entry.price,
        "currency": entry.currency,
        "note": entry.note and entry.note.removeprefix("not believed: "),
        "sale_id": entry.sale_id,
        "event_id": entry.event_id,
        "is_test": entry.is_test,
    }


def _number(store: Store, order_id: str | None) -> str | None:
    """Its id where there is no such order, or the book cannot be read."""
    try:
        file = store.orders.find(order_id) if order_id else None
    except StorageUnavailable:
        file = None
    return file.order.number if file else order_id
