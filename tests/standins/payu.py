"""PayU of Poland (GPO, REST API 2.1): https://developers.payu.com/europe/api

What surprises, and is so:
- all numbers are texts, of hundredths; a token is granted for a form alone, and for anything else it is 401
- an order is answered 302, with JSON in the body; who follows it gets the HTML of the page where the buyer pays
- `status` of an answer is that of the call; the payment's stands in the order
- an extOrderId that is taken is 400, and tells PayU's id of the order, but not its page (openpayu_php issue 28)
- an order is found by PayU's id alone; a refund is PENDING at first, and its notification has no "order"
- a refund that is asked for again with the same data is the same refund; the list may be told bare (`lists_bare`)

The codeLiterals of refused refunds, and what follows a second capture, are not documented: they are guesses.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from typing import Any

from tests.standins.http import Answer, Asked, Json, StandIn
from tests.standins.payu_notices import SECOND_KEY, Notice, posted, signed

POS, CLIENT_SECRET = "455512", "0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f"
REQUIRED = ("customerIp", "merchantPosId", "description", "currencyCode", "totalAmount", "products")
OPEN = ("NEW", "PENDING", "WAITING_FOR_CONFIRMATION")
TOLD = (
    "orderId extOrderId orderCreateDate notifyUrl customerIp merchantPosId description currencyCode totalAmount".split()
)
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>PayU (stand-in)</title>
<h1>{description}</h1><p>{amount} {currency}</p>
<form method="post" action="/pay/{order_id}"><button name="choice" value="pay">Pay</button>
<button name="choice" value="cancel">Give up</button></form></html>"""


class Refused(Exception):
    def __init__(self, status: int, code: str, desc: str, literal: str | None = None, **more: Any) -> None:
        super().__init__(desc)
        told = {"statusCode": code, "severity": "ERROR", "codeLiteral": literal, "statusDesc": desc}
        self.answer = Answer(status, more | {"status": {name: value for name, value in told.items() if value}})


