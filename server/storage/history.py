"""`history.idx`: where in the logs each purchase, event, subscription, license key and e-mail address is spoken of.

A disposable file: two columns of 64-bit numbers, name hashes in order and their places, mapped into memory. It is
written together with the view and extended in memory in between; when it is missing or does not fit the logs it is
made anew from them. A place is an offset in the ledger, or in the device log with the top bit set.
"""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from server.storage import durable
from server.storage.log import UNREADABLE, Mark, line_hash

DEVICES = 1 << 63
_MAGIC = b"keyledger history 2\n"


class Covered(msgspec.Struct, frozen=True):
    """Up to where of each log an index speaks, and how many places it holds."""

    ledger: Mark
    devices: Mark
    count: int
    checksum: str


class HistoryIndex:
    """The columns of a written index; an empty one where there is none."""

    def __init__(self, covered: Covered | None = None, columns: memoryview | None = None) -> None:
        self.covered = covered or Covered(Mark(), Mark(), 0, "")
        columns = columns if columns is not None else memoryview(b"")
        self._hashes = columns[: self.covered.count * 8].cast("Q")
        self._places = columns[self.covered.count * 8 :].cast("Q")

    def find(self, name_hash: int) -> list[int]:
        begin = bisect_left(self._hashes, name_hash)
        end = begin
        while end < len(self._hashes) and self._hashes[end] == name_hash:
            end += 1
        return self._places[begin:end].tolist()

    def extended(self, pairs: Iterable[tuple[int, int]]) -> tuple[array[int], array[int]]:
        """The columns with these (hash, place) pairs put in at their places; what is between is copied as it stands."""
        hashes, places = array("Q"), array("Q")
        at = 0
        for name_hash, place in _in_order(pairs):
            end = bisect_right(self._hashes, name_hash, lo=at)
            hashes.frombytes(self._hashes[at:end].cast("B"))
            places.frombytes(self._places[at:end].cast("B"))
            if not (hashes and hashes[-1] == name_hash and places[-1] == place):
                hashes.append(name_hash)
                places.append(place)
            at = end
        hashes.frombytes(self._hashes[at:].cast("B"))
        places.frombytes(self._places[at:].cast("B"))
        return hashes, places


def _in_order(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted a little at a time: while a long list is sorted no other thread comes to its turn."""
    shares: list[list[tuple[int, int]]] = [[] for _ in range(256)]
    for pair in pairs:
        shares[pair[0] >> 56].append(pair)
    for share in shares:
        yield from sorted(share)


def read_index(path: Path) -> HistoryIndex:
    """The written index; an empty one when there is none or it is damaged in any way."""
    try:
        with open(path, "rb") as file:
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError):
        return HistoryIndex()
    header_end = bytes(whole[:1024]).find(b"}\n") + 2
    if header_end < 2 or bytes(whole[: len(_MAGIC)]) != _MAGIC:
        return HistoryIndex()
    try:
        covered = msgspec.json.decode(whole[len(_MAGIC) : header_end], type=Covered)
    except UNREADABLE:
        return HistoryIndex()
    columns = whole[header_end:]
    if len(columns) != covered.count * 16 or line_hash(columns) != covered.checksum:  # type: ignore[arg-type]
        return HistoryIndex()
    return HistoryIndex(covered, columns)


def write_index(path: Path, index: HistoryIndex, pairs: Iterable[tuple[int, int]], ledger: Mark, devices: Mark) -> None:
    hashes, places = index.extended(pairs)
    columns = hashes.tobytes() + places.tobytes()
    covered = Covered(ledger, devices, len(hashes), line_hash(columns))
    durable.replace(path, _pieces(covered, columns))


def _pieces(covered: Covered, columns: bytes) -> Iterator[bytes]:
    yield _MAGIC + msgspec.json.encode(covered) + b"\n"
    yield columns
