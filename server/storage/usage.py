"""`usage.jsonl`: how often and when each license was validated; a small file that is compacted now and then.

Counts are gathered in memory and written about once a second, without fsync: in a crash about a second of counts may
be lost, never anything else. The first line names the file's generation. When the file has grown to twice its last
compacted size, its sums become the first lines of the next generation.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import msgspec

from server.storage import durable
from server.storage.log import UNREADABLE, ascii_json

_COMPACT_FROM = 1 << 20


class Count(msgspec.Struct, frozen=True):
    number: int
    last: datetime

    def plus(self, other: Count) -> Count:
        return Count(self.number + other.number, max(self.last, other.last))


class _Line(msgspec.Struct, omit_defaults=True):
    counts: dict[str, Count] = {}
    generation: int = 0
    base: int = 0


class UsageFile:
    """All methods are called under the view's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decode = msgspec.json.Decoder(_Line).decode

    def add(self, counts: dict[str, Count]) -> None:
        if not counts:
            return
        if not self.path.exists():
            self.start(1, {})
        descriptor = durable.open_for_append(self.path)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            durable.write_all(descriptor, (b"\n" if torn else b"") + ascii_json(_Line(counts)) + b"\n")
        finally:
            os.close(descriptor)

    def since(self, mark: tuple[int, int]) -> tuple[dict[str, Count], tuple[int, int], bool]:
        """The sums after (generation, position), the new mark, and whether they stand for themselves.

        They do when the file is of another generation: then they are whole counts, not additions.
        """
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return {}, (0, 0), False
        lines = raw[: raw.rfind(b"\n") + 1]
        generation, _ = self._header(lines)
        whole = generation != mark[0] or mark[1] > len(lines)
        sums: dict[str, Count] = {}
        for line in lines[0 if whole else mark[1] :].splitlines():
            for key, count in self._counts(line).items():
                sums[key] = sums[key].plus(count) if key in sums else count
        return sums, (generation, len(lines)), whole

    def needs_compaction(self) -> bool:
        try:
            size = self.path.stat().st_size
            if size < _COMPACT_FROM:
                return False
            with open(self.path, "rb") as file:
                return size > _COMPACT_FROM + 2 * self._header(file.readline())[1]
        except OSError:
            return False

    def compact(self, mark: tuple[int, int]) -> tuple[int, int]:
        """Sum the file up into its next generation; returns the mark at its end."""
        sums, _, _ = self.since((0, 0))
        return self.start(mark[0] + 1, sums)

    def start(self, generation: int, sums: dict[str, Count]) -> tuple[int, int]:
        body = ascii_json(_Line(sums)) + b"\n" if sums else b""
        header = ascii_json(_Line(generation=generation, base=len(body))) + b"\n"
        durable.replace(self.path, [header, body])
        return generation, len(header) + len(body)

    def _header(self, lines: bytes) -> tuple[int, int]:
        try:
            line = self._decode(lines.partition(b"\n")[0])
        except UNREADABLE:
            return 0, 0
        return line.generation, line.base

    def _counts(self, line: bytes) -> dict[str, Count]:
        try:
            return self._decode(line).counts
        except UNREADABLE:
            return {}  # a torn line of a killed writer: a second of counts
