"""Stripe's API: https://docs.stripe.com/api. Its objects are built in stripe_objects.py; what is written (checkouts,
refunds) is taken in stripe_desk.py.

What surprises, and is so:
- lists are newest first, 10 unless `limit` says otherwise; what a parameter is not known for is a 400
- subscriptions that are canceled are not listed unless `status` asks for them
- `expand[]` in a list starts with `data.`; without it line_items, payments and refunds are not in their objects
- test and live are two worlds: an object of the other mode is a 404, or not listed
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from operator import eq, ge, gt, le, lt
from re import fullmatch
from typing import Any

from tests.standins.http import Answer, Asked, Json, StandIn
from tests.standins.stripe_billing import invoice, invoice_line, invoice_payment, subscription
from tests.standins.stripe_desk import Desk, Refused
from tests.standins.stripe_objects import (
    VERSION,
    charge,
    dispute,
    event,
    line_item,
    listed,
    payment_intent,
    price,
    refund,
    session,
    signed,
)

__all__ = [  # one place to take the builders from
    "StripeApi",
    "charge",
    "dispute",
    "event",
    "invoice",
    "invoice_line",
    "invoice_payment",
    "line_item",
    "payment_intent",
    "price",
    "refund",
    "session",
    "signed",
    "subscription",
]

KEY, TEST_KEY = "sk_live_standin", "sk_test_standin"
COMMON = ("limit", "starting_after", "ending_before", "expand")
BOUNDS: dict[str, Callable[[int, int], bool]] = {"": eq, "gt": gt, "gte": ge, "lt": lt, "lte": le}
PREFIXES = "acct ch cs cus du dp in inpay pi plink pm prod price py pyr re si sub txn".split()
INCLUDABLE = {"checkout.session": "line_items", "invoice": "payments", "charge": "refunds"}


@dataclass(frozen=True)
class Kind:
    store: str
    noun: str  # what "No such ..." says
    filters: tuple[str, ...]  # parameters beside COMMON and created


KINDS = {
    "checkout/sessions": Kind(
        "sessions",
        "checkout.session",
        ("customer", "customer_details", "payment_intent", "payment_link", "status", "subscription"),
    ),
    "charges": Kind("charges", "charge", ("customer", "payment_intent", "transfer_group")),
    "refunds": Kind("refunds", "refund", ("charge", "payment_intent")),
    "disputes": Kind("disputes", "dispute", ("charge", "payment_intent")),
    "payment_intents": Kind("payment_intents", "payment_intent", ("customer",)),
    "invoices": Kind("invoices", "invoice", ("collection_method", "customer", "status", "subscription")),
    "invoice_payments": Kind("invoice_payments", "invoice_payment", ("invoice", "payment", "status")),
    "subscriptions": Kind("subscriptions", "subscription", ("collection_method", "customer", "status")),
    "events": Kind("events", "event", ("type", "types")),
}


class StripeApi(StandIn):
    """`desk` is where something is done: checkouts, refunds, and the buyers' own part."""

    def __init__(
        self,
        *objects: Json,
        keys: tuple[str, ...] = (KEY, TEST_KEY),
        clock: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.keys = keys
        self.desk = Desk(self, clock)
        self.sessions: dict[str, Json] = {}
        self.line_items: dict[str, list[Json]] = {}  # by the session's id
        self.charges: dict[str, Json] = {}
        self.refunds: dict[str, Json] = {}
        self.disputes: dict[str, Json] = {}
        self.payment_intents: dict[str, Json] = {}
        self.invoices: dict[str, Json] = {}
        self.invoice_payments: dict[str, Json] = {}
        self.subscriptions: dict[str, Json] = {}
        self.events: dict[str, Json] = {}
        self._serial = count(1)
        self.add(*objects)
        super().__init__()

    def add(self, *objects: Json) -> None:
        """Files each where it belongs; one with the same id replaces what was there."""
        stores = {kind.noun: kind.store for kind in KINDS.values()}
        for one in objects:
            getattr(self, stores[one["object"]])[one["id"]] = one

    def answer(self, asked: Asked) -> Answer:
        if asked.path.startswith("/c/"):
            return self.desk.page(asked)
        try:
            is_live, path = self._is_live(asked), asked.path.removeprefix("/v1/").strip("/")
            is_post = asked.method == "POST"
            told = self.desk.take(asked, path, is_live) if is_post else Answer(200, self._told(asked, path, is_live))
        except Refused as refused:
            told = refused.answer
        version = asked.headers.get("Stripe-Version", VERSION)
        more = {"Request-Id": f"req_{next(self._serial):014d}", "Stripe-Version": version}
        return Answer(told.status, told.body, told.headers | more)

    def fault(self, status: int) -> Answer:
        known = {
            403: ("The provided key does not have the required permissions for this endpoint.", None),
            409: (
                "There is currently another in-progress request using this Idempotent Key.",
                "idempotency_key_in_use",
            ),
            429: ("Request rate limit exceeded.", "rate_limit"),
        }
        kind = "api_error" if status >= 500 else "invalid_request_error"
        message, code = known.get(status, ("An unknown error occurred", None))
        error = {"message": message, "type": kind} | ({"code": code} if code else {})
        return Answer(status, {"error": error}, {"Request-Id": "req_fault000000000"})

    # ---------------------------------------------------------------------------------------------- requests
    def _told(self, asked: Asked, path: str, is_live: bool) -> Json:
        if found := fullmatch(r"checkout/sessions/(\w+)/line_items", path):
            self._get(KINDS["checkout/sessions"], found[1], is_live)
            return self._page(asked, list(self.line_items.get(found[1], [])), ())
        if asked.method == "GET" and path in KINDS:
            return self._list(asked, KINDS[path], is_live)
        above, _, id = path.rpartition("/")
        if asked.method != "GET" or above not in KINDS:
            raise Refused(f"Unrecognized request URL ({asked.method}: {asked.path}).", 404)
        one = deepcopy(self._get(KINDS[above], id, is_live))
        for way in _expansions(asked):
            self._expand(one, way.split("."), way)
        return one

    def _is_live(self, asked: Asked) -> bool:
        key = asked.bearer
        if key is None:
            raise Refused("You did not provide an API key. You need to provide your API key in the Authorization "
                          "header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').", 401)  # fmt: skip
        if key not in self.keys:
            raise Refused(f"Invalid API Key provided: {key[:8]}{'*' * 8}{key[-4:]}", 401)
        return "_live_" in key

    def _get(self, kind: Kind, id: str, is_live: bool) -> Json:
        found: Json | None = getattr(self, kind.store).get(id)
        if found is not None and self._in_mode(found, is_live):
            return found
        message = f"No such {kind.noun}: '{id}'"
        if found is not None:
            here, there = ("live", "test") if is_live else ("test", "live")
            message += (
                f"; a similar object exists in {there} mode, but a {here} mode key was used to make this request."
            )
        docs = "https://stripe.com/docs/error-codes/resource-missing"
        raise Refused(message, 404, code="resource_missing", doc_url=docs, param="id")

    def _in_mode(self, one: Json, is_live: bool) -> bool:
        owner = one if "livemode" in one else self.charges.get(one.get("charge", ""), {})
        return bool(owner.get("livemode", is_live)) == is_live

    # ---------------------------------------------------------------------------------------------- lists
    def _list(self, asked: Asked, kind: Kind, is_live: bool) -> Json:
        """Newest first; of two of one second the one that was added later."""
        rows = [one for one in getattr(self, kind.store).values() if self._in_mode(one, is_live)]
        rows.reverse()
        rows.sort(key=lambda one: -int(one["created"]))
        if asked.find("payment[payment_intent]") and not asked.find("payment[type]"):
            raise Refused("Missing required param: payment[type].", code="parameter_missing", param="payment[type]")
        return self._page(asked, rows, (*kind.filters, "created"))

    def _page(self, asked: Asked, rows: list[Json], filters: tuple[str, ...]) -> Json:
        for name, _ in asked.query:
            if (parameter := name.partition("[")[0]) not in (*COMMON, *filters):
                raise Refused(f"Received unknown parameter: {parameter}", code="parameter_unknown", param=parameter)
        limit = _limit(asked)
        chosen = [one for one in _beyond_cursor(asked, rows) if _matches(one, asked)]
        if asked.path.endswith("/subscriptions") and not asked.find("status"):
            chosen = [one for one in chosen if one["status"] != "canceled"]
        page = chosen[-limit:] if asked.find("ending_before") else chosen[:limit]
        told = listed(deepcopy(page), asked.path, len(chosen) > limit)
        for way in _expansions(asked):
            first, _, rest = way.partition(".")
            if first != "data" or not rest:
                raise _unexpandable(way, f" You may want to try expanding 'data.{way}' instead.")
            for one in told["data"]:
                self._expand(one, rest.split("."), way)
        return told

    # ---------------------------------------------------------------------------------------------- expansion
    def _expand(self, one: Json, way: list[str], whole: str) -> None:
        if whole.count(".") > 3:
            raise Refused(f"You cannot expand more than 4 levels of a property. Property: {whole}")
        name, rest = way[0], way[1:]
        if name not in one:
            one[name] = self._included(one, name, whole)
        value = one[name]
        if isinstance(value, str):
            if value.partition("_")[0] not in PREFIXES:
                raise _unexpandable(whole)
            one[name] = value = deepcopy(self._find(value)) or value
        elif value is not None and not isinstance(value, (dict, list)):
            raise _unexpandable(whole)
        for each in value if isinstance(value, list) else [value]:
            if rest and isinstance(each, dict):
                self._expand(each, rest, whole)

    def _included(self, one: Json, name: str, whole: str) -> Json:
        kind, id = one.get("object", ""), one.get("id", "")
        if INCLUDABLE.get(kind) != name:
            raise _unexpandable(whole)
        if name == "line_items":
            rows, url = self.line_items.get(id, []), f"/v1/checkout/sessions/{id}/line_items"
        elif name == "payments":
            rows = [row for row in self.invoice_payments.values() if row["invoice"] == id]
            url = f"/v1/invoices/{id}/payments"
        else:
            rows, url = [row for row in self.refunds.values() if row["charge"] == id], f"/v1/charges/{id}/refunds"
        return listed(deepcopy(rows[:10]), url, len(rows) > 10)

    def _find(self, id: str) -> Json | None:
        stores: Iterator[dict[str, Json]] = (getattr(self, kind.store) for kind in KINDS.values())
        return next((store[id] for store in stores if id in store), None)


def _unexpandable(whole: str, hint: str = "") -> Refused:
    return Refused(f"This property cannot be expanded ({whole}).{hint}")


def _expansions(asked: Asked) -> list[str]:
    return [value for name, value in asked.query if name.partition("[")[0] == "expand"]


def _limit(asked: Asked) -> int:
    given = asked.find("limit") or "10"
    if not fullmatch(r"-?\d+", given):
        raise Refused(f"Invalid integer: {given}", code="parameter_invalid_integer", param="limit")
    if int(given) > 100:
        raise Refused(
            f"This value must be less than or equal to 100 (it currently is '{given}').",
            code="parameter_invalid_integer",
            param="limit",
        )
    if int(given) < 1:
        raise Refused("This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="limit")
    return int(given)


def _beyond_cursor(asked: Asked, rows: list[Json]) -> list[Json]:
    for name in ("starting_after", "ending_before"):
        if (id := asked.find(name)) is None:
            continue
        at = next((n for n, one in enumerate(rows) if one["id"] == id), None)
        if at is None:
            raise Refused(f"No such object: '{id}'", code="resource_missing", param=name)
        rows = rows[at + 1 :] if name == "starting_after" else rows[:at]
    return rows


def _matches(one: Json, asked: Asked) -> bool:
    types = [value for name, value in asked.query if name.partition("[")[0] in ("type", "types")]
    if types and not any(fullmatch(each.replace(".", r"\.").replace("*", ".*"), one["type"]) for each in types):
        return False
    others = (*COMMON, "type", "types")
    return all(_holds(one, name, value) for name, value in asked.query if name.partition("[")[0] not in others)


def _holds(one: Json, name: str, wanted: str) -> bool:
    """`created[gte]`, `payment[type]`, `customer_details[email]` and the like."""
    parameter, _, inner = name.partition("[")
    inner = inner.rstrip("]")
    if parameter == "created":
        return BOUNDS[inner](one["created"], int(wanted))
    if parameter == "status" and one["object"] == "subscription" and wanted in ("all", "ended"):
        return wanted == "all" or one["status"] in ("canceled", "incomplete_expired")
    value: Any = _subscription_of(one) if (one["object"], parameter) == ("invoice", "subscription") else one[parameter]
    value = value.get(inner) if inner and isinstance(value, dict) else value
    return str(value) == wanted


def _subscription_of(bill: Json) -> str | None:
    details = (bill.get("parent") or {}).get("subscription_details") or {}
    return details.get("subscription") or bill.get("subscription")
