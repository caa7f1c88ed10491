"""Repairing: what a platform's record tells and the ledger has not, written down by the path that every sale takes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress

import msgspec

from server.domain.purchase import CHARGES, PAID, Entry, Grant, Inquiry, PurchaseEvent
from server.errors import PlatformUnreachable
from server.services.fulfilment import Fulfilment
from server.services.inquiries import Inquiries
from server.services.record import counts, has_license, is_told, mismatches, same_charge
from server.storage.base import Store, retried


class Repair:
    """Nothing is written that is so already: each difference is looked at again."""

    def __init__(self, store: Store, fulfilment: Fulfilment, inquiries: Inquiries) -> None:
        self._store, self._fulfilment, self._inquiries = store, fulfilment, inquiries

    def tell(self, event: PurchaseEvent, tells_quantity: bool) -> None:
        """Write down an event of the record that the ledger has not, or whose license was still to come."""
        if self._is_told_by_now(event):
            return
        seen = self._store.find_event(event.identity)
        if seen is None or event.event not in CHARGES:
            self._inquiries.record([event])
            return
        seen = self._settled(seen)
        if seen.is_withdrawn:
            self._fulfilment.correct(msgspec.structs.replace(event, inquiry=None))
        elif not self._is_told_by_now(event):
            self._complete(_completed(event, seen, tells_quantity), seen)

    def _complete(self, event: PurchaseEvent, seen: Entry) -> None:
        """What was given is not taken because nobody maps it now."""
        if self._fulfilment.is_mapped(event) or not seen.grants:
            self._fulfilment.correct(event)

    def _is_told_by_now(self, event: PurchaseEvent) -> bool:
        """A webhook may have come since the record was compared, or the sale of a renewal may have been repaired."""
        history = self._store.history(event.names())
        if event.event not in CHARGES:
            return is_told(event, history)
        entry = same_charge(event, history)
        return entry is not None and has_license(event, history) and counts(entry) and entry.inquiry is not Inquiry.SALE

    def _settled(self, seen: Entry) -> Entry:
        """A provisional sale is confirmed or withdrawn by its own words, where the platform can be asked."""
        is_open = seen.inquiry is Inquiry.SALE and not seen.is_withdrawn
        if is_open and self._inquiries.can_look_up(seen):
            with suppress(PlatformUnreachable):
                self._inquiries.settle(seen)
        return self._store.find_event(seen.identity) or seen

    @retried
    def correct(self, event: PurchaseEvent, fields: Collection[str]) -> None:
        """Write down these fields as the platform tells them; whatever else was said and decided stays as it is."""
        with self._store.transaction() as books:
            entry = same_charge(event, self._store.history(event.names()))
            if entry is None or entry.event not in PAID:
                return
            wrong = (
                mismatches(event, entry, "quantity" in fields, names_product(self._fulfilment, event)).keys() & fields
            )
            if wrong and (decided := self._decided(event, entry, wrong)):
                books.append([decided])

    def _decided(self, event: PurchaseEvent, entry: Entry, wrong: Collection[str]) -> Entry | None:
        """The line with these fields corrected; None where a license would be lost by it."""
        mended, revision = _mended(event, entry, wrong), entry.revision + 1
        if "product" in wrong:
            decided = self._fulfilment.decide(mended, revision=revision)
            is_kept = {g.license_key for g in entry.grants} <= {g.license_key for g in decided.grants}
            return decided if is_kept else None
        grants = tuple(_with_seats(grant, mended.quantity, entry.quantity) for grant in entry.grants)
        decided = self._fulfilment.decide(mended, grants=grants, revision=revision)
        decided.product_id, decided.tier = entry.product_id, entry.tier
        return decided


def names_product(fulfilment: Fulfilment, event: PurchaseEvent) -> bool:
    """Whether the catalogue maps what the event names; its default product would stand for anything."""
    return fulfilment.is_mapped(msgspec.structs.replace(event, inquiry=Inquiry.LINE_ITEMS))


# What a list may leave out, and the webhook told.
_FILLED = (
    "subscription_id source_license_key customer_id email customer_name source_product_id product_name price currency "
    "fee purchase_date country variants months occurred_at effective_at links own_product_id items paid_until once"
).split()


def _completed(event: PurchaseEvent, entry: Entry, tells_quantity: bool) -> PurchaseEvent:
    """The record's word, and what only the ledger's line tells."""
    told = {name: getattr(entry, name) for name in _FILLED if getattr(event, name) in (None, ())}
    told["product_aliases"] = tuple(dict.fromkeys([*event.product_aliases, *entry.product_aliases]))
    if not tells_quantity:
        told["quantity"] = entry.quantity
    return msgspec.structs.replace(event, inquiry=None, **told)


_SAYS = {  # what is told where a field differs
    "email": "email",
    "amount": "price",
    "currency": "price currency",
    "quantity": "quantity items",
    "product": "source_product_id product_name product_aliases variants own_product_id items",
}


def _mended(event: PurchaseEvent, entry: Entry, wrong: Iterable[str]) -> PurchaseEvent:
    """What the line said, with the fields that differ as the platform tells them."""
    changes = {name: getattr(event, name) for field in wrong for name in _SAYS[field].split()}
    if "product" not in wrong and not event.items:
        changes.pop("items", None)  # a file does not tell them
    purchase_date = entry.purchase_date or event.purchase_date or entry.timestamp
    return msgspec.structs.replace(entry.as_event(), purchase_date=purchase_date, raw=event.raw, **changes)


def _with_seats(grant: Grant, quantity: int, was: int) -> Grant:
    return msgspec.structs.replace(grant, max_devices=max(1, grant.max_devices * quantity // max(1, was)))
