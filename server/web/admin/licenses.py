"""Licenses: looking for them, one with its whole story, and issuing a new one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from flask import Response, g

from server.domain.catalogue import Product
from server.domain.keys import license_id
from server.domain.license import License, Status, Wanted
from server.errors import BadRequest
from server.services import consequences
from server.services.license_manager import FOR_LIFE, is_license_id
from server.services.story import tell
from server.web.admin import frame
from server.web.admin.license_verbs import case, offered
from server.web.admin.spreadsheets import spreadsheet
from server.web.licenses import Email, Name, Text
from server.web.owner import Days, Seats
from server.web.responses import query_of
from server.web.services import services

blueprint = frame.room("licenses")
PAGE = 50
COLUMNS = (
    "license_key id status email customer_name product_id tier created_date expiry_date is_active inactive_reason "
    "max_devices devices_used last_validation validation_count purchase_source purchase_id is_test"
).split()
STATUSES: tuple[Status, ...] = ("active", "expired", "suspended", "banned")
TONES = {"active": "good", "expired": "watch", "suspended": "watch", "banned": "bad"}


class Query(msgspec.Struct, frozen=True, kw_only=True):
    q: Annotated[str, msgspec.Meta(max_length=256)] = ""
    status: Status | None = None
    product: Name | None = None
    after: str = ""


class IssueForm(msgspec.Struct, frozen=True, kw_only=True):
    """`lasts` is the product's own duration, for life, or so many `days`."""

    email: Email
    customer_name: Text = ""
    product_id: Name
    lasts: Literal["product", "life", "days"] = "product"
    days: Days | None = None
    max_devices: Seats | None = None
    note: Text | None = None
    once: frame.Once | None = None

    @property
    def duration_days(self) -> int | None:
        if self.lasts == "days" and self.days is None:
            raise BadRequest("days: say how many")
        return {"product": None, "life": FOR_LIFE, "days": self.days}[self.lasts]


@blueprint.get("/licenses")
def find() -> Response:
    asked = query_of(Query)
    if asked.after and not is_license_id(asked.after):
        raise BadRequest("after: is none of our pages")
    wanted = Wanted(text=asked.q.strip(), status=asked.status, product_id=asked.product)
    found = services().search.find(wanted, asked.after, PAGE + 1)
    page, now = found.licenses[:PAGE], services().clock()
    return frame.show(
        "licenses.html",
        asked=asked,
        rows=[row(key, license.at(now)) for key, license in page],
        total=found.total,
        next=license_id(page[-1][0]) if len(found.licenses) > PAGE else None,
        statuses=STATUSES,
        products=services().catalogue.current().products.values(),
    )


@blueprint.get("/licenses.csv")
def export() -> Response:
    asked, now = query_of(Query), services().clock()
    wanted = Wanted(text=asked.q.strip(), status=asked.status, product_id=asked.product)
    rows = (_cells(key, license.at(now)) for key, license in services().search.every(wanted))
    return spreadsheet("licenses", rows, COLUMNS)


def _cells(key: str, license: License) -> dict[str, object]:
    known = {"license_key": key, "id": license_id(key), "status": license.status(services().clock())}
    return known | {name: getattr(license, name) for name in COLUMNS if name not in known}


def row(key: str, license: License) -> dict[str, Any]:
    """A license as a line of a table."""
    product, now = services().catalogue.current().find(license.product_id), services().clock()
    status = license.status(now)
    return {
        "id": license_id(key),
        "key": key,
        "license": license,
        "product": product.name if product else license.product_id,
        "standing": status,
        "tone": TONES[status],
    }


# ---------------------------------------------------------------------------------------------------- one license
@blueprint.get("/licenses/<name>")
def show(name: str) -> Response:
    found, ours = case(name), services()
    catalogue = ours.catalogue.current()
    story = tell(ours.store, found.key, found.now, catalogue.prefixes)
    return frame.show(
        "license.html",
        **row(found.key, found.license),
        case=found,
        story=story,
        replaced_by=license_id(story.replaced_by) if story.replaced_by else None,
        features=catalogue.features(found.product, found.license.tier, found.license.features),
        letters=frame.letters(lambda: ours.store.letterbox.letters_about([found.key])[::-1]),
        verbs=offered(found),
    )


# ---------------------------------------------------------------------------------------------------- a new one
@blueprint.get("/licenses/new")
def new() -> Response:
    return _issue_form()


@blueprint.post("/licenses/new")
def issue() -> Response:
    """First what it will do is shown; with the name of that page it is done, once."""
    ours = services()
    try:
        form = frame.asked(IssueForm)
        days, product = form.duration_days, _product(form.product_id)
    except BadRequest as error:
        return _issue_form(error.detail)
    if form.once is None:
        return _issue_confirmation(form, product, days)
    entry = ours.licenses.issue(
        email=form.email.strip(),
        customer_name=form.customer_name,
        product_id=product.id,
        duration_days=days,
        max_devices=form.max_devices,
        note=form.note,
        sale_id=f"request-{form.once}",
    )
    count = len(entry.license_keys)
    told = "The license is issued." if count == 1 else f"{count} licenses are issued."
    return frame.done(f"/admin/licenses/{license_id(entry.license_keys[0])}", told)


def _issue_form(wrong: str | None = None) -> Response:
    products = services().catalogue.current().products.values()
    return frame.show("issue.html", 400 if wrong else 200, products=products, given=g.get("fields", {}), wrong=wrong)


def _issue_confirmation(form: IssueForm, product: Product, days: int | None) -> Response:
    ours = services()
    children = ours.catalogue.current().children(product)
    return frame.show(
        "confirm.html",
        title="Issue a license",
        words=consequences.of_issue(product, children, form.email, days, ours.settings.email_backend == "console"),
        action="/admin/licenses/new",
        back="/admin/licenses/new",
        label="Issue it",
        hidden=g.fields,
        once=frame.one_time(),
    )


def _product(name: str) -> Product:
    product = services().catalogue.current().find(name)
    if product is None:
        raise BadRequest("product_id: choose one of the products")
    return product
