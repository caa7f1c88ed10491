"""`outbox.jsonl`: the letters and their attempts, one state a line; the newest line of a letter counts.

A process keeps in memory only what is not done with: letters that wait and letters that are dead. The file is
compacted when most of it is history; letters that were done with more than 30 days ago are dropped then. Fields that
only a newer version knows stay with their letter, through its next states and through a compaction.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from server.errors import StorageUnavailable
from server.storage import durable
from server.storage.base import Letter, LetterBox
from server.storage.log import UNREADABLE, ascii_json, from_end

log = logging.getLogger(__name__)

KEEP_SETTLED = timedelta(days=30)
_SETTLED = ("sent", "dropped")
_COMPACT_FROM = 4 << 20


class _Brief(msgspec.Struct, gc=False):
    """What of a letter's line tells whether it is wanted."""

    id: str
    kind: str = ""
    state: str = "queued"


_BRIEF = msgspec.json.Decoder(_Brief)


def _briefs(piece: bytes) -> list[_Brief]:
    """One for each line; of what cannot be read, one that nobody wants."""
    with suppress(*UNREADABLE):
        return list(_BRIEF.decode_lines(piece))
    found = list[_Brief]()
    for raw in piece.split(b"\n"):
        if raw:
            brief = _Brief("")
            with suppress(*UNREADABLE):
                brief = _BRIEF.decode(raw)
            found.append(brief)
    return found


