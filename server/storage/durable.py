"""The only place that locks, appends, replaces and calls fsync.

What is promised here: bytes that `append` returned from survive a power loss; a file that `replace` wrote is seen
whole or not at all; of two holders of one `Lock` there is at most one, over processes and threads.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from server.errors import StartRefused, StorageUnavailable

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
MOVED = "moved.txt"  # in a data folder: its books are moved to a database, or are being moved
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_SHORT_WHILE = 0.00005  # seconds between two tries for bytes that are held for microseconds


class Lock:
    """One lock file, never deleted. Made anew in each process: a lock that a fork inherited would be held twice."""

    def __init__(self, path: Path, patience: float) -> None:
        self.path, self.patience = path, patience
        self._pid = 0
        self._lock: filelock.BaseFileLock | None = None
        self._birth = threading.Lock()  # two threads of a new process must not make two

    @contextmanager
    def held(self, wait: bool = True) -> Iterator[None]:
        """Raises StorageUnavailable when it cannot be had in `patience` seconds (at once unless `wait`)."""
        lock = self._of_this_process()
        try:
            lock.acquire(timeout=self.patience if wait else 0)
        except filelock.Timeout:
            raise StorageUnavailable(f"{self.path.name} is held by another process") from None
        except (OSError, NotImplementedError) as error:
            raise StorageUnavailable(f"{self.path.name} cannot be locked: {error}") from error
        try:
            yield
        finally:
            lock.release()

    def _of_this_process(self) -> filelock.BaseFileLock:
        with self._birth:
            if self._lock is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._lock = filelock.FileLock(
                    self.path, mode=PRIVATE_FILE, fallback_to_soft=False, poll_interval=0.002
                )
            return self._lock


class BooksLock(Lock):
    """A lock of what a folder's books are written under: nobody has it any more once they are moved to a database."""

    @contextmanager
    def held(self, wait: bool = True) -> Iterator[None]:
        with super().held(wait):
            if moved := moved_away(self.path.parent):
                raise StorageUnavailable(moved)
            yield


def moved_away(folder: Path) -> str | None:
    """Why nothing is written to this folder's books any more; costs one stat where nothing is so."""
    name = f"{folder}/{MOVED}"
    if not os.path.exists(name):
        return None
    with suppress(OSError), open(name, encoding="utf-8") as file:
        return file.readline().strip() or "the books are being moved to a database"
    return None


def refuse_unmoved(folder: Path) -> None:
    """Before an empty database is taken for an empty shop."""
    with suppress(FileNotFoundError):
        if (folder / "purchases.jsonl").stat().st_size and moved_away(folder) is None:
            raise StartRefused(
                f"DATABASE_URL: the database is empty, but {folder} holds a ledger: run scripts/migrate.py to-postgres"
            )


