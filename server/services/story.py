"""The story of one license: every line that it rests on, what each of them said and did, and the verdict at the end.

What a line did is seen by folding the lines before it with and without it, so the story cannot differ from the books.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from operator import attrgetter

import msgspec

from server.domain.fold import blocking, fold
from server.domain.keys import license_id, readings
from server.domain.license import (
    DETAIL,
    Code,
    Device,
    DeviceEvent,
    DeviceLine,
    License,
    PlanChange,
    devices_after,
    standing,
)
from server.domain.purchase import CHARGES, DECISIONS, Entry, EventKind, Outcome, Standing
from server.errors import NotFound, StorageUnavailable
from server.storage.base import Store

_SAID = {
    EventKind.SALE: "a sale",
    EventKind.RENEWAL: "a renewal was paid",
    EventKind.REFUND: "the charge was refunded in full",
    EventKind.PARTIAL_REFUND: "a part of the charge was refunded",
    EventKind.REFUND_FAILED: "the refund failed",
    EventKind.DISPUTE: "the buyer disputed the charge",
    EventKind.DISPUTE_WON: "the dispute was won",
    EventKind.DISPUTE_LOST: "the dispute was lost: the charge went back",
    EventKind.CANCELLATION: "the subscription was cancelled",
    EventKind.UNCANCELLATION: "the cancellation was taken back",
    EventKind.SUBSCRIPTION_ENDED: "the subscription ended",
    EventKind.SUBSCRIPTION_RESTARTED: "the subscription was started again",
    EventKind.SUBSCRIPTION_UPDATED: "the subscription was updated",
    EventKind.PAYMENT_FAILED: "a payment failed",
    EventKind.PENDING: "a sale that is held",
    EventKind.OWNER_ISSUE: "you issued it",
    EventKind.OWNER_IMPORT: "you imported it",
    EventKind.OWNER_FULFIL: "you completed a sale that waited",
    EventKind.OWNER_EXTEND: "you extended it",
    EventKind.OWNER_SUSPEND: "you suspended it",
    EventKind.OWNER_REINSTATE: "you reinstated it",
    EventKind.OWNER_REVOKE: "you revoked it",
    EventKind.OWNER_TRANSFER: "you transferred it",
    EventKind.OWNER_REISSUE: "you reissued it under a new key",
    EventKind.IGNORED: "an event that says nothing about licenses",
}
_DOUBTED = {
    EventKind.SALE: "a sale",
    EventKind.RENEWAL: "a renewal",
    EventKind.REFUND: "a refund",
    EventKind.PARTIAL_REFUND: "a refund of a part",
    EventKind.DISPUTE: "a dispute",
}
_BOUND = {
    DeviceEvent.ACTIVATION: "was activated",
    DeviceEvent.DEACTIVATION: "was deactivated",
    DeviceEvent.RESET: "all devices were released",
}
_STANDS = {
    Standing.OK: "in good standing",
    Standing.GRACE: "past due",
    Standing.SUSPENDED: "paused",
    Standing.PAYMENT_FAILED: "unpaid",
}
_NO_LICENSE = {
    Outcome.UNMAPPED: "no license: its product was not mapped",
    Outcome.PENDING: "no license yet",
}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One line: when it was written, when it happened, what it said, and what became different by it."""

    at: datetime
    log: str
    seq: int
    event: str
    outcome: str | None = None
    occurred_at: datetime | None = None
    said: str
    did: tuple[str, ...]


class Story(msgspec.Struct, frozen=True, kw_only=True):
    license_key: str
    id: str
    moment: datetime
    steps: tuple[Step, ...]
    license: License | None
    devices: tuple[Device, ...]
    status: str | None
    code: Code
    detail: str
    because_of: tuple[str, ...]
    replaced_by: str | None


