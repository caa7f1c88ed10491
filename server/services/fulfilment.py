"""Fulfilment: from what a platform says to a line in the ledger, and so to licenses and letters."""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from server.domain import keys
from server.domain.catalogue import Catalogue, Item, Product, Sold
from server.domain.fold import first_key, fold, replaced_keys
from server.domain.license import License, Reason
from server.domain.order import as_ordered
from server.domain.purchase import (
    CHARGES,
    ISSUING,
    PAID,
    Entry,
    EventKind,
    Grant,
    Inquiry,
    Outcome,
    PurchaseEvent,
    charge_groups,
    charges_of,
)
from server.services import trace
from server.services.catalogue_file import CatalogueFile
from server.storage.base import Store, Transaction

TEST_DAYS = 7
PROVISIONAL = timedelta(hours=24)
_USED = "the platform's mark on this sale was used for another one: nothing is issued for it a second time"
_NAMED = "the same charge told in another way; its further names are kept, so that a refund finds it"
_KEPT = "the same sale told in another way; its mark is kept, so that it is good for no other one"
_HELD = {EventKind.PENDING: Outcome.PENDING, EventKind.IGNORED: Outcome.IGNORED}
_INACTIVE = {Reason.REVOKED: Outcome.REVOKED, Reason.CHARGEBACK: Outcome.REVOKED, Reason.REFUNDED: Outcome.REVOKED}
_EXTENDING = CHARGES | {EventKind.OWNER_EXTEND, EventKind.SUBSCRIPTION_ENDED, EventKind.SUBSCRIPTION_RESTARTED}

Licenses = Mapping[str, License]


