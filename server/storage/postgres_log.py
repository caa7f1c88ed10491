"""The logs as tables: the lines that the files have, numbered and chained in the same way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, LiteralString, NamedTuple

from psycopg import sql

from server.domain.keys import license_id
from server.domain.license import Device, License
from server.domain.purchase import Entry, EventKind, email_name, name_hash
from server.errors import DamagedFile, StorageUnavailable
from server.storage.log import RESTORE, Chained, L, Mark, ascii_json, decoder, line_hash
from server.storage.postgres_link import Put, Query, Row, signed

_read_license = decoder(License).decode
_read_devices = decoder(list[Device]).decode
Rows = Callable[..., list[Row]]
_PAGE = 1000


class Book(NamedTuple):
    """A log's row of `book`, for who has it locked."""

    mark: Mark
    closed: str | None

    def refuse_where_closed(self) -> None:
        if self.closed is not None:
            raise StorageUnavailable(self.closed)


class LogRow(NamedTuple):
    """A line as it is kept; `torn` are the unfinished ones that a file had before it."""

    seq: int
    ends: int
    line: str
    torn: bytes | None = None

    @property
    def mark(self) -> Mark:
        return Mark(self.ends, self.seq, line_hash(self.line.encode()))


class LogTable:
    """One of the three. `key` is the column by which its lines are found, beside their number."""

    def __init__(self, book: str, table: str, key: str | None = None, kind: LiteralString = "bigint") -> None:
        self.book, self.table, self.key = book, table, key
        named = {"table": sql.Identifier(table), "book": sql.Literal(book)}
        named["column"] = sql.SQL(", {}").format(sql.Identifier(key)) if key else sql.SQL("")
        named["given"] = sql.SQL(", %s::{}[]").format(sql.SQL(kind)) if key else sql.SQL("")

        def made(text: LiteralString) -> bytes:
            return sql.SQL(text).format(**named).as_bytes(None)

        self._insert = made(
            "INSERT INTO {table} (seq, ends, line{column})"
            " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %b::text[]{given})"
        )
        self._advance = made("UPDATE book SET seq = %s, head = %s, ends = %s WHERE name = {book}")
        self.all_rows = made("SELECT seq, ends, line, torn FROM {table} ORDER BY seq")
        self._after = made("SELECT seq, ends, line, torn FROM {table} WHERE seq > %s ORDER BY seq LIMIT %s")
        self._before = made("SELECT seq, ends, line, torn FROM {table} WHERE seq < %s ORDER BY seq DESC LIMIT %s")
        self.copy = made("COPY {table} (seq, ends, line, torn{column}) FROM STDIN")

    def insert(self, rows: Sequence[LogRow], keys: Sequence[Any] = ()) -> Put:
        """These lines, for who has the log's row locked; `advance` belongs to it."""
        columns = [[row.seq for row in rows], [row.ends for row in rows], [row.line for row in rows]]
        return self._insert, [*columns, list(keys)] if self.key else columns

    def advance(self, mark: Mark) -> Put:
        return self._advance, (mark.seq, mark.head, mark.position)

    def rows_after(self, ask: Rows, seq: int = 0) -> Iterator[LogRow]:
        while found := ask(self._after, seq, _PAGE):
            yield from (LogRow(*row) for row in found)
            seq = found[-1][0]

    def rows_before(self, ask: Rows, seq: int | None = None) -> Iterator[LogRow]:
        """The newest first, from before this number on."""
        seq = (1 << 62) if seq is None else seq
        while found := ask(self._before, seq, _PAGE):
            yield from (LogRow(*row) for row in found)
            seq = found[-1][0]

    def mark_of(self, ask: Rows) -> Mark:
        """Where the log ends, as its book says."""
        ((seq, head, ends),) = ask("SELECT seq, head, ends FROM book WHERE name = %s", self.book)
        return Mark(ends, seq, head)

    def mark_at(self, ask: Rows, seq: int) -> Mark | None:
        """The mark behind this line; None where there is none."""
        found = next((LogRow(*row) for row in ask(self._after, seq - 1, 1)), None)
        return found.mark if found and found.seq == seq else None


LEDGER = LogTable("ledger", "ledger")
DEVICES = LogTable("devices", "device_line", "license", "text")
ORDERS = LogTable("orders", "order_line", "of")
LOGS = (LEDGER, DEVICES, ORDERS)


def chained(records: Sequence[L], mark: Mark) -> tuple[list[LogRow], Mark]:
    """These records as the next lines, and the mark behind them."""
    rows = []
    for record in records:
        record.seq, record.prev = mark.seq + 1, mark.head
        line = ascii_json(record)
        mark = Mark(mark.position + len(line) + 1, record.seq, line_hash(line))
        rows.append(LogRow(record.seq, mark.position, line.decode()))
    return rows, mark


