"""The page of one license: its key, its devices, and files for devices without a network. It needs no script."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from flask import Blueprint, Response, request

from server.domain import device_code
from server.domain.device_code import DeviceCode
from server.domain.keys import license_id
from server.domain.license import Claim, Code, Device, standing
from server.errors import BadRequest, Conflict, NotFound
from server.services.accounts import account_of
from server.services.customers import Held
from server.services.license_files import LicenseFile
from server.services.license_manager import is_license_id
from server.services.seats import Verdict
from server.services.sign_in import Session
from server.web import limits, sessions
from server.web.license_cards import card, payments_of
from server.web.licenses import HardwareId
from server.web.order_page import COPY
from server.web.pages import page, see_other, tell_errors_as_pages
from server.web.responses import form_of, query_of
from server.web.services import services

blueprint = Blueprint("portal_license", __name__, url_prefix="/portal/licenses")
blueprint.before_request(sessions.refuse_strangers)
tell_errors_as_pages(blueprint)

Token = Annotated[str, msgspec.Meta(max_length=100)]
_NO_PLACE = "All devices that this license is for are taken. Release one of them, then send the code again."
_NO_MOVE = "This license was on too many devices of late: see what can be done above, then send the code again."
_NO_NAME = re.compile(r"[^A-Za-z0-9]+")


class LicensePageQuery(msgspec.Struct, frozen=True, kw_only=True):
    done: Literal["released", "room", "resent"] | None = None


class ChangeForm(msgspec.Struct, frozen=True, kw_only=True):
    csrf_token: Token = ""


class ReleaseForm(ChangeForm, frozen=True, kw_only=True):
    number: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    hardware_id: HardwareId


class DeviceCodeForm(ChangeForm, frozen=True, kw_only=True):
    """The code as it was pasted; a `file` with it goes before."""

    device_code: Annotated[str, msgspec.Meta(max_length=16_384)] = ""


@blueprint.get("/<name>")
def show(name: str) -> Response:
    asked, session = query_of(LicensePageQuery), sessions.find()
    if session is None:
        return see_other(f"/portal/sign-in?why={name}" if is_license_id(name) else "/portal/sign-in")
    try:
        return _license_page(session, _own(session, name), done=asked.done)
    except NotFound as error:  # with the button to sign out
        return page("message.html", 404, title="Not found", detail=error.detail, csrf_token=session.csrf_token)


def _own(session: Session, name: str) -> Held:
    try:
        return services().customers.license(session.email, name)
    except NotFound:
        raise NotFound(
            f"There is no such license in the account of {session.email}. It may have been bought with another "
            "address of yours: sign out, and sign in with that one."
        ) from None


def _license_page(session: Session, held: Held, status: int = 200, **more: Any) -> Response:
    payments = payments_of(session.email) or []
    return page(
        "license.html",
        status,
        script=COPY,
        csrf_token=session.csrf_token,
        one=(one := card(held)),
        receipts=[payment for payment in payments if one["id"] in payment.license_ids],
        signs=services().signing.find_key() is not None,
        **({"done": None, "wrong": None, "given": ""} | more),
    )


# ---------------------------------------------------------------------------------------------------- devices
@blueprint.get("/<name>/devices/<number>/release")
def confirm(name: str, number: str) -> Response:
    """What will happen, before it does."""
    session = sessions.find()
    if session is None:
        return see_other("/portal/sign-in")
    held = _own(session, name)
    device = _device(held, number)
    return page("release.html", csrf_token=session.csrf_token, one=card(held), device=device, number=number)


@blueprint.post("/<name>/release")
def release(name: str) -> Response:
    form = form_of(ReleaseForm)
    session = sessions.get_to_change(form.csrf_token)
    services().customers.release(session.email, name, form.number, form.hardware_id)
    return see_other(f"/portal/licenses/{name}?done=released")


@blueprint.post("/<name>/room")
def make_room(name: str) -> Response:
    session = sessions.get_to_change(form_of(ChangeForm).csrf_token)
    services().customers.make_room(session.email, name)
    return see_other(f"/portal/licenses/{name}?done=room")


@blueprint.post("/<name>/resend")
def resend(name: str) -> Response:
    session = sessions.get_to_change(form_of(ChangeForm).csrf_token)
    limits.asks_for_letter(account_of(session.email))
    services().customers.resend(session.email, name)
    return see_other(f"/portal/licenses/{name}?done=resent")


def _device(held: Held, number: str) -> Device:
    """By its seat, from 1, as it stands in the address."""
    if not (number.isascii() and number.isdecimal() and len(number) < 8 and 1 <= int(number) <= len(held.devices)):
        raise NotFound("There is no such device any more: its place is free.")
    return held.devices[int(number) - 1]


# ---------------------------------------------------------------------------------------------------- without a network
@blueprint.post("/<name>/offline")
def offline(name: str) -> Response:
    """Bind the device of a code as its program would, and lead to its license file."""
    form, code_file = _device_code_given()
    session = sessions.get_to_change(form.csrf_token)
    services().files.require_key()
    held = _own(session, name)
    try:
        code = device_code.read(form.device_code if code_file is None else _text(code_file))
        number = _bind(held, code)
    except (BadRequest, Conflict) as error:
        why = error.detail.removeprefix("device_code: ")
        status = 409 if isinstance(error, Conflict) else 422
        return _license_page(session, _own(session, name), status, wrong=why, given=form.device_code)
    return see_other(f"/portal/licenses/{name}/devices/{number}/file")


def _device_code_given() -> tuple[DeviceCodeForm, bytes | None]:
    if request.mimetype != "multipart/form-data":
        return form_of(DeviceCodeForm), None
    upload = request.files.get("file")
    content = upload.read() if upload is not None else b""
    given = {name: value for name, value in request.form.items() if name in DeviceCodeForm.__struct_fields__}
    try:
        return msgspec.convert(given, DeviceCodeForm), content or None
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None


def _text(content: bytes) -> str:
    """Windows' editor may save in UTF-16, and says so by the first two bytes."""
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeError:
        raise BadRequest("device_code: that file is no text: choose the one that the program saved") from None


