"""The first page: what needs a look, and how the shop does."""

from __future__ import annotations

import logging

from flask import Response

from server.domain import money
from server.errors import KeyledgerError
from server.services import backup
from server.services.attention import Kind
from server.services.figures import WINDOWS
from server.services.letter_writing import SHOPS
from server.web.admin import frame
from server.web.admin.chart import chart_of
from server.web.services import services

log = logging.getLogger(__name__)

blueprint = frame.room("home")

# Where a matter is looked into, and what the link there says.
_LINKS = {
    Kind.UNMAPPED: ("/waiting", "The sales that wait"),
    Kind.HELD: ("/waiting", "The sales that are held"),
    Kind.ORDERS: ("/orders?doubted=yes", "The orders"),
    Kind.LETTERS: ("/letters?state=dead", "The letters"),
    Kind.MAIL: ("/letters", "The letters"),
    Kind.WEBHOOKS: ("/webhooks", "The webhooks"),
    Kind.CATALOGUE: ("/catalogue", "The catalogue"),
}
# What mends it at once: where its button leads, and what it says.
_BUTTONS = {
    Kind.UNMAPPED: ("/waiting", "Issue what is mapped now"),
    Kind.LETTERS: ("/letters/retry", "Try to deliver them again"),
    Kind.BACKUP: ("/backup", "Make one now"),
}
_LARGE = 200_000  # lines of a ledger whose backup takes longer than a page may
_KEPT = 30


@blueprint.post("/backup")
def make_backup() -> Response:
    ours = services()
    if ours.store.state().ledger_lines > _LARGE:
        return frame.done("/admin", "Books of this size take longer than a page may: run the command.", "bad")
    try:
        made = backup.make(ours.settings, ours.clock(), keep=_KEPT)
    except (KeyledgerError, OSError) as error:
        return frame.done(
            "/admin", f"The backup could not be made: {error}. The command may run as another user.", "bad"
        )
    if made.findings:
        return frame.done(
            "/admin", f"{made.file.name} was made, but books in it are damaged: see audit.py verify.", "bad"
        )
    return frame.done("/admin", f"{made.file.name} was made, and read back. Copy it to another machine.")


@blueprint.get("")
def home() -> Response:
    try:
        told = services().figures.told()
    except (KeyledgerError, OSError) as error:
        log.error("dashboard: the figures cannot be told: %s", error)
        told = None
    charts = {currency.code: chart_of(currency, SHOPS) for currency in told.currencies} if told else {}
    return frame.show(
        "home.html",
        matters=services().attention.matters(),
        links=_LINKS,
        buttons=_BUTTONS,
        figures=told,
        charts=charts,
        highest={code: money.told(chart.highest, code) for code, chart in charts.items()},
        shops=SHOPS,
        windows=dict(zip(WINDOWS, ("Today", "7 days", "30 days"), strict=True)),
        licenses=services().store.state().licenses,
    )
