"""The payment platforms, one file each, in one literal table; a name that is not in it answers 404."""

from __future__ import annotations

from server.platforms.base import Platform, WebhookRequest
from server.platforms.gumroad import Gumroad

PLATFORMS: dict[str, type[Platform]] = {
    Gumroad.name: Gumroad,
}

__all__ = ["PLATFORMS", "Platform", "WebhookRequest"]
