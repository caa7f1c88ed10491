"""`licenses.json`: the lean records of all licenses in one JSON file that is always whole.

One record a line, in the order of the keys' SHA-256, bookkeeping in the last line. Those hashes are spread evenly, so a
look-up guesses its place in the mapped file and is there after a few steps (interpolation search): no table to keep,
no memory per license, and rewriting copies what did not change as it stands.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from server.domain.license import FullGlance, Glance, License, Wanted
from server.domain.purchase import name_hash
from server.storage import durable
from server.storage.log import UNREADABLE, Mark, ascii_json, decoder

FORMAT = 1
HEAD = b'{"format": 1, "licenses": {\n'
MIDDLE = b"\n}, "
_UNSIGNED = b'"checksum":""'
_SEPARATOR = b",\n"
_OPEN = b'": {"email":'  # ends a key: inside one, every quote would be escaped
_READ = 1 << 20
_MANY = 500  # finds in a piece of some 2,500 records, from which on decoding all is no dearer than picking them out
_COPY_UP_TO = 8 << 20  # a file that an owner may edit in its place is read, not mapped: the edit must not show


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """The bookkeeping of a view: up to where of each log it covers, and how many licenses it holds."""

    ledger: Mark = Mark()
    devices: Mark = Mark()
    usage: tuple[int, int] = (0, 0)
    count: int = 0
    checksum: str = ""


class ViewDamaged(Exception):
    """The view cannot be trusted; it is rebuilt from the logs."""


class View:
    """A written view, mapped into memory and never changed."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError, or ViewDamaged when the file is not exactly what was once written."""
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            self.inode, self.size = status.st_ino, status.st_size
            self.books, body_end = _check(file.fileno(), self.size)
            self._map: bytes | mmap.mmap = (
                file.read() if self.size <= _COPY_UP_TO else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            )
        self._start, self._end = len(HEAD), body_end
        self._decode = decoder(License).decode

    def find(self, key: str) -> License | None:
        _, _, line = self._seek(name_hash(key), key)
        return self._decode(_record(line)) if line else None

    def find_by_hash(self, low: int, high: int) -> Iterator[tuple[str, License]]:
        """The licenses whose keys' hashes lie from `low` to before `high`, in the order of the file."""
        at, _, _ = self._seek(low, None)
        while at < self._end:
            end = self._line_end(at)
            key, record = self._read(at, end)
            if name_hash(key) >= high:
                return
            yield key, record
            at = end + len(_SEPARATOR)

    def search(self, wanted: Wanted, now: datetime) -> Iterator[tuple[str, Glance]]:
        """What is wanted of all records. Pieces are decoded as a whole, and those in which the text stands nowhere not
        at all: 100,000 licenses, 44 MB, take about 0.1 s."""
        decode = decoder(dict[str, FullGlance] if wanted.text else dict[str, Glance]).decode
        spellings = _spellings(wanted.text)
        for piece in self._pieces():
            found = _lines_with(piece, spellings) if spellings else piece
            if found is None:  # hashes spread evenly: what is common in this piece is so in the others
                spellings, found = set(), piece
            if found:
                yield from wanted.among(decode(b"{" + found + b"}"), now)

    def _pieces(self) -> Iterator[bytes]:
        at = self._start
        while at < self._end:
            end = self._line_end(min(at + _READ, self._end))
            yield self._map[at:end]
            at = end + len(_SEPARATOR)

    def rewritten(self, changed: Mapping[str, License]) -> Iterator[memoryview | bytes]:
        """The body of a new view in pieces: these records put in, the rest copied."""
        whole = memoryview(self._map)
        at, first = self._start, True
        for key in sorted(changed, key=_place):
            begin, end, _ = self._seek(name_hash(key), key)
            if begin > at:
                stop = begin - len(_SEPARATOR) if begin < self._end else self._end
                yield from _piece(whole[at:stop], first)
                first = False
            yield from _piece(record_line(key, changed[key]), first)
            first = False
            at = end
        if at < self._end:
            yield from _piece(whole[at : self._end], first)

    def _seek(self, wanted: int, key: str | None) -> tuple[int, int, bytes]:
        """Where a key's line begins, where the next one begins, and the line; empty, at its place, where it is not."""
        low, high = self._start, self._end
        low_hash, high_hash = 0, 1 << 64
        steps, place = 0, _place(key) if key is not None else b""
        while low < high:
            steps += 1
            share = (wanted - low_hash) / max(1, high_hash - low_hash) if steps < 16 else 0.5
            guess = min(high - 1, low + int((high - low) * share))
            begin = self._line_begin(guess)
            end = self._line_end(begin)
            found = hashlib.sha256(self._raw_key(begin, end)).digest()
            if found == place:
                return begin, min(end + len(_SEPARATOR), self._end), self._map[begin:end]
            found_hash = int.from_bytes(found[:8], "big")
            if found_hash < wanted or (found_hash == wanted and found < place):
                low, low_hash = min(end + len(_SEPARATOR), self._end), found_hash
            else:
                high, high_hash = begin, found_hash
        return low, low, b""

    def _line_begin(self, at: int) -> int:
        return max(self._map.rfind(b"\n", self._start - 1, at) + 1, self._start)

    def _line_end(self, begin: int) -> int:
        """Where the record that begins here ends, before its comma."""
        end = self._map.find(_SEPARATOR, begin, self._end)
        return end if end >= 0 else self._end

    def _raw_key(self, begin: int, end: int) -> bytes:
        raw = self._map[begin + 1 : self._map.find(_OPEN, begin, end)]
        return raw if b"\\" not in raw else str(json.loads(b'"' + raw + b'"')).encode()

    def _read(self, begin: int, end: int) -> tuple[str, License]:
        return self._raw_key(begin, end).decode(), self._decode(_record(self._map[begin:end]))


