"""A power loss at every moment, on the weakest disk: what was promised is there, and the folder opens."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from server.storage import durable, log
from tests.storage.backroom import BackRoom, room_for
from tests.torture.account import Torture
from tests.torture.disk import Folder, Recorder, WeakDisk
from tests.torture.processes import Child, Tell, spread
from tests.torture.promises import DAY, LETTERS, TIDY, Step, bind, check, live, sell

MORNING: list[Step] = [sell("s1"), sell("s2"), bind("s2", "d1")]
AGAIN: list[Step] = [sell("s1"), sell("s2"), bind("s2", "d2")]


def recorded(folder: Path, steps: list[Step], kill_after: int | None = None) -> list[Any]:
    """What a process that takes these steps does to the disk, and what it promises in between."""

    def work(tell: Tell) -> None:
        Recorder(tell, kill_after).install()
        live(BackRoom(folder), steps, tell)

    return Child(work).told()


def crashes(story: list[Any], every: bool = False) -> Iterator[tuple[Folder, list[Any]]]:
    """Every folder that a power loss may leave at any moment of the story, with what was promised until then."""
    disk, told = WeakDisk(), list[Any]()
    seen: set[Any] = set()
    for what in story:
        told.append(what) if what[0] in ("begin", "done") else disk.take(what)
        for folder in disk.after_power_loss(every):
            mark = hash((len(told), frozenset(folder.items())))
            if mark not in seen:
                seen.add(mark)
                yield folder, list(told)


def check_crashed(found: Folder, told: list[Any], again: bool = True) -> None:
    with room_for() as folder:
        for name, data in found.items():
            (folder / name).write_bytes(data)
        check(folder, told, again)


def story_of(steps: list[Step]) -> list[Any]:
    with room_for() as folder:
        story = recorded(folder, steps)
    assert [what[1] for what in story if what[0] == "done"] == [name for name, _ in steps]
    return story


def kill_and_crash_survive(
    kill_after: int, every: int, morning: list[Step] = MORNING, again: list[Step] = AGAIN
) -> bool:
    """A process is killed, another one goes on from what it finds, then the power is lost; False when none was killed.

    Looked at just after each promise: what the second one rests its promises on was written by the first. After one in
    `every` kills, all is delivered again, too.
    """
    disk, told = WeakDisk(), []
    with room_for() as folder:
        first = recorded(folder, morning, kill_after)
        second = recorded(folder, again)
    for what in first:
        told.append(what) if what[0] in ("begin", "done") else disk.take(what)
    disk.restart()
    for what in second:
        told.append(what) if what[0] in ("begin", "done") else disk.take(what)
        if what[0] == "done":
            for found in {frozenset(folder.items()) for folder in disk.after_power_loss()}:
                check_crashed(dict(found), told, again=bool(every) and kill_after % every == 0)
    return [what[1] for what in first if what[0] == "done"] != [name for name, _ in morning]


def broken_day(steps: list[Step] = DAY) -> bool:
    try:
        for found, told in crashes(story_of(steps)):
            check_crashed(found, told, again=False)
    except Exception:
        return True
    return False


def kills_survived(every: int, *steps: list[Step]) -> int:
    killed = 0
    while kill_and_crash_survive(killed + 1, every, *steps):
        killed += 1
        assert killed < 100
    return killed


def broken_after_a_kill(*steps: list[Step]) -> bool:
    try:
        kills_survived(0, *steps)
    except Exception:
        return True
    return False


def test_a_power_loss_at_any_moment_breaks_no_promise(torture: Torture) -> None:
    """In the quick form all is delivered again after one of three."""
    found = enumerate(crashes(story_of(DAY), every=torture.is_full))
    every = torture.of(3, 1)
    checked = spread(lambda crash: check_crashed(*crash[1], again=crash[0] % every == 0), found)
    count = sum(1 for _ in torture.each("states that a disk may be in after a power loss", checked))
    assert count > torture.of(700, 20_000)


def test_a_power_loss_after_a_kill_breaks_no_promise(torture: Torture) -> None:
    torture.tried(
        "kills after which another process goes on until the power fails", kills := kills_survived(torture.of(3, 1))
    )
    assert kills > 20


def test_a_seat_and_a_view_rest_on_what_is_on_disk(torture: Torture) -> None:
    """The first process dies with a line that it did not fsync; the second one only binds a device, or only tidies."""
    every = torture.of(3, 1)
    seats = kills_survived(every, [sell("s2")], [bind("s2", "d2")])
    views = kills_survived(every, [sell("s2"), bind("s2", "d1")], [TIDY]) if torture.is_full else seats
    torture.tried("kills after which another process goes on until the power fails", seats + views * torture.is_full)
    assert min(seats, views) > 5


def test_mutant_a_view_that_says_more_than_is_on_disk_is_caught(monkeypatch):
    monkeypatch.setattr(log.ChainedLog, "ensure_synced", lambda self: None)
    assert broken_after_a_kill([sell("s2")], [bind("s2", "d2")])
    assert broken_after_a_kill([sell("s2")], [TIDY])


def test_a_power_loss_after_a_kill_loses_no_letter(torture: Torture) -> None:
    kills = kills_survived(torture.of(3, 1), [LETTERS], [LETTERS])
    torture.tried("kills in a letter box, and then the power fails", kills)
    assert kills > 5


# ------------------------------------------------------------------------------------------------ mutants
def test_mutant_no_fsync_is_caught(monkeypatch):
    monkeypatch.setattr(durable, "sync", lambda descriptor: None)
    assert broken_day()


def test_mutant_no_directory_fsync_is_caught(monkeypatch):
    monkeypatch.setattr(durable, "sync_folder", lambda path: None)
    assert broken_day()


def test_mutant_a_view_that_is_renamed_before_its_fsync_is_caught(monkeypatch):
    def replace(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        descriptor = durable.os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        durable.write_all(descriptor, b"".join(map(bytes, pieces)))
        durable.os.close(descriptor)
        durable.os.replace(temporary, path)
        durable.sync_folder(path.parent)

    monkeypatch.setattr(durable, "replace", replace)
    assert broken_day()


def test_mutant_resting_on_the_bytes_of_a_killed_writer_is_caught(monkeypatch):
    monkeypatch.setattr(log.ChainedLog, "ensure_synced", lambda self: None)
    assert broken_after_a_kill()


def test_mutant_resting_on_the_name_that_a_killed_writer_gave_is_caught(monkeypatch):
    monkeypatch.setattr(log.ChainedLog, "_named", property(lambda self: True, lambda self, named: None), raising=False)
    assert broken_after_a_kill()


def test_mutant_a_name_that_is_synced_by_its_maker_alone_is_caught(monkeypatch):
    def open_for_append(path: Path) -> int:
        flags = os.O_RDWR | os.O_APPEND
        try:
            return int(durable.os.open(path, flags))
        except FileNotFoundError:
            descriptor = durable.os.open(path, flags | os.O_CREAT, 0o600)
            durable.sync_folder(path.parent)
            return int(descriptor)

    monkeypatch.setattr(durable, "open_for_append", open_for_append)
    assert broken_after_a_kill([LETTERS], [LETTERS])


def test_mutant_ack_before_fsync_is_caught(monkeypatch):
    """The line is written and answered for, and synced when the next one comes."""
    owed: list[int] = []
    real = durable.sync

    def later(descriptor: int) -> None:
        while owed:
            real(owed.pop())
        owed.append(descriptor)

    monkeypatch.setattr(durable, "sync", later)
    assert broken_day(MORNING)
