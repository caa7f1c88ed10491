"""Moving the books: from a data folder into a database, and back.

The old place is closed first, for every process and for good: a webhook that arrives then gets 503 and comes again.
What was copied is compared with it line by line and record by record; only then the new place counts. Whatever goes
wrong before that opens the old place again, and a move that was killed is begun anew or finished by the same command.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

import msgspec

from server.domain.keys import license_id
from server.errors import Conflict
from server.storage import durable
from server.storage.archive import DEVICE_LOG, LEDGER, ORDERS
from server.storage.base import Finding, Progress, no_progress
from server.storage.flatfile import FlatFileStore
from server.storage.inspection import inspect_folder
from server.storage.log import L, Mark
from server.storage.postgres import PostgresStore
from server.storage.postgres_copy import LOGS, fill, log_rows, to_folder
from server.storage.postgres_log import LogTable
from server.storage.usage import Count

OUT = "the books are being moved to PostgreSQL (scripts/migrate.py to-postgres, which can be run again)"
BACK = "the books are being moved to files (scripts/migrate.py to-files, which can be run again)"
GONE = (
    "the books were moved to PostgreSQL: set DATABASE_URL and restart, or move them back by scripts/migrate.py to-files"
)
GONE_BACK = (
    "the books were moved to files: take DATABASE_URL out and restart; to use PostgreSQL again, move to a new one"
)
_BOOKS = (
    "licenses.json",
    "history.idx",
    "usage.jsonl",
    "outbox.jsonl",
    DEVICE_LOG,
    LEDGER,
    ORDERS,
    "shelf.json",
)


class Moved(msgspec.Struct, frozen=True):
    """What both places hold now, found equal; `head` is the hash of the ledger's last line."""

    ledger_lines: int
    device_lines: int
    order_lines: int
    licenses: int
    letters: int
    head: str | None
    aside: str | None = None


# ---------------------------------------------------------------------------------------------------- into a database
def to_postgres(folder: Path, url: str, progress: Progress = no_progress) -> Moved:
    """Raises StartRefused and Conflict in one line where it cannot be; the files then go on."""
    target = PostgresStore(url)
    target.database.bring_up_to_date()
    _begin_again(folder)
    source = FlatFileStore(folder).open()
    try:
        if not source.ledger.size():
            raise Conflict(f"there is no {LEDGER} in {folder}: nothing was sold, or DATA_DIR is another folder")
        _refuse_damage(inspect_folder(folder, progress))
        source.tidy(force=True)
        source.shelf.begun(datetime.now(UTC))  # a damaged one is begun anew before it is copied
        with _closed(source):
            return take_in(source, target, progress)
    finally:
        source.close()
        target.close()


def take_in(source: FlatFileStore, target: PostgresStore, progress: Progress = no_progress) -> Moved:
    """Copy these books into an empty database, and compare. Raises Conflict where it holds others."""
    if not target.state().ledger_lines:
        fill(target.database, source.folder, _counts(source), progress)
    elif next(differences(source, target, progress), None):  # else it is a move that was killed at its end
        raise Conflict("the database holds other books already: name an empty one in DATABASE_URL")
    return _equal(source, target, progress)


def _begin_again(folder: Path) -> None:
    """A move that was killed left its mark, and the books as they were."""
    moved = durable.moved_away(folder)
    if moved in (GONE, BACK):
        raise Conflict(moved)
    (folder / durable.MOVED).unlink(missing_ok=True)


@contextmanager
def _closed(source: FlatFileStore) -> Iterator[None]:
    """Nobody writes to these files any more, from a moment at which nobody was in the middle of it."""
    mark = source.folder / durable.MOVED
    with source.alone():
        durable.replace(mark, [f"{OUT}\n".encode()])
    try:
        source.catch_up()
        yield
    except BaseException:
        mark.unlink(missing_ok=True)
        raise
    durable.replace(mark, [f"{GONE}\n".encode()])


def _counts(source: FlatFileStore) -> Iterator[tuple[str, Count]]:
    for key, license in source.licenses():
        if license.last_validation is not None:
            yield key, Count(license.validation_count, license.last_validation)


