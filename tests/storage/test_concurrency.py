"""Several processes at once: one license a sale, never a seat too many, whoever opened the store before or after a fork."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.domain.license import Claim
from server.storage import durable
from server.storage.flatfile import FlatFileStore
from tests.storage.backroom import BackRoom, chain, close, counted, from_logs, records, room_for, sale, written
from tests.storage.processes import Child, Tell, together

SALES = [f"s{number}" for number in range(200)]
WORKERS = 4


def opened_before(folder: Path) -> Callable[[], BackRoom]:
    """As uWSGI does it: one process opens everything, then it is forked."""
    room = BackRoom(folder)
    assert room.store.find_license("nobody") is None
    return lambda: room


def opened_after(folder: Path) -> Callable[[], BackRoom]:
    return lambda: BackRoom(folder)


# ------------------------------------------------------------------------------------------------ sales
def deliver_at_once(folder: Path, opening: Callable[[Path], Callable[[], BackRoom]]) -> None:
    """Every worker delivers every sale, each in an order of its own, and now and then tidies."""
    open_room = opening(folder)

    def worker(number: int) -> Callable[[Tell], None]:
        def work(tell: Tell) -> None:
            room = open_room()
            for sale_id in random.Random(number).sample(SALES, len(SALES)):
                tell([sale_id, room.sell(sale_id)])
                if number == 0:
                    room.store.tidy()

        return work

    told = together(worker(number) for number in range(WORKERS))
    keys = {sale_id: key for sale_id, key in told[0]}
    assert sorted(keys) == sorted(SALES)
    assert len(set(keys.values())) == len(SALES)
    assert all(dict(one) == keys for one in told), "two workers gave different keys for one sale"
    lines = chain(folder / "purchases.jsonl")
    assert Counter(line["sale_id"] for line in lines) == dict.fromkeys(SALES, 1)
    room = BackRoom(folder)
    found = records(room.store)
    assert set(found) == set(keys.values())
    assert found == from_logs(folder)
    room.store.tidy(force=True)
    assert set(written(folder)) == set(keys.values())
    close(room.store)


@pytest.mark.parametrize("opening", [opened_after, opened_before])
def test_the_same_sales_delivered_by_all_workers_at_once_are_issued_once(opening):
    for _ in range(3):
        with room_for() as folder:
            deliver_at_once(folder, opening)


def is_broken(deed: Callable[[], None], rounds: int = 5) -> bool:
    """Whether one of some rounds fails; chance decides how soon two workers are in each other's way."""
    for _ in range(rounds):
        try:
            deed()
        except Exception as e:
            import traceback; print("REASON", type(e), str(e)[:300]); traceback.print_exc()
            return True
    return False


def in_a_room(deed: Callable[..., None], *given: Any) -> Callable[[], None]:
    def work() -> None:
        with room_for() as folder:
            deed(folder, *given)

    return work


@contextmanager
def not_held(self: durable.Lock, wait: bool = True) -> Any:
    yield


def test_mutant_no_lock_is_caught(monkeypatch, capfd):
    monkeypatch.setattr(durable.FolderLock, "held", not_held)
    assert is_broken(in_a_room(deliver_at_once, opened_after))


def test_mutant_no_look_for_the_event_is_caught(monkeypatch):
    monkeypatch.setattr(FlatFileStore, "find_event", lambda self, identity: None)
    assert is_broken(in_a_room(deliver_at_once, opened_after), rounds=1)


def test_mutant_deciding_before_catching_up_is_caught(monkeypatch):
    monkeypatch.setattr(FlatFileStore, "catch_up", lambda self: None)
    assert is_broken(in_a_room(deliver_at_once, opened_after), rounds=1)


def test_mutant_a_lock_that_a_fork_inherits_is_caught(monkeypatch):
    """One descriptor over all workers: flock knows it as one holder."""
    forever = property(lambda self: os.getpid(), lambda self, pid: None)

    def inherited(folder: Path) -> Callable[[], BackRoom]:
        room = BackRoom(folder)
        monkeypatch.setattr(durable.FolderLock, "_pid", forever, raising=False)
        return lambda: room

    assert is_broken(in_a_room(deliver_at_once, inherited))


