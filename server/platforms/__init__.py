"""The payment platforms, in one literal table; a name that is not in it answers 404."""

from __future__ import annotations

from server.platforms.base import Platform, WebhookRequest
from server.platforms.easypaisa import EasyPaisa
from server.platforms.gumroad import Gumroad
from server.platforms.jazzcash import JazzCash
from server.platforms.jvzoo import JVZoo
from server.platforms.payu import PayU
from server.platforms.stripe import Stripe

PLATFORMS: dict[str, type[Platform]] = {
    Gumroad.name: Gumroad,
    JVZoo.name: JVZoo,
    PayU.name: PayU,
    Stripe.name: Stripe,
    JazzCash.name: JazzCash,
    EasyPaisa.name: EasyPaisa,
}

__all__ = ["PLATFORMS", "Platform", "WebhookRequest"]
