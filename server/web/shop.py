"""The shop: pages on which packages are shown and ordered, for sellers who have no front end of their own.

It is open where something is published and can be paid for. Nobody is signed in here, so a form that another site
sends does no harm: it places an order that nobody pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from flask import Blueprint, Response, request

from server.domain import money
from server.domain.catalogue import Product
from server.errors import BadRequest, NotFound, PlatformOff
from server.services.checkout import PlatformDown, Started, Wish
from server.services.letter_writing import SHOPS
from server.web import claims, limits, pay, sessions, trouble
from server.web.checkout import BuyerName
from server.web.licenses import Email, Name
from server.web.pages import form_fields, page
from server.web.responses import query_of
from server.web.services import services

blueprint = Blueprint("shop", __name__, url_prefix="/shop")
blueprint.after_request(limits.tell)
trouble.tell_errors(blueprint)

Currency = Annotated[str, msgspec.Meta(max_length=8, pattern="^[A-Za-z]*$")]
Phone = Annotated[str, msgspec.Meta(max_length=32, pattern=r"^[0-9+() -]*$")]
METHODS = {"stripe": "Card (by Stripe)", "payu": "BLIK, bank transfer or card (by PayU)"}
_MEND = {
    "name": "Tell us your name: up to 128 letters.",
    "email": "Write the whole address, such as ann@example.com.",
    "payment_provider": "Choose how you want to pay.",
    "currency": "Choose a currency.",
    "phone": "Write the number in digits, such as 03001234567.",
}


class ShopQuery(msgspec.Struct, frozen=True):
    category: Annotated[str, msgspec.Meta(max_length=128)] | None = None


class PackagePageQuery(msgspec.Struct, frozen=True):
    currency: Currency | None = None


class OrderForm(msgspec.Struct, frozen=True, kw_only=True):
    """`phone` is for the mobile wallets."""

    name: BuyerName
    email: Email
    payment_provider: Annotated[Name, msgspec.Meta(min_length=1)]
    currency: Currency | None = None
    phone: Phone | None = None


class Price(msgspec.Struct, frozen=True):
    """In one currency, as decimal strings; `before` where it was higher."""

    currency: str
    now: str
    before: str | None


class Method(msgspec.Struct, frozen=True):
    provider: str
    name: str
    needs_phone: bool


@blueprint.get("")
def shop() -> Response:
    asked = query_of(ShopQuery)
    everything = _open_shop()
    found = [product for product in everything if asked.category in (None, product.category)]
    categories = list(dict.fromkeys(product.category for product in everything if product.category))
    return _public(
        page("shop.html", packages=[_card(one) for one in found], categories=categories, category=asked.category)
    )


@blueprint.get("/<package_name>")
def package(package_name: str) -> Response:
    asked, session = query_of(PackagePageQuery), sessions.find()
    known = {"email": session.email} if session else {}  # a customer who buys again buys for the same account
    shown = _package_page(_product(package_name), (asked.currency or "").lower(), known)
    return shown if known else _public(shown)


@blueprint.post("/<package_name>")
def order(package_name: str) -> Response:
    limits.by_address()
    product, given = _product(package_name), _trimmed(form_fields())
    form, wrong = _read(given)
    if form is not None:
        try:
            limits.places_order(form.payment_provider, form.phone)
            return _to_payment(services().desk.place(_wish(product, form)))
        except PlatformDown as error:
            return claims.keep(trouble.shown(error), error.order.order_id)
        except (BadRequest, PlatformOff) as error:
            wrong = _fault(error.detail)
    return _package_page(product, given.get("currency", "").lower(), given, wrong)


def _to_payment(started: Started) -> Response:
    path = f"{services().settings.app_url}/pay/{started.order.order_id}"
    return claims.keep(pay.go(started.begun.payment_url or path), started.order.order_id)


# ---------------------------------------------------------------------------------------------------- the form
def _trimmed(given: dict[str, str]) -> dict[str, str]:
    return {name: value.strip() for name, value in given.items() if value.strip()}


def _read(given: dict[str, str]) -> tuple[OrderForm | None, dict[str, str]]:
    """The form, or what is wrong with each of its fields."""
    try:
        return msgspec.convert(given, OrderForm), {}
    except msgspec.ValidationError:
        return None, {
            f.encode_name: _MEND[f.encode_name] for f in msgspec.structs.fields(OrderForm) if _fails(f, given)
        }


def _fails(field: msgspec.structs.FieldInfo, given: dict[str, str]) -> bool:
    try:
        msgspec.convert(given.get(field.name), field.type)
    except msgspec.ValidationError:
        return True
    return False


def _fault(detail: str) -> dict[str, str]:
    """An error that names its field stands beside it, any other one above the form."""
    field, _, why = detail.partition(": ")
    if field not in _MEND or not why:
        field, why = "", detail
    return {field: why[:1].upper() + why[1:] + "."}


def _wish(product: Product, form: OrderForm) -> Wish:
    return Wish(
        package_ids=(product.id,),
        email=form.email,
        name=form.name,
        provider=form.payment_provider,
        client=request.remote_addr or "127.0.0.1",
        currency=form.currency,
        phone=form.phone,
    )


# ---------------------------------------------------------------------------------------------------- what is shown
def _open_shop() -> list[Product]:
    """Raises NotFound where there is nothing to sell, or no way to pay for it."""
    ours = services()
    published = ours.packages.published() if ours.desk.providers() else []
    if not published:
        raise NotFound("there is no shop here")
    return published


def _product(name: str) -> Product:
    _open_shop()
    return services().packages.get(name)


def _card(product: Product) -> dict[str, Any]:
    return {
        "product": product,
        "path": f"/shop/{quote(product.slug or product.id, safe='')}",
        "prices": _prices(product),
        "contents": _contents(product),
    }


def _contents(product: Product) -> Sequence[Product]:
    return services().packages.children(product) if product.bundle else ()


def _prices(product: Product) -> list[Price]:
    before = {code.lower(): amount for code, amount in product.original_price.items()}
    return [_price(code.lower(), amount, before.get(code.lower())) for code, amount in product.price.items()]


def _price(currency: str, now: str, before: str | None) -> Price:
    """What was no higher before is no bargain, whatever the catalogue calls it."""
    is_less = before is not None and money.minor_units(now, currency) < money.minor_units(before, currency)
    return Price(currency, now, before if is_less else None)


def _package_page(
    product: Product, currency: str, given: dict[str, str] | None = None, wrong: dict[str, str] | None = None
) -> Response:
    prices = [price for price in _prices(product) if services().desk.providers(price.currency)]
    chosen = next((price for price in prices if price.currency == currency), prices[0] if prices else None)
    return page(
        "package.html",
        422 if wrong else 200,
        forms_to=pay.forms_to(),
        **_card(product),
        features=services().packages.features(product),
        payable=prices,
        chosen=chosen,
        methods=_methods(chosen.currency) if chosen else [],
        given=given or {},
        wrong=wrong or {},
    )


def _methods(currency: str) -> list[Method]:
    desk = services().desk
    return [
        Method(name, METHODS.get(name) or SHOPS.get(name, name), desk.checkout(name).needs_phone)
        for name in desk.providers(currency)
    ]


def _public(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-cache"
    return response
