"""Payment platforms post here. Verified, parsed, written to the ledger, answered; letters follow later."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, TypedDict
from urllib.parse import parse_qsl

from flask import Blueprint, Response, request
from werkzeug.exceptions import MethodNotAllowed

from server.domain.keys import license_id
from server.domain.purchase import PAID, Entry, Outcome, PurchaseEvent
from server.errors import BadRequest, KeyledgerError, PlatformOff, StorageUnavailable, TooManyRequests, Unverified
from server.platforms import Platform, WebhookRequest
from server.platforms.base import Reply
from server.services.limits import Kind
from server.services.settlement import Told
from server.web import limits, logs, trouble
from server.web.measured import WEBHOOK
from server.web.pages import wants_page
from server.web.responses import answer, raw_body
from server.web.responses import told as refusal
from server.web.services import services

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
    configured = configured_platform(platform)
    if request.method not in configured.methods:
        raise MethodNotAllowed(sorted(configured.methods))
    posted = webhook_request()  # raw bytes first: once Flask has read the form they are gone
    heard = hear(configured, posted)
    if reply := configured.reply(posted):
        return _replied(reply)
    told = next((one for one in heard if one.entry is not None and one.entry.event in PAID), heard[0])
    keys = () if configured.hides_keys else told.license_keys
    body: Received = {"received": True, "outcome": told.outcome, "license_keys": keys}
    return answer(body)


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


def _replied(reply: Reply) -> Response:
    """In the platform's own words; a buyer's browser goes on to the page of its order."""
    if reply.order_id is None:
        return Response(reply.body, content_type=reply.content_type)
    if services().store.orders.find(reply.order_id) is None:
        return answer({"received": True, "outcome": Outcome.IGNORED, "license_keys": ()})
    return Response(status=303, headers={"Location": f"{services().settings.app_url}/pay/{reply.order_id}/back"})


def take(platform: str) -> list[Entry]:
    """The ledger lines of this request. Raises PlatformOff, Unverified, BadRequest, StorageUnavailable."""
    heard = hear(configured_platform(platform), webhook_request())
    return [told.entry for told in heard if told.entry is not None]


def configured_platform(name: str) -> Platform:
    found = services().platforms.get(name)
    if found is None:
        raise PlatformOff("this platform is not configured here")
    return found


def hear(platform: Platform, posted: WebhookRequest) -> list[Told]:
    """What became of this request's events, on disk."""
    try:
        heard = services().settlement.hear(_proven(platform, posted))
    except KeyledgerError as error:
        _count(platform, next((word for kind, word in _FAILED.items() if isinstance(error, kind)), "failed"))
        raise
    for told in heard:
        _count(platform, told.outcome)
        _log(platform.name, told)
    return heard


def _count(platform: Platform, outcome: str) -> None:
    services().tallies.add(WEBHOOK, platform.name, outcome)


def _proven(platform: Platform, posted: WebhookRequest) -> Sequence[PurchaseEvent]:
    try:
        return platform.events(posted)
    except Unverified as error:
        limits.failed_proof(Kind.WEBHOOK)
        extra = {"platform": platform.name, "code": error.code, "client": request.remote_addr}
        log.warning("webhook refused", extra=extra)
        raise


def _log(platform: str, told: Told) -> None:
    fields: dict[str, object] = {"platform": platform, "outcome": told.outcome}
    if entry := told.entry:
        fields |= {"seq": entry.seq, "event": entry.event, "licenses": [license_id(key) for key in entry.license_keys]}
    logs.info(log, "webhook recorded", fields)


def webhook_request() -> WebhookRequest:
    return WebhookRequest(
        body=raw_body(),
        query=_query(request.query_string),
        header=request.headers.get,
    )


@lru_cache(8)
def _query(raw: bytes) -> Mapping[str, str]:
    """A platform's webhooks all come with the one query that its owner gave it."""
    return dict(parse_qsl(raw.decode("utf-8", "replace")))
