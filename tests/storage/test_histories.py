"""Random histories: whoever reads the books, in whatever way and whenever, finds the same licenses."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from server.domain.purchase import EventKind, PurchaseEvent
from server.errors import Conflict, NotFound, Unprocessable
from server.storage import flatfile
from server.storage.history import DEVICES
from server.storage.known import Known
from tests.storage.backroom import NOW, BackRoom, chain, counted, event, from_logs, records, room_for, sale, written

PLATFORM = (
    EventKind.RENEWAL,
    EventKind.SUBSCRIPTION_UPDATED,
    EventKind.PAYMENT_FAILED,
    EventKind.CANCELLATION,
    EventKind.SUBSCRIPTION_ENDED,
    EventKind.UNCANCELLATION,
    EventKind.SUBSCRIPTION_RESTARTED,
    EventKind.PARTIAL_REFUND,
    EventKind.REFUND,
    EventKind.REFUND_FAILED,
    EventKind.DISPUTE,
    EventKind.DISPUTE_WON,
    EventKind.DISPUTE_LOST,
    EventKind.PENDING,
    EventKind.IGNORED,
)
NAMES = ["ann@example.com", "zoë@exämple.com", 'quote"back\\slash@example.com', "\u2028@example.com", ""]
OWNER: list[Callable[[BackRoom, str], Any]] = [
    lambda room, key: room.licenses.suspend(key),
    lambda room, key: room.licenses.revoke(key),
    lambda room, key: room.licenses.reinstate(key),
    lambda room, key: room.licenses.extend(key, days=30),
    lambda room, key: room.licenses.transfer(key, "bob@example.com", "Bob"),
    lambda room, key: room.licenses.reissue(key),
    lambda room, key: room.licenses.reset_devices(key),
]


class History:
    """A shop with two workers that lives through chance; few names, so that events find each other."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.workers = [BackRoom(folder), BackRoom(folder)]
        self.said: list[PurchaseEvent] = []
        self.counts = 0

    def worker(self) -> BackRoom:
        room = self.chance.choice(self.workers)
        room.now += timedelta(minutes=self.chance.randrange(200))
        return room

    def live(self, steps: int) -> None:
        deeds = [self.hear] * 6 + [self.repeat, self.device, self.device, self.owner, self.tidy, self.restart]
        for _ in range(steps):
            self.chance.choice(deeds)()

    def hear(self) -> None:
        """One or two events at once; sometimes of a product that nobody mapped, sometimes out of order."""
        events = [self.event() for _ in range(self.chance.choice([1, 1, 1, 2]))]
        self.said += events
        self.worker().hear(*events)

    def event(self) -> PurchaseEvent:
        chance = self.chance
        sale_id = f"s{chance.randrange(6)}"
        product = chance.choice(["G-WAVE", "G-TEAM", "G-TEAM", "G-STUDIO", "G-NOBODY"])
        when = NOW + timedelta(days=chance.randrange(-40, 40), seconds=chance.randrange(3))
        more: dict[str, Any] = {"email": chance.choice(NAMES), "is_test": chance.random() < 0.1}
        if chance.random() < 0.4:
            more["subscription_id"] = f"sub{chance.randrange(3)}"
        if chance.random() < 0.1:
            more["links"] = (f"link{chance.randrange(3)}",)
        if chance.random() < 0.5:
            more["occurred_at"] = when
        if chance.random() < 0.3:
            more["effective_at"] = when + timedelta(days=chance.randrange(5))
        if chance.random() < 0.4:
            return sale(sale_id, product, quantity=chance.choice([1, 2]), purchase_date=when, **more)
        kind = chance.choice(PLATFORM)
        named = {"sale_id": sale_id, "source_product_id": product, "purchase_date": when}
        return event(kind, f"{sale_id}:{kind}:{chance.randrange(3)}", **(named | more))

    def repeat(self) -> None:
        if self.said:
            self.worker().hear(self.chance.choice(self.said))

    def keys(self) -> list[str]:
        return [key for key, _ in self.workers[0].store.licenses()]

    def device(self) -> None:
        """Seats taken and given back."""
        room, name = self.worker(), f"pc-{self.chance.randrange(4)}"
        for key in self.chance.sample(self.keys(), min(2, len(self.keys()))):
            deed = self.chance.choice([room.code, room.code, room.free])
            deed(key, name)

    def owner(self) -> None:
        for key in self.chance.sample(self.keys(), min(1, len(self.keys()))):
            try:
                self.chance.choice(OWNER)(self.worker(), key)
            except (Conflict, NotFound, Unprocessable):
                continue

    def tidy(self) -> None:
        self.worker().store.tidy(force=self.chance.random() < 0.5)

    def restart(self) -> None:
        """A worker starts anew, sometimes without the files that can be made anew."""
        for name in ("licenses.json", "history.idx"):
            if self.chance.random() < 0.1:
                (self.folder / name).unlink(missing_ok=True)
        now = self.workers[0].now
        self.workers[0] = BackRoom(self.folder)
        self.workers[0].now = now

    # -------------------------------------------------------------------------------------------- what must hold
    def check(self) -> int:
        """All ways to the books lead to the same; how many licenses there are."""
        first, second = self.workers
        expected = records(first.store)
        assert records(second.store) == expected
        assert from_logs(self.folder) == expected, "the logs alone say something else"
        assert records(BackRoom(self.folder).store) == expected, "a store that opens now says something else"
        assert {key: plain(first, key) for key in expected} == {key: plain(second, key) for key in expected}
        counts = counted(first.store)
        assert counted(second.store).keys() == counts.keys()
        second.store.tidy(force=True)
        assert usageless(written(self.folder)) == expected, "licenses.json says something else"
        assert first.store.rebuild() == len(expected)
        for store in (first.store, second.store, BackRoom(self.folder).store):
            assert records(store) == expected, "a rebuild says something else"
            assert store.state().licenses == len(expected)
        assert [finding for finding in first.store.inspect() if not finding.is_note] == []
        lines = chain(self.folder / "purchases.jsonl")
        assert len({(line["event_id"], line.get("revision", 0)) for line in lines}) == len(lines)
        chain(self.folder / "activity.jsonl")
        return len(expected)