class Fulfilment:
    def __init__(self, store: Store, catalogue: CatalogueFile, secret: str, clock: Callable[[], datetime]) -> None:
        self.store, self._catalogue, self._secret, self._clock = store, catalogue, secret, clock

    def record(self, events: Sequence[PurchaseEvent]) -> list[Entry]:
        """Write each event's ledger line and bring its licenses to what the set of events says.

        A repeat writes nothing and gives the first line again, unless it says what that one still lacked. Returns only
        when the lines are on disk. Raises StorageUnavailable, and then nothing was promised.
        """
        with self.store.transaction() as books:
            return [self._record(books, event) for event in events]

    def _record(self, books: Transaction, event: PurchaseEvent) -> Entry:
        event = self.ordered(event)
        seen = self.store.find_event(event.identity)
        if seen is not None and not completes(event, seen):
            if (shift := _shift(event, seen)) is not None:
                return self._date_anew(books, event, seen, shift)
            books.rest_on_disk()
            self._keep_mark(books, event, seen)
            self._keep_names(books, event, seen)
            self._keep_items(books, seen)
            return seen
        if seen is None and event.once and self._is_used_up(event):
            spent = {"event": EventKind.IGNORED, "event_id": f"{event.event_id}:again", "once": None, "note": _USED}
            return self._record(books, msgspec.structs.replace(event, **spent))
        entry = self._write(books, event, seen)
        self._keep_items(books, entry)
        return entry

    def ordered(self, event: PurchaseEvent) -> PurchaseEvent:
        """With what was ordered, where it is about an order of our own; or why it is not believed. Raises
        StorageUnavailable where the order book cannot be read."""
        if event.order_id is None:
            return event
        file = self.store.orders.find(event.order_id)
        return as_ordered(event, file.order if file else None)

    def _write(self, books: Transaction, event: PurchaseEvent, seen: Entry | None) -> Entry:
        entry, licenses = self._decide(event, revision=seen.revision + 1 if seen else 0)
        books.append([entry], licenses)
        return entry

    def _date_anew(self, books: Transaction, event: PurchaseEvent, seen: Entry, shift: timedelta) -> Entry:
        """What was paid runs from when it was paid; nothing else of the line changes."""
        said = {"purchase_date": event.purchase_date, "occurred_at": event.occurred_at}
        grants = tuple(
            msgspec.structs.replace(grant, until=grant.until + shift) if grant.until else grant for grant in seen.grants
        )
        mended = msgspec.structs.replace(seen.as_event(), **said)
        entry = self.decide(mended, grants=grants, revision=seen.revision + 1)
        entry.product_id, entry.tier = seen.product_id, seen.tier
        books.append([entry])
        return entry

    def _is_used_up(self, event: PurchaseEvent) -> bool:
        """Whether the mark that is good for one order came with another one, or with another charge of this one."""
        used = (e for e in self._marked(event) if e.once == event.once and e.sale_id != event.sale_id)
        return any(_order(e) != _order(event) or (e.event is event.event and event.event in PAID) for e in used)

    def _keep_mark(self, books: Transaction, event: PurchaseEvent, seen: Entry) -> None:
        """A repeat that came another way may bring the mark that the first notice did not have."""
        if event.once and seen.once is None and not any(e.once == event.once for e in self._marked(event)):
            kept = {"event": EventKind.IGNORED, "event_id": f"{event.event_id}:mark", "note": _KEPT}
            self._write(books, msgspec.structs.replace(event, **kept), None)

    def _keep_names(self, books: Transaction, event: PurchaseEvent, seen: Entry) -> None:
        """A repeat of another API version may name the charge's payment where the first notice did not."""
        known = {name for entry in self.store.history(seen.names()) for name in (entry.sale_id, *entry.links)}
        if more := sorted(set(event.links) - known):
            kept = {"event": EventKind.IGNORED, "event_id": f"{event.event_id}:{more[0]}", "note": _NAMED}
            self._write(books, msgspec.structs.replace(event, inquiry=None, once=None, **kept), None)

    def _keep_items(self, books: Transaction, entry: Entry) -> None:
        """What was paid beside mapped items, and nobody mapped, waits for its license in a line of its own."""
        for item in entry.unmapped_items:
            name = item.ids[-1]
            alone = {"event": EventKind.SALE, "event_id": f"{entry.event_id}:{name}", "is_item": True, "items": (item,)}
            said = {
                "source_product_id": name,
                "quantity": item.quantity,
                "product_name": None,
                "price": None,
                "fee": None,
            }
            rest = msgspec.structs.replace(entry.as_event(), inquiry=None, once=None, **alone, **said)
            if self.store.find_event(rest.identity) is None:
                self._write(books, rest, None)

    def _marked(self, event: PurchaseEvent) -> list[Entry]:
        mark = msgspec.structs.replace(event, sale_id=None, subscription_id=None, links=())
        return self.store.history(mark.names())

    def complete(self, entry: Entry, event: PurchaseEvent) -> Entry | None:
        """Issue a held or unmapped sale now; None while its product is not mapped. `event` may mend what was said."""
        with self.store.transaction() as books:
            newest = self.store.find_event(entry.identity) or entry
            if newest.outcome not in (Outcome.PENDING, Outcome.UNMAPPED):
                return newest
            if not self.is_mapped(event):  # a default product does not stand in for what is still to be asked
                return None
            mended = msgspec.structs.replace(event, event=EventKind.OWNER_FULFIL, inquiry=None)
            decided = self.decide(mended, revision=newest.revision + 1)
            if not decided.grants:
                return None
            books.append([decided])
            self._keep_items(books, decided)
            return decided

    def correct(self, event: PurchaseEvent) -> Entry:
        """Write down what a platform says of an event now, whatever was said before; the first line where none was."""
        with self.store.transaction() as books:
            return self._write(books, event, self.store.find_event(event.identity))

    def is_mapped(self, event: PurchaseEvent) -> bool:
        """Whether the catalogue knows now what was sold."""
        return bool(_sold(event, self._catalogue.current()))

    def parts(self, event: PurchaseEvent) -> list[Sold]:
        """The products that it would give licenses of today."""
        catalogue = self._catalogue.current()
        return catalogue.parts(_sold(event, catalogue))

    # ------------------------------------------------------------------------------------------------ deciding
    def decide(
        self,
        event: PurchaseEvent,
        *,
        grants: tuple[Grant, ...] | None = None,
        names: Iterable[str] = (),
        overrides: tuple[str, ...] = (),
        revision: int = 0,
        expiry: datetime | None = None,
    ) -> Entry:
        """The ledger line of an event, with what it grants and what it did; the caller holds the transaction.

        An owner's decision names the licenses that it is about (`names`), since it has no sale of its own.
        """
        return self._decide(event, grants, tuple(names), overrides, revision, expiry)[0]

    def _decide(
        self,
        event: PurchaseEvent,
        grants: tuple[Grant, ...] | None = None,
        names: tuple[str, ...] = (),
        overrides: tuple[str, ...] = (),
        revision: int = 0,
        expiry: datetime | None = None,
    ) -> tuple[Entry, Licenses]:
        """The line, and the purchase's licenses with it."""
        catalogue = self._catalogue.current()
        history = self.store.history([*event.names(), *names])
        before = fold(history)
        if grants is None:
            event = _with_rhythm(event, history)
            sold = _sold(event, catalogue)
            product = sold[0].product if sold else None
            grants = self._grants(event, catalogue, sold, _by_first_key(before, history))
        else:
            product = catalogue.find(grants[0].product_id) if grants else None
        entry = _line(event, self._clock(), product, grants, names, overrides, revision, expiry)
        entry.part_of = _told_before(entry, history)
        if event.event in ISSUING and len(event.items) > 1:
            entry.unmapped_items = _left_over(event, catalogue)
        after = fold([*history, entry])
        entry.outcome = _outcome(entry, before, after)
        if entry.outcome not in (Outcome.PENDING, Outcome.UNMAPPED, Outcome.IGNORED):
            _tell_licenses(entry, names or _current(after, [*history, entry]), after)
        return entry, after

    def _grants(
        self, event: PurchaseEvent, catalogue: Catalogue, sold: Sequence[Sold], before: Licenses
    ) -> tuple[Grant, ...]:
        if event.event is EventKind.SUBSCRIPTION_ENDED:
            return self._paid_off(event, catalogue, sold, before)
        if event.event is EventKind.SUBSCRIPTION_UPDATED:
            return self._new_plan(event, catalogue, sold, before)
        if event.event not in CHARGES:
            return ()
        if not sold:
            return self._as_before(event, catalogue, before)
        held = {license.product_id: key for key, license in before.items()}
        found = [(one, held.get(one.product.id) or self.key_for(event, one.product)) for one in catalogue.parts(sold)]
        if len(found) == 1 and len(before) == 1 and not event.is_item:
            found = [(found[0][0], next(iter(before)))]  # the subscription's license keeps its key through plan changes
        grants = (self.grant(event, one.product, key, one.quantity) for one, key in found)
        return tuple(_beside(grant, before) if event.is_item else grant for grant in grants)

    def key_for(self, event: PurchaseEvent, product: Product, reissue: int = 0) -> str:
        return keys.derive(self._secret, event.source, event.order, product.id, reissue, product.key_prefix)

    def grant(self, event: PurchaseEvent, product: Product, key: str, quantity: int | None = None) -> Grant:
        return Grant(
            product_id=product.id,
            license_key=key,
            max_devices=product.max_devices * (event.quantity if quantity is None else quantity),
            until=self._until(event, product.duration_days),
            grace_days=0 if event.inquiry is Inquiry.SALE else product.grace_days,
        )

    def _until(self, event: PurchaseEvent, duration_days: int | None) -> datetime | None:
        """Paid until when: the platform's own period goes before the product's, since one product may be sold by the
        month and by the year. A test sale ends after a week, one that the platform has not confirmed yet after a day.
        """
        now = self._clock()
        if event.inquiry is Inquiry.SALE:
            return now + PROVISIONAL
        if event.is_test:
            return now + timedelta(days=TEST_DAYS)
        if event.paid_until is not None:
            return event.paid_until
        start = event.purchase_date or now
        if event.months is not None:
            return add_months(start, event.months)
        return start + timedelta(days=duration_days) if duration_days is not None else None

    def _as_before(self, event: PurchaseEvent, catalogue: Catalogue, before: Licenses) -> tuple[Grant, ...]:
        """A renewal of a product that is not mapped (any more) renews what the customer has, also where its sale is
        still to come: a payment link may be mapped, and the price that its invoices name not."""
        if not before and event.may_issue and (until := self._until(event, None)) is not None:
            return (Grant(product_id="", license_key="", until=until),)
        grants = []
        for key, license in before.items() if event.event is EventKind.RENEWAL else ():
            product = catalogue.find(license.product_id)
            until = self._until(event, product.duration_days if product else None)
            if until is not None or license.expiry_date is None:
                grants.append(Grant(product_id="", license_key=key, until=until))
        return tuple(grants)

    def _new_plan(
        self, event: PurchaseEvent, catalogue: Catalogue, sold: Sequence[Sold], before: Licenses
    ) -> tuple[Grant, ...]:
        """Seats and product of a changed plan; no key, since it is the license's that the subscription has."""
        held = [catalogue.find(license.product_id) for license in before.values()] if not sold else []
        parts = catalogue.parts(sold) or [Sold(product, event.quantity) for product in held if product is not None]
        grants = [self.grant(event, part.product, "", part.quantity) for part in parts]
        return tuple(msgspec.structs.replace(grant, until=None) for grant in grants)

    def _paid_off(
        self, event: PurchaseEvent, catalogue: Catalogue, sold: Sequence[Sold], before: Licenses
    ) -> tuple[Grant, ...]:
        """All instalments of a product that is sold for life are paid: the license stays, for life."""
        if not event.is_paid_off:
            return ()
        held = [(key, catalogue.find(license.product_id)) for key, license in before.items()]
        held = held or [("", part.product) for part in catalogue.parts(sold)]
        return tuple(
            msgspec.structs.replace(self.grant(event, product, key), until=None)
            for key, product in held
            if product is not None and product.duration_days is None
        )


