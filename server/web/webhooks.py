"""Payment platforms post here. Verified, parsed, written to the ledger, answered; letters follow later."""

from __future__ import annotations

import logging
from urllib.parse import parse_qsl

from flask import Blueprint, Response, request

from server.domain.keys import license_id
from server.errors import PlatformOff, Unverified
from server.platforms import WebhookRequest
from server.web.responses import answer, raw_body
from server.web.services import services

log = logging.getLogger(__name__)
blueprint = Blueprint("webhooks", __name__, url_prefix="/api/v1/webhooks")


@blueprint.post("/<platform>")
def receive(platform: str) -> Response:
    posted = webhook_request()  # raw bytes first: once Flask has read the form they are gone
    ours = services()
    configured = ours.platforms.get(platform)
    if configured is None:
        raise PlatformOff("this platform is not configured here")
    try:
        events = configured.events(posted)
    except Unverified as error:
        log.warning("webhook refused", extra={"platform": platform, "code": error.code, "client": request.remote_addr})
        raise
    entries = ours.fulfilment.record(events)
    for entry in entries:
        log.info(
            "webhook recorded",
            extra={
                "platform": platform,
                "seq": entry.seq,
                "event": entry.event,
                "outcome": entry.outcome,
                "licenses": [license_id(key) for key in entry.license_keys],
            },
        )
    first = entries[0]
    return answer({"received": True, "outcome": first.outcome, "license_keys": first.license_keys})


def webhook_request() -> WebhookRequest:
    return WebhookRequest(
        body=raw_body(),
        query=dict(parse_qsl(request.query_string.decode("utf-8", "replace"))),
        header=request.headers.get,
    )
