"""A backup of whichever store there is, beside the running service."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from server.settings import Settings
from server.storage import backup as archives
from server.storage.backup import Checked
from server.storage.base import Progress, no_progress


def make(
    settings: Settings, now: datetime, to: Path | None = None, keep: int | None = None, progress: Progress = no_progress
) -> Checked:
    """Beside the data folder unless `to` says where; read back before it counts. Raises NotFound where there is no
    ledger, StorageUnavailable and OSError."""
    data = settings.data_dir
    place = to or archives.default_place(data)
    if settings.database_url is None:
        return archives.create(data, place, now, keep, progress)
    from server.storage import postgres_backup

    return postgres_backup.create(settings.database_url, data, place, now, keep, progress)
