"""The purchase audit log: what the ledger says, for the owner. It only ever reads.

Rows are plain dicts of the ledger's fields without `raw`, with `license_key` (the first) beside `license_keys`; a field
that says nothing beyond its default is left out from `grants` on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from server.domain.keys import license_id, readings
from server.domain.license import Moment
from server.domain.purchase import Entry
from server.errors import BadRequest, NotFound
from server.platforms import PLATFORMS
from server.services import revenue
from server.services.order_audit import OrderFilters, order_rows, suspicious_rows
from server.services.reversals import Reversals
from server.services.spreadsheet import csv_file
from server.services.story import Story, tell
from server.storage import durable
from server.storage.base import Finding, Progress, Store, no_progress

Row = dict[str, Any]

COLUMNS = (
    "seq timestamp event outcome source sale_id subscription_id email customer_name product_id product_name quantity "
    "price currency fee purchase_date expiry_date license_key license_keys is_recurring is_refunded is_disputed "
    "is_test country tier customer_id source_product_id source_license_key event_id revision incident note"
).split()
MOST_LOOKED_AT = 15_000  # lines of one page, which take 50 ms
_NO_RAW = msgspec.Raw(b"null")
_SEARCHED = (
    "email customer_name sale_id subscription_id event_id customer_id source_license_key product_id product_name note"
).split()


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What a list is narrowed to; times are those of the purchase, both ends belong to it."""

    source: str | None = None
    event: str | None = None
    outcome: str | None = None
    email: str | None = None
    sale_id: str | None = None
    subscription_id: str | None = None
    product: str | None = None
    license_key: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    is_test: bool | None = None

    def takes(self, entry: Entry) -> bool:
        return self._fits_words(entry) and self._fits_time(entry.purchase_date or entry.timestamp)

    def _fits_words(self, entry: Entry) -> bool:
        return (
            (self.source is None or self.source == entry.source)
            and (self.event is None or self.event == entry.event)
            and (self.outcome is None or self.outcome == entry.outcome)
            and (self.sale_id is None or self.sale_id == entry.sale_id)
            and (self.subscription_id is None or self.subscription_id == entry.subscription_id)
            and (self.is_test is None or self.is_test == entry.is_test)
            and (self.email is None or _same_address(self.email, entry.email))
            and (self.product is None or self.product in _products(entry))
            and (self.license_key is None or not _keys(entry).isdisjoint(readings(self.license_key)))
        )

    def _fits_time(self, moment: datetime) -> bool:
        return (self.since is None or _aware(self.since) <= moment) and (
            self.until is None or moment <= _aware(self.until)
        )


