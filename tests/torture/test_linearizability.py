"""Eight processes do as they like with a few licenses and are killed: all answers fit one order of what happened."""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from server.domain.license import Claim
from server.errors import NotFound
from server.storage import durable
from server.storage.flatfile import FlatFileStore
from server.storage.log import ChainedLog
from tests.storage.backroom import BackRoom, chain, from_logs, records, room_for
from tests.torture.account import Torture
from tests.torture.linearizable import SEATS, Deed, first_impossible
from tests.torture.processes import Child, Killer, Tell, together

PROCESSES = 8
VERBS = ("sell",) * 3 + ("take",) * 10 + ("free",) * 5 + ("peek",) * 5 + ("look",) * 6
DECISIONS = ("suspend", "reinstate", "reset")
DEVICES = [f"pc-{number}" for number in range(6)]
CHANGING = DEVICES[3:]  # come under another id each time: another board, the same disk and card
FACES = 4


def as_it_comes(device: str, chance: random.Random) -> str:
    """A hardware id of this device now."""
    if device not in CHANGING:
        return device
    number = int(device[3:])
    return f"kl1.b{chance.randrange(FACES):016x}.d{number:016x}.n{number:016x}"


def device_of(hardware_id: str) -> str:
    return f"pc-{int(hardware_id[-16:], 16)}" if hardware_id.startswith("kl1.") else hardware_id


def does(room: BackRoom, number: int, key: str, verb: str, device: str, chance: random.Random) -> str:
    """Do it, and say what came of it in the words of `Held`."""
    device = as_it_comes(device, chance)
    try:
        match verb:
            case "sell":
                assert room.sell(f"s{number}", "G-TEAM") == key
                return "sold"
            case "take" | "peek":
                return str(room.licenses.validate(key, Claim(hardware_id=device, bind=verb == "take")).code)
            case "free":
                return room.free(key, device)
            case "look":
                return looks(room, key)
        owner: dict[str, Callable[[str], Any]] = {
            "suspend": room.licenses.suspend,
            "reinstate": room.licenses.reinstate,
            "reset": room.licenses.reset_devices,
        }
        owner[verb](key)
    except NotFound as error:
        return error.code
    return "done"


def looks(room: BackRoom, key: str) -> str:
    license = room.store.find_license(key)
    if license is None:
        return "NOT_FOUND"
    ids = filter(None, (license.hardware_id, *(device.hardware_id for device in license.devices)))
    bound = sorted(map(device_of, ids))
    return f"{license.is_active} {' '.join(bound)}"


def worker(place: int, folder: Path, keys: list[str], deeds: int, until: int) -> Callable[[Tell, Any], None]:
    """So many deeds at chance; killed at one of its next `until` calls, it is started again and goes on."""
    chance = random.Random(place)

    def live(tell: Tell, left: int) -> None:
        Killer(chance.randrange(until), chance.choice(("before", "after", "middle")), chance.random()).install()
        room = BackRoom(folder)
        for _ in range(left):
            number = chance.randrange(len(keys))
            verb = chance.choice(VERBS if chance.random() < 0.95 else DECISIONS)
            device = chance.choice(DEVICES)
            tell([number, verb, device, time.monotonic_ns()])
            answer = does(room, number, keys[number], verb, device, chance)
            tell([answer, time.monotonic_ns()])
            if chance.random() < 0.01:
                room.store.tidy(force=True)

    def supervise(tell: Tell, begin: Callable[[], None]) -> None:
        told: list[Any] = []
        died, left = 0, deeds
        begin()
        while left > 0:
            child = Child(partial(live, left=left))
            told.append(child.told())
            left -= (len(told[-1]) + 1) // 2
            died += child.status == signal.SIGKILL
            chance.random()
            assert child.status in (0, signal.SIGKILL), "it failed by itself"
        tell([told, died])

    return supervise


def as_deeds(words: list[Any]) -> list[tuple[int, Deed]]:
    """What one process told, as deeds by the number of their license; the last one may lack its answer."""
    found = []
    for begun, done in zip(words[::2], [*words[1::2], [None, None]], strict=False):
        number, verb, device, at = begun
        found.append((number, Deed(at, done[1], verb, device, done[0])))
    return found


def histories(folder: Path, keys: list[str], deeds: int, until: int) -> tuple[dict[int, list[Deed]], int]:
    """What all processes did with each license, and how many of them were killed."""
    found = together(worker(place, folder, keys, deeds, until) for place in range(PROCESSES))
    of_key: defaultdict[int, list[Deed]] = defaultdict(list)
    died = 0
    for ((told, deaths),) in found:
        died += deaths
        for words in told:
            for number, deed in as_deeds(words):
                of_key[number].append(deed)
    return of_key, died


def most_seats(folder: Path) -> int:
    """The most devices of one license that were bound in any prefix of the device log."""
    bound: defaultdict[str, set[str]] = defaultdict(set)
    most = 0
    for line in chain(folder / "activity.jsonl"):
        mine = bound[line["license_key"]]
        match line["event"]:
            case "reset":
                mine.clear()
            case "activation":
                mine.add(device_of(line["hardware_id"]))
            case _:
                mine.discard(device_of(line["hardware_id"]))
        most = max(most, len(mine))
    return most


def keys_of(licenses: int) -> list[str]:
    with room_for() as folder:
        room = BackRoom(folder)
        return [room.sell(f"s{number}", "G-TEAM") for number in range(licenses)]


