"""JazzCash as its guides and its integrators' notes have it: hosted page, wallet call, inquiry, returns and IPNs.

What surprises, and is so:
- values are signed in the order of their names, empty ones left out; a wrong hash is code 115, in JSON with status 200
- `pp_ResponseCode` 000 of an inquiry says that the inquiry went well; the payment is `pp_PaymentResponseCode`, 121
- an inquiry of the first version names neither amount nor reference; one of 2026 both, and the merchant
- an error's answer has an empty hash and code 199
- an IPN names no amount and no merchant; it comes three times in all unless it is answered as the guide says
- the firewall refuses with a page, "Request Rejected", and status 200
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from html import escape
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from tests.standins.http import Answer, Asked, StandIn

MERCHANT, PASSWORD, SALT = "MC70011", "pass-of-tests", "salt-of-tests"
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
PAGE = "/CustomerPortal/transactionmanagement/merchantform"
WALLETS = ("/ApplicationAPI/API/2.0/Purchase/DoMWalletTransaction", "/api/v2/rest/payments/m-wallet")
INQUIRY, INQUIRY_2026 = "/ApplicationAPI/API/PaymentInquiry/Inquire", "/api/v2/rest/payments/status/inquiry"
ORCHESTRATOR = "/payment-orchestrator"
TRIES = 3  # of an IPN
REJECTED = b"<html><head><title>Request Rejected</title></head><body>The requested URL was rejected.</body></html>"
WORDS = {
    "000": "Thank you for Using JazzCash, your transaction was successful.",
    "110": "Please provide a valid value.",
    "112": "Transaction has been cancelled.",
    "115": "Please provide valid value for pp_SecureHash",
    "121": "Transaction has been marked confirmed by Merchant.",
    "124": "Order is placed and waiting for financials to be received over the counter.",
    "157": "Transaction is pending.",
    "199": "System error",
}
Values = dict[str, Any]


def secure_hash(values: Values, salt: str = SALT) -> str:
    """Made apart from the server's own."""
    signed = sorted((name, str(v)) for name, v in values.items() if name[:2] == "pp" and v not in (None, ""))
    told = salt + "".join(f"&{value}" for name, value in signed if name != "pp_SecureHash")
    return hmac.new(salt.encode(), told.encode(), hashlib.sha256).hexdigest().upper()


def signed(values: Values, salt: str = SALT) -> Values:
    return values | {"pp_SecureHash": secure_hash(values, salt)}


@dataclass
class Payment:
    """An order as JazzCash knows it; `code` is the payment's, 121 once it is paid."""

    asked: dict[str, str]
    code: str = "157"
    retrieval: str = "211002644299"
    more: Values = field(default_factory=dict)  # what the next inquiry tells otherwise

    @property
    def status(self) -> str:
        known = {"121": "Completed", "157": "Pending", "124": "Pending", "122": "Reversed", "131": "Refunded"}
        return known.get(self.code, "Failed")


