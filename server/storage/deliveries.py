"""`webhooks.table`: webhooks that were refused or that failed, over all workers, of a fixed size, and disposable.

Each platform and reason has a page of 4096 bytes, which is JSON: counts by the hour, and the newest failures. So what
strangers send takes the place of nothing but what strangers sent, and no flood makes the file grow. In front of them
stands when each platform was taken last: eight bytes, written without a lock, since the latest is right whoever it is.

Nothing is ever synced, and a page that cannot be read is begun anew: a webhook's answer must wait for none of this. The
locks are as in `limits.py`: POSIX's on the bytes of a page against other processes, a mutex against threads.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from server.domain.license import Moment
from server.errors import StorageUnavailable
from server.storage import durable
from server.storage.log import UNREADABLE, ascii_json

PAGE = 4096
KEPT = 8  # failures of each page, as long as there is room for them
HOURS = 24
_AT = struct.Struct("<Q")
_PATIENCE = 0.05  # seconds, then a failure is not counted
_HOUR = timedelta(hours=1)

_mutex = threading.Lock()


def _renew_mutex() -> None:
    global _mutex
    _mutex = threading.Lock()


os.register_at_fork(after_in_child=_renew_mutex)  # some other thread may have held it


class Failure(msgspec.Struct, frozen=True):
    """One delivery; `detail` is why it failed, in words that name no customer."""

    at: Moment
    size: int
    detail: str


class Failures(msgspec.Struct, kw_only=True):
    """What failed of one platform for one reason. `since` is the first failure behind the last success, `hours` are
    the beginnings of hours, with how many there were."""

    platform: str
    reason: str
    total: int = 0
    since: Moment | None = None
    hours: list[tuple[Moment, int]] = []
    newest: list[Failure] = []

    def add(self, failure: Failure, taken: datetime | None) -> None:
        last = self.newest[0].at if self.newest else None
        if last is None or self.since is None or (taken is not None and taken >= last):
            self.since = failure.at
        self.total += 1
        self.newest = [failure, *self.newest[: KEPT - 1]]
        hour = failure.at.replace(minute=0, second=0, microsecond=0)
        counts = dict(self.hours)
        counts[hour] = counts.get(hour, 0) + 1
        self.hours = sorted(counts.items())[-HOURS:]

    def lately(self, now: datetime) -> int:
        """How many there were in this hour and the 23 before it."""
        return sum(count for hour, count in self.hours if now - HOURS * _HOUR < hour <= now)


class DeliveryTable:
    """Every verb raises OSError or StorageUnavailable where the table cannot be used; what then, its user decides."""

    def __init__(self, path: Path, platforms: Sequence[str], reasons: Sequence[str]) -> None:
        self.path, self._platforms = path, tuple(platforms)
        self._places = [(platform, reason) for platform in platforms for reason in reasons]
        self._decode = msgspec.json.Decoder(Failures).decode
        self._descriptor = -1

    def took(self, platform: str, now: datetime) -> None:
        moment = _AT.pack(int(now.timestamp()))
        os.pwrite(self._open(), moment, self._platforms.index(platform) * _AT.size)

    def failed(self, platform: str, reason: str, failure: Failure) -> None:
        descriptor, place = self._open(), self._places.index((platform, reason))
        with self._alone(descriptor, place):
            page = self._read(descriptor, place)
            page.add(failure, self._taken(descriptor).get(platform))
            os.pwrite(descriptor, _packed(page), PAGE * (1 + place))

    def taken(self) -> dict[str, datetime]:
        """When a webhook of each platform was taken last."""
        return self._taken(self._open())

    def failures(self) -> list[Failures]:
        """What failed, by platform and reason."""
        descriptor, found = self._open(), list[Failures]()
        for place in range(len(self._places)):
            with self._alone(descriptor, place):
                found.append(self._read(descriptor, place))
        return [page for page in found if page.total]

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _taken(self, descriptor: int) -> dict[str, datetime]:
        raw = os.pread(descriptor, _AT.size * len(self._platforms), 0)
        moments = (moment for (moment,) in _AT.iter_unpack(raw[: len(raw) // _AT.size * _AT.size]))
        told = zip(self._platforms, moments, strict=False)
        return {name: datetime.fromtimestamp(at, UTC) for name, at in told if 0 < at < 1 << 36}

    def _read(self, descriptor: int, place: int) -> Failures:
        """An empty page where there is none, or another version had something else there."""
        platform, reason = self._places[place]
        try:
            page = self._decode(os.pread(descriptor, PAGE, PAGE * (1 + place)).rstrip(b"\0 \n"))
        except UNREADABLE:
            page = None
        if page is None or (page.platform, page.reason) != (platform, reason):
            return Failures(platform=platform, reason=reason)
        return page

    @contextmanager
    def _alone(self, descriptor: int, place: int) -> Iterator[None]:
        if not _mutex.acquire(timeout=_PATIENCE):
            raise StorageUnavailable(f"{self.path.name} is held by another thread")
        try:
            start = PAGE * (1 + place)
            durable.lock_bytes(descriptor, start, PAGE, _PATIENCE)
            try:
                yield
            finally:
                durable.unlock_bytes(descriptor, start, PAGE)
        finally:
            _mutex.release()

    def _open(self) -> int:
        """The file that is there now: who deleted it wants it begun anew."""
        with _mutex:
            if self._descriptor >= 0 and self._is_in_place():
                return self._descriptor
            self.close()
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, durable.PRIVATE_FILE)
            return self._descriptor

    def _is_in_place(self) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        ours = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _packed(page: Failures) -> bytes:
    while len(raw := ascii_json(page)) >= PAGE and page.newest:
        page.newest.pop()
    return raw.ljust(PAGE - 1) + b"\n"
