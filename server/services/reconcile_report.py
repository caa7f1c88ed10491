"""What an owner is told of a reconciliation, on his terminal and over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypedDict

import msgspec

from server.domain.purchase import CHARGES, PurchaseEvent
from server.services.reconcile import NOTES, Drift, Kind

BY_APPLY, DONE, BY_HAND = "by --apply", "repaired", "by hand"


class FindingRow(TypedDict):
    """`platform` is what the platform tells, `ledger` what ours does."""

    finding: str
    field: str | None
    sale_id: str | None
    email: str | None
    platform: str | None
    ledger: str | None
    license_keys: tuple[str, ...]
    repair: str


class UnmappedProduct(TypedDict):
    product: str
    sales: int


class Told(msgspec.Struct, frozen=True):
    """All that an owner is told of a run."""

    platform: str
    since: datetime
    record: Sequence[PurchaseEvent]
    drifts: Sequence[Drift]
    left: Sequence[Drift]
    is_applied: bool

    def is_repaired(self) -> Callable[[Drift], bool]:
        names = {drift.name for drift in self.left}
        return lambda drift: self.is_applied and drift.can_be_repaired and drift.name not in names


def findings(drifts: Sequence[Drift]) -> list[Drift]:
    return [drift for drift in drifts if drift.kind not in NOTES]


def row_of(drift: Drift, is_applied: bool, is_repaired: bool) -> FindingRow:
    can_be_repaired = drift.can_be_repaired and not is_applied
    return {
        "finding": drift.kind,
        "field": drift.field or None,
        "sale_id": drift.sale_id,
        "email": drift.email,
        "platform": drift.theirs or None,
        "ledger": drift.ours or None,
        "license_keys": drift.license_keys,
        "repair": DONE if is_repaired else BY_APPLY if can_be_repaired else BY_HAND,
    }


def unmapped(drifts: Sequence[Drift]) -> list[UnmappedProduct]:
    """One note for each product: an account may hold other business, too."""
    products = Counter(
        drift.event.source_product_id or drift.event.product_name or "what has no product id"
        for drift in drifts
        if drift.kind is Kind.UNMAPPED and drift.event is not None
    )
    return [{"product": product, "sales": count} for product, count in products.most_common()]


def repaired(told: Told) -> int:
    return sum(map(told.is_repaired(), findings(told.drifts)))


def verdict(told: Told) -> str:
    charges = sum(event.event in CHARGES for event in told.record)
    events = f"{counted(charges, 'charge')} and {counted(len(told.record) - charges, 'other event')}"
    compared = f"{told.platform} since {told.since:%Y-%m-%d}: {events} compared"
    found, left = findings(told.drifts), findings(told.left)
    if not found:
        return f"{compared}; the ledger agrees"
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(str(drift.kind) for drift in found).most_common())
    if told.is_applied:
        rest = f"{len(left)} left for you" if left else "the ledger agrees now"
        letters = ". Letters go out with the service's next request" if repaired(told) else ""
        return f"{compared}; {kinds}. {repaired(told)} repaired; {rest}{letters}"
    repairable = sum(drift.can_be_repaired for drift in found)
    return f"{compared}; {kinds}. Nothing was changed: --apply repairs {repairable or 'none of it'}"


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