# ------------------------------------------------------------------------------------------------ seats
def bound_at_most(lines: list[dict[str, Any]]) -> int:
    """The most devices that were bound at any moment of this device log."""
    bound: set[str] = set()
    most = 0
    for line in lines:
        (bound.add if line["event"] == "activation" else bound.discard)(line["hardware_id"])
        most = max(most, len(bound))
    return most


def activate_at_once(folder: Path, opening: Callable[[Path], Callable[[], BackRoom]]) -> None:
    key = BackRoom(folder).sell("s1", "G-TEAM")
    open_room = opening(folder)

    def worker(number: int) -> Callable[[Tell], None]:
        def work(tell: Tell) -> None:
            room = open_room()
            for device in range(50):
                name = f"pc-{number}-{device}"
                codes = {room.code(key, name) for _ in range(3)}
                assert len(codes) == 1, "asked again, the same device got another answer"
                tell([name, *codes])

        return work

    told = dict(pair for one in together(worker(number) for number in range(8)) for pair in one)
    lines = chain(folder / "activity.jsonl")
    assert Counter(told.values()) == {"VALID": 3, "TOO_MANY_MACHINES": 397}
    assert sorted(line["hardware_id"] for line in lines) == sorted(name for name, code in told.items() if code == "VALID")
    assert bound_at_most(lines) == 3
    assert BackRoom(folder).store.find_license(key).devices_used == 3


@pytest.mark.parametrize("opening", [opened_after, opened_before])
def test_activations_by_all_workers_at_once_take_each_seat_once(opening):
    with room_for() as folder:
        activate_at_once(folder, opening)


def test_mutant_seats_without_a_lock_are_caught(monkeypatch, capfd):
    monkeypatch.setattr(durable.FolderLock, "held", not_held)
    assert is_broken(in_a_room(activate_at_once, opened_after), rounds=10)


def come_and_go(folder: Path) -> None:
    """Devices that take a seat where one is free and give it back."""
    key = BackRoom(folder).sell("s1", "G-TEAM")

    def worker(number: int) -> Callable[[Tell], None]:
        def work(tell: Tell) -> None:
            room = BackRoom(folder)
            for turn in range(40):
                name = f"pc-{number}-{turn}"
                if room.licenses.activate(key, Claim(hardware_id=name)).valid:
                    tell(name)
                    room.free(key, name)
                    room.free(key, name)

        return work

    told = [name for one in together(worker(number) for number in range(6)) for name in one]
    lines = chain(folder / "activity.jsonl")
    assert 1 <= bound_at_most(lines) <= 3
    for kind in ("activation", "deactivation"):
        assert Counter(line["hardware_id"] for line in lines if line["event"] == kind) == dict.fromkeys(told, 1)
    assert BackRoom(folder).store.find_license(key).devices_used == 0


def test_seats_that_come_free_are_taken_by_one_device_each():
    with room_for() as folder:
        come_and_go(folder)


# ------------------------------------------------------------------------------------------------ counts
def test_validations_of_all_workers_are_counted():
    with room_for() as folder:
        key = BackRoom(folder).sell("s1")

        def work(tell: Tell) -> None:
            room = BackRoom(folder)
            for turn in range(40):
                tell(room.code(key))
                if turn % 8 == 7:
                    room.store.tidy(force=True)

        told = together([work] * 3)
        assert [code for one in told for code in one] == ["VALID"] * 120
        store = BackRoom(folder).store
        store.tidy(force=True)
        assert counted(store) == {key: 120}


# ------------------------------------------------------------------------------------------------ reading
def test_a_reader_knows_what_a_writer_was_promised():
    """Ping-pong: each sale that one process was promised is a license for the other one, at once."""
    with room_for() as folder:
        reader = BackRoom(folder)

        def write(tell: Tell) -> None:
            room = BackRoom(folder)
            for number in range(300):
                tell(room.sell(f"s{number}"))
                if number % 40 == 0:
                    room.store.tidy(force=True)

        child = Child(write)
        count = 0
        while (key := child.hear()) is not None:
            assert reader.store.find_license(key) is not None
            count += 1
        child.end()
        assert (count, child.status) == (300, 0)
        assert reader.store.find_event(f"event\0gumroad\0{sale('s299').event_id}") is not None