# ---------------------------------------------------------------------------------------------------- into files
def to_files(folder: Path, url: str, now: datetime, progress: Progress = no_progress) -> Moved:
    """Raises StartRefused and Conflict in one line where it cannot be; the database then goes on."""
    source = PostgresStore(url)
    source.database.bring_up_to_date()
    durable.make_folder(folder)
    durable.remove_leftovers(folder)
    before = durable.moved_away(folder)
    if (folder / LEDGER).exists() and before is None:
        raise Conflict(f"{folder} holds a ledger that was not moved to a database: name another folder in DATA_DIR")
    fresh = folder / f".to-files.{os.getpid()}.tmp"
    fresh.mkdir(durable.PRIVATE_FOLDER)
    try:
        source.close_books(BACK, unless=GONE_BACK)
        try:
            to_folder(source.database, fresh, progress)
            moved = _checked(fresh, source, progress)
            aside = _put_in_place(fresh, folder, now)
        except BaseException:
            source.close_books(None, unless=GONE_BACK)
            raise
        source.close_books(GONE_BACK)
        (folder / durable.MOVED).unlink(missing_ok=True)
        return msgspec.structs.replace(moved, aside=str(aside) if aside else None)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        source.close()


def _checked(fresh: Path, source: PostgresStore, progress: Progress) -> Moved:
    """Opened as the next start will, which makes the index; and what is derived follows from the logs."""
    if not (fresh / LEDGER).exists():
        raise Conflict("the database holds no ledger: there is nothing to move")
    store = FlatFileStore(fresh).open()
    try:
        _refuse_damage(inspect_folder(fresh, progress))
        return _equal(store, source, progress)
    finally:
        store.close()


def _put_in_place(fresh: Path, folder: Path, now: datetime) -> Path | None:
    """Under the mark that refuses every start, until all is there. The old files go aside."""
    durable.replace(folder / durable.MOVED, [f"{BACK}\n".encode()])
    old = [name for name in _BOOKS if (folder / name).exists()]
    aside = folder / f"before-{now:%Y%m%d-%H%M%S}"
    if old:
        aside.mkdir(durable.PRIVATE_FOLDER, exist_ok=True)
    for name in old:
        os.replace(folder / name, aside / name)
    for name in _BOOKS:
        if (fresh / name).exists():
            os.replace(fresh / name, folder / name)
    durable.sync_folder(folder)
    return aside if old else None


# ---------------------------------------------------------------------------------------------------- the proof
def _refuse_damage(findings: Iterator[Finding]) -> None:
    """What is written and whole is moved as it is, also where one sale has two licenses."""
    for finding in findings:
        if not finding.is_note and finding.kind != "double":
            raise Conflict(f"the books are not sound, so they are not moved: {finding.where}: {finding.detail}")


def _equal(files: FlatFileStore, database: PostgresStore, progress: Progress) -> Moved:
    """Raises Conflict, naming the first difference."""
    for difference in differences(files, database, progress):
        raise Conflict(f"the copy is not equal, so nothing was changed over: {difference}")
    lines = {name: table.mark_of(database.database.rows) for name, _, table in LOGS}
    return Moved(
        ledger_lines=lines[LEDGER].seq,
        device_lines=lines[DEVICE_LOG].seq,
        order_lines=lines[ORDERS].seq,
        licenses=database.state().licenses,
        letters=len(database.letterbox.letters()),
        head=lines[LEDGER].head,
    )


def differences(files: FlatFileStore, database: PostgresStore, progress: Progress = no_progress) -> Iterator[str]:
    """Every line with its place and chain, every license with its devices and counts, every letter, the shelf."""
    ends = sum(table.mark_of(database.database.rows).seq for *_, table in LOGS)
    tick = _Ticking(progress, ends + database.state().licenses)
    for name, kind, table in LOGS:
        yield from _log_differences(files.folder / name, kind, table, database, tick)
    for one, other in zip_longest(files.licenses(), database.licenses()):
        tick()
        if one != other:
            yield f"license {license_id((one or other or ('',))[0])}"
            return
    if {letter.id: raw.decode() for letter, raw in files.letterbox.lines()} != database.letterbox.lines():
        yield "the letters"
    things = {name: (thing.value, thing.until) for name, thing in files.shelf.things().items()}
    if things != database.shelf.things():
        yield "the shelf"


def _log_differences(
    path: Path, kind: type[L], table: LogTable, database: PostgresStore, tick: Callable[[], None]
) -> Iterator[str]:
    last, ask = Mark(), database.database.rows
    mine = (row for row, _ in log_rows(path, kind))
    for one, other in zip_longest(mine, table.rows_after(ask)):
        tick()
        if one is None or one != other:
            yield f"{path.name} behind number {last.seq}"
            return
        last = one.mark
    if last != table.mark_of(ask):
        yield f"the end of {path.name}"


class _Ticking:
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        if self._done % 1000 == 0:
            self._progress(self._done, self._total)
