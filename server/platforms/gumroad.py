"""Gumroad: unsigned pings, proven by a secret in the URL. https://gumroad.com/ping and /api#resource-subscriptions

Two shapes: sale-shaped (sale, refund, dispute, dispute_won) and subscription-shaped (the others, without sale_id,
seller_id and email). Gumroad waits 5 s and repeats only after 499, 500, 502, 503 and 504, so a ping that was understood
is never answered 4xx. It comes in any order, and more than once.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import Self

import msgspec

from server.domain import money
from server.domain.purchase import EventKind, Inquiry, PurchaseEvent
from server.errors import Unprocessable, Unverified
from server.platforms.base import Page, Platform, Row, WebhookRequest, event_of_row, kind_of_row
from server.platforms.fields import Fields
from server.platforms.gumroad_api import EVENT_IDS, MONTHS, GumroadApi
from server.settings import Settings

KINDS = {  # resource_name -> our word; anything else is recorded as ignored
    "sale": EventKind.SALE,
    "refund": EventKind.REFUND,
    "dispute": EventKind.DISPUTE,
    "dispute_won": EventKind.DISPUTE_WON,
    "cancellation": EventKind.CANCELLATION,
    "subscription_updated": EventKind.SUBSCRIPTION_UPDATED,
    "subscription_ended": EventKind.SUBSCRIPTION_ENDED,
    "subscription_restarted": EventKind.SUBSCRIPTION_RESTARTED,
}

# A seller's custom field of such a name stands at top level too and replaces the real value by what the buyer typed.
SHADOWABLE = frozenset(
    "seller_id product_id email price currency quantity sale_id sale_timestamp subscription_id test "
    "is_recurring_charge is_preorder_authorization short_product_id permalink".split()
)
_NUMBERS = (("quantity", 1), ("price", 0), ("gumroad_fee", 0))  # and what they are where they are not told
MOST_SEATS = 100_000
IDENTITY = frozenset({"sale_id", "subscription_id", "is_recurring_charge"})


class Gumroad(Platform):
    name = "gumroad"

    def __init__(self, secret: str | None, seller_id: str | None, api: GumroadApi | None = None) -> None:
        super().__init__(secret)
        self._seller_id, self._api = seller_id, api
        self.confirms_sales = api is not None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        secret, token = settings.gumroad_webhook_secret, settings.gumroad_access_token
        api = GumroadApi(token, settings.gumroad_api_base) if token else None
        return cls(secret, settings.gumroad_seller_id, api) if secret else None

    def verify(self, request: WebhookRequest) -> None:
        self.require_secret(request.query.get("secret"))

    def parse(self, request: WebhookRequest) -> list[PurchaseEvent]:
        ping = read_fields(request)
        self._require_seller(ping)
        if ping.text("resource_name") is None and ping.flag("test"):
            return [read_test_ping(ping)]
        kind = KINDS.get(ping.text("resource_name") or "sale")
        if kind is None:
            return [read_unknown(ping)]
        if not _is_sale_shaped(ping):
            return [read_subscription(ping, kind)]
        if hidden := hiding(ping, kind):
            return [read_shadowed(ping, kind, hidden)]
        charge = read_charge(ping, kind)
        return [msgspec.structs.replace(event, inquiry=Inquiry.SALE) for event in charge] if self._api else charge

    def answer(self, event: PurchaseEvent) -> PurchaseEvent:
        return self._api.answer(event) if self._api else msgspec.structs.replace(event, inquiry=None)

    def page(self, since: datetime, at: str | None) -> Page:
        if self._api is None:
            raise Unprocessable("GUMROAD_ACCESS_TOKEN is missing: without it Gumroad's own record cannot be read")
        return self._api.page(since, at)

    @classmethod
    def event_of(cls, row: Row) -> PurchaseEvent:
        kind = kind_of_row(row)
        return event_of_row(row, cls.name, EVENT_IDS[kind].format(row.sale_id), kind)

    def _require_seller(self, ping: Fields) -> None:
        """Sale-shaped pings name their seller; a custom field of that name hides it, and then the ping is held."""
        if self._seller_id and _is_sale_shaped(ping) and "seller_id" not in shadowed(ping):
            given = ping.text("seller_id") or ""
            if not hmac.compare_digest(given.encode(), self._seller_id.encode()):
                raise Unverified("seller_id: the ping is not of the configured seller", "WRONG_SELLER")


def read_fields(request: WebhookRequest) -> Fields:
    """Form by default, JSON by the account's setting or for Zapier-like endpoints; the same names in both."""
    if request.content_type == "application/json":
        return Fields.from_json(request.body)
    return Fields.from_form(request.body)


