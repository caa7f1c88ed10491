"""Backups of a database: a copy as files of one moment, packed, checked and put back as those of a data folder are.

So a backup of either store can be put into either one. (`pg_dump` makes one too, for who has it; this needs no client
of the server's version, and is checked line by line.)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from server.errors import Conflict, NotFound
from server.storage import backup, durable
from server.storage.archive import LEDGER
from server.storage.backup import Checked, Restored
from server.storage.base import Progress, no_progress
from server.storage.flatfile import FlatFileStore
from server.storage.migration import take_in
from server.storage.postgres import PostgresStore
from server.storage.postgres_copy import to_folder
from server.storage.postgres_link import Database

_CATALOGUE = ("products.json", "products.good.json")  # which the owner's folder has, whichever store keeps the books


def create(
    url: str, home: Path, to: Path, now: datetime, keep: int | None = None, progress: Progress = no_progress
) -> Checked:
    """As `backup.create`; `home` is the data folder, which has the catalogue."""
    durable.make_folder(to)
    durable.remove_leftovers(to)
    with _room(to) as room:
        to_folder(Database(url), room, progress)
        if not (room / LEDGER).exists():
            raise NotFound("the database holds no ledger: nothing was sold yet")
        for name in _CATALOGUE:
            if (home / name).exists():
                shutil.copyfile(home / name, room / name)
        return backup.create(room, to, now, keep, progress, home=home)


def restore(path: Path, url: str, home: Path, progress: Progress = no_progress) -> Restored:
    """Put a backup into an empty database. Raises BadBackup, and Conflict where the database is not empty."""
    target = PostgresStore(url)
    target.database.bring_up_to_date()
    if target.state().ledger_lines:
        raise Conflict("the database holds books already: name an empty one in DATABASE_URL")
    durable.make_folder(home)
    with _room(home.parent) as room:
        manifest = backup.unpack_and_open(path, room, progress)
        files = FlatFileStore(room).open()
        try:
            take_in(files, target, progress)
        finally:
            files.close()
            target.close()
        for name in _CATALOGUE:
            if (room / name).exists() and not (home / name).exists():
                durable.replace(home / name, [(room / name).read_bytes()])
    return Restored(manifest, home, None)


@contextmanager
def _room(beside: Path) -> Iterator[Path]:
    """The common temporary folder may be small, and others look into it."""
    with TemporaryDirectory(prefix=".copying-", suffix=f".{os.getpid()}.tmp", dir=beside) as room:
        yield Path(room)
