"""A platform's own record in a file: CSV with a line of column names, or JSON.

For platforms without an API that tells it, and for records that somebody put together by hand: so it is read strictly,
and what cannot be read is named by its row and column.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from server.domain.license import EARLIEST, LATEST
from server.domain.purchase import PurchaseEvent
from server.errors import BadRequest
from server.platforms.base import Platform, Row

# What the columns are called in the ledger, in JVZoo's notices and in exports of either; of several the first counts.
COLUMNS = {
    "event": "event transactiontype ctransaction type kind",
    "sale_id": "saleid receipt transactionid transactionreceipt ctransreceipt id",
    "subscription_id": "subscriptionid subscription",
    "incident": "incident disputeid dispute",
    "email": "email customeremail ccustemail buyeremail",
    "customer_name": "customername ccustname buyername customer name",
    "product_id": "productid cproditem product item",
    "product_name": "productname cprodtitle producttitle",
    "quantity": "quantity qty",
    "price": "price amount ctransamount total",
    "currency": "currency",
    "date": "date purchasedate transactiondate saledate ctranstime time created",
}
MOST_SEATS = 100_000
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_AMOUNT = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_SECONDS = re.compile(r"\d{9,11}", re.ASCII)


class StatementFile(msgspec.Struct, frozen=True):
    """A record in a file. `without_quantity` are the identities of events whose rows do not say how many were sold."""

    events: list[PurchaseEvent]
    without_quantity: frozenset[str]


Record = dict[str, object]


def read_statement_file(path: Path, platform: type[Platform]) -> StatementFile:
    """A record in a file: JSON (a list of objects, or an object a line) or CSV with a line of column names.

    Raises BadRequest that names the row and the column; nothing half-read comes out.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequest(f"{path.name} is not in UTF-8: save it as CSV UTF-8, or as JSON") from None
    events, silent = [], set()
    for place, record in _records(path.name, text):
        try:
            row, says_how_many = _row(record)
            event = platform.event_of(row)
        except BadRequest as error:
            raise BadRequest(f"{path.name} row {place}: {error.detail}") from None
        if event is None:
            continue
        events.append(event)
        if not says_how_many:
            silent.add(event.identity)
    return StatementFile(events, frozenset(silent))


def _records(name: str, text: str) -> Iterator[tuple[int, Record]]:
    if not text.strip():
        raise BadRequest(f"{name} is empty")
    return _json_records(name, text) if text.lstrip().startswith(("[", "{")) else _csv_records(name, text)


def _json_records(name: str, text: str) -> Iterator[tuple[int, Record]]:
    for place, value in _json_values(name, text):
        if not isinstance(value, dict):
            raise BadRequest(f"{name} row {place}: is no object")
        yield place, value


def _json_values(name: str, text: str) -> Iterable[tuple[int, object]]:
    """All of it as one value, or a value a line."""
    try:
        whole = msgspec.json.decode(text)
        return enumerate(whole if isinstance(whole, list) else [whole], 1)
    except (msgspec.MsgspecError, RecursionError) as error:
        lines = [(place, line) for place, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) == 1 or text.lstrip().startswith("["):
            raise BadRequest(f"{name} is no JSON: {error}") from None
    return ((place, _json_line(name, place, line)) for place, line in lines)


def _json_line(name: str, place: int, line: str) -> object:
    try:
        return msgspec.json.decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"{name} row {place}: is no JSON: {error}") from None


def _csv_records(name: str, text: str) -> Iterator[tuple[int, Record]]:
    """Rows are counted as a spreadsheet does, empty ones too."""
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    columns: list[str] | None = None
    place = 0
    try:
        for place, cells in enumerate(reader, 1):
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _columns(name, cells)
                continue
            if any(cells[len(columns) :]):
                raise BadRequest(f"{name} row {place}: has more cells than there are columns")
            yield place, dict(zip(columns, cells, strict=False))
    except csv.Error as error:
        raise BadRequest(f"{name} row {place + 1}: {error}") from None


def _columns(name: str, cells: list[str]) -> list[str]:
    known = {_squeezed(cell) for cell in cells}
    for column in ("event", "sale_id"):
        if known.isdisjoint(COLUMNS[column].split()):
            raise BadRequest(f"{name}: no column {column} (or {COLUMNS[column]}) among {', '.join(cells)[:200]}")
    return cells


def _squeezed(column: str) -> str:
    return "".join(c for c in column.lower() if c.isalnum())


def _row(record: Record) -> tuple[Row, bool]:
    """The row, and whether it says how many were sold. Raises BadRequest that names the column."""
    said = {_squeezed(column): value for column, value in record.items() if value not in (None, "")}
    found: Record = {}
    for column, words in COLUMNS.items():
        value = next((said[word] for word in words.split() if word in said), None)
        value = value.strip() if isinstance(value, str) else value
        if value not in (None, ""):
            found[column] = _READERS[column](value) if column in _READERS else _text(column, value)
    for column in ("event", "sale_id"):
        if column not in found:
            raise BadRequest(f"{column}: is missing")
    return msgspec.convert(found, Row), "quantity" in found


def _text(column: str, value: object) -> str:
    """Ids are numbers in some files."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRequest(f"{column}: {str(value)[:40]!r} is no text")
    text = str(value)
    if "\0" in text or len(text) > 512:
        raise BadRequest(f"{column}: is longer than 512 characters, or no text")
    return text


def _quantity(value: object) -> int:
    try:
        number = float(value) if isinstance(value, str | int | float) else 0.0
    except (ValueError, OverflowError):
        number = 0.0
    if isinstance(value, bool) or not (1 <= number <= MOST_SEATS and number == int(number)):
        raise BadRequest(f"quantity: {str(value)[:40]!r} is no number from 1 to {MOST_SEATS}")
    return int(number)


def _price(value: object) -> str:
    """Without its currency's sign. 49,90 could be either, so it is refused."""
    text = "".join(str(value).split()).strip("$€£¥")
    if text.startswith("(") and text.endswith(")"):
        text = f"-{text[1:-1].strip('$€£¥')}"
    text = text.replace("-$", "-")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if isinstance(value, bool) or not _AMOUNT.fullmatch(text):
        raise BadRequest(f"price: {str(value)[:40]!r} is no amount such as 1234.50")
    return text


def _moment(value: object) -> datetime:
    """RFC 3339, a day, or seconds since 1970. The platform knows whose time it is where no offset is named."""
    text = str(value).removesuffix(" UTC")
    try:
        found = datetime.fromtimestamp(int(text), UTC) if _SECONDS.fullmatch(text) else datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise BadRequest(f"date: {str(value)[:40]!r} is no date such as 2026-11-20") from None
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    if not EARLIEST <= aware <= LATEST:
        raise BadRequest(f"date: {text[:40]!r} is not between {EARLIEST:%Y} and {LATEST:%Y}")
    return aware if text != str(value) else found


_READERS: dict[str, Callable[[object], object]] = {"quantity": _quantity, "price": _price, "date": _moment}
