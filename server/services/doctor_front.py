"""The check-up of the store front: whether the platforms that sell our own packages can be paid on, and reach us."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from server.domain.catalogue import EMPTY, Catalogue, Product, read_catalogue
from server.errors import BadRequest
from server.platforms.base import Checkout
from server.platforms.web_client import is_loopback
from server.services.catalogue_sanity import unpriced
from server.services.doctor import Check, Examination, Patient, good, warning, wrong

_MOST = 5  # packages that are named


def store_front(patient: Patient) -> Iterator[Check]:
    """Nothing where nobody sells by it: a platform that can and a published package make a store front."""
    on, packages = checkouts(patient), published(_catalogue(patient))
    if not on or not (is_priced(packages) or _only_sells(on)):
        return
    yield from (_mode(name, platform) for name, platform in on.items())
    yield from _reach(patient, any(not platform.is_test for platform in on.values()))
    if not packages:
        yield warning("packages", "none is published: there is nothing to order", "products.json: published and price")
        return
    each = (words for name, platform in on.items() for words in unpriced(name, platform, packages))
    missing = list(dict.fromkeys(each))
    for words in missing[:_MOST]:
        yield warning("packages", words, "Give it a price, or tell your pages to offer another platform")
    if len(missing) > _MOST:
        yield warning("packages", f"and {len(missing) - _MOST} more of that kind", "Look at price in products.json")
    if not missing:
        yield good("packages", f"{len(packages)} published, each with a price for {', '.join(on)}")


def checkouts(patient: Patient) -> dict[str, Checkout]:
    return {name: one for name, one in patient.platforms.items() if isinstance(one, Checkout)}


def published(catalogue: Catalogue) -> list[Product]:
    return [product for product in catalogue.products.values() if product.published]


def is_priced(packages: Iterable[Product]) -> bool:
    return any(product.price for product in packages)


def _only_sells(on: dict[str, Checkout]) -> bool:
    """Stripe may be there for its webhooks alone."""
    return any(name != "stripe" for name in on)


def _catalogue(patient: Patient) -> Catalogue:
    """What is wrong with it is told by a check of its own."""
    try:
        return read_catalogue((patient.folder / "products.json").read_bytes())
    except (OSError, BadRequest):
        return EMPTY


def _mode(name: str, platform: Checkout) -> Check:
    if platform.is_test:
        return warning(name, "is a sandbox: no money moves, and licenses end after a week", "Set its live keys to sell")
    return good(name, f"is live, as {platform.merchant}" if platform.merchant else "is live")


def _reach(patient: Patient, is_live: bool) -> Iterator[Check]:
    """Platforms tell of payments at APP_URL, and send buyers back there."""
    app_url, origins = patient.settings.app_url, patient.settings.allowed_origins
    if is_live and (is_loopback(app_url) or urlsplit(app_url).scheme != "https"):
        words = f"APP_URL is {app_url}: no platform tells of a payment there, and buyers come back to nothing"
        yield wrong("store front", words, "Set APP_URL to the public https address")
    if not origins:
        words = "ALLOWED_ORIGINS is empty: only pages at APP_URL itself may order, and be come back to"
        yield warning("store front", words, "Set it to your shop's origins, such as https://shop.example.com")
    else:
        yield good("store front", f"may be used by {', '.join(origins)}")


FRONT: list[Examination] = [store_front]
