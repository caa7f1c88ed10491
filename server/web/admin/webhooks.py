"""Webhooks: whether they come through, what each of them said and did, and handling one again."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from flask import Response

from server.domain.keys import license_id
from server.domain.purchase import Entry
from server.platforms import PLATFORMS
from server.services.audit import row_of
from server.services.second_look import Way
from server.web.admin import frame
from server.web.admin.purchases import PAGE, LineQuery, choices, shown
from server.web.responses import query_of
from server.web.services import services

blueprint = frame.room("webhooks")
_UNSEEN = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
_APART = frozenset({"seq", "timestamp", "license_key", "license_keys", "grants", "prev", "outcome", "event", "source"})


@blueprint.get("/webhooks")
def find() -> Response:
    """What strangers sent is told by numbers; a platform's own notices stand in the ledger, line by line."""
    asked = query_of(LineQuery)
    rows, below = services().audit.browse(asked.filters(), PAGE, asked.below or None, also=_is_notice)
    return frame.show(
        "webhooks.html",
        asked=asked,
        rows=list(map(shown, rows)),
        next=below,
        senders=services().deliveries.health(),
        **choices(),
    )


def _is_notice(entry: Entry) -> bool:
    return entry.source in PLATFORMS


@blueprint.get("/webhooks/<int:seq>")
def show(seq: int) -> Response:
    ours = services()
    entry = ours.audit.get(seq)
    prospect, newest = ours.second_look.foresee(entry), ours.second_look.newest(entry)
    payload = readable(bytes(entry.raw))
    return frame.show(
        "webhook.html",
        entry=entry,
        row=shown(row_of(msgspec.structs.replace(entry))),
        fields=_fields(entry),
        payload=payload,
        prospect=prospect,
        can_handle=prospect.way not in (Way.NOTHING, Way.WAITS),
        newest=newest if newest.seq != entry.seq else None,
        letters=frame.letters(lambda: ours.outbox.of_line(entry)),
        others=[shown(row_of(other)) for other in ours.store.history(entry.names()) if other.seq != entry.seq],
        order=_order(entry),
        licenses=[(license_id(key), key) for key in entry.license_keys],
    )


@blueprint.get("/webhooks/<int:seq>/again")
def confirm(seq: int) -> Response:
    entry = services().audit.get(seq)
    prospect = services().second_look.foresee(entry)
    if prospect.way in (Way.NOTHING, Way.WAITS):
        return frame.done(f"/admin/webhooks/{seq}", prospect.words, "bad")
    return frame.show(
        "confirm.html",
        title=f"Handle line {seq} again",
        words=[prospect.words, "Pressed twice, it is done once: an event counts once, however often it is told."],
        action=f"/admin/webhooks/{seq}/again",
        back=f"/admin/webhooks/{seq}",
        label="Handle it again",
        hidden={},
    )


@blueprint.post("/webhooks/<int:seq>/again")
def handle(seq: int) -> Response:
    handled = services().second_look.handle(services().audit.get(seq))
    return frame.done(f"/admin/webhooks/{handled.entry.seq if handled.is_news else seq}", handled.words)


def readable(raw: bytes) -> str:
    """JSON for reading, with nothing in it that is not seen, or that turns the writing around."""
    try:
        text = json.dumps(json.loads(raw), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = raw.decode("utf-8", "replace")
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _fields(entry: Entry) -> list[tuple[str, str]]:
    """What was read out of it, and what was decided, where that says something."""
    row = row_of(msgspec.structs.replace(entry))
    said = {name: value for name, value in row.items() if name not in _APART and value not in (None, [], False, "")}
    return [(name.replace("_", " "), _told(value)) for name, value in said.items()]


def _told(value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, list):
        return ", ".join(one if isinstance(one, str) else readable(json.dumps(one).encode()) for one in value)
    return str(value)


def _order(entry: Entry) -> tuple[str, str] | None:
    """The id and the number of the order that it is about."""
    file = services().store.orders.find(entry.order_id) if entry.order_id else None
    return (file.order.order_id, file.order.number) if file else None
