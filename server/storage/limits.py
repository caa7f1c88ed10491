"""`limits.table`: the buckets of the rate limits, one table for all workers, exact, of a fixed size, and disposable.

65,536 slots of 16 bytes: a tag and the moment at which this bucket is full again. A subject's keyed hash gives its tag
and the set of eight slots that its buckets may be in; nobody without the secret can aim at somebody else's set. A hit
locks the bytes of one set, reads them, and writes one slot. In a set that is taken up, the bucket that is nearest to
full is forgotten: that lets somebody have a few requests more, and never shuts anybody out, since a tag belongs to one
bucket.

The file is read and written by pread and pwrite. Mapped memory would save two microseconds of five, but a mapped file
that somebody cuts off kills its readers with SIGBUS; looking at its size first costs most of the difference, and still
leaves a gap. So a missing or short part reads as empty slots and grows back, and garbage has no tag that anybody asks
for. There is no header that could be wrong, and nothing is ever synced.

The locks are POSIX's, which belong to the process: a fork inherits none, and a killed holder's are gone. They exclude
no threads, so a mutex does, one for all tables of the process.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from pathlib import Path

from server.domain.rate import Allowance, Rate
from server.errors import StorageUnavailable
from server.storage import durable

SETS, WAYS = 8192, 8
_SLOT = struct.Struct("<QQ")
_SET = struct.Struct(f"<{2 * WAYS}Q")
_PATIENCE = 1.0  # seconds: a holder that was stopped costs its waiters this much, once
_LOOK_EVERY = 1_000_000_000  # nanoseconds between two looks whether the path still means the open file

_mutex = threading.Lock()


def _renew_mutex() -> None:
    global _mutex
    _mutex = threading.Lock()


os.register_at_fork(after_in_child=_renew_mutex)  # some other thread may have held it


class LimitTable:
    """`take` raises OSError or StorageUnavailable when the table cannot be used; what then, its user decides."""

    def __init__(self, path: Path, secret: str, longest: int = 0) -> None:
        """`longest` is the longest period of all buckets, where they differ: a moment further ahead is none of them."""
        self.path, self.name, self._longest = path, path.name, longest
        key = hashlib.blake2b(secret.encode()).digest()
        self._hash = hashlib.blake2b(digest_size=16, key=key, person=b"limits.table 1")
        self._descriptor = -1
        self._identity = (0, 0)
        self._looked = -_LOOK_EVERY

    def take(self, subject: str, kind: int, rate: Rate, now: int, beside: int = 0) -> tuple[Allowance, int]:
        """One request of this subject, counted if it is granted. A subject's buckets of all kinds are in one set, so
        the moment of another one, `beside`, comes along for nothing; 0 where there is none."""
        start, tag = self._place(subject)
        mine, other = tag ^ kind, tag ^ beside
        if not (_mutex.acquire(False) or _mutex.acquire(timeout=_PATIENCE)):
            raise StorageUnavailable(f"{self.path.name} is held by another thread")
        try:
            descriptor = self._open(now)
            durable.lock_bytes(descriptor, start, _SET.size, _PATIENCE)
            try:
                tags, moments = _read(descriptor, start)
                known = mine in tags
                at = tags.index(mine) if known else _stand_in(moments, now + max(rate.period, self._longest))
                allowance = rate.take(moments[at] if known else now, now)
                if allowance.granted:
                    os.pwrite(descriptor, _SLOT.pack(mine, allowance.full_at), start + at * _SLOT.size)
                return allowance, moments[tags.index(other)] if other in tags else 0
            finally:
                durable.unlock_bytes(descriptor, start, _SET.size)
        finally:
            _mutex.release()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _place(self, subject: str) -> tuple[int, int]:
        hashed = self._hash.copy()
        hashed.update(subject.encode("utf-8", "replace"))
        tag, place = _SLOT.unpack(hashed.digest())
        return place % SETS * _SET.size, tag

    def _open(self, now: int) -> int:
        """The descriptor of the file that is there now: one that was deleted or replaced is left behind."""
        if self._descriptor >= 0 and now < self._looked + _LOOK_EVERY:
            return self._descriptor
        if self._descriptor < 0 or self._is_replaced():
            self.close()
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, durable.PRIVATE_FILE)
            there = os.fstat(self._descriptor)
            self._identity = there.st_dev, there.st_ino
        self._looked = now
        return self._descriptor

    def _is_replaced(self) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != self._identity


def _read(descriptor: int, start: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tags and moments of one set; what lies behind the end of the file is empty."""
    numbers = _SET.unpack(os.pread(descriptor, _SET.size, start).ljust(_SET.size, b"\0"))
    return numbers[::2], numbers[1::2]


def _stand_in(moments: tuple[int, ...], horizon: int) -> int:
    """The slot for a newcomer: one that is over or cannot be, else the one that is over soonest."""
    return min(range(WAYS), key=lambda at: moments[at] if moments[at] <= horizon else 0)
