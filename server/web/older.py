"""The doors that older apps call: the same services and the same verdicts in the shapes those apps expect."""

from __future__ import annotations

import hashlib
from datetime import MAXYEAR, datetime
from typing import Annotated, Literal, TypedDict

import msgspec
from flask import Blueprint, Response, request

from server.domain.license import DETAIL, Claim, Code, License, Moment, Status
from server.errors import BadRequest, Unprocessable
from server.services.license_manager import FOR_LIFE
from server.web import limits
from server.web.auth import require_owner
from server.web.licenses import Email, Key, Name, PublicLicense, public_license
from server.web.responses import answer, body_of
from server.web.services import services

blueprint = Blueprint("older", __name__, url_prefix="/api")
blueprint.after_request(limits.tell)

LIFETIME_YEARS = 100


class OlderLicense(TypedDict):
    product_id: str | None
    product_name: str | None
    features: list[str]
    purchase_date: Moment
    expiry_date: Moment | None
    status: Status


class OlderVerdict(TypedDict):
    valid: bool
    error: str | None
    license: OlderLicense | None


class Verified(TypedDict):
    """`expiresAt` is in milliseconds; for life is told as a hundred years. `userId` is never an e-mail address."""

    valid: Literal[True]
    tier: str | None
    expiresAt: int
    userId: str
    features: list[str]


class Refused(TypedDict):
    valid: Literal[False]
    error: str


class Generated(TypedDict):
    """`expiresAt` and `generatedAt` are in milliseconds."""

    success: Literal[True]
    license: str
    tier: str
    userId: str | int | None
    userEmail: str
    expiresAt: int
    generatedAt: int
    features: list[str]


class ValidateLicenseRequest(msgspec.Struct, frozen=True, kw_only=True):
    license_key: Key
    email: Annotated[str, msgspec.Meta(min_length=1, max_length=254)]


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    license: Key


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`tier` is a product's id or a tier (the first product that has it); `duration` is in days, -1 for life."""

    user_id: Name | Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | None = None
    user_email: Email
    tier: Name
    duration: Annotated[int, msgspec.Meta(ge=-1, le=36_500)] | None = None
    payment_intent_id: Name | None = None


@blueprint.post("/validate-license")
def validate_license() -> Response:
    limits.by_address()
    asked = body_of(ValidateLicenseRequest)
    limits.by_key(request.environ, asked.license_key)
    verdict = services().licenses.validate(asked.license_key, Claim(email=asked.email))
    limits.by_verdict(services(), request.environ, verdict)
    known = public_license(verdict, services().clock())
    hidden = known is None or verdict.code is Code.USER_SCOPE_MISMATCH
    told: OlderVerdict = {
        "valid": verdict.valid,
        "error": None if verdict.valid else f"This license {DETAIL[verdict.code]}.",
        "license": None if hidden or known is None else _older(known),
    }
    return answer(told)


def _older(known: PublicLicense) -> OlderLicense:
    return {
        "product_id": known["product_id"],
        "product_name": known["product_name"],
        "features": known["features"],
        "purchase_date": known["purchase_date"],
        "expiry_date": known["expiry_date"],
        "status": known["status"],
    }


@blueprint.post("/verify")
def verify() -> Response:
    limits.by_address()
    asked = body_of(VerifyRequest)
    limits.by_key(request.environ, asked.license)
    verdict = services().licenses.validate(asked.license, Claim())
    limits.by_verdict(services(), request.environ, verdict)
    if not verdict.valid or verdict.license is None or verdict.key is None:
        refused: Refused = {"valid": False, "error": f"This license {DETAIL[verdict.code]}."}
        return answer(refused, 401)
    license = verdict.license
    tier = license.tier or (verdict.product.tier if verdict.product else None) or license.product_id
    verified: Verified = {
        "valid": True,
        "tier": tier,
        "expiresAt": _milliseconds(_told_expiry(license)),
        "userId": _user_id(verdict.key, license),
        "features": verdict.features,
    }
    return answer(verified)


@blueprint.post("/generate")
def generate() -> Response:
    require_owner()
    asked = body_of(GenerateRequest)
    if asked.duration == 0:
        raise BadRequest("duration: 0 days is no license; -1 is for life")
    product = services().catalogue.current().of_tier(asked.tier)
    if product is None:
        raise Unprocessable(f"tier: there is no product or tier {asked.tier!r}", "UNKNOWN_TIER")
    entry = services().licenses.issue(
        email=asked.user_email.strip(),
        customer_name="",
        product_id=product.id,
        duration_days=FOR_LIFE if asked.duration == -1 else asked.duration,
        sale_id=asked.payment_intent_id,
        customer_id=str(asked.user_id) if asked.user_id is not None else None,
    )
    key = entry.license_keys[0]
    _, license = services().licenses.get(key)
    catalogue = services().catalogue.current()
    generated: Generated = {
        "success": True,
        "license": key,
        "tier": asked.tier,
        "userId": asked.user_id,
        "userEmail": license.email,
        "expiresAt": _milliseconds(_told_expiry(license)),
        "generatedAt": _milliseconds(license.created_date),
        "features": catalogue.features(product, license.tier, license.features),
    }
    return answer(generated)


def _told_expiry(license: License) -> datetime:
    """These apps know no license for life: it is told as a hundred years."""
    if license.expiry_date is not None:
        return license.expiry_date
    created = license.created_date
    day = 28 if (created.month, created.day) == (2, 29) else created.day
    return created.replace(year=min(created.year + LIFETIME_YEARS, MAXYEAR), day=day)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _user_id(key: str, license: License) -> str:
    """The id that the seller gave the customer, or one of ours; never an e-mail address."""
    given = [entry.customer_id for entry in services().store.history([key]) if entry.customer_id]
    if given and "@" not in given[0]:
        return str(given[0])
    return "cus_" + hashlib.sha256(license.email.lower().encode()).hexdigest()[:20]
