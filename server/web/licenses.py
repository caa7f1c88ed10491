"""Desktop apps: validate, activate, deactivate, license files. Always 200 when well-formed; the verdict is in the body.

An answer to a request with a nonce is signed. Without one a signature could be kept and told again, and it would cost a
quarter of the request.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, NotRequired, TypedDict, TypeVar

import msgspec
from flask import Blueprint, Response, request

from server.domain.keys import license_id
from server.domain.license import DETAIL, Claim, Code, Device, Moment, Status
from server.services.seats import Verdict
from server.web import limits
from server.web.responses import Answered, cached, checked, encode, read_body
from server.web.services import services
from server.web.signatures import signature_of
from server.wiring import Services

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

blueprint = Blueprint("licenses", __name__, url_prefix="/api/v1/licenses")
blueprint.after_request(limits.tell)

PLAIN = r"^[^\x00-\x08\x0e-\x1f\x7f]*$"
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=PLAIN, description="As the customer typed it.")]
HardwareId = Annotated[
    str,
    msgspec.Meta(min_length=1, max_length=256, pattern=PLAIN, description="A stable id of this computer: a hash."),
]
DeviceName = Annotated[
    str, msgspec.Meta(max_length=128, pattern=PLAIN, description="What the owner wants to see in his records.")
]
_FRESH = "Random, and another one each time: it comes back in the answer, which is then signed."
Nonce = Annotated[str, msgspec.Meta(max_length=128, pattern=PLAIN, description=_FRESH)]
_ADDRESS = r"^[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+$"
Email = Annotated[str, msgspec.Meta(min_length=3, max_length=254, pattern=_ADDRESS)]
Claimed = Annotated[
    str, msgspec.Meta(max_length=254, pattern=PLAIN, description="Must be the customer's address then.")
]
Text = Annotated[str, msgspec.Meta(max_length=500, pattern=PLAIN)]
Name = Annotated[str, msgspec.Meta(max_length=128, pattern=PLAIN)]


class PublicLicense(TypedDict):
    """What anyone with the key may know: nothing about the customer."""

    id: str
    product_id: str | None
    product_name: str | None
    tier: str | None
    features: list[str]
    purchase_date: Moment
    expiry_date: Moment | None
    status: Status
    max_devices: int
    devices_used: int


class VerdictAnswer(TypedDict):
    """`license` is null for NOT_FOUND; `activated` is there only when a seat was taken just now, `help_url` only with
    TOO_MANY_MACHINES: there the customer releases a device. It opens nothing without a sign-in."""

    valid: bool
    code: Code
    detail: str
    license: PublicLicense | None
    device: Device | None
    nonce: str | None
    ts: Moment
    activated: NotRequired[bool]
    help_url: NotRequired[str]


class FileAnswer(VerdictAnswer):
    """The file and its bounds are there only with a valid license. It is a text of several lines."""

    license_file: NotRequired[str]
    issued: NotRequired[Moment]
    expires: NotRequired[Moment]


class PublicKey(TypedDict):
    """`public_key` is the base64 of its 32 bytes, `pem` the same as openssl reads it."""

    kid: str
    alg: Literal["Ed25519"]
    public_key: str
    pem: str


class PublicKeys(TypedDict):
    """The first one signs. Empty where the owner has set none."""

    keys: list[PublicKey]


class ValidateRequest(msgspec.Struct, frozen=True, kw_only=True):
    license_key: Key
    hardware_id: HardwareId | None = None
    device_name: DeviceName | None = None
    product: Annotated[Name, msgspec.Meta(description="Its id or slug: a key of another one is refused.")] | None = None
    email: Claimed | None = None
    nonce: Nonce | None = None
    features: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64, description="It must have all.")] | None = None
    bind: Annotated[bool, msgspec.Meta(description="false asks about a device without taking a seat.")] | None = None

    def claim(self) -> Claim:
        return Claim(
            hardware_id=self.hardware_id,
            device_name=self.device_name,
            product=self.product,
            email=self.email,
            features=self.features or (),
            bind=self.bind is not False,
        )


class ActivateRequest(ValidateRequest, frozen=True, kw_only=True):
    hardware_id: HardwareId


class DeactivateRequest(msgspec.Struct, frozen=True, kw_only=True):
    license_key: Key
    hardware_id: HardwareId
    nonce: Nonce | None = None


A = TypeVar("A", ValidateRequest, ActivateRequest, DeactivateRequest)


@blueprint.post("/validate")
def validate() -> Response:
    return validated(services(), request.environ).response()


def validated(ours: Services, environ: WSGIEnvironment) -> Answered:
    asked = _asked(ours, environ, ValidateRequest)
    return _told(ours, environ, ours.licenses.validate(asked.license_key, asked.claim()), asked)


@blueprint.post("/activate")
def activate() -> Response:
    ours, environ = services(), request.environ
    asked = _asked(ours, environ, ActivateRequest)
    return _told(ours, environ, ours.licenses.activate(asked.license_key, asked.claim()), asked).response()


@blueprint.post("/deactivate")
def deactivate() -> Response:
    ours, environ = services(), request.environ
    asked = _asked(ours, environ, DeactivateRequest)
    return _told(ours, environ, ours.licenses.deactivate(asked.license_key, asked.hardware_id), asked).response()


@blueprint.post("/file")
def file() -> Response:
    ours, environ = services(), request.environ
    asked = _asked(ours, environ, ActivateRequest)
    ours.files.require_key()
    verdict = ours.licenses.activate(asked.license_key, asked.claim())
    if not verdict.valid:
        return _told(ours, environ, verdict, asked).response()
    limits.by_verdict(ours, environ, verdict)
    now = ours.clock()
    made = ours.files.for_a_time(verdict, now)
    body: FileAnswer = {
        **verdict_answer(ours, verdict, asked.nonce, now),
        "license_file": made.text,
        "issued": made.issued,
        "expires": made.expires,
    }
    return _answered(ours, environ, body, now, owes_letter=False).response()


@blueprint.get("/public-key")
def public_key() -> Response:
    keys: list[PublicKey] = [
        {"kid": key.kid, "alg": "Ed25519", "public_key": b64encode(key.public_key).decode(), "pem": key.pem}
        for key in services().signing.keys
    ]
    told: PublicKeys = {"keys": keys}
    return cached(msgspec.json.encode(told), "application/json")


def _asked(ours: Services, environ: WSGIEnvironment, kind: type[A]) -> A:
    """What an app wants to know, counted before anything of it is read, and for its key before that is looked for."""
    limits.visit(ours, environ)
    asked = checked(read_body(environ), kind)
    limits.by_key(environ, asked.license_key, asked.hardware_id)
    return asked


def _told(
    ours: Services, environ: WSGIEnvironment, verdict: Verdict, asked: ValidateRequest | DeactivateRequest
) -> Answered:
    limits.by_verdict(ours, environ, verdict)
    owes_letter = False
    if verdict.code is Code.TOO_MANY_MACHINES and verdict.key and isinstance(asked, ValidateRequest):
        owes_letter = asked.bind is not False and bool(ours.outbox.seats_taken(verdict.key, asked.device_name))
    now = ours.clock()
    return _answered(ours, environ, verdict_answer(ours, verdict, asked.nonce, now), now, owes_letter)


def _answered(
    ours: Services, environ: WSGIEnvironment, answer: VerdictAnswer | FileAnswer, now: datetime, owes_letter: bool
) -> Answered:
    """Signed where the request asks for it and the owner has set a key."""
    body, told = encode(answer), limits.headers(environ)
    if answer["nonce"] and (key := ours.signing.find_key()):
        told += signature_of(body, environ, key, now)
    return Answered(body, headers=told, owes_letter=owes_letter)


def verdict_answer(ours: Services, verdict: Verdict, nonce: str | None, now: datetime) -> VerdictAnswer:
    body: VerdictAnswer = {
        "valid": verdict.valid,
        "code": verdict.code,
        "detail": DETAIL[verdict.code],
        "license": public_license(verdict, now),
        "device": verdict.device,
        "nonce": nonce,
        "ts": now,
    }
    if verdict.activated:
        body["activated"] = True
    if verdict.code is Code.TOO_MANY_MACHINES and verdict.key:
        body["help_url"] = f"{ours.settings.app_url}/portal/licenses/{license_id(verdict.key)}"
    return body


def public_license(verdict: Verdict, now: datetime) -> PublicLicense | None:
    license, product = verdict.license, verdict.product
    if license is None or verdict.key is None:
        return None
    return {
        "id": license_id(verdict.key),
        "product_id": license.product_id,
        "product_name": product.name if product else license.product_id,
        "tier": license.tier or (product.tier if product else None),
        "features": verdict.features,
        "purchase_date": license.created_date,
        "expiry_date": license.expiry_date,
        "status": license.status(now),
        "max_devices": license.max_devices,
        "devices_used": license.devices_used,
    }
