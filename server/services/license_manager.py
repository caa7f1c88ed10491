"""The license manager: every verb that a desktop app or the owner has on licenses."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from server.domain.catalogue import Product
from server.domain.fold import blocking, replaced_keys
from server.domain.license import LATEST, Claim, DeviceEvent, DeviceLine, License
from server.domain.purchase import Entry, EventKind, Grant, PurchaseEvent, event_name
from server.errors import Conflict, NotFound, Unprocessable
from server.services.catalogue_file import CatalogueFile
from server.services.fulfilment import Fulfilment
from server.services.seats import Seats, Verdict
from server.storage.base import Store

OWNER = "owner"
FOR_LIFE = -1  # as duration_days: whatever the product's duration is


class _Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision of the owner says beyond its kind; `tells` is the key it is about from now on, `releases` whether
    all devices are released with it."""

    grants: tuple[Grant, ...] = ()
    overrides: tuple[str, ...] = ()
    expiry: datetime | None = None
    email: str | None = None
    customer_name: str | None = None
    tells: str | None = None
    releases: bool = False


class LicenseManager:
    def __init__(
        self, store: Store, catalogue: CatalogueFile, fulfilment: Fulfilment, clock: Callable[[], datetime]
    ) -> None:
        self.store, self._catalogue, self._fulfilment, self._clock = store, catalogue, fulfilment, clock
        self.seats = Seats(store, catalogue, clock)

    def validate(self, license_key: str, claim: Claim) -> Verdict:
        return self.seats.validate(license_key, claim)

    def activate(self, license_key: str, claim: Claim) -> Verdict:
        return self.seats.activate(license_key, claim)

    def deactivate(self, license_key: str, hardware_id: str) -> Verdict:
        return self.seats.deactivate(license_key, hardware_id)

    # ------------------------------------------------------------------------------------------------ the owner
    def get(self, name: str) -> tuple[str, License]:
        """Key and license of a key, as typed, or of a public id. Raises NotFound."""
        found = self.store.find_by_id(name) if is_license_id(name) else None
        if found is None:
            key, license = self.seats.read_key(name)
            if license is None:
                raise NotFound("there is no such license")
            found = key, license
        return found[0], found[1].at(self._clock())

    def create_license(
        self,
        email: str,
        customer_name: str,
        expires_days: int | None = None,
        purchase_info: Mapping[str, Any] | None = None,
    ) -> str:
        """Issue a license for a purchase and return its key; the same purchase always gives the same key.

        `purchase_info` may name `source`, `sale_id`, `product_id` (of our catalogue), `quantity`, `price` (decimal
        string), `currency`, `purchase_date` and `is_test`. `expires_days` None takes the product's duration.
        """
        info = dict(purchase_info or {})
        entry = self.issue(
            email=email,
            customer_name=customer_name,
            product_id=info.pop("product_id", None),
            duration_days=expires_days,
            **{name: info[name] for name in _PURCHASE_INFO if name in info},
        )
        return entry.license_keys[0]

    def issue(
        self,
        *,
        email: str,
        customer_name: str,
        product_id: str | None,
        duration_days: int | None = None,
        max_devices: int | None = None,
        note: str | None = None,
        source: str = OWNER,
        sale_id: str | None = None,
        **said: Any,
    ) -> Entry:
        """Issue the licenses of a product (of a bundle: of each child); a repeated `sale_id` gives the first again.

        `duration_days` None takes the product's duration, FOR_LIFE none at all.
        """
        product = self._catalogue.current().find(product_id or self._catalogue.current().default_product)
        if product is None:
            raise Unprocessable(f"product_id: there is no product {product_id!r} in products.json", "UNKNOWN_PRODUCT")
        sale_id = sale_id or f"{OWNER}-{secrets.token_hex(8)}"
        event = PurchaseEvent(
            event=EventKind.OWNER_ISSUE,
            event_id=f"{sale_id}:issue",
            source=source,
            sale_id=sale_id,
            email=email,
            customer_name=customer_name,
            product_name=product.name,
            note=note,
            **({"purchase_date": self._clock()} | said),
        )
        return self._issue_once(event, product, duration_days, max_devices)

    def _issue_once(
        self, event: PurchaseEvent, product: Product, duration_days: int | None, max_devices: int | None
    ) -> Entry:
        with self.store.transaction() as books:
            if seen := self.store.find_event(event.identity):
                books.rest_on_disk()
                return self._same_request(seen, event, product)
            children = self._catalogue.current().children(product)
            plain = [self._fulfilment.grant(event, child, self._fulfilment.key_for(event, child)) for child in children]
            grants = tuple(self._own_terms(grant, duration_days, max_devices) for grant in plain)
            entry = self._fulfilment.decide(event, grants=grants)
            books.append([entry])
            return entry

    def _same_request(self, seen: Entry, event: PurchaseEvent, product: Product) -> Entry:
        if (seen.email, seen.customer_name, seen.product_name) != (event.email, event.customer_name, product.name):
            raise Conflict("this purchase was already used for another customer or product", "IDEMPOTENCY_CONFLICT")
        return seen

    def _own_terms(self, grant: Grant, duration_days: int | None, max_devices: int | None) -> Grant:
        if duration_days is not None:
            until = None if duration_days == FOR_LIFE else self._clock() + timedelta(days=duration_days)
            grant = msgspec.structs.replace(grant, until=until)
        return msgspec.structs.replace(grant, max_devices=max_devices) if max_devices is not None else grant

    def renew(self, name: str) -> Entry:
        """Extend by the product's duration."""
        _, license = self.get(name)
        product = self._catalogue.current().find(license.product_id)
        if product is None or product.duration_days is None:
            raise Unprocessable("the license's product has no duration: say how many days, or until when")
        return self.extend(name, days=product.duration_days)

    def extend(
        self, name: str, days: int | None = None, until: datetime | None = None, request: str | None = None
    ) -> Entry:
        """Paid through some days more (from today where it has ended), or until a date. Here and below `request` names
        a demand that may come twice: it is met once."""
        if days is None and until is None:
            raise Unprocessable("days or until: one of them is needed")

        def terms(key: str, license: License) -> _Terms:
            return _Terms(expiry=self.end_of(license, days, until))

        return self._owner_says(EventKind.OWNER_EXTEND, name, terms, request=request)

    def end_of(self, license: License, days: int | None = None, until: datetime | None = None) -> datetime:
        """Until when it would be paid if it were extended so. Raises Unprocessable."""
        if license.expiry_date is None:
            raise Unprocessable("the license is for life: there is nothing to extend", "LIFETIME")
        start = max(self._clock(), license.expiry_date)
        end = until if until is not None else min(start, LATEST) + timedelta(days=days or 0)
        if end <= license.expiry_date:
            raise Unprocessable(f"until: the license is already paid through {license.expiry_date:%Y-%m-%d}")
        if end > LATEST:
            raise Unprocessable(f"until: no license is paid beyond {LATEST:%Y}; issue one for life instead")
        return end

    def suspend(self, name: str, note: str | None = None, request: str | None = None) -> Entry:
        return self._owner_says(EventKind.OWNER_SUSPEND, name, note=note, request=request)

    def revoke(self, name: str, note: str | None = None, request: str | None = None) -> Entry:
        return self._owner_says(EventKind.OWNER_REVOKE, name, note=note, request=request)

    def reinstate(self, name: str, note: str | None = None, request: str | None = None) -> Entry:
        """Set aside, by their event_ids, all events that keep the license inactive; later ones count again."""

        def terms(key: str, license: License) -> _Terms:
            return _Terms(overrides=blocking(self.store.history([key]), key))

        return self._owner_says(EventKind.OWNER_REINSTATE, name, terms, note, request)

    def transfer(
        self,
        name: str,
        email: str,
        customer_name: str | None = None,
        note: str | None = None,
        request: str | None = None,
    ) -> Entry:
        """The license goes to another customer; its devices are released."""
        given = _Terms(email=email, customer_name=customer_name or "", releases=True)
        return self._owner_says(EventKind.OWNER_TRANSFER, name, lambda key, license: given, note, request)

    def reissue(self, name: str, note: str | None = None, request: str | None = None) -> Entry:
        """For a leaked key: the same purchase under a new key, the old key answers BANNED, all devices start anew."""
        return self._owner_says(EventKind.OWNER_REISSUE, name, self._replacement, note, request)

    def _replacement(self, key: str, license: License) -> _Terms:
        history = self.store.history([key])
        replaced = set(replaced_keys(history).values())
        if key in replaced:
            raise Conflict("this key was already replaced: reissue the one that is in use", "ALREADY_REISSUED")
        product = self._catalogue.current().find(license.product_id)
        named = product or Product(id=license.product_id or "", name=license.product_id or "")
        origin = next(entry for entry in history if any(grant.license_key for grant in entry.grants)).as_event()
        grant = Grant(
            product_id=license.product_id or "",
            license_key=self._fulfilment.key_for(origin, named, len(replaced) + 1),
            max_devices=license.max_devices,
            until=license.expiry_date,
            grace_days=license.grace_days,
            replaces=key,
        )
        return _Terms(grants=(grant,), tells=grant.license_key)

    def reset_devices(self, name: str) -> None:
        """Release all devices; the count of moves starts anew."""
        key, _ = self.get(name)
        with self.store.transaction() as books:
            books.append_devices([self._reset(key)])

    def _reset(self, key: str) -> DeviceLine:
        return DeviceLine(timestamp=self._clock(), event=DeviceEvent.RESET, license_key=key)

    def _owner_says(
        self,
        kind: EventKind,
        name: str,
        terms: Callable[[str, License], _Terms] = lambda key, license: _Terms(),
        note: str | None = None,
        request: str | None = None,
    ) -> Entry:
        """A decision of the owner about one license, as a ledger line linked to it by its key.

        `terms` are worked out under the lock, from the license as it is then: two decisions at once are two, unless
        they are one `request`.
        """
        key, _ = self.get(name)
        event_id = f"{OWNER}:{request or secrets.token_hex(8)}"
        with self.store.transaction() as books:
            if seen := self.store.find_event(event_name(OWNER, event_id)):
                books.rest_on_disk()
                return _same_demand(seen, kind, key)
            _, license = self.get(key)
            said = terms(key, license)
            event = PurchaseEvent(
                event=kind,
                event_id=event_id,
                source=OWNER,
                email=license.email if said.email is None else said.email,
                customer_name=license.customer_name if said.customer_name is None else said.customer_name,
                occurred_at=self._after_earlier_decisions(key),
                note=note,
            )
            entry = self._fulfilment.decide(
                event, grants=said.grants, names=(key,), overrides=said.overrides, expiry=said.expiry
            )
            entry.product_id = license.product_id
            entry.license_keys = (said.tells or key,)
            books.append([entry])
            if said.releases:
                books.append_devices([self._reset(key)])
            return entry

    def _after_earlier_decisions(self, key: str) -> datetime:
        """The owner's decisions keep their order even if this machine's clock was set back between them."""
        earlier = [entry.moment for entry in self.store.history([key]) if entry.source == OWNER]
        return max([self._clock(), *(moment + timedelta(microseconds=1) for moment in earlier)])


def _same_demand(seen: Entry, kind: EventKind, key: str) -> Entry:
    about = {*seen.license_keys, *(grant.replaces for grant in seen.grants)}
    if seen.event is not kind or key not in about:
        raise Conflict("this demand was already used for something else", "IDEMPOTENCY_CONFLICT")
    return seen


_PURCHASE_INFO = (
    "source",
    "sale_id",
    "quantity",
    "price",
    "currency",
    "purchase_date",
    "is_test",
    "max_devices",
    "note",
)


def is_license_id(name: str) -> bool:
    return len(name) == 24 and name.startswith("lic_") and all(c in "0123456789abcdef" for c in name[4:])