class FolderLock(Lock):
    """The lock that every sale takes: flock itself, since a FileLock's cycle costs a tenth of a whole sale.

    flock excludes other processes and a mutex the threads of this one. It polls, so that a stopped holder costs its
    waiters their patience and not their worker.

    Where somebody deletes the lock file, others would lock a new one beside its holder. So the folder is locked as
    well; and where a file system locks no folders (NFS), whoever has the file looks whether it is still the one of
    that name. A forked child lets go of what it inherited: it would hold the lock of a parent that was killed.
    """

    _POLL = 0.0005  # seconds; a sale holds the lock for about as long

    def __init__(self, path: Path, patience: float) -> None:
        super().__init__(path, patience)
        self._name = str(path)
        self._descriptor = self._folder = -1
        _FOLDER_LOCKS.add(self)

    @contextmanager
    def held(self, wait: bool = True) -> Iterator[None]:
        with self._birth:
            if self._pid != os.getpid():
                self._open()
                self._mutex, self._folder, self._pid = threading.Lock(), self._open_folder(), os.getpid()
        deadline = time.monotonic() + (self.patience if wait else 0)
        if not self._mutex.acquire(timeout=self.patience if wait else 0):
            raise StorageUnavailable(f"{self.path.name} is held by another thread")
        try:
            self._lock_both(deadline)
            try:
                if moved := moved_away(self.path.parent):
                    raise StorageUnavailable(moved)
                yield
            finally:
                self._unlock_both()
        finally:
            self._mutex.release()

    def excludes(self) -> bool:
        """Whether locks work here: while it is held, a second descriptor of its file must be refused."""
        with self.held():
            other = os.open(self._name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(other)
        return False

    def close(self) -> None:
        self._pid = 0
        for descriptor in (self._descriptor, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._folder = -1

    def forget(self) -> None:
        """In a child that was forked just now."""
        self._birth = threading.Lock()
        self.close()

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
            self._inode = os.fstat(self._descriptor).st_ino  # not given to another file while this one is open
        except OSError as error:
            raise StorageUnavailable(f"{self.path.name} cannot be opened: {error.strerror}") from error

    def _open_folder(self) -> int:
        """-1 where folders cannot be locked."""
        with suppress(OSError):
            descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            except BlockingIOError:  # somebody else is in
                return descriptor
            except OSError:
                os.close(descriptor)
                raise
            return descriptor
        return -1

    def _lock_both(self, deadline: float) -> None:
        self._flock(self._descriptor, deadline)
        while not self._is_in_place():
            os.close(self._descriptor)
            self._open()
            self._flock(self._descriptor, deadline)
        if self._folder >= 0:
            try:
                self._flock(self._folder, deadline)
            except StorageUnavailable:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                raise

    def _unlock_both(self) -> None:
        if not self._pid:  # a child that was forked inside: the lock is its parent's
            return
        if self._folder >= 0:
            fcntl.flock(self._folder, fcntl.LOCK_UN)
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _flock(self, descriptor: int, deadline: float) -> None:
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StorageUnavailable(f"{self.path.name} is held by another process") from None
                time.sleep(self._POLL)
            except OSError as error:
                raise StorageUnavailable(f"{self.path.name} cannot be locked: {error.strerror}") from error

    def _is_in_place(self) -> bool:
        try:
            return os.stat(self._name).st_ino == self._inode
        except FileNotFoundError:
            return False


_FOLDER_LOCKS: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _forget_inherited() -> None:
    for lock in _FOLDER_LOCKS:
        lock.forget()


os.register_at_fork(after_in_child=_forget_inherited)


def lock_bytes(descriptor: int, start: int, length: int, patience: float) -> None:
    """Keep other processes off these bytes of a file. Raises StorageUnavailable after `patience` seconds, OSError where
    the disk knows no such locks. They are the process's: closing any descriptor of the file lets all of them go."""
    deadline = 0.0
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
            return
        except (BlockingIOError, PermissionError):  # POSIX allows both
            deadline = deadline or time.monotonic() + patience
            if time.monotonic() >= deadline:
                raise StorageUnavailable("bytes of a file are held by another process") from None
        time.sleep(_SHORT_WHILE)


def unlock_bytes(descriptor: int, start: int, length: int) -> None:
    fcntl.lockf(descriptor, fcntl.LOCK_UN, length, start)


def make_folder(path: Path) -> None:
    path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)


def open_for_append(path: Path) -> int:
    """A descriptor of the file, made if it is missing; the new name is on disk before anything is written under it.

    Whoever made a file that is still empty may have been killed before that, so an empty one's name is synced again.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        if os.fstat(descriptor).st_size == 0:
            sync_folder(path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def append(descriptor: int, data: bytes) -> None:
    """Write and fsync, or raise OSError; then the caller must not trust the descriptor any more."""
    write_all(descriptor, data)
    os.fsync(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync(descriptor: int) -> None:
    os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Make a new or replaced name survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Put a new file in the place of an old one: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        try:
            for piece in pieces:
                write_all(descriptor, bytes(piece))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def exchange(one: Path, other: Path) -> None:
    """Let two folders change places in one step: whoever looks finds either. Raises OSError where that cannot be.

    Python has no call for it; sync their folder afterwards.
    """
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if swap(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))


def open_by(folder: Path) -> list[int]:
    """The other processes that have a file of this folder open, as far as the system shows them (in /proc)."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else []):
        with suppress(OSError):  # it ended, or is another user's
            links = (os.path.join("/proc", pid, "fd", name) for name in os.listdir(f"/proc/{pid}/fd"))
            found |= {int(pid) for link in links if _target(link) == str(folder)}
    return sorted(found - {os.getpid()})


def _target(link: str) -> str:
    """The folder of what a descriptor stands for."""
    with suppress(OSError):
        return os.path.dirname(os.readlink(link))
    return ""


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders of killed processes; those of living ones are in use."""
    for leftover in folder.glob(".*.tmp"):
        if not _lives(leftover.name.split(".")[-2]):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        return True  # not one of ours, or not ours to ask about
    return True


def probe(folder: Path) -> None:
    """Raise OSError unless this folder takes bytes now."""
    path = folder / ".probe"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        append(descriptor, b"\0" * 4096)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
