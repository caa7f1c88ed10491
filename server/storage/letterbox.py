"""`outbox.jsonl`: the letters and their attempts, one state a line; the newest line of a letter counts.

The file is compacted when most of it is history: letters that were sent more than 30 days ago are dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import msgspec

from server.errors import StorageUnavailable
from server.storage import durable
from server.storage.base import Letter, LetterBox
from server.storage.log import Mark, ascii_json

KEEP_SENT = timedelta(days=30)
_COMPACT_FROM = 4 << 20


class FileLetterBox(LetterBox):
    """Reads only what was appended since it last looked; a replaced file is read from its start."""

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self._lock = durable.Lock(path.with_name("outbox.lock"), patience)
        self._letters: dict[str, Letter] = {}
        self._covered = Mark()
        self._inode, self._position = 0, 0
        self._decode = msgspec.json.Decoder(Letter).decode

    @contextmanager
    def turn(self, wait: bool = False) -> Iterator[None]:
        with self._lock.held(wait):
            yield
            self._compact_when_worthwhile()

    def letters(self) -> dict[str, Letter]:
        self._catch_up()
        return self._letters

    def covered(self) -> Mark:
        self._catch_up()
        return self._covered

    def write(self, letters: Sequence[Letter], durably: bool = True) -> None:
        data = b"".join(ascii_json(letter) + b"\n" for letter in letters)
        try:
            descriptor = durable.open_for_append(self.path)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    data = b"\n" + data  # a killed writer's torn line
                (durable.append if durably else durable.write_all)(descriptor, data)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageUnavailable(f"{self.path.name} cannot be written: {error.strerror or error}") from error

    def _catch_up(self) -> None:
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._position:
                    self._letters, self._covered, self._position = {}, Mark(), 0
                    self._inode = status.st_ino
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return
        end = data.rfind(b"\n") + 1
        self._position += end
        for raw in data[:end].split(b"\n")[:-1]:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # a torn line says nothing that was promised
                self._take(self._decode(raw))

    def _take(self, letter: Letter) -> None:
        if letter.covers is not None:
            self._covered = letter.covers
        else:
            self._letters[letter.id] = letter

    def _compact_when_worthwhile(self) -> None:
        self._catch_up()
        if self._position < _COMPACT_FROM:
            return
        newest = max((letter.at for letter in self._letters.values() if letter.at), default=None)
        keep = [
            letter
            for letter in self._letters.values()
            if letter.state != "sent" or letter.at is None or newest is None or letter.at > newest - KEEP_SENT
        ]
        lines = [ascii_json(letter) + b"\n" for letter in [Letter(id="covers", covers=self._covered), *keep]]
        if sum(map(len, lines)) < self._position // 2:
            with suppress(OSError):
                durable.replace(self.path, lines)
