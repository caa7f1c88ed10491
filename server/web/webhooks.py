"""Payment platforms post here. Verified, parsed, written to the ledger, answered; letters follow later."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypedDict
from urllib.parse import parse_qsl

from flask import Blueprint, Response, request
from werkzeug.datastructures import EnvironHeaders
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from server.domain.keys import license_id
from server.domain.purchase import PAID, Entry, Outcome
from server.errors import BadRequest, KeyledgerError, PlatformOff, StorageUnavailable, TooManyRequests, Unverified
from server.platforms import Platform, WebhookRequest
from server.platforms.base import Reply
from server.services import logs
from server.services.deliveries import Reason
from server.services.limits import Kind
from server.services.settlement import Told
from server.web import limits, trouble
from server.web.measured import WEBHOOK
from server.web.pages import wants_page
from server.web.responses import Answered, encode, read_body
from server.web.responses import told as refusal
from server.web.services import services
from server.wiring import Services

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger(__name__)
blueprint = Blueprint("webhooks", __name__)

_FAILED: dict[type[KeyledgerError], str] = {
    Unverified: "refused",
    TooManyRequests: "refused",  # of whose kind there were too many
    BadRequest: "malformed",
    StorageUnavailable: "not written",
}


class Received(TypedDict):
    """A repeat is answered as the first delivery was."""

    received: Literal[True]
    outcome: Outcome
    license_keys: tuple[str, ...]


@blueprint.post("/api/v1/webhooks/<platform>")
def receive(platform: str) -> Response:
    return received(platform, services(), request.environ).response()


def received(platform: str, ours: Services, environ: WSGIEnvironment) -> Answered:
    delivery = _delivered(platform, ours, environ)
    if reply := delivery.platform.reply(delivery.posted):
        return _replied(ours, reply)
    heard = delivery.heard
    told = next((one for one in heard if one.entry is not None and one.entry.event in PAID), heard[0])
    keys = () if delivery.platform.hides_keys else told.license_keys
    return _received(told.outcome, keys)


def _received(outcome: Outcome, keys: tuple[str, ...] = ()) -> Answered:
    body: Received = {"received": True, "outcome": outcome, "license_keys": keys}
    return Answered(encode(body))


@blueprint.get("/api/v1/webhooks/easypaisa")
def receive_easypaisa() -> Response:
    return receive("easypaisa")


@blueprint.post("/webhooks/stripe")  # the older door
def receive_stripe() -> Response:
    return receive("stripe")


@blueprint.errorhandler(StorageUnavailable)
def not_written(error: StorageUnavailable) -> Response:
    """What brings a payment back may be the buyer's own browser, as JazzCash does it: he must not pay again."""
    return trouble.not_written() if wants_page() else refusal(error)


def _replied(ours: Services, reply: Reply) -> Answered:
    """In the platform's own words; a buyer's browser goes on to the page of its order."""
    if reply.order_id is None:
        return Answered(reply.body, reply.content_type)
    if ours.store.orders.find(reply.order_id) is None:
        return _received(Outcome.IGNORED)
    page = f"{ours.settings.app_url}/pay/{reply.order_id}/back"
    return Answered(b"", "text/html; charset=utf-8", 303, [("Location", page)])


def take(platform: str) -> list[Entry]:
    """The ledger lines of this request. Raises PlatformOff, Unverified, BadRequest, StorageUnavailable."""
    heard = _delivered(platform, services(), request.environ).heard
    return [told.entry for told in heard if told.entry is not None]


@dataclass
class _Delivery:
    """One request of a platform's, as far as it came; `is_read`: its proof and its content are good."""

    platform: Platform
    posted: WebhookRequest
    is_read: bool = False
    heard: list[Told] = field(default_factory=list)