def check_link(name: str, row: LogRow, line: Chained, before: Mark) -> None:
    """Raises DamagedFile, naming the line that does not follow from the one before it."""
    torn = row.torn.rstrip(b"\n").rpartition(b"\n")[2] if row.torn else None
    head = before.head if torn is None else line_hash(torn)
    if line.prev != head or not line.seq == row.seq == before.seq + 1:
        raise DamagedFile(name, row.seq, "the chain breaks here: it does not follow", RESTORE)


# ---------------------------------------------------------------------------------------------------- what follows
def found_by(entry: Entry) -> set[str]:
    """All names by which a line is looked for; that of an address links it to no other line."""
    address = [email_name(entry.email)] if entry.email else []
    return {*entry.names(), entry.identity, *address}


def name_put(entries: Sequence[Entry]) -> Put:
    """By what these lines are found."""
    pairs = {(signed(name_hash(name)), e.seq) for e in entries for name in found_by(e)}
    query: Query = "INSERT INTO name (hash, seq) SELECT * FROM unnest(%s::bigint[], %s::bigint[])"
    return query, ([pair[0] for pair in pairs], [pair[1] for pair in pairs])


class Origin(NamedTuple):
    """By which line a license was issued, and the place that one sale has for one product: nobody else may take it."""

    since: int
    place: int
    source: str | None = None
    sale: str | None = None
    product: str | None = None
    unit: int | None = None


def origins(entries: Iterable[Entry], trusts: bool = False) -> dict[str, Origin]:
    """Of each key that these lines speak of, by the first one that does. An import says what was, so it may name one
    sale's license twice; and a reissued key is no second license. `trusts` counts further units: books are as they are.
    """
    found: dict[str, Origin] = {}
    units = Counter[tuple[str, str, str]]()
    for entry in entries:
        sold = entry.issues and entry.event is not EventKind.OWNER_IMPORT
        for place, grant in enumerate(entry.grants):
            if grant.license_key and grant.license_key not in found:
                sale = (entry.source, entry.sale_id or entry.event_id, grant.product_id)
                told = (*sale, units[sale]) if sold else ()
                found[grant.license_key] = Origin(entry.seq, place, *told)
                units[sale] += sold and trusts
    return found


def license_puts(licenses: Mapping[str, License], entries: Iterable[Entry], mark: Mark) -> list[Put]:
    """What writes these licenses as they stand now, and the ledger's book behind its line `mark`. Their devices and
    counts have columns of their own."""
    known = origins(entries)
    rows = [license_row(key, license, known.get(key, Origin(mark.seq, 0))) for key, license in licenses.items()]
    if not rows:
        return [LEDGER.advance(mark)]
    ids = [row[0] for row in rows]
    count: Query = (
        "UPDATE book SET seq = %s, head = %s, ends = %s, licenses = licenses + %s"
        " - (SELECT count(*) FROM license WHERE id = ANY(%s) AND record IS NOT NULL) WHERE name = 'ledger'"
    )
    return [
        (count, (mark.seq, mark.head, mark.position, len(ids), ids)),
        (_PUT, [list(column) for column in zip(*rows, strict=True)]),
    ]


def license_row(key: str, license: License, origin: Origin) -> tuple[Any, ...]:
    email = signed(name_hash(email_name(license.email)))
    return license_id(key), key, ascii_json(license).decode(), email, license.created_date, *origin


def license_of(row: Row) -> License:
    """From key, record, devices, and how often and when it was validated."""
    license: License = _read_license(row[1])
    if row[2] is not None:
        license = license.with_devices(_read_devices(row[2]))
    if row[3]:
        license.validation_count, license.last_validation = row[3], row[4]
    return license


LICENSE_COLUMNS = "id, key, record, email, created, since, place, source, sale, product, unit"
_PUT: Query = """
INSERT INTO license (id, key, record, email, created, since, place, source, sale, product, unit)
SELECT * FROM unnest(
    %s::text[], %s::text[], %b::text[], %s::bigint[], %s::timestamptz[], %s::bigint[], %s::int[],
    %s::text[], %s::text[], %s::text[], %s::int[]
)
ON CONFLICT (id) DO UPDATE SET record = excluded.record, email = excluded.email, created = excluded.created,
    since = CASE WHEN license.record IS NULL THEN excluded.since ELSE license.since END,
    place = CASE WHEN license.record IS NULL THEN excluded.place ELSE license.place END,
    source = CASE WHEN license.record IS NULL THEN excluded.source ELSE license.source END,
    sale = CASE WHEN license.record IS NULL THEN excluded.sale ELSE license.sale END,
    product = CASE WHEN license.record IS NULL THEN excluded.product ELSE license.product END,
    unit = CASE WHEN license.record IS NULL THEN excluded.unit ELSE license.unit END
"""