def _bind(held: Held, code: DeviceCode) -> int:
    """The seat that the device is in. Raises BadRequest for another product's, and Conflict where it gets none."""
    known = {held.license.product_id, held.product.slug if held.product else None}
    if code.product and code.product not in known:
        raise BadRequest(
            f"device_code: it comes from “{code.product}”, and this license is for "
            f"{held.product.name if held.product else held.license.product_id}: open the license of that program"
        )
    claim = Claim(hardware_id=code.hardware_id, device_name=code.device_name or None)
    verdict = services().licenses.activate(held.key, claim)
    if verdict.code is Code.TOO_MANY_MACHINES:
        raise Conflict(_NO_PLACE if len(held.devices) >= held.license.max_devices else _NO_MOVE)
    if not verdict.valid:
        raise Conflict("This license is not valid at the moment, so no file can be made with it.")
    devices = services().customers.license(held.license.email, license_id(held.key)).devices
    number = next((n for n, device in enumerate(devices, 1) if device.hardware_id == code.hardware_id), None)
    if number is None:  # somebody released it in this moment
        raise Conflict(_NO_PLACE)
    return number


@blueprint.get("/<name>/devices/<number>/file")
def license_file(name: str, number: str) -> Response:
    session = sessions.find()
    if session is None:
        return see_other(f"/portal/sign-in?why={name}" if is_license_id(name) else "/portal/sign-in")
    held = _own(session, name)
    device = _device(held, number)
    return page(
        "license_file.html",
        script=COPY,
        csrf_token=session.csrf_token,
        one=card(held),
        device=device,
        number=number,
        file=_made(held, device),
    )


@blueprint.get("/<name>/devices/<number>/file.lic")
def download(name: str, number: str) -> Response:
    held = _own(sessions.get(), name)
    device = _device(held, number)
    response = Response(_made(held, device).text, mimetype="application/octet-stream")
    called = "-".join(
        _NO_NAME.sub("-", part).strip("-")[:40] for part in (card(held)["product_name"], device.device_name) if part
    )
    response.headers["Content-Disposition"] = f'attachment; filename="{called or "license"}.lic"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _made(held: Held, device: Device) -> LicenseFile:
    """Raises Conflict where the license is not valid, and SigningOff."""
    now = services().clock()
    if standing(held.license, now) is not Code.VALID:
        raise Conflict("This license is not valid at the moment, so no file can be made with it.")
    verdict = Verdict(code=Code.VALID, key=held.key, license=held.license, product=held.product, device=device)
    return services().files.for_a_time(verdict, now)