def tell(store: Store, typed: str, moment: datetime, prefixes: Sequence[str] = ()) -> Story:
    """Raises NotFound for a key, or a public id, that no license ever had."""
    key = _key_of(store, typed, prefixes)
    history = store.history([key])
    chain = _chain(key, history)
    entries = [entry for entry in history if entry.timestamp <= moment and _is_about(entry, chain)]
    lines = [line for one in chain for line in store.device_lines(one) if line.timestamp <= moment]
    license = fold(entries).get(key)
    devices = devices_after([line for line in lines if line.license_key == key])
    if license is not None:
        license = license.with_devices(devices).at(moment)
    code = standing(license, moment) if license else Code.NOT_FOUND
    steps = _in_time([*_ledger_steps(store, entries, chain)], [*_device_steps(lines)])
    return Story(
        license_key=key,
        id=license_id(key),
        moment=moment,
        steps=tuple(steps),
        license=license,
        devices=tuple(devices),
        status=license.status(moment) if license else None,
        code=code,
        detail=DETAIL[code],
        because_of=blocking(entries, key),
        replaced_by=next((g.license_key for entry in entries for g in entry.grants if g.replaces == key), None),
    )


def _key_of(store: Store, typed: str, prefixes: Sequence[str]) -> str:
    for key in readings(typed, prefixes):
        if store.find_license(key):
            return key
    if len(typed) == 24 and typed.startswith("lic_") and (found := store.find_by_id(typed)):
        return found[0]
    raise NotFound(f"no license has the key {typed!r}")


def _chain(key: str, history: Iterable[Entry]) -> list[str]:
    """This license's keys in order: those that this one replaced, itself, those that replaced it."""
    successor = {g.replaces: g.license_key for entry in history for g in entry.grants if g.replaces}
    predecessor = {new: old for old, new in successor.items()}
    keys = [key]
    while keys[0] in predecessor:
        keys.insert(0, predecessor[keys[0]])
    while keys[-1] in successor:
        keys.append(successor[keys[-1]])
    return keys


def _is_about(entry: Entry, chain: Sequence[str]) -> bool:
    """The owner's decisions name their license; everything else is about the whole purchase."""
    return entry.event not in DECISIONS or not set(chain).isdisjoint(
        [*entry.license_keys, *(grant.license_key for grant in entry.grants)]
    )


def _in_time(ledger: Sequence[Step], devices: Sequence[Step]) -> list[Step]:
    """Both logs in one order. Within a second nobody knows it: what was paid, then devices, then all else."""
    troubled = set()
    placed = [(step.at, 3 if step.event == DeviceEvent.RESET else 1, step) for step in devices]
    for step in ledger:
        if step.event not in CHARGES:
            troubled.add(step.at)
        placed.append((step.at, 2 if step.at in troubled else 0, step))
    return [step for _, _, step in sorted(placed, key=lambda place: place[:2])]


# ------------------------------------------------------------------------------------------------ the ledger's lines
def _ledger_steps(store: Store, entries: Sequence[Entry], chain: Sequence[str]) -> Iterator[Step]:
    before: tuple[str, License] | None = None
    orders = {order_id: _order_number(store, order_id) for entry in entries if (order_id := entry.order_id)}
    for count, entry in enumerate(entries, 1):
        folded = fold(entries[:count])
        after = next(((key, folded[key]) for key in reversed(chain) if key in folded), None)
        yield Step(
            at=entry.timestamp,
            log="ledger",
            seq=entry.seq,
            event=entry.event,
            outcome=entry.outcome,
            occurred_at=_elsewhen(entry),
            said="; ".join(_said(entry, orders.get(entry.order_id or ""))),
            did=tuple(_did(entry, before, after)) or ("nothing changed",),
        )
        before = after


def _order_number(store: Store, order_id: str) -> str:
    """By which owner and buyer know an order; its id where the order book cannot be read, or lacks it."""
    file = None
    with suppress(StorageUnavailable):
        file = store.orders.find(order_id)
    return file.order.number if file else order_id


def _elsewhen(entry: Entry) -> datetime | None:
    """When it happened, where the platform says so and it was not the day on which it was written down."""
    moment = entry.occurred_at or (entry.purchase_date if entry.event in CHARGES else None)
    return moment if moment and moment.date() != entry.timestamp.date() else None


def _headline(entry: Entry, order: str | None) -> str:
    more = f"{' (a test)' if entry.is_test else ''}{f'; order {order}' if order else ''}"
    if entry.is_withdrawn and entry.event is EventKind.IGNORED:
        told = _DOUBTED.get(entry.told_as or entry.event, "a notice")
        return f"something that is not believed: {told}{_money(entry)}{more}"
    return f"{_SAID[entry.event]}{_sum(entry)}{more}"


