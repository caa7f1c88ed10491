"""`shelf.json`: small things that all workers share, each with its end; rewritten whole, since it stays small.

It knows nothing that could be made anew from elsewhere: where it is damaged, nobody can say which links were spent and
which sessions ended. So it is begun anew with a word that whoever is given a link or a session from then on knows, and
what was given before is refused (`Shelf.begun`).
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from server.domain.license import Moment
from server.errors import StorageUnavailable
from server.storage import durable
from server.storage.base import BEGUN, Shelf
from server.storage.log import UNREADABLE

log = logging.getLogger(__name__)

BEGUN_FOR = timedelta(days=15)  # longer than anything lasts that was given out before
_SUM = "sum"  # of all others, so that no byte of them changes unseen; over since ever: an older version drops it
_OVER = datetime(1970, 1, 1, tzinfo=UTC)


class Thing(msgspec.Struct, frozen=True):
    value: str
    until: Moment


class DamagedShelf(StorageUnavailable):
    pass


class FileShelf(Shelf):
    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._lock = durable.BooksLock(path.with_name("shelf.lock"), patience)

    def alone(self) -> AbstractContextManager[None]:
        return self._lock.held()

    def get(self, name: str, now: datetime) -> str | None:
        try:
            things = self.things()
        except DamagedShelf:
            with self._lock.held():
                things = self._mended(now)
        thing = things.get(name)
        return thing.value if thing and thing.until > now else None

    def put(self, name: str, value: str, until: datetime, now: datetime) -> None:
        with self._lock.held():
            self._write(self._mended(now) | {name: Thing(value, until)}, now)

    def claim(self, name: str, until: datetime, now: datetime) -> bool:
        with self._lock.held():
            things = self._mended(now)
            if (thing := things.get(name)) and thing.until > now:
                return False
            self._write(things | {name: Thing("", until)}, now)
            return True

    def things(self) -> dict[str, Thing]:
        """Raises DamagedShelf."""
        try:
            things = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Thing])
        except FileNotFoundError:
            return {}
        except UNREADABLE as error:  # it is replaced whole, so this is a disk's doing
            raise DamagedShelf(f"{self._path.name} is damaged: {error}") from error
        except OSError as error:
            raise StorageUnavailable(f"{self._path.name} cannot be read: {error.strerror or error}") from error
        told = things.pop(_SUM, None)
        if told is not None and told.value != _sum(things):
            raise DamagedShelf(f"{self._path.name} is damaged: it was changed")
        return things

    def notice(self) -> str | None:
        """What the owner is told of it, as long as something is refused by it. Raises StorageUnavailable."""
        begun = self.things().get(BEGUN)
        if begun is None:
            return None
        when = begun.value.partition(" ")[0]
        return f"{self._path.name} was damaged at {when}: everybody was signed out, and links mailed before are refused"

    def _mended(self, now: datetime) -> dict[str, Thing]:
        """Under the lock."""
        try:
            return self.things()
        except DamagedShelf as error:
            begun = Thing(f"{now:%Y-%m-%dT%H:%M:%SZ} {secrets.token_urlsafe(9)}", now + BEGUN_FOR)
            self._write({BEGUN: begun}, now)
            log.error("storage: %s; it is begun anew: all are signed out, no link from before is good", error.detail)
            return {BEGUN: begun}

    def _write(self, things: dict[str, Thing], now: datetime) -> None:
        kept = {name: thing for name, thing in things.items() if thing.until > now}
        try:
            durable.replace(self._path, [msgspec.json.encode(kept | {_SUM: Thing(_sum(kept), _OVER)})])
        except OSError as error:
            raise StorageUnavailable(f"{self._path.name} cannot be written: {error.strerror or error}") from error


def _sum(things: dict[str, Thing]) -> str:
    return hashlib.sha256(msgspec.json.encode(things)).hexdigest()
