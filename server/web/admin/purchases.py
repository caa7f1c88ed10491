"""Purchases: the ledger's lines, the newest first, by whatever they can be narrowed to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from flask import Response

from server.domain.keys import license_id
from server.domain.purchase import EventKind, Outcome
from server.platforms import PLATFORMS
from server.services.audit import COLUMNS, Row
from server.services.license_manager import OWNER
from server.web.admin import frame
from server.web.admin.spreadsheets import spreadsheet
from server.web.responses import query_of
from server.web.services import services

blueprint = frame.room("purchases")
PAGE = 50
SOURCES = (*PLATFORMS, OWNER, "import")
Typed = Annotated[str, msgspec.Meta(max_length=512)]
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
TONES = {
    Outcome.ISSUED: "good",
    Outcome.EXTENDED: "good",
    Outcome.REINSTATED: "good",
    Outcome.SUSPENDED: "watch",
    Outcome.PENDING: "watch",
    Outcome.REVOKED: "bad",
    Outcome.UNMAPPED: "bad",
}


class LineQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of the ledger's lines is narrowed to; `below` is the line to go on below."""

    source: Typed | None = None
    event: EventKind | None = None
    outcome: Outcome | None = None
    email: Typed | None = None
    sale_id: Typed | None = None
    product: Typed | None = None
    license_key: Typed | None = None
    since: Typed | None = None
    until: Typed | None = None
    test: Literal["yes", "no"] | None = None
    below: Seq = 0

    def filters(self) -> dict[str, Any]:
        said = {name: getattr(self, name) for name in self.__struct_fields__ if name not in ("test", "below")}
        found = {name: value.strip() for name, value in said.items() if value is not None and value.strip()}
        return found if self.test is None else found | {"is_test": self.test == "yes"}

    @property
    def is_narrowed(self) -> bool:
        return bool(self.filters())


@blueprint.get("/purchases")
def find() -> Response:
    asked = query_of(LineQuery)
    rows, below = services().audit.browse(asked.filters(), PAGE, asked.below or None)
    return frame.show("purchases.html", asked=asked, rows=list(map(shown, rows)), next=below, **choices())


@blueprint.get("/purchases.csv")
def export() -> Response:
    return spreadsheet("purchases", services().audit.rows(query_of(LineQuery).filters()), COLUMNS)


def choices() -> dict[str, Any]:
    """What the forms of these lists offer."""
    return {
        "sources": SOURCES,
        "platforms": tuple(PLATFORMS),
        "events": tuple(EventKind),
        "outcomes": tuple(Outcome),
        "products": services().catalogue.current().products.values(),
    }


def shown(row: Row) -> Row:
    """A line with what leads on from it."""
    product = services().catalogue.current().find(row["product_id"])
    return row | {
        "tone": TONES.get(row["outcome"], "quiet"),
        "licenses": [(license_id(key), key) for key in row["license_keys"]],
        "product": product.name if product else row["product_name"] or row["source_product_id"] or row["product_id"],
    }
