"""Purchases: what platforms and the owner say (events), and what the ledger keeps of it (entries).

An event is what was said; an entry is the event with what was decided about it. The entry's line is the one commit
point, so everything that follows from it (licenses, letters, revenue) is computed from entries alone.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from server.domain.catalogue import Item
from server.domain.license import DEFAULT_GRACE, Moment


class EventKind(StrEnum):
    """The words of the ledger's `event`, in order of rank: at the same moment the earlier one counts first."""

    SALE = "sale"
    RENEWAL = "renewal"
    OWNER_ISSUE = "owner_issue"
    OWNER_IMPORT = "owner_import"
    OWNER_FULFIL = "owner_fulfil"
    PENDING = "pending"
    SUBSCRIPTION_UPDATED = "subscription_updated"
    PAYMENT_FAILED = "payment_failed"
    CANCELLATION = "cancellation"
    SUBSCRIPTION_ENDED = "subscription_ended"
    UNCANCELLATION = "uncancellation"
    SUBSCRIPTION_RESTARTED = "subscription_restarted"
    PARTIAL_REFUND = "partial_refund"
    REFUND = "refund"
    REFUND_FAILED = "refund_failed"
    DISPUTE = "dispute"
    DISPUTE_WON = "dispute_won"
    DISPUTE_LOST = "dispute_lost"
    OWNER_EXTEND = "owner_extend"
    OWNER_SUSPEND = "owner_suspend"
    OWNER_REINSTATE = "owner_reinstate"
    OWNER_REVOKE = "owner_revoke"
    OWNER_TRANSFER = "owner_transfer"
    OWNER_REISSUE = "owner_reissue"
    IGNORED = "ignored"


RANK = {kind: place for place, kind in enumerate(EventKind)}
OWNER_ISSUING = frozenset({EventKind.OWNER_ISSUE, EventKind.OWNER_IMPORT, EventKind.OWNER_FULFIL})
ISSUING = OWNER_ISSUING | {EventKind.SALE}
CHARGES = ISSUING | {EventKind.RENEWAL}
DECISIONS = frozenset(kind for kind in EventKind if kind.startswith("owner_")) - OWNER_ISSUING
PAID = frozenset({EventKind.SALE, EventKind.RENEWAL})


class Outcome(StrEnum):
    ISSUED = "issued"
    EXTENDED = "extended"
    SUSPENDED = "suspended"
    REINSTATED = "reinstated"
    REVOKED = "revoked"
    RECORDED = "recorded"
    UNMAPPED = "unmapped"
    PENDING = "pending"
    IGNORED = "ignored"


class Standing(StrEnum):
    """How a subscription stands, where the platform tells it with an event."""

    OK = "ok"
    GRACE = "grace"  # a payment failed, and is tried again
    SUSPENDED = "suspended"
    PAYMENT_FAILED = "payment_failed"


class Inquiry(StrEnum):
    """What is to be asked of a platform's API, because its webhook does not tell or does not prove it."""

    SALE = "sale"  # is there such a sale? Until then a license is provisional
    LINE_ITEMS = "line_items"  # what was sold, and how many
    PAYMENT = "payment"  # of which charge is this payment?
    CHARGE = "charge"  # how does the charge of this dispute stand?
    ORDER = "order"  # how does the payment of this order stand? What was told is only a hint


class PurchaseEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a platform says, in our words.

    `sale_id` names the charge that the event is about, `links` are further names of it; `subscription_id` is what its
    charges share. `occurred_at` is the event's own moment and None where the platform gives none; `effective_at` is
    from when it takes effect. `paid_until` is the end of the period that was paid, where the platform tells it, and
    `months` is how long that is. `incident` tells refunds and disputes of one charge apart. `is_paid_off` tells that
    a subscription ended because all instalments are paid, `is_final` that no later charge brings it back. `price` and
    `fee` are decimal strings in `currency`, `refunded_total` what was refunded of the charge so far. `raw` is the
    payload.

    What was sold is `own_product_id` (an id of our catalogue), else what `source_product_id` or an alias of it is
    mapped to, else what the `items` are. `may_issue` marks a renewal that issues the license where its sale was never
    seen. `once` is a mark of the platform's that is good for one order. `inquiry` is what is still to be asked.
    `is_item` marks one item of a sale whose others were mapped. `order_id` names the order of our own that it is about.
    `is_withdrawn` tells that the platform disowned it, `told_as` what it was told as where it counts no more.
    """

    event: EventKind
    event_id: str
    source: str
    sale_id: str | None = None
    subscription_id: str | None = None
    source_license_key: str | None = None
    customer_id: str | None = None
    email: str | None = None
    customer_name: str | None = None
    source_product_id: str | None = None
    product_name: str | None = None
    quantity: int = 1
    price: str | None = None
    currency: str | None = None
    fee: str | None = None
    purchase_date: Moment | None = None
    is_recurring: bool = False
    is_refunded: bool = False
    is_disputed: bool = False
    is_test: bool = False
    country: str | None = None
    raw: msgspec.Raw = msgspec.Raw(b"{}")
    variants: tuple[str, ...] = ()
    product_aliases: tuple[str, ...] = ()
    months: int | None = None
    occurred_at: Moment | None = None
    effective_at: Moment | None = None
    incident: str | None = None
    links: tuple[str, ...] = ()
    is_paid_off: bool = False
    note: str | None = None
    own_product_id: str | None = None
    items: tuple[Item, ...] = ()
    paid_until: Moment | None = None
    standing: Standing | None = None
    is_final: bool = False
    refunded_total: str | None = None
    may_issue: bool = False
    once: str | None = None
    inquiry: Inquiry | None = None
    is_withdrawn: bool = False
    told_as: EventKind | None = None
    is_item: bool = False
    order_id: str | None = None

    @property
    def order(self) -> str:
        """What a license is derived from: the subscription, or the sale itself."""
        return self.subscription_id or self.sale_id or self.event_id

    def names(self) -> list[str]:
        """By what the events of one purchase find each other; never by customer, never by product."""
        return purchase_names(self)

    @property
    def identity(self) -> str:
        """By what a repeat is known."""
        return event_name(self.source, self.event_id)


class Grant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one entry decided for one license: product, key, seats and until when it is paid (None: for life).

    Without a key it is for the license of its subscription; without a product it says nothing of plan and seats.

    `features` and `tier` are set only where the owner gave this license its own. `replaces` is the key that a reissue
    put out of use.
    """

    product_id: str
    license_key: str
    max_devices: int = 1
    until: Moment | None = None
    grace_days: int = DEFAULT_GRACE
    features: tuple[str, ...] | None = None
    tier: str | None = None
    replaces: str | None = None


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A line of the ledger. The fields up to `prev` are in every line; the others only where they say something.

    `overrides` lists the event_ids that an owner's decision sets aside for the licenses it names. `revision` counts
    the lines that complete or correct one event; the highest one counts. `part_of` is the event_id of the line that
    told this charge before: its money counts there. `unmapped_items` are items that nobody mapped, beside mapped ones;
    each has a line of its own, which waits. `request_id` is that of the request that wrote the line, for the logs.
    """

    seq: int
    timestamp: Moment
    event: EventKind
    event_id: str
    source: str
    sale_id: str | None
    subscription_id: str | None
    source_license_key: str | None
    customer_id: str | None
    email: str | None
    customer_name: str | None
    source_product_id: str | None
    product_id: str | None
    product_name: str | None
    tier: str | None
    quantity: int
    price: str | None
    currency: str | None
    fee: str | None
    purchase_date: Moment | None
    is_recurring: bool
    is_refunded: bool
    is_disputed: bool
    is_test: bool
    country: str | None
    license_keys: tuple[str, ...]
    outcome: Outcome
    expiry_date: Moment | None
    raw: msgspec.Raw
    prev: str | None
    grants: tuple[Grant, ...] = ()
    variants: tuple[str, ...] = ()
    product_aliases: tuple[str, ...] = ()
    months: int | None = None
    occurred_at: Moment | None = None
    effective_at: Moment | None = None
    incident: str | None = None
    links: tuple[str, ...] = ()
    is_paid_off: bool = False
    overrides: tuple[str, ...] = ()
    revision: int = 0
    part_of: str | None = None
    note: str | None = None
    own_product_id: str | None = None
    items: tuple[Item, ...] = ()
    paid_until: Moment | None = None
    standing: Standing | None = None
    is_final: bool = False
    refunded_total: str | None = None
    may_issue: bool = False
    once: str | None = None
    inquiry: Inquiry | None = None
    is_withdrawn: bool = False
    told_as: EventKind | None = None
    is_item: bool = False
    order_id: str | None = None
    unmapped_items: tuple[Item, ...] = ()
    request_id: str | None = None

    def names(self) -> list[str]:
        """All that links this entry to others: its purchase's names and, once they are known, its license keys."""
        replaced = [grant.replaces for grant in self.grants if grant.replaces]
        return [*purchase_names(self), *self.license_keys, *replaced]

    @property
    def identity(self) -> str:
        return event_name(self.source, self.event_id)

    @property
    def moment(self) -> datetime:
        """When it happened by the platform's clock; where it says nothing, the charge's time, else ours."""
        return self.occurred_at or self.effective_at or self.purchase_date or self.timestamp

    @property
    def issues(self) -> bool:
        """Whether a license may begin with this entry."""
        return self.event in ISSUING or self.may_issue

    @property
    def order_key(self) -> tuple[datetime, int, str]:
        return (self.moment, RANK[self.event], self.event_id)

    def as_event(self) -> PurchaseEvent:
        """The event as it was said, for completing it later."""
        return PurchaseEvent(**{name: getattr(self, name) for name in PurchaseEvent.__struct_fields__})


