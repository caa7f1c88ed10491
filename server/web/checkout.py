"""The checkout's API: an order in, the way to pay out; and how an order stands. No key and no address is told here."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec
from flask import Blueprint, Response, request

from server.domain import money
from server.domain.license import Moment
from server.domain.order import Order, OrderFile, OrderState
from server.errors import BadRequest
from server.services.checkout import PlatformDown, Started, Wish
from server.services.order_refunds import RefundStanding
from server.web import claims, limits
from server.web.auth import require_owner
from server.web.licenses import PLAIN, Email, Name
from server.web.responses import RETRY_AFTER, Error, answer, body_of, checked, raw_body
from server.web.services import services

blueprint = Blueprint("checkout", __name__, url_prefix="/api/v1")
blueprint.after_request(limits.tell)

BuyerName = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=PLAIN)]
Url = Annotated[str, msgspec.Meta(max_length=2048)]
Amount = Annotated[str, msgspec.Meta(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?$")]
Reference = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[!-~]+$")]


class InitiateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`package_ids` are ids or slugs; one named twice is ordered twice. `phone` is for the mobile wallets."""

    package_ids: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=20)]
    email: Email
    name: BuyerName
    payment_provider: Name
    currency: Annotated[str, msgspec.Meta(max_length=8)] | None = None
    phone: Annotated[str, msgspec.Meta(max_length=32, pattern=PLAIN)] | None = None
    success_url: Url | None = None
    cancel_url: Url | None = None


class ShownForm(TypedDict):
    action: str
    method: Literal["POST", "GET"]
    fields: dict[str, str]


class Initiated(TypedDict):
    """The buyer goes to `payment_url`. Where the platform wants a form sent by his browser, it is `form`, too, and
    `payment_url` is a page of ours that sends it. `status_url` shows how the order stands, and its keys to the browser
    that began it: give it to nobody else."""

    order_id: str
    order_number: str
    status: OrderState
    amount: str
    currency: str
    payment_url: str
    status_url: str
    form: NotRequired[ShownForm]


class KeptOrder(TypedDict):
    errors: list[Error]
    order_id: str
    order_number: str
    status: OrderState
    payment_url: str
    status_url: str


class OrderAnswer(TypedDict):
    order_id: str
    order_number: str
    status: OrderState
    amount: str
    currency: str
    refunded_amount: str
    payment_provider: str
    package_ids: list[str]
    created_at: Moment
    expires_at: Moment


class RefundRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`amount` left out is all that is left. `reference` is the portal's, for platforms that have no API for it."""

    amount: Amount | None = None
    reference: Reference | None = None


class Refunded(TypedDict):
    """`accepted`: the platform tells when it is done. `in_doubt`: it did not answer and is asked; ask again with the
    same Idempotency-Key, and nothing is refunded twice."""

    order_id: str
    refund_id: str
    amount: str
    currency: str
    refund_status: RefundStanding
    status: OrderState
    note: str | None


@blueprint.post("/checkout/initiate")
def initiate() -> Response:
    limits.by_address()
    asked = body_of(InitiateRequest)
    limits.places_order(asked.payment_provider, asked.phone)
    try:
        started = services().desk.place(_wish(asked))
    except PlatformDown as error:
        return _kept(error)
    return claims.keep(answer(_initiated(started), 201), started.order.order_id)


def _wish(asked: InitiateRequest) -> Wish:
    return Wish(
        package_ids=asked.package_ids,
        email=asked.email,
        name=asked.name,
        provider=asked.payment_provider,
        client=request.remote_addr or "127.0.0.1",
        currency=asked.currency,
        phone=asked.phone,
        success_url=asked.success_url,
        cancel_url=asked.cancel_url,
    )


def _kept(error: PlatformDown) -> Response:
    """The platform is down: the order is kept, and its page begins the payment when it is up again."""
    order = error.order
    told: KeptOrder = {
        "errors": [{"code": error.code, "title": "Platform unreachable", "detail": error.detail}],
        "order_id": order.order_id,
        "order_number": order.number,
        "status": OrderState.PENDING,
        "payment_url": f"{services().settings.app_url}/pay/{order.order_id}",
        "status_url": _status_url(order),
    }
    response = answer(told, 503)
    response.headers["Retry-After"] = RETRY_AFTER
    return claims.keep(response, order.order_id)


def _initiated(started: Started) -> Initiated:
    order, begun, app_url = started.order, started.begun, services().settings.app_url
    told: Initiated = {
        "order_id": order.order_id,
        "order_number": order.number,
        "status": started.state,
        "amount": order.price,
        "currency": order.currency,
        "payment_url": begun.payment_url or f"{app_url}/pay/{order.order_id}",
        "status_url": _status_url(order),
    }
    if begun.form is not None:
        method: Literal["POST", "GET"] = "GET" if begun.form.method == "GET" else "POST"
        told["form"] = {"action": begun.form.action, "method": method, "fields": begun.form.fields}
    return told


def _status_url(order: Order) -> str:
    return f"{services().settings.app_url}/order/{order.order_id}?claim={claims.token(order.order_id)}"


@blueprint.get("/checkout/order/<order_id>")
def order_status(order_id: str) -> Response:
    limits.by_address()
    file = services().desk.get(order_id)
    state = services().settlement.look(file)
    return answer(shown_order(file, state))


def shown_order(file: OrderFile, state: OrderState) -> OrderAnswer:
    order = file.order
    return {
        "order_id": order.order_id,
        "order_number": order.number,
        "status": state,
        "amount": order.price,
        "currency": order.currency,
        "refunded_amount": _refunded(file),
        "payment_provider": order.source,
        "package_ids": [item.product_id for item in order.items],
        "created_at": order.placed_at,
        "expires_at": order.expires_at,
    }


def _refunded(file: OrderFile) -> str:
    return money.told(services().settlement.account(file).refunded, file.order.currency)


@blueprint.post("/orders/<order_id>/refund")
def refund(order_id: str) -> Response:
    require_owner()
    raw = raw_body()
    asked = checked(raw, RefundRequest) if raw.strip() else RefundRequest()
    file = services().desk.get(order_id)
    done = services().refunds.refund(file, asked.amount, _idempotency_key(), asked.reference)
    return answer(
        _refunded_answer(file.order, done.refund_id, done.amount, done.standing, done.note),
        202 if done.standing is RefundStanding.IN_DOUBT else 200,
    )


def _refunded_answer(order: Order, refund_id: str, amount: int, standing: RefundStanding, note: str | None) -> Refunded:
    file = services().desk.get(order.order_id)
    return {
        "order_id": order.order_id,
        "refund_id": refund_id,
        "amount": money.told(amount, order.currency),
        "currency": order.currency,
        "refund_status": standing,
        "status": services().settlement.state(file),
        "note": note,
    }


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key", "").strip()
    if len(key) > 128 or not key.isprintable():
        raise BadRequest("Idempotency-Key: at most 128 printable characters")
    return key or None