def _by_first_key(before: Licenses, history: Sequence[Entry]) -> Licenses:
    """Each license once, under the key that it had at first: a line goes on to name that after a reissue."""
    replaced = replaced_keys(history)
    return {first_key(key, replaced): license for key, license in before.items()} if replaced else before


def _with_rhythm(event: PurchaseEvent, history: Sequence[Entry]) -> PurchaseEvent:
    """A renewal that does not say for how long it is goes on as the charges before it."""
    if event.event is not EventKind.RENEWAL or event.months is not None or event.paid_until is not None:
        return event
    known = [entry for entry in history if entry.event in CHARGES and entry.months is not None]
    last = max(known, key=lambda entry: entry.order_key, default=None)
    return msgspec.structs.replace(event, months=last.months) if last else event


def _order(said: PurchaseEvent | Entry) -> str | None:
    return said.subscription_id or said.sale_id


def _line(
    event: PurchaseEvent,
    now: datetime,
    product: Product | None,
    grants: tuple[Grant, ...],
    names: tuple[str, ...],
    overrides: tuple[str, ...],
    revision: int,
    expiry: datetime | None,
) -> Entry:
    return Entry(
        **msgspec.structs.asdict(event),
        seq=0,
        timestamp=now,
        prev=None,
        product_id=product.id if product else (grants[0].product_id or None) if grants else None,
        tier=product.tier if product else None,
        license_keys=names,
        outcome=_HELD.get(event.event, Outcome.RECORDED),
        expiry_date=expiry,
        grants=grants,
        overrides=overrides,
        revision=revision,
        request_id=trace.request_id.get(),
    )