def purchase_names(said: PurchaseEvent | Entry) -> list[str]:
    names = [f"sale\0{said.source}\0{name}" for name in (said.sale_id, *said.links) if name]
    if said.order_id and said.order_id != said.sale_id:
        names.append(f"sale\0{said.source}\0{said.order_id}")
    if said.subscription_id:
        names.append(f"subscription\0{said.source}\0{said.subscription_id}")
        if said.subscription_id != said.sale_id:  # JVZoo names a subscription by its first sale, which need not say so
            names.append(f"sale\0{said.source}\0{said.subscription_id}")
    if said.once:
        names.append(f"once\0{said.source}\0{said.once}")
    return names


def charge_groups(entries: Iterable[Entry]) -> dict[str, str]:
    """One name for each charge, by every name that it goes by: its sale id and links, which other entries may share.

    A charge with a single name is left out.
    """
    found: dict[str, str] = {}
    for entry in entries:
        if not entry.links:
            continue
        names = [name for name in (entry.sale_id, *entry.links) if name]
        known = {found[name] for name in names if name in found}
        merged = min((*known, names[0]))
        found.update(dict.fromkeys(names, merged))
        if known - {merged}:
            found.update({name: merged for name, group in found.items() if group in known})
    return found


def charges_of(said: PurchaseEvent | Entry, groups: Mapping[str, str]) -> set[str]:
    """The charges that an entry is about, by the names that `charge_groups` gave them."""
    return {groups.get(name, name) for name in (said.sale_id, *said.links) if name}


def event_name(source: str, event_id: str) -> str:
    return f"event\0{source}\0{event_id}"


def email_name(email: str) -> str:
    """By what all that was said of an address is found; no name of a purchase, since a customer may have several."""
    return f"email\0{email.strip().lower()}"


@functools.lru_cache(256)
def name_hash(name: str) -> int:
    """64 bits of SHA-256. For a license key these are the first 16 digits of its public id."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
