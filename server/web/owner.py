"""The owner's API: bearer ADMIN_API_KEY on every route."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from flask import Blueprint, Response, request

from server.domain.keys import license_id
from server.domain.license import Device, License, Moment, Status, devices_after
from server.domain.purchase import Entry, Outcome
from server.errors import BadRequest
from server.services.audit import Filters, read_moment
from server.services.license_manager import is_license_id
from server.services.outbox import OutboxSummary
from server.storage.base import Letter
from server.web.auth import require_owner
from server.web.licenses import Email, Name, Text
from server.web.responses import answer, body_of, checked, query_of, raw_body, shown
from server.web.services import services

blueprint = Blueprint("owner", __name__, url_prefix="/api/v1")
blueprint.before_request(require_owner)

Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]
Seats = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
_SINCE = "What was sold from this day on, and what became of it."
Page = Annotated[int, msgspec.Meta(ge=1, le=500)]


class IssueRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`duration_days` null takes the product's, -1 is for life."""

    email: Email
    customer_name: Text
    product_id: Name
    duration_days: Annotated[int, msgspec.Meta(ge=-1, le=36_500)] | None = None
    max_devices: Seats | None = None
    note: Text | None = None


class ExtendRequest(msgspec.Struct, frozen=True, kw_only=True):
    days: Days | None = None
    until: Moment | None = None


class TransferRequest(msgspec.Struct, frozen=True, kw_only=True):
    email: Email
    customer_name: Text | None = None


class NoteRequest(msgspec.Struct, frozen=True, kw_only=True):
    note: Text | None = None


class ShownLicense(License, kw_only=True):
    """The record of `licenses.json` (a field that has its default may be left out), with all devices."""

    id: str
    license_key: str
    standing: Status = msgspec.field(name="status")
    devices: tuple[Device, ...]


class Issued(ShownLicense, kw_only=True):
    """The first license, and all of a bundle."""

    license_keys: tuple[str, ...]
    licenses: tuple[ShownLicense, ...]


class Decided(ShownLicense, kw_only=True):
    outcome: Outcome


class LicensePage(TypedDict):
    licenses: list[ShownLicense]
    next_cursor: str | None


class Queued(TypedDict):
    queued: bool


class LicenseQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    email: str | None = None
    product: str | None = None
    status: str | None = None
    purchase_id: str | None = None
    limit: Page = 50
    cursor: str = ""


@blueprint.post("/licenses")
def issue() -> Response:
    asked = body_of(IssueRequest)
    if asked.duration_days == 0:
        raise BadRequest("duration_days: 0 days is no license; -1 is for life")
    entry = services().licenses.issue(
        email=asked.email.strip(),
        customer_name=asked.customer_name,
        product_id=asked.product_id,
        duration_days=asked.duration_days,
        max_devices=asked.max_devices,
        note=asked.note,
        sale_id=_idempotency_key(),
    )
    keys = entry.license_keys
    licenses = [_shown(key, found) for key in keys if (found := services().store.find_license(key))]
    return answer({**licenses[0], "license_keys": keys, "licenses": licenses}, 201)


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key", "").strip()
    if len(key) > 128 or not key.isprintable():
        raise BadRequest("Idempotency-Key: at most 128 printable characters")
    return f"request-{key}" if key else None


@blueprint.get("/licenses")
def find() -> Response:
    asked = query_of(LicenseQuery)
    if asked.cursor and not is_license_id(asked.cursor):
        raise BadRequest("cursor: is not one that this API gave")
    page: list[dict[str, Any]] = []
    for key, license in services().store.licenses(after=asked.cursor):
        if _matches(license, asked):
            page.append(_shown(key, license))
            if len(page) > asked.limit:
                break
    more = len(page) > asked.limit
    return answer({"licenses": page[: asked.limit], "next_cursor": page[asked.limit - 1]["id"] if more else None})


def _matches(license: License, asked: LicenseQuery) -> bool:
    return (
        (asked.email is None or asked.email.strip().lower() == license.email.lower())
        and (asked.product is None or asked.product == license.product_id)
        and (asked.purchase_id is None or asked.purchase_id == license.purchase_id)
        and (asked.status is None or asked.status == license.status(services().clock()))
    )


@blueprint.get("/licenses/<name>")
def show(name: str) -> Response:
    return answer(_shown(*services().licenses.get(name)))


@blueprint.post("/licenses/<name>/extend")
def extend(name: str) -> Response:
    asked = body_of(ExtendRequest)
    if (asked.days is None) == (asked.until is None):
        raise BadRequest("days or until: exactly one of them is needed")
    return _decided(services().licenses.extend(name, asked.days, _in_utc(asked.until)))


