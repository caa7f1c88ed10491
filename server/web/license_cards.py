"""A license as the account's pages show it: how it stands, and where it can be bought again."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from server.domain.catalogue import Product
from server.domain.license import Code, License, standing
from server.errors import StorageUnavailable
from server.services.customers import Held
from server.services.letter_writing import SHOPS
from server.services.payments import Payment
from server.web import me
from server.web.services import services

log = logging.getLogger(__name__)


def card(held: Held) -> dict[str, Any]:
    license = held.license
    return {
        **me.my_license(held),
        "stands": stands(license),
        "grace_until": license.expiry_date and license.expiry_date + timedelta(days=license.grace_days),
        "platform": SHOPS.get(license.purchase_source, ""),
        "last_used": license.last_validation,
        "buy": buy_link(held.product),
        "is_in_shop": is_in_shop(held.product),
        "shop": shop_path(),
        "offline_days": (held.product or Product(name="")).offline_days,
        "moves_left": held.moves_left,
        "next_move": held.next_move,
        "has_gone": bool(held.gone),
        "has_room": held.has_room,
    }


def payments_of(email: str) -> list[Payment] | None:
    """None where the books of orders cannot be read: licenses are shown without them."""
    try:
        return services().payments.of(email)
    except StorageUnavailable as error:
        log.error("%s", error.detail)
        return None


def stands(license: License) -> str:
    """The word that `license_words.html` has its sentences for: `active`, `grace`, `expired`, or why it is inactive."""
    now = services().clock()
    if not license.is_active:
        return str(license.inactive_reason or "suspended")
    if license.expiry_date is None or now <= license.expiry_date:
        return "active"
    return "grace" if standing(license, now) is Code.VALID else "expired"


def shop_path() -> str | None:
    """Where the shop is open."""
    ours = services()
    return f"{_base()}/shop" if ours.desk.providers() and ours.packages.published() else None


def is_in_shop(product: Product | None) -> bool:
    return product is not None and product.published and shop_path() is not None


def buy_link(product: Product | None) -> str:
    """Where this product can be bought: in the shop here, else where its owner says; "" where neither is known."""
    if product is None:
        return ""
    return f"{shop_path()}/{quote(product.slug or product.id, safe='')}" if is_in_shop(product) else product.buy_url


def _base() -> str:
    return urlsplit(services().settings.app_url).path
