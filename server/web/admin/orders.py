"""Orders of the own store front: how each stands, asking its platform, and giving money back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from flask import Response, g

from server.domain import money
from server.domain.keys import license_id
from server.domain.order import OrderFile, OrderState, Step
from server.errors import BadRequest, Conflict, NotFound, PlatformUnreachable, Unprocessable
from server.platforms import PLATFORMS
from server.services.audit import read_moment, row_of
from server.services.letter_writing import SHOPS
from server.services.order_audit import ORDER_COLUMNS, OrderFilters, order_page, order_rows
from server.services.order_refunds import Refund, RefundStanding
from server.web.admin import frame
from server.web.admin.purchases import PAGE, Typed, shown
from server.web.admin.spreadsheets import spreadsheet
from server.web.checkout import Amount, Reference
from server.web.responses import query_of
from server.web.services import services

blueprint = frame.room("orders")
TONES = {
    OrderState.PAID: "good",
    OrderState.FAILED: "bad",
    OrderState.CANCELLED: "quiet",
    OrderState.REFUNDED: "bad",
    OrderState.PARTIALLY_REFUNDED: "watch",
    OrderState.PENDING: "watch",
    OrderState.PROCESSING: "watch",
}
_STEPS = {
    Step.PLACED: "ordered",
    Step.BEGUN: "made known to the platform",
    Step.PROCESSING: "the platform waits for the money",
    Step.HINTED: "the platform said that something happened, and is asked what",
    Step.FAILED: "the payment failed",
    Step.CANCELLED: "given up",
    Step.SUSPICIOUS: "something was told that is not believed",
    Step.REFUND_ASKED: "a refund was asked for",
    Step.REFUND_ACCEPTED: "the platform took the refund",
    Step.REFUND_REFUSED: "the platform refused the refund",
}


class Query(msgspec.Struct, frozen=True, kw_only=True):
    doubted: Literal["yes"] | None = None
    state: OrderState | None = None
    source: Typed | None = None
    email: Typed | None = None
    since: Typed | None = None
    until: Typed | None = None
    after: Annotated[str, msgspec.Meta(max_length=40)] | None = None

    def filters(self) -> OrderFilters:
        return OrderFilters(
            is_doubted=self.doubted is not None,
            state=self.state,
            source=self.source,
            email=self.email,
            since=read_moment(self.since, "since") if self.since else None,
            until=read_moment(self.until, "until", ends=True) if self.until else None,
        )

    @property
    def is_narrowed(self) -> bool:
        return self.filters() != OrderFilters()


class RefundForm(msgspec.Struct, frozen=True, kw_only=True):
    """`amount` left out is all that is left; `reference` is that of the platform's portal."""

    amount: Amount | None = None
    reference: Reference | None = None
    once: frame.Once | None = None


@blueprint.get("/orders")
def find() -> Response:
    asked = query_of(Query)
    rows, after = order_page(services().store, asked.filters(), services().clock(), PAGE, asked.after)
    return frame.show(
        "orders.html",
        asked=asked,
        rows=rows,
        next=after,
        tones=TONES,
        states=tuple(OrderState),
        platforms=tuple(PLATFORMS),
        shops=SHOPS,
    )


@blueprint.get("/orders.csv")
def export() -> Response:
    filters = query_of(Query).filters()
    return spreadsheet("orders", order_rows(services().store, filters, services().clock()), ORDER_COLUMNS)


# ---------------------------------------------------------------------------------------------------- one order
def _file(name: str) -> OrderFile:
    """An order by its id or its number."""
    file = services().store.orders.find(name)
    if file is None:
        raise NotFound("there is no such order")
    return file


@blueprint.get("/orders/<name>")
def show(name: str) -> Response:
    ours, file = services(), _file(name)
    order, stands, state = file.order, ours.settlement.account(file), ours.settlement.state(file)
    history = ours.store.history([order.ledger_name])
    keys = dict.fromkeys(key for entry in history for key in entry.license_keys)
    return frame.show(
        "order.html",
        order=order,
        file=file,
        state=state,
        tone=TONES[state],
        shop=SHOPS.get(order.source, order.source),
        price=lambda minor: money.told(minor, order.currency),
        refunded=stands.refunded,
        steps=[(line, _STEPS[line.step], _amount(file, line.amount)) for line in file.lines],
        doubts=file.of(Step.SUSPICIOUS),
        licenses=[(license_id(key), key) for key in keys],
        lines=[shown(row_of(entry)) for entry in history],
        letters=frame.letters(lambda: ours.store.letterbox.letters_about(list(keys)) if keys else []),
        can_refund=_why_not(file) is None,
    )


