"""The day the server goes away: license files without an end, so that no app that was paid for stops for want of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from server.domain.keys import license_id
from server.domain.license import Code, Device, License, bound_after, standing
from server.errors import Conflict
from server.services.license_files import LicenseFiles
from server.services.signing import Signing
from server.services.spreadsheet import BOM, csv_lines
from server.storage.base import Progress, Store, no_progress

TABLE, PUBLIC_KEY = "customers.csv", "public-key.pem"
COLUMNS = "folder email customer_name license_key product_id expiry_date files".split()
Row = dict[str, object]


class Farewell(msgspec.Struct, frozen=True):
    """What was signed. Left out are licenses that are not valid now, and tests."""

    folder: Path
    licenses: int
    files: int
    left_out: int


class Sunset:
    """One folder for each live license, named by its public id: a file for each device that is bound to it, and one for
    any device, since nobody can ask for a seat any more when a computer dies. A table tells whose they are."""

    def __init__(self, store: Store, signing: Signing, files: LicenseFiles, clock: Callable[[], datetime]) -> None:
        self._store, self._signing, self._files, self._clock = store, signing, files, clock

    def run(self, folder: Path, progress: Progress = no_progress) -> Farewell:
        """All or nothing: the folder is there when it is complete. Raises SigningOff, and Conflict for one in use."""
        public = self._signing.get_key().pem
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Conflict(f"{folder} is there already: name another folder, with --out")
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            (unfinished / PUBLIC_KEY).write_text(public)
            rows = list(self._sign_all(unfinished, progress))
            self._write_table(unfinished / TABLE, rows)
            unfinished.replace(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        files = sum(len(names) for row in rows if isinstance(names := row["files"], list))
        return Farewell(folder, len(rows), files, self._store.state().licenses - len(rows))

    def _sign_all(self, folder: Path, progress: Progress) -> Iterator[Row]:
        now, total = self._clock(), self._store.state().licenses
        for done, (key, license) in enumerate(self._store.licenses(), 1):
            progress(done, total)
            license = license.at(now)
            if standing(license, now) is Code.VALID and not license.is_test:
                yield self._sign(folder / license_id(key), key, license, now)

    def _sign(self, folder: Path, key: str, license: License, now: datetime) -> Row:
        devices = [one.as_seen_last for one in bound_after(self._store.device_lines(key)).values()]
        bound: dict[str, Device | None] = {f"device-{number}.lic": one for number, one in enumerate(devices, 1)}
        folder.mkdir()
        for name, device in (bound | {"any-device.lic": None}).items():
            (folder / name).write_text(self._files.for_ever(key, license, device, now))
        return {
            "folder": folder.name,
            "email": license.email,
            "customer_name": license.customer_name,
            "license_key": key,
            "product_id": license.product_id,
            "expiry_date": license.expiry_date,
            "files": [*bound, "any-device.lic"],
        }

    def _write_table(self, path: Path, rows: list[Row]) -> None:
        with path.open("w", encoding="utf-8", newline="") as table:
            table.write(BOM)
            table.writelines(csv_lines(rows, COLUMNS))
