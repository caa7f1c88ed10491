"""What every platform file has: how its webhooks are proven and what they say. No store, no Flask, no decisions."""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import ClassVar, Self

import msgspec

from server.domain import money
from server.domain.purchase import CHARGES, EventKind, PurchaseEvent
from server.errors import BadRequest, PlatformOff, Unprocessable, Unverified
from server.settings import Settings


class WebhookRequest(msgspec.Struct, frozen=True):
    """A webhook as it came in: the untouched bytes of its body, its query, and its headers by name."""

    body: bytes
    query: Mapping[str, str]
    header: Callable[[str], str | None]

    @property
    def content_type(self) -> str:
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()


class Trial(msgspec.Struct, frozen=True):
    """A notice with good proof and no sense. A door that takes the proof answers it 400 BAD_REQUEST, and writes
    nothing."""

    body: bytes = b""
    query: dict[str, str] = {}
    headers: dict[str, str] = {}


class Page(msgspec.Struct, frozen=True):
    """A page of a platform's own record, as the events that its webhooks would have been; `next` is where to go on,
    None behind the last page. `unreadable` counts what could not be understood."""

    events: tuple[PurchaseEvent, ...]
    next: str | None = None
    unreadable: int = 0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a platform's own record in a file: `event` in the ledger's words or the platform's."""

    event: str
    sale_id: str
    subscription_id: str | None = None
    incident: str | None = None
    email: str | None = None
    customer_name: str | None = None
    product_id: str | None = None
    product_name: str | None = None
    quantity: int = 1
    price: str | None = None
    currency: str | None = None
    date: datetime | None = None


class Platform(ABC):
    """A configured platform. `events` keeps the order that must not change: verify, then parse."""

    name: ClassVar[str]
    confirms_sales: bool = False  # whether its API can be asked for one sale

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

    def trial(self) -> Trial:
        """For the owner's check-up of his webhooks; by default of one that a secret in the address proves."""
        query = {"secret": self._secret} if self._secret else {}
        return Trial(b"[]", query, {"Content-Type": "application/json"})

    def answer(self, event: PurchaseEvent) -> PurchaseEvent:
        """The event with what the platform's API says about its `inquiry`, which is none then; asked with a short
        timeout. Raises PlatformUnreachable, and Disowned where the platform says that it is not so."""
        raise NotImplementedError(f"{self.name} has no API that is asked")

    def page(self, since: datetime, at: str | None) -> Page:
        """One page of the platform's own record from `since` on. Raises PlatformUnreachable; RateLimited says for how
        long it wants to be left alone."""
        raise Unprocessable(f"{self.name} has no API for this: export its record to a file, and name that")

    @classmethod
    def event_of(cls, row: Row) -> PurchaseEvent | None:
        """The event that the platform's webhook for this line of its record would have been, under the same event_id;
        None for a line that is about no money. Raises BadRequest, naming the column."""
        raise Unprocessable(f"{cls.name}: its record cannot be read from a file")

    def require_secret(self, given: str | None) -> None:
        """The secret that the owner put into the webhook's URL, compared in constant time."""
        if not self._secret:
            raise PlatformOff(f"{self.name} is not configured")
        if not hmac.compare_digest((given or "").encode(), self._secret.encode()):
            raise Unverified(
                "the webhook's secret is missing or wrong: copy the whole URL, with ?secret=", "BAD_SECRET"
            )


TOLD_BY_ROWS = frozenset(
    {
        EventKind.SALE,
        EventKind.RENEWAL,
        EventKind.REFUND,
        EventKind.PARTIAL_REFUND,
        EventKind.DISPUTE,
        EventKind.DISPUTE_WON,
        EventKind.DISPUTE_LOST,
    }
)


def event_of_row(row: Row, source: str, event_id: str, kind: EventKind, zone: tzinfo = UTC) -> PurchaseEvent:
    """What all platforms' rows have in common; `zone` is that of dates without an offset."""
    currency = money.currency_code(row.currency) if row.currency else None
    if row.price is not None and currency is not None:
        money.minor_units(row.price, currency)
    return PurchaseEvent(
        event=kind,
        event_id=event_id,
        source=source,
        sale_id=row.sale_id,
        subscription_id=row.subscription_id,
        incident=row.incident,
        email=row.email,
        customer_name=row.customer_name,
        source_product_id=row.product_id,
        product_name=row.product_name,
        quantity=row.quantity,
        price=row.price,
        currency=currency,
        purchase_date=_aware(row.date, zone) if kind in CHARGES else None,
        is_recurring=kind is EventKind.RENEWAL,
        is_refunded=kind is EventKind.REFUND,
        is_disputed=kind in (EventKind.DISPUTE, EventKind.DISPUTE_LOST),
        raw=msgspec.Raw(msgspec.json.encode(row)),
    )


def _aware(date: datetime | None, zone: tzinfo) -> datetime | None:
    return date and (date if date.tzinfo else date.replace(tzinfo=zone)).astimezone(UTC)


def kind_of_row(row: Row) -> EventKind:
    """Raises BadRequest for a word that is none of the ledger's for money."""
    word = row.event.strip().lower()
    if word not in TOLD_BY_ROWS:
        raise BadRequest(f"event: {row.event[:40]!r} is none of {', '.join(sorted(TOLD_BY_ROWS))}")
    return EventKind(word)