def plain(room: BackRoom, key: str) -> list[Any]:
    """What a worker finds by the key of a license."""
    history = [(entry.seq, entry.event_id) for entry in room.store.history([key])]
    found = room.store.find_license(key)
    return [history, [line.seq for line in room.store.device_lines(key)], found.purchase_id if found else None]


def usageless(told: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {name: value for name, value in record.items() if name not in ("last_validation", "validation_count")}
        for key, record in told.items()
    }


def live_through(seeds: Iterable[int], steps: int) -> int:
    licenses = 0
    for seed in seeds:
        with room_for() as folder:
            history = History(folder, seed)
            history.live(steps)
            licenses += history.check()
    return licenses


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """So that short histories come past the limits that are there for long ones."""
    monkeypatch.setattr(flatfile, "_RELOAD_FROM", 4)
    monkeypatch.setattr(flatfile, "SMALL_SHOP", 3)


def test_all_ways_to_the_books_of_a_random_history_lead_to_the_same():
    assert live_through(range(80), 30) > 200


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_all_ways_to_the_books_of_ten_thousand_random_histories_lead_to_the_same(part):
    assert live_through(range(80 + part * 1000, 1080 + part * 1000), 30) > 2500


@pytest.mark.slow
@pytest.mark.parametrize("seed", [10_300, 10_301, 10_302])
def test_a_long_history_comes_to_the_same(seed):
    assert live_through([seed], 400) > 3


def is_broken() -> bool:
    try:
        live_through(range(40), 30)
    except Exception:
        return True
    return False


def test_mutant_a_device_log_that_is_not_taken_in_is_caught(monkeypatch):
    monkeypatch.setattr(Known, "take_devices", lambda self, lines: None)
    assert is_broken()


def test_mutant_a_history_without_what_is_linked_is_caught(monkeypatch):
    def only_named(self: Any, names: Any, fresh: Any = None) -> Any:
        found = {}
        for name in names:
            for place in self.places(name):
                if not place & DEVICES:
                    found[place] = (fresh or {}).get(place) or self.ledger.line_at(place)
        return dict(sorted(found.items()))

    monkeypatch.setattr(Known, "history", only_named)
    assert is_broken()


def test_mutant_a_view_that_forgets_what_it_was_made_from_is_caught(monkeypatch):
    monkeypatch.setattr(flatfile.FlatFileStore, "_load_index", lambda self, books, index: True)
    assert is_broken()


def test_the_ledger_of_a_history_is_ascii_json_alone():
    with room_for() as folder:
        History(folder, 1).live(40)
        raw = (folder / "purchases.jsonl").read_bytes()
        assert raw.isascii()
        assert all(isinstance(json.loads(line), dict) for line in raw.split(b"\n")[:-1])