def _in_utc(moment: datetime | None) -> datetime | None:
    try:
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC) if moment else None
    except OverflowError:
        raise BadRequest("until: is no date that a calendar has") from None


@blueprint.post("/licenses/<name>/suspend")
def suspend(name: str) -> Response:
    return _decided(services().licenses.suspend(name, _note()))


@blueprint.post("/licenses/<name>/reinstate")
def reinstate(name: str) -> Response:
    return _decided(services().licenses.reinstate(name, _note()))


@blueprint.post("/licenses/<name>/revoke")
def revoke(name: str) -> Response:
    return _decided(services().licenses.revoke(name, _note()))


@blueprint.post("/licenses/<name>/transfer")
def transfer(name: str) -> Response:
    asked = body_of(TransferRequest)
    return _decided(services().licenses.transfer(name, asked.email.strip(), asked.customer_name))


@blueprint.post("/licenses/<name>/reissue")
def reissue(name: str) -> Response:
    return _decided(services().licenses.reissue(name))


@blueprint.post("/licenses/<name>/reset-devices")
def reset_devices(name: str) -> Response:
    services().licenses.reset_devices(name)
    return show(name)


@blueprint.post("/licenses/<name>/resend")
def resend(name: str) -> Response:
    key, _ = services().licenses.get(name)
    services().outbox.resend(key)
    return answer({"queued": True}, 202)


def _note() -> str | None:
    raw = raw_body()
    return checked(raw, NoteRequest).note if raw else None


def _decided(entry: Entry) -> Response:
    key, license = services().licenses.get(entry.license_keys[0])
    return answer({**_shown(key, license), "outcome": entry.outcome})


def _shown(key: str, license: License) -> dict[str, Any]:
    now = services().clock()
    record = shown(license.at(now))
    record["devices"] = shown_devices(key)
    return {"id": license_id(key), "license_key": key, **record, "status": license.status(now)}


def shown_devices(key: str) -> list[Any]:
    return [shown(device) for device in devices_after(services().store.device_lines(key))]


# ---------------------------------------------------------------------------------------------------- the books
class PurchaseQuery(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Page = 50
    cursor: Annotated[int, msgspec.Meta(ge=0)] = 0


# A line of the ledger as `row_of` tells it: without the platform's payload, with the first key by itself.
Purchase = msgspec.defstruct(
    "Purchase",
    [(f.name, f.type, f.default) for f in msgspec.structs.fields(Entry) if f.name != "raw"]
    + [("license_key", str | None)],
    kw_only=True,
)


class PurchasePage(TypedDict):
    purchases: list[Purchase]  # type: ignore[valid-type]
    next_cursor: int | None


class ReconcileRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`since` and `until` are days (UTC) or moments."""

    since: Annotated[str, msgspec.Meta(min_length=10, max_length=40, description=_SINCE)]
    until: (
        Annotated[str, msgspec.Meta(min_length=10, max_length=40, description="Now, where it is not given.")] | None
    ) = None
    apply: Annotated[bool, msgspec.Meta(description="Repair what can be repaired.")] = False


class LetterQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    state: Literal["queued", "sending", "sent", "failed", "dead", "dropped"] | None = None


class OutboxAnswer(TypedDict):
    summary: OutboxSummary
    letters: Sequence[Letter]


@blueprint.get("/purchases")
def purchases() -> Response:
    """Newest first; `cursor` is the `seq` to go on below."""
    asked = query_of(PurchaseQuery)
    filters = {name: value for name, value in shown(asked).items() if name not in ("limit", "cursor") and value}
    rows, cursor = services().audit.page(filters, limit=asked.limit, below=asked.cursor or None)
    return answer({"purchases": rows, "next_cursor": cursor})


@blueprint.get("/stats")
def stats() -> Response:
    return answer(services().audit.get_purchase_stats())


@blueprint.get("/outbox")
def outbox() -> Response:
    asked, found = query_of(LetterQuery), services().outbox
    body: OutboxAnswer = {"summary": found.summary(), "letters": found.list(asked.state)}
    return answer(body)


@blueprint.post("/outbox/send")
def send() -> Response:
    """For a scheduled task on another machine: send what is due now and tell how it went."""
    services().store.tidy()
    return answer(services().outbox.send_due(by_hand=True))


@blueprint.post("/reconcile/<platform>")
def reconcile(platform: str) -> Response:
    """One step of a few seconds; asked again with the same words until it is done."""
    asked = body_of(ReconcileRequest)
    since = read_moment(asked.since, "since")
    until = read_moment(asked.until, "until", ends=True) if asked.until else None
    if until is not None and since > until:
        raise BadRequest("until: is before since")
    return answer(services().reconcile.step(platform, since, until, asked.apply))
