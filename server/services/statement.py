"""A platform's own record of what was paid and what went back: read from its API page by page, or from a file.

What was read of an API is kept in the data folder until the reconciliation is done, so that an interruption (or a limit
on how often one may ask) costs no page twice.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from server.domain.purchase import PurchaseEvent
from server.errors import BadRequest, PlatformUnreachable
from server.platforms.base import Page, Platform, Row
from server.platforms.web_client import RateLimited
from server.storage.base import Progress, no_progress

KEPT_FOR = timedelta(hours=12)
TRIES, LONGEST_WAIT = 6, 60.0

# What the columns are called in the ledger, in JVZoo's notices and in exports of either.
COLUMNS = {
    "event": "event type kind transactiontype ctransaction",
    "sale_id": "saleid receipt transactionid transactionreceipt ctransreceipt id",
    "subscription_id": "subscriptionid subscription",
    "incident": "incident disputeid dispute",
    "email": "email customeremail ccustemail buyeremail",
    "customer_name": "customername name ccustname buyername customer",
    "product_id": "productid cproditem product item",
    "product_name": "productname cprodtitle producttitle",
    "quantity": "quantity qty",
    "price": "price amount total ctransamount",
    "currency": "currency",
    "date": "date time created purchasedate transactiondate saledate ctranstime",
}
_CALLED = {word: name for name, words in COLUMNS.items() for word in words.split()}


class _Spool(msgspec.Struct):
    """The first line of what is kept: what was asked for, and when that began."""

    platform: str
    since: datetime
    begun: datetime


class _Kept(msgspec.Struct):
    events: tuple[PurchaseEvent, ...]
    next: str | None
    unreadable: int = 0


class Statement:
    """The record of one platform since a moment, by its API."""

    def __init__(
        self,
        platform: Platform,
        folder: Path,
        clock: Callable[[], datetime],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._platform, self._clock, self._sleep = platform, clock, sleep
        self._path = folder / f"reconcile-{platform.name}.jsonl"
        self.unreadable = 0
        self.resumed = False

    def read(self, since: datetime, progress: Progress = no_progress) -> list[PurchaseEvent]:
        """All of it. Raises PlatformUnreachable after some patience; what was read by then is kept."""
        pages = self._kept(since)
        self.resumed = bool(pages)
        if not pages:
            self._write(_Spool(self._platform.name, since, self._clock()), fresh=True)
        while not pages or pages[-1].next is not None:
            page = self._patiently(since, pages[-1].next if pages else None)
            kept = _Kept(page.events, page.next, page.unreadable)
            self._write(kept)
            pages.append(kept)
            progress(len(pages), 0)
        self.unreadable = sum(page.unreadable for page in pages)
        return [event for page in pages for event in page.events]

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def _patiently(self, since: datetime, at: str | None) -> Page:
        for tried in range(TRIES):
            try:
                return self._platform.page(since, at)
            except RateLimited as error:
                self._sleep(min(error.wait, LONGEST_WAIT))
            except PlatformUnreachable as error:
                if error.is_refused or tried == TRIES - 1:
                    raise
                self._sleep(min(2.0**tried, LONGEST_WAIT))
        raise PlatformUnreachable(f"{self._platform.name} wants to be asked more slowly: start again later, it goes on")

    # ------------------------------------------------------------------------------------------------ what is kept
    def _kept(self, since: datetime) -> list[_Kept]:
        """The pages of an interrupted reading of the same; a line that was cut ends them."""
        try:
            first, *rest = self._path.read_bytes().split(b"\n")
            spool = msgspec.json.decode(first, type=_Spool)
        except (OSError, msgspec.MsgspecError):
            return []
        asked = (spool.platform, spool.since) == (self._platform.name, since)
        if not asked or self._clock() - spool.begun > KEPT_FOR:
            return []
        pages: list[_Kept] = []
        for line in rest:
            try:
                pages.append(msgspec.json.decode(line, type=_Kept))
            except msgspec.MsgspecError:
                break
        return pages

    def _write(self, line: _Spool | _Kept, fresh: bool = False) -> None:
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if fresh else os.O_APPEND)
        with open(os.open(self._path, flags, 0o600), "ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


# ---------------------------------------------------------------------------------------------------- files
def read_statement_file(path: Path, platform: type[Platform]) -> list[PurchaseEvent]:
    """A record in a file: JSON (a list of objects, or an object a line) or CSV with a line of column names.

    Raises BadRequest that names the row and the column; nothing half-read comes out.
    """
    text = path.read_text(encoding="utf-8-sig")
    records = _json_records(text) if text.lstrip().startswith(("[", "{")) else _csv_records(text)
    events = []
    for place, record in records:
        try:
            events.append(platform.event_of(_row(record)))
        except (BadRequest, msgspec.ValidationError) as error:
            raise BadRequest(f"{path.name} row {place}: {getattr(error, 'detail', error)}") from None
    return events


def _json_records(text: str) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        found = msgspec.json.decode(text) if text.lstrip().startswith("[") else None
        lines = (
            found if found is not None else [msgspec.json.decode(line) for line in text.splitlines() if line.strip()]
        )
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"the file is no JSON: {error}") from None
    for place, record in enumerate(lines, 1):
        if not isinstance(record, dict):
            raise BadRequest(f"row {place}: is no object")
        yield place, record


def _csv_records(text: str) -> Iterator[tuple[int, dict[str, object]]]:
    dialect = ";" if text.split("\n", 1)[0].count(";") > text.split("\n", 1)[0].count(",") else ","
    for place, record in enumerate(csv.DictReader(io.StringIO(text), delimiter=dialect), 2):
        yield place, {name: value for name, value in record.items() if isinstance(name, str)}


def _row(record: dict[str, object]) -> Row:
    found: dict[str, object] = {}
    for column, value in record.items():
        name = _CALLED.get("".join(c for c in column.lower() if c.isalnum()))
        if name is not None and value not in (None, "") and name not in found:
            found[name] = value.strip() if isinstance(value, str) else value
    if "date" in found:
        found["date"] = _moment(str(found["date"]))
    if isinstance(found.get("price"), str):
        found["price"] = str(found["price"]).lstrip("$").replace(",", "")
    for name in ("sale_id", "product_id", "price"):
        if isinstance(found.get(name), int | float) and not isinstance(found[name], bool):
            found[name] = str(found[name])
    return msgspec.convert(found, Row, strict=False)


def _moment(text: str) -> datetime:
    """RFC 3339, a day, or seconds since 1970. The platform knows whose time it is where no offset is named."""
    try:
        if text.isascii() and text.isdigit():
            return datetime.fromtimestamp(int(text), UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise BadRequest(f"date: {text[:40]!r} is no date such as 2026-11-20") from None
    return found
