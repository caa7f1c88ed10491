"""Paid sales that wait for a license: because nobody had mapped their product, or because they are held."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import msgspec
from flask import Response

from server.domain.purchase import EventKind
from server.services.backlog import Tried
from server.web.admin import frame
from server.web.admin.purchases import PAGE, Seq
from server.web.licenses import Email, Name, Text
from server.web.responses import query_of
from server.web.services import services

blueprint = frame.room("waiting", place="purchases")


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """`below` is the line to go on below."""

    below: Seq = 0


class OneForm(msgspec.Struct, frozen=True, kw_only=True):
    """One sale, by its event, mended by what is said here; `below` is the page on which it stood."""

    event_id: Annotated[str, msgspec.Meta(max_length=512)]
    below: Seq = 0
    email: Email | None = None
    customer_name: Text | None = None
    product_id: Name | None = None


@blueprint.get("/waiting")
def show() -> Response:
    ours, asked = services(), query_of(Query)
    entries = list(islice(ours.backlog.newest(asked.below or None), PAGE + 1))
    return frame.show(
        "waiting.html",
        asked=asked,
        entries=entries[:PAGE],
        next=entries[PAGE - 1].seq if len(entries) > PAGE else None,
        products=ours.catalogue.current().products.values(),
        pending=EventKind.PENDING,
    )


@blueprint.post("/waiting")
def complete_all() -> Response:
    tried = services().backlog.complete_all()
    issued = sum(bool(one.license_keys) for one in tried)
    left = len(tried) - issued
    if not left:
        return frame.done("/admin/waiting", f"{_sales(issued)} got a license. Nothing waits any more.")
    told = f"{_sales(issued)} got a license, {left} still wait{'s' if left == 1 else ''}: {_why(tried)}."
    return frame.done("/admin/waiting", told, "good" if issued else "bad")


@blueprint.post("/waiting/one")
def complete() -> Response:
    form = frame.asked(OneForm)
    tried = services().backlog.complete(form.event_id, form.email, form.customer_name, form.product_id)
    page = f"/admin/waiting?below={form.below}" if form.below else "/admin/waiting"
    if tried.license_keys:
        return frame.done(page, "The license is issued, and its letter is on its way.")
    return frame.done(page, f"It still waits: {tried.why or tried.outcome}.", "bad")


def _why(tried: list[Tried]) -> str:
    return "; ".join(list(dict.fromkeys(one.why for one in tried if one.why))[:3])


def _sales(number: int) -> str:
    return "1 sale" if number == 1 else f"{number} sales"
