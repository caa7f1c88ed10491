"""`outbox.jsonl`: the letters and their attempts, one state a line; the newest line of a letter counts.

A process keeps in memory only what is not done with: letters that wait and letters that are dead. The file is
compacted when most of it is history; letters that were done with more than 30 days ago are dropped then.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import msgspec

from server.errors import StorageUnavailable
from server.storage import durable
from server.storage.base import Letter, LetterBox
from server.storage.log import UNREADABLE, ascii_json

log = logging.getLogger(__name__)

KEEP_SETTLED = timedelta(days=30)
_SETTLED = ("sent", "dropped")
_COMPACT_FROM = 4 << 20


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
        self._settled: Counter[str] = Counter()
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

    def counts(self) -> dict[str, int]:
        with self._memory:
            self._catch_up()
            waiting = Counter(letter.state for letter in self._waiting.values())
            return {**self._settled, **waiting, "dead": len(self._dead)}

    def note(self, name: str) -> Letter | None:
        with self._memory:
            self._catch_up()
            return self._notes.get(name)

    def letters(self) -> Sequence[Letter]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unavailable("read", error) from error
        newest = {letter.id: letter for letter in self._lines(data[: data.rfind(b"\n") + 1]) if letter.kind}
        return list(newest.values())

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
        for letter in self._lines(data[:end]):
            self._take(letter)
        self._position += end

    def _lines(self, data: bytes) -> Iterator[Letter]:
        for raw in data.split(b"\n"):
            try:
                if raw:
                    yield self._decode(raw)
            except UNREADABLE:  # a torn line says nothing that was promised
                log.warning("outbox: a line of %s cannot be read and was passed over", self.path.name)

    def _take(self, letter: Letter) -> None:
        if not letter.kind:
            self._notes[letter.id] = letter
        elif letter.state in _SETTLED:
            self._settled[letter.state] += 1
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
        data = b"".join(ascii_json(letter) + b"\n" for letter in letters)
        with self._memory:
            try:
                read_along = self._append(data, durably)
            except OSError as error:
                raise self._unavailable("written", error) from error
            if read_along:
                self._position += len(data)
                for letter in letters:
                    self._take(letter)

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
            letters = self.letters()
            newest = max((letter.at for letter in letters if letter.at), default=None)
            keep = [
                letter
                for letter in letters
                if letter.state not in _SETTLED or not (letter.at and newest) or letter.at > newest - KEEP_SETTLED
            ]
            self._catch_up()
            lines = [ascii_json(letter) + b"\n" for letter in (*self._notes.values(), *keep)]
            size = sum(map(len, lines))
            if size < self._position // 2:
                durable.replace(self.path, lines)
            self._compact_from = max(_COMPACT_FROM, 2 * size)

    def _unavailable(self, verb: str, error: OSError) -> StorageUnavailable:
        return StorageUnavailable(f"{self.path.name} cannot be {verb}: {error.strerror or error}")
