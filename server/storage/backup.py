"""Backups of a data folder: made beside a running service, read back before they count, checked before they are used.

Logs only grow, so a backup is a moment: the lock that every sale takes is held while eight files are opened, and what
is appended later is not looked at. On this floor, since it is about files; another store has its own ways.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from server import __version__
from server.errors import Conflict, DamagedFile, NotFound, StorageUnavailable
from server.storage import durable
from server.storage.archive import (
    FILES,
    FORMAT,
    LEDGER,
    NOTE,
    BadBackup,
    Manifest,
    Note,
    Part,
    pack,
    read_manifest,
    unpack,
)
from server.storage.base import Finding, Progress, no_progress
from server.storage.flatfile import PATIENCE, FlatFileStore
from server.storage.inspection import inspect_folder
from server.storage.log import CHUNK, ascii_json

SHELF = "shelf.json"
_NAME = re.compile(r"keyledger-\d{8}-\d{6}-\d{3}\.tar\.gz")


class Checked(msgspec.Struct, frozen=True):
    """A backup that was read from its first byte to its last, and what is wrong with the books in it."""

    file: Path
    manifest: Manifest
    findings: Sequence[Finding]
    removed: Sequence[Path] = ()


class Restored(msgspec.Struct, frozen=True):
    """`aside` is where the files are that were there before; None where there were none."""

    manifest: Manifest
    folder: Path
    aside: Path | None


def default_place(folder: Path) -> Path:
    """Beside the data folder, not in it: a restore puts another folder in its place."""
    return folder.with_name(f"{folder.name}-backups")


# ------------------------------------------------------------------------------------------------ create
def create(
    folder: Path,
    to: Path,
    now: datetime,
    keep: int | None = None,
    progress: Progress = no_progress,
    patience: float = PATIENCE,
    home: Path | None = None,
) -> Checked:
    """Make a backup, and take away the oldest ones where only so many are to be kept. Raises NotFound where there is
    no ledger. It gets its name when it was read back; one that holds damaged books displaces no older one."""
    durable.make_folder(to)
    durable.remove_leftovers(to)
    path = to / f"keyledger-{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}.tar.gz"
    unchecked = to / f".{path.name}.{os.getpid()}.tmp"
    try:
        with moment_of(folder, patience) as parts:
            manifest = Manifest(FORMAT, now, __version__, tuple(part.kept() for part in parts))
            durable.replace(unchecked, pack(manifest, parts))
        findings = verify(unchecked, progress).findings
        os.replace(unchecked, path)
    finally:
        unchecked.unlink(missing_ok=True)
    durable.sync_folder(to)
    with suppress(OSError):  # a disk that takes no more bytes is a reason for a backup, not against it
        note = Note(now, str(path), manifest.ledger_lines, not findings)
        durable.replace((home or folder) / NOTE, [ascii_json(note) + b"\n"])
    removed = _rotate(path, keep, manifest.ledger_lines) if keep and not findings else []
    return Checked(path, manifest, findings, removed)


@contextmanager
def moment_of(folder: Path, patience: float) -> Iterator[list[Part]]:
    """The files as they are at one moment between two writes, logs up to their last newline."""
    if not (folder / LEDGER).exists():
        raise NotFound(f"there is no {LEDGER} in {folder}: nothing was sold, or DATA_DIR is another folder")
    with ExitStack() as opened:
        with _between_two_writes(folder, patience):
            found = [_open_part(folder / name, opened) for name in FILES if (folder / name).exists()]
        yield [part._replace(size=_whole_lines(part)) if part.name.endswith(".jsonl") else part for part in found]


@contextmanager
def _between_two_writes(folder: Path, patience: float) -> Iterator[None]:
    """Where the lock cannot be had, since a writer hangs or the disk is read-only, the order of FILES has to do."""
    lock = durable.FolderLock(folder / "folder.lock", patience)
    with ExitStack() as held:
        held.callback(lock.close)
        with suppress(StorageUnavailable):
            held.enter_context(lock.held())
        yield


def _open_part(path: Path, opened: ExitStack) -> Part:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return Part(path.name, descriptor, os.fstat(descriptor).st_size)


def _whole_lines(part: Part) -> int:
    """Up to where there are whole lines: behind it is what a writer was killed in, or is writing."""
    size = part.size
    while size > 0:
        start = max(0, size - CHUNK)
        if end := os.pread(part.descriptor, size - start, start).rfind(b"\n") + 1:
            return start + end
        size = start
    return 0


def _rotate(newest: Path, keep: int, lines: int) -> list[Path]:
    """The newest ones stay, and those that hold more of the ledger than the newest: it may have been lost meanwhile."""
    others = sorted(path for path in newest.parent.iterdir() if _NAME.fullmatch(path.name) and path != newest)
    removed = [path for path in others[: len(others) + 1 - keep] if _lines_in(path) <= lines]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def _lines_in(path: Path) -> float:
    try:
        return read_manifest(path).ledger_lines
    except (BadBackup, OSError):
        return float("inf")  # not for us to throw away


# ------------------------------------------------------------------------------------------------ verify
def verify(path: Path, progress: Progress = no_progress) -> Checked:
    """Read all of a backup, and inspect its books as those of a shop. Raises BadBackup where it is no whole one."""
    beside = path.parent if os.access(path.parent, os.W_OK) else None  # the common temporary folder may be small
    with TemporaryDirectory(prefix=".checking-", suffix=f".{os.getpid()}.tmp", dir=beside) as room:
        manifest = unpack(path, Path(room))
        return Checked(path, manifest, _wrong(Path(room), progress))


def _wrong(folder: Path, progress: Progress) -> list[Finding]:
    return [finding for finding in inspect_folder(folder, progress) if not finding.is_note]


# ------------------------------------------------------------------------------------------------ restore
def restore(path: Path, folder: Path, now: datetime, force: bool = False, progress: Progress = no_progress) -> Restored:
    """Put a backup in the place of a data folder, whose files are moved aside. Whenever this is interrupted, the
    folder is either the old or the new one. Raises BadBackup, and Conflict where something speaks against it."""
    folder = folder.resolve()
    if (folder / LEDGER).exists() and not force:
        raise Conflict(f"{folder} holds a ledger: --force moves the whole folder aside first")
    _refuse_where_in_use(folder)
    durable.make_folder(folder.parent)
    aside = folder.with_name(f"{folder.name}.set-aside-{now:%Y%m%d-%H%M%S}-{os.getpid()}")
    aside.mkdir(durable.PRIVATE_FOLDER)
    try:
        manifest = unpack_and_open(path, aside, progress)
        _keep_shelf(folder, aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    try:
        _put_in_place(aside, folder)
    except (Conflict, StorageUnavailable):  # after anything else `aside` may be the old folder
        shutil.rmtree(aside, ignore_errors=True)
        raise
    durable.sync_folder(folder.parent)
    with suppress(OSError):
        aside.rmdir()  # where there was nothing in it, or no folder
    return Restored(manifest, folder, aside if aside.exists() else None)


def unpack_and_open(path: Path, folder: Path, progress: Progress) -> Manifest:
    """As the next start will, which makes what is derived where it is not sound; then all has to fit."""
    manifest, store = unpack(path, folder), FlatFileStore(folder)
    try:
        store.open()
    except DamagedFile as error:
        raise BadBackup(f"{path.name} holds damaged books: {error}") from None
    finally:
        store.close()
    if wrong := _wrong(folder, progress):
        raise BadBackup(f"{path.name} holds damaged books: {wrong[0].where}: {wrong[0].detail}")
    return manifest


def _keep_shelf(old: Path, fresh: Path) -> None:
    """What was spent stays spent: a sign-in link must not be good a second time because older books were put back."""
    with suppress(FileNotFoundError):
        durable.replace(fresh / SHELF, [(old / SHELF).read_bytes()])


def _refuse_where_in_use(folder: Path) -> None:
    if folder.exists() and folder.stat().st_uid != os.geteuid():
        raise Conflict(f"{folder} belongs to another user: run this as that one")
    if others := durable.open_by(folder):
        told = ", ".join(map(str, others[:5]))
        raise Conflict(f"{folder} is in use by process {told}: stop the server (and its scripts) first")


def _put_in_place(fresh: Path, folder: Path) -> None:
    """The last step, and the only one that can be seen. Raises without having done anything."""
    if not folder.exists():
        os.replace(fresh, folder)
        return
    with ExitStack() as held:
        lock = durable.FolderLock(folder / "folder.lock", PATIENCE)
        held.callback(lock.close)
        held.enter_context(lock.held())
        _refuse_where_in_use(folder)
        try:
            durable.exchange(fresh, folder)
        except OSError as error:
            raise Conflict(
                f"{folder} cannot change places with another folder ({error.strerror}), as where a disk is mounted on "
                "it: restore with --to a new folder, and set DATA_DIR to that"
            ) from error
