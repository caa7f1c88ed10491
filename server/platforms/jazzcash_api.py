"""What is asked of JazzCash: the wallet payment, and how a payment stands. https://sandbox.jazzcash.com.pk

There are three generations of hosts, each with paths of its own. What JazzCash signs is signed as what it is sent.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from server.errors import BadRequest, PlatformUnreachable
from server.platforms.document import Document
from server.platforms.fields import Fields
from server.platforms.web_client import NoJson, send

HASH = "pp_SecureHash"
ASKING = (3.0, 8.0)  # seconds to connect and to answer
PAYING = (10.0, 120.0)  # the buyer looks for his phone, and types his PIN
REFUSALS = frozenset({"101", "111", "115"})  # merchant, password or salt; 110 is a field
Pay = Mapping[str, str]


class Doors(msgspec.Struct, frozen=True):
    """A generation's paths; `page` is the hosted one, `more` what its wallet call wants beside the fields of 2.0."""

    page: str | None
    wallet: str
    inquiry: str
    more: Pay = {}


ORCHESTRATOR = "/payment-orchestrator"
INQUIRY = "/ApplicationAPI/API/PaymentInquiry/Inquire"
CLASSIC = Doors(
    "/CustomerPortal/transactionmanagement/merchantform/",
    "/ApplicationAPI/API/2.0/Purchase/DoMWalletTransaction",
    INQUIRY,
)
OF_2026 = Doors(
    "/CustomerPortal/transactionmanagement/merchantform",
    "/api/v2/rest/payments/m-wallet",
    "/api/v2/rest/payments/status/inquiry",
)
GATEWAY = Doors(None, "/api/payment/DoTransaction", INQUIRY, {"pp_Version": "1.1", "pp_TxnType": "MWALLET"})


def doors_of(url: str) -> tuple[str, Doors]:
    """The base of a setting's address, and what is behind it."""
    parts = urlsplit(url)
    if parts.hostname == "pgw.jazzcash.com.pk":
        return url, GATEWAY
    if parts.hostname == "onlinepayments.jazzcash.com.pk":
        return (url if parts.path else url + ORCHESTRATOR), OF_2026
    return url, OF_2026 if parts.path == ORCHESTRATOR else CLASSIC


def secure_hash(fields: Mapping[str, str], salt: str) -> str:
    """Over the values of all fields that begin with pp, ppmpf_ and ppmbf_ and unknown ones too, but empty ones, in the
    order of their names' bytes; the salt is key and first value.

    JazzCash's own sample of the wallet call comes out only when empty values are left out, and its hashing page has all
    pp fields, whatever they are called.
    """
    names = sorted(name for name in fields if name.startswith("pp") and name != HASH and fields[name])
    message = "&".join([salt, *(fields[name] for name in names)])
    return hmac.new(salt.encode(), message.encode(errors="replace"), hashlib.sha256).hexdigest().upper()


def is_signed(fields: Mapping[str, str], salt: str) -> bool:
    """False for a missing hash as well: JazzCash calls it optional, and then anybody could say anything."""
    given = fields.get(HASH, "").encode(errors="replace").upper()
    return hmac.compare_digest(given, secure_hash(fields, salt).encode())


class JazzCashApi:
    def __init__(self, url: str, merchant: str, password: str, salt: str) -> None:
        self._merchant, self._password, self.salt = merchant, password, salt
        self._base, self._doors = doors_of(url)

    @property
    def page(self) -> str | None:
        """Where the buyer's browser sends the hosted form; None where none is known."""
        return self._base + self._doors.page if self._doors.page else None

    def signed(self, fields: Mapping[str, str]) -> dict[str, str]:
        """What all requests have, and the hash. An empty value is sent all the same: it must not be missing."""
        told = {"pp_MerchantID": self._merchant, "pp_Password": self._password, **fields}
        return told | {HASH: secure_hash(told, self.salt)}

    def pay(self, fields: Mapping[str, str]) -> Fields:
        """Ask the buyer on his phone. The answer is a hint; that none comes says nothing. Never sent twice."""
        return self._post(self._doors.wallet, {**self._doors.more, **fields}, PAYING)

    def inquire(self, order_id: str) -> Fields:
        """How the payment stands: signed, or without a hash and then an error's. Raises PlatformUnreachable."""
        return self._post(self._doors.inquiry, {"pp_TxnRefNo": order_id}, ASKING)

    def _post(self, path: str, fields: Mapping[str, str], timeout: tuple[float, float]) -> Fields:
        body = msgspec.json.encode(self.signed(fields))
        try:
            status, told = send("POST", self._base + path, body, {"Content-Type": "application/json"}, timeout)
        except NoJson as error:  # F5's "Request Rejected" is a page, with status 200
            why = "its firewall turns away whole countries, and perhaps this server's"
            raise PlatformUnreachable(f"JazzCash: {error.detail}: {why}") from None
        if status != 200:
            raise PlatformUnreachable(f"JazzCash answers {status}", is_refused=status in (401, 403))
        return self._believed(told)

    def _believed(self, told: Document) -> Fields:
        answer = read_answer(told)
        code = answer.text("pp_ResponseCode") or ""
        if code in REFUSALS:
            detail = f"JazzCash refuses JAZZCASH_MERCHANT_ID, JAZZCASH_PASSWORD or JAZZCASH_INTEGRITY_SALT ({code[:3]})"
            raise PlatformUnreachable(detail, is_refused=True)
        if answer.text(HASH) and not is_signed(answer.values, self.salt):
            raise PlatformUnreachable("JazzCash's answer is not signed with JAZZCASH_INTEGRITY_SALT")
        return answer


def read_answer(told: Document) -> Fields:
    try:
        return Fields.from_json(bytes(told.as_json()))
    except BadRequest as error:
        raise PlatformUnreachable(f"JazzCash answers what cannot be read ({error.detail})") from None
