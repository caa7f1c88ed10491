"""`shelf.json`: small things that all workers share, each with its end; rewritten whole, since it stays small."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

import msgspec

from server.domain.license import Moment
from server.errors import StorageUnavailable
from server.storage import durable
from server.storage.base import Shelf
from server.storage.log import UNREADABLE

log = logging.getLogger(__name__)


class Thing(msgspec.Struct, frozen=True):
    value: str
    until: Moment


class FileShelf(Shelf):
    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._lock = durable.BooksLock(path.with_name("shelf.lock"), patience)

    def alone(self) -> AbstractContextManager[None]:
        return self._lock.held()

    def get(self, name: str, now: datetime) -> str | None:
        thing = self.things().get(name)
        return thing.value if thing and thing.until > now else None

    def put(self, name: str, value: str, until: datetime, now: datetime) -> None:
        with self._lock.held():
            self._write(self.things() | {name: Thing(value, until)}, now)

    def claim(self, name: str, until: datetime, now: datetime) -> bool:
        with self._lock.held():
            things = self.things()
            if (thing := things.get(name)) and thing.until > now:
                return False
            self._write(things | {name: Thing("", until)}, now)
            return True

    def things(self) -> dict[str, Thing]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Thing])
        except FileNotFoundError:
            return {}
        except UNREADABLE as error:  # it is replaced whole, so this is a disk's doing
            log.error("storage: %s cannot be read and is begun anew: %s", self._path.name, error)
            return {}
        except OSError as error:
            raise StorageUnavailable(f"{self._path.name} cannot be read: {error.strerror or error}") from error

    def _write(self, things: dict[str, Thing], now: datetime) -> None:
        kept = {name: thing for name, thing in things.items() if thing.until > now}
        try:
            durable.replace(self._path, [msgspec.json.encode(kept)])
        except OSError as error:
            raise StorageUnavailable(f"{self._path.name} cannot be written: {error.strerror or error}") from error
