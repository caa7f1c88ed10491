"""Customers: what an account holds, and what its owner may do with it by himself. All of it is read from the books."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter

import msgspec

from server.domain.catalogue import Catalogue, Product
from server.domain.fold import replaced_keys
from server.domain.keys import license_id
from server.domain.license import (
    MOVES_WINDOW,
    Code,
    Device,
    DeviceEvent,
    DeviceLine,
    License,
    devices_after,
    moves_of,
    next_place,
    recent_devices,
    recent_releases,
    standing,
)
from server.domain.order import Order, OrderFile, OrderState, state_of
from server.domain.purchase import Entry
from server.errors import Conflict, NotFound
from server.services.accounts import account_of
from server.services.catalogue_file import CatalogueFile
from server.services.outbox import Outbox
from server.services.sign_in import Links, Sessions
from server.settings import Settings
from server.storage.base import Store, Transaction, retried


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A license of the account. `releases_left` is how many devices may still be released just now, `next_release` when
    the next one may be where that is none; `moves_left` and `next_move` are the same of new devices. `gone` are those
    that have no seat any more and still count as moves, the one that was bound first at the front."""

    key: str
    license: License
    product: Product | None
    features: Sequence[str]
    devices: Sequence[Device]
    releases_left: int
    next_release: datetime | None
    moves_left: int
    next_move: datetime | None
    gone: Sequence[str]

    @property
    def has_room(self) -> bool:
        """Whether one more device may be bound now, as far as seats and moves go."""
        return len(self.devices) < self.license.max_devices and self.moves_left > 0


class Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """An order of the account as it stands, with the keys that it gave and that are still the account's."""

    order: Order
    state: OrderState
    license_keys: Sequence[str]


