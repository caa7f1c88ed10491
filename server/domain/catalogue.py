"""The catalogue: what the owner sells, read from `products.json`, and which product a platform's sale means."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from server.domain import money
from server.errors import BadRequest

_WEB_ADDRESS = re.compile(r"https://[^\s\"'<>\\\x00-\x1f\x7f]{1,492}")
_PREFIX = re.compile(r"[A-Za-z0-9-]{0,16}")


class Tier(msgspec.Struct, frozen=True):
    features: tuple[str, ...] = ()
    extends: str | None = None


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `products.json`; a bundle has no license of its own, each of its children gets one.

    `duration_days` None is for life; `device_moves` is how many new devices a seat may take in 90 days. `buy_url` is
    where a customer buys or renews it, if not in the shop here.
    """

    id: str = ""
    name: str
    tier: str | None = None
    features: tuple[str, ...] = ()
    duration_days: int | None = None
    grace_days: int = 3
    max_devices: int = 1
    device_moves: int = 10
    offline_days: int = 30
    key_prefix: str = ""
    slug: str = ""
    price: dict[str, str] = {}
    original_price: dict[str, str] = {}
    featured: bool = False
    includes: tuple[str, ...] = ()
    published: bool = False
    buy_url: str = ""
    category: str = ""
    description: str = ""
    platform_ids: dict[str, tuple[str | int, ...]] = {}
    bundle: tuple[str, ...] = ()


class Item(msgspec.Struct, frozen=True):
    """One line of an order: the platform's ids of what was sold, and how many; or our own id, where we sold it."""

    ids: tuple[str, ...]
    quantity: int = 1
    product_id: str | None = None


class Sold(msgspec.Struct, frozen=True):
    """So many of a product."""

    product: Product
    quantity: int


class _File(msgspec.Struct, frozen=True):
    products: dict[str, Product]
    tiers: dict[str, Tier] = {}
    default_product: str | None = None


class Catalogue:
    """A checked catalogue: what it names exists, no tier or bundle runs in a circle, a platform id means one thing."""

    def __init__(self, products: dict[str, Product], tiers: dict[str, Tier], default_product: str | None) -> None:
        self.products, self.tiers, self.default_product = products, tiers, default_product
        self._tier_features = {name: self._resolve_tier(name, ()) for name in tiers}
        self._children = {name: self._resolve_bundle(name, ()) for name in products}
        self._by_platform_id = self._map_platform_ids()
        self.prefixes = tuple(dict.fromkeys(p.key_prefix for p in products.values() if p.key_prefix))

    def find(self, product_id: str | None) -> Product | None:
        return self.products.get(product_id) if product_id else None

    def children(self, product: Product) -> tuple[Product, ...]:
        """The products that a sale of this one issues: itself, or a bundle's children, each once."""
        return self._children[product.id]

    def parts(self, sold: Iterable[Sold]) -> list[Sold]:
        """What licenses are issued for: a bundle is its children, and of a product sold twice the quantities add up."""
        found: dict[str, Sold] = {}
        for one in sold:
            for child in self.children(one.product):
                before = found.get(child.id)
                found[child.id] = Sold(child, one.quantity + (before.quantity if before else 0))
        return list(found.values())

    def sold(
        self,
        platform: str,
        own: str | None,
        ids: Iterable[str],
        variants: Iterable[str],
        quantity: int,
        items: Iterable[Item] = (),
    ) -> list[Sold]:
        """What a platform's sale means: our own id where the seller told it to the platform, else what the sale's ids
        are mapped to, else what its items are. Empty where nobody mapped any of it."""
        whole = self._named(own) or self._mapped(platform, ids, variants)
        if whole is not None:
            return [Sold(whole, quantity)]
        found = ((self._named(i.product_id) or self._mapped(platform, i.ids, ()), i.quantity) for i in items)
        return [Sold(product, number) for product, number in found if product is not None]

    def _mapped(self, platform: str, ids: Iterable[str], variants: Iterable[str]) -> Product | None:
        """`<id>#<variant>` goes before the plain id."""
        ids, variants = list(ids), list(variants)
        wanted = [f"{one}#{variant}" for one in ids for variant in variants] + ids
        for name in wanted:
            if found := self._by_platform_id.get((platform, name)):
                return self.products[found]
        return None

    def _named(self, own: str | None) -> Product | None:
        if own is None:
            return None
        return self.find(own) or next((p for p in self.products.values() if p.slug and p.slug == own), None)

    def of_tier(self, name: str) -> Product | None:
        """The product of that id, or the first product of that tier (older apps ask so)."""
        return self.find(name) or next((p for p in self.products.values() if p.tier == name and not p.bundle), None)

    def features(self, product: Product | None, tier: str | None, own: tuple[str, ...] | None) -> list[str]:
        """What a license may do: its tier's features, then its own where the owner set them, else its product's."""
        tier = tier or (product.tier if product else None)
        plain = own if own is not None else product.features if product else ()
        return list(dict.fromkeys([*self._tier_features.get(tier or "", ()), *plain]))

    # -------------------------------------------------------------------------------------------------- checks
    def _resolve_tier(self, name: str, above: tuple[str, ...]) -> tuple[str, ...]:
        if name in above:
            raise BadRequest(f"tiers.{above[0]}: extends itself by way of {' -> '.join((*above, name))}")
        tier = self.tiers.get(name)
        if tier is None:
            raise BadRequest(f"tiers.{above[-1]}.extends: there is no tier {name!r}")
        below = self._resolve_tier(tier.extends, (*above, name)) if tier.extends else ()
        return tuple(dict.fromkeys([*below, *tier.features]))

    def _resolve_bundle(self, name: str, above: tuple[str, ...]) -> tuple[Product, ...]:
        if name in above:
            raise BadRequest(f"products.{above[0]}.bundle: contains itself by way of {' -> '.join((*above, name))}")
        product = self.products.get(name)
        if product is None:
            raise BadRequest(f"products.{above[-1]}.bundle: there is no product {name!r}")
        if not product.bundle:
            return (product,)
        found = [child for inner in product.bundle for child in self._resolve_bundle(inner, (*above, name))]
        return tuple({child.id: child for child in found}.values())

    def _map_platform_ids(self) -> dict[tuple[str, str], str]:
        found: dict[tuple[str, str], str] = {}
        for product in self.products.values():
            for platform, ids in product.platform_ids.items():
                for one in map(str, ids):
                    other = found.setdefault((platform, one), product.id)
                    if other != product.id:
                        raise BadRequest(
                            f"products.{product.id}.platform_ids.{platform}: {one!r} already means {other!r}"
                        )
        return found


