"""The store on flat files: `purchases.jsonl`, the device log, and what is derived from them.

Each process keeps a written view (mapped, not loaded) and what the logs say beyond it. To be up to date it reads what
was appended since it last looked: two stat calls when nothing was. Reading takes no lock and writes nothing. A writer
takes the one folder lock, catches up, appends, fsyncs; the line is then the truth and all else is redone from it.
"""

from __future__ import annotations

import errno
import heapq
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from server.domain.license import DeviceLine, License, Wanted
from server.domain.purchase import Entry, email_name
from server.errors import DamagedFile, StartRefused, StorageUnavailable
from server.storage import durable
from server.storage.base import Finding, Found, Progress, Store, StoreState, T, Transaction, no_progress
from server.storage.history import DEVICES, HistoryIndex, read_index, write_index
from server.storage.inspection import inspect_folder
from server.storage.known import Known
from server.storage.letterbox import FileLetterBox
from server.storage.limits import LimitTable
from server.storage.log import RESTORE, START, ChainedLog, Mark, Rewound
from server.storage.orders import FileOrderBook
from server.storage.shelf import FileShelf
from server.storage.usage import Count, UsageFile
from server.storage.view import NEWEST, Books, EmptyView, View, ViewDamaged, write_view

log = logging.getLogger(__name__)

BOOKS = "purchases.jsonl activity.jsonl orders.jsonl outbox.jsonl usage.jsonl licenses.json history.idx".split()
SMALL_SHOP = 10_000
PATIENCE = 4.0  # seconds for a lock: less than the 5 that Gumroad waits for an answer
_RELOAD_FROM = 256
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})
_MOVE = "Move DATA_DIR to a disk that knows flock"
_VERIFY_UP_TO = 16 << 20
_READ_AT_ONCE = 8 << 20
_LOOK_AGAIN = 1.0  # seconds until readers look again whether a damaged file was mended: each look reads the whole view


class Written(NamedTuple):
    """A view and an index as they were written, checked but not taken up yet."""

    seen: tuple[int, int, int] | None
    view: View
    history: HistoryIndex


