"""Looking for licenses by whatever the owner has at hand: a key in any spelling, a public id, a sale's or an order's
number, or any text of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import datetime

from server.domain.license import License, Wanted
from server.errors import NotFound, StorageUnavailable
from server.services.license_manager import LicenseManager
from server.storage.base import Found, Store


class LicenseSearch:
    def __init__(
        self, store: Store, licenses: LicenseManager, sources: Collection[str], clock: Callable[[], datetime]
    ) -> None:
        """`sources` are all that a purchase may come from."""
        self._store, self._licenses, self._sources, self._clock = store, licenses, sources, clock

    def find(self, wanted: Wanted, after: str = "", limit: int = 50) -> Found:
        """The newest first, from the one behind the public id `after` on; those that are named exactly go before."""
        now = self._clock()
        if (one := self._by_key(wanted.text)) is not None:
            found = [one] if not after and self._fits(wanted, *one) else []
            return Found(licenses=found, total=len(found))
        named = {key: license for key, license in self._named(wanted.text) if self._fits(wanted, key, license)}
        by_text = self._store.find_licenses(wanted, now, after, limit)
        more = {key: license for key, license in by_text.licenses if key not in named}
        total = by_text.total + sum(not wanted.takes(key, license, now) for key, license in named.items())
        return Found(licenses=list(((named if not after else {}) | more).items()), total=total)

    def every(self, wanted: Wanted) -> Iterator[tuple[str, License]]:
        """All of it, in the order of their public ids, as they are read."""
        now = self._clock()
        if (one := self._by_key(wanted.text)) is not None:
            yield from [one] if self._fits(wanted, *one) else []
            return
        named = {key for key, license in self._named(wanted.text) if self._fits(wanted, key, license)}
        for key, license in self._store.licenses():
            if key in named or wanted.takes(key, license, now):
                yield key, license

    def _fits(self, wanted: Wanted, key: str, license: License) -> bool:
        """By all but its text."""
        return Wanted(status=wanted.status, product_id=wanted.product_id).takes(key, license, self._clock())

    def _by_key(self, text: str) -> tuple[str, License] | None:
        with suppress(NotFound):
            return self._licenses.get(text) if text else None
        return None

    def _named(self, text: str) -> Iterator[tuple[str, License]]:
        """The licenses of the sale, subscription or order of this name, and of what it is linked to."""
        if not text:
            return
        names = [f"{kind}\0{source}\0{text}" for kind in ("sale", "subscription") for source in self._sources]
        with suppress(StorageUnavailable):
            if (file := self._store.orders.find(text)) is not None:
                names.append(file.order.ledger_name)
        keys = dict.fromkeys(key for entry in self._store.history(names) for key in entry.license_keys)
        for key in keys:
            if (license := self._store.find_license(key)) is not None:
                yield key, license