class FileLetterBox(LetterBox):
    """Reads only what was appended since it last looked; a replaced file is read from its start."""

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self._turn_lock = durable.Lock(path.with_name("outbox.lock"), patience)
        self._enqueue_lock = durable.Lock(path.with_name("outbox.enqueue.lock"), patience)
        self._memory = threading.RLock()
        self._decode = msgspec.json.Decoder(Letter).decode
        self._compact_from = _COMPACT_FROM
        self._descriptor = -1
        self._forget(inode=0)

    def _forget(self, inode: int) -> None:
        self._waiting: dict[str, Letter] = {}
        self._dead: dict[str, Letter] = {}
        self._notes: dict[str, Letter] = {}
        self._settled: Counter[tuple[str, str]] = Counter()  # by kind and state
        self._unknown: dict[str, dict[str, msgspec.Raw]] = {}  # fields that only a newer version knows, by letter
        self._inode, self._position = inode, 0

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @contextmanager
    def turn(self, wait: bool = False) -> Iterator[None]:
        with self._turn_lock.held(wait):
            yield
            if self._position >= self._compact_from:
                self._compact()

    # ------------------------------------------------------------------------------------------------ reading
    def waiting(self) -> Sequence[Letter]:
        with self._memory:
            self._catch_up()
            return list(self._waiting.values())

    def dead(self) -> Sequence[Letter]:
        with self._memory:
            self._catch_up()
            return list(self._dead.values())

    def counts(self, but: Collection[str] = ()) -> dict[str, int]:
        with self._memory:
            self._catch_up()
            found = Counter({"dead": sum(letter.kind not in but for letter in self._dead.values())})
            found.update(letter.state for letter in self._waiting.values() if letter.kind not in but)
            settled = ((state, number) for (kind, state), number in self._settled.items() if kind not in but)
            for state, number in settled:
                found[state] += number
            return dict(found)

    def note(self, name: str) -> Letter | None:
        with self._memory:
            self._catch_up()
            return self._notes.get(name)

    def letters(self) -> Sequence[Letter]:
        return [letter for letter, _ in self._newest() if letter.kind]

    def newest(self, state: str | None = None, skip: int = 0) -> Iterator[Letter]:
        seen = set[str]()
        for piece in self._pieces():
            briefs = _briefs(piece)
            places = {brief.id: place for place, brief in enumerate(briefs) if brief.id not in seen}
            seen.update(places)
            if state not in (None, "queued") and f'"state":"{state}"'.encode() not in piece:
                continue
            wanted = [at for at in places.values() if briefs[at].kind and state in (None, briefs[at].state)]
            if len(wanted) <= skip:
                skip -= len(wanted)
                continue
            raws = [raw for raw in piece.split(b"\n") if raw]
            for at in sorted(wanted, reverse=True)[skip:]:
                yield self._decode(raws[at])
            skip = 0

    def _pieces(self) -> Iterator[bytes]:
        """The box from its end."""
        try:
            with open(self.path, "rb") as file:
                yield from from_end(file, file.seek(0, os.SEEK_END))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unavailable("read", error) from error

    def named(self, ids: Collection[str]) -> dict[str, Letter]:
        data, raws = self._whole(), list[bytes]()
        for one in ids:
            at, needle = -1, b'{"id":' + ascii_json(one) + b","  # a line of ours begins so
            while (at := data.find(needle, at + 1)) >= 0:
                raws.append(data[at : data.index(b"\n", at)])
        return {letter.id: letter for letter, _ in self._lines(b"\n".join(raws)) if letter.kind and letter.id in ids}

    def letters_about(self, keys: Collection[str]) -> Sequence[Letter]:
        wanted, data = [ascii_json(key) for key in keys], self._whole()
        if not any(key in data for key in wanted):
            return []
        lines = b"\n".join(line for line in data.split(b"\n") if any(key in line for key in wanted))
        return [letter for letter, _ in self._newest(lines) if letter.kind and letter.license_key in keys]

    def _newest(self, data: bytes | None = None) -> Sequence[tuple[Letter, bytes]]:
        """The newest line of every letter and note of the file, or of these lines, in the order of their first ones."""
        newest = {letter.id: (letter, raw) for letter, raw in self._lines(self._whole() if data is None else data)}
        return list(newest.values())

    def _whole(self) -> bytes:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._unavailable("read", error) from error
        return data[: data.rfind(b"\n") + 1]

    def _catch_up(self) -> None:
        """Costs one stat when nothing is new."""
        try:
            found = os.stat(self.path)
            if (found.st_ino, found.st_size) != (self._inode, self._position):
                self._read_new()
        except FileNotFoundError:
            self._forget(inode=0)
        except OSError as error:
            raise self._unavailable("read", error) from error

    def _read_new(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if status.st_ino != self._inode or status.st_size < self._position:
            self._forget(status.st_ino)
        self.close()
        self._descriptor = descriptor  # kept open: so long its inode number is not given to another file
        data = os.pread(descriptor, status.st_size - self._position, self._position)
        end = data.rfind(b"\n") + 1
        for letter, raw in self._lines(data[:end]):
            self._take(letter, raw)
        self._position += end

    def _lines(self, data: bytes) -> Iterator[tuple[Letter, bytes]]:
        for raw in data.split(b"\n"):
            try:
                if raw:
                    yield self._decode(raw), raw
            except UNREADABLE:  # a torn line says nothing that was promised
                log.warning("outbox: a line of %s cannot be read and was passed over", self.path.name)

    def _take(self, letter: Letter, raw: bytes) -> None:
        self._unknown.pop(letter.id, None)
        if letter.state not in _SETTLED and raw != ascii_json(letter):
            self._unknown[letter.id] = _unknown_fields(raw)
        if not letter.kind:
            self._notes[letter.id] = letter
        elif letter.state in _SETTLED:
            self._settled[letter.kind, letter.state] += 1
            self._waiting.pop(letter.id, None)
            self._dead.pop(letter.id, None)
        elif letter.state == "dead":
            self._waiting.pop(letter.id, None)
            self._dead[letter.id] = letter
        else:
            self._dead.pop(letter.id, None)
            self._waiting[letter.id] = letter

    # ------------------------------------------------------------------------------------------------ writing
    def write(self, letters: Sequence[Letter], durably: bool = True) -> None:
        with self._memory:
            lines = [self._line(letter) for letter in letters]
            data = b"".join(line + b"\n" for line in lines)
            try:
                read_along = self._append(data, durably)
            except OSError as error:
                raise self._unavailable("written", error) from error
            if read_along:
                self._position += len(data)
                for letter, line in zip(letters, lines, strict=True):
                    self._take(letter, line)

    def _line(self, letter: Letter) -> bytes:
        line, unknown = ascii_json(letter), self._unknown.get(letter.id)
        return line[:-1] + b"," + ascii_json(unknown)[1:] if unknown else line

    def enqueue(self, letters: Sequence[Letter]) -> None:
        """Under a lock of its own, because the holder of the turn may be talking to a mail server for minutes."""
        with self._enqueue_lock.held():
            self.write(letters)

    def _append(self, data: bytes, durably: bool) -> bool:
        """Whether these bytes stand right behind what was read, so that nobody has to read them again."""
        descriptor = durable.open_for_append(self.path)
        try:
            before = os.fstat(descriptor)
            if before.st_size and os.pread(descriptor, 1, before.st_size - 1) != b"\n":
                data = b"\n" + data  # behind a killed writer's torn line
            (durable.append if durably else durable.write_all)(descriptor, data)
            grown = os.fstat(descriptor).st_size - before.st_size
            return (before.st_ino, before.st_size, grown) == (self._inode, self._position, len(data))
        finally:
            os.close(descriptor)

    def _compact(self) -> None:
        """Nobody enqueues meanwhile: what is appended to the old file would be lost with it."""
        with suppress(OSError, StorageUnavailable), self._enqueue_lock.held(wait=False), self._memory:
            found = self._newest()
            newest = max((letter.at for letter, _ in found if letter.at), default=None)
            kept = [(letter, raw) for letter, raw in found if not _is_over(letter, newest)]
            self._catch_up()
            notes_first = sorted(kept, key=lambda pair: bool(pair[0].kind))
            lines = [raw + b"\n" for _, raw in notes_first]
            size = sum(map(len, lines))
            if size < self._position // 2:
                durable.replace(self.path, lines)
            self._compact_from = max(_COMPACT_FROM, 2 * size)

    def _unavailable(self, verb: str, error: OSError) -> StorageUnavailable:
        return StorageUnavailable(f"{self.path.name} cannot be {verb}: {error.strerror or error}")


def _is_over(letter: Letter, newest: datetime | None) -> bool:
    """Whether nobody needs to know of it any more; notes are kept."""
    if not letter.kind or letter.state not in _SETTLED or newest is None or letter.at is None:
        return False
    return letter.at <= newest - KEEP_SETTLED


def _unknown_fields(raw: bytes) -> dict[str, msgspec.Raw]:
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return {name: value for name, value in fields.items() if name not in Letter.__struct_fields__}
