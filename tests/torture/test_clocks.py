"""A clock that jumps by hours and years, back and forth: nothing of what was sold, decided or bound hangs on it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from server.domain import license as licenses
from server.domain.license import DeviceLine
from server.domain.purchase import CHARGES, Entry, EventKind, PurchaseEvent
from server.services import sending
from server.services.license_manager import LicenseManager
from server.services.mailer import ServerUnreachable
from server.storage import known
from server.storage.base import Letter
from tests.services.mail_room import Clock, Shop
from tests.storage.backroom import NOW, BackRoom, chain, records, room_for
from tests.storage.test_histories import History
from tests.torture.account import Torture

JUMPS = [timedelta(hours=1), timedelta(hours=13), timedelta(days=40), timedelta(days=400), timedelta(days=4000)]
PLANS = CHARGES | {EventKind.SUBSCRIPTION_UPDATED}


def jump(chance: random.Random) -> datetime:
    return NOW + chance.choice((-1, 1)) * chance.choice(JUMPS) * chance.random()


def told(folder: Path, events: list[PurchaseEvent], clock: Callable[[int], datetime]) -> dict[str, Any]:
    """The licenses after all these events, each heard when this machine's clock says so."""
    room = BackRoom(folder)
    for place, event in enumerate(events):
        room.now = clock(place)
        room.hear(event)
    chain(folder / "purchases.jsonl")
    return records(room.store)


def events_of(seed: int) -> list[PurchaseEvent]:
    """With the platform's times. Two things hang on when they are heard of and are left out: a test sale ends a week
    later, and a plan that was announced for a day is the license's when that day has come."""
    with room_for() as folder:
        history = History(folder, seed)
        found = [msgspec.structs.replace(history.event(), is_test=False) for _ in range(25)]
    return [msgspec.structs.replace(event, effective_at=None) if event.event in PLANS else event for event in found]


def differs(seed: int) -> bool:
    """Whether a jumping clock makes other licenses of the same events than a steady one."""
    chance, events = random.Random(seed), events_of(seed)
    with room_for() as steady, room_for() as jumping:
        plain = told(steady, events, lambda place: NOW + timedelta(minutes=place))
        return told(jumping, events, lambda place: jump(chance)) != plain


def test_a_history_heard_by_a_jumping_clock_ends_in_the_same_licenses(torture: Torture) -> None:
    histories = range(torture.of(25, 1500))
    for seed in torture.each("histories heard by a clock that jumps by up to ten years", histories, len(histories)):
        assert not differs(seed), f"history {seed} hangs on this machine's clock"


def decided(folder: Path, seed: int) -> tuple[list[str], datetime | None, datetime]:
    """The owner transfers and extends while his clock jumps: to whom it belongs, when it ends, when it should end."""
    chance, room = random.Random(seed), BackRoom(folder)
    key = room.sell("s1", "G-TEAM")
    ends = NOW + timedelta(days=30)
    owners = []
    for number in range(8):
        room.now = min(jump(chance), NOW + timedelta(days=29))  # a license that ended is extended from today on
        room.licenses.extend(key, days=10)
        ends += timedelta(days=10)
        room.licenses.transfer(key, f"owner-{number}@example.com")
        room.licenses.suspend(key)
        room.now = jump(chance)
        room.licenses.reinstate(key)
        found = BackRoom(folder).store.find_license(key)
        assert found is not None
        assert found.is_active, "a reinstatement is lost"
        owners.append(found.email)
    return owners, found.expiry_date, ends


def test_no_decision_of_the_owner_is_lost_or_counts_twice(torture: Torture) -> None:
    for seed in torture.each("owners who decide while the clock jumps", range(torture.of(10, 300))):
        with room_for() as folder:
            owners, end, due = decided(folder, seed)
        assert owners == [f"owner-{number}@example.com" for number in range(8)]
        assert end == due, "an extension was lost or gained"


