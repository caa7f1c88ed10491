"""Which lines of a ledger belong together, without an index: for those who read it from end to end."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import msgspec

from server.domain.purchase import Entry

_PART = 200_000  # ledger lines that are folded at a time, for the memory's sake
_NO_RAW = msgspec.Raw(b"{}")


class Purchases:
    """Which lines of the ledger speak of the same purchase: those that share a name, and so on from line to line."""

    def __init__(self) -> None:
        self._of_name: dict[int, int] = {}
        self._parent = array("q")
        self.of_line = array("q")

    def add(self, names: Iterable[str]) -> None:
        """The next line; one without names belongs to no purchase."""
        hashes = [hash(name) for name in names]
        known = {self._root(self._of_name[name]) for name in hashes if name in self._of_name}
        root = min(known, default=len(self._parent))
        if not known:
            self._parent.append(root)
        for other in known:
            self._parent[other] = root
        self._of_name.update(dict.fromkeys(hashes, root))
        self.of_line.append(root if hashes else -1)

    def _root(self, at: int) -> int:
        while self._parent[at] != at:
            self._parent[at] = at = self._parent[self._parent[at]]
        return at

    def groups(self, entries: Callable[[], Iterable[Entry]]) -> Iterator[list[Entry]]:
        """The lines of each purchase; they are read once for each part that fits into memory."""
        parts = 1 + len(self.of_line) // _PART
        for part in range(parts):
            found = defaultdict[int, list[Entry]](list)
            for place, entry in zip(self.of_line, entries(), strict=False):
                if place >= 0 and (root := self._root(place)) % parts == part:
                    entry.raw = _NO_RAW
                    found[root].append(entry)
            yield from found.values()
