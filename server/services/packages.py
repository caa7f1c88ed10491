"""Packages: what the store front sells of the catalogue, and at which price."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from server.domain import money
from server.domain.catalogue import Catalogue, Product
from server.domain.order import OrderItem
from server.errors import NotFound, Unprocessable
from server.services.catalogue_file import CatalogueFile

LARGEST_ORDER = 20  # packages


class Packages:
    def __init__(self, catalogue: CatalogueFile) -> None:
        self._catalogue = catalogue

    def published(self, category: str | None = None) -> list[Product]:
        """What is published, the featured first, else in the catalogue's order."""
        found = [p for p in self._current().products.values() if p.published and category in (None, p.category)]
        return sorted(found, key=lambda product: not product.featured)

    def get(self, name: str) -> Product:
        """A published package by its id or its slug. Raises NotFound."""
        product = self._find(name)
        if product is None:
            raise NotFound(f"there is no package {name[:128]!r}")
        return product

    def children(self, product: Product) -> tuple[Product, ...]:
        """A bundle's contents, each once; the product itself where it is no bundle."""
        return self._current().children(product)

    def features(self, product: Product) -> list[str]:
        return self._current().features(product, None, None)

    def price(self, product: Product, currency: str) -> int | None:
        """In minor units."""
        return _price(product.price, currency)

    def ordered(self, names: Sequence[str], currency: str) -> tuple[OrderItem, ...]:
        """The lines of an order of these packages; one named twice is ordered twice. Raises Unprocessable, naming the
        package that is unknown or has no price in this currency."""
        if not 1 <= len(names) <= LARGEST_ORDER:
            raise Unprocessable(f"package_ids: an order has 1 to {LARGEST_ORDER} packages")
        found: list[tuple[str, Product]] = []
        for name in names:
            product = self._find(name)
            if product is None:
                raise Unprocessable(f"package_ids: there is no package {name[:128]!r}", "UNKNOWN_PACKAGE")
            found.append((product.id, product))
        numbers, products = Counter(name for name, _ in found), dict(found)
        return tuple(self._item(product, currency, numbers[name]) for name, product in products.items())

    def _item(self, product: Product, currency: str, quantity: int) -> OrderItem:
        price = _price(product.price, currency)
        if price is None:
            known = ", ".join(sorted(product.price)) or "none"
            raise Unprocessable(
                f"currency: package {product.id!r} has no price in {currency} (it has: {known})", "NO_PRICE"
            )
        return OrderItem(product_id=product.id, name=product.name, price=price, quantity=quantity)

    def common_currency(self, names: Sequence[str], wanted: str, allowed: Collection[str] | None) -> str:
        """The wanted currency where all of these have a price in it, else an allowed one that they have in common
        (None: any is)."""
        found = [{code.lower() for code in p.price} for name in names if (p := self._find(name))]
        shared = set.intersection(*found) if found else set[str]()
        shared = shared if allowed is None else shared.intersection(allowed)
        return wanted if wanted in shared or not shared else min(shared)

    def _find(self, name: str) -> Product | None:
        products = self._current().products
        found = products.get(name) or next((p for p in products.values() if p.slug and p.slug == name), None)
        return found if found is not None and found.published else None

    def _current(self) -> Catalogue:
        return self._catalogue.current()


def _price(prices: dict[str, str], currency: str) -> int | None:
    for code, amount in prices.items():
        if code.lower() == currency:
            return money.minor_units(amount, currency)
    return None