def _sold(event: PurchaseEvent, catalogue: Catalogue) -> list[Sold]:
    """What an event says was sold; nothing where the platform is asked for it first, or nobody mapped it. An id of one
    of its items is no name of the sale as a whole."""
    sold = catalogue.sold(event.source, event.own_product_id, _ids(event), event.variants, event.quantity, event.items)
    if sold or event.inquiry is Inquiry.LINE_ITEMS or event.is_item or event.order_id:
        return sold
    fallback = catalogue.find(catalogue.default_product)
    return [Sold(fallback, event.quantity)] if fallback else []


def _ids(event: PurchaseEvent) -> list[str]:
    of_items = {name for item in event.items for name in item.ids}
    return [name for name in (event.source_product_id, *event.product_aliases) if name and name not in of_items]


def _left_over(event: PurchaseEvent, catalogue: Catalogue) -> tuple[Item, ...]:
    """The items that nobody mapped where others are mapped; a sale that is mapped as a whole has none."""
    if catalogue.sold(event.source, event.own_product_id, _ids(event), event.variants, 1):
        return ()
    missing = tuple(item for item in event.items if not catalogue.sold(event.source, item.product_id, item.ids, (), 1))
    return missing if len(missing) < len(event.items) else ()


def _beside(grant: Grant, before: Licenses) -> Grant:
    """An item of a product of which the sale has a license already adds its seats to that one."""
    seats = before[grant.license_key].max_devices if grant.license_key in before else 0
    return msgspec.structs.replace(grant, max_devices=grant.max_devices + seats)


