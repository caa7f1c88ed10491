"""Payments: what an account paid and what went back of it, as the ledger says; for receipts and invoices.

A charge is told as the platform told it: no price is worked out here, and no tax.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from server.domain import money
from server.domain.catalogue import Catalogue
from server.domain.keys import license_id
from server.domain.order import Order
from server.domain.purchase import CHARGES, Entry, EventKind
from server.errors import NotFound
from server.services.accounts import account_of
from server.services.catalogue_file import CatalogueFile
from server.services.reversals import ALL, Name, Reversal, Reversals
from server.storage.base import Store

_BACK = (EventKind.REFUND, EventKind.PARTIAL_REFUND, EventKind.REFUND_FAILED, EventKind.DISPUTE_LOST)


class PaidItem(msgspec.Struct, frozen=True, kw_only=True):
    """`amount` is for all of them together. `holds` are the names of what a bundle gave."""

    name: str
    quantity: int
    amount: str
    holds: Sequence[str] = ()


class MoneyBack(msgspec.Struct, frozen=True, kw_only=True):
    """`amount` is a decimal string, negative where money went back; None where the platform tells none."""

    moment: datetime
    kind: EventKind
    amount: str | None


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """One charge. `number` is our order's, else the platform's own name of the charge; `net` is what stays paid."""

    id: str
    number: str
    source: str
    moment: datetime
    name: str
    email: str
    country: str | None
    items: Sequence[PaidItem]
    amount: str
    currency: str
    back: Sequence[MoneyBack]
    net: str
    is_renewal: bool
    is_test: bool
    order_id: str | None
    license_ids: Sequence[str]

    @property
    def title(self) -> str:
        return ", ".join(item.name for item in self.items)


class Payments:
    def __init__(self, store: Store, catalogue: CatalogueFile) -> None:
        self._store, self._catalogue = store, catalogue

    def of(self, email: str) -> list[Payment]:
        """The newest first. Raises StorageUnavailable."""
        found = [one for told in self._store.purchases_of(email) for one in self._of_purchase(told, email)]
        return sorted({one.id: one for one in found}.values(), key=lambda one: (one.moment, one.id), reverse=True)

    def get(self, email: str, name: str) -> Payment:
        """Raises NotFound, also for another one's, and StorageUnavailable."""
        found = next((one for one in self.of(email) if one.id == name), None)
        if found is None:
            raise NotFound("there is no such receipt")
        return found

    def _of_purchase(self, told: Sequence[Entry], email: str) -> Iterable[Payment]:
        newest = _newest(told)
        charges = [entry for entry in newest if _is_charge(entry)]
        buyer = next((entry.email for entry in charges if entry.email), "")
        for entry in charges:
            sum_ = money.amount(entry.price, entry.currency)
            if sum_ and sum_[1] > 0 and account_of(entry.email or buyer) == account_of(email):
                yield self._payment(entry, newest, *sum_)

    def _payment(self, entry: Entry, told: Sequence[Entry], currency: str, paid: int) -> Payment:
        order = self._order(entry)
        back, gone = _went_back(entry, told, currency, paid)
        return Payment(
            id=payment_id(entry),
            number=order.number if order else entry.sale_id or entry.event_id,
            source=entry.source,
            moment=entry.purchase_date or entry.moment,
            name=entry.customer_name or "",
            email=entry.email or "",
            country=entry.country,
            items=self._items(entry, order, money.told(paid, currency)),
            amount=money.told(paid, currency),
            currency=currency,
            back=back,
            net=money.told(paid - gone, currency),
            is_renewal=entry.event is EventKind.RENEWAL,
            is_test=entry.is_test,
            order_id=order.order_id if order else None,
            license_ids=[license_id(key) for key in entry.license_keys],
        )

    def _order(self, entry: Entry) -> Order | None:
        file = self._store.orders.find(entry.order_id) if entry.order_id else None
        return file.order if file else None

    def _items(self, entry: Entry, order: Order | None, amount: str) -> list[PaidItem]:
        catalogue = self._catalogue.current()
        if order:
            return [
                PaidItem(
                    name=item.name,
                    quantity=item.quantity,
                    amount=money.told(item.price * item.quantity, order.currency),
                    holds=_holds(catalogue, item.product_id),
                )
                for item in order.items
            ]
        product = catalogue.find(entry.product_id)
        name = entry.product_name or (product.name if product else entry.product_id) or "Purchase"
        given = [grant.product_id for grant in entry.grants]
        holds = [_name(catalogue, one) for one in given] if len(given) > 1 else []
        return [PaidItem(name=name, quantity=entry.quantity, amount=amount, holds=holds)]


def payment_id(entry: Entry) -> str:
    """Its public name: nothing can be found out from it."""
    return f"pay_{hashlib.sha256(entry.identity.encode()).hexdigest()[:20]}"


def _holds(catalogue: Catalogue, product_id: str) -> list[str]:
    product = catalogue.find(product_id)
    return [child.name for child in catalogue.children(product)] if product and product.bundle else []


def _name(catalogue: Catalogue, product_id: str) -> str:
    product = catalogue.find(product_id)
    return product.name if product else product_id


def _newest(told: Iterable[Entry]) -> list[Entry]:
    """The last revision of each event."""
    found: dict[str, Entry] = {}
    for entry in told:
        if (known := found.get(entry.identity)) is None or entry.revision >= known.revision:
            found[entry.identity] = entry
    return list(found.values())


def _is_charge(entry: Entry) -> bool:
    """As the revenue has it (revenue.py), tests included: a receipt says what it is."""
    return entry.event in CHARGES and not (entry.part_of or entry.is_withdrawn or entry.is_item)


def _went_back(charge: Entry, told: Sequence[Entry], currency: str, paid: int) -> tuple[list[MoneyBack], int]:
    """Each event by which money of a charge went back, or did not after all, with what it changed; and the sum.

    What it changed is what Reversals says with it, less what it says without: they alone know which sums are parts and
    which are sums so far.
    """
    names: list[Name] = [(charge.source, name) for name in (charge.sale_id, *charge.links) if name]
    others = [_line(entry) for entry in told if entry.event not in _BACK]
    lines, found, gone = list[Reversal](), list[MoneyBack](), 0
    for entry in sorted((e for e in told if e.event in _BACK), key=lambda e: e.order_key):
        lines.append(_line(entry))
        reversals = Reversals([*others, *lines])
        so_far = reversals.of(names, currency)
        so_far = paid if so_far == ALL else min(so_far, paid)
        concerns = so_far != gone or not reversals.parted.isdisjoint(names) or _names(entry) & set(names)
        if concerns:
            changed = money.told(gone - so_far, currency) if so_far != gone else None
            found.append(MoneyBack(moment=entry.moment, kind=entry.event, amount=changed))
        gone = so_far
    return found, gone


def _names(entry: Entry) -> set[Name]:
    return {(entry.source, name) for name in (entry.sale_id, *entry.links) if name}


def _line(entry: Entry) -> Reversal:
    return Reversal(
        event=entry.event,
        event_id=entry.event_id,
        source=entry.source,
        sale_id=entry.sale_id,
        incident=entry.incident,
        links=entry.links,
        occurred_at=f"{entry.occurred_at:%Y-%m-%dT%H:%M:%SZ}" if entry.occurred_at else None,
        price=entry.price,
        currency=entry.currency,
        refunded_total=entry.refunded_total,
        revision=entry.revision,
        part_of=entry.part_of,
    )