def _amount(file: OrderFile, minor: int | None) -> str | None:
    return f"{money.told(minor, file.order.currency)} {file.order.currency.upper()}" if minor else None


def _why_not(file: OrderFile) -> str | None:
    """Why nothing can be given back; None where something can."""
    try:
        services().refunds.left(file)
    except (Conflict, Unprocessable) as error:
        return error.detail
    return None


@blueprint.post("/orders/<name>/ask")
def ask(name: str) -> Response:
    ours, file = services(), _file(name)
    path, before = f"/admin/orders/{file.order.order_id}", ours.settlement.state(file)
    try:
        ours.settlement.ask(file.order.order_id)
    except PlatformUnreachable as error:
        return frame.done(path, f"{SHOPS[file.order.source]} cannot be asked now: {error.detail}.", "bad")
    state = ours.settlement.state(_file(name))
    told = "Nothing is new" if state is before else "It is new"
    return frame.done(path, f"{SHOPS[file.order.source]} was asked. {told}: the order is {_words(state)}.")


def _words(state: OrderState) -> str:
    return str(state).replace("_", " ")


# ---------------------------------------------------------------------------------------------------- money back
@blueprint.get("/orders/<name>/refund")
def refund_form(name: str) -> Response:
    return _refund_form(_file(name))


def _refund_form(file: OrderFile, wrong: str | None = None) -> Response:
    order, why_not = file.order, _why_not(file)
    left = 0 if why_not else services().refunds.left(file)
    return frame.show(
        "refund.html",
        400 if wrong else 200,
        order=order,
        shop=SHOPS.get(order.source, order.source),
        left=money.told(left, order.currency),
        has_api=services().refunds.has_api(file),
        why_not=why_not,
        wrong=wrong,
        given=g.get("fields", {}),
    )


@blueprint.post("/orders/<name>/refund")
def refund(name: str) -> Response:
    """First what it will do is shown; with the name of that page it is done, once."""
    ours, file = services(), _file(name)
    try:
        form = frame.asked(RefundForm)
        if form.once is None:
            return _confirmation(file, form, ours.refunds.planned(file, form.amount, form.reference))
        done = ours.refunds.refund(file, form.amount, form.once, form.reference)
    except (BadRequest, Conflict) as error:
        return _refund_form(file, error.detail)
    is_known = done.standing is not RefundStanding.IN_DOUBT
    return frame.done(f"/admin/orders/{file.order.order_id}", _done(file, done), "good" if is_known else "watch")


def _confirmation(file: OrderFile, form: RefundForm, minor: int) -> Response:
    order, shop, has_api = file.order, SHOPS[file.order.source], services().refunds.has_api(file)
    told, is_all = (
        f"{money.told(minor, order.currency)} {order.currency.upper()}",
        minor == services().refunds.left(file),
    )
    pays = f"{shop} is asked to give {told} back to {order.name}." if has_api else None
    notes = f"It is written down that {told} went back in {shop}'s portal, as {form.reference}. No money moves by this."
    ends = "The order's licenses end with it, and the buyer gets a letter." if is_all else "Its licenses stay valid."
    hidden: dict[str, Any] = {"amount": money.told(minor, order.currency), "reference": form.reference}
    return frame.show(
        "confirm.html",
        title=f"Refund order {order.number}",
        words=[pays or notes, ends, "Pressed twice, it is done once."],
        action=f"/admin/orders/{order.order_id}/refund",
        back=f"/admin/orders/{order.order_id}",
        label=f"Refund {told}" if has_api else "Write it down",
        danger=True,
        hidden=hidden,
        once=frame.one_time(),
    )


def _done(file: OrderFile, refund: Refund) -> str:
    told = f"{money.told(refund.amount, file.order.currency)} {file.order.currency.upper()}"
    if refund.standing is RefundStanding.DONE:
        return f"{told} went back."
    if refund.standing is RefundStanding.ACCEPTED:
        return f"{SHOPS[file.order.source]} took the refund of {told}, and tells when it is done."
    return f"{told}: {refund.note}."