class JazzCashApi(StandIn):
    """`ipn_url` is where IPNs go (none are sent without), `before_return` whether one comes before the browser does.
    `wallet_code` is how buyers answer on their phones, and `pays_late` loses that answer on the way to the shop.
    `answers` keeps what the shop said to each IPN."""

    def __init__(self, merchant: str = MERCHANT, password: str = PASSWORD, salt: str = SALT) -> None:
        self.merchant, self.password, self.salt = merchant, password, salt
        self.payments: dict[str, Payment] = {}
        self.wallet_code = "000"
        self.pays_late = self.is_firewalled = self.before_return = False
        self.errors = 0  # how many inquiries more are answered by an error
        self.ipn_url: str | None = None
        self.answers: list[tuple[int, bytes]] = []
        super().__init__()

    # ---------------------------------------------------------------------------------------------- what is asked
    def answer(self, asked: Asked) -> Answer:
        if self.is_firewalled:
            return Answer(200, REJECTED, {"Content-Type": "text/html; charset=utf-8"})
        path = asked.path.removeprefix(ORCHESTRATOR).rstrip("/")
        if path == PAGE:
            return self._page(asked)
        if path == "/choose":
            return self._chosen(asked.form["ref"], asked.form["code"])
        calls = dict.fromkeys(WALLETS, self._wallet) | {INQUIRY: self._inquiry, INQUIRY_2026: self._inquiry_of_2026}
        call = calls.get(path)
        if call is None or asked.method != "POST":
            return Answer(404, b"<html>Not Found</html>", {"Content-Type": "text/html"})
        refused = self._refusal(asked.json) if asked.headers.get_content_type() == JSON else "110"
        return _error(refused) if refused else call(asked.json)

    def fault(self, status: int) -> Answer:
        return Answer(status, b"<html>Service Unavailable</html>", {"Content-Type": "text/html"})

    def _refusal(self, told: Values) -> str | None:
        if any(not isinstance(value, str) for value in told.values()):
            return "110"  # an empty value is "", and never null
        if told.get("pp_SecureHash", "").upper() != secure_hash(told, self.salt):
            return "115"
        known = (told.get("pp_MerchantID"), told.get("pp_Password")) == (self.merchant, self.password)
        return None if known else "101"

    def _wallet(self, told: Values) -> Answer:
        missing = {"pp_MobileNumber", "pp_CNIC", "pp_BillReference", "pp_TxnExpiryDateTime", "pp_BankID"} - told.keys()
        if missing or not told["pp_MobileNumber"].startswith("03") or len(told["pp_TxnRefNo"]) > 20:
            return _error("110")
        payment = self.payments.setdefault(told["pp_TxnRefNo"], Payment(told))
        payment.code = {"000": "121"}.get(self.wallet_code, self.wallet_code)
        if self.pays_late:
            return self.fault(504)
        echoed = {name: value for name, value in told.items() if name != "pp_SecureHash"}
        return Answer(200, signed(echoed | self._outcome(payment, self.wallet_code), self.salt))

    def _inquiry(self, told: Values) -> Answer:
        return self._told(told, without=("pp_Amount", "pp_TxnRefNo", "pp_MerchantID"))

    def _inquiry_of_2026(self, told: Values) -> Answer:
        return self._told(told, without=())

    def _told(self, told: Values, without: tuple[str, ...]) -> Answer:
        payment = self.payments.get(told.get("pp_TxnRefNo", ""))
        if self.errors or payment is None:
            self.errors = max(0, self.errors - 1)
            return _error("199")
        values = {
            "pp_ResponseCode": "000",
            "pp_ResponseMessage": WORDS["000"],
            "pp_PaymentResponseCode": payment.code,
            "pp_PaymentResponseMessage": "The transaction was not successful.",  # as in a sample of theirs, beside 121
            "pp_Status": payment.status,
            "pp_MerchantID": self.merchant,
            "pp_RetrievalReferenceNo": payment.retrieval,
            "pp_TxnRefNo": told["pp_TxnRefNo"],
            "pp_TxnType": "MWALLET",
            "pp_Amount": payment.asked["pp_Amount"],
            "pp_TxnDateTime": payment.asked["pp_TxnDateTime"],
            "pp_BillReference": payment.asked["pp_BillReference"],
            "pp_SettlementDate": "",
            "pp_AuthCode": "095469672235",
        }
        kept = {name: value for name, value in (values | payment.more).items() if name not in without}
        return Answer(200, signed(kept, self.salt))

    # ---------------------------------------------------------------------------------------------- the hosted page
    def _page(self, asked: Asked) -> Answer:
        told = asked.form
        code = self._refusal(told) or _objection(told)
        if code:
            return _html(f"<p>{code}: {escape(WORDS.get(code, 'Please provide a valid value.'))}</p>")
        self.payments.setdefault(told["pp_TxnRefNo"], Payment(told))
        ref, rupees = escape(told["pp_TxnRefNo"]), int(told["pp_Amount"]) / 100
        buttons = "".join(
            f'<button name="code" value="{code}">{label}</button>'
            for code, label in (("000", "Pay"), ("112", "Give up"), ("124", "Pay by voucher"))
        )
        return _html(
            f"<h1>JazzCash</h1><p>{escape(told['pp_Description'])}: Rs {rupees:.2f}</p>"
            f'<form method="post" action="{self.url}/choose"><input type="hidden" name="ref" value="{ref}">'
            f"{buttons}</form>"
        )

    def _chosen(self, ref: str, code: str) -> Answer:
        """What the buyer chose, and a page that brings him back; it needs no script."""
        self.settle(ref, {"000": "121"}.get(code, code))
        if self.ipn_url and self.before_return:
            self.send_ipn(ref)
        body, _ = self.return_of(ref, code)
        fields = "".join(
            f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in body.items()
        )
        if self.ipn_url and not self.before_return and code == "000":
            self.send_ipn(ref)
        back = escape(self.payments[ref].asked["pp_ReturnURL"])
        return _html(
            f'<form id="back" method="post" action="{back}">{fields}<button>Back to the shop</button></form>'
            '<script>document.getElementById("back").submit()</script>'
        )

    # ---------------------------------------------------------------------------------------------- what is told
    def settle(self, ref: str, code: str = "121", **more: Any) -> None:
        """The payment stands so from now on; `more` is what an inquiry tells otherwise."""
        self.payments[ref].code = code
        self.payments[ref].more |= more

    def know(self, ref: str, amount: int, code: str = "121", **more: Any) -> None:
        """An order that nobody had to send here."""
        asked = {"pp_Amount": str(amount), "pp_TxnDateTime": "20261120171500", "pp_BillReference": "ORD1"}
        self.payments[ref] = Payment(asked, code, more=more)

    def return_of(self, ref: str, code: str = "000", **more: Any) -> tuple[dict[str, str], bytes]:
        """The return that a browser brings: its fields, and its body."""
        payment = self.payments[ref]
        empty = dict.fromkeys([f"{kind}_{n}" for kind in ("ppmbf", "ppmpf") for n in range(1, 6)], "")
        values: Values = empty | {
            "pp_Version": "1.1",
            "pp_TxnType": "MWALLET",
            "pp_Language": "EN",
            "pp_MerchantID": self.merchant,
            "pp_SubMerchantId": "",
            "pp_TxnRefNo": ref,
            "pp_Amount": payment.asked["pp_Amount"],
            "pp_TxnCurrency": "PKR",
            "pp_TxnDateTime": payment.asked["pp_TxnDateTime"],
            "pp_BillReference": payment.asked["pp_BillReference"],
            "pp_BankID": "",
            "pp_SettlementExpiry": "",
            "ppmbf_2": "Ali & Sons",  # of the bank, and nobody's expectation
            **self._outcome(payment, code),
        }
        told = {name: str(value) for name, value in signed(values | more, self.salt).items()}
        return told, urlencode(told).encode()

    def ipn_of(self, ref: str, code: str = "121", **more: Any) -> bytes:
        """Names no amount and no merchant, and has nulls."""
        values = {
            "pp_Version": "2.0",
            "pp_TxnType": "MWALLET",
            "pp_BankID": "",
            "pp_ProductID": None,
            "pp_Password": self.password,
            "pp_TxnRefNo": ref,
            "pp_TxnDateTime": "20261120171500",
            "pp_SettlementExpiry": None,
            **self._outcome(self.payments.get(ref) or Payment({}), code),
        }
        return json.dumps(signed(values | more, self.salt)).encode()

    def send_ipn(self, ref: str, code: str = "121", **more: Any) -> bool:
        """To `ipn_url`, and again until it is answered as the guide says; whether it was."""
        return any(self.deliver(self.ipn_of(ref, code, **more)) for _ in range(TRIES))

    def deliver(self, body: bytes) -> bool:
        """One IPN, once: for repeats, and for an order of the test's own."""
        assert self.ipn_url
        status, answered = _post(self.ipn_url, body)
        self.answers.append((status, answered))
        told = json.loads(answered) if status == 200 and answered.startswith(b"{") else {}
        return told.get("pp_ResponseCode") == "000" and told.get("pp_SecureHash") == secure_hash(told, self.salt)

    def _outcome(self, payment: Payment, code: str) -> Values:
        return {
            "pp_ResponseCode": code,
            "pp_ResponseMessage": WORDS.get(code, "Transaction failed."),
            "pp_AuthCode": "024166247497" if code in ("000", "121") else "",
            "pp_RetreivalReferenceNo": payment.retrieval,
        }


