"""A backup as one file: a compressed tar of a few plain files, the manifest first. Any tar can unpack it.

It is read by stricter rules than tar's: the manifest names the members, their order and sizes, and they are among our
own few names. So nothing in an archive can name another place, be a link, or grow beyond what was told and fits.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from server.errors import KeyledgerError
from server.storage import durable
from server.storage.log import CHUNK, UNREADABLE, ascii_json, decoder, line_before, line_hash

LEDGER, DEVICE_LOG, ORDERS = "purchases.jsonl", "activity.jsonl", "orders.jsonl"
_CHAINED = (LEDGER, DEVICE_LOG, ORDERS)
# What speaks of another file goes before it: the view, letters and device lines speak of lines of the ledger, and those
# of orders. So where they are read one after the other, beside writers, no copy speaks of a line that is not in it. The
# view could be made anew, but it alone vouches for the logs' last lines. The shelf stays out: platforms' tokens are
# secrets, and what else is on it ends by itself.
FILES = (
    "licenses.json",
    "usage.jsonl",
    "outbox.jsonl",
    DEVICE_LOG,
    LEDGER,
    ORDERS,
    "products.good.json",
    "products.json",
)
MANIFEST, FORMAT = "manifest.json", 1
NOTE = "backup.json"
_BLOCK, _LARGEST_MANIFEST = tarfile.BLOCKSIZE, 64 * 1024
_WITH_GZIP_HEADER = 31
_BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, tarfile.HeaderError, *UNREADABLE)


class BadBackup(KeyledgerError):
    """This file is no backup that can be trusted; says what of it."""

    code = "BAD_BACKUP"


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of a backup; of a chained log also its last line's number, and the hash of its last physical line."""

    name: str
    size: int
    sha256: str
    seq: int | None = None
    head: str | None = None


class Manifest(msgspec.Struct, frozen=True):
    format: int
    created: datetime
    version: str
    files: tuple[Kept, ...]

    @property
    def ledger_lines(self) -> int:
        return next((kept.seq or 0 for kept in self.files if kept.name == LEDGER), 0)


class Note(msgspec.Struct, frozen=True):
    """In the data folder: when its newest backup was made, and of how many ledger lines."""

    at: datetime
    file: str
    seq: int
    is_sound: bool


def last_backup(folder: Path) -> Note | None:
    try:
        return msgspec.json.decode((folder / NOTE).read_bytes(), type=Note)
    except (OSError, *UNREADABLE):
        return None


class Part(NamedTuple):
    """The beginning of an open file that goes into a backup: what is appended later is not looked at."""

    name: str
    descriptor: int
    size: int

    def kept(self) -> Kept:
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        if self.name not in _CHAINED:
            return Kept(self.name, self.size, digest.hexdigest())
        return Kept(self.name, self.size, digest.hexdigest(), *self._end())

    def pieces(self) -> Iterator[bytes]:
        at = 0
        while at < self.size:
            piece = os.pread(self.descriptor, min(CHUNK, self.size - at), at)
            if not piece:
                raise OSError(f"{self.name} was cut while it was read: try again")
            yield piece
            at += len(piece)

    def _end(self) -> tuple[int, str | None]:
        head, at = None, self.size
        while (raw := line_before(self.descriptor, at)) is not None:
            head = head or line_hash(raw)
            try:
                return decoder(_Numbered).decode(raw).seq, head
            except UNREADABLE:  # a sealed tail
                at -= len(raw) + 1
        return 0, head


class _Numbered(msgspec.Struct):
    seq: int


