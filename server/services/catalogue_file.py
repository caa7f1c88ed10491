"""`products.json` as the services see it: read again when it changed, the last good one kept when an edit is broken."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from server.domain.catalogue import EMPTY, Catalogue, read_catalogue
from server.errors import BadRequest
from server.storage import durable

log = logging.getLogger(__name__)


class CatalogueFile:
    """A good catalogue is copied to `products.good.json`: a process that starts beside a broken edit reads that."""

    def __init__(self, path: Path) -> None:
        self.path, self._name = path, str(path)
        self.trouble: str | None = None
        self._seen: tuple[int, int, int] | None = None
        self._good = path.with_name("products.good.json")
        self._catalogue = self._last_good()

    def current(self) -> Catalogue:
        """Today's catalogue; costs one stat while the file stays as it is."""
        try:
            status = os.stat(self._name)
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen != self._seen:
                self._read()
                self._seen = seen
        except OSError as error:
            self._complain(f"products.json cannot be read ({error.strerror}): the last good one stays in use")
            self._seen = None
        return self._catalogue

    def _last_good(self) -> Catalogue:
        try:
            return read_catalogue(self._good.read_bytes())
        except (OSError, BadRequest):
            return EMPTY

    def _read(self) -> None:
        raw = self.path.read_bytes()
        try:
            self._catalogue = read_catalogue(raw)
            self.trouble = None
            self._keep(raw)
        except BadRequest as error:
            self._complain(f"products.json: {error.detail}; the last good one stays in use")

    def _keep(self, raw: bytes) -> None:
        with suppress(OSError):  # a full or read-only disk is told elsewhere
            if not self._good.exists() or self._good.read_bytes() != raw:
                durable.replace(self._good, [raw])

    def _complain(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.error("catalogue: %s", trouble)
        self.trouble = trouble
