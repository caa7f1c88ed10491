"""Accounts: an e-mail address that has a license or a paid order, as the books say. There is no other list of them."""

from __future__ import annotations

from contextlib import suppress

from server.domain.order import OrderFile, account
from server.domain.purchase import Entry
from server.errors import StorageUnavailable
from server.storage.base import Store


def account_of(email: str) -> str:
    """The account that an address means, however it is written. Letters of an account go to this spelling and to no
    other: two mailboxes may differ in what lower case makes the same, as in U+212A and the letter k."""
    return email.strip().lower()


def is_plainly(email: str) -> bool:
    """Whether this spelling reaches the account's own mailbox: it differs in the case of ASCII letters at most."""
    text = email.strip()
    return account_of(text) == "".join(c.lower() if c.isascii() else c for c in text)


class Accounts:
    def __init__(self, store: Store) -> None:
        self._store = store

    def is_known(self, email: str) -> bool:
        return bool(self._store.licenses_of(email)) or any(self._is_paid(file) for file in self._orders(email))

    def is_new_with(self, entry: Entry) -> bool:
        """Whether this address had no license and no paid order before this line of the ledger."""
        email = entry.email or ""
        own = {key for other in self._store.history(entry.names()) for key in other.license_keys}
        licenses = [key for key, _ in self._store.licenses_of(email) if key not in own]
        names = [*licenses, *(f.order.ledger_name for f in self._orders(email) if f.order.order_id != entry.order_id)]
        return not any(self._is_older(name, entry) for name in names)

    def _is_older(self, name: str, entry: Entry) -> bool:
        """Whether what this name stands for was paid or given before the line."""
        told = (other for other in self._store.history([name]) if other.seq < entry.seq)
        return any(other.license_keys or other.issues for other in told)

    def _is_paid(self, file: OrderFile) -> bool:
        return account(file.order, self._store.history([file.order.ledger_name])).sale is not None

    def _orders(self, email: str) -> list[OrderFile]:
        """None where their book is damaged: licenses are known without it."""
        with suppress(StorageUnavailable):
            return self._store.orders.of_email(email)
        return []