def _said(entry: Entry, order: str | None) -> Iterator[str]:
    yield _headline(entry, order)
    if entry.event in CHARGES and entry.product_name:
        yield f"product: {entry.product_name}"
    if entry.part_of:
        yield f"the same charge as {entry.part_of}"
    for item in entry.unmapped_items:
        yield f"nobody mapped {item.ids[-1]}, which waits in a line of its own"
    if entry.is_item:
        yield f"only {entry.source_product_id} of it"
    if entry.standing is not None:
        yield f"the subscription is {_STANDS[entry.standing]}"
    if entry.effective_at is not None and entry.event not in CHARGES:
        yield f"takes effect {_day(entry.effective_at)}"
    if entry.inquiry is not None and not entry.is_withdrawn:
        yield f"{entry.source} was still to be asked about it"
    if entry.overrides:
        yield f"sets aside {', '.join(entry.overrides)}"
    if entry.note:
        yield f"note: {entry.note.removeprefix('not believed: ') if entry.is_withdrawn else entry.note}"


def _sum(entry: Entry) -> str:
    """What was paid, or what of it went back."""
    currency = f" {entry.currency}" if entry.currency else ""
    if entry.event in CHARGES:
        return _money(entry)
    if entry.refunded_total:
        return f": {entry.price}{currency}, {entry.refunded_total}{currency} by now"
    return f": {entry.price}{currency}" if entry.event is EventKind.PARTIAL_REFUND and entry.price else ""


def _money(entry: Entry) -> str:
    return f" for {entry.price}{f' {entry.currency}' if entry.currency else ''}" if entry.price else ""


def _did(entry: Entry, before: tuple[str, License] | None, after: tuple[str, License] | None) -> Iterator[str]:
    if after is None:
        if entry.outcome in _NO_LICENSE:
            yield _NO_LICENSE[entry.outcome]
        return
    key, license = after
    if before is None:
        yield f"issued {key} to {license.email or 'nobody'}: {license.product_id or 'no product'}, {_seats(license)}"
        yield _paid(license)
        if not license.is_active:
            yield f"inactive: {license.inactive_reason}"
        return
    if before[0] != key:
        yield f"{key} took the place of {before[0]}"
    yield from _changes(before[1], license)


def _changes(before: License, after: License) -> Iterator[str]:
    if after.inactive_reason != before.inactive_reason:
        yield f"inactive: {after.inactive_reason}" if not after.is_active else "active again"
    if after.expiry_date != before.expiry_date:
        yield _paid(after)
    if after.product_id != before.product_id:
        yield f"product is now {after.product_id}"
    if after.max_devices != before.max_devices:
        yield f"now {_seats(after)}"
    if (after.email, after.customer_name) != (before.email, before.customer_name):
        yield f"belongs to {after.customer_name} <{after.email}> now"
    for change in after.scheduled if after.scheduled != before.scheduled else ():
        yield f"from {_day(change.at)}: {change.product_id}, {_seats(change)}"


def _seats(plan: License | PlanChange) -> str:
    return "1 seat" if plan.max_devices == 1 else f"{plan.max_devices} seats"


def _paid(license: License) -> str:
    return f"paid through {_day(license.expiry_date)}" if license.expiry_date else "for life"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


# ------------------------------------------------------------------------------------------------ the device log's
def _device_steps(lines: Sequence[DeviceLine]) -> Iterator[Step]:
    for line in sorted(lines, key=attrgetter("seq")):
        so_far = [other for other in lines if other.license_key == line.license_key and other.seq <= line.seq]
        bound = len(devices_after(so_far))
        is_face = line.event is DeviceEvent.ACTIVATION and bound == len(devices_after(so_far[:-1]))
        became = "is the same machine with other parts" if is_face else _BOUND[line.event]
        became = "was released by its customer" if line.by_customer else became
        name = f"{line.device_name} ({line.hardware_id})" if line.device_name else line.hardware_id
        yield Step(
            at=line.timestamp,
            log="devices",
            seq=line.seq,
            event=line.event,
            said=became if name is None else f"{name} {became}",
            did=("1 device bound" if bound == 1 else f"{bound} devices bound",),
        )
