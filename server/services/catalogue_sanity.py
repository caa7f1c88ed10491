"""What is odd about a catalogue that can be read: what nobody can buy, what cannot be paid, what sales are not mapped.

A catalogue that names what does not exist, or runs in a circle, is refused as a whole (domain/catalogue.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from server.domain.catalogue import Catalogue, Product
from server.domain.purchase import Entry
from server.platforms import PLATFORMS
from server.platforms.base import Checkout
from server.storage.log import ascii_json


class Oddity(msgspec.Struct, frozen=True):
    """What is odd, and what to do about it; `product_id` where it is about one product."""

    words: str
    todo: str
    product_id: str | None = None


class Unmapped(msgspec.Struct, frozen=True, kw_only=True):
    """A product of a platform's that was sold and that nobody mapped: the line to add, and the newest sale of it."""

    source: str
    line: str | None
    product_name: str | None
    sales: int
    seq: int


def oddities(found: Catalogue, on: Mapping[str, object]) -> Iterator[Oddity]:
    """`on` are the platforms that are set up."""
    has_front = any(isinstance(one, Checkout) for one in on.values())
    sold = {name for name, product in found.products.items() if has_front and product.published and product.price}
    mapped = {platform for product in found.products.values() for platform, ids in product.platform_ids.items() if ids}
    children = {child for product in found.products.values() for child in product.bundle}
    for name, product in found.products.items():
        if not any(product.platform_ids.values()) and name not in children | sold:
            words = f"{name} has no platform_ids: no sale can mean it"
            yield Oddity(words, "Map it, or issue it by hand only", name)
    for platform in sorted(mapped - PLATFORMS.keys()):
        words = f"platform_ids: there is no platform {platform!r}"
        yield Oddity(words, f"It can be {', '.join(sorted(PLATFORMS))}")
    for platform in sorted(on.keys() - mapped):
        if isinstance(on[platform], Checkout) and (sold or platform != "stripe"):
            continue  # it sells our own packages, which need no ids there
        words = f"{platform} is on, but no product has an id of it: its sales wait"
        yield Oddity(words, f"platform_ids.{platform}")
    if found.default_product and "stripe" in on:
        words = f"default_product: whatever Stripe sells gives {found.default_product}"
        yield Oddity(words, "null, if you sell other things", found.default_product)


def unpriced(name: str, platform: Checkout, packages: Iterable[Product]) -> Iterator[str]:
    """What of these published packages cannot be paid on this platform."""
    for product in packages:
        priced = {code.lower() for code in product.price}
        if not priced:
            yield f"{product.id} is published, and has no price"
        elif platform.currencies is not None and priced.isdisjoint(platform.currencies):
            taken = ", ".join(sorted(platform.currencies))
            yield f"{product.id} has no price that {name} takes ({taken}): it has {', '.join(sorted(priced))}"


def unpaid(found: Catalogue, on: Mapping[str, object]) -> Iterator[Oddity]:
    """Published packages without a price that each platform of the store front takes."""
    todo = "Give it a price, or offer another platform for it"
    for product in found.products.values():
        checkouts = ((name, one) for name, one in on.items() if isinstance(one, Checkout) and product.published)
        words = dict.fromkeys(words for name, one in checkouts for words in unpriced(name, one, [product]))
        yield from (Oddity(one, todo, product.id) for one in words)


def unmapped(waiting: Iterable[Entry]) -> list[Unmapped]:
    """Of the sales that wait, the products that nobody mapped, the newest first."""
    seen: dict[tuple[str, str | None], Unmapped] = {}
    for entry in waiting:
        line = line_to_add(entry)
        name = (entry.source, line or entry.product_name)
        sales = seen[name].sales + 1 if name in seen else 1
        seen[name] = Unmapped(
            source=entry.source, line=line, product_name=entry.product_name, sales=sales, seq=entry.seq
        )
    return sorted(seen.values(), key=lambda one: one.seq, reverse=True)


def line_to_add(entry: Entry) -> str | None:
    """What a product of products.json needs in it so that this sale means it; None where the sale names no id."""
    items = (name for item in entry.items for name in item.ids[-1:])
    ids = [name for name in (entry.source_product_id, *items, *entry.product_aliases) if name]
    if not ids:
        return None
    return f'"platform_ids": {{{_json(entry.source)}: [{_json(ids[0])}]}}'


def _json(text: str) -> str:
    """In ASCII: nobody can copy what he does not see."""
    return ascii_json(text).decode()
