"""The fold: a license's commercial state as a function of the *set* of its purchase's entries.

Nothing here depends on the order in which entries came in. The platform's time decides, then rank, then event_id, and
only among events that can undo each other (a failed payment and the renewal after it). Refunds and disputes are undone
by their own counterpart alone, whenever it comes. What an entry decided is read from it, never from today's catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from server.domain.license import EARLIEST, License, PlanChange, Reason
from server.domain.purchase import (
    CHARGES,
    DECISIONS,
    ISSUING,
    Entry,
    EventKind,
    Grant,
    Standing,
    charge_groups,
    charges_of,
)

_STOPS = {
    EventKind.PAYMENT_FAILED: Reason.PAYMENT_FAILED,
    EventKind.SUBSCRIPTION_ENDED: Reason.ENDED,
}
_HALTS = {Standing.PAYMENT_FAILED: Reason.PAYMENT_FAILED, Standing.SUSPENDED: Reason.SUSPENDED}
_LEEWAY = timedelta(days=3)  # between a platform's end of a period and ours
_RESTARTS = frozenset({EventKind.UNCANCELLATION, EventKind.SUBSCRIPTION_RESTARTED})


def fold(entries: Iterable[Entry]) -> dict[str, License]:
    """The licenses of one purchase by key, without devices and usage; empty while nothing was issued."""
    entries = list(entries)
    if not entries:
        return {}
    if len(entries) == 1 and _is_plain_sale(entries[0]):
        return _of_plain_sale(entries[0])
    live, charges = _latest_revisions(entries), charge_groups(entries)
    return dict(pair for root in _roots(live) for pair in _Lineage(root, live, charges).records())


def _is_plain_sale(entry: Entry) -> bool:
    """A charge that issued one license. Nearly every history begins so, and most stay so for ever."""
    if entry.event not in CHARGES or not entry.issues or entry.is_withdrawn or len(entry.grants) != 1:
        return False
    grant = entry.grants[0]
    return bool(grant.license_key and grant.product_id) and grant.replaces is None


def _of_plain_sale(sale: Entry) -> dict[str, License]:
    """What `_Lineage.records` says of such a history; a test holds the two together."""
    grant = sale.grants[0]
    record = License(
        email=sale.email or "",
        customer_name=sale.customer_name or "",
        created_date=sale.purchase_date or sale.timestamp,
        expiry_date=grant.until,
        is_active=True,
        hardware_id=None,
        device_name=None,
        last_validation=None,
        validation_count=0,
        purchase_source=sale.source,
        purchase_id=sale.sale_id or sale.event_id,
        product_id=grant.product_id,
        max_devices=grant.max_devices,
        is_test=sale.is_test,
        features=grant.features,
        tier=grant.tier,
        grace_days=grant.grace_days,
    )
    return {grant.license_key: record}


def blocking(entries: Iterable[Entry], license_key: str) -> tuple[str, ...]:
    """The event_ids that keep this license inactive: what a reinstatement by the owner has to override."""
    entries = list(entries)
    live, charges = _latest_revisions(entries), charge_groups(entries)
    for root in _roots(live):
        lineage = _Lineage(root, live, charges)
        if license_key in lineage.keys:
            return tuple(sorted({entry.event_id for _, entry in lineage.blocks()}))
    return ()


def _latest_revisions(entries: Iterable[Entry]) -> list[Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        known = found.get(entry.identity)
        if known is None or entry.revision > known.revision:
            found[entry.identity] = entry
    live = (entry for entry in found.values() if entry.event is not EventKind.IGNORED)
    return sorted(live, key=lambda entry: entry.order_key)


def _roots(live: list[Entry]) -> list[str]:
    """The first key of each license that this purchase issued; a line may name one that took its place since."""
    before = replaced_keys(live)
    begun = (g.license_key for e in live for g in e.grants if _begins(e, g))
    return list(dict.fromkeys(first_key(key, before) for key in begun))


def first_key(key: str, before: Mapping[str, str]) -> str:
    """The key that this license had at first, by which key each reissue replaced; a circle has no first one."""
    seen = {key}
    while key in before and before[key] not in seen:
        key = before[key]
        seen.add(key)
    return key


def replaced_keys(live: Iterable[Entry]) -> dict[str, str]:
    return {grant.license_key: grant.replaces for entry in live for grant in entry.grants if grant.replaces}


def _keys_of(root: str, live: list[Entry]) -> list[str]:
    """The keys of a license, each after the one that it replaced; the last one is in use."""
    before = replaced_keys(live)
    own = [key for key in before if key != root and first_key(key, before) == root]
    return [root, *sorted(own, key=lambda key: _place(key, before))]


def _place(key: str, before: Mapping[str, str]) -> int:
    """How many keys a license had before this one."""
    seen: set[str] = set()
    while key in before and key not in seen:
        seen.add(key)
        key = before[key]
    return len(seen)


class _Lineage:
    """One license through its keys: the first one and those that replaced it. `live` is in order; `groups` gives each
    charge one name."""

    def __init__(self, root: str, live: list[Entry], groups: Mapping[str, str]) -> None:
        self.groups = groups
        self.keys = _keys_of(root, live)
        owned = [e for e in live if e.event not in DECISIONS or set(self.keys) & set(e.license_keys)]
        overridden = {event_id for entry in owned for event_id in entry.overrides}
        self.others = set(_roots(live)) - set(self.keys)
        begun = [e for e in live if any(g.license_key in self.keys and _begins(e, g) for g in e.grants)]
        self.origin = next((e for e in begun if not e.is_test), begun[0])
        counted = [e for e in owned if self.origin.is_test or not e.is_test]  # a test never touches a real license
        self.entries = [e for e in counted if e.event_id not in overridden or e.event in CHARGES]
        self.first = next(g for g in self.origin.grants if g.license_key in self.keys)
        self.charges = [e for e in self.entries if e.event in CHARGES and self.grant_in(e)]

    def of(self, kind: EventKind) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.event is kind)

    def grant_in(self, entry: Entry) -> Grant | None:
        """The part of an entry that is about this license: by key, else by product, else the only one there is."""
        for grant in entry.grants:
            if grant.license_key in self.keys:
                return grant
        for grant in entry.grants:
            if grant.product_id == self.first.product_id and grant.license_key not in self.others:
                return grant
        if len(entry.grants) != 1:
            return None
        only = entry.grants[0]
        return only if not self.others or not (only.product_id or only.license_key) else None

    # ------------------------------------------------------------------------------------------- what went wrong
    def blocks(self) -> list[tuple[Reason, Entry]]:
        """Every reason why the license is not active, with the entry that says so; the strongest first."""
        if len(self.entries) == 1 and self.entries[0] is self.origin:  # most licenses, for all their life
            return [(Reason.REVOKED, self.origin)] if self.origin.is_withdrawn else []
        found = [(Reason.REVOKED, entry) for entry in self.of(EventKind.OWNER_REVOKE)]
        found += [(Reason.REVOKED, self.origin)] if self.origin.is_withdrawn else []
        found += [(Reason.SUSPENDED, entry) for entry in self.of(EventKind.OWNER_SUSPEND)]
        found += [(Reason.REFUNDED, entry) for entry in self.refunds() if self.is_undone_by(entry)]
        found += [(Reason.CHARGEBACK, entry) for entry in self.of(EventKind.DISPUTE_LOST) if not entry.is_recurring]
        won = {_incident(entry) for entry in self.of(EventKind.DISPUTE_WON)}
        found += [(Reason.DISPUTED, entry) for entry in self.of(EventKind.DISPUTE) if _incident(entry) not in won]
        found += self.stops()
        strength = list(Reason)
        return sorted(found, key=lambda pair: (strength.index(pair[0]), pair[1].order_key))

    def stops(self) -> list[tuple[Reason, Entry]]:
        """What no later charge or restart lifted; an end takes in what had gone wrong before it."""
        found = [(stop, e) for e in self.entries if (stop := _stop(e)) is not None and not self.lifted(e)]
        ended = max((e.moment for reason, e in found if reason is Reason.ENDED), default=None)
        return [(reason, e) for reason, e in found if reason is Reason.ENDED or ended is None or e.moment > ended]

    def refunds(self) -> list[Entry]:
        """The full refunds that did not fail afterwards, and the parts that make up a whole charge together."""
        failures = list(self.of(EventKind.REFUND_FAILED))
        told = (e for e in self.entries if e.event is EventKind.REFUND or _is_part(e))
        stood = [e for e in told if not any(_failed(e, failure) for failure in failures)]
        parts = [e for e in stood if _is_part(e)]
        whole = {e.event_id for c in self.charges for e in self.parts_of(c, parts)} if parts else set[str]()
        return [e for e in stood if e.event is EventKind.REFUND or e.event_id in whole]

    def parts_of(self, charge: Entry, parts: list[Entry]) -> list[Entry]:
        """The partial refunds of a charge, where nothing of it is left."""
        own = [e for e in parts if e.currency == charge.currency and self.hits(e, charge)]
        return own if sum(Decimal(e.price or 0) for e in own) >= self.price_of(charge) > 0 else []

    def price_of(self, charge: Entry) -> Decimal:
        """An item that waited for its license has no price of its own: it went back when all of its sale did."""
        told = [charge]
        if charge.is_item:
            told += [e for e in self.entries if e.event in CHARGES and not e.is_item and self.hits(e, charge)]
        return max(Decimal(e.price or 0) for e in told)

    def hits(self, refund: Entry, charge: Entry) -> bool:
        return bool(charges_of(refund, self.groups) & charges_of(charge, self.groups))

    def is_undone_by(self, refund: Entry) -> bool:
        """Whether a refund takes the license back: that of its sale, or of all charges where the sale is not known."""
        if not self.hits(refund, self.origin) or not self.went_back(self.origin):
            return False
        is_sale = self.origin.event in ISSUING or not self.origin.is_recurring  # or its invoice, told without it
        return is_sale or not self.unrefunded()

    def unrefunded(self) -> list[Entry]:
        """The charges whose money stayed."""
        if len(self.entries) == 1:
            return [charge for charge in self.charges if not charge.is_withdrawn]
        return [charge for charge in self.charges if not charge.is_withdrawn and not self.went_back(charge)]

    def went_back(self, charge: Entry) -> bool:
        """Whether the money of a charge went back, by refunds or, of one renewal, by a lost dispute. An invoice may be
        paid in parts, each known by a line of its own: then the refund of one part is not the whole."""
        lost = (entry for entry in self.of(EventKind.DISPUTE_LOST) if entry.is_recurring)
        if any(self.hits(entry, charge) for entry in lost):
            return True
        refunds = [refund for refund in self.refunds() if self.hits(refund, charge)]
        named = {charge.sale_id, *charge.links}
        if any(r.currency != charge.currency or r.refunded_total is None or r.sale_id in named for r in refunds):
            return True
        names = charges_of(charge, self.groups)
        same = [e for e in self.entries if e.event in CHARGES and not names.isdisjoint(charges_of(e, self.groups))]
        whole = min(Decimal(e.price or 0) for e in [charge, *same] if e.currency == charge.currency)
        parts = {refund.sale_id: Decimal(refund.refunded_total or 0) for refund in refunds}
        return bool(parts) and sum(parts.values()) >= whole

    def lifted(self, stop: Entry) -> bool:
        """Whether a later charge or restart undid a failed payment, an end or a cancellation.

        A charge undoes what took effect before it; for restarts see `undone_by`.
        """
        if stop.event is EventKind.SUBSCRIPTION_ENDED and stop.grants:
            return True  # all instalments are paid: an end that gives instead of taking
        if stop.is_final:
            return False
        from_when = stop.effective_at or stop.moment
        if any(charge.moment >= from_when for charge in self.unrefunded() if charge.event not in ISSUING):
            return True
        if any(charge.moment > from_when for charge in self.unrefunded()):
            return True
        return any(self.undone_by(restart, stop) for restart in self.entries if _restarts(restart, stop))

    def undone_by(self, restart: Entry, stop: Entry) -> bool:
        """A cancellation without a moment of its own only says when the license ends. Where that is the end of the
        period that was paid at the restart, the restart is taken to be later: it gives no more than was paid for.
        """
        if stop.occurred_at is not None or stop.effective_at is None:
            return stop.occurred_at is None or restart.moment >= stop.occurred_at
        paid = [g.until for c in self.unrefunded() if c.moment <= restart.moment and (g := self.grant_in(c))]
        known = [until for until in paid if until is not None]
        is_period_end = len(known) < len(paid) or not known or stop.effective_at >= max(known) - _LEEWAY
        return restart.moment >= stop.effective_at or is_period_end

    # ------------------------------------------------------------------------------------------- what was bought
    def expiry(self) -> tuple[datetime | None, int]:
        """Paid through when, and how many days of grace follow."""
        paid = [(entry, self.grant_in(entry)) for entry in self.periods()]
        ends = [entry for entry in self.of(EventKind.SUBSCRIPTION_ENDED) if entry.grants]
        paid += [(entry, self.grant_in(entry)) for entry in ends]
        grants = [grant for _, grant in paid if grant is not None]
        extended = [e.expiry_date for e in self.of(EventKind.OWNER_EXTEND) if e.expiry_date is not None]
        cancelled = [
            e.effective_at for e in self.of(EventKind.CANCELLATION) if e.effective_at is not None and not self.lifted(e)
        ]
        untils = [grant.until for grant in grants]
        if cancelled:
            return max([self.cancelled_to(max(cancelled), untils), *extended]), 0
        if None in untils:
            return None, self.first.grace_days
        return max([until for until in untils if until] + extended), self.first.grace_days

    def cancelled_to(self, end: datetime, untils: list[datetime | None]) -> datetime:
        """A cancellation gives no more than was paid, where that is known: some charge tells it, or was refunded."""
        known = [until for until in untils if until is not None]
        is_exact = any(c.paid_until for c in self.periods()) or len(self.unrefunded()) < len(self.charges)
        is_beyond = is_exact and known and len(known) == len(untils) and end > max(known) + _LEEWAY
        return max(known) if is_beyond else end

    def periods(self) -> list[Entry]:
        """The charges that count. What we took for a charge's period gives way to what the platform says it is."""
        paid = self.unrefunded() or self.charges
        if len(paid) == 1:
            return paid
        exact = {name for charge in paid if charge.paid_until for name in charges_of(charge, self.groups)}
        return [c for c in paid if c.paid_until or not exact or exact.isdisjoint(charges_of(c, self.groups))]

    def plan(self) -> tuple[str, int, tuple[PlanChange, ...]]:
        """Product, seats and the changes announced for later, by the time from which each holds."""
        steps = [(e, g) for e in self.entries if (g := self.step_in(e)) is not None]
        steps.sort(key=lambda step: _step_key(step[0]))
        now = [place for place, (entry, _) in enumerate(steps) if not _is_ahead(entry)]
        last = now[-1] if now else 0
        grant = steps[last][1] if steps else self.first
        later = tuple(
            PlanChange(entry.effective_at, g.product_id, g.max_devices)
            for entry, g in steps[last + 1 :]
            if entry.effective_at is not None
        )
        return grant.product_id, grant.max_devices, later

    def sale_of(self, entry: Entry) -> Entry | None:
        """The sale that tells this charge, too: what was sold is what that says, whichever came first."""
        if entry.event is not EventKind.RENEWAL or not entry.links:
            return None
        return next((charge for charge in self.charges if charge.event in ISSUING and self.hits(charge, entry)), None)

    def step_in(self, entry: Entry) -> Grant | None:
        if entry.event not in CHARGES and entry.event is not EventKind.SUBSCRIPTION_UPDATED:
            return None
        if sale := self.sale_of(entry):
            return None if sale.items else self.seats_in(entry, sale)
        if not any(grant.product_id for grant in entry.grants):
            return self.seats_in(entry, self.origin) if entry.items and not entry.is_item else None
        grant = self.grant_in(entry)
        return grant if grant is not None and grant.product_id else None

    def seats_in(self, entry: Entry, sale: Entry) -> Grant | None:
        """Of a plan whose product only its sale tells, the seats: for each as many as one of the sale had."""
        sold = self.grant_in(sale) or self.first
        each = sold.max_devices // max(1, sale.quantity)
        return msgspec.structs.replace(sold, max_devices=each * entry.quantity)

    # ------------------------------------------------------------------------------------------- the records
    def records(self) -> Iterator[tuple[str, License]]:
        blocks, (expiry, grace) = self.blocks(), self.expiry()
        product_id, max_devices, scheduled = self.plan()
        owner = next(reversed(list(self.of(EventKind.OWNER_TRANSFER))), self.origin)
        record = License(
            email=owner.email or "",
            customer_name=owner.customer_name or "",
            created_date=self.origin.purchase_date or self.origin.timestamp,
            expiry_date=expiry,
            is_active=not blocks,
            hardware_id=None,
            device_name=None,
            last_validation=None,
            validation_count=0,
            purchase_source=self.origin.source,
            purchase_id=self.origin.sale_id or self.origin.event_id,
            product_id=product_id or None,  # imported without one
            max_devices=max_devices,
            inactive_reason=blocks[0][0] if blocks else None,
            is_test=self.origin.is_test,
            features=self.first.features,
            tier=self.first.tier,
            grace_days=grace,
            scheduled=scheduled,
        )
        for key in self.keys[:-1]:
            yield key, msgspec.structs.replace(record, is_active=False, inactive_reason=Reason.REVOKED)
        yield self.keys[-1], record