class PurchaseAuditLog:
    def __init__(self, store: Store | None = None) -> None:
        """Without a store the configured one is opened. Raises StartRefused."""
        if store is None:
            from server.settings import load_settings
            from server.wiring import open_store

            store = open_store(load_settings())
        self._store = store

    # ------------------------------------------------------------------------------------------------ the ledger
    def get_purchases_by_source(self, source: str) -> list[Row]:
        return [row_of(entry) for entry in self._entries({"source": source})]

    def get_refunded_purchases(self) -> list[Row]:
        """The lines by which money went back in full and stayed there: refunds that did not fail, lost disputes."""
        reversals = Reversals.of_ledger(self._store)
        return [row_of(entry) for entry in self._store.scan(Entry) if reversals.stands(entry)]

    def get_purchase_stats(self) -> revenue.Stats:
        """`total_purchases` counts the charges that count in `gross_revenue`: sales and renewals, and what the owner
        issued at a price; no tests, each once. `total_revenue` is net of what was refunded or charged back.
        `by_source` divides `total_purchases`; `by_event` counts lines of the ledger, tests and all."""
        return revenue.purchase_stats(self._store)

    def get_revenue(self, by: str, last: int, today: date) -> list[revenue.Period]:
        return revenue.periods(self._store, by, last, today)

    def page(
        self, filters: Mapping[str, Any] | None = None, limit: int = 50, below: int | None = None
    ) -> tuple[list[Row], int | None]:
        """The newest rows first, and the `seq` to go on below; None when there are no more. A limit of 0 is none."""
        wanted = self._entries(filters, newest_first=True, below=below)
        found = [row_of(entry) for entry in islice(wanted, limit + 1 if limit else None)]
        more = bool(limit) and len(found) > limit
        return (found[:limit], found[limit - 1]["seq"]) if more else (found, None)

    def browse(
        self,
        filters: Mapping[str, Any] | None = None,
        limit: int = 50,
        below: int | None = None,
        also: Callable[[Entry], bool] = lambda entry: True,
    ) -> tuple[list[Row], int | None]:
        """As `page`, for somebody who waits: names and addresses are looked up; else so many lines are looked through
        at most, and the rest is for who goes on. The store has to be open."""
        wanted, last = read_filters(filters or {}), below
        known = self._known(wanted)
        entries = self._store.scan(Entry, True, below) if known is None else _under(known, below)
        found = list[Row]()
        for looked, entry in enumerate(entries):
            if len(found) == limit or (looked == MOST_LOOKED_AT and known is None):
                return found, last
            last = entry.seq
            if wanted.takes(entry) and also(entry):
                found.append(row_of(entry))
        return found, None

    def _known(self, wanted: Filters) -> list[Entry] | None:
        """The lines that may be wanted, by the index; None where it does not tell."""
        if wanted.email is not None:
            return self._store.told_of(wanted.email)
        if wanted.license_key is not None:
            return self._store.history(readings(wanted.license_key))
        if wanted.sale_id is None and wanted.subscription_id is None:
            return None
        sources = [wanted.source] if wanted.source else [*PLATFORMS, "owner", "import"]
        named = {"sale": wanted.sale_id, "subscription": wanted.subscription_id}
        return self._store.history(f"{kind}\0{one}\0{name}" for kind, name in named.items() if name for one in sources)

    def get(self, seq: int) -> Entry:
        """One line of the ledger. Raises NotFound."""
        entry = next(self._store.scan(Entry, newest_first=True, below=seq + 1), None)
        if entry is None or entry.seq != seq:
            raise NotFound("there is no such line in the ledger")
        return entry

    def find(self, text: str) -> list[Row]:
        """The rows that hold this text anywhere (case does not matter), or a license key typed as apps forgive it."""
        typed, wanted = set(readings(text)), text.strip().casefold()
        return [row_of(entry) for entry in self._store.scan(Entry) if _holds(entry, wanted, typed)]

    def get_suspicious(self, since: datetime | None = None) -> list[Row]:
        """What was told and is not believed: the platform disowned it, or it does not agree with its order."""
        return suspicious_rows(self._store, since)

    def get_orders(self, wanted: OrderFilters, now: datetime) -> list[Row]:
        """The store front's orders and how they stand, the oldest first; the store has to be open."""
        return list(order_rows(self._store, wanted, now))

    def rows(self, filters: Mapping[str, Any] | None = None) -> Iterator[Row]:
        """All of them, the oldest first, as they are read."""
        return map(row_of, self._entries(filters))

    def export_to_csv(self, path: str | Path, filters: Mapping[str, Any] | None = None) -> int:
        """Write the rows to a file that a spreadsheet can open safely; returns how many.

        UTF-8 with a byte order mark, without which Excel spoils every name that is not ASCII (Python reads it as
        `utf-8-sig`). Mode 0600, and the file is there whole or not at all. Raises OSError.
        """
        count = 0

        def counted() -> Iterator[Row]:
            nonlocal count
            for row in self.rows(filters):
                count += 1
                yield row

        durable.replace(Path(path), csv_file(counted(), COLUMNS))
        return count

    def _entries(
        self, filters: Mapping[str, Any] | None, newest_first: bool = False, below: int | None = None
    ) -> Iterator[Entry]:
        wanted = read_filters(filters or {})
        return (entry for entry in self._store.scan(Entry, newest_first, below) if wanted.takes(entry))

    # ------------------------------------------------------------------------------------------------ the books
    def explain(self, key: str, as_of: datetime | None = None, prefixes: Sequence[str] = ()) -> Story:
        """The whole story of a license: what it rests on, what each line did, and the verdict at `as_of` (else now)
        on what was known by then. Raises NotFound."""
        return tell(self._store, key, as_of or datetime.now(UTC), prefixes)

    def verify(self, progress: Progress = no_progress) -> list[Finding]:
        """What is wrong with the books, and notes on what is not wrong but worth knowing; reads every line."""
        findings = list(self._store.inspect(progress))
        for line in revenue.waiting_lines(self._store):
            where = f"purchases.jsonl number {line.seq} ({line.source} {line.sale_id or line.event_id})"
            detail = "waits for a license: scripts/licenses.py fulfil"
            findings.append(Finding(line.outcome, where, detail, is_note=True))
        return findings


def read_filters(filters: Mapping[str, Any]) -> Filters:
    """Raises BadRequest, naming the filter."""
    given = {name: value for name, value in filters.items() if value is not None}
    if unknown := sorted(set(given) - set(Filters.__struct_fields__)):
        raise BadRequest(f"{unknown[0]}: there is no such filter; there are {', '.join(Filters.__struct_fields__)}")
    for name in ("since", "until"):
        if isinstance(given.get(name), str):
            given[name] = read_moment(given[name], name, ends=name == "until")
    try:
        return msgspec.convert(given, Filters, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None


def read_moment(text: str, field: str, ends: bool = False) -> datetime:
    """A moment (RFC 3339; UTC where it names no offset), or a day: its first moment, or its last one."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadRequest(f"{field}: {text[:40]!r} is no day such as 2026-11-20, nor a moment of RFC 3339") from None
    if ends and len(text.strip()) == len("2026-11-20"):
        found += timedelta(days=1, microseconds=-1)
    return _aware(found)


def _under(entries: Iterable[Entry], below: int | None) -> Iterator[Entry]:
    """The newest first."""
    return (entry for entry in sorted(entries, key=attrgetter("seq"), reverse=True) if not below or entry.seq < below)


def row_of(entry: Entry) -> Row:
    entry.raw = _NO_RAW
    row: Row = msgspec.json.decode(msgspec.json.encode(entry))
    del row["raw"]
    return row | {"license_key": entry.license_keys[0] if entry.license_keys else None}


def _holds(entry: Entry, wanted: str, typed: set[str]) -> bool:
    keys = _keys(entry)
    if not keys.isdisjoint(typed) or any(wanted == license_id(key) for key in keys):
        return True
    texts = (getattr(entry, field) for field in _SEARCHED)
    return any(wanted in text.casefold() for text in (*texts, *keys, *entry.links) if text)


def _keys(entry: Entry) -> set[str]:
    granted = {key for grant in entry.grants for key in (grant.license_key, grant.replaces) if key}
    return granted | set(entry.license_keys)


def _products(entry: Entry) -> set[str | None]:
    return {entry.product_id, *(grant.product_id for grant in entry.grants)}


def _same_address(one: str, other: str | None) -> bool:
    return other is not None and one.strip().casefold() == other.strip().casefold()


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