class Enrollment(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the account may use a package now: a bundle only with all that is in it."""

    product: Product
    enrolled: bool
    license_ids: Sequence[str]
    expiry_date: datetime | None


class Customers:
    def __init__(
        self,
        store: Store,
        catalogue: CatalogueFile,
        outbox: Outbox,
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> None:
        self._store, self._catalogue, self._outbox, self._clock = store, catalogue, outbox, clock
        self._releases = settings.device_releases
        self.links = Links(store.shelf, settings, clock)
        self.sessions = Sessions(store.shelf, settings, clock)

    def ask_for_link(self, email: str, why: str = "") -> None:
        """The letter is written down for every address alike; only who sends it looks whether there is such an account,
        so that neither the answer nor its time can tell. `why` is KEYS or the public id of a license."""
        self._outbox.sign_in(account_of(email), why)

    def resend(self, email: str, name: str) -> None:
        """Mail the key once more. Raises NotFound, and Conflict where the license is not active."""
        self._outbox.resend(self.license(email, name).key)

    # ------------------------------------------------------------------------------------------------ licenses
    def licenses(self, email: str) -> list[Held]:
        """The newest first; what a reissue put out of use is left out."""
        return [self._held(key, license) for key, license in self._licenses(email)]

    def _licenses(self, email: str) -> list[tuple[str, License]]:
        now = self._clock()
        found = [(key, license.at(now)) for key, license in self._store.licenses_of(email)]
        gone = set(replaced_keys(self._store.history([key for key, _ in found])).values()) if found else set()
        kept = [(key, license) for key, license in found if key not in gone]
        return sorted(kept, key=lambda pair: (pair[1].created_date, pair[0]), reverse=True)

    def _held(self, key: str, license: License) -> Held:
        catalogue, lines, now = self._catalogue.current(), self._store.device_lines(key), self._clock()
        product, releases = catalogue.find(license.product_id), recent_releases(lines, now)
        devices, moved = devices_after(lines), recent_devices(lines, now)
        most, moves = self._most_releases(license), moves_of(license, product)
        bound = {device.hardware_id for device in devices}
        return Held(
            key=key,
            license=license,
            product=product,
            features=catalogue.features(product, license.tier, license.features),
            devices=devices,
            releases_left=max(0, most - len(releases)),
            next_release=next_place(releases, most),
            moves_left=max(0, moves - len(moved)),
            next_move=next_place([move.at for move in moved], moves),
            gone=[move.ids[0] for move in sorted(moved, key=attrgetter("at")) if bound.isdisjoint(move.ids)],
        )

    def license(self, email: str, name: str) -> Held:
        """By its public id. Raises NotFound, also for another one's."""
        return self._held(*self._get_own(email, name))

    def _most_releases(self, license: License) -> int:
        """Each seat has as many: an office that gets new computers gets them all at once."""
        return self._releases * license.max_devices

    @retried
    def release(self, email: str, name: str, number: int, hardware_id: str | None = None) -> Held:
        """Free a seat of a license by its number, counted from 1; a free seat stays free. Where `hardware_id` is told,
        nothing happens unless that device is in it: so a button that is pressed twice releases one device.

        Raises NotFound, and Conflict where too many were released of late.
        """
        key, license = self._get_own(email, name)
        if not 1 <= number <= max(license.max_devices, license.devices_used):
            raise NotFound("the license has no such seat")
        with self._store.transaction() as books:
            key, license = self._get_own(email, name)
            lines = self._store.device_lines(key)
            bound = devices_after(lines)[number - 1 : number]
            if bound and hardware_id in (None, bound[0].hardware_id):
                self._release(books, self._held(key, license), bound[0].hardware_id)
            return self._held(key, self._get_own(email, name)[1])

    @retried
    def make_room(self, email: str, name: str) -> Held:
        """Let one more device in where too many were bound of late: of those without a seat the oldest counts no more.
        It is a release like any other. Raises NotFound, and Conflict where too many were made of late."""
        with self._store.transaction() as books:
            held = self.license(email, name)
            if not held.moves_left and held.gone:
                self._release(books, held, held.gone[0])
            return self.license(email, name)

    def _release(self, books: Transaction, held: Held, hardware_id: str) -> None:
        if not held.releases_left:
            told = f"{self._most_releases(held.license)} devices of it can be released in {MOVES_WINDOW.days} days"
            if held.next_release:
                told += f"; the next one from {held.next_release:%Y-%m-%d} on"
            raise Conflict(f"{told}: ask the seller if you need it sooner", "RELEASES_USED_UP")
        freed = DeviceEvent.DEACTIVATION
        line = DeviceLine(timestamp=self._clock(), event=freed, license_key=held.key, hardware_id=hardware_id)
        line.by_customer = True
        books.append_devices([line])

    def _get_own(self, email: str, name: str) -> tuple[str, License]:
        """By its public id. Another one's license is as unknown as one that is not there."""
        found = next(((key, one) for key, one in self._licenses(email) if license_id(key) == name), None)
        if found is None:
            raise NotFound("there is no such license")
        return found

    # ------------------------------------------------------------------------------------------------ orders
    def orders(self, email: str) -> list[Ordered]:
        """The newest first."""
        return [self._ordered(file, email) for file in self._store.orders.of_email(email)]

    def order(self, email: str, name: str) -> Ordered:
        """By its id or its number. Raises NotFound, also for another one's."""
        file = self._store.orders.find(name)
        if file is None or account_of(file.order.email) != account_of(email):
            raise NotFound("there is no such order")
        return self._ordered(file, email)

    def _ordered(self, file: OrderFile, email: str) -> Ordered:
        entries = self._store.history([file.order.ledger_name])
        return Ordered(
            order=file.order,
            state=state_of(file, entries, self._clock()),
            license_keys=list(self._own_keys(entries, email)),
        )

    def _own_keys(self, entries: Sequence[Entry], email: str) -> Iterable[str]:
        """A license that was transferred since is not the buyer's any more."""
        gone = set(replaced_keys(entries).values())
        for key in dict.fromkeys(key for entry in entries for key in entry.license_keys):
            license = self._store.find_license(key) if key not in gone else None
            if license is not None and account_of(license.email) == account_of(email):
                yield key

    # ------------------------------------------------------------------------------------------------ enrollments
    def enrollments(self, email: str) -> list[Enrollment]:
        """The packages that the account may use now, bundles among them, in the order of the catalogue."""
        catalogue, usable = self._catalogue.current(), self._usable(email)
        found = [self._enrollment(product, catalogue, usable) for product in catalogue.products.values()]
        return [one for one in found if one.enrolled]

    def enrollment(self, email: str, name: str) -> Enrollment:
        """By the package's id or slug. Raises NotFound."""
        catalogue = self._catalogue.current()
        product = catalogue.find(name) or next((p for p in catalogue.products.values() if p.slug == name), None)
        if product is None:
            raise NotFound("there is no such package")
        return self._enrollment(product, catalogue, self._usable(email))

    def _usable(self, email: str) -> dict[str, list[tuple[str, License]]]:
        """The licenses that an app would be told are valid, by their product."""
        now, found = self._clock(), dict[str, list[tuple[str, License]]]()
        for key, license in self._licenses(email):
            if license.product_id and standing(license, now) is Code.VALID:
                found.setdefault(license.product_id, []).append((key, license))
        return found

    def _enrollment(
        self, product: Product, catalogue: Catalogue, usable: dict[str, list[tuple[str, License]]]
    ) -> Enrollment:
        parts = [usable.get(child.id, []) for child in catalogue.children(product)]
        ends = [_last_end(part) for part in parts]
        return Enrollment(
            product=product,
            enrolled=bool(parts) and all(parts),
            license_ids=[license_id(key) for part in parts for key, _ in part],
            expiry_date=min((end for end in ends if end is not None), default=None),
        )


def _last_end(part: Sequence[tuple[str, License]]) -> datetime | None:
    """Until when one of them lasts; None for life."""
    ends = [license.expiry_date for _, license in part]
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None
