"""EasyPaisa as the Easypay guide and its integrators' code have it: the hosted page's two steps, REST v4, the IPN.

What surprises, and is so:
- amounts are rupees with decimals: text in what is asked, a JSON number in what is told
- `merchantHashedReq` encrypts the request; no answer carries a signature
- the browser comes back twice: with an `auth_token`, when nothing is paid yet, and with a status that anybody can write
- `responseCode` 0000 of an inquiry says that the inquiry went well; the payment is `transactionStatus`
- 0003 is told of an order that is not known, or not yet
- the IPN is a GET with an address to fetch; it comes for paid orders only, unsigned
"""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, build_opener

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from tests.standins.http import Answer, Asked, Json, StandIn

STORE, HASH_KEY, USERNAME, PASSWORD = "70011", "KEYOFTHETESTS001", "user-of-tests", "pass-of-tests"
ACCOUNT = "1000223344"
REST = "/easypay-service/rest/v4"
STATUS_URL = "https://easypay.easypaisa.com.pk/easypay-service/rest/v1/order-status/{account}/{order}"
WORDS = {
    "0000": "SUCCESS",
    "0001": "SYSTEM ERROR",
    "0002": "REQUIRED FIELD MISSING",
    "0003": "INVALID ORDER",
    "0006": "INVALID STORE ID",
    "0010": "INVALID CREDENTIALS",
}
OPTIONAL = frozenset({"autoRedirect", "paymentMethod", "emailAddr", "mobileNum"})


@dataclass
class Payment:
    """An order as EasyPaisa knows it."""

    amount: str
    status: str = "PENDING"
    token: str = ""
    wants: str = ""  # what the buyer chose on the hosted page
    more: Json = field(default_factory=dict)  # what inquiries tell otherwise


