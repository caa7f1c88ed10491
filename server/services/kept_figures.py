"""What the dashboard's figures rest on, and `figures.idx`, where it is kept for workers to come.

The file is derived from the logs and can be deleted: whoever misses it reads the ledger. It begins with the ledger's
line up to which it reaches; where that line is not in the ledger, it is of another one, and is nothing.
"""

from __future__ import annotations

import logging
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from server.services.revenue import Line
from server.services.reversals import Name
from server.storage import durable
from server.storage.base import Store

log = logging.getLogger(__name__)

BEHIND = 5_000  # lines: what a worker reads in a twentieth of a second, and no file is written for
_FORM = 1


class Charge(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A charge, whether it stands or not; `code` is None where no sum is told."""

    source: str
    event_id: str
    sale_id: str | None
    links: tuple[str, ...]
    revision: int
    is_renewal: bool
    code: str | None
    minor: int

    @property
    def identity(self) -> Name:
        return self.source, self.event_id

    @property
    def names(self) -> list[Name]:
        return [(self.source, name) for name in (self.sale_id, *self.links) if name]


class Took(msgspec.Struct, array_like=True):
    """What charges took in one currency on one platform, and what of that went back ever since."""

    purchases: int = 0
    gross: int = 0
    back: int = 0


class Kept(msgspec.Struct, kw_only=True):
    """All by the day: `charges` as they came, and in `packed` those that nobody has looked into yet; `telling` are the
    lines that say what went back, of twice as many days. `places` are sums by currency and platform."""

    seq: int = 0
    device_seq: int = 0
    today: date | None = None
    telling: list[Line] = []
    waiting: list[Line] = []
    charges: dict[date, list[Charge]] = {}
    packed: dict[date, list[msgspec.Raw]] = {}
    places: dict[str, dict[str, dict[date, Took]]] = {}
    counts: dict[str, dict[date, int]] = {}
    events: dict[str, dict[date, set[Name]]] = {}

    def pack(self) -> None:
        """100,000 charges are 10 MB so, and are looked into in a tenth of a second."""
        for day, charges in self.charges.items():
            self.packed.setdefault(day, []).append(msgspec.Raw(msgspec.msgpack.encode(charges)))
        self.charges = {}

    def unpack(self) -> None:
        for day, pieces in self.packed.items():
            before = chain.from_iterable(_CHARGES.decode(piece) for piece in pieces)
            self.charges[day] = [*before, *self.charges.get(day, ())]
        self.packed = {}

    def forget_before(self, first: date) -> None:
        sums = (days for platforms in self.places.values() for days in platforms.values())
        dated: tuple[dict[date, Any], ...] = (self.charges, self.packed, *sums, *self.counts.values())
        for days in (*dated, *self.events.values()):
            for day in [day for day in days if day < first]:
                del days[day]


class _Head(msgspec.Struct, frozen=True):
    """The ledger's line up to which the file reaches, by the chain; `form` is that of the file."""

    seq: int
    event_id: str
    prev: str | None
    form: int = 0


class KeptFile:
    def __init__(self, path: Path, store: Store) -> None:
        self._path, self._store = path, store

    def is_behind(self, lines: int) -> bool:
        """Whether a worker that took this up would still have much to read, of so many lines."""
        head = self._head()
        return lines - (head.seq if head else 0) >= BEHIND

    def read(self) -> Kept | None:
        head = self._head()
        if head is None or msgspec.structs.replace(head, form=0) != self._line(head.seq):
            return None
        try:
            kept = _KEPT.decode(self._path.read_bytes().partition(b"\n")[2])
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("dashboard: %s is not taken up: %s", self._path.name, error)
            return None
        return kept if kept.seq == head.seq else None  # between two readings another was put in its place

    def write(self, kept: Kept) -> None:
        """Never raises for what a disk does: the figures are there without it."""
        if (line := self._line(kept.seq)) is None:
            return
        head = msgspec.json.encode(msgspec.structs.replace(line, form=_FORM))
        try:
            durable.replace(self._path, [head, b"\n", msgspec.msgpack.encode(kept)])
        except OSError as error:
            log.warning("dashboard: %s cannot be written: %s", self._path.name, error)

    def _head(self) -> _Head | None:
        try:
            with open(self._path, "rb") as file:
                head = msgspec.json.decode(file.readline(10_000), type=_Head)
        except (OSError, msgspec.MsgspecError):
            return None
        return head if head.form == _FORM else None

    def _line(self, seq: int) -> _Head | None:
        newest = next(self._store.scan(_Head, newest_first=True, below=seq + 1), None)
        return newest if newest and newest.seq == seq else None


_CHARGES = msgspec.msgpack.Decoder(list[Charge])
_KEPT = msgspec.msgpack.Decoder(Kept)
