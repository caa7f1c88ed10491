"""The customer's own API: with the session that a mailed link began, and its CSRF token for what changes something."""

from __future__ import annotations

from typing import Annotated, TypedDict

import msgspec
from flask import Blueprint, Response, request

from server.domain import money
from server.domain.keys import license_id
from server.domain.license import Moment, Reason, Status
from server.domain.order import OrderState
from server.services.accounts import account_of
from server.services.customers import Enrollment, Held, Ordered
from server.web import limits, sessions
from server.web.licenses import Email, HardwareId
from server.web.responses import answer, body_of, checked, raw_body
from server.web.services import services

blueprint = Blueprint("me", __name__, url_prefix="/api/v1")


@blueprint.after_request
def keep_private(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response


# ---------------------------------------------------------------------------------------------------- what is said
class SignInRequest(msgspec.Struct, frozen=True, kw_only=True):
    email: Email


class ReleaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing happens unless this device is in the seat: so a repeat releases no second one."""

    hardware_id: HardwareId | None = None


class Accepted(TypedDict):
    detail: str


class Me(TypedDict):
    email: str
    csrf_token: Annotated[str, msgspec.Meta(description="To be sent as `X-CSRF-Token` with what changes something.")]


class MyDevice(TypedDict):
    number: Annotated[
        int, msgspec.Meta(ge=1, description="The seat it is in, from 1; others move up when one is freed.")
    ]
    hardware_id: str
    device_name: str | None
    bound_at: Moment


class MyLicense(TypedDict):
    id: str
    license_key: str
    product_id: str | None
    product_name: str | None
    tier: str | None
    features: list[str]
    purchase_date: Moment
    expiry_date: Moment | None
    status: Status
    inactive_reason: Reason | None
    is_test: bool
    max_devices: int
    devices_used: int
    devices: list[MyDevice]
    releases_left: Annotated[int, msgspec.Meta(description="How many devices may still be released in these 90 days.")]
    next_release: Annotated[Moment | None, msgspec.Meta(description="When the next one may be, where none is left.")]


class MyLicenses(TypedDict):
    licenses: list[MyLicense]


class OrderedItem(TypedDict):
    product_id: str
    name: str
    price: str
    quantity: int


class MyOrder(TypedDict):
    order_id: str
    order_number: str
    status: OrderState
    amount: str
    currency: str
    items: list[OrderedItem]
    placed_at: Moment
    license_keys: list[str]


class MyOrders(TypedDict):
    orders: list[MyOrder]


class MyEnrollment(TypedDict):
    """`enrolled` of a bundle asks for all that is in it; `expiry_date` is the first that one of its parts has."""

    package_id: str
    slug: str
    name: str
    is_bundle: bool
    enrolled: bool
    expiry_date: Moment | None
    license_ids: list[str]


class MyEnrollments(TypedDict):
    enrollments: list[MyEnrollment]


class SignedOut(TypedDict):
    signed_out: bool


# ---------------------------------------------------------------------------------------------------- signing in
SENT: Accepted = {"detail": "If this address has bought here, a link to sign in is on its way to it."}


def ask_for_link(email: str, why: str = "") -> None:
    """The same for every address. Raises TooManyRequests."""
    limits.asks_for_letter(account_of(email))
    services().customers.ask_for_link(email, why)


@blueprint.post("/portal/sign-in")
def sign_in() -> Response:
    ask_for_link(body_of(SignInRequest).email)
    return answer(SENT, 202)


@blueprint.post("/portal/sign-out")
def sign_out() -> Response:
    session = sessions.get_to_change(request.headers.get(sessions.CSRF_HEADER))
    body: SignedOut = {"signed_out": True}
    response = answer(body)
    sessions.end(response, session)
    return response


@blueprint.get("/me")
def me() -> Response:
    session = sessions.get()
    body: Me = {"email": session.email, "csrf_token": session.csrf_token}
    return answer(body)


# ---------------------------------------------------------------------------------------------------- licenses
@blueprint.get("/me/licenses")
def my_licenses() -> Response:
    held = services().customers.licenses(sessions.get().email)
    body: MyLicenses = {"licenses": [my_license(one) for one in held]}
    return answer(body)


@blueprint.post("/me/licenses/<name>/devices/<int:number>/release")
def release(name: str, number: int) -> Response:
    session = sessions.get_to_change(request.headers.get(sessions.CSRF_HEADER))
    raw = raw_body()
    asked = checked(raw, ReleaseRequest) if raw else ReleaseRequest()
    return answer(my_license(services().customers.release(session.email, name, number, asked.hardware_id)))


def my_license(held: Held) -> MyLicense:
    license, product = held.license, held.product
    return {
        "id": license_id(held.key),
        "license_key": held.key,
        "product_id": license.product_id,
        "product_name": product.name if product else license.product_id,
        "tier": license.tier or (product.tier if product else None),
        "features": list(held.features),
        "purchase_date": license.created_date,
        "expiry_date": license.expiry_date,
        "status": license.status(services().clock()),
        "inactive_reason": license.inactive_reason,
        "is_test": license.is_test,
        "max_devices": license.max_devices,
        "devices_used": len(held.devices),
        "devices": [
            {"number": n, "hardware_id": d.hardware_id, "device_name": d.device_name, "bound_at": d.bound_at}
            for n, d in enumerate(held.devices, 1)
        ],
        "releases_left": held.releases_left,
        "next_release": held.next_release,
    }


# ---------------------------------------------------------------------------------------------------- orders
@blueprint.get("/me/orders")
@blueprint.get("/orders/me")
def my_orders() -> Response:
    found = services().customers.orders(sessions.get().email)
    body: MyOrders = {"orders": [my_order(one) for one in found]}
    return answer(body)


@blueprint.get("/orders/<order>")
def one_order(order: str) -> Response:
    return answer(my_order(services().customers.order(sessions.get().email, order)))


def my_order(ordered: Ordered) -> MyOrder:
    order = ordered.order
    items: list[OrderedItem] = [
        {
            "product_id": item.product_id,
            "name": item.name,
            "price": money.told(item.price, order.currency),
            "quantity": item.quantity,
        }
        for item in order.items
    ]
    return {
        "order_id": order.order_id,
        "order_number": order.number,
        "status": ordered.state,
        "amount": order.price,
        "currency": order.currency,
        "items": items,
        "placed_at": order.placed_at,
        "license_keys": list(ordered.license_keys),
    }


# ---------------------------------------------------------------------------------------------------- enrollments
@blueprint.get("/package-enrollments/me")
def my_enrollments() -> Response:
    found = services().customers.enrollments(sessions.get().email)
    body: MyEnrollments = {"enrollments": [my_enrollment(one) for one in found]}
    return answer(body)


@blueprint.get("/package-enrollments/<package>/check")
def check_enrollment(package: str) -> Response:
    return answer(my_enrollment(services().customers.enrollment(sessions.get().email, package)))


def my_enrollment(one: Enrollment) -> MyEnrollment:
    return {
        "package_id": one.product.id,
        "slug": one.product.slug,
        "name": one.product.name,
        "is_bundle": bool(one.product.bundle),
        "enrolled": one.enrolled,
        "expiry_date": one.expiry_date,
        "license_ids": list(one.license_ids),
    }