class EasyPaisaApi(StandIn):
    """`ipn_url` is where IPNs go (none are sent without). `buyer` is how buyers answer on their phones, `pays_late`
    loses that answer on the way to the shop, `is_late` answers 0003 for that many inquiries. `answers` keeps what the
    shop said to each IPN."""

    def __init__(self, store: str = STORE, key: str = HASH_KEY, wants_account: bool = False) -> None:
        self.store, self.key, self.wants_account = store, key, wants_account
        self.payments: dict[str, Payment] = {}
        self.buyer = "PAID"
        self.pays_late = False
        self.is_late = 0
        self.ipn_url: str | None = None
        self.answers: list[tuple[int, bytes]] = []
        super().__init__()

    # ---------------------------------------------------------------------------------------------- what is asked
    def answer(self, asked: Asked) -> Answer:
        doors = {
            "/easypay/Index.jsf": self._page,
            "/easypay/choose": self._chosen,
            "/easypay/Confirm.jsf": self._confirm,
            f"{REST}/initiate-ma-transaction": self._initiate,
            f"{REST}/inquire-transaction": self._inquire,
        }
        door = doors.get(asked.path)
        if door is None or asked.method != "POST":  # the order's status too: a shop that fetches it is seen in `asked`
            return Answer(404, b"<html>Not Found</html>", {"Content-Type": "text/html"})
        if not asked.path.startswith(REST):
            return door(asked)
        refused = self._refusal(asked)
        return _coded(refused) if refused else door(asked)

    def fault(self, status: int) -> Answer:
        return Answer(status, b"<html>Service Unavailable</html>", {"Content-Type": "text/html"})

    def _refusal(self, asked: Asked) -> str | None:
        credentials = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        if asked.headers.get("Credentials") != credentials:
            return "0010"
        if not asked.json.get("orderId") or "storeId" not in asked.json:
            return "0002"
        return None if asked.json["storeId"] == self.store else "0006"

    def _initiate(self, asked: Asked) -> Answer:
        told = asked.json
        if told.get("transactionType") != "MA" or not told.get("emailAddress") or "." not in told["transactionAmount"]:
            return _coded("0002")
        if len(told.get("mobileAccountNo", "")) != 11:
            return _coded("0002")
        payment = self.payments.setdefault(told["orderId"], Payment(told["transactionAmount"]))
        payment.status = self.buyer
        if self.pays_late:
            return self.fault(504)
        code = "0000" if self.buyer == "PAID" else "0014"
        echoed = {"orderId": told["orderId"], "storeId": self.store, "transactionId": "100591"}
        return _coded(code, **echoed, transactionDateTime="20/11/2026 05:15 PM")

    def _inquire(self, asked: Asked) -> Answer:
        if self.wants_account and asked.json.get("accountNum") != ACCOUNT:
            return _coded("0002")
        order = asked.json["orderId"]
        payment = self.payments.get(order)
        if payment is None or self.is_late:
            self.is_late = max(0, self.is_late - 1)
            return _coded("0003")
        told = {
            "msisdn": "03001234567",
            "orderId": order,
            "storeId": self.store,
            "storeName": "Example shop",
            "accountNum": ACCOUNT,
            "paymentMode": "MA",
            "transactionAmount": float(payment.amount),
            "transactionStatus": payment.status,
            "transactionDateTime": "20/11/2026 05:15 PM",
        }
        if payment.status == "FAILED":
            told |= {"errorCode": "AUTHORIZATION_SENDER_ACCOUNT_NOT_ACTIVE", "errorReason": "The account is not active"}
        return _coded("0000", **(told | payment.more))

    # ---------------------------------------------------------------------------------------------- the hosted page
    def _page(self, asked: Asked) -> Answer:
        told = asked.form
        if told.get("storeId") != self.store or not self._is_encrypted_right(told):
            return _html("<p>The request is invalid.</p>")
        self.payments.setdefault(told["orderRefNum"], Payment(told["amount"]))
        hidden = "".join(
            f'<input type="hidden" name="{name}" value="{escape(told[name])}">'
            for name in ("orderRefNum", "postBackURL")
        )
        buttons = '<button name="wants" value="PAID">Pay</button><button name="wants" value="FAILED">Give up</button>'
        return _html(
            f"<h1>easypaisa</h1><p>Rs {escape(told['amount'])}</p>"
            f'<form method="post" action="{self.url}/easypay/choose">{hidden}{buttons}</form>'
        )

    def _is_encrypted_right(self, told: dict[str, str]) -> bool:
        """By decrypting it, apart from the server's own way."""
        cipher = Cipher(AES(self.key.encode()), ECB()).decryptor()
        try:
            plain = cipher.update(base64.b64decode(told["merchantHashedReq"], validate=True)) + cipher.finalize()
            said = plain[: -plain[-1]].decode()
        except (ValueError, KeyError, IndexError):
            return False
        expected = {name: value for name, value in told.items() if name != "merchantHashedReq" and value}
        needed = {"amount", "expiryDate", "orderRefNum", "postBackURL", "storeId"}
        known = needed <= expected.keys() <= needed | OPTIONAL and "." in told["amount"]
        return known and said == "&".join(f"{name}={expected[name]}" for name in sorted(expected))

    def _chosen(self, asked: Asked) -> Answer:
        payment = self.payments[asked.form["orderRefNum"]]
        payment.wants, payment.token = asked.form["wants"], secrets.token_urlsafe(24)
        return _away(asked.form["postBackURL"], auth_token=payment.token)

    def _confirm(self, asked: Asked) -> Answer:
        """A token is good for one payment."""
        token = asked.form.get("auth_token", "")
        found = [(order, one) for order, one in self.payments.items() if token and one.token == token]
        if not found:
            return _html("<p>The request is invalid.</p>")
        (order, payment) = found[0]
        payment.status, payment.token = payment.wants, ""
        if payment.status == "PAID":
            self.send_ipn(order)
        code, words = ("0000", "completed") if payment.status == "PAID" else ("0001", "failed")
        return _away(asked.form["postBackURL"], status=code, desc=words, orderRefNumber=order)

    # ---------------------------------------------------------------------------------------------- what is told
    def know(self, order: str, amount: str, status: str = "PAID", **more: Any) -> None:
        """An order that nobody had to send here, or how it stands from now on."""
        self.payments[order] = Payment(amount, status, more=more)

    def ipn_of(self, order: str) -> str:
        """The query of an IPN."""
        return "url=" + quote(STATUS_URL.format(account=ACCOUNT, order=order), safe="")

    def send_ipn(self, order: str, times: int = 1) -> None:
        for _ in range(times if self.ipn_url else 0):
            self.answers.append(_get(f"{self.ipn_url}?{self.ipn_of(order)}"))


def _coded(code: str, **more: Any) -> Answer:
    told = more | {"responseCode": code, "responseDesc": WORDS.get(code, "ERROR")}
    return Answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})


def _away(url: str, **query: str) -> Answer:
    return Answer(302, b"", {"Location": f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"})


def _html(inside: str) -> Answer:
    page = f"<!DOCTYPE html><html lang=en><title>easypaisa</title><body>{inside}</body></html>"
    return Answer(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})


def _get(url: str) -> tuple[int, bytes]:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=60) as answered:
            return answered.status, answered.read()
    except HTTPError as refused:
        with refused:
            return refused.code, refused.read()
    except (URLError, ConnectionError):
        return 0, b""