def completes(event: PurchaseEvent, seen: Entry) -> bool:
    """Whether an event that was heard of before says more now: that it is paid, that it never will be, what was asked
    of the platform, or what an earlier version did not understand. What the platform disowned is believed again only
    when it says so itself."""
    if seen.is_withdrawn:
        return event.inquiry is None and not event.is_withdrawn
    if seen.event is EventKind.IGNORED and event.event is not EventKind.IGNORED and not event.is_withdrawn:
        return True
    if seen.inquiry is None:
        return _weight(event) > _weight(seen)
    return event.is_withdrawn or (event.inquiry is None and _weight(event) >= _weight(seen))


def _shift(event: PurchaseEvent, seen: Entry) -> timedelta | None:
    """By how much a sale was paid later than its line says: a list tells a checkout's beginning, its webhook the day on
    which the money arrived."""
    is_dated = (
        event.occurred_at is not None and seen.occurred_at is None and event.event is seen.event is EventKind.SALE
    )
    if not is_dated or event.purchase_date is None or seen.purchase_date is None:
        return None
    return (event.purchase_date - seen.purchase_date) or None


def _weight(said: PurchaseEvent | Entry) -> int:
    if said.event in CHARGES:
        return 2
    return 0 if said.event is EventKind.PENDING else 1


def _told_before(entry: Entry, history: Sequence[Entry]) -> str | None:
    """The event by which this charge is in the ledger already: Stripe tells one by its checkout and by its invoice."""
    if not entry.links or entry.event not in CHARGES:
        return None
    groups = charge_groups([*history, entry])
    same = charges_of(entry, groups)
    others = [e for e in history if e.event in CHARGES and entry.event_id not in (e.event_id, e.part_of)]
    return next((other.event_id for other in others if not same.isdisjoint(charges_of(other, groups))), None)


def _tell_licenses(entry: Entry, current: Iterable[str], after: Licenses) -> None:
    """Write into the line which licenses it is about, and how long they are valid now."""
    entry.license_keys = tuple(current)
    licenses = [after[key] for key in entry.license_keys if key in after]
    if licenses and entry.event is not EventKind.OWNER_EXTEND:
        entry.expiry_date = licenses[0].expiry_date
        entry.product_id = entry.product_id or licenses[0].product_id


def _current(after: Licenses, entries: Iterable[Entry]) -> list[str]:
    """The keys of this purchase that were not replaced by a reissue."""
    replaced = {grant.replaces for entry in entries for grant in entry.grants}
    return [key for key in after if key not in replaced]


def _outcome(entry: Entry, before: Licenses, after: Licenses) -> Outcome:
    """What the line did to its licenses, as one word."""
    if entry.event in _HELD:
        return _HELD[entry.event]
    if entry.event in CHARGES and not after and not any(grant.license_key for grant in entry.grants):
        return Outcome.PENDING if entry.inquiry is Inquiry.LINE_ITEMS else Outcome.UNMAPPED
    if entry.event in CHARGES and not after:
        return Outcome.PENDING
    if entry.event in CHARGES and not entry.grants:
        return Outcome.UNMAPPED
    changes = {_change(entry, before.get(key), license) for key, license in after.items()}
    strongest = (Outcome.ISSUED, Outcome.REVOKED, Outcome.SUSPENDED, Outcome.EXTENDED, Outcome.REINSTATED)
    return next((outcome for outcome in strongest if outcome in changes), Outcome.RECORDED)


def _change(entry: Entry, before: License | None, after: License) -> Outcome:
    if before is None and after.is_active:
        return Outcome.ISSUED
    if not after.is_active:
        was_active = before is None or before.is_active
        return (
            _INACTIVE.get(after.inactive_reason or Reason.SUSPENDED, Outcome.SUSPENDED)
            if was_active
            else Outcome.RECORDED
        )
    assert before is not None
    longer = before.expiry_date is not None and (after.expiry_date is None or after.expiry_date > before.expiry_date)
    is_renewal = entry.event is EventKind.RENEWAL and not entry.part_of
    if is_renewal or (longer and entry.event in _EXTENDING and before.is_active):
        return Outcome.EXTENDED
    return Outcome.RECORDED if before.is_active else Outcome.REINSTATED


def add_months(moment: datetime, months: int) -> datetime:
    """The same day some months later; the last day of a shorter month."""
    years, month = divmod(moment.month - 1 + months, 12)
    year = moment.year + years
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)
