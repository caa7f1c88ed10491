"""What can be done at Stripe: open a checkout, pay or leave it, give money back; and what is told of it by webhook.
https://docs.stripe.com/api/checkout/sessions/create, /api/refunds/create and /api/idempotent_requests

What surprises, and is so:
- the same idempotency key with other parameters is a 400 of its own type; what was refused for its parameters may be
  sent again under the same key
- a checkout has no payment before somebody paid; the payment's charge has none of the checkout's metadata
- `charge.refunded` comes as soon as a refund is made, also while that is pending; a refund that fails takes the sum
  from the charge again
- webhooks come when they come: after a refund's answer, and before the buyer is back
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from html import escape
from itertools import count
from re import findall, fullmatch
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from tests.standins.http import Answer, Asked, Json
from tests.standins.stripe_objects import charge, event, line_item, nulls, payment_intent, refund, session, signed

if TYPE_CHECKING:
    from tests.standins.stripe_api import StripeApi

HALF_AN_HOUR, A_DAY = 1800, 86_400
LEAST = {"usd": 50, "eur": 50, "gbp": 30, "pln": 200, "jpy": 50}
THREE_DECIMALS = ("bhd", "jod", "kwd", "omr", "tnd")
METHODS = {"card": None, "link": None, "blik": ("pln",), "p24": ("eur", "pln"), "sepa_debit": ("eur",)}
OF_SESSIONS = frozenset(
    "mode line_items customer_email client_reference_id metadata payment_intent_data success_url cancel_url expires_at "
    "payment_method_types".split()
)
OF_REFUNDS = frozenset("payment_intent charge amount metadata reason".split())
PAGE = """<!doctype html><meta name="viewport" content="width=device-width"><title>Checkout (a stand-in)</title>
<h1>{total} {currency}</h1><p>{items}</p><p>{email}</p>
<form method="post" action="/c/{id}/pay"><button>Pay</button></form>
<form method="post" action="/c/{id}/cancel"><button>Give up</button></form>"""


class Refused(Exception):
    def __init__(
        self, message: str, status: int = 400, code: str = "", type: str = "invalid_request_error", **more: str
    ) -> None:
        super().__init__(message)
        named = {"code": code} if code else {}
        self.answer = Answer(status, {"error": {"message": message, "type": type} | named | more})


@dataclass(frozen=True)
class Sent:
    """A request to do something, its fields nested as they were meant."""

    path: str
    fields: Json
    idempotency_key: str | None


class Desk:
    """`clock` is Stripe's. With a `webhook` (address and secret) what happens is told there, unless `is_held`: then it
    waits for `deliver()`. `told` are all events, `refund_status` is that of new refunds."""

    def __init__(self, api: StripeApi, clock: Callable[[], int]) -> None:
        self._api, self.clock = api, clock
        self.webhook: tuple[str, str] | None = None
        self.is_held = False
        self.refund_status = "succeeded"
        self.sent: list[Sent] = []
        self.told: list[Json] = []
        self._waiting: list[Json] = []
        self._known: dict[tuple[bool, str], tuple[str, Json, Answer]] = {}
        self._meant: dict[str, Json] = {}  # metadata of a checkout's payment
        self._serial = count(1)
        self._lock, self._delivering = threading.RLock(), threading.Lock()

    # ---------------------------------------------------------------------------------------------- by its API
    def take(self, asked: Asked, path: str, is_live: bool) -> Answer:
        does = {"checkout/sessions": self._open, "refunds": self._give_back}.get(path)
        if does is None:
            raise Refused(f"Unrecognized request URL (POST: {asked.path}).", 404)
        fields, key = _nested(asked.form), asked.headers.get("Idempotency-Key")
        with self._lock:
            self.sent.append(Sent(path, fields, key))
            known = self._known.get((is_live, key or ""))
            if known is None:
                answer = Answer(200, deepcopy(does(fields, is_live)))
                if key:
                    self._known[is_live, key] = (path, fields, answer)
                known = (path, fields, answer)
            elif known[:2] == (path, fields):
                replayed = known[2].headers | {"Idempotent-Replayed": "true"}
                known = (path, fields, Answer(known[2].status, known[2].body, replayed))
            else:
                raise Refused(
                    "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                    f"Try using a key other than '{key}' if you meant to execute a different request.",
                    type="idempotency_error",
                )
        threading.Thread(target=self._deliver_unless_held, daemon=True).start()
        return known[2]

    def _open(self, fields: Json, is_live: bool) -> Json:
        _only(fields, OF_SESSIONS)
        if fields.get("mode") != "payment":
            raise Refused("Invalid mode: must be one of payment, setup, or subscription", param="mode")
        lines = [self._line(place, line) for place, line in enumerate(fields.get("line_items", []))]
        if not lines:
            raise Refused("Missing required param: line_items.", code="parameter_missing", param="line_items")
        currency = lines[0]["currency"]
        if any(line["currency"] != currency for line in lines):
            raise Refused("All line items must have the same currency.")
        total = sum(line["amount_total"] for line in lines)
        self._check(fields, currency, total)
        opened = self._session(fields, is_live, currency, total)
        self._api.add(opened)
        self._api.line_items[opened["id"]] = lines
        self._meant[opened["id"]] = fields.get("payment_intent_data", {}).get("metadata", {})
        return opened

    def _line(self, place: int, line: Json) -> Json:
        priced, where = line.get("price_data", {}), f"line_items[{place}]"
        _only(line, frozenset({"price_data", "quantity"}), where)
        _only(priced, frozenset({"currency", "unit_amount", "product_data"}), f"{where}[price_data]")
        currency, each = priced.get("currency", ""), _whole(priced.get("unit_amount", ""), f"{where}[unit_amount]")
        if not fullmatch("[a-z]{3}", currency):
            raise Refused(f"Invalid currency: {currency}.", param=f"{where}[price_data][currency]")
        if currency in THREE_DECIMALS and each % 10:
            raise Refused(f"Invalid amount: {each}. Amounts in {currency} must end in 0.", param=where)
        name, quantity = priced.get("product_data", {}).get("name"), _whole(line.get("quantity", "1"), where)
        if not name:
            raise Refused("Missing required param: name.", code="parameter_missing", param=f"{where}[product_data]")
        n = next(self._serial)
        more = {"currency": currency, "description": name}
        return line_item(f"li_s{n}", f"prod_s{n}", quantity, each * quantity, price_id=f"price_s{n}", **more)

    def _check(self, fields: Json, currency: str, total: int) -> None:
        if total < LEAST.get(currency, 0):
            least = LEAST[currency]
            raise Refused(f"The Checkout Session's total amount due must add up to at least {least} {currency}.",
                          code="amount_too_small")  # fmt: skip
        if not fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", fields.get("customer_email", "")):
            raise Refused(f"Invalid email address: {fields.get('customer_email')}", code="email_invalid")
        for name in ("success_url", "cancel_url"):
            if not fullmatch(r"https?://\S+", fields.get(name, "")):
                raise Refused("Not a valid URL", code="url_invalid", param=name)
        lasts = _whole(fields.get("expires_at", ""), "expires_at") - self.clock()
        if not HALF_AN_HOUR <= lasts <= A_DAY:
            word = "at least 30 minutes" if lasts < HALF_AN_HOUR else "less than 24 hours"
            raise Refused(f"The `expires_at` timestamp must be {word} from Checkout Session creation.",
                          param="expires_at")  # fmt: skip
        for name in fields.get("payment_method_types", []):
            if name not in METHODS:
                raise Refused(f"Invalid payment_method_types: {name}", param="payment_method_types")
            if currency not in (METHODS[name] or (currency,)):
                raise Refused(f"The payment method `{name}` cannot be used with {currency}.")

    def _session(self, fields: Json, is_live: bool, currency: str, total: int) -> Json:
        id, now = f"cs_{'live' if is_live else 'test'}_s{next(self._serial)}", self.clock()
        told = session(id, amount=total, created=now, payment_status="unpaid", payment_intent=None, livemode=is_live)
        details = nulls("address business_name individual_name name phone tax_ids") | {"tax_exempt": "none"}
        return told | {
            "cancel_url": fields["cancel_url"],
            "client_reference_id": fields.get("client_reference_id"),
            "currency": currency,
            "customer_details": details | {"email": fields["customer_email"]},
            "customer_email": fields["customer_email"],
            "expires_at": int(fields["expires_at"]),
            "metadata": fields.get("metadata", {}),
            "payment_link": None,
            "payment_method_types": fields.get("payment_method_types", ["card", "link"]),
            "status": "open",
            "success_url": fields["success_url"],
            "url": f"{self._api.url}/c/{id}",
        }

    def _give_back(self, fields: Json, is_live: bool) -> Json:
        _only(fields, OF_REFUNDS)
        paid = self._charge_of(fields, is_live)
        if paid["refunded"]:
            raise Refused(f"Charge {paid['id']} has already been refunded.", code="charge_already_refunded")
        left = paid["amount_captured"] - paid["amount_refunded"]
        amount = _whole(fields.get("amount", str(left)), "amount")
        if not 0 < amount <= left:
            raise Refused(f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})",
                          param="amount")  # fmt: skip
        id, status = f"re_s{next(self._serial)}", self.refund_status
        more = {"currency": paid["currency"], "metadata": fields.get("metadata", {}), "created": self.clock()}
        made = refund(id, paid["id"], paid["payment_intent"], amount, status=status, **more)
        self._api.add(made)
        self._tell("refund.created", made, is_live)
        if status == "failed":
            made["failure_reason"] = "expired_or_canceled_card"
            self._tell("refund.failed", made, is_live)
        else:
            self._refunded(paid, paid["amount_refunded"] + amount)
        return made

    def _charge_of(self, fields: Json, is_live: bool) -> Json:
        payment = self._api.payment_intents.get(fields.get("payment_intent", ""))
        if payment is None or payment["livemode"] != is_live:
            raise Refused(f"No such payment_intent: '{fields.get('payment_intent')}'", 404, code="resource_missing")
        if payment["status"] != "succeeded":
            raise Refused(f"This PaymentIntent ({payment['id']}) does not have a successful charge to refund.")
        return self._api.charges[payment["latest_charge"]]

    def _refunded(self, paid: Json, back: int) -> None:
        before = {"amount_refunded": paid["amount_refunded"], "refunded": paid["refunded"]}
        paid |= {"amount_refunded": back, "refunded": back >= paid["amount_captured"]}
        if back > before["amount_refunded"]:
            self._tell("charge.refunded", paid, paid["livemode"], before)

    # ---------------------------------------------------------------------------------------------- by people
    def page(self, asked: Asked) -> Answer:
        """Where the buyer pays: https://checkout.stripe.com at the real one."""
        found = fullmatch(r"/c/(\w+)(?:/(pay|cancel))?", asked.path)
        told = self._api.sessions.get(found[1]) if found else None
        if found is None or told is None:
            return Answer(404, b"Not found")
        if asked.method == "POST" and found[2] == "cancel":
            return _go(told["cancel_url"])
        if asked.method == "POST" and found[2] == "pay":
            self.pay(told["id"])
            self._deliver_unless_held()
        if told["status"] == "complete":
            return _go(told["success_url"].replace("{CHECKOUT_SESSION_ID}", told["id"]))
        if told["status"] == "expired":
            return Answer(410, b"This checkout has expired")
        items = ", ".join(f"{line['quantity']} x {line['description']}" for line in self._api.line_items[told["id"]])
        shown = {"total": told["amount_total"], "currency": told["currency"], "items": items, "id": told["id"]}
        words = {name: escape(str(value)) for name, value in (shown | {"email": told["customer_email"]}).items()}
        return Answer(200, PAGE.format(**words).encode(), {"Content-Type": "text/html; charset=utf-8"})

    def pay(self, id: str, later: bool = False) -> Json:
        """The buyer pays; `later`: by a method whose money takes days, until `settle`."""
        with self._lock:
            told, n = self._api.sessions[id], next(self._serial)
            if told["status"] != "open":
                return told
            common: Json = {"created": self.clock(), "livemode": told["livemode"], "currency": told["currency"]}
            amount, status = told["amount_total"], "processing" if later else "succeeded"
            intent = payment_intent(f"pi_s{n}", amount, status=status, latest_charge=f"ch_s{n}", **common)
            paid = charge(f"ch_s{n}", intent["id"], amount, email=told["customer_email"], **common)
            paid |= {"paid": not later, "status": "pending" if later else "succeeded"}
            self._api.add(intent | {"metadata": self._meant[id]}, paid)
            told |= {"status": "complete", "payment_intent": intent["id"], "url": None}
            told |= {"payment_status": "unpaid" if later else "paid"}
            told["customer_details"] |= {"name": "Ann Buyer"}
            self._tell("checkout.session.completed", told, told["livemode"])
        return told

    def settle(self, id: str, succeeds: bool = True) -> None:
        """What was paid `later` arrives, or never will."""
        with self._lock:
            told = self._api.sessions[id]
            intent = self._api.payment_intents[told["payment_intent"]]
            intent |= {"status": "succeeded" if succeeds else "requires_payment_method"}
            paid = {"paid": succeeds, "status": "succeeded" if succeeds else "failed"}
            self._api.charges[intent["latest_charge"]] |= paid
            told |= {"payment_status": "paid" if succeeds else "unpaid"}
            word = "succeeded" if succeeds else "failed"
            self._tell(f"checkout.session.async_payment_{word}", told, told["livemode"])
        self._deliver_unless_held()

    def expire(self, id: str) -> None:
        with self._lock:
            told = self._api.sessions[id]
            told |= {"status": "expired", "url": None}
            self._tell("checkout.session.expired", told, told["livemode"])
        self._deliver_unless_held()

    def give_back(self, payment: str, amount: int) -> Json:
        """The seller refunds in the dashboard."""
        with self._lock:
            made = self._give_back({"payment_intent": payment, "amount": str(amount)}, True)
        self._deliver_unless_held()
        return made

    def fail_refund(self, id: str) -> None:
        """The bank sends it back."""
        with self._lock:
            made = self._api.refunds[id]
            paid = self._api.charges[made["charge"]]
            made |= {"status": "failed", "failure_reason": "lost_or_stolen_card"}
            self._refunded(paid, paid["amount_refunded"] - made["amount"])
            self._tell("refund.failed", made, paid["livemode"])
        self._deliver_unless_held()

    def forget_keys(self) -> None:
        """As Stripe does a day later."""
        with self._lock:
            self._known.clear()

    # ---------------------------------------------------------------------------------------------- what is told
    def _tell(self, type: str, about: Json, is_live: bool, previous: Json | None = None) -> None:
        id = f"evt_s{next(self._serial)}"
        told = event(type, deepcopy(about), previous, created=self.clock(), livemode=is_live, id=id)
        self._api.add(told)
        self.told.append(told)
        self._waiting.append(told)

    def _deliver_unless_held(self) -> None:
        if not self.is_held:
            self.deliver()

    def deliver(self) -> None:
        """Send what waits; what is not answered 2xx goes on waiting."""
        if self.webhook is None:
            return
        with self._delivering:
            with self._lock:
                due, self._waiting = self._waiting, []
            failed = [told for told in due if not self._post(told, *self.webhook)]
            with self._lock:
                self._waiting = failed + self._waiting

    def _post(self, told: Json, url: str, secret: str) -> bool:
        body, headers = signed(told, secret)
        try:
            with build_opener(ProxyHandler({})).open(Request(url, body, headers), timeout=10):
                return True
        except HTTPError as refused:
            refused.close()
        except OSError:
            pass
        return False


def _go(url: str) -> Answer:
    return Answer(303, b"", {"Location": url})


def _nested(form: dict[str, str]) -> Json:
    """`line_items[0][quantity]=1` as {"line_items": [{"quantity": "1"}]}."""
    found: Json = {}
    for name, value in form.items():
        first, *rest = findall(r"[^\[\]]+", name)
        inner = found
        for step, following in zip([first, *rest], rest, strict=False):
            inner = inner.setdefault(step, {})
            assert isinstance(inner, dict), following
        inner[[first, *rest][-1]] = value
    nested: Json = _lists(found)
    return nested


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _lists(one) for name, one in value.items()}
    return list(inner.values()) if inner and all(name.isdigit() for name in inner) else inner


def _only(fields: Json, known: frozenset[str], where: str = "") -> None:
    for name in fields.keys() - known:
        param = f"{where}[{name}]" if where else name
        raise Refused(f"Received unknown parameter: {param}", code="parameter_unknown", param=param)


def _whole(text: str, param: str) -> int:
    if not fullmatch(r"-?\d+", text):
        raise Refused(f"Invalid integer: {text}", code="parameter_invalid_integer", param=param)
    return int(text)
