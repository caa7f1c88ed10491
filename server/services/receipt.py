"""What the buyer of an order got for it: the licenses of its sale, as the books have them now."""

from __future__ import annotations

import msgspec

from server.domain.fold import fold, replaced_keys
from server.domain.license import License
from server.domain.order import OrderFile
from server.services.accounts import account_of
from server.services.catalogue_file import CatalogueFile
from server.storage.base import Store


class Bought(msgspec.Struct, frozen=True):
    """A license of an order, under the name of what was bought."""

    product_name: str
    license_key: str
    license: License


class Receipts:
    def __init__(self, store: Store, catalogue: CatalogueFile) -> None:
        self._store, self._catalogue = store, catalogue

    def is_issued(self, file: OrderFile) -> bool:
        """Whether the order's sale gave licenses; what nobody mapped to a product waits for the owner."""
        return bool(fold(self._store.history([file.order.ledger_name])))

    def of(self, file: OrderFile) -> list[Bought]:
        """In the order in which they were issued. Left out are keys that a reissue put out of use, and licenses that
        were passed on to somebody else since: they are not the buyer's any more."""
        history = self._store.history([file.order.ledger_name])
        gone = set(replaced_keys(history).values())
        found = [(key, license) for key, license in fold(history).items() if key not in gone]
        return [
            Bought(self._name(license.product_id), key, license)
            for key, license in found
            if account_of(license.email) == account_of(file.order.email)
        ]

    def _name(self, product_id: str | None) -> str:
        """A product that the owner took out of the catalogue has no other name than its id."""
        product = self._catalogue.current().find(product_id)
        return product.name if product else product_id or "License"