def _delivered(name: str, ours: Services, environ: WSGIEnvironment) -> _Delivery:
    """On disk. What is not is counted for the owner, and answered as ever."""
    delivery = None
    try:
        platform = ours.platforms.get(name)
        if platform is None:
            raise PlatformOff("this platform is not configured here")
        if environ["REQUEST_METHOD"] not in platform.methods:
            raise MethodNotAllowed(sorted(platform.methods))
        delivery = _Delivery(platform, webhook_request(environ))  # raw bytes first: a form that is read has none
        _hear(delivery, ours, environ)
    except MethodNotAllowed:  # somebody looked at the address in his browser
        raise
    except Exception as error:
        if delivery is not None:
            ours.tallies.add(WEBHOOK, name, _what_failed(delivery, error))
        size = len(delivery.posted.body) if delivery else _told_length(environ)
        _tell_owner(ours, name, delivery, error, size)
        raise
    ours.deliveries.took(name)
    return delivery


def _hear(delivery: _Delivery, ours: Services, environ: WSGIEnvironment) -> None:
    name = delivery.platform.name
    try:
        events = delivery.platform.events(delivery.posted)
    except Unverified as error:
        limits.failed_proof(ours, environ, Kind.WEBHOOK)
        extra = {"platform": name, "code": error.code, "client": limits.client_of(environ)}
        log.warning("webhook refused", extra=extra)
        raise
    delivery.is_read = True
    delivery.heard = ours.settlement.hear(events)
    for told in delivery.heard:
        ours.tallies.add(WEBHOOK, name, told.outcome)
        _log(name, told)


def _what_failed(delivery: _Delivery, error: Exception) -> str:
    """What cannot be read is a platform's only where it is proven: else anybody could have the owner called."""
    word = next((word for kind, word in _FAILED.items() if isinstance(error, kind)), "failed")
    return "refused" if word == "malformed" and _reason(delivery, error) is Reason.UNREADABLE else word


def _told_length(environ: WSGIEnvironment) -> int:
    told = environ.get("CONTENT_LENGTH") or ""
    return int(told) if told.isdecimal() else 0


def _tell_owner(ours: Services, name: str, delivery: _Delivery | None, error: Exception, size: int) -> None:
    if isinstance(error, TooManyRequests) and isinstance(error.__context__, Unverified):
        error = error.__context__
    if delivery is not None and isinstance(error, BadRequest) and _is_trial(delivery):
        return
    told = error.description if isinstance(error, HTTPException) else str(error)
    detail = told or "" if isinstance(error, KeyledgerError | HTTPException) else type(error).__name__
    ours.deliveries.failed(name, _reason(delivery, error), size, logs.masked(detail))


def _is_trial(delivery: _Delivery) -> bool:
    """The owner's check-up, which knocks at each door."""
    trial, posted = delivery.platform.trial(), delivery.posted
    return (trial.body, trial.query) == (posted.body, posted.query)


def _reason(delivery: _Delivery | None, error: Exception) -> Reason:
    if isinstance(error, PlatformOff):
        return Reason.OFF
    if isinstance(error, Unverified):
        return Reason.PROOF
    if delivery is None or not (delivery.is_read or _is_proven(delivery)):
        return Reason.UNREADABLE
    if isinstance(error, StorageUnavailable):
        return Reason.STORAGE
    return Reason.CONTENT if isinstance(error, BadRequest) else Reason.ERROR


def _is_proven(delivery: _Delivery) -> bool:
    """Whether what could not be read came with the platform's proof."""
    try:
        delivery.platform.verify(delivery.posted)
    except Exception:
        return False
    return delivery.platform.proves_notices


def _log(platform: str, told: Told) -> None:
    fields: dict[str, object] = {"platform": platform, "outcome": told.outcome}
    if entry := told.entry:
        fields |= {"seq": entry.seq, "event": entry.event, "licenses": [license_id(key) for key in entry.license_keys]}
    logs.info(log, "webhook recorded", fields)


def webhook_request(environ: WSGIEnvironment) -> WebhookRequest:
    return WebhookRequest(
        body=read_body(environ),
        query=_query(environ.get("QUERY_STRING", "")),
        header=EnvironHeaders(environ).get,
    )


@lru_cache(8)
def _query(raw: str) -> Mapping[str, str]:
    """A platform's webhooks all come with the one query that its owner gave it. WSGI gives its bytes as Latin-1."""
    return dict(parse_qsl(raw.encode("latin-1").decode("utf-8", "replace")))
