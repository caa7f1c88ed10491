"""The inspection of a data folder: each log's chain line by line, and the view against what the logs say.

It reads files and nothing else: no lock, no index, nothing that a store keeps in memory, so that it finds what those
would hide. Beside a running server it sees a moment: the view first, then logs that are at least as new.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Generic

import msgspec

from server.domain.fold import fold
from server.domain.license import Device, DeviceLine, License, devices_after
from server.domain.order import OrderLine
from server.domain.purchase import Entry, EventKind, name_hash
from server.storage.base import Finding, Progress
from server.storage.grouping import Purchases
from server.storage.log import UNREADABLE, ChainedLog, L, Mark, line_hash, was_whole
from server.storage.view import Books, View, ViewDamaged


def inspect_folder(folder: Path, progress: Progress) -> Iterator[Finding]:
    view, found = _read_view(folder / "licenses.json")
    ledger = _Chain("ledger", ChainedLog(folder / "purchases.jsonl", Entry), progress)
    devices = _Chain("devices", ChainedLog(folder / "activity.jsonl", DeviceLine), progress)
    orders = _Chain("orders", ChainedLog(folder / "orders.jsonl", OrderLine), progress)
    purchases, bindings, spoken = Purchases(), defaultdict[str, list[DeviceLine]](list), _Spoken()
    for entry in ledger.lines():
        purchases.add(entry.names())
        spoken.add(entry)
    for line in devices.lines():
        if view is None or line.seq <= view.books.devices.seq:
            bindings[line.license_key].append(line)
    for placed in orders.lines():
        if placed.order is not None:
            spoken.found(placed.order_id)
    if view is not None:
        ledger.compare(view.books.ledger)
        devices.compare(view.books.devices)
    yield from [*found, *ledger.findings, *devices.findings, *orders.findings, *spoken.findings()]
    if all(finding.is_note for finding in [*ledger.findings, *devices.findings]):
        bound = {key: devices_after(lines) for key, lines in bindings.items()}
        yield from _compare(ledger.log, purchases, bound, view, progress)
    else:
        yield Finding("view", "licenses.json", "was not compared with the logs: they are damaged", is_note=True)


class _Spoken:
    """The orders that the ledger speaks of: those are in the order book, which is written before."""

    def __init__(self) -> None:
        self._issued: dict[str, int] = {}
        self._told: dict[str, int] = {}

    def add(self, entry: Entry) -> None:
        if entry.order_id is None or entry.event is EventKind.IGNORED:
            return
        is_ours = any(item.product_id for item in entry.items)  # as only an order says what was sold
        (self._issued if is_ours else self._told).setdefault(entry.order_id, entry.seq)

    def found(self, order_id: str) -> None:
        self._issued.pop(order_id, None)
        self._told.pop(order_id, None)

    def findings(self) -> Iterator[Finding]:
        for order_id, seq in self._issued.items():
            detail = f"is of order {order_id}, which orders.jsonl has no more: restore that from a backup"
            yield Finding("orders", f"purchases.jsonl number {seq}", detail)
        for order_id, seq in self._told.items():
            if order_id not in self._issued:
                detail = f"is of order {order_id}, which was never placed here"
                yield Finding("orders", f"purchases.jsonl number {seq}", detail, is_note=True)


# ------------------------------------------------------------------------------------------------ one log's chain
@dataclass(frozen=True)
class _Physical(Generic[L]):
    """A physical line, counted from 1; `line` is None where it cannot be read, or has no end yet."""

    number: int
    raw: bytes
    line: L | None


class _Chain(Generic[L]):
    """Reads a log to its end, whatever is wrong with it; `findings` fills up on the way."""

    def __init__(self, kind: str, log: ChainedLog[L], progress: Progress) -> None:
        self.kind, self.log, self._name, self._progress = kind, log, log.path.name, progress
        self.findings: list[Finding] = []
        self._decode = msgspec.json.Decoder(log.line_type).decode
        self._seq = 0
        self._head: str | None = None
        self._unread: list[_Physical[L]] = []
        self._blamed = 0

    def lines(self) -> Iterator[L]:
        """The lines that can be read, in order."""
        for this, following in pairwise(chain(self._physical(), [None])):
            assert this is not None
            if this.line is None:
                self._unread.append(this)
            else:
                self._check(this, this.line, following)
                self._seq, self._unread = this.line.seq, []
                yield this.line
            self._head = line_hash(this.raw.removesuffix(b"\n"))
        for unread in self._unread:
            if unread.raw.endswith(b"\n") and was_whole(unread.raw.removesuffix(b"\n")):
                self._blame(unread.number, "cannot be read: it was damaged or changed")
            else:
                self._note(unread.number, "the next write seals it")

    def _physical(self) -> Iterator[_Physical[L]]:
        if not self.log.path.exists():
            return
        size, done = os.stat(self.log.path).st_size, 0
        with open(self.log.path, "rb") as file:
            for number, raw in enumerate(file, 1):
                done += len(raw)
                if number % 1000 == 0:
                    self._progress(done, 2 * size)
                yield _Physical(number, raw, self._read(raw))

    def _read(self, raw: bytes) -> L | None:
        try:
            return self._decode(raw) if raw.endswith(b"\n") else None
        except UNREADABLE:
            return None

    def _check(self, this: _Physical[L], line: L, following: _Physical[L] | None) -> None:
        linked, follows = line.prev == self._head, line.seq == self._seq + 1
        if linked and follows:
            for unread in self._unread:
                self._note(unread.number, "it is sealed and counts nothing")
        elif self._unread:
            for unread in self._unread:
                self._blame(unread.number, "cannot be read: it was damaged or changed")
        elif line.seq > self._seq + 1:
            missing = line.seq - self._seq - 1
            self._blame(this.number, f"{missing} before it missing: it is number {line.seq}, after number {self._seq}")
        elif not follows:
            self._blame(this.number, f"does not belong here: it is number {line.seq}, after number {self._seq}")
        else:
            self._blame_one_of_two(this, following)

    def _blame_one_of_two(self, this: _Physical[L], following: _Physical[L] | None) -> None:
        """A line names another hash than that of the line before. Where the next line vouches for it, it was the line
        before that was changed; else it is this one."""
        own = line_hash(this.raw.removesuffix(b"\n"))
        vouched = following is None or following.line is None or following.line.prev == own
        if this.number == 1 or not vouched:
            self._blame(this.number, "was changed: it does not follow the line before it")
        elif self._blamed < this.number - 1:
            self._blame(this.number - 1, "was changed: the line after it names another hash")

    def compare(self, seen: Mark) -> None:
        """What the view was made from must still be there, to the last line, which no line after it vouches for."""
        if seen.seq > self._seq:
            detail = f"ends with number {self._seq}, but licenses.json was made from {seen.seq}: its end was cut off"
            self.findings.append(Finding(self.kind, self._name, detail))
        elif not self._blamed and seen.position and self.log.head_before(seen.position) != seen.head:
            detail = f"number {seen.seq} is not the line that licenses.json was made from: it was changed"
            self.findings.append(Finding(self.kind, self._name, detail))
        self.log.close()

    def _blame(self, number: int, detail: str) -> None:
        self._blamed = number
        self.findings.append(Finding(self.kind, f"{self._name} line {number}", detail))

    def _note(self, number: int, what_of_it: str) -> None:
        detail = f"an unfinished line of a writer that was killed; {what_of_it}"
        self.findings.append(Finding(self.kind, f"{self._name} line {number}", detail, is_note=True))


# ------------------------------------------------------------------------------------------------ the view
@dataclass(frozen=True)
class _Stored:
    """`licenses.json` as it stands, sound or not."""

    books: Books
    find: Callable[[str], License | None]
    keys: Callable[[], Iterable[str]]


class _Loose(msgspec.Struct):
    licenses: dict[str, License]
    books: Books = Books()


def _read_view(path: Path) -> tuple[_Stored | None, list[Finding]]:
    try:
        view = View(path)
    except FileNotFoundError:
        return None, [Finding("view", path.name, "is not there; the next start makes it from the logs", is_note=True)]
    except ViewDamaged as error:
        return _read_damaged(path), [Finding("view", path.name, str(error))]
    return _Stored(view.books, view.find, lambda: (key for key, _ in view.find_by_hash(0, 1 << 64))), []


def _read_damaged(path: Path) -> _Stored | None:
    """What can still be read, to name the records that differ."""
    try:
        loose = msgspec.json.decode(path.read_bytes(), type=_Loose)
    except UNREADABLE:
        return None
    return _Stored(loose.books, loose.licenses.get, lambda: loose.licenses)


def _compare(
    ledger: ChainedLog[Entry],
    purchases: Purchases,
    bound: Mapping[str, list[Device]],
    view: _Stored | None,
    progress: Progress,
) -> Iterator[Finding]:
    """Fold every purchase anew and look at what the view has of it."""
    known: set[int] = set()
    done = 0
    for entries in purchases.groups(lambda: ledger.scan(Entry)):
        done += len(entries)
        progress(done + len(purchases.of_line), 2 * len(purchases.of_line))  # the first half was reading
        yield from _doubles(entries)
        if view is None:
            continue
        for seen in _as_seen(entries, view.books.ledger.seq):
            for key, license in fold(seen).items():
                known.add(name_hash(key))
                yield from _differences(key, view.find(key), license.with_devices(bound.get(key, [])))
    for key in view.keys() if view is not None else ():
        if name_hash(key) not in known:
            yield Finding("unknown", f"licenses.json {key}", "no line of the ledger issued this key")


def _as_seen(entries: list[Entry], seq: int) -> Iterable[list[Entry]]:
    """What a view of that age knows of a purchase; a later line may have joined what it still saw apart."""
    seen = [entry for entry in entries if entry.seq <= seq]
    if len(seen) == len(entries):
        return [entries]
    apart = Purchases()
    for entry in seen:
        apart.add(entry.names())
    return apart.groups(lambda: seen)


def _differences(key: str, record: License | None, license: License) -> Iterator[Finding]:
    """Usage does not count: it comes from a file of its own and may lag behind."""
    where = f"licenses.json {key}"
    if record is None:
        yield Finding("view", where, "is missing, though the ledger issued it")
        return
    due = msgspec.structs.replace(
        license, last_validation=record.last_validation, validation_count=record.validation_count
    )
    if due != record:
        fields = [name for name in License.__struct_fields__ if getattr(due, name) != getattr(record, name)]
        told = [f"{name} is {_json(record, name)}, the logs say {_json(due, name)}" for name in fields]
        yield Finding("view", where, "; ".join(told))


def _json(record: License, field: str) -> str:
    return msgspec.json.encode(getattr(record, field)).decode()


def _doubles(entries: list[Entry]) -> Iterator[Finding]:
    """One sale has one license of each product; only an import may say otherwise, since it says what was."""
    found = defaultdict[tuple[str, str | None, str], dict[str, int]](dict)
    for entry in entries:
        if entry.issues and entry.event is not EventKind.OWNER_IMPORT:
            for grant in entry.grants:
                found[entry.source, entry.sale_id, grant.product_id].setdefault(grant.license_key, entry.seq)
    for (source, sale_id, product_id), keys in found.items():
        if len(keys) > 1:
            detail = f"{len(keys)} licenses of {product_id} for one sale: {', '.join(keys)}"
            yield Finding("double", f"purchases.jsonl number {max(keys.values())} ({source} {sale_id})", detail)