def shadowed(ping: Fields) -> list[str]:
    return sorted(SHADOWABLE & ping.group("custom_fields").keys())


def hiding(ping: Fields, kind: EventKind) -> list[str]:
    """The hidden fields that matter: all at a sale, all but the address at a renewal, else only which sale it is."""
    hidden = set(shadowed(ping))
    if kind is not EventKind.SALE:
        hidden &= IDENTITY
    elif "is_recurring_charge" not in hidden and ping.flag("is_recurring_charge"):
        hidden -= {"email"}
    return sorted(hidden)


def read_charge(ping: Fields, kind: EventKind) -> list[PurchaseEvent]:
    """A sale-shaped ping. One that was sent late also tells that its sale is refunded or disputed by now."""
    sale_id, refunded = ping.required("sale_id"), ping.flag("refunded")
    said = _charge(ping, sale_id)
    if kind is EventKind.REFUND:
        kind = EventKind.REFUND if refunded else EventKind.PARTIAL_REFUND
    if kind is not EventKind.SALE:
        word = ping.required("resource_name")
        return [msgspec.structs.replace(said, event=kind, event_id=f"{sale_id}:{word}:{_told(refunded)}")]
    if ping.flag("is_preorder_authorization"):
        note = "the card is authorised; the charge comes as another sale"
        return [msgspec.structs.replace(said, event=EventKind.PENDING, event_id=f"{sale_id}:preorder:false", note=note)]
    events: list[PurchaseEvent] = []
    if refunded:
        events.append(msgspec.structs.replace(said, event=EventKind.REFUND, event_id=f"{sale_id}:refund:true"))
    if ping.flag("disputed"):
        disputed = msgspec.structs.replace(
            said, event=EventKind.DISPUTE, event_id=f"{sale_id}:dispute:{_told(refunded)}"
        )
        events.append(disputed)
        if ping.flag("dispute_won"):
            won = f"{sale_id}:dispute_won:{_told(refunded)}"
            events.append(msgspec.structs.replace(disputed, event=EventKind.DISPUTE_WON, event_id=won))
    return [*events, said]  # what took it back first, so that the sale's own line says how it stands


def _charge(ping: Fields, sale_id: str) -> PurchaseEvent:
    """`price` and `gumroad_fee` are US cents, always; `currency` is only the listing's (ping_notification.rb)."""
    is_recurring = ping.flag("is_recurring_charge")
    subscription_id = ping.text("subscription_id")
    quantity, price, fee = (_number(ping, name, default) for name, default in _NUMBERS)
    moment = ping.lenient(ping.moment, "sale_timestamp", None)
    return PurchaseEvent(
        event=EventKind.RENEWAL if is_recurring else EventKind.SALE,
        event_id=f"{sale_id}:sale:false",
        source=Gumroad.name,
        sale_id=sale_id,
        subscription_id=subscription_id,
        source_license_key=ping.text("license_key"),
        customer_id=ping.text("purchaser_id"),
        email=ping.text("email"),
        customer_name=ping.text("full_name"),
        source_product_id=ping.text("product_id"),
        product_aliases=_present(ping.text("short_product_id"), ping.text("permalink")),
        product_name=ping.text("product_name"),
        variants=_present(*ping.group("variants").values()),
        quantity=min(max(1, quantity or 1), MOST_SEATS),
        price=None if price is None else money.told(price, "usd"),
        currency="usd",
        fee=None if fee is None else money.told(fee, "usd"),
        purchase_date=moment,
        is_recurring=is_recurring,
        is_refunded=ping.flag("refunded"),
        is_disputed=ping.flag("disputed"),
        is_test=ping.flag("test"),
        country=ping.text("ip_country"),
        months=MONTHS.get(ping.text("recurrence") or "") if subscription_id else None,
        note=f"could not be read: {', '.join(ping.unreadable)}" if ping.unreadable else None,
        raw=ping.as_json(),
    )


def _number(ping: Fields, name: str, default: int) -> int | None:
    return ping.lenient(lambda name: ping.number(name, default), name, None)


