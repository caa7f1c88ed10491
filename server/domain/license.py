"""A license: the lean record of the view, its devices, and the verdict on a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from server.domain.catalogue import Catalogue, Product
from server.domain.hardware import Machines, same_machine

DEFAULT_GRACE = 3
DEFAULT_MOVES = 10
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)  # no date of ours lies outside
# msgspec calls only a moment that must name its offset a `date-time`; the described API says it of all.
Moment = Annotated[datetime, msgspec.Meta(extra_json_schema={"format": "date-time"})]
MOVES_WINDOW = timedelta(days=90)


Status = Literal["active", "expired", "suspended", "banned"]


class Reason(StrEnum):
    """Why a license is not active, the strongest first: of several that apply the first one is told."""

    REVOKED = "revoked"
    CHARGEBACK = "chargeback"
    REFUNDED = "refunded"
    DISPUTED = "disputed"
    SUSPENDED = "suspended"
    PAYMENT_FAILED = "payment_failed"
    CANCELLED = "cancelled"
    ENDED = "ended"


class Device(msgspec.Struct, frozen=True, gc=False):
    hardware_id: str
    device_name: str | None
    bound_at: Moment


class PlanChange(msgspec.Struct, frozen=True, gc=False):
    """A change of product or seats that the platform announced for later."""

    at: Moment
    product_id: str
    max_devices: int


class License(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A record of `licenses.json`: eleven fields always, the others only when they differ from their default.

    The first device stands in `hardware_id` and `device_name`, further ones in `devices`. `expiry_date` None is for
    life. `is_active` is the commercial state; a license past its `expiry_date` may still have it true.
    """

    email: str
    customer_name: str
    created_date: Moment
    expiry_date: Moment | None
    is_active: bool
    hardware_id: str | None
    device_name: str | None
    last_validation: Moment | None
    validation_count: int
    purchase_source: str
    purchase_id: str
    product_id: str | None = None
    max_devices: int = 1
    devices: tuple[Device, ...] = ()
    inactive_reason: Reason | None = None
    is_test: bool = False
    features: tuple[str, ...] | None = None
    tier: str | None = None
    grace_days: int = DEFAULT_GRACE
    scheduled: tuple[PlanChange, ...] = ()

    def at(self, now: datetime) -> License:
        """This license with the announced changes that are due by `now`."""
        if not self.scheduled:
            return self
        due = [change for change in self.scheduled if change.at <= now]
        if not due:
            return self
        later = tuple(change for change in self.scheduled if change.at > now)
        last = due[-1]
        return msgspec.structs.replace(self, product_id=last.product_id, max_devices=last.max_devices, scheduled=later)

    @property
    def devices_used(self) -> int:
        return (self.hardware_id is not None) + len(self.devices)

    def knows(self, hardware_id: str) -> bool:
        return self.hardware_id == hardware_id or any(d.hardware_id == hardware_id for d in self.devices)

    def with_devices(self, devices: list[Device]) -> License:
        """This license with exactly these devices, in the order they were bound."""
        first = devices[0] if devices else None
        return msgspec.structs.replace(
            self,
            hardware_id=first.hardware_id if first else None,
            device_name=first.device_name if first else None,
            devices=tuple(devices[1:]),
        )

    def status(self, now: datetime) -> Status:
        return status_of(self, now)


class Glance(msgspec.Struct, kw_only=True, gc=False):
    """What of a record tells its age and its status: cheaper to read than all of it."""

    created_date: Moment
    expiry_date: Moment | None
    is_active: bool
    product_id: str | None = None
    inactive_reason: Reason | None = None
    grace_days: int = DEFAULT_GRACE


class FullGlance(Glance, kw_only=True, gc=False):
    """And the texts by which it is looked for."""

    email: str
    customer_name: str
    hardware_id: str | None
    device_name: str | None
    purchase_id: str
    devices: tuple[Device, ...] = ()


G = TypeVar("G", License, Glance)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which licenses are looked for. `text` stands somewhere in the key, the e-mail address, the name, the purchase id,
    or in a device's id or name, in whatever case."""

    text: str = ""
    status: Status | None = None
    product_id: str | None = None

    def takes(self, key: str, license: License, now: datetime) -> bool:
        return bool(self.among({key: license}, now))

    def among(self, records: Mapping[str, G], now: datetime) -> Sequence[tuple[str, G]]:
        """What is wanted of these; many at once, which costs each of them a third of what one by one would."""
        found = list(records.items())
        if self.product_id is not None:
            found = [(key, one) for key, one in found if one.product_id == self.product_id]
        if self.status is not None:
            found = [(key, one) for key, one in found if status_of(one, now) == self.status]
        return _with_text(found, self.text.lower()) if self.text else found