class PayuApi(StandIn):
    """- `collects`: False switches auto-receive off, so that what is paid waits to be captured
    - `lifetime`: seconds that a token is good for; `forget_tokens()` makes those that were granted useless
    - `pay`, `give_up`, `settle` do what buyer, bank and PayU do; `notice` and `refund_notice` tell of it, and
      `deliver` sends what they tell
    - `delivered`: where notifications went, and how they were answered
    """

    def __init__(
        self, pos: str = POS, client_id: str = POS, client_secret: str = CLIENT_SECRET, second_key: str = SECOND_KEY
    ) -> None:
        self.pos, self.client_id, self.client_secret, self.second_key = pos, client_id, client_secret, second_key
        self.collects, self.lists_bare, self.lifetime, self.algorithm = True, False, 43199, "MD5"
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.orders: dict[str, Json] = {}
        self.refunds: dict[str, list[Json]] = {}
        self.created: list[Json] = []  # the orders as they were asked for
        self.delivered: list[tuple[str, int]] = []
        self.granted = 0
        self._tokens: set[str] = set()
        self._serial = count(1)
        super().__init__()

    # ---------------------------------------------------------------------------------------------- what is asked
    def answer(self, asked: Asked) -> Answer:
        try:
            if asked.path == "/pl/standard/user/oauth/authorize":
                return self._grant(asked)
            if asked.path.startswith("/pay/"):
                return self._page(asked)
            if asked.bearer not in self._tokens:
                return Answer(401, {"error": "invalid_token", "error_description": "Invalid access token"})
            return self._told(asked)
        except Refused as refused:
            return refused.answer

    def fault(self, status: int) -> Answer:
        if status == 401:
            return Answer(401, {"error": "invalid_token", "error_description": "Invalid access token"})
        code = {400: "ERROR_VALUE_INVALID", 403: "UNAUTHORIZED_REQUEST", 503: "SERVICE_NOT_AVAILABLE"}.get(status)
        return Refused(status, code or "ERROR_INTERNAL", "An error has occurred", code and "AN_ERROR").answer

    def forget_tokens(self) -> None:
        self._tokens.clear()

    def _grant(self, asked: Asked) -> Answer:
        if asked.method != "POST" or asked.content_type != "application/x-www-form-urlencoded":
            return Answer(401, {"error": "unauthorized", "error_description": "Full authentication is required"})
        if (asked.form.get("client_id"), asked.form.get("client_secret")) != (self.client_id, self.client_secret):
            return Answer(401, {"error": "invalid_client", "error_description": "Bad client credentials"})
        if asked.form.get("grant_type") != "client_credentials":
            return Answer(400, {"error": "unsupported_grant_type"})
        self.granted += 1
        token = f"token-{self.granted}"
        self._tokens.add(token)
        told = {"access_token": token, "token_type": "bearer", "expires_in": self.lifetime}
        return Answer(200, told | {"grant_type": "client_credentials"})

    def _told(self, asked: Asked) -> Answer:
        path = asked.path.removeprefix("/api/v2_1/orders")
        if asked.method == "POST" and path == "":
            return self._create(_json(asked))
        if found := re.fullmatch(r"/(\w+)(/status|/refunds|/transactions)?", path):
            order = self.orders.get(found[1])
            if order is None:
                raise Refused(404, "DATA_NOT_FOUND", "Could not find data for given criteria.")
            verb = self._verbs().get(f"{asked.method} {found[2] or ''}".strip())
            if verb is not None:
                return verb(order, asked)
        raise Refused(404, "DATA_NOT_FOUND", "No such resource")

    def _verbs(self) -> Mapping[str, Callable[[Json, Asked], Answer]]:
        return {
            "GET": lambda order, _: _good({"orders": [self._order(order)], "properties": []}),
            "DELETE": self._cancel,
            "PUT /status": self._capture,
            "GET /transactions": lambda order, _: Answer(200, {"transactions": [{"paymentFlow": "BLIK"}]}),
            "GET /refunds": self._list_refunds,
            "POST /refunds": self._refund,
        }

    def _create(self, wanted: Json) -> Answer:
        self._check(wanted)
        taken = next((o for o in self.orders.values() if o["extOrderId"] == wanted.get("extOrderId")), None)
        if taken is not None and wanted.get("extOrderId"):
            known = {"orderId": taken["orderId"], "extOrderId": taken["extOrderId"]}
            why = "Order with given extOrderId already exists"
            raise Refused(400, "ERROR_ORDER_NOT_UNIQUE", why, "ORDER_NOT_UNIQUE", **known)
        order_id = f"{next(self._serial):010d}GUEST000P01"
        self.created.append(wanted)
        self.orders[order_id] = wanted | {
            "orderId": order_id,
            "orderCreateDate": self._time(),
            "status": "NEW",
            "extOrderId": wanted.get("extOrderId"),
        }
        page = f"{self.url}/pay/?orderId={order_id}&token=eyJhbGciOiJIUzI1NiJ9"
        told = {"redirectUri": page, "orderId": order_id, "extOrderId": wanted.get("extOrderId")}
        return Answer(302, {"status": {"statusCode": "SUCCESS"}} | told, {"Location": page})

    def _check(self, wanted: Json) -> None:
        for name in REQUIRED:
            if not wanted.get(name):
                raise Refused(400, "ERROR_VALUE_MISSING", f"Missing required field: {name}", "MISSING_REQUIRED_VALUE")
        if wanted["merchantPosId"] != self.pos:
            raise Refused(403, "UNAUTHORIZED_REQUEST", "No permission for this POS")
        numbers = {"totalAmount": wanted["totalAmount"], "validityTime": wanted.get("validityTime", "1")}
        for one in wanted["products"]:
            numbers |= {"unitPrice": one.get("unitPrice"), "quantity": one.get("quantity")}
        wrong = [name for name, value in numbers.items() if not (isinstance(value, str) and value.isdigit())]
        if wrong or wanted["customerIp"] == "0.0.0.0" or not re.fullmatch("[A-Z]{3}", wanted["currencyCode"]):
            raise Refused(400, "ERROR_VALUE_INVALID", f"Invalid value of {wrong or 'a field'}", "INVALID_VALUE")

    def _cancel(self, order: Json, _: Asked) -> Answer:
        if order["status"] not in OPEN:
            raise Refused(400, "ERROR_VALUE_INVALID", "Order cannot be canceled", "INVALID_ORDER_STATUS")
        order["status"] = "CANCELED"
        return _good({"orderId": order["orderId"], "extOrderId": order["extOrderId"]})

    def _capture(self, order: Json, asked: Asked) -> Answer:
        wanted = _json(asked)
        if wanted.get("orderId") != order["orderId"] or wanted.get("orderStatus") != "COMPLETED":
            raise Refused(400, "ERROR_VALUE_INVALID", "Invalid order status", "INVALID_ORDER_STATUS")
        if order["status"] != "WAITING_FOR_CONFIRMATION":
            raise Refused(400, "ERROR_VALUE_INVALID", "Order waits for no confirmation", "INVALID_ORDER_STATUS")
        order["status"] = "COMPLETED"
        return Answer(200, {"status": {"statusCode": "SUCCESS", "statusDesc": "Status was updated"}})

    def _list_refunds(self, order: Json, _: Asked) -> Answer:
        found = self.refunds.get(order["orderId"], [])
        return Answer(200, found if self.lists_bare else {"refunds": found})

    def _refund(self, order: Json, asked: Asked) -> Answer:
        wanted = _json(asked).get("refund") or {}
        known = self.refunds.setdefault(order["orderId"], [])
        amount = wanted.get("amount", order["totalAmount"])
        if not wanted.get("description") or not (isinstance(amount, str) and amount.isdigit()):
            raise Refused(400, "ERROR_VALUE_INVALID", "Invalid refund", "INVALID_VALUE")
        same = next((r for r in known if r.get("extRefundId") == wanted.get("extRefundId")), None)
        if wanted.get("extRefundId") and same is not None and same["amount"] == amount:
            return self._refunded(order, same)
        rest = int(order["totalAmount"]) - sum(int(r["amount"]) for r in known if r["status"] != "CANCELED")
        if order["status"] != "COMPLETED" or int(amount) > rest or (wanted.get("extRefundId") and same is not None):
            raise Refused(400, "OPENPAYU_BUSINESS_ERROR", "Refund is not possible", "REFUND_NOT_POSSIBLE")
        made = {"refundId": f"{5000000000 + next(self._serial)}", "extRefundId": wanted.get("extRefundId")}
        made |= {"amount": amount, "currencyCode": order["currencyCode"], "description": wanted["description"]}
        made |= {"creationDateTime": self._time(), "status": "PENDING", "statusDatetime": self._time()}
        known.append({name: value for name, value in made.items() if value is not None})
        return self._refunded(order, known[-1])

    def _refunded(self, order: Json, refund: Json) -> Answer:
        status = {"statusCode": "SUCCESS", "statusDesc": "Refund queued for processing"}
        return Answer(200, {"orderId": order["orderId"], "refund": refund, "status": status})

    # ---------------------------------------------------------------------------------------------- what happens
    def pay(self, order_id: str) -> str:
        """The new status."""
        status = "COMPLETED" if self.collects else "WAITING_FOR_CONFIRMATION"
        self.orders[order_id]["status"] = status
        return status

    def give_up(self, order_id: str) -> str:
        self.orders[order_id]["status"] = "CANCELED"
        return "CANCELED"

    def settle(self, order_id: str, place: int = -1, status: str = "FINALIZED") -> Json:
        """What becomes of a refund that was PENDING."""
        refund = self.refunds[order_id][place]
        refund |= {"status": status, "statusDatetime": self._time()}
        return refund

    # ---------------------------------------------------------------------------------------------- what is told
    def notice(self, order_id: str, status: str | None = None, **more: Any) -> Notice:
        """How an order stands, or another status, such as that of an abandoned try; `more` replaces fields of it."""
        told = self._order(self.orders[order_id]) | ({"status": status} if status else {}) | more
        body: Json = {"order": told}
        if told["status"] == "COMPLETED":
            body["localReceiptDateTime"] = self._time()
        return self._signed(body | {"properties": [{"name": "PAYMENT_ID", "value": "151471228"}]})

    def refund_notice(self, order_id: str, place: int = -1, **more: Any) -> Notice:
        refund, order = self.refunds[order_id][place], self.orders[order_id]
        told = {name: refund[name] for name in ("refundId", "amount", "currencyCode", "status")}
        told |= {"statusDateTime": refund["statusDatetime"], "reason": "refund", "reasonDescription": "na życzenie"}
        told |= {"refundDate": refund["creationDateTime"]}
        return self._signed({"orderId": order_id, "extOrderId": order["extOrderId"], "refund": told | more})

    def deliver(self, notice: Notice, order_id: str, times: int = 1) -> int:
        """To the order's own notifyUrl; the last answer's status."""
        url = self.orders[order_id]["notifyUrl"]
        for _ in range(times):
            self.delivered.append((url, posted(url, notice)))
        return self.delivered[-1][1]

    def _signed(self, told: Json) -> Notice:
        return signed(told, self.second_key, self.algorithm)

    def _order(self, order: Json) -> Json:
        told = {name: order[name] for name in TOLD if order.get(name) is not None}
        rest = {name: order[name] for name in ("buyer", "products") if name in order}
        return told | rest | {"payMethod": {"type": "PBL"}, "status": order["status"]}

    def _time(self) -> str:
        return self.clock().astimezone(timezone(timedelta(hours=1))).isoformat(timespec="milliseconds")

    # ---------------------------------------------------------------------------------------------- the buyer's page
    def _page(self, asked: Asked) -> Answer:
        """Where a browser pays or gives up: PayU's servers tell it first, then the buyer is sent back."""
        order_id = asked.find("orderId") or asked.path.removeprefix("/pay/")
        order = self.orders.get(order_id)
        if order is None:
            return Answer(404, b"<!doctype html><title>No such order</title>", {"Content-Type": "text/html"})
        if asked.method == "GET":
            amount = f"{int(order['totalAmount']) / 100:.2f}"
            fields = {"description": order["description"], "amount": amount, "currency": order["currencyCode"]}
            page = PAGE.format(order_id=order_id, **{name: html.escape(value) for name, value in fields.items()})
            return Answer(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})
        is_paid = asked.form.get("choice") == "pay"
        if order["status"] in OPEN:
            (self.pay if is_paid else self.give_up)(order_id)
            self.deliver(self.notice(order_id), order_id)
        back = order["continueUrl"]
        back += "" if is_paid else ("&" if "?" in back else "?") + "error=501"
        return Answer(302, b"", {"Location": back})


def _json(asked: Asked) -> Json:
    if asked.content_type != "application/json":
        raise Refused(415, "ERROR_SYNTAX", "Content type is not JSON")
    try:
        found = json.loads(asked.body)
    except ValueError:
        raise Refused(400, "ERROR_SYNTAX", "Wrong format of the request") from None
    return dict(found)


def _good(told: Json) -> Answer:
    return Answer(200, told | {"status": {"statusCode": "SUCCESS", "statusDesc": "Request processing successful"}})
