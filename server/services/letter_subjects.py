"""What a letter is about, looked up in the books when it is its turn: much may have happened since it was owed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta

from server.domain.license import License, Reason
from server.domain.order import Order
from server.domain.purchase import Entry, EventKind, Outcome
from server.errors import StorageUnavailable
from server.services.accounts import Accounts, is_plainly
from server.services.letters import (
    DEAD_LETTER,
    DELIVERY,
    ORDER_INQUIRY,
    PAYMENT_FAILED,
    REFUND,
    REINSTATED,
    RENEWAL,
    SEATS_TAKEN,
    SIGN_IN,
    UNMAPPED,
)
from server.services.sign_in import LINK_FOR
from server.storage.base import Letter, Store

STALE = timedelta(days=1)  # news of a refused device are old then


class LetterSubjects:
    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store, self._accounts, self._clock = store, Accounts(store), clock

    def overtaken(self, letter: Letter) -> str | None:
        """Why a letter is not to go out any more; None when it is."""
        if letter.kind == DELIVERY:
            return self._undeliverable(letter)
        if letter.kind == SIGN_IN:
            return self._unwanted(letter)
        if letter.kind == SEATS_TAKEN:
            return self._unneeded(letter)
        if letter.kind in (REFUND, PAYMENT_FAILED):
            licenses = self.licenses(letter).values()
            return "the license is active again" if licenses and all(x.is_active for x in licenses) else None
        if letter.kind in (RENEWAL, REINSTATED):
            licenses = self.licenses(letter).values()
            return "the license is inactive" if licenses and not any(x.is_active for x in licenses) else None
        if letter.kind == UNMAPPED and (entry := self.entry(letter)):
            return "the sale was completed meanwhile" if self._is_completed(entry) else None
        if letter.kind == DEAD_LETTER and not self.dead(letter):
            return "the letters are tried again"
        return None

    def _unwanted(self, letter: Letter) -> str | None:
        """Who did not get his link within the time that it is good for has asked for another one, or left."""
        if letter.first_at and self._clock() >= letter.first_at + LINK_FOR:
            return "it was asked for too long ago"
        return None if self._accounts.is_known(letter.to) else "there is no account of this address"

    def _unneeded(self, letter: Letter) -> str | None:
        """Why nobody has to be told any more that a device found no seat."""
        license = self._license(letter)
        if license is None or not license.is_active or not _belongs(license, letter):
            return "the license is not this customer's any more, or not active"
        is_old = letter.first_at is not None and self._clock() >= letter.first_at + STALE
        return "it was too long ago" if is_old else None

    def _undeliverable(self, letter: Letter) -> str | None:
        """A key that was refunded, replaced or given to somebody else is not sent to its buyer."""
        license = self._license(letter)
        if license is not None and not _is_gone(license) and _belongs(license, letter):
            return None
        found = self.licenses(letter)
        if not found:
            return "the license is inactive" if license else "there is no such license"
        if not any(_belongs(license, letter) for license in found.values()) and self._was_moved(letter):
            return "the license was transferred to another address"
        return None

    def _was_moved(self, letter: Letter) -> bool:
        history = self._store.history([letter.license_key or ""])
        return any(entry.event is EventKind.OWNER_TRANSFER for entry in history)

    def _is_completed(self, entry: Entry) -> bool:
        if entry.outcome is Outcome.ISSUED:
            return False
        newest = self._store.find_event(entry.identity)
        later = [*(() if entry.is_item else self._store.history(entry.names())), *([newest] if newest else [])]
        return any(other.seq > entry.seq and other.license_keys for other in later)

    def entry(self, letter: Letter) -> Entry | None:
        """The ledger line that owes a letter; an event that was completed later has several."""
        newest = self._store.find_event(letter.about) if letter.about else None
        if newest is None or newest.seq == letter.seq:
            return newest
        return next((entry for entry in self._store.history(newest.names()) if entry.seq == letter.seq), newest)

    def licenses(self, letter: Letter) -> dict[str, License]:
        """The licenses to write about, by key; a delivery leaves out those that are gone for good."""
        entry = self.entry(letter)
        names = entry.license_keys if entry else (letter.license_key or "",)
        found = {name: license for name in names if (license := self._store.find_license(name))}
        if letter.kind != DELIVERY:
            return found
        return {name: license for name, license in found.items() if not _is_gone(license)}

    def order(self, entry: Entry | None) -> Order | None:
        """The order of our own that a line is about."""
        return self._order(entry.order_id) if entry and entry.order_id else None

    def asked_about(self, letters: Iterable[Letter]) -> dict[str, Order]:
        """The orders that open questions are about, by id."""
        names = [letter.about for letter in letters if letter.kind == ORDER_INQUIRY and letter.about]
        return {name: order for name in names if (order := self._order(name))}

    def _order(self, order_id: str) -> Order | None:
        """None where their book is damaged, too: that holds up no letter."""
        with suppress(StorageUnavailable):
            file = self._store.orders.find(order_id)
            return file.order if file else None
        return None

    def brings_link(self, letter: Letter, entry: Entry | None) -> bool:
        """Whether a link to sign in goes with it: where one was asked for, and with the first order of an account."""
        if letter.kind == SIGN_IN:
            return True
        if letter.kind != DELIVERY or entry is None or entry.order_id is None:
            return False
        return is_plainly(letter.to) and self._accounts.is_new_with(entry)

    def dead(self, letter: Letter) -> list[Letter]:
        """The letters that were given up since this alert was called for."""
        dead = self._store.letterbox.dead()
        return [one for one in dead if not (letter.first_at and one.at) or one.at >= letter.first_at]

    def home(self, letter: Letter) -> str:
        """Where an event came without an address, the license may have one."""
        license = self._license(letter)
        return license.email if license else ""

    def _license(self, letter: Letter) -> License | None:
        return self._store.find_license(letter.license_key) if letter.license_key else None


def _is_gone(license: License) -> bool:
    """A dispute may be won and a payment may follow: then its customer needs the key."""
    return license.inactive_reason in (Reason.REFUNDED, Reason.CHARGEBACK, Reason.REVOKED)


def _belongs(license: License, letter: Letter) -> bool:
    return license.email.strip().lower() == letter.to.lower()