def _begins(entry: Entry, grant: Grant) -> bool:
    """Whether a license begins with this grant; a renewal that does not say of what only goes on with one."""
    return bool(grant.license_key) and (entry.event in ISSUING or (entry.may_issue and bool(grant.product_id)))


def _step_key(entry: Entry) -> tuple[datetime, int, datetime, str]:
    """When a plan begins; of two at one time the one that is paid longer is the later one."""
    begin, rank, event_id = entry.order_key
    return (entry.effective_at or begin, rank, entry.paid_until or EARLIEST, event_id)


def _incident(entry: Entry) -> str | None:
    return entry.incident or entry.sale_id


def _failed(refund: Entry, failure: Entry) -> bool:
    """Whether this refund failed; one that was made after the failure stands."""
    if _incident(refund) != _incident(failure):
        return False
    told = refund.occurred_at is not None and failure.occurred_at is not None
    return not told or failure.moment >= refund.moment


def _is_part(entry: Entry) -> bool:
    """A partial refund that tells its own amount and no sum so far, as PayU's."""
    is_own = entry.incident is not None and entry.refunded_total is None and entry.price is not None
    return entry.event is EventKind.PARTIAL_REFUND and is_own


def _stop(entry: Entry) -> Reason | None:
    """Why a license stands still from this entry on; None where it does not."""
    if entry.standing is None:
        return _STOPS.get(entry.event)
    return _HALTS.get(entry.standing)


def _restarts(entry: Entry, stop: Entry) -> bool:
    """Whether an entry can lift a stop. That a subscription stands well does not take its cancellation back."""
    if entry is stop or _stop(entry) is not None:
        return False
    return entry.event in _RESTARTS or (entry.standing is Standing.OK and stop.event is not EventKind.CANCELLATION)


def _is_ahead(entry: Entry) -> bool:
    """Whether the change lay in the future when the line was written."""
    return entry.effective_at is not None and entry.effective_at > entry.timestamp
