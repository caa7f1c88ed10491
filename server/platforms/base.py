"""What every platform file has: how its webhooks are proven and what they say. No store, no Flask, no decisions."""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import ClassVar, Self

import msgspec

from server.domain import money
from server.domain.order import Order
from server.domain.purchase import CHARGES, EventKind, PurchaseEvent
from server.errors import BadRequest, PlatformOff, PlatformUnreachable, Unprocessable, Unverified
from server.settings import Settings
from server.storage.base import Shelf


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
    hides_keys: ClassVar[bool] = False  # whether its notices may come from anybody, and are told no license key
    proves_notices: ClassVar[bool] = True  # False: anybody can send them, so one about an unknown order leaves no trace
    methods: ClassVar[frozenset[str]] = frozenset({"POST"})

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

    def read_again(self, raw: bytes) -> list[PurchaseEvent]:
        """What a payload that was kept (an event's `raw`) says today. Raises BadRequest, or Unverified, where it is no
        notice, such as a row of a list."""
        return self.parse(WebhookRequest(raw, {}, {"Content-Type": "application/json"}.get))

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

    def reply(self, request: WebhookRequest) -> Reply | None:
        """What this notice, once it is on disk, is answered with; None for the usual words."""
        return None

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


# ---------------------------------------------------------------------------------------------------- the store front
class Form(msgspec.Struct, frozen=True):
    """A form that the buyer's browser has to send to the platform."""

    action: str
    fields: dict[str, str]
    method: str = "POST"


class Begun(msgspec.Struct, frozen=True):
    """An order that the platform knows now: its own id of it, and how the buyer pays. With neither address nor form he
    was asked by the platform itself, in its app."""

    reference: str | None = None
    payment_url: str | None = None
    form: Form | None = None


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """Where the platform tells what happened (`notify`), where the buyer comes back to (`back`; `cancelled` where he
    gave up), and the buyer's own address."""

    notify: str
    back: str
    cancelled: str
    client: str
    now: datetime


class Checkout(ABC):
    """What a platform can do that takes the payment of our own orders. Its events carry the `order_id`, and say nothing
    of what was sold: that stands in the order."""

    name: ClassVar[str]
    currencies: ClassVar[frozenset[str] | None] = None  # None: any
    currency: ClassVar[str]  # where the buyer names none
    needs_phone: bool = False
    rest: ClassVar[timedelta] = timedelta(0)  # for which it wants not to be asked about a new order that nobody told of
    asks_buyer: bool = False  # `begin` waits until the buyer has agreed on his phone: never within a request
    is_test: bool = False
    merchant: str = ""

    def use_shelf(self, shelf: Shelf, clock: Callable[[], datetime]) -> None:
        """Where things lie that all workers share, such as a token; called once, before the platform is asked."""
        return

    def has(self, order: Order) -> bool:
        """Whether it was placed with the account, and in the mode, that is configured now."""
        return (order.merchant, order.is_test) == (self.merchant, self.is_test)

    def require(self, order: Order) -> None:
        """Raises PlatformUnreachable where another account would answer: that is no answer."""
        if not self.has(order):
            account = f"account {order.merchant}" if order.merchant else "the account"
            mode = "test mode" if order.is_test else "live mode"
            why = f"{self.name} is configured otherwise now: orders of {account} in {mode} cannot be asked about"
            raise PlatformUnreachable(why, is_refused=True)

    @abstractmethod
    def begin(self, order: Order, way: Way) -> Begun:
        """Make the order known there. Repeated, it is still one order. Raises PlatformUnreachable; AlreadyBegun, where
        the answer to an earlier try was lost; Unprocessable, with what the platform objects to."""

    @abstractmethod
    def ask(self, order: Order, reference: str | None) -> list[PurchaseEvent]:
        """What the platform says of the order now, in the words of its notices and under their event_ids: SALE (paid),
        PENDING (not yet), CANCELLATION, PAYMENT_FAILED, and the refunds of a paid one. Empty where it does not know it
        (yet). A payment that only waits to be captured is captured here. Raises PlatformUnreachable."""

    def form(self, order: Order, way: Way) -> Form | None:
        """The form by which the buyer pays, where there is one: made anew each time, since its time is in it."""
        return None

    def continued(self, order: Order, way: Way, query: Mapping[str, str]) -> Form | None:
        """What the browser of a buyer who came to `way.back` with this query still has to send to the platform before
        he can pay; None where he is back for good. Nothing that stands in the query is believed."""
        return None

    def phone_of(self, told: str) -> str:
        """The buyer's number as the platform wants it. Raises Unprocessable."""
        return told


class RefundState(StrEnum):
    ACCEPTED = "accepted"  # the platform will tell when it is done
    DONE = "done"
    REFUSED = "refused"


class RefundWord(msgspec.Struct, frozen=True):
    """How a refund stands at the platform: its own id of it, and why it was refused."""

    state: RefundState
    reference: str | None = None
    note: str | None = None


class Refunds(ABC):
    """What a platform can do that gives money back by its API. `names` are the sale's names in the ledger (its own id,
    and links such as the payment's), `refund_id` is ours: under it the platform does it once."""

    @abstractmethod
    def refund(self, order: Order, names: Sequence[str], amount: int, refund_id: str) -> RefundWord:
        """Raises PlatformUnreachable where it is in doubt whether it was done."""

    @abstractmethod
    def find_refund(self, order: Order, names: Sequence[str], refund_id: str) -> RefundWord | None:
        """None where the platform knows of no such refund. Raises PlatformUnreachable."""


class Reply(msgspec.Struct, frozen=True):
    """What a notice is answered with in place of our usual words. With `order_id`, it was a buyer's browser that came,
    and is sent on to the page of his order."""

    body: bytes = b""
    content_type: str = "text/plain"
    order_id: str | None = None


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
