"""The import: licenses of another system become lines of the ledger, so that a rebuild keeps them.

Each license is an `owner_import` line with its key exactly as it was; its further charges, refunds and whatever stopped
it are lines beside it. No line owes a letter: a stop is written before the license that it stops. Every line has an
event_id of its own (`import:…`), so an import that was interrupted is finished by running it again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from server.domain.catalogue import Catalogue, Product
from server.domain.license import DEFAULT_GRACE, DeviceEvent, DeviceLine, Reason
from server.domain.purchase import Entry, EventKind, Grant, PurchaseEvent
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.services.legacy import CHARGE, CHARGEBACK, OldBooks, OldLicense, OldPurchase
from server.services.license_manager import OWNER
from server.storage.base import Progress, Store, Transaction, no_progress

BATCH = 250  # licenses in one transaction: a sale that comes in meanwhile waits for one batch at most
SOURCE = "import"

_STOPS = {
    Reason.REFUNDED: EventKind.REFUND,
    Reason.CHARGEBACK: EventKind.DISPUTE_LOST,
    Reason.PAYMENT_FAILED: EventKind.PAYMENT_FAILED,
    Reason.ENDED: EventKind.SUBSCRIPTION_ENDED,
    Reason.CANCELLED: EventKind.SUBSCRIPTION_ENDED,
}


@dataclass(frozen=True)
class Said:
    """An event of the import with what is decided about it; `keys` are the licenses that it names."""

    event: PurchaseEvent
    product_id: str
    grants: tuple[Grant, ...] = ()
    keys: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass
class Case:
    """One license and the lines that it becomes, in the order in which they are written."""

    license: OldLicense
    said: Said
    before: list[Said] = field(default_factory=list)
    after: list[Said] = field(default_factory=list)


@dataclass
class Plan:
    """What an import would do: `new` licenses; those that are `known` are only completed where a run was cut short."""

    cases: list[Case]
    new: int
    known: int
    refused: list[tuple[str, str]]
    warnings: list[str]


class Importer:
    def __init__(
        self, store: Store, catalogue: CatalogueFile, fulfilment: Fulfilment, clock: Callable[[], datetime]
    ) -> None:
        self.store, self._catalogue, self._fulfilment, self._clock = store, catalogue, fulfilment, clock

    def plan(self, books: OldBooks, product_id: str | None = None) -> Plan:
        """Look at everything, write nothing. `product_id` is for licenses that name none."""
        writer = _CaseWriter(books, self._catalogue.current(), product_id, self._clock())
        plan = Plan([], 0, 0, list(books.refused), list(books.warnings))
        for license in books.licenses:
            case = writer.case(license)
            if trouble := self._conflict(case):
                plan.refused.append((license.place, trouble))
                continue
            imported_before, is_here = self._is_known(case), self.store.find_license(license.license_key) is not None
            plan.known += is_here
            plan.new += not is_here
            if imported_before or not is_here:  # else the same purchase came by a webhook
                plan.cases.append(case)
        plan.warnings += writer.warnings()
        return plan

    def _is_known(self, case: Case) -> bool:
        return self.store.find_event(case.said.event.identity) is not None

    def _conflict(self, case: Case) -> str | None:
        found, event = self.store.find_license(case.license.license_key), case.said.event
        if found is None or self._is_known(case):
            return None
        if (found.purchase_source, found.purchase_id) == (event.source, event.sale_id):
            return None
        return f"license_key: belongs to another purchase already ({found.purchase_source} {found.purchase_id})"

    # ------------------------------------------------------------------------------------------------ writing
    def run(self, plan: Plan, progress: Progress = no_progress) -> int:
        """Write what is new; returns how many licenses. Raises StorageUnavailable; run again to finish then."""
        imported = 0
        for begin in range(0, len(plan.cases), BATCH):
            with self.store.transaction() as books:
                cases = [case for case in plan.cases[begin : begin + BATCH] if self._conflict(case) is None]
                imported += self._write(books, cases)
            progress(min(begin + BATCH, len(plan.cases)), len(plan.cases))
        return imported

    def _write(self, books: Transaction, cases: Sequence[Case]) -> int:
        new = [case for case in cases if not self._is_known(case)]
        for stage in (
            [said for case in cases for said in case.before],
            [case.said for case in cases],
            [said for case in cases for said in case.after],
        ):
            self._append(books, stage)
        lines = [line for case in cases for line in self._bindings(case)]
        if lines:
            books.append_devices(lines)
        for case in new:
            old = case.license
            if old.validation_count and old.last_validation:
                self.store.count_usage(old.license_key, old.last_validation, old.validation_count)
        return len(new)

    def _append(self, books: Transaction, stage: Iterable[Said]) -> None:
        fresh = {said.event.identity: said for said in stage if self.store.find_event(said.event.identity) is None}
        if fresh:
            books.append([self._entry(said) for said in fresh.values()])

    def _entry(self, said: Said) -> Entry:
        entry = self._fulfilment.decide(said.event, grants=said.grants, names=said.keys, overrides=said.overrides)
        product = self._catalogue.current().find(said.product_id)
        entry.product_id, entry.tier = said.product_id or None, product.tier if product else None
        return entry

    def _bindings(self, case: Case) -> Iterator[DeviceLine]:
        """Since when a device is bound nobody wrote down: as long as the license is there, we say."""
        old = case.license
        if not self.store.device_lines(old.license_key):
            for hardware_id, device_name in old.devices:
                yield DeviceLine(
                    timestamp=old.created_date or self._clock(),
                    event=DeviceEvent.ACTIVATION,
                    license_key=old.license_key,
                    hardware_id=hardware_id,
                    device_name=device_name,
                )


# ---------------------------------------------------------------------------------------------------- what to say
class _CaseWriter:
    """Puts licenses and older ledger lines together; each line is used once."""

    def __init__(self, books: OldBooks, catalogue: Catalogue, product_id: str | None, now: datetime) -> None:
        self._catalogue, self._product_id, self._now = catalogue, product_id, now
        self._lines = books.purchases
        self._by_name = defaultdict[str, list[int]](list)
        for place, line in enumerate(books.purchases):
            for name in {*line.license_keys, f"sale\0{line.sale_id}" if line.sale_id else ""} - {""}:
                self._by_name[name].append(place)
        self._used: set[int] = set()
        self._active = {license.purchase for license in books.licenses if license.is_active and license.sale_id}
        self._unknown_products = Counter[str]()

    def case(self, old: OldLicense) -> Case:
        lines = self._lines_of(old)
        charges = [line for line in lines if line.kind == CHARGE]
        main = next((line for line in charges if line.sale_id == old.sale_id), None)
        main = main or next((line for line in charges if None in (line.sale_id, old.sale_id)), None)
        case = self._license(old, main)
        case.after += self._further(case, [line for line in charges if line is not main and line.price])
        stops = [self._reversal(case, line) for line in lines if line.kind != CHARGE]
        case.before += [stop for stop in stops if stop.event.sale_id]
        self._stand(case)
        return case

    def _lines_of(self, old: OldLicense) -> list[OldPurchase]:
        """The lines that name this license's key or sale. What bought several licenses is paid with the first one."""
        names = [old.license_key, *([f"sale\0{old.sale_id}"] if old.sale_id else [])]
        places = sorted({place for name in names for place in self._by_name.get(name, ())})
        unpaid = {"price": None, "currency": None}
        found = [
            msgspec.structs.replace(self._lines[place], **unpaid) if place in self._used else self._lines[place]
            for place in places
        ]
        self._used.update(places)
        return found

    def _license(self, old: OldLicense, main: OldPurchase | None) -> Case:
        product = self._product(old, main)
        product_id = old.product_id or (product.id if product else "")
        if product is None:
            self._unknown_products[product_id] += 1
        grant = Grant(
            product_id=product_id,
            license_key=old.license_key,
            max_devices=old.max_devices or (product.max_devices if product else 1),
            until=old.expiry_date,
            grace_days=product.grace_days if product else DEFAULT_GRACE,
        )
        event = PurchaseEvent(
            event=EventKind.OWNER_IMPORT,
            event_id=f"import:{old.license_key}",
            source=old.source or (main.source if main else None) or SOURCE,
            sale_id=old.sale_id or (main.sale_id if main else None),
            subscription_id=main.subscription_id if main else None,
            email=old.email,
            customer_name=old.customer_name,
            product_name=(product.name if product else None) or (main.product_name if main else None),
            price=main.price if main else None,
            currency=main.currency if main else None,
            purchase_date=old.created_date or (main.moment if main else None) or self._now,
            is_test=old.is_test,
        )
        return Case(old, Said(event, product_id, (grant,), (old.license_key,)))

    def _product(self, old: OldLicense, main: OldPurchase | None) -> Product | None:
        """The product that the license names; else the one that its sale means, by whatever name it says it; else the
        one that the owner gave for such licenses."""
        catalogue = self._catalogue
        if old.product_id:
            return catalogue.find(old.product_id)
        names = {main.product_id, main.product_name} - {None} if main else set()
        for product in catalogue.products.values():
            if names & {
                product.id,
                product.name,
                product.slug,
                *map(str, product.platform_ids.get(old.source or "", ())),
            }:
                return product
        return catalogue.find(self._product_id or catalogue.default_product)

    def _further(self, case: Case, charges: Sequence[OldPurchase]) -> Iterator[Said]:
        """Renewals and the like. They come after the license's own line, whose date and sale the license keeps."""
        first = case.said.event
        for number, charge in enumerate(charges, 1):
            moment = charge.moment or first.purchase_date or self._now
            event = msgspec.structs.replace(
                first,
                event_id=f"{first.event_id}:{charge.sale_id or number}",
                source=charge.source or first.source,
                sale_id=charge.sale_id,
                subscription_id=charge.subscription_id or first.subscription_id,
                price=charge.price,
                currency=charge.currency,
                purchase_date=moment,
                occurred_at=max(moment, (first.purchase_date or moment) + timedelta(seconds=1)),
            )
            yield Said(event, case.said.product_id, case.said.grants, case.said.keys)

    def _reversal(self, case: Case, line: OldPurchase) -> Said:
        kind = EventKind.DISPUTE_LOST if line.kind == CHARGEBACK else EventKind.REFUND
        return self._stop(case, kind, line.sale_id or case.said.event.sale_id, line.moment)

    def _stop(self, case: Case, kind: EventKind, sale_id: str | None, moment: datetime | None = None) -> Said:
        event = PurchaseEvent(
            event=kind,
            event_id=f"import:{sale_id}:{kind}",
            source=case.said.event.source,
            sale_id=sale_id,
            email=case.license.email,
            customer_name=case.license.customer_name,
            occurred_at=moment or self._now,
            is_refunded=kind is EventKind.REFUND,
            is_test=case.license.is_test,
        )
        return Said(event, case.said.product_id)

    def _stand(self, case: Case) -> None:
        """The license is to stand as it stood, whatever the older ledger says; the owner's word settles the rest."""
        old, sale_id = case.license, case.said.event.sale_id
        own = [stop for stop in case.before if stop.event.sale_id == sale_id]
        if old.is_active:
            if own:
                overrides = tuple(stop.event.event_id for stop in own)
                case.after.append(self._decision(case, EventKind.OWNER_REINSTATE, "imported as active", overrides))
            return
        reason = old.inactive_reason or (Reason.REFUNDED if own else Reason.SUSPENDED)
        if own and reason in (Reason.REFUNDED, Reason.CHARGEBACK):
            return
        if reason in _STOPS and sale_id and old.purchase not in self._active:
            case.before.append(self._stop(case, _STOPS[reason], sale_id))
        else:
            kind = EventKind.OWNER_REVOKE if reason is Reason.REVOKED else EventKind.OWNER_SUSPEND
            case.after.append(self._decision(case, kind, f"imported as inactive: {reason}"))

    def _decision(self, case: Case, kind: EventKind, note: str, overrides: tuple[str, ...] = ()) -> Said:
        old = case.license
        event = PurchaseEvent(
            event=kind,
            event_id=f"import:{old.license_key}:{kind}",
            source=OWNER,
            email=old.email,
            customer_name=old.customer_name,
            occurred_at=self._now,
            note=note,
        )
        return Said(event, case.said.product_id, keys=(old.license_key,), overrides=overrides)

    def warnings(self) -> Iterator[str]:
        left = [line for place, line in enumerate(self._lines) if place not in self._used]
        if left:
            yield f"purchases.jsonl: left out {len(left)} line(s) of sales whose license is not among these"
        for product_id, number in sorted(self._unknown_products.items()):
            what = (
                f"name the product {product_id!r}, which is not in products.json" if product_id else "name no product"
            )
            yield f"{number} license(s) {what}"
