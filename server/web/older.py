"""The doors that older apps call: the same services and the same verdicts in the shapes those apps expect."""

from __future__ import annotations

import hashlib
from datetime import MAXYEAR, datetime
from typing import Annotated, Any

import msgspec
from flask import Blueprint, Response

from server.domain.license import DETAIL, Claim, Code, License
from server.errors import BadRequest, Unprocessable
from server.services.license_manager import FOR_LIFE
from server.web import limits
from server.web.auth import require_owner
from server.web.licenses import Email, Key, Name, public_license
from server.web.responses import answer, body_of
from server.web.services import services

blueprint = Blueprint("older", __name__, url_prefix="/api")
blueprint.after_request(limits.tell)

LIFETIME_YEARS = 100
_TOLD = ("product_id", "product_name", "features", "purchase_date", "expiry_date", "status")


class ValidateLicenseRequest(msgspec.Struct, frozen=True, kw_only=True):
    license_key: Key
    email: Annotated[str, msgspec.Meta(min_length=1, max_length=254)]


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    license: Key


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    user_id: Annotated[str | int, msgspec.Meta()] | None = None
    user_email: Email
    tier: Name
    duration: Annotated[int, msgspec.Meta(ge=-1, le=36_500)] | None = None
    payment_intent_id: Name | None = None


@blueprint.post("/validate-license")
def validate_license() -> Response:
    limits.by_address()
    asked = body_of(ValidateLicenseRequest)
    limits.by_key(asked.license_key)
    verdict = services().licenses.validate(asked.license_key, Claim(email=asked.email))
    limits.by_verdict(verdict)
    known = public_license(verdict, services().clock())
    hidden = known is None or verdict.code is Code.USER_SCOPE_MISMATCH
    return answer(
        {
            "valid": verdict.valid,
            "error": None if verdict.valid else f"This license {DETAIL[verdict.code]}.",
            "license": None if hidden or known is None else {name: known[name] for name in _TOLD},
        }
    )


@blueprint.post("/verify")
def verify() -> Response:
    limits.by_address()
    asked = body_of(VerifyRequest)
    limits.by_key(asked.license)
    verdict = services().licenses.validate(asked.license, Claim())
    limits.by_verdict(verdict)
    if not verdict.valid or verdict.license is None or verdict.key is None:
        return answer({"valid": False, "error": f"This license {DETAIL[verdict.code]}."}, 401)
    license = verdict.license
    tier = license.tier or (verdict.product.tier if verdict.product else None) or license.product_id
    return answer(
        {
            "valid": True,
            "tier": tier,
            "expiresAt": _milliseconds(_told_expiry(license)),
            "userId": _user_id(verdict.key, license),
            "features": verdict.features,
        }
    )


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
    return answer(
        {
            "success": True,
            "license": key,
            "tier": asked.tier,
            "userId": asked.user_id,
            "userEmail": license.email,
            "expiresAt": _milliseconds(_told_expiry(license)),
            "generatedAt": _milliseconds(license.created_date),
            "features": catalogue.features(product, license.tier, license.features),
        }
    )


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
    given: list[Any] = [entry.customer_id for entry in services().store.history([key]) if entry.customer_id]
    if given and "@" not in given[0]:
        return str(given[0])
    return "cus_" + hashlib.sha256(license.email.lower().encode()).hexdigest()[:20]
