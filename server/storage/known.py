"""What one process knows of the books: a written view, an index of what it covers, and what the logs say beyond both.

It neither locks nor reads on: that is the store's part. A newer view is taken up by putting another one of these in
its place, whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping

import msgspec

from server.domain.fold import fold
from server.domain.keys import license_id
from server.domain.license import DeviceLine, License, devices_after
from server.domain.purchase import Entry, email_name, name_hash
from server.storage.history import DEVICES, HistoryIndex
from server.storage.log import ChainedLog, Mark
from server.storage.view import EmptyView, View

Seen = tuple[int, int, int]  # by what a written view is known from others
_PAGE = 500


class Known:
    """`seen` is the view's file that was looked into last, damaged or not; `changed` are the licenses of which the logs
    say more than the view does, `recent` the places of those lines by the hashes of the names that they tell."""

    def __init__(
        self,
        ledger: ChainedLog[Entry],
        devices: ChainedLog[DeviceLine],
        view: View | EmptyView | None = None,
        seen: Seen | None = None,
    ) -> None:
        self.ledger, self.devices = ledger, devices
        self.view, self.seen, self.index = view or EmptyView(), seen, HistoryIndex()
        self.changed: dict[str, License] = {}
        self.recent: defaultdict[int, list[int]] = defaultdict(list)
        self.recent_lines = 0
        self.count = self.view.books.count

    def hand_over(self, ledger: ChainedLog[Entry], devices: ChainedLog[DeviceLine]) -> Known:
        """To whoever reads the same logs by descriptors of his own."""
        ledger.mark, devices.mark = self.ledger.mark, self.devices.mark
        self.ledger, self.devices = ledger, devices
        return self

    # ------------------------------------------------------------------------------------------------ taking in
    def take_entries(self, entries: list[tuple[int, Entry]], folded: Mapping[str, License] | None = None) -> None:
        """Lines with their offsets; `folded` are their licenses, where whoever wrote them knows these already."""
        for offset, entry in entries:
            self.remember(entry, offset)
        self.recent_lines += len(entries)
        if folded is not None:
            self._take_licenses(folded, {offset for offset, _ in entries})
            return
        done: set[int] = set()
        fresh = dict(entries)
        for offset, entry in entries:
            if offset not in done:
                history = self.history(entry.names(), fresh)
                done.update(history)
                self._take_licenses(fold(history.values()), fresh)

    def take_devices(self, lines: list[tuple[int, DeviceLine]]) -> None:
        for offset, line in lines:
            self.place(line.license_key, offset | DEVICES)
        self.recent_lines += len(lines)
        for key in {line.license_key for _, line in lines}:
            if license := self.find(key):
                self.changed[key] = license.with_devices(devices_after(self.device_lines(key)))

    def index_anew(self, ledger: Mark, devices: Mark) -> None:
        """Without a fitting index: remember the places of all that the view covers."""
        self.index = HistoryIndex()
        for offset, entry in self.ledger.lines():
            if offset >= ledger.position:
                break
            self.remember(entry, offset)
        for offset, line in self.devices.lines():
            if offset >= devices.position:
                break
            self.place(line.license_key, offset | DEVICES)

    def remember(self, entry: Entry, place: int) -> None:
        for name in (*entry.names(), entry.identity):
            self.place(name, place)
        if entry.email:
            self.place(email_name(entry.email), place)

    def place(self, name: str, place: int) -> None:
        self.recent[name_hash(name)].append(place)

    def _take_licenses(self, folded: Mapping[str, License], places: Container[int]) -> None:
        for key, license in folded.items():
            if key in self.changed or any(place not in places for place in self.places(key)):
                license = self._with_devices(key, license)
            else:  # no line before these spoke of it: it need not be looked for in the view
                self.count += 1
            self.changed[key] = license

    def _with_devices(self, key: str, license: License) -> License:
        known = self.find(key)
        if known is None:
            self.count += 1
            return license.with_devices(devices_after(self.device_lines(key)))
        return msgspec.structs.replace(
            license,
            hardware_id=known.hardware_id,
            device_name=known.device_name,
            devices=known.devices,
            last_validation=known.last_validation,
            validation_count=known.validation_count,
        )

    # ------------------------------------------------------------------------------------------------ finding
    def find(self, key: str) -> License | None:
        return self.changed.get(key) or self.view.find(key)

    def find_by_id(self, license_id_text: str) -> tuple[str, License] | None:
        low = int(license_id_text[4:20], 16)
        found = dict(self.view.find_by_hash(low, low + 1))
        found |= {key: record for key, record in self.changed.items() if name_hash(key) == low}
        return next((pair for pair in found.items() if license_id(pair[0]) == license_id_text), None)

    def page(self, low: int) -> tuple[list[tuple[str, License]], int]:
        """Some hundred licenses in the order of their keys' hashes, from `low` on, and from where to go on."""
        high = 1 << 64
        found: dict[str, License] = {}
        for key, record in self.view.find_by_hash(low, 1 << 64):
            if len(found) == _PAGE:
                high = name_hash(key)
                break
            found[key] = record
        found |= {key: record for key, record in self.changed.items() if low <= name_hash(key) < high}
        return sorted(found.items(), key=lambda pair: name_hash(pair[0])), high

    def places(self, name: str) -> Iterator[int]:
        wanted = name_hash(name)
        yield from dict.fromkeys([*self.index.find(wanted), *self.recent.get(wanted, ())])

    def history(self, names: Iterable[str], fresh: Mapping[int, Entry] | None = None) -> dict[int, Entry]:
        """All entries that these names lead to, by offset: names lead to entries, and entries to further names.
        `fresh` are some that need not be read."""
        fresh, found = fresh or {}, dict[int, Entry]()
        waiting = list(names)
        told = set(waiting)
        while waiting:
            name = waiting.pop()
            for place in self.places(name):
                if place & DEVICES or place in found:
                    continue
                entry = fresh.get(place) or self.ledger.line_at(place)
                linked = entry.names()
                if name in linked:
                    found[place] = entry
                    waiting += [other for other in linked if other not in told]
                    told.update(linked)
        return dict(sorted(found.items()))

    def event(self, identity: str) -> Entry | None:
        """The newest line of an event."""
        places = [place for place in self.places(identity) if not place & DEVICES]
        entries = [entry for entry in map(self.ledger.line_at, places) if entry.identity == identity]
        return max(entries, key=lambda entry: entry.revision, default=None)

    def device_lines(self, key: str) -> list[DeviceLine]:
        places = sorted(place for place in self.places(key) if place & DEVICES)
        lines = (self.devices.line_at(place ^ DEVICES) for place in places)
        return [line for line in lines if line.license_key == key]

    def told_of(self, address: str, but: Container[int] = ()) -> Iterator[tuple[int, Entry]]:
        """The lines that name an address, with their places; those of these places are not read."""
        for place in sorted(place for place in self.places(address) if not place & DEVICES):
            if place not in but:
                entry = self.ledger.line_at(place)
                if entry.email and email_name(entry.email) == address:
                    yield place, entry

    def purchases_of(self, address: str) -> Iterator[list[Entry]]:
        done: set[int] = set()
        for _, entry in self.told_of(address, but=done):
            history = self.history(entry.names())
            done.update(history)
            yield list(history.values())
