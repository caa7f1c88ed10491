"""Every route of the application as /openapi.json and /docs tell it: one literal table.

Bodies, queries and answers are the types that the routes themselves read and give. `tests/web/test_openapi.py` holds
the table against the application's own map of routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from server.services.revenue import Stats
from server.services.sending import SendReport
from server.web.health import Health
from server.web.licenses import ActivateRequest, DeactivateRequest, ValidateRequest, VerdictAnswer
from server.web.older import (
    Generated,
    GenerateRequest,
    OlderVerdict,
    Refused,
    ValidateLicenseRequest,
    Verified,
    VerifyRequest,
)
from server.web.owner import (
    Decided,
    ExtendRequest,
    Issued,
    IssueRequest,
    LetterQuery,
    LicensePage,
    LicenseQuery,
    NoteRequest,
    OutboxAnswer,
    PurchasePage,
    PurchaseQuery,
    Queued,
    ShownLicense,
    TransferRequest,
)
from server.web.webhooks import Received

JSON, FORM, TEXT, HTML = "application/json", "application/x-www-form-urlencoded", "text/plain", "text/html"
OPEN, BEARER = "", "owner"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """`takes` is the body's type (None: there is none) in one of the `media`, `asks` the query's, `gives` the answer's.

    A string as `gives` is the media type of what is no JSON of ours. `refuses` are the statuses of errors, `also` other
    answers by status, `proof` the security scheme, `sends` an example of the body, `sees` one of the answer.
    """

    tag: str
    does: str
    takes: Any = None
    media: tuple[str, ...] = (JSON,)
    may_be_empty: bool = False
    asks: type[msgspec.Struct] | None = None
    headers: Mapping[str, str] = {}
    gives: Any = None
    status: int = 200
    refuses: tuple[int, ...] = ()
    also: Mapping[int, Any] = {}
    proof: str = OPEN
    sends: Any = None
    sees: Any = None

    @property
    def tells_limits(self) -> bool:
        """Whether its answers say how many requests are left; elsewhere only failed proofs are counted."""
        return self.proof == OPEN and 429 in self.refuses


class Anything(msgspec.Struct):
    """What the platform sends: see its own documentation."""


# ---------------------------------------------------------------------------------------------------- examples
KEY = "1XSP9F-DA8C12-7AF57V-AA3V5F-G0MQMD"
_LICENSE = {
    "id": "lic_97fd713d8966ef056896",
    "product_id": "imagewave",
    "product_name": "ImageWave Converter",
    "tier": "pro",
    "features": ["batch"],
    "purchase_date": "2026-11-20T18:31:57Z",
    "expiry_date": None,
    "status": "active",
    "max_devices": 1,
    "devices_used": 1,
}
_VALID = {
    "valid": True,
    "code": "VALID",
    "detail": "is valid",
    "license": _LICENSE,
    "device": {"hardware_id": "pc-1", "device_name": "Laptop", "bound_at": "2026-11-20T18:31:59Z"},
    "nonce": None,
    "ts": "2026-11-20T18:31:59Z",
    "activated": True,
}
_DEVICE = {"license_key": KEY, "hardware_id": "pc-1"}
_ISSUE = {"email": "bob@example.com", "customer_name": "Bob", "product_id": "imagewave", "duration_days": 30}
_PING = {
    "resource_name": "sale",
    "price": 2999,
    "sale_id": "first-sale==",
    "product_id": "32-nPAicqbLj8B_WswVlMw==",
    "email": "ann@example.com",
    "full_name": "Ann Example",
}
_RECEIVED = {"received": True, "outcome": "issued", "license_keys": [KEY]}
_PAYMENT = {
    "order": {
        "orderId": "PRCTX7K2NM261118GUEST000P01",
        "extOrderId": "H7Q2M9K4T6W8X3C5V1B0",
        "merchantPosId": "455512",
        "currencyCode": "PLN",
        "totalAmount": "11900",
        "status": "COMPLETED",
    },
    "localReceiptDateTime": "2026-11-18T10:14:47.512+01:00",
}
_NOTICE = {
    "ccustemail": "ann@example.com",
    "ccustname": "Ann Example",
    "cproditem": "406519",
    "cprodtype": "STANDARD",
    "ctransaction": "TEST_SALE",
    "ctransamount": "29.99",
    "ctransreceipt": "FIRST0001",
    "cverify": "0A1B2C3D",
}
_CHECKOUT = {
    "id": "evt_first",
    "type": "checkout.session.completed",
    "livemode": False,
    "data": {
        "object": {
            "id": "cs_test_first",
            "mode": "payment",
            "payment_status": "paid",
            "amount_total": 2999,
            "currency": "usd",
            "customer_details": {"email": "ann@example.com", "name": "Ann Example"},
            "metadata": {"product_id": "imagewave"},
        }
    },
}

# ---------------------------------------------------------------------------------------------------- the table
_APPS, _OLDER, _HOOKS, _OWNER, _OTHER = (
    "Desktop apps",
    "Older doors",
    "Webhooks",
    "The owner's API",
    "The service itself",
)
_BODY = (400, 413, 429, 503)
_PROVEN = (400, 403, 404, 413, 429, 503)
_FIND, _DECIDE = (401, 404, 429, 503), (400, 401, 404, 409, 413, 422, 429, 503)


def _decision(does: str, takes: Any = None, **more: Any) -> Operation:
    refuses = _DECIDE if takes else (401, 404, 409, 422, 429, 503)
    given: dict[str, Any] = {"tag": _OWNER, "takes": takes, "gives": Decided, "refuses": refuses, "proof": BEARER}
    return Operation(does=does, **(given | more))


_JVZOO = Operation(
    tag=_HOOKS,
    does="JVZoo's notices (JVZIPN), version 1 and 2, signed by `cverify` in the body.",
    takes=Anything,
    media=(FORM,),
    gives=Received,
    refuses=_PROVEN,
    proof="jvzoo",
    sends=_NOTICE,
    sees=_RECEIVED,
)
_STRIPE = Operation(
    tag=_HOOKS,
    does="Stripe's events, signed by the header `Stripe-Signature`.",
    takes=Anything,
    gives=Received,
    refuses=(400, 404, 413, 429, 503),
    proof="stripe",
    sends=_CHECKOUT,
    sees=_RECEIVED,
)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/api/v1/licenses/validate"): Operation(
        tag=_APPS,
        does="Ask whether a key is valid, on this computer where `hardware_id` is given: a new one takes a free seat.",
        takes=ValidateRequest,
        gives=VerdictAnswer,
        refuses=_BODY,
        sends={**_DEVICE, "device_name": "Laptop"},
        sees=_VALID,
    ),
    ("post", "/api/v1/licenses/activate"): Operation(
        tag=_APPS,
        does="As validate, always with a device.",
        takes=ActivateRequest,
        gives=VerdictAnswer,
        refuses=_BODY,
        sends={**_DEVICE, "device_name": "Laptop"},
        sees=_VALID,
    ),
    ("post", "/api/v1/licenses/deactivate"): Operation(
        tag=_APPS,
        does="Free the device's seat. May be repeated.",
        takes=DeactivateRequest,
        gives=VerdictAnswer,
        refuses=_BODY,
        sends=_DEVICE,
    ),
    ("post", "/api/validate-license"): Operation(
        tag=_OLDER,
        does="The verdict on a key and an address.",
        takes=ValidateLicenseRequest,
        gives=OlderVerdict,
        refuses=_BODY,
        sends={"license_key": KEY, "email": "ann@example.com"},
    ),
    ("post", "/api/verify"): Operation(
        tag=_OLDER,
        does="The verdict on a key; 401 where it is not valid.",
        takes=VerifyRequest,
        gives=Verified,
        refuses=_BODY,
        also={401: Refused},
        sends={"license": KEY},
    ),
    ("post", "/api/generate"): Operation(
        tag=_OLDER,
        does="Issue a license.",
        takes=GenerateRequest,
        gives=Generated,
        refuses=_DECIDE,
        proof=BEARER,
        sends={"userId": "u1", "userEmail": "bob@example.com", "tier": "pro", "duration": 30},
    ),
    ("post", "/api/v1/webhooks/gumroad"): Operation(
        tag=_HOOKS,
        does="Gumroad's pings and all eight resource events, proven by the secret in the address.",
        takes=Anything,
        media=(FORM, JSON),
        gives=Received,
        refuses=_PROVEN,
        proof="gumroad",
        sends=_PING,
        sees=_RECEIVED,
    ),
    ("post", "/api/v1/webhooks/stripe"): _STRIPE,
    ("post", "/webhooks/stripe"): msgspec.structs.replace(_STRIPE, does="An older name of the same door."),
    ("post", "/api/v1/webhooks/payu"): Operation(
        tag=_HOOKS,
        does="PayU's notifications of orders and refunds, signed by the header `OpenPayu-Signature`.",
        takes=Anything,
        gives=Received,
        refuses=_PROVEN,
        proof="payu",
        sends=_PAYMENT,
        sees=_RECEIVED,
    ),
    ("post", "/api/v1/webhooks/jvzoo"): _JVZOO,
    ("post", "/ipn"): msgspec.structs.replace(
        _JVZOO, does="Another door to the same, which answers `OK`.", gives=TEXT, sees="OK"
    ),
    ("post", "/api/v1/webhooks/jvzoo/keygen"): msgspec.structs.replace(
        _JVZOO, does="JVZoo's key-generation URL, off unless `JVZOO_KEYGEN=on`.", gives=TEXT, sees=KEY
    ),
    ("post", "/api/v1/licenses"): Operation(
        tag=_OWNER,
        does="Issue a license and mail it. With `Idempotency-Key` a repeat gives the same license.",
        takes=IssueRequest,
        headers={"Idempotency-Key": "At most 128 printable characters; a repeat with the same one issues nothing new."},
        gives=Issued,
        status=201,
        refuses=_DECIDE,
        proof=BEARER,
        sends=_ISSUE,
    ),
    ("get", "/api/v1/licenses"): Operation(
        tag=_OWNER,
        does="Find licenses, page by page: pass `next_cursor` as `cursor`.",
        asks=LicenseQuery,
        gives=LicensePage,
        refuses=(400, *_FIND),
        proof=BEARER,
    ),
    ("get", "/api/v1/licenses/{license}"): Operation(
        tag=_OWNER, does="One license with its devices.", gives=ShownLicense, refuses=_FIND, proof=BEARER
    ),
    ("post", "/api/v1/licenses/{license}/extend"): _decision(
        "Longer, by `days` or `until` a moment. Days count from its end, or from today where it has ended.",
        ExtendRequest,
        sends={"days": 30},
    ),
    ("post", "/api/v1/licenses/{license}/suspend"): _decision("Suspend it.", NoteRequest, may_be_empty=True),
    ("post", "/api/v1/licenses/{license}/reinstate"): _decision(
        "Set aside all that keeps it inactive now, a refund too.", NoteRequest, may_be_empty=True
    ),
    ("post", "/api/v1/licenses/{license}/revoke"): _decision("End it for good.", NoteRequest, may_be_empty=True),
    ("post", "/api/v1/licenses/{license}/transfer"): _decision(
        "To another customer. Devices are released, a letter goes out.",
        TransferRequest,
        sends={"email": "eve@example.com", "customer_name": "Eve"},
    ),
    ("post", "/api/v1/licenses/{license}/reissue"): _decision("For a leaked key: a new one by mail."),
    ("post", "/api/v1/licenses/{license}/reset-devices"): _decision("Release all devices.", gives=ShownLicense),
    ("post", "/api/v1/licenses/{license}/resend"): _decision("Send the key again.", gives=Queued, status=202),
    ("get", "/api/v1/purchases"): Operation(
        tag=_OWNER,
        does="The ledger, newest first: `cursor` is the `seq` to go on below.",
        asks=PurchaseQuery,
        gives=PurchasePage,
        refuses=(400, *_FIND),
        proof=BEARER,
    ),
    ("get", "/api/v1/stats"): Operation(
        tag=_OWNER, does="Purchases, revenue per currency, sources, products.", gives=Stats, refuses=_FIND, proof=BEARER
    ),
    ("get", "/api/v1/outbox"): Operation(
        tag=_OWNER,
        does="Letters and open questions to platforms.",
        asks=LetterQuery,
        gives=OutboxAnswer,
        refuses=(400, *_FIND),
        proof=BEARER,
    ),
    ("post", "/api/v1/outbox/send"): Operation(
        tag=_OWNER,
        does="Send what is due now, and tell how it went.",
        gives=SendReport,
        refuses=_FIND,
        proof=BEARER,
    ),
    ("get", "/health"): Operation(
        tag=_OTHER, does="How the service is; 503 when nothing can be written.", gives=Health, also={503: Health}
    ),
    ("get", "/openapi.json"): Operation(tag=_OTHER, does="This description.", gives=JSON, also={304: None}),
    ("get", "/docs"): Operation(tag=_OTHER, does="This description as a page.", gives=HTML, also={304: None}),
}
