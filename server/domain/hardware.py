"""Hardware ids that are made of parts, as the kits for apps send them: `client/HARDWARE_ID.md`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

KIND = "kl1."
_PART = 17  # a letter and 16 hex digits
T = TypeVar("T")


def same_machine(one: str, other: str) -> bool:
    """Two parts in common, one of them a disk or a network card: images and factories copy the other two, the system's
    own id and the board's. Ids of any other kind are equal or not."""
    if one == other or not (one.startswith(KIND) and other.startswith(KIND)):
        return one == other
    shared = set(one.split(".")) & set(other.split("."))
    common = [part for part in shared if len(part) == _PART and part[0] in "mbdn"]
    return len(common) >= 2 and any(part[0] in "dn" for part in common)


class Machines(Generic[T]):
    """Who is known by which ids. To find the machine of an id only those are looked at that have a disk or a card in
    common with it, as every match must: an office may have a thousand."""

    def __init__(self) -> None:
        self._known: dict[str, T] = {}
        self._near: dict[str, dict[str, T]] = {}

    def find(self, hardware_id: str) -> T | None:
        if (known := self._known.get(hardware_id)) is not None:
            return known
        near = (pair for part in _own_parts(hardware_id) for pair in self._near.get(part, {}).items())
        return next((who for face, who in near if same_machine(face, hardware_id)), None)

    def add(self, hardware_id: str, who: T) -> None:
        self._known[hardware_id] = who
        for part in _own_parts(hardware_id):
            self._near.setdefault(part, {})[hardware_id] = who

    def drop(self, hardware_ids: Iterable[str]) -> None:
        for hardware_id in hardware_ids:
            self._known.pop(hardware_id, None)
            for part in _own_parts(hardware_id):
                self._near.get(part, {}).pop(hardware_id, None)


def _own_parts(hardware_id: str) -> list[str]:
    """The disks and the cards."""
    if not hardware_id.startswith(KIND):
        return []
    return [part for part in hardware_id.split(".") if len(part) == _PART and part[0] in "dn"]
