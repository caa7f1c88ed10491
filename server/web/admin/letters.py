"""Letters: what was sent, what waits and why, how each reads, and sending it again."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from flask import Response

from server.domain.keys import license_id
from server.services.letters import INQUIRIES
from server.services.outbox import STATES
from server.services.sending import SendReport
from server.storage.base import Letter
from server.web.admin import frame
from server.web.admin.purchases import PAGE
from server.web.admin.spreadsheets import spreadsheet
from server.web.responses import query_of
from server.web.services import services

blueprint = frame.room("letters")
TONES = {"sent": "good", "dead": "bad", "failed": "watch"}
COLUMNS = "id kind to state attempts first_at at next_at error".split()
_UNSENT = ("dead", "failed", "queued")


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """`skip` is how many letters were shown on the pages before."""

    state: Literal["queued", "sending", "sent", "failed", "dead", "dropped"] | None = None
    skip: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0


class OnceForm(msgspec.Struct, frozen=True, kw_only=True):
    once: frame.Once


@blueprint.get("/letters")
def find() -> Response:
    asked, outbox = query_of(Query), services().outbox
    letters, more = outbox.page(asked.state, asked.skip, PAGE)
    return frame.show(
        "letters.html",
        asked=asked,
        letters=letters,
        next=asked.skip + PAGE if more else None,
        states=STATES,
        tones=TONES,
        summary=outbox.summary(),
        questions=INQUIRIES,
        is_printed=services().settings.email_backend == "console",
    )


@blueprint.get("/letters.csv")
def export() -> Response:
    rows = map(msgspec.structs.asdict, services().store.letterbox.newest(query_of(Query).state))
    return spreadsheet("letters", rows, COLUMNS)


@blueprint.post("/letters/send")
def send() -> Response:
    services().store.tidy()
    report = services().outbox.send_due(by_hand=True)
    is_good = not (report.failed or report.dead or report.trouble)
    return frame.done("/admin/letters", _told(report), "good" if is_good else "bad")


def _told(report: SendReport) -> str:
    if report.busy:
        return "Another process is sending just now."
    counts = [
        (report.sent, "sent"),
        (report.answered, "answered"),
        (report.failed, "failed"),
        (report.dead, "given up"),
    ]
    told = [f"{number} {word}" for number, word in [*counts, (report.dropped, "dropped")] if number]
    words = f"{', '.join(told) if told else 'Nothing was due'}; {report.waiting} wait."
    return f"{words} {report.trouble or report.refusal or ''}".strip()


@blueprint.post("/letters/retry")
def retry_all() -> Response:
    count = len(services().outbox.retry())
    return frame.done(
        "/admin/letters", f"{count} letter{'' if count == 1 else 's'} will be tried again, for a week more."
    )


# ---------------------------------------------------------------------------------------------------- one letter
@blueprint.get("/letters/<letter_id>")
def show(letter_id: str) -> Response:
    outbox = services().outbox
    letter = outbox.get(letter_id)
    message = outbox.reading(letter)
    body = message.get_body(("plain",)) if message else None
    return frame.show(
        "letter.html",
        letter=letter,
        tone=TONES.get(letter.state, "quiet"),
        is_question=letter.kind in INQUIRIES,
        message=message,
        text=body.get_content() if body else None,
        can_retry=letter.state in _UNSENT,
        why_fixed=outbox.fixed(letter),
        license=license_id(letter.license_key) if letter.license_key else None,
    )


@blueprint.post("/letters/<letter_id>/retry")
def retry(letter_id: str) -> Response:
    services().outbox.retry(letter_id)
    return frame.done(f"/admin/letters/{letter_id}", "It is tried again at once, and for a week more.")


@blueprint.get("/letters/<letter_id>/again")
def confirm(letter_id: str) -> Response:
    letter = services().outbox.get(letter_id)
    if why := services().outbox.fixed(letter):
        return frame.done(f"/admin/letters/{letter_id}", f"{why[:1].upper()}{why[1:]}.", "bad")
    words = [f"The letter goes out once more to {letter.to}, as it reads today.", *_printed(letter)]
    return frame.show(
        "confirm.html",
        title="Send this letter once more",
        words=words,
        action=f"/admin/letters/{letter_id}/again",
        back=f"/admin/letters/{letter_id}",
        label="Send it",
        hidden={},
        once=frame.one_time(),
    )


def _printed(letter: Letter) -> list[str]:
    is_printed = services().settings.email_backend == "console"
    return ["Letters are printed by the server, not sent: set EMAIL_BACKEND=smtp."] if is_printed else []


@blueprint.post("/letters/<letter_id>/again")
def again(letter_id: str) -> Response:
    fresh = services().outbox.again(letter_id, frame.asked(OnceForm).once)
    return frame.done(f"/admin/letters/{fresh.id}", "It is on its way once more.")
