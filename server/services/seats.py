"""Seats: the verdict on a key for a device, and taking and freeing the device's seat."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from server.domain import keys
from server.domain.catalogue import Catalogue, Product
from server.domain.hardware import KIND
from server.domain.license import (
    Bound,
    Claim,
    Code,
    Device,
    DeviceEvent,
    DeviceLine,
    License,
    bound_after,
    find_bound,
    judge,
    moves_of,
    recent_devices,
)
from server.services.catalogue_file import CatalogueFile
from server.storage.base import Store, retried

MOST_FACES = 32  # of a device that are written down; beyond that it is known all the same


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a validation: a value, not an exception. `activated` tells that a seat was taken just now."""

    code: Code
    key: str | None = None
    license: License | None = None
    product: Product | None = None
    features: list[str] = []
    device: Device | None = None
    activated: bool = False

    @property
    def valid(self) -> bool:
        return self.code is Code.VALID


class Seats:
    """All that a desktop app may ask. Every verb reads without a lock; only a seat that changes hands goes through one.

    Raises StorageUnavailable only where a seat has to be written and cannot be: that never means "invalid".
    """

    def __init__(self, store: Store, catalogue: CatalogueFile, clock: Callable[[], datetime]) -> None:
        self._store, self._catalogue, self._clock = store, catalogue, clock

    def validate(self, license_key: str, claim: Claim) -> Verdict:
        """The verdict on a key. A new device takes a free seat unless `claim.bind` is false; a repeat takes none."""
        now, catalogue = self._clock(), self._catalogue.current()
        key, license = self._read(license_key, catalogue)
        bound = self._bound_before(key, license, claim.hardware_id)
        meant = _meaning(claim, bound)
        code = judge(license, meant, catalogue, now)
        if license is not None and code is Code.VALID:
            if meant.hardware_id is not None and (not license.knows(meant.hardware_id) or _is_news(claim, bound)):
                return self._take_seat(key, claim, catalogue, now)
            self._store.count_usage(key, now)
        return self._verdict(catalogue, code, key, license, self._device(code, key, license, meant, claim))

    def activate(self, license_key: str, claim: Claim) -> Verdict:
        return self.validate(license_key, msgspec.structs.replace(claim, bind=True))

    @retried
    def deactivate(self, license_key: str, hardware_id: str) -> Verdict:
        """Free the device's seat; again and again with the same answer."""
        now, catalogue = self._clock(), self._catalogue.current()
        key, license = self._read(license_key, catalogue)
        if self._bound_id(key, license, hardware_id):
            with self._store.transaction() as books:
                license = self._find(key)
                if bound_id := self._bound_id(key, license, hardware_id):
                    freed = DeviceEvent.DEACTIVATION
                    books.append_devices(
                        [DeviceLine(timestamp=now, event=freed, license_key=key, hardware_id=bound_id)]
                    )
                    license = self._find(key)
        return self._verdict(catalogue, judge(license, Claim(), catalogue, now), key, license)

    def has_seat(self, license_key: str, hardware_id: str | None) -> bool:
        """Whether this device is bound to the license now; nothing is bound or written by asking."""
        if hardware_id is None:
            return False
        key, license = self.read_key(license_key)
        return self._bound_id(key, license, hardware_id) is not None

    def read_key(self, typed: str) -> tuple[str, License | None]:
        """The license that a typed key means, as it is now: an exact match goes before the forgiving one."""
        return self._read(typed, self._catalogue.current())

    def _read(self, typed: str, catalogue: Catalogue) -> tuple[str, License | None]:
        for key in keys.readings(typed, catalogue.prefixes):
            if license := self._find(key):
                return key, license
        return typed, None

    def _find(self, key: str) -> License | None:
        license = self._store.find_license(key)
        return license.at(self._clock()) if license else None

    def _bound_before(self, key: str, license: License | None, hardware_id: str | None) -> Bound | None:
        """The device as which this machine was bound under another id. Nothing is looked for on the way of all days,
        where the id is the bound one, or is of no kind that is made of parts."""
        if license is None or not (hardware_id or "").startswith(KIND) or license.knows(hardware_id or ""):
            return None
        return find_bound(bound_after(self._store.device_lines(key, look=False)), hardware_id or "")

    def _bound_id(self, key: str, license: License | None, hardware_id: str) -> str | None:
        if license is not None and license.knows(hardware_id):
            return hardware_id
        bound = self._bound_before(key, license, hardware_id)
        return bound.device.hardware_id if bound else None

    @retried
    def _take_seat(self, key: str, claim: Claim, catalogue: Catalogue, now: datetime) -> Verdict:
        """Judged again under the lock, where nobody else can take the same seat; or another face of a device that has
        one, which is written down so that the machine is known after the next change, too."""
        activated = False
        with self._store.transaction() as books:
            license = self._find(key)
            bound = self._bound_before(key, license, claim.hardware_id)
            meant = _meaning(claim, bound)
            code = judge(license, meant, catalogue, now)
            if code is Code.VALID and license is not None and not license.knows(meant.hardware_id or ""):
                if self._has_moved_enough(key, license, claim, catalogue, now):
                    code = Code.TOO_MANY_MACHINES
                else:
                    books.append_devices([_activation(key, claim, now)])
                    activated, license = True, self._find(key)
            elif code is Code.VALID and _is_news(claim, bound):
                books.append_devices([_activation(key, claim, now)])
        if code is Code.VALID:
            self._store.count_usage(key, now)
        return self._verdict(catalogue, code, key, license, self._device(code, key, license, meant, claim), activated)

    def _has_moved_enough(self, key: str, license: License, claim: Claim, catalogue: Catalogue, now: datetime) -> bool:
        recent = recent_devices(self._store.device_lines(key), now)
        others = [move for move in recent if not move.is_machine(claim.hardware_id or "")]
        return len(others) >= moves_of(license, catalogue.find(license.product_id))

    def _verdict(
        self,
        catalogue: Catalogue,
        code: Code,
        key: str,
        license: License | None,
        device: Device | None = None,
        activated: bool = False,
    ) -> Verdict:
        if license is None:
            return Verdict(code=code)
        product = catalogue.find(license.product_id)
        return Verdict(
            code=code,
            key=key,
            license=license,
            product=product,
            features=catalogue.features(product, license.tier, license.features),
            device=device,
            activated=activated,
        )

    def _device(self, code: Code, key: str, license: License | None, meant: Claim, asked: Claim) -> Device | None:
        """The device as it is bound, by the id that was asked about: the app knows its machine's present id alone."""
        if code is not Code.VALID or license is None or meant.hardware_id is None or asked.hardware_id is None:
            return None
        device = self._bound_device(key, license, meant.hardware_id)
        return Device(asked.hardware_id, device.device_name, device.bound_at)

    def _bound_device(self, key: str, license: License, hardware_id: str) -> Device:
        """Only the device log knows since when the first one is bound."""
        for device in license.devices:
            if device.hardware_id == hardware_id:
                return device
        lines = [line for line in self._store.device_lines(key, look=False) if line.hardware_id == hardware_id]
        return Device(hardware_id, license.device_name, lines[-1].timestamp if lines else license.created_date)


def _meaning(claim: Claim, bound: Bound | None) -> Claim:
    """The claim as of the device that is bound, where the machine is one of these under another id."""
    return msgspec.structs.replace(claim, hardware_id=bound.device.hardware_id) if bound else claim


def _is_news(claim: Claim, bound: Bound | None) -> bool:
    """Whether the id is a face of the device that is to be written down; by asking alone nothing is."""
    return bound is not None and claim.bind and claim.hardware_id not in bound.faces and len(bound.faces) < MOST_FACES


def _activation(key: str, claim: Claim, now: datetime) -> DeviceLine:
    return DeviceLine(
        timestamp=now,
        event=DeviceEvent.ACTIVATION,
        license_key=key,
        hardware_id=claim.hardware_id,
        device_name=claim.device_name,
    )