def _objection(told: dict[str, str]) -> str | None:
    try:
        begun, ends = (_moment(told[f"pp_Txn{name}DateTime"]) for name in ("", "Expiry"))
        amount, text = int(told["pp_Amount"]), told["pp_Description"]
    except (KeyError, ValueError):
        return "110"
    is_sound = begun < ends <= begun + timedelta(days=1) and amount > 0 and told.get("pp_TxnCurrency") == "PKR"
    is_plain = told["pp_BillReference"].isalnum() and not set(text) & set("<>*=%/:'|\"{}")
    return None if is_sound and is_plain and len(told["pp_TxnRefNo"]) <= 20 and "pp_ReturnURL" in told else "110"


def _moment(text: str) -> datetime:
    found = datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=timezone(timedelta(hours=5)))
    return found.astimezone(UTC)


def _error(code: str) -> Answer:
    told = {"pp_ResponseCode": code, "pp_ResponseMessage": WORDS.get(code, "Error"), "pp_SecureHash": ""}
    return Answer(200, told)


def _html(inside: str) -> Answer:
    page = f"<!DOCTYPE html><html lang=en><title>JazzCash</title><body>{inside}</body></html>"
    return Answer(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})


def _post(url: str, body: bytes) -> tuple[int, bytes]:
    request = Request(url, body, {"Content-Type": JSON})
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=60) as answered:
            return answered.status, answered.read()
    except HTTPError as refused:
        with refused:
            return refused.code, refused.read()
    except (URLError, ConnectionError):
        return 0, b""