class EmptyView:
    """The view of an empty shop, or of one whose file is about to be rebuilt."""

    inode, size = 0, 0
    books = Books()

    def find(self, key: str) -> License | None:
        return None

    def find_by_hash(self, low: int, high: int) -> Iterator[tuple[str, License]]:
        return iter(())

    def search(self, wanted: Wanted, now: datetime) -> Iterator[tuple[str, Glance]]:
        return iter(())

    def rewritten(self, changed: Mapping[str, License]) -> Iterator[memoryview | bytes]:
        for place, key in enumerate(sorted(changed, key=_place)):
            yield from _piece(record_line(key, changed[key]), place == 0)


def write_view(path: Path, view: View | EmptyView, changed: Mapping[str, License], books: Books) -> None:
    """Put a new view in the old one's place."""
    durable.replace(path, _pieces(view, changed, books))


def _pieces(view: View | EmptyView, changed: Mapping[str, License], books: Books) -> Iterator[bytes | memoryview]:
    digest = hashlib.sha256()
    for piece in _joined(itertools.chain([HEAD], view.rewritten(changed))):
        digest.update(piece)
        yield piece
    unsigned = ascii_json(msgspec.structs.replace(books, checksum=""))
    digest.update(unsigned)
    yield MIDDLE + b'"books": ' + unsigned.replace(_UNSIGNED, _signature(digest.hexdigest())) + b"}\n"


def _spellings(text: str) -> set[bytes]:
    """A text as a record may hold it, in lower case as bytes are: other letters than ASCII's are escaped one by one."""
    cases = {text, text.lower(), text.upper(), text.title(), text.capitalize()} if text else set()
    return {ascii_json(one)[1:-1].lower() for one in cases}


def _lines_with(piece: bytes, wanted: set[bytes]) -> bytes | None:
    """The records of this piece that hold one of these texts; None where that are too many to pick out."""
    small = piece.lower()
    found = sum(small.count(text) for text in wanted)
    if found == 0 or found > _MANY:
        return None if found else b""
    lines = zip(small.split(_SEPARATOR), piece.split(_SEPARATOR), strict=True)
    return _SEPARATOR.join(line for lowered, line in lines if any(text in lowered for text in wanted))


def _joined(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Few large pieces of many small ones: each is a write and a turn of the checksum."""
    waiting: list[bytes | memoryview] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _READ:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _signature(checksum: str) -> bytes:
    return b'"checksum":"' + checksum.encode(errors="replace") + b'"'


def record_line(key: str, record: License) -> bytes:
    return ascii_json(key) + b": " + ascii_json(record)


def _record(line: bytes) -> bytes:
    return line[line.index(_OPEN) + 3 :]


def _piece(data: bytes | memoryview, first: bool) -> Iterator[bytes | memoryview]:
    if not first:
        yield _SEPARATOR
    yield data


def _place(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _check(descriptor: int, size: int) -> tuple[Books, int]:
    """The bookkeeping and where the body ends, read without mapping: the checksum's pages need not stay in memory."""
    tail_at = max(0, size - 4096)
    tail = os.pread(descriptor, size - tail_at, tail_at)
    begin = tail.rfind(MIDDLE + b'"books": ')
    if begin < 0 or not tail.endswith(b"}\n"):
        raise ViewDamaged("it is cut off or not a view")
    told = tail[begin + len(MIDDLE) + 9 : -2]
    try:
        books = msgspec.json.decode(told, type=Books)
    except UNREADABLE as error:
        raise ViewDamaged(f"its bookkeeping cannot be read ({error})") from None
    end = tail_at + begin
    digest = hashlib.sha256()
    for at in range(0, end, _READ):
        digest.update(os.pread(descriptor, min(_READ, end - at), at))
    digest.update(told.replace(_signature(books.checksum), _UNSIGNED))  # with fields that only a newer version knows
    if _signature(digest.hexdigest()) not in told:
        raise ViewDamaged("its checksum does not match: it was damaged, or changed by hand")
    return books, end