# ------------------------------------------------------------------------------------------------ writing
def pack(manifest: Manifest, parts: Sequence[Part]) -> Iterator[bytes]:
    """The archive's bytes, a piece at a time."""
    squeeze, told = zlib.compressobj(wbits=_WITH_GZIP_HEADER), ascii_json(manifest)
    members = [(MANIFEST, len(told), iter([told])), *((part.name, part.size, part.pieces()) for part in parts)]
    for name, size, pieces in members:
        header = tarfile.TarInfo(name)
        header.size, header.mode, header.mtime = size, durable.PRIVATE_FILE, int(manifest.created.timestamp())
        yield squeeze.compress(header.tobuf(tarfile.GNU_FORMAT))
        for piece in pieces:
            yield squeeze.compress(piece)
        yield squeeze.compress(bytes(-size % _BLOCK))
    yield squeeze.compress(bytes(2 * _BLOCK)) + squeeze.flush()


# ------------------------------------------------------------------------------------------------ reading
def read_manifest(path: Path) -> Manifest:
    """What a backup says of itself; reads only its beginning. Raises BadBackup."""
    with _Reader(path) as reader:
        return reader.manifest()


def unpack(path: Path, folder: Path) -> Manifest:
    """Write a backup's files into an empty folder, each on disk and compared with the manifest. Raises BadBackup,
    naming the place; whatever is in the folder then counts nothing."""
    with _Reader(path) as reader:
        manifest = reader.manifest()
        needed, free = sum(kept.size for kept in manifest.files), shutil.disk_usage(folder).free
        if needed > free:
            reader.refuse(f"unpacks to {needed} bytes, and {folder} has room for {free}")
        for kept in manifest.files:
            reader.next(kept.name, kept.size)
            durable.replace(folder / kept.name, reader.content(kept.size))
            if kept_of(folder / kept.name) != kept:
                reader.refuse("is not what the manifest says: it was damaged or changed")
        reader.end()
        return manifest


def kept_of(path: Path) -> Kept:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Part(path.name, descriptor, os.fstat(descriptor).st_size).kept()
    finally:
        os.close(descriptor)


class _Reader:
    """An archive from its beginning to its end. What goes wrong within it becomes a BadBackup that names the place."""

    def __init__(self, path: Path) -> None:
        self._path, self._place = path, "its beginning"

    def __enter__(self) -> _Reader:
        self._stream = gzip.open(self._path)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stream.close()
        if isinstance(error, _BROKEN):
            self.refuse(f"cannot be read: it is cut off or damaged ({error})")

    def refuse(self, trouble: str) -> None:
        raise BadBackup(f"{self._path.name}: {self._place} {trouble}")

    def manifest(self) -> Manifest:
        size = self.next(MANIFEST)
        if size > _LARGEST_MANIFEST:
            self.refuse(f"has {size} bytes: it is none of ours")
        manifest: Manifest = decoder(Manifest).decode(b"".join(self.content(size)))
        if manifest.format != FORMAT:
            self.refuse(f"is of format {manifest.format}, and this version reads {FORMAT}")
        missing = list(FILES)
        for kept in manifest.files:
            if kept.name not in missing:
                self.refuse(f"names {kept.name!r}, which is no file of a backup, or is named twice")
            missing.remove(kept.name)
        return manifest

    def next(self, name: str, size: int | None = None) -> int:
        """Go to the next member, which has to be this one; returns its size."""
        self._place = name
        header = tarfile.TarInfo.frombuf(self._read(_BLOCK), "utf-8", "surrogateescape")
        if header.type != tarfile.REGTYPE:
            self.refuse(f"should come here, and {header.name!r} is no plain file")
        if header.name != name or header.size < 0 or header.size != (header.size if size is None else size):
            self.refuse(f"should come here, and {header.name!r} of {header.size} bytes does")
        return header.size

    def content(self, size: int) -> Iterator[bytes]:
        for at in range(0, size, CHUNK):
            yield self._read(min(CHUNK, size - at))
        self._read(-size % _BLOCK)

    def end(self) -> None:
        """Nothing may follow; the checksum of the whole stands behind the last byte and is looked at with it."""
        self._place = "its end"
        if self._read(2 * _BLOCK).strip(b"\0") or self._stream.read(1):
            self.refuse("has more than the manifest names")

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise EOFError("it ends here")
        return data
