"""The backlog: paid sales that wait for a license, because nobody had mapped their product or because they are held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from server.domain.catalogue import Product
from server.domain.fold import fold
from server.domain.purchase import Entry, EventKind, Outcome, PurchaseEvent, event_name
from server.errors import NotFound, Unprocessable
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.services.revenue import Line, waiting_lines
from server.storage.base import Progress, Store, no_progress, retried


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One sale and what became of it; `why` tells why it still waits."""

    event_id: str
    source: str
    sale_id: str | None
    email: str | None
    product_name: str | None
    outcome: str
    license_keys: tuple[str, ...] = ()
    why: str | None = None


class Backlog:
    def __init__(
        self,
        store: Store,
        catalogue: CatalogueFile,
        fulfilment: Fulfilment,
        lines: Callable[[], list[Line]] | None = None,
    ) -> None:
        """`lines` are those that wait, where somebody keeps them; else the ledger is read for them."""
        self.store, self._catalogue, self._fulfilment = store, catalogue, fulfilment
        self._lines = lines or (lambda: waiting_lines(store))

    def waiting(self) -> list[Entry]:
        return list(self._entries(self._lines()))

    def newest(self, below: int | None = None) -> Iterator[Entry]:
        """The newest first, of lines before `below`; whoever stops early has looked at little."""
        return self._entries(line for line in reversed(self._lines()) if below is None or line.seq < below)

    def _entries(self, lines: Iterable[Line]) -> Iterator[Entry]:
        for line in lines:
            entry = self.store.find_event(event_name(line.source, line.event_id))
            if entry is not None and self._is_without(entry):
                yield entry

    def waits(self, entry: Entry) -> bool:
        """Whether this line, the newest of its event, still waits for a license."""
        return entry.outcome in (Outcome.UNMAPPED, Outcome.PENDING) and self._is_without(entry)

    def _is_without(self, entry: Entry) -> bool:
        return entry.is_item or not self._has_license(entry)

    def _has_license(self, entry: Entry) -> bool:
        """It may have come another way: a subscription's first invoice waits, and its checkout issues."""
        return bool(fold(self.store.history(entry.names())))

    def complete_all(self, progress: Progress = no_progress) -> list[Tried]:
        """Issue what can be issued now. What the platform holds, or what may not be the buyer's own words, is only
        completed by name: a preorder is not paid yet."""
        entries = self.waiting()
        tried = []
        for done, entry in enumerate(entries, 1):
            tried.append(_held(entry) if entry.event is EventKind.PENDING else self._complete(entry, entry.as_event()))
            progress(done, len(entries))
        return tried

    def complete(
        self, name: str, email: str | None = None, customer_name: str | None = None, product_id: str | None = None
    ) -> Tried:
        """Issue one sale, by its event_id or sale id, mended by what the owner says. Raises NotFound, Unprocessable."""
        entry = next(self._entries(line for line in self._lines() if name in (line.event_id, line.sale_id)), None)
        if entry is None:
            raise NotFound(f"no sale of the id {name!r} waits for a license")
        return self.complete_entry(entry, email, customer_name, product_id)

    def complete_entry(
        self, entry: Entry, email: str | None = None, customer_name: str | None = None, product_id: str | None = None
    ) -> Tried:
        """The same of a line that `waits`. Raises Unprocessable."""
        said = {"email": email, "customer_name": customer_name}
        event = msgspec.structs.replace(entry.as_event(), **{k: v for k, v in said.items() if v is not None})
        if not event.email:
            raise Unprocessable("email: the sale names none; say who gets the license")
        if product_id is None:
            return self._complete(entry, event)
        product = self._catalogue.current().find(product_id)
        if product is None:
            raise Unprocessable(f"product_id: there is no product {product_id!r} in products.json", "UNKNOWN_PRODUCT")
        return _told(self._complete_as(product, entry, event))

    def _complete(self, entry: Entry, event: PurchaseEvent) -> Tried:
        if completed := self._fulfilment.complete(entry, event):
            return _told(completed)
        if entry.inquiry is not None:
            return _told(entry, f"{entry.source} is still to be asked what was sold (scripts/outbox.py send does)")
        ids = [name for name in (entry.source_product_id, *entry.product_aliases) if name]
        return _told(entry, f"products.json maps none of {', '.join(ids) or 'its ids'} for {entry.source}")

    @retried
    def _complete_as(self, product: Product, entry: Entry, event: PurchaseEvent) -> Entry:
        """As Fulfilment.complete, with a product that the owner names instead of the mapped one."""
        event = msgspec.structs.replace(event, event=EventKind.OWNER_FULFIL)
        with self.store.transaction() as books:
            newest = self.store.find_event(entry.identity) or entry
            if newest.outcome not in (Outcome.PENDING, Outcome.UNMAPPED):
                return newest
            children = self._catalogue.current().children(product)
            grants = tuple(self._fulfilment.grant(event, c, self._fulfilment.key_for(event, c)) for c in children)
            decided = self._fulfilment.decide(event, grants=grants, revision=newest.revision + 1)
            decided.product_id, decided.tier = product.id, product.tier
            books.append([decided])
            return decided


def _held(entry: Entry) -> Tried:
    return _told(entry, f"{entry.note or 'it is held'} (to issue it all the same, name it)")


def _told(entry: Entry, why: str | None = None) -> Tried:
    return Tried(
        event_id=entry.event_id,
        source=entry.source,
        sale_id=entry.sale_id,
        email=entry.email,
        product_name=entry.product_name,
        outcome=entry.outcome,
        license_keys=entry.license_keys,
        why=why,
    )