def bound_and_freed(folder: Path, seed: int) -> tuple[list[str], list[str]]:
    """Which devices are bound after some came and went, and which should be."""
    chance, room = random.Random(seed), BackRoom(folder)
    key = room.sell("s1", "G-TEAM", quantity=100)
    expected: list[str] = []
    for _ in range(40):
        room.now = min(jump(chance), NOW + timedelta(days=20))  # while it is paid
        name = f"pc-{chance.randrange(8)}"
        if name in expected:
            room.free(key, name)
            expected.remove(name)
        else:
            assert room.code(key, name) == "VALID"
            expected.append(name)
    room.store.rebuild()
    found = room.store.find_license(key)
    assert found is not None
    return [name for name in (found.hardware_id, *(one.hardware_id for one in found.devices)) if name], expected


def test_devices_are_bound_in_the_order_in_which_they_came(torture: Torture) -> None:
    for seed in torture.each("licenses whose devices come and go while the clock jumps", range(torture.of(10, 300))):
        with room_for() as folder:
            found, expected = bound_and_freed(folder, seed)
        assert found == expected


def moves_left(ahead: timedelta) -> int:
    """How often a device can be replaced after three replacements that were made by a clock so far ahead."""
    with room_for() as folder:
        wave = {"name": "Wave", "device_moves": 3, "platform_ids": {"gumroad": ["G-WAVE"]}}
        (folder / "products.json").write_text(json.dumps({"products": {"wave": wave}}))
        room = BackRoom(folder)
        key = room.sell("s1")
        room.now = NOW + ahead
        for number in range(3):
            assert room.code(key, f"pc-{number}") == "VALID"
            room.free(key, f"pc-{number}")
        room.now = NOW
        left = 0
        while room.code(key, f"new-{left}") == "VALID":
            room.free(key, f"new-{left}")
            left += 1
        return left


def test_the_window_of_device_moves_stays_sane() -> None:
    assert moves_left(timedelta(hours=-1)) == moves_left(timedelta(hours=1)) == 0
    assert moves_left(timedelta(days=-800)) == moves_left(timedelta(days=800)) == 3


def sends_after(shop: Shop, clock: Clock) -> int:
    """How many letters go out an hour after the clock was put right, when they failed while it was a year ahead."""

    def down(letter: Letter) -> None:
        raise ServerUnreachable("it is down")

    clock.forward(days=365)
    shop.sale("s1")
    shop.pigeon.trouble = down
    assert shop.outbox.send_due().failed == 1
    shop.pigeon.trouble = None
    clock.forward(days=-365, hours=1)
    return shop.outbox.send_due().sent


def test_mail_that_failed_while_the_clock_was_ahead_does_not_wait_for_that_time() -> None:
    with room_for() as folder:
        clock = Clock()
        shop = Shop(folder, clock)
        assert sends_after(shop, clock) == 1
        shop.store.close()


# ------------------------------------------------------------------------------------------------ mutants
def test_mutant_events_ordered_by_this_machines_clock_are_caught(monkeypatch):
    monkeypatch.setattr(Entry, "moment", property(lambda self: self.timestamp))
    assert any(differs(seed) for seed in range(60))


def test_mutant_decisions_ordered_by_the_clock_alone_are_caught(monkeypatch):
    monkeypatch.setattr(LicenseManager, "_after_earlier_decisions", lambda self, key: self._clock())
    with room_for() as folder:
        assert decided(folder, 0)[0] != [f"owner-{number}@example.com" for number in range(8)]


def test_mutant_devices_ordered_by_the_clock_are_caught(monkeypatch):
    real = licenses.devices_after

    def by_clock(lines: list[DeviceLine]) -> Any:
        return real(sorted(lines, key=lambda line: line.timestamp))

    monkeypatch.setattr(known, "devices_after", by_clock)
    with room_for() as folder:
        found, expected = bound_and_freed(folder, 0)
        assert found != expected


def test_mutant_a_window_that_lasts_until_a_wrong_time_comes_is_caught(monkeypatch):
    monkeypatch.setattr(licenses, "abs", lambda span: -span if span > timedelta(0) else timedelta(0), raising=False)
    assert moves_left(timedelta(days=800)) == 0


def test_mutant_a_timetable_that_believes_every_time_is_caught(monkeypatch):
    def wait(letter: Letter, now: datetime, longest: timedelta) -> float:
        return max(0.0, (letter.next_at - now).total_seconds()) if letter.next_at else 0.0

    monkeypatch.setattr(sending, "wait", wait)
    with room_for() as folder:
        clock = Clock()
        shop = Shop(folder, clock)
        assert sends_after(shop, clock) == 0
        shop.store.close()
