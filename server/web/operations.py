"""Every route of the application as /openapi.json and /docs tell it: one literal table.

Bodies, queries and answers are the types that the routes themselves read and give. `tests/web/test_openapi.py` holds
the table against the application's own map of routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from server.services.reconcile_steps import Report
from server.services.revenue import Stats
from server.services.sending import SendReport
from server.web.checkout import Initiated, InitiateRequest, KeptOrder, OrderAnswer, Refunded, RefundRequest
from server.web.examples import KEY
from server.web.health import Health
from server.web.licenses import (
    ActivateRequest,
    DeactivateRequest,
    FileAnswer,
    PublicKeys,
    ValidateRequest,
    VerdictAnswer,
)
from server.web.me import (
    Accepted,
    Me,
    MyEnrollment,
    MyEnrollments,
    MyLicense,
    MyLicenses,
    MyOrder,
    MyOrders,
    ReleaseRequest,
    SignedOut,
    SignInRequest,
)
from server.web.older import (
    Generated,
    GenerateRequest,
    OlderVerdict,
    Refused,
    ValidateLicenseRequest,
    Verified,
    VerifyRequest,
)
from server.web.order_page import OrderPageQuery
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
    ReconcileRequest,
    ShownLicense,
    TransferRequest,
)
from server.web.packages import Bundle, Package, PackageList, PackageQuery
from server.web.portal import EmailForm, SignInQuery
from server.web.portal_license import ChangeForm, DeviceCodeForm, LicensePageQuery, ReleaseForm
from server.web.shop import OrderForm, PackagePageQuery, ShopQuery
from server.web.webhooks import Received

JSON, FORM, TEXT, HTML = "application/json", "application/x-www-form-urlencoded", "text/plain", "text/html"
MULTIPART = "multipart/form-data"
PAGE = "text/html; charset=utf-8"  # made for one person, and in no cache
OPEN, BEARER, SESSION = "", "owner", "customer"


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
        """Whether its answers say how many requests are left; elsewhere only failed proofs are counted, and letters."""
        return self.proof == OPEN and 429 in self.refuses and self.gives not in (Accepted, PAGE)

    @property
    def is_signed(self) -> bool:
        """Whether its answer is signed where the request asks for it, by a nonce."""
        return "nonce" in getattr(self.takes, "__struct_fields__", ())


class Anything(msgspec.Struct):
    """What the platform sends: see its own documentation."""


class EasyPaisaQuery(msgspec.Struct):
    url: str = ""


# ---------------------------------------------------------------------------------------------------- examples
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
_INITIATE = {
    "package_ids": ["imagewave"],
    "email": "ann@example.com",
    "name": "Ann Example",
    "payment_provider": "stripe",
    "currency": "usd",
}
_INITIATED = {
    "order_id": "K7Q2M4X9P1R8T5V3W6Z0",
    "order_number": "ORD-20261128-7QX2",
    "status": "pending",
    "amount": "29.99",
    "currency": "usd",
    "payment_url": "https://checkout.stripe.com/c/pay/cs_live_a1",
    "status_url": "https://licenses.example.com/order/K7Q2M4X9P1R8T5V3W6Z0?claim=0f3c",
}

_ORDER = {
    "order_id": "K3ZQ81PVD0W6M2XHBT7N",
    "order_number": "ORD-20261120-7QXM",
    "status": "paid",
    "amount": "119.00",
    "currency": "pln",
    "items": [{"product_id": "imagewave", "name": "ImageWave Converter", "price": "119.00", "quantity": 1}],
    "placed_at": "2026-11-20T18:31:40Z",
    "license_keys": [KEY],
}
_ENROLLED = {
    "package_id": "imagewave",
    "slug": "imagewave",
    "name": "ImageWave Converter",
    "is_bundle": False,
    "enrolled": True,
    "expiry_date": None,
    "license_ids": ["lic_97fd713d8966ef056896"],
}
_METRICS = 'keyledger_webhooks_total{platform="gumroad",outcome="issued"} 17.0\n'

# ---------------------------------------------------------------------------------------------------- the table
_APPS, _OLDER, _HOOKS, _SHOP, _OWNER, _CUSTOMER, _PAGES, _OTHER = (
    "Desktop apps",
    "Older doors",
    "Webhooks",
    "The store front",
    "The owner's API",
    "The customer's account",
    "Pages",
    "The service itself",
)
_BODY = (400, 413, 429, 503)
_PROVEN = (400, 403, 404, 413, 429, 503)
_BUYER = (404, 409, 422, 429, 503)
_CSRF = {"X-CSRF-Token": "The session's `csrf_token`, from `GET /api/v1/me`."}
_FIND, _DECIDE = (401, 404, 429, 503), (400, 401, 404, 409, 413, 422, 429, 503)


def _mine(does: str, gives: Any, *refuses: int, **more: Any) -> Operation:
    """Of the session's own account."""
    return Operation(tag=_CUSTOMER, does=does, gives=gives, refuses=(401, *refuses, 503), proof=SESSION, **more)