def is_explained(licenses: int, deeds: int, until: int) -> tuple[int, int]:
    """How many deeds there were and how many processes were killed; asserts that one order explains all answers."""
    keys = keys_of(licenses)
    with room_for() as folder:
        of_key, died = histories(folder, keys, deeds, until)
        assert most_seats(folder) <= SEATS
        found = {number: first_impossible(done) for number, done in of_key.items()}
        assert {number: deed for number, deed in found.items() if deed} == {}, "no order explains these answers"
        assert records(BackRoom(folder).store) == from_logs(folder)
    return sum(map(len, of_key.values())), died


def test_what_eight_processes_did_and_saw_fits_one_order(torture: Torture) -> None:
    licenses, deeds = torture.of((8, 120), (50, 5000))
    done, died = is_explained(licenses, deeds, torture.of(400, 800))
    torture.tried(f"deeds of {PROCESSES} processes on {licenses} licenses, in one order for each", done)
    torture.tried("of these processes killed", died)
    assert done >= PROCESSES * deeds
    assert died >= torture.of(3, 50)


# ------------------------------------------------------------------------------------------------ the checker itself
def deed(begun: int, done: int | None, verb: str, answer: str | None, device: str = "d1") -> Deed:
    return Deed(begun, done, verb, device, answer)


SOLD = deed(0, 1, "sell", "sold")


@pytest.mark.parametrize(
    ("deeds", "is_possible"),
    [
        ([SOLD, deed(2, 3, "take", "VALID"), deed(4, 5, "look", "True d1")], True),
        ([SOLD, deed(2, 3, "take", "VALID"), deed(4, 5, "look", "True ")], False),  # not read what was written
        ([SOLD, deed(2, 6, "take", "VALID"), deed(3, 4, "look", "True "), deed(4, 5, "look", "True d1")], True),
        ([SOLD, deed(2, 6, "take", "VALID"), deed(3, 4, "look", "True d1"), deed(5, 6, "look", "True ")], False),
        ([SOLD, deed(2, None, "take", None), deed(5, 6, "look", "True d1")], True),  # killed, and it happened
        ([SOLD, deed(2, None, "take", None), deed(5, 6, "look", "True ")], True),  # killed, and it did not
        ([SOLD, deed(2, None, "take", None), deed(5, 6, "look", "True d1"), deed(7, 8, "look", "True ")], False),
        ([deed(0, 1, "look", "NOT_FOUND"), SOLD._replace(begun=2, done=3), deed(4, 5, "look", "NOT_FOUND")], False),
        ([SOLD, *(deed(2, 9, "take", "VALID", f"d{n}") for n in range(4))], False),  # four devices, three seats
        ([SOLD, *(deed(2, 9, "take", "VALID", f"d{n}") for n in range(4)), deed(2, 9, "free", "VALID", "d0")], True),
        ([SOLD, deed(2, 3, "suspend", "done"), deed(4, 5, "take", "VALID")], False),
    ],
)
def test_the_checker_tells_what_is_possible(deeds, is_possible):
    assert (first_impossible(deeds) is None) == is_possible


# ------------------------------------------------------------------------------------------------ two logs, one moment
def seen_between_the_logs(folder: Path) -> str:
    """A license is suspended and its device freed while a reader is between the ledger and the device log."""
    writer, reader = BackRoom(folder), BackRoom(folder)
    key = writer.sell("s0", "G-TEAM")
    writer.code(key, "pc-1")
    assert looks(reader, key) == "True pc-1"
    real = reader.store.devices.read_new

    def read_new() -> Any:
        reader.store.devices.read_new = real
        writer.licenses.suspend(key)
        writer.free(key, "pc-1")
        return real()

    reader.store.devices.read_new = read_new
    return looks(reader, key)


def test_a_reader_sees_both_logs_at_one_moment():
    with room_for() as folder:
        assert seen_between_the_logs(folder) in ("True pc-1", "False pc-1", "False ")


# ------------------------------------------------------------------------------------------------ mutants
def is_broken(rounds: int = 5) -> bool:
    for _ in range(rounds):
        try:
            is_explained(2, 60, 10_000)
        except Exception:
            return True
    return False


def test_mutant_no_lock_is_caught(monkeypatch):
    @contextmanager
    def held(self: durable.FolderLock, wait: bool = True) -> Iterator[None]:
        yield

    monkeypatch.setattr(durable.FolderLock, "held", held)
    assert is_broken()


def test_mutant_a_worker_that_looks_only_now_and_then_is_caught(monkeypatch):
    """What another process was told a moment ago is not known here yet."""
    real = FlatFileStore.catch_up
    looks_left: dict[int, int] = defaultdict(int)

    def catch_up(self: FlatFileStore) -> None:
        looks_left[id(self)] += 1
        if looks_left[id(self)] % 3 == 0:
            real(self)

    monkeypatch.setattr(FlatFileStore, "catch_up", catch_up)
    assert is_broken()


def test_mutant_mtime_cache_is_caught(monkeypatch):
    real = ChainedLog.read_new
    seen: dict[int, int] = {}

    def read_new(self: ChainedLog[Any]) -> Any:
        changed = int(self.path.stat().st_mtime) if self.path.exists() else 0
        if seen.get(id(self)) == changed:
            return []
        seen[id(self)] = changed
        return real(self)

    monkeypatch.setattr(ChainedLog, "read_new", read_new)
    assert is_broken()


def test_mutant_two_logs_read_one_after_the_other_is_caught(monkeypatch):
    def catch_up_all(self: FlatFileStore) -> None:
        while entries := self.ledger.read_new():
            self._known.take_entries(entries)
        while lines := self.devices.read_new():
            self._known.take_devices(lines)

    monkeypatch.setattr(FlatFileStore, "_catch_up_all", catch_up_all)
    with room_for() as folder:
        assert seen_between_the_logs(folder) == "True "
