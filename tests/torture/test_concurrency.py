"""Several processes at once: one license a sale, never a seat too many, opened before a fork or after it."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.domain.license import Claim, Code
from server.services.seats import Seats, Verdict
from server.storage import durable
from server.storage.flatfile import FlatFileStore
from tests.storage.backroom import BackRoom, chain, counted, device_line, from_logs, records, room_for, written
from tests.torture.account import Torture
from tests.torture.processes import Child, Killer, Tell, together

SALES = [f"s{number}" for number in range(200)]
WORKERS = 4
AGAIN = 1000  # times that a killed worker is started again
Begin = Callable[[], None]
Work = Callable[[Tell, Begin], None]


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

    def worker(number: int) -> Work:
        def work(tell: Tell, begin: Begin) -> None:
            room = open_room()
            begin()
            for sale_id in random.Random(number).sample(SALES, len(SALES)):
                tell([sale_id, room.sell(sale_id)])
                if number == 0:
                    room.store.tidy()

        return work

    told = together(worker(number) for number in range(WORKERS))
    keys = dict(told[0])
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
        except Exception:
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


def test_mutant_no_lock_is_caught(monkeypatch):
    monkeypatch.setattr(durable.FolderLock, "held", not_held)
    assert is_broken(in_a_room(deliver_at_once, opened_after))


def test_mutant_no_dedup_is_caught(monkeypatch):
    monkeypatch.setattr(FlatFileStore, "find_event", lambda self, identity: None)
    assert is_broken(in_a_room(deliver_at_once, opened_after))


def test_mutant_deciding_before_catching_up_is_caught(monkeypatch):
    monkeypatch.setattr(FlatFileStore, "_look", lambda self: None)
    assert is_broken(in_a_room(deliver_at_once, opened_after))


def test_mutant_a_lock_that_a_fork_inherits_is_caught(monkeypatch):
    """One descriptor over all workers: flock knows it as one holder."""
    forever = property(lambda self: os.getpid(), lambda self, pid: None)
    monkeypatch.setattr(durable.FolderLock, "forget", lambda self: None)

    def inherited(folder: Path) -> Callable[[], BackRoom]:
        room = BackRoom(folder)
        monkeypatch.setattr(durable.FolderLock, "_pid", forever, raising=False)
        return lambda: room

    assert is_broken(in_a_room(deliver_at_once, inherited))


def deliver_among_kills(folder: Path, sales: list[str], workers: int) -> int:
    """Workers are killed at chance moments and started again until each has delivered all; how many died."""

    def slot(number: int) -> Work:
        def deliver(tell: Tell) -> None:
            Killer(chance.randrange(600), chance.choice(("before", "after", "middle")), chance.random()).install()
            room = BackRoom(folder)
            for sale_id in chance.sample(sales, len(sales)):
                tell([sale_id, room.sell(sale_id)])
                room.store.tidy()

        def supervise(tell: Tell, begin: Begin) -> None:
            begin()
            for died in range(AGAIN):
                child = Child(deliver)
                child.told()
                if child.status == 0:
                    return tell(died)
                chance.random()
            raise AssertionError("it was killed all the time")

        chance = random.Random(number)
        return supervise

    deaths = sum(died for (died,) in together(slot(number) for number in range(workers)))
    lines = chain(folder / "purchases.jsonl")
    assert Counter(line["sale_id"] for line in lines) == dict.fromkeys(sales, 1)
    store = BackRoom(folder).store
    assert len(records(store)) == len(sales)
    assert records(store) == from_logs(folder)
    return deaths


def test_workers_that_are_killed_at_chance_moments_issue_each_sale_once(torture: Torture) -> None:
    sales = [f"s{number}" for number in range(torture.of(200, 1500))]
    with room_for() as folder:
        deaths = deliver_among_kills(folder, sales, 8)
    torture.tried("sales by eight workers among kills, each issued once", len(sales))
    torture.tried("of these workers killed", deaths)
    assert deaths > 8


def deliver_by_threads(folder: Path) -> None:
    """Workers with threads: the threads of a process share its locks, and one must not let go of another's."""
    BackRoom(folder)

    def work(tell: Tell, begin: Begin) -> None:
        room = BackRoom(folder)

        def deliver(number: int) -> None:
            mine = random.Random(number).sample(SALES, 200)
            sold.extend([sale_id, room.sell(sale_id)] for sale_id in mine)

        sold: list[list[str]] = []
        begin()
        threads = [threading.Thread(target=deliver, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tell(sold)

    told = [pair for ((sold),) in together([work] * 3) for pair in sold]
    assert len(told) == 3 * 4 * 200
    keys = dict(told)
    assert all(keys[sale_id] == key for sale_id, key in told)
    lines = chain(folder / "purchases.jsonl")
    assert Counter(line["sale_id"] for line in lines) == dict.fromkeys(keys, 1)
    assert set(records(BackRoom(folder).store)) == set(keys.values())


def test_threads_of_several_workers_issue_each_sale_once():
    with room_for() as folder:
        deliver_by_threads(folder)


def test_mutant_threads_that_let_go_of_each_others_lock_are_caught(monkeypatch):
    class Nothing:
        def acquire(self, timeout: float) -> bool:
            return True

        def release(self) -> None:
            pass

    nothing = property(lambda self: Nothing(), lambda self, mutex: None)
    monkeypatch.setattr(durable.FolderLock, "_mutex", nothing, raising=False)
    assert is_broken(in_a_room(deliver_by_threads), rounds=10)


# ------------------------------------------------------------------------------------------------ seats
def bound_at_most(lines: list[dict[str, Any]]) -> int:
    """The most devices of one license that were bound at any moment of this device log."""
    bound: defaultdict[str, set[str]] = defaultdict(set)
    most = 0
    for line in lines:
        mine = bound[line["license_key"]]
        (mine.add if line["event"] == "activation" else mine.discard)(line["hardware_id"])
        most = max(most, len(mine))
    return most


def activate_at_once(folder: Path, opening: Callable[[Path], Callable[[], BackRoom]]) -> None:
    """160 devices want the three seats of a license; and so for one license after the other."""
    shop = BackRoom(folder)
    keys = [shop.sell(f"s{number}", "G-TEAM") for number in range(12)]
    open_room = opening(folder)

    def worker(number: int) -> Work:
        def work(tell: Tell, begin: Begin) -> None:
            room = open_room()
            begin()
            for key in keys:
                for device in range(20):
                    name = f"pc-{number}-{device}"
                    codes = {room.code(key, name) for _ in range(3)}
                    assert len(codes) == 1, "asked again, the same device got another answer"
                    tell([key, name, *codes])

        return work

    told = [answer for one in together(worker(number) for number in range(8)) for answer in one]
    lines = chain(folder / "activity.jsonl")
    assert bound_at_most(lines) == 3
    for key in keys:
        valid = {name for asked, name, code in told if asked == key and code == "VALID"}
        assert len(valid) == 3
        assert sorted(line["hardware_id"] for line in lines if line["license_key"] == key) == sorted(valid)
        assert BackRoom(folder).store.find_license(key).devices_used == 3
    assert Counter(code for _, _, code in told) == {"VALID": 36, "TOO_MANY_MACHINES": 1884}


@pytest.mark.parametrize("opening", [opened_after, opened_before])
def test_activations_by_all_workers_at_once_take_each_seat_once(opening):
    with room_for() as folder:
        activate_at_once(folder, opening)


def test_mutant_a_seat_that_is_judged_before_the_lock_is_caught(monkeypatch):
    def take_seat(self: Seats, key: str, claim: Claim, catalogue: Any, now: Any) -> Verdict:
        with self._store.transaction() as books:
            books.append_devices([device_line(key, claim.hardware_id)])
        return Verdict(code=Code.VALID)

    monkeypatch.setattr(Seats, "_take_seat", take_seat)
    assert is_broken(in_a_room(activate_at_once, opened_after), rounds=10)


def come_and_go(folder: Path) -> None:
    """Devices that take a seat where one is free and give it back."""
    key = BackRoom(folder).sell("s1", "G-TEAM")

    def worker(number: int) -> Work:
        def work(tell: Tell, begin: Begin) -> None:
            room = BackRoom(folder)
            begin()
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


def test_mutant_seats_without_a_lock_are_caught(monkeypatch):
    monkeypatch.setattr(durable.FolderLock, "held", not_held)
    assert is_broken(in_a_room(come_and_go))


# ------------------------------------------------------------------------------------------------ counts
def test_validations_of_all_workers_are_counted():
    with room_for() as folder:
        key = BackRoom(folder).sell("s1")

        def work(tell: Tell, begin: Begin) -> None:
            room = BackRoom(folder)
            begin()
            for turn in range(40):
                tell(room.code(key))
                if turn % 8 == 7:
                    room.store.tidy(force=True)

        told = together([work] * 3)
        assert [code for one in told for code in one] == ["VALID"] * 120
        store = BackRoom(folder).store
        store.tidy(force=True)
        assert counted(store) == {key: 120}