def _page(does: str, *refuses: int, **more: Any) -> Operation:
    """A page for people, whose refusals are pages too."""
    also = dict.fromkeys((*refuses, 503), PAGE) | more.pop("also", {})
    return Operation(tag=_PAGES, does=does, also=also, **({"gives": PAGE} | more))


def _button(does: str, *refuses: int, takes: Any = ChangeForm, media: tuple[str, ...] = (FORM,)) -> Operation:
    """A form of a signed-in customer's page, which leads to the next page."""
    given: dict[str, Any] = {"takes": takes, "media": media, "gives": None, "status": 303, "proof": SESSION}
    return _page(does, *(400, 401, 403, 413), *refuses, **given)


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
    ("post", "/api/v1/licenses/file"): Operation(
        tag=_APPS,
        does="As activate, and a signed file with it that the app can go by while it cannot ask.",
        takes=ActivateRequest,
        gives=FileAnswer,
        refuses=(400, 404, 413, 429, 503),
        sends={**_DEVICE, "device_name": "Laptop"},
    ),
    ("get", "/api/v1/licenses/public-key"): Operation(
        tag=_APPS,
        does="The public halves of the keys that sign answers and files.",
        gives=PublicKeys,
        also={304: None},
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
    ("post", "/api/v1/webhooks/jazzcash"): Operation(
        tag=_HOOKS,
        does="JazzCash's notices, signed by `pp_SecureHash` in the body: as JSON from its servers, which are answered "
        "in their own words, and as a form by the buyer's browser, which is sent on to the order's page.",
        takes=Anything,
        media=(FORM, JSON),
        gives=Anything,
        also={303: None},
        refuses=_PROVEN,
        proof="jazzcash",
    ),
    ("get", "/api/v1/webhooks/easypaisa"): Operation(
        tag=_HOOKS,
        does="EasyPaisa's notices. Nothing is fetched from `url`: the order is taken from it, and EasyPaisa asked.",
        asks=EasyPaisaQuery,
        gives=TEXT,
        refuses=(400, 404, 503),
    ),
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
    ("post", "/api/v1/reconcile/{platform}"): Operation(
        tag=_OWNER,
        does="Hold the ledger against the platform's own record, in steps of seconds: ask again with the same body "
        "until `state` is `done`. Nothing is changed without `apply`.",
        takes=ReconcileRequest,
        gives=Report,
        refuses=_DECIDE,
        proof=BEARER,
        sends={"since": "2026-11-01", "apply": False},
    ),
    ("get", "/api/v1/packages"): Operation(
        tag=_SHOP,
        does="The packages that are published, the featured first.",
        asks=PackageQuery,
        gives=PackageList,
        refuses=(400,),
    ),
    ("get", "/api/v1/packages/{package}"): Operation(
        tag=_SHOP, does="One package, by its id or slug.", gives=Package, refuses=(404,)
    ),
    ("get", "/api/v1/packages/{package}/bundle"): Operation(
        tag=_SHOP, does="What a bundle consists of; empty for what is none.", gives=Bundle, refuses=(404,)
    ),
    ("post", "/api/v1/checkout/initiate"): Operation(
        tag=_SHOP,
        does="Order packages. The buyer then goes to `payment_url`, or sends `form` to the platform.",
        takes=InitiateRequest,
        gives=Initiated,
        status=201,
        refuses=(400, 404, 413, 422, 429),
        also={503: KeptOrder},
        sends=_INITIATE,
        sees=_INITIATED,
    ),
    ("get", "/api/v1/checkout/order/{order_id}"): Operation(
        tag=_SHOP,
        does="How an order stands; its platform is asked while it is open, at most every ten seconds.",
        gives=OrderAnswer,
        refuses=(404, 429, 503),
    ),
    ("post", "/api/v1/orders/{order_id}/refund"): Operation(
        tag=_OWNER,
        does="Give the money of an order back, all that is left or `amount`. The license follows the platform's word.",
        takes=RefundRequest,
        may_be_empty=True,
        headers={"Idempotency-Key": "At most 128 printable characters; a repeat with the same one is the same refund."},
        gives=Refunded,
        also={202: Refunded},
        refuses=_DECIDE,
        proof=BEARER,
        sends={"amount": "10.00"},
    ),
    ("get", "/shop"): Operation(
        tag=_SHOP,
        does="The packages as a page, the featured first; 404 where nothing can be bought.",
        asks=ShopQuery,
        gives=HTML,
        refuses=(400, 404),
    ),
    ("get", "/shop/{package}"): Operation(
        tag=_SHOP,
        does="One package as a page, with the form to order it.",
        asks=PackagePageQuery,
        gives=HTML,
        refuses=(400, 404),
    ),
    ("post", "/shop/{package}"): Operation(
        tag=_SHOP,
        does="That form: places the order, and sends the browser to its payment. 422 is the form with what to mend.",
        takes=OrderForm,
        media=(FORM,),
        status=303,
        also={422: HTML},
        refuses=(400, 404, 413, 429, 503),
    ),
    ("get", "/order/{order_id}"): Operation(
        tag=_SHOP,
        does="How an order stands, as a page; with its keys for the browser that began it.",
        asks=OrderPageQuery,
        gives=HTML,
        also={303: None},
        refuses=(404, 429, 503),
    ),
    ("post", "/order/{order_id}/again"): Operation(
        tag=_SHOP,
        does="That page's button: orders the same once more where nobody paid, and leads to the payment.",
        status=303,
        refuses=(404, 422, 429, 503),
    ),
    ("get", "/pay/{order_id}"): Operation(
        tag=_SHOP, does="Sends the buyer's browser to the platform.", gives=HTML, also={303: None}, refuses=_BUYER
    ),
    ("get", "/pay/{order_id}/back"): Operation(
        tag=_SHOP,
        does="Where the platform sends the buyer back to; what he brings proves nothing, so the platform is asked.",
        gives=HTML,
        also={303: None},
        refuses=_BUYER,
    ),
    ("get", "/pay/{order_id}/cancelled"): Operation(
        tag=_SHOP, does="Where a buyer comes back to who gave up.", gives=HTML, also={303: None}, refuses=_BUYER
    ),
    ("post", "/api/v1/portal/sign-in"): Operation(
        tag=_CUSTOMER,
        does="Send a link to sign in, if the address has an account; the answer never tells.",
        takes=SignInRequest,
        gives=Accepted,
        status=202,
        refuses=(400, 413, 429, 503),
        sends={"email": "ann@example.com"},
    ),
    ("post", "/api/v1/portal/sign-out"): _mine("End the session, for every worker.", SignedOut, 403, headers=_CSRF),
    ("get", "/api/v1/me"): _mine("Who is signed in, and the token that changes need.", Me),
    ("get", "/api/v1/me/licenses"): _mine(
        "The account's licenses with keys and devices, the newest first.", MyLicenses
    ),
    ("post", "/api/v1/me/licenses/{license}/devices/{number}/release"): _mine(
        "Free a seat of a license (by its public id); `DEVICE_RELEASES` times in 90 days.",
        MyLicense,
        *(400, 403, 404, 409, 413),
        takes=ReleaseRequest,
        may_be_empty=True,
        headers=_CSRF,
    ),
    ("get", "/api/v1/me/orders"): _mine("The account's orders, the newest first.", MyOrders),
    ("get", "/api/v1/orders/me"): _mine("Another name of the same.", MyOrders),
    ("get", "/api/v1/orders/{order}"): _mine(
        "One order of the account, by its id or number.", MyOrder, 404, sees=_ORDER
    ),
    ("get", "/api/v1/package-enrollments/me"): _mine("The packages that the account may use now.", MyEnrollments),
    ("get", "/api/v1/package-enrollments/{package}/check"): _mine(
        "Whether the account may use a package now: a bundle only with all that is in it.",
        MyEnrollment,
        404,
        sees=_ENROLLED,
    ),
    ("get", "/portal"): _page("The account of who is signed in; else it leads to the next one.", also={303: None}),
    ("get", "/portal/sign-in"): _page("Where a link to sign in is asked for.", 400, asks=SignInQuery),
    ("get", "/portal/lost-key"): _page("Where who has lost a key asks for a link to all of them."),
    ("post", "/portal/sign-in"): _page(
        "Send a link, as `POST /api/v1/portal/sign-in` does.",
        *(400, 403, 413, 429),
        takes=EmailForm,
        media=(FORM,),
        status=202,
    ),
    ("get", "/portal/sign-in/{token}"): _page("What a mailed link shows: a button. Looking spends nothing.", 404, 410),
    ("post", "/portal/sign-in/{token}"): _page(
        "The button: spends the link and signs in.", 403, 404, 410, gives=None, status=303
    ),
    ("post", "/portal/sign-in/{token}/again"): _page(
        "A new link in the place of one that is over.", 403, 404, 429, status=202
    ),
    ("post", "/portal/sign-out"): _button("The page's button to sign out."),
    ("post", "/portal/sign-out-everywhere"): _button("The page's button to end all sessions of the account."),
    ("get", "/portal/licenses/{license}"): _page(
        "A license of the account: its key, devices, files and receipts. `help_url` of a refused device leads here.",
        *(400, 404),
        asks=LicensePageQuery,
        also={303: None},
    ),
    ("get", "/portal/licenses/{license}/devices/{number}/release"): _page(
        "What will happen when this device is released.", 404, also={303: None}
    ),
    ("post", "/portal/licenses/{license}/release"): _button("The button to free a seat.", 404, 409, takes=ReleaseForm),
    ("post", "/portal/licenses/{license}/room"): _button(
        "The button to let one more device in where too many were bound of late.", 404, 409
    ),
    ("post", "/portal/licenses/{license}/resend"): _button("The button to mail the key again.", 404, 409, 422, 429),
    ("post", "/portal/licenses/{license}/offline"): _button(
        "Binds the device of a device code, pasted or as a file, and leads to its license file.",
        *(404, 409, 422),
        takes=DeviceCodeForm,
        media=(FORM, MULTIPART),
    ),
    ("get", "/portal/licenses/{license}/devices/{number}/file"): _page(
        "The license file of a device, and what to do with it.", 404, 409, also={303: None}
    ),
    ("get", "/portal/licenses/{license}/devices/{number}/file.lic"): _page(
        "The same as a file.",
        *(401, 404, 409),
        gives="application/octet-stream",
        proof=SESSION,
        sees="-----BEGIN LICENSE FILE-----\neyJlbmMiOiJleUptYjNKdFlYUWlPakVz[...]\n-----END LICENSE FILE-----\n",
    ),
    ("get", "/portal/receipts/{payment}"): _page("The receipt or invoice of a payment.", 404, also={303: None}),
    ("get", "/health"): Operation(
        tag=_OTHER,
        does="How the service is; 503 when nothing can be written. A browser gets a page.",
        gives=Health,
        also={503: Health},
    ),
    ("get", "/metrics"): Operation(
        tag=_OTHER,
        does="What Prometheus reads, of all workers.",
        gives=TEXT,
        refuses=(401, 404, 429),
        proof=BEARER,
        sees=_METRICS,
    ),
    ("get", "/openapi.json"): Operation(tag=_OTHER, does="This description.", gives=JSON, also={304: None}),
    ("get", "/docs"): Operation(tag=_OTHER, does="This description as a page.", gives=HTML, also={304: None}),
}
