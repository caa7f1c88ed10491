"""A reconciliation from the dashboard: said first, then done step by step, as long as the owner goes on."""

from __future__ import annotations

from datetime import timedelta

from flask import Response

from server.errors import Conflict, NotFound, PlatformUnreachable, Unprocessable
from server.services.letter_writing import SHOPS
from server.services.reconcile_report import counted
from server.web.admin import frame
from server.web.services import services

blueprint = frame.room("reconcile", place="webhooks")

DAYS = 30  # far longer than any platform goes on sending a webhook again


@blueprint.get("/reconcile/<platform>")
def ask(platform: str) -> Response:
    if platform not in services().platforms:
        raise NotFound("this platform is not set up here")
    shop = SHOPS.get(platform, platform)
    return frame.show(
        "confirm.html",
        title=f"Look for what {shop} told and we did not hear",
        words=[
            f"{shop} is asked for its own record of the last {DAYS} days, and that is held against your ledger.",
            "What is missing is written down as if its webhook had come: what was paid gets its license and "
            "its letter, what was refunded ends.",
            "It goes in steps of a few seconds. Nothing is done twice, however often you go on.",
        ],
        action=f"/admin/reconcile/{platform}",
        back="/admin/webhooks",
        label="Reconcile",
        hidden={},
    )


@blueprint.post("/reconcile/<platform>")
def step(platform: str) -> Response:
    since = (services().clock() - timedelta(days=DAYS)).replace(hour=0, minute=0, second=0)
    try:
        report = services().reconcile.step(platform, since, None, True)
    except (Conflict, NotFound, PlatformUnreachable, Unprocessable) as error:
        return frame.done("/admin/webhooks", error.detail, "bad")
    if report["state"] != "done":
        told = (
            f"By now: {counted(report['pages'], 'page')} of its record read, {counted(report['asked'], 'question')} "
            f"asked, {counted(report['repaired'], 'finding')} repaired. Go on."
        )
        return frame.done(f"/admin/reconcile/{platform}", told, "watch")
    told = report["verdict"] or "The ledger agrees."
    if report["unchecked"]:
        told += f". There was no answer to {counted(report['unchecked'], 'question')}: reconcile once more, later"
    return frame.done("/admin/webhooks", told, "bad" if report["left"] or report["unchecked"] else "good")