@contextmanager
def _readable() -> Iterator[None]:
    """A file that cannot be read is not an empty one."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"storage cannot be read: {error}") from error


class FlatFileStore(Store):
    letterbox: FileLetterBox
    orders: FileOrderBook
    shelf: FileShelf

    def __init__(self, folder: Path, pace: float = 1.0) -> None:
        """`pace` is the shortest time in seconds between two rewritings of the view."""
        self.folder, self._pace = folder, pace
        self.ledger = ChainedLog(folder / "purchases.jsonl", Entry)
        self.devices = ChainedLog(folder / "activity.jsonl", DeviceLine)
        self.letterbox = FileLetterBox(folder / "outbox.jsonl", PATIENCE)
        self.orders = FileOrderBook(folder / "orders.jsonl", PATIENCE)
        self.shelf = FileShelf(folder / "shelf.json", PATIENCE)
        self._usage = UsageFile(folder / "usage.jsonl")
        self._folder_lock = durable.FolderLock(folder / "folder.lock", PATIENCE)
        self._view_lock = durable.BooksLock(folder / "view.lock", PATIENCE)
        self._memory = threading.RLock()
        self._known = Known(self.ledger, self.devices)
        self._counts: dict[str, Count] = {}
        self._damage: DamagedFile | None = None
        self._look_again = 0.0
        self._write_trouble: str | None = None
        self._view_trouble: str | None = None
        self._notices: list[str] = []
        self._last_tidy = self._last_usage = -1e9
        self._alone = False  # in a transaction: nobody else can have written
        self._usage_written = False
        self._next_look = 0.0
        self._newer_waits = False  # a view of another process that is too large to be read within a request

    # ------------------------------------------------------------------------------------------------ opening
    def open(self) -> FlatFileStore:
        """Read the folder. Raises DamagedFile where what it says cannot be trusted; recovers where it can."""
        if moved := durable.moved_away(self.folder):
            raise StartRefused(f"DATA_DIR: {moved}")
        self._check_locks()
        try:
            with self._memory:
                sound = self._load()
                self._catch_up_or_reload()
                if self.ledger.size() <= _VERIFY_UP_TO:
                    self.verify()
        except OSError as error:
            remedy = "Check the disk and the folder's permissions"
            raise DamagedFile(str(error.filename or self.folder), 0, f"cannot be read ({error})", remedy) from error
        if not sound:
            self.tidy(force=True)
        return self

    def close(self) -> None:
        """Give the descriptors back, where one process opens many stores."""
        self.ledger.close()
        self.devices.close()
        self.letterbox.close()
        self.orders.close()
        self._folder_lock.close()

    def limit_table(self, secret: str, longest: int) -> LimitTable:
        return LimitTable(self.folder / "limits.table", secret, longest)

    def verify(self) -> None:
        """Read both logs from their start. Raises DamagedFile, naming the line, where the chain is broken."""
        for chained in (self.ledger, self.devices):
            for _ in chained.lines():
                pass

    def _check_locks(self) -> None:
        try:
            durable.make_folder(self.folder)
            excludes = self._folder_lock.excludes()
        except (OSError, StorageUnavailable) as error:
            if not self.folder.is_dir():
                raise DamagedFile(str(self.folder), 0, f"cannot be used ({error})", "Check DATA_DIR") from error
            if getattr(error.__cause__, "errno", None) in _NO_LOCKS:
                raise DamagedFile(str(self.folder), 0, f"locks do not work here ({error})", _MOVE) from error
            self._write_trouble = str(error)
            log.error("storage: starting without writing", extra={"detail": str(error)})
        else:
            if not excludes:
                raise DamagedFile(str(self.folder), 0, "locks do not work here (two can hold one)", _MOVE)

    def _load(self, written: Written | None = None) -> bool:
        """Take the written view and index, or start from nothing; False when they have to be written anew."""
        path = self.folder / "licenses.json"
        try:
            self._known.seen = written.seen if written else self._view_on_disk()
            view: View | EmptyView = written.view if written else View(path)
            sound = True
        except (FileNotFoundError, ViewDamaged) as error:
            sound = False
            view = EmptyView()
            if isinstance(error, ViewDamaged):
                self._mend(path.name, error)
        books = view.books
        self._check_covered(self.ledger, books.ledger)
        self._check_covered(self.devices, books.devices)
        self._check_nothing_is_gone()
        # not before: where the logs were cut, what is known still serves
        self._known = Known(self.ledger, self.devices, view, self._known.seen)
        self.ledger.mark, self.devices.mark = books.ledger, books.devices
        index_fits = self._load_index(books, written.history if written else read_index(self.folder / "history.idx"))
        return sound and index_fits

    def _read_written(self) -> Written | None:
        """A large view is read and checked for half a second, in which nobody has to wait; None where it is unsound.

        For the holder of the view's lock: nobody else writes a view then.
        """
        with suppress(FileNotFoundError, ViewDamaged):
            seen, view = self._view_on_disk(), View(self.folder / "licenses.json")
            return Written(seen, view, read_index(self.folder / "history.idx"))
        return None

    def _mend(self, name: str, error: ViewDamaged) -> None:
        if not self.ledger.size():
            remedy = "Restore purchases.jsonl from a backup. To start with no licenses, move licenses.json away"
            raise DamagedFile(name, 0, f"{error}, and there is no purchases.jsonl to rebuild it from", remedy)
        self.notice(f"{name} was rebuilt from the ledger: {error}")

    def _check_covered(self, chained: ChainedLog[Entry] | ChainedLog[DeviceLine], mark: Mark) -> None:
        """What the view rests on must still be there."""
        chained.reopen()
        if mark.position and chained.head_before(mark.position) != mark.head:
            for _ in chained.lines():
                pass  # tells the damaged line, where there is one
            raise DamagedFile(
                chained.path.name,
                chained.line_number(chained.size()),
                f"licenses.json rests on its first {mark.position} bytes, but they were cut or changed",
                f"{RESTORE}. If the shortened file is what you want, delete licenses.json and start again",
            )

    def _check_nothing_is_gone(self) -> None:
        """A shop without a ledger is an empty one only if nothing else tells that something was sold."""
        if self.ledger.size():
            return
        index = self.folder / "history.idx"
        for path, tells in ((self.devices.path, self.devices.size()), (index, read_index(index).covered.ledger.seq)):
            if tells:
                remedy = f"Restore purchases.jsonl from a backup. To start with no licenses, move {path.name} away"
                detail = f"is missing or empty, but {path.name} tells of what was sold"
                raise DamagedFile(self.ledger.path.name, 0, detail, remedy)

    def _load_index(self, books: Books, index: HistoryIndex) -> bool:
        covered = index.covered
        fits = covered.ledger.seq >= books.ledger.seq and covered.devices.seq >= books.devices.seq
        for chained, mark in ((self.ledger, covered.ledger), (self.devices, covered.devices)):
            fits = fits and (not mark.position or chained.head_before(mark.position) == mark.head)
        if fits:
            self._known.index = index
        else:
            self._known.index_anew(books.ledger, books.devices)
        return fits

    def notice(self, text: str) -> None:
        log.error("storage: %s", text)
        if text not in self._notices:
            self._notices.append(text)

    # ------------------------------------------------------------------------------------------------ catching up
    def catch_up(self) -> None:
        """Learn what was appended since the last look; where the chain is broken, what is known still serves."""
        with self._memory:
            if not self._alone and not self._knows_all() and time.monotonic() >= self._look_again:
                self._look()

    def _knows_all(self) -> bool:
        """The short way of nearly every request: two stats, and nothing is new."""
        if self._damage is not None or time.monotonic() >= self._next_look:
            return False
        return self.ledger.is_read() and self.devices.is_read()

    def _look(self) -> None:
        try:
            self._catch_up_or_reload()
            self._damage, self._look_again = None, 0.0
        except (DamagedFile, OSError) as error:
            self._take_damage(error)

    def _take_damage(self, error: DamagedFile | OSError) -> None:
        is_lasting = isinstance(error, DamagedFile)
        if isinstance(error, OSError):
            error = DamagedFile(str(self.folder), 0, f"cannot be read ({error})", "It is tried again and again")
        if self._damage is None or str(self._damage) != str(error):
            log.error("storage: %s", error)
        self._damage = error
        self._look_again = time.monotonic() + _LOOK_AGAIN if is_lasting else 0.0

    def _catch_up_or_reload(self) -> None:
        if self._damage is None:  # else what was read when it showed may not have been taken in
            with suppress(Rewound, DamagedFile):
                self._catch_up_all()
                return
        known, seen = self._known, self._known.seen
        marks = self.ledger.mark, self.devices.mark
        try:
            self._load()
            self._catch_up_all()
        except (Rewound, DamagedFile, OSError) as error:
            self._known, known.seen = known, seen
            self.ledger.mark, self.devices.mark = marks
            if isinstance(error, Rewound):
                raise OSError("a log was cut while it was read") from None
            raise

    def _catch_up_all(self) -> None:
        """The ledger first, then the device log; bindings of licenses not seen yet wait in the index.

        What was bound meanwhile may rest on a line of the ledger that came meanwhile too. So both are read until
        neither has news: then what is known was so at one moment.
        """
        news = False
        while (entries := self.ledger.read_new()) or (lines := self.devices.read_new()):
            news = True
            if entries:
                self._known.take_entries(entries)
            else:
                self._known.take_devices(lines)
        if self._is_time_to_look(news) and self._take_newer_view():
            self._catch_up_all()

    def _is_time_to_look(self, news: bool) -> bool:
        """Whether another process may have written a view: now and then for its counts, soon when much has changed."""
        now = time.monotonic()
        if now < self._next_look and not (news and self._known.recent_lines > _RELOAD_FROM):
            return False
        self._next_look = now + self._pace
        return True

    # ------------------------------------------------------------------------------------------------ finding
    def find_license(self, key: str) -> License | None:
        with self._memory:
            self.catch_up()
            return self._known.find(key)

    def find_by_id(self, license_id_text: str) -> tuple[str, License] | None:
        with self._memory:
            self.catch_up()
            return self._known.find_by_id(license_id_text)

    def licenses(self, after: str = "") -> Iterator[tuple[str, License]]:
        low = int(after[4:20], 16) + 1 if after else 0
        while low < 1 << 64:
            with self._memory:
                self.catch_up()
                page, low = self._known.page(low)
            yield from page

    def licenses_of(self, email: str) -> list[tuple[str, License]]:
        """It may own few of those in whose purchases it was ever named."""
        name = email_name(email)
        with self._read_whole():
            keys = (key for told in self._known.purchases_of(name) for entry in told for key in entry.license_keys)
            found = {key: self._known.find(key) for key in keys}
        return [(key, license) for key, license in found.items() if license and email_name(license.email) == name]

    def purchases_of(self, email: str) -> list[list[Entry]]:
        with self._read_whole():
            return list(self._known.purchases_of(email_name(email)))

    def told_of(self, email: str) -> list[Entry]:
        with self._read_whole():
            return [entry for _, entry in self._known.told_of(email_name(email))]

    @contextmanager
    def _read_whole(self) -> Iterator[None]:
        """Up to date, for a reader who must not be told less than there is."""
        with self._memory:
            self.catch_up()
            try:
                yield
            except (DamagedFile, OSError) as error:
                raise self._unreadable(error) from error

    def _unreadable(self, error: DamagedFile | OSError) -> Exception:
        """Who writes takes the damage in himself, at the end of his transaction."""
        if self._alone:
            return error
        self._take_damage(error)
        return StorageUnavailable(f"storage cannot be read: {error}")

    def find_licenses(self, wanted: Wanted, now: datetime, after: str = "", limit: int = 50) -> Found:
        with self._memory:
            self.catch_up()
            view, changed, count = self._known.view, dict(self._known.changed), self._known.count
        last = self.find_by_id(after) if after else None
        end = (last[1].created_date, last[0]) if last else NEWEST
        ours = [(one.created_date, key) for key, one in wanted.among(changed, now)]
        if view.has_many(wanted, now):
            written = (place for place in view.newest(wanted, now, end) if place[1] not in changed)
            merged = heapq.merge(written, sorted(ours, reverse=True), reverse=True)
            page = list(islice((place for place in merged if place < end), limit))
            total = count if wanted == Wanted() else None
        else:
            places = [(one.created_date, key) for key, one in view.search(wanted, now) if key not in changed] + ours
            page, total = heapq.nlargest(limit, (place for place in places if place < end)), len(places)
        found = [(key, self.find_license(key)) for _, key in page]
        return Found(licenses=[(key, license) for key, license in found if license], total=total)

    def device_lines(self, key: str, look: bool = True) -> list[DeviceLine]:
        with self._memory:
            if look:
                self.catch_up()
            try:
                return self._known.device_lines(key)
            except (DamagedFile, OSError) as error:
                if self._alone:
                    raise
                self._take_damage(error)  # a known device is validated even where the log was deleted meanwhile
                return []

    def history(self, names: Iterable[str]) -> list[Entry]:
        with self._memory:
            self.catch_up()
            try:
                return list(self._known.history(names).values())
            except (DamagedFile, OSError) as error:
                raise self._unreadable(error) from error

    def find_event(self, identity: str) -> Entry | None:
        with self._read_whole():
            return self._known.event(identity)

    def scan(self, kind: type[T], newest_first: bool = False, below: int | None = None) -> Iterator[T]:
        with _readable():
            yield from self.ledger.scan(kind, newest_first, below)

    def scan_devices(self) -> Iterator[DeviceLine]:
        with _readable():
            yield from self.devices.scan(DeviceLine, newest_first=True)

    def inspect(self, progress: Progress = no_progress) -> Iterator[Finding]:
        return inspect_folder(self.folder, progress)

    def entries(self, after: Mark = START) -> Iterator[tuple[Mark, list[Entry]]]:
        return self.ledger.batches(after)

    # ------------------------------------------------------------------------------------------------ writing
    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self._folder_lock.held(), self._memory:
            if not self._knows_all():
                self._look()
            if self._damage is not None:
                raise StorageUnavailable(f"storage is damaged: {self._damage}")
            self._alone = True
            try:
                yield _FileTransaction(self)
            except StorageUnavailable as error:
                self._write_trouble = error.detail
                raise
            except (DamagedFile, OSError) as error:
                self._take_damage(error)
                raise StorageUnavailable(f"storage cannot be read: {error}") from error
            finally:
                self._alone = False

    def wrote(
        self,
        entries: list[tuple[int, Entry]],
        lines: list[tuple[int, DeviceLine]],
        folded: Mapping[str, License] | None = None,
    ) -> None:
        """Take in what this process has just appended, as if it had read it."""
        self._write_trouble = None
        try:
            self._known.take_entries(entries, folded)
            self._known.take_devices(lines)
        except (DamagedFile, OSError) as error:  # it is on disk all the same
            self._take_damage(error)

    def count_usage(self, key: str, now: datetime, times: int = 1) -> None:
        with self._memory:
            known = self._counts.get(key)
            self._counts[key] = Count(known.number + times, now) if known else Count(times, now)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody writes to any of these files, in whatever way."""
        books = (self.orders.alone(), self.letterbox.alone(), self.shelf.alone())
        with self._folder_lock.held(), self._view_lock.held(), books[0], books[1], books[2]:
            yield

    # ------------------------------------------------------------------------------------------------ tidying
    def tidy(self, force: bool = False) -> float | None:
        now = time.monotonic()
        wait = 0.0 if force else self._due_in(now)
        if wait is None or wait > 0:
            return wait
        self._last_tidy = now
        try:
            with self._view_lock.held():
                self._write_usage()
                if force or self._view_is_behind() or (self._usage_written and now >= self._usage_due()):
                    self._rewrite_view(force)
                elif self._newer_waits:
                    self._take_up_newer_view()
            self._view_trouble = None
        except (OSError, StorageUnavailable, DamagedFile, Rewound) as error:
            self._view_trouble = f"licenses.json is not up to date: {error}"
            log.error("storage: %s", self._view_trouble)
            return 5.0
        return self._due_in(time.monotonic())

    def _due_in(self, now: float) -> float | None:
        """Seconds until something is due: usage and a view that is behind at once, counts alone at leisure."""
        due = []
        if self._counts or self._newer_waits or self._view_is_behind():
            due.append(self._last_tidy + self._pace)
        if self._usage_written:
            due.append(max(self._last_tidy + self._pace, self._usage_due()))
        return max(0.0, min(due) - now) if due else None

    def _view_is_behind(self) -> bool:
        """A small shop's view follows at once; a large one's when a tenth of it has changed."""
        known = self._known
        return known.recent_lines > (0 if known.count <= SMALL_SHOP else known.count // 10)

    def _usage_due(self) -> float:
        """Counts alone rewrite at most about a hundred licenses a second."""
        return self._last_usage + self._known.count / 100

    def _write_usage(self) -> None:
        with self._memory:
            counts, self._counts = self._counts, {}
        try:
            self._usage.add(counts)
        except OSError:
            with self._memory:
                for key, count in counts.items():
                    self._counts[key] = count.plus(self._counts[key]) if key in self._counts else count
            raise
        self._usage_written = self._usage_written or bool(counts)

    def _rewrite_view(self, force: bool) -> None:
        """Under the view's lock: put what is newer than the written view into a new one."""
        self._take_up_newer_view()
        with self._memory:
            self._catch_up_or_reload()
            behind = self._known.recent_lines or self._usage_written
        if behind or force:
            self._write_view()

    def _write_view(self) -> None:
        """The folder lock is held only to know that nobody is in the middle of an append."""
        with self._folder_lock.held(), self._memory:
            durable.remove_leftovers(self.folder)
            self._catch_up_all()
            self.ledger.ensure_synced()
            self.devices.ensure_synced()
            known, changed, count = self._known, dict(self._known.changed), self._known.count
            ledger, devices = self.ledger.mark, self.devices.mark
            recent = list(known.recent.items())
        usage = self._fold_usage(known.view, changed)
        pairs = ((name, place) for name, places in recent for place in _covered(places, ledger, devices))
        write_index(self.folder / "history.idx", known.index, pairs, ledger, devices)
        books = Books(ledger=ledger, devices=devices, usage=usage, count=count)
        write_view(self.folder / "licenses.json", known.view, changed, books)
        self._take_up_written_view()
        self._last_usage, self._usage_written = time.monotonic(), False

    def _take_up_written_view(self) -> None:
        """Read the new view, and what was sold beside its writing, without making a sale wait for it: that is done by a
        store of its own, whose knowledge is taken over. For the holder of the view's lock."""
        fresh = FlatFileStore(self.folder, self._pace)
        try:
            fresh._load(self._read_written())
            fresh._catch_up_all()
        finally:
            fresh.close()
        with self._memory:
            self._known = fresh._known.hand_over(self.ledger, self.devices)
            self._catch_up_all()

    def _take_newer_view(self) -> bool:
        """Where another process has written the view, what it covers need not be kept in memory any more."""
        found = self._view_on_disk()
        if found is None or found == self._known.seen:
            return False
        if found[1] > _READ_AT_ONCE:
            self._newer_waits = True  # until nobody waits for an answer
            return False
        self._load()
        return True

    def _take_up_newer_view(self) -> None:
        """Under the view's lock: as `_take_newer_view`, of any size."""
        self._newer_waits = False
        if self._view_on_disk() not in (None, self._known.seen):
            self._take_up_written_view()

    def _view_on_disk(self) -> tuple[int, int, int] | None:
        """By what the written view is known from others; None when there is none."""
        try:
            status = os.stat(self.folder / "licenses.json")
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _fold_usage(self, view: View | EmptyView, changed: dict[str, License]) -> tuple[int, int]:
        sums, mark, whole = self._usage.since(view.books.usage)
        for key, count in sums.items():
            if license := changed.get(key) or view.find(key):
                before = (
                    Count(0, count.last)
                    if whole
                    else Count(license.validation_count, license.last_validation or count.last)
                )
                after = before.plus(count)
                changed[key] = msgspec.structs.replace(
                    license, validation_count=after.number, last_validation=after.last
                )
        return self._usage.compact(mark) if self._usage.needs_compaction() else mark

    def rebuild(self) -> int:
        with self._view_lock.held():
            with self._memory:
                self._known = Known(self.ledger, self.devices, seen=self._view_on_disk())
                self.ledger.mark = self.devices.mark = Mark()
                self._catch_up_all()
            self._write_view()
        return self._known.view.books.count

    # ------------------------------------------------------------------------------------------------ health
    def state(self, probe: bool = False) -> StoreState:
        with self._memory:
            self._look()
        trouble = str(self._damage) if self._damage else durable.moved_away(self.folder) or self._write_trouble
        if probe and not self._damage:
            trouble = durable.moved_away(self.folder) or self._probe()
        shelf, notice = None, None
        try:
            notice = self.shelf.notice()
        except StorageUnavailable as error:
            shelf = error.detail
        return StoreState(
            kind="flat files",
            trouble=trouble,
            licenses=self._known.count,
            ledger_lines=self.ledger.mark.seq,
            view=self._view_trouble or shelf,
            behind=self._known.recent_lines,
            notices=(*self._notices, *([notice] if notice else [])),
        )

    def sizes(self) -> dict[str, int]:
        found = {}
        for name in BOOKS:
            with suppress(OSError):
                found[name] = (self.folder / name).stat().st_size
        return found

    def _probe(self) -> str | None:
        """Why it takes no bytes; after a write that failed, the logs have to take them too."""
        try:
            durable.probe(self.folder)
            if self._write_trouble is not None:
                with self.transaction():
                    self.ledger.sync_anew()
                    self.devices.sync_anew()
                self._write_trouble = None
        except OSError as error:
            return f"the data folder takes no bytes: {error.strerror or error}"
        except StorageUnavailable as error:
            return error.detail
        return None


def _covered(places: Iterable[int], ledger: Mark, devices: Mark) -> Iterator[int]:
    """Those of these places that an index up to these marks speaks of; later ones may have come beside its writing."""
    for place in tuple(places):
        if place < ledger.position or DEVICES <= place < DEVICES | devices.position:
            yield place


class _FileTransaction(Transaction):
    def __init__(self, store: FlatFileStore) -> None:
        self._store = store

    def append(self, entries: Sequence[Entry], licenses: Mapping[str, License] | None = None) -> None:
        self._store.wrote(self._store.ledger.append(entries), [], licenses)

    def append_devices(self, lines: Sequence[DeviceLine]) -> None:
        self._store.ledger.ensure_synced()
        self._store.wrote([], self._store.devices.append(lines))

    def rest_on_disk(self) -> None:
        self._store.ledger.ensure_synced()