EMPTY = Catalogue({}, {}, None)


def read_catalogue(raw: bytes) -> Catalogue:
    """Read `products.json`. Raises BadRequest that names the field; nothing half-read comes out."""
    try:
        file = msgspec.json.decode(raw, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None
    products = {}
    for name, product in file.products.items():
        _check_product(name, product, file.tiers)
        products[name] = msgspec.structs.replace(product, id=name)
    if file.default_product is not None and file.default_product not in products:
        raise BadRequest(f"default_product: there is no product {file.default_product!r}")
    return Catalogue(products, file.tiers, file.default_product)


def _check_product(name: str, product: Product, tiers: dict[str, Tier]) -> None:
    place = f"products.{name}"
    if not name or len(name) > 128 or not name.isprintable():
        raise BadRequest(f"{place}: a product's id has 1 to 128 printable characters")
    if product.tier is not None and product.tier not in tiers:
        raise BadRequest(f"{place}.tier: there is no tier {product.tier!r}")
    if not _PREFIX.fullmatch(product.key_prefix):
        raise BadRequest(f"{place}.key_prefix: at most 16 letters, digits and hyphens")
    if product.buy_url and not _WEB_ADDRESS.fullmatch(product.buy_url):
        raise BadRequest(f"{place}.buy_url: an address that begins with https:// is needed, of at most 500 characters")
    bounds = {
        "duration_days": (product.duration_days, 1, 36_500),
        "grace_days": (product.grace_days, 0, 3_650),
        "max_devices": (product.max_devices, 1, 100_000),
        "device_moves": (product.device_moves, 1, 100_000),
        "offline_days": (product.offline_days, 1, 36_500),
    }
    for field, (value, low, high) in bounds.items():
        if value is not None and not low <= value <= high:
            raise BadRequest(f"{place}.{field}: {value} is not between {low} and {high}")
    for field, prices in (("price", product.price), ("original_price", product.original_price)):
        for currency, amount in prices.items():
            code, named = money.currency_code(currency, f"{place}.{field}"), f"{place}.{field}.{currency}"
            if money.minor_units(amount, code, named) < 0:  # it would be taken off the rest of an order
                raise BadRequest(f"{named}: {amount} is less than nothing")
