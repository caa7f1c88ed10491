"""Payment platforms post here. Verified, parsed, written to the ledger, answered; letters follow later."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, TypedDict
from urllib.parse import parse_qsl

from flask import Blueprint, Response, request

from server.domain.keys import license_id
from server.domain.purchase import PAID, Entry, Outcome
from server.errors import PlatformOff, Unverified
from server.platforms import WebhookRequest
from server.services.limits import Kind
from server.web import limits, logs
from server.web.responses import answer, raw_body
from server.web.services import services

log = logging.getLogger(__name__)
blueprint = Blueprint("webhooks", __name__)


class Received(TypedDict):
    """A repeat is answered as the first delivery was."""

    received: Literal[True]
    outcome: Outcome
    license_keys: tuple[str, ...]


@blueprint.post("/api/v1/webhooks/<platform>")
def receive(platform: str) -> Response:
    entries = take(platform)
    told = next((entry for entry in entries if entry.event in PAID), entries[0])
    body: Received = {"received": True, "outcome": told.outcome, "license_keys": told.license_keys}
    return answer(body)


@blueprint.post("/webhooks/stripe")  # the older door
def receive_stripe() -> Response:
    return receive("stripe")


def take(platform: str) -> list[Entry]:
    """The lines of this request, on disk. Raises PlatformOff, Unverified, BadRequest, StorageUnavailable."""
    posted = webhook_request()  # raw bytes first: once Flask has read the form they are gone
    ours = services()
    configured = ours.platforms.get(platform)
    if configured is None:
        raise PlatformOff("this platform is not configured here")
    try:
        events = configured.events(posted)
    except Unverified as error:
        limits.failed_proof(Kind.WEBHOOK)
        log.warning("webhook refused", extra={"platform": platform, "code": error.code, "client": request.remote_addr})
        raise
    entries = ours.inquiries.record(events)
    for entry in entries:
        fields = {
            "platform": platform,
            "seq": entry.seq,
            "event": entry.event,
            "outcome": entry.outcome,
            "licenses": [license_id(key) for key in entry.license_keys],
        }
        logs.info(log, "webhook recorded", fields)
    return entries


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