def _with_text(records: Sequence[tuple[str, Any]], text: str) -> list[tuple[str, Any]]:
    if "\0" in text:  # which parts one text from the next
        return []
    return [
        (key, one)
        for key, one in records
        if text
        in (
            f"{key}\0{one.email}\0{one.customer_name}\0{one.purchase_id}"
            f"\0{one.hardware_id or ''}\0{one.device_name or ''}".lower()
        )
        or (one.devices and any(text in f"{d.hardware_id}\0{d.device_name or ''}".lower() for d in one.devices))
    ]


class DeviceEvent(StrEnum):
    ACTIVATION = "activation"
    DEACTIVATION = "deactivation"
    RESET = "reset"


class DeviceLine(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A line of the device log. `seq` and `prev` chain it as the ledger is chained. `by_customer` marks a device that
    its owner released in his account, as against one that its own app signed off."""

    seq: int = 0
    timestamp: datetime
    event: DeviceEvent
    license_key: str
    hardware_id: str | None = None
    device_name: str | None = None
    prev: str | None = None
    by_customer: bool = False


class Bound(msgspec.Struct, frozen=True, gc=False):
    """A device as it was bound, and its faces: the ids by which the same machine came, that of the binding first."""

    device: Device
    faces: list[str]

    @property
    def as_seen_last(self) -> Device:
        """By its newest face, for who knows the machine as it is now."""
        return msgspec.structs.replace(self.device, hardware_id=self.faces[-1])

    def is_machine(self, hardware_id: str) -> bool:
        return any(same_machine(face, hardware_id) for face in self.faces)


def find_bound(bound: dict[str, Bound], hardware_id: str) -> Bound | None:
    """The device that this id means: by one of its faces, else because it is the same machine as one."""
    known = (one for one in bound.values() if hardware_id in one.faces)
    return next(known, None) or next((one for one in bound.values() if one.is_machine(hardware_id)), None)


def bound_after(lines: list[DeviceLine]) -> dict[str, Bound]:
    """The devices bound after these lines of one license, by the ids and in the order in which they were bound.

    A line that activates a bound device's machine under another id is another face of it, and takes no seat."""
    bound: dict[str, Bound] = {}
    machines = Machines[Bound]()
    for line in lines:
        if line.event is DeviceEvent.RESET:
            bound, machines = {}, Machines()
        elif line.hardware_id is None:
            continue
        elif line.event is DeviceEvent.DEACTIVATION:
            if (gone := bound.pop(line.hardware_id, None)) is not None:
                machines.drop(gone.faces)
        else:
            known = machines.find(line.hardware_id)
            if known is None:
                known = Bound(Device(line.hardware_id, line.device_name, line.timestamp), [])
                bound[line.hardware_id] = known
            if line.hardware_id not in known.faces:
                known.faces.append(line.hardware_id)
                machines.add(line.hardware_id, known)
    return bound


def devices_after(lines: list[DeviceLine]) -> list[Device]:
    """The devices bound after these lines of one license, in the order they were bound."""
    return [one.device for one in bound_after(lines).values()]


class Move(msgspec.Struct, gc=False):
    """A device that took a seat, by the ids of its machine, and when it did so last."""

    ids: list[str]
    at: datetime
    is_bound: bool = False

    def is_machine(self, hardware_id: str) -> bool:
        return any(same_machine(one, hardware_id) for one in self.ids)


def recent_devices(lines: list[DeviceLine], now: datetime) -> list[Move]:
    """The devices that were bound in the window before `now`; a reset by the owner starts the count anew, and a device
    that the customer released counts no more: releases have a limit of their own, and whoever may release a broken one
    must be able to bind its successor.

    A device that comes and goes is one: an app may free its seat whenever it ends. What was bound while this machine's
    clock was ahead counts only where it was not far ahead: it must not lock anybody out until that time has come.
    """
    machines = Machines[Move]()
    moves: list[Move] = []
    for line in lines:
        if line.event is DeviceEvent.RESET:
            machines, moves = Machines(), []
        elif line.hardware_id is not None:
            known = machines.find(line.hardware_id)
            if line.event is DeviceEvent.ACTIVATION:
                if known is None:
                    moves.append(known := Move([], line.timestamp))
                _activate(known, line.hardware_id, line.timestamp)
                machines.add(line.hardware_id, known)
            elif known and line.by_customer:
                moves.remove(known)
                machines.drop(known.ids)
            elif known:
                known.is_bound = False
    return [move for move in moves if abs(now - move.at) < MOVES_WINDOW]


def _activate(move: Move, hardware_id: str, at: datetime) -> None:
    """Another face of a machine that has its seat is no move."""
    if not move.is_bound:
        move.at, move.is_bound = at, True
    if hardware_id not in move.ids:
        move.ids.append(hardware_id)


def moves_of(license: License, product: Product | None) -> int:
    """How many new devices this license may take in the window."""
    return (product or Product(name="")).device_moves * license.max_devices


def next_place(taken: Iterable[datetime], most: int) -> datetime | None:
    """When one more of what the window holds at `most` is possible; None where it is already, or never."""
    moments = sorted(taken)
    return moments[len(moments) - most] + MOVES_WINDOW if 0 < most <= len(moments) else None


def recent_releases(lines: list[DeviceLine], now: datetime) -> list[datetime]:
    """When the customer released devices of this license in the window before `now`; as with `recent_devices` a reset
    begins anew, and a clock that was far ahead shuts nobody out."""
    moments: list[datetime] = []
    for line in lines:
        if line.event is DeviceEvent.RESET:
            moments.clear()
        elif line.by_customer and abs(now - line.timestamp) < MOVES_WINDOW:
            moments.append(line.timestamp)
    return moments


# ---------------------------------------------------------------------------------------------------- the verdict
class Code(StrEnum):
    """The answers of a validation, in order of precedence: the first that applies is given."""

    NOT_FOUND = "NOT_FOUND"
    BANNED = "BANNED"
    SUSPENDED = "SUSPENDED"
    EXPIRED = "EXPIRED"
    PRODUCT_SCOPE_MISMATCH = "PRODUCT_SCOPE_MISMATCH"
    USER_SCOPE_MISMATCH = "USER_SCOPE_MISMATCH"
    ENTITLEMENTS_MISSING = "ENTITLEMENTS_MISSING"
    TOO_MANY_MACHINES = "TOO_MANY_MACHINES"
    FINGERPRINT_SCOPE_MISMATCH = "FINGERPRINT_SCOPE_MISMATCH"
    VALID = "VALID"


DETAIL = {
    Code.NOT_FOUND: "does not exist",
    Code.BANNED: "is banned",
    Code.SUSPENDED: "is suspended",
    Code.EXPIRED: "is expired",
    Code.PRODUCT_SCOPE_MISMATCH: "is for another product",
    Code.USER_SCOPE_MISMATCH: "belongs to another e-mail address",
    Code.ENTITLEMENTS_MISSING: "lacks a feature that was asked for",
    Code.TOO_MANY_MACHINES: "has no free seat for this device",
    Code.FINGERPRINT_SCOPE_MISMATCH: "is not activated on this device",
    Code.VALID: "is valid",
}
_STATUS: dict[Code, Status] = {Code.BANNED: "banned", Code.SUSPENDED: "suspended", Code.EXPIRED: "expired"}
_STANDING = {
    Reason.REVOKED: Code.BANNED,
    Reason.CHARGEBACK: Code.BANNED,
    Reason.REFUNDED: Code.SUSPENDED,
    Reason.DISPUTED: Code.SUSPENDED,
    Reason.SUSPENDED: Code.SUSPENDED,
    Reason.PAYMENT_FAILED: Code.SUSPENDED,
    Reason.CANCELLED: Code.EXPIRED,
    Reason.ENDED: Code.EXPIRED,
}


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What an app asks about a license. `product` and `email` narrow it, `features` must all be there."""

    hardware_id: str | None = None
    device_name: str | None = None
    product: str | None = None
    email: str | None = None
    features: tuple[str, ...] = ()
    bind: bool = True


def status_of(license: License | Glance, now: datetime) -> Status:
    """active, expired, suspended or banned: the word in public answers."""
    return _STATUS.get(standing(license, now), "active")


def standing(license: License | Glance, now: datetime) -> Code:
    """How the license itself stands, whoever asks."""
    if not license.is_active:
        return _STANDING[license.inactive_reason or Reason.SUSPENDED]
    if license.expiry_date is not None and now - timedelta(days=license.grace_days) > license.expiry_date:
        return Code.EXPIRED
    return Code.VALID


def judge(license: License | None, claim: Claim, catalogue: Catalogue, now: datetime) -> Code:
    """The verdict without its writes: VALID for a new device means that a seat is free for it."""
    if license is None:
        return Code.NOT_FOUND
    if (code := standing(license, now)) is not Code.VALID:
        return code
    product = catalogue.find(license.product_id)
    if claim.product is not None and not _is_product(claim.product, license, product):
        return Code.PRODUCT_SCOPE_MISMATCH
    if claim.email is not None and claim.email.strip().lower() != license.email.lower():
        return Code.USER_SCOPE_MISMATCH
    if claim.features and not set(claim.features) <= set(catalogue.features(product, license.tier, license.features)):
        return Code.ENTITLEMENTS_MISSING
    return _judge_device(license, claim)


def _is_product(asked: str, license: License, product: Product | None) -> bool:
    return asked == license.product_id or bool(product and product.slug and asked == product.slug)


def _judge_device(license: License, claim: Claim) -> Code:
    if claim.hardware_id is None or license.knows(claim.hardware_id):
        return Code.VALID
    if license.devices_used >= license.max_devices:
        return Code.TOO_MANY_MACHINES
    return Code.VALID if claim.bind else Code.FINGERPRINT_SCOPE_MISMATCH