def read_subscription(ping: Fields, kind: EventKind) -> PurchaseEvent:
    """A buyer's cancellation says when the paid period ends, not when he cancelled; other moments are their own."""
    subscription_id = ping.required("subscription_id")
    if kind not in _SUBSCRIPTION:  # it is a charge's, and names none
        ping.required("sale_id")
    word = ping.required("resource_name")
    said = PurchaseEvent(
        event=kind,
        event_id="",
        source=Gumroad.name,
        subscription_id=subscription_id,
        source_license_key=ping.text("license_key"),
        customer_id=ping.text("user_id"),
        email=ping.text("user_email"),
        source_product_id=ping.text("product_id"),
        product_name=ping.text("product_name"),
        raw=ping.as_json(),
    )
    changes, moment = _SUBSCRIPTION[kind](ping)
    return msgspec.structs.replace(said, event_id=f"{subscription_id}:{word}:{moment}", **changes)


Changes = tuple[dict[str, object], str]


def _cancellation(ping: Fields) -> Changes:
    moment = ping.required("cancelled_at")
    if ping.flag("cancelled_due_to_payment_failures"):
        return {"event": EventKind.PAYMENT_FAILED, "occurred_at": ping.moment("cancelled_at")}, moment
    return {"effective_at": ping.moment("cancelled_at")}, moment


def _updated(ping: Fields) -> Changes:
    """Prices here are in the displayed currency and no revenue: the charges have their own pings."""
    plan = {name: ping.text(f"new_plan[{name}]") or "" for name in ("quantity", "tier][name", "recurrence")}
    changes: dict[str, object] = {
        "effective_at": ping.moment("effective_as_of"),
        "quantity": ping.number(_told_quantity(ping), 1, low=1, high=MOST_SEATS),
        "variants": _present(plan["tier][name"]),
        "months": MONTHS.get(plan["recurrence"]),
        "note": ping.text("type"),
    }
    return changes, f"{ping.required('effective_as_of')}:{'/'.join(plan.values())}"


def _told_quantity(ping: Fields) -> str:
    return "new_plan[quantity]" if ping.text("new_plan[quantity]") else "old_plan[quantity]"


def _ended(ping: Fields) -> Changes:
    reason = ping.text("ended_reason")
    changes: dict[str, object] = {
        "occurred_at": ping.moment("ended_at"),
        "is_paid_off": reason == "fixed_subscription_period_ended",
        "note": reason,
    }
    return changes, ping.required("ended_at")


def _restarted(ping: Fields) -> Changes:
    return {"occurred_at": ping.moment("restarted_at")}, ping.required("restarted_at")


_SUBSCRIPTION = {
    EventKind.CANCELLATION: _cancellation,
    EventKind.SUBSCRIPTION_UPDATED: _updated,
    EventKind.SUBSCRIPTION_ENDED: _ended,
    EventKind.SUBSCRIPTION_RESTARTED: _restarted,
}


def read_test_ping(ping: Fields) -> PurchaseEvent:
    """Settings > Advanced > "Send test ping" replays the last real sale: it must not touch that sale's license."""
    sale_id = ping.required("sale_id")
    return PurchaseEvent(
        event=EventKind.IGNORED,
        event_id=f"{sale_id}:test_ping",
        source=Gumroad.name,
        product_name=ping.text("product_name"),
        is_test=True,
        note="a test ping from Gumroad's settings",
        raw=ping.as_json(),
    )


def read_unknown(ping: Fields) -> PurchaseEvent:
    return PurchaseEvent(
        event=EventKind.IGNORED,
        event_id=f"{ping.text('resource_name')}:{_digest(ping)}",
        source=Gumroad.name,
        note="an event of a kind that Keyledger does not know",
        raw=ping.as_json(),
    )


def read_shadowed(ping: Fields, kind: EventKind, hidden: list[str]) -> PurchaseEvent:
    """A sale is held for the owner: fields that decide who gets what are the buyer's own words. What is not hidden is
    kept, so that it can be completed and its refund finds it. Of other events only the note is left."""
    event_id = f"shadowed:{_digest(ping)}"
    rest = ping.without(hidden)
    said = _charge(rest, rest.text("sale_id") or event_id)
    note = f"your custom field {', '.join(hidden)} hides Gumroad's own: rename it, and check this {kind} in Gumroad"
    kept = EventKind.PENDING if kind is EventKind.SALE else EventKind.IGNORED
    return msgspec.structs.replace(said, event=kept, event_id=event_id, note=note)


def _is_sale_shaped(ping: Fields) -> bool:
    return "sale_id" in ping or "subscription_id" not in ping


def _digest(ping: Fields) -> str:
    """The same for all deliveries of one ping: only retry_count differs between them."""
    values = {name: value for name, value in msgspec.json.decode(ping.as_json()).items() if name != "retry_count"}
    return hashlib.sha256(msgspec.json.encode(values, order="deterministic")).hexdigest()[:32]


def _present(*values: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))


def _told(flag: bool) -> str:
    return "true" if flag else "false"
