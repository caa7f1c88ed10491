"""What every platform file has: how its webhooks are proven and what they say. No store, no Flask, no decisions."""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

import msgspec

from server.domain.purchase import PurchaseEvent
from server.errors import PlatformOff, Unverified
from server.settings import Settings


class WebhookRequest(msgspec.Struct, frozen=True):
    """A webhook as it came in: the untouched bytes of its body, its query, and its headers by name."""

    body: bytes
    query: Mapping[str, str]
    header: Callable[[str], str | None]

    @property
    def content_type(self) -> str:
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()


class Platform(ABC):
    """A configured platform. `events` keeps the order that must not change: verify, then parse."""

    name: ClassVar[str]

    def __init__(self, secret: str | None) -> None:
        self._secret = secret

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """None where the platform's secret is missing: it is off, never 'verified with an empty key'."""

    def events(self, request: WebhookRequest) -> list[PurchaseEvent]:
        """Raises Unverified for a webhook without proof, BadRequest, naming the field, for one that cannot be read."""
        self.verify(request)
        return self.parse(request)

    @abstractmethod
    def verify(self, request: WebhookRequest) -> None: ...

    @abstractmethod
    def parse(self, request: WebhookRequest) -> list[PurchaseEvent]: ...

    def answer(self, event: PurchaseEvent) -> PurchaseEvent:
        """The event with what the platform's API says about its `inquiry`, which is none then; asked with a short
        timeout. Raises PlatformUnreachable, and Disowned where the platform says that it is not so."""
        raise NotImplementedError(f"{self.name} has no API that is asked")

    def require_secret(self, given: str | None) -> None:
        """The secret that the owner put into the webhook's URL, compared in constant time."""
        if not self._secret:
            raise PlatformOff(f"{self.name} is not configured")
        if not hmac.compare_digest((given or "").encode(), self._secret.encode()):
            raise Unverified(
                "the webhook's secret is missing or wrong: copy the whole URL, with ?secret=", "BAD_SECRET"
            )
