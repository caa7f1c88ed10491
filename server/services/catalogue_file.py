"""`products.json` as the services see it: read again when it changed, the last good one kept when an edit is broken."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from server.domain.catalogue import EMPTY, Catalogue, read_catalogue
from server.errors import BadRequest

log = logging.getLogger(__name__)


class CatalogueFile:
    def __init__(self, path: Path) -> None:
        self.path, self._name = path, str(path)
        self.trouble: str | None = None
        self._seen: tuple[int, int, int] | None = None
        self._catalogue = EMPTY

    def current(self) -> Catalogue:
        """Today's catalogue; costs one stat while the file stays as it is."""
        try:
            status = os.stat(self._name)
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen != self._seen:
                self._read()
                self._seen = seen
        except OSError as error:
            self._complain(f"products.json cannot be read ({error.strerror}): new sales are kept as unmapped")
            self._seen = None
        return self._catalogue

    def _read(self) -> None:
        try:
            self._catalogue = read_catalogue(self.path.read_bytes())
            self.trouble = None
        except BadRequest as error:
            self._complain(f"products.json: {error.detail}; the last good one stays in use")

    def _complain(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.error("catalogue: %s", trouble)
        self.trouble = trouble
