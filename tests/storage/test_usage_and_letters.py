"""The two files that are compacted: counts stay exact, and no reader loses a letter."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from server.storage import flatfile, letterbox, usage
from server.storage.letterbox import FileLetterBox
from tests.storage.backroom import NOW, BackRoom, counted, letter, room_for
from tests.torture.processes import failing


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(usage, "_COMPACT_FROM", 300)
    monkeypatch.setattr(letterbox, "_COMPACT_FROM", 2000)


def generation(folder: Path) -> int:
    line = (folder / "usage.jsonl").read_bytes().partition(b"\n")[0]
    return int(msgspec.json.decode(line)["generation"])


@pytest.mark.usefixtures("small_files")
def test_counts_stay_exact_while_their_file_is_compacted():
    with room_for() as folder:
        rooms = [BackRoom(folder), BackRoom(folder)]
        keys = [rooms[0].sell(f"s{number}") for number in range(5)]
        for turn in range(200):
            room = rooms[turn % 2]
            assert room.code(keys[turn % 5]) == "VALID"
            room.store.tidy(force=True)
        assert generation(folder) > 3
        assert (folder / "usage.jsonl").stat().st_size < 5000
        for room in (*rooms, BackRoom(folder)):
            room.store.tidy(force=True)
            assert counted(room.store) == dict.fromkeys(keys, 40)
        assert rooms[0].store.rebuild() == 5
        assert counted(rooms[0].store) == dict.fromkeys(keys, 40)


@pytest.mark.usefixtures("small_files")
def test_a_view_that_could_not_be_written_after_a_compaction_counts_nothing_twice():
    with room_for() as folder:
        room = BackRoom(folder)
        key = room.sell("s1")
        for turn in range(60):
            assert room.code(key) == "VALID"
            with pytest.MonkeyPatch.context() as patch:
                if turn % 3 == 1:
                    patch.setattr(flatfile, "write_view", failing(errno.ENOSPC))
                room.store.tidy(force=True)
        assert generation(folder) > 2
        assert counted(room.store) == {key: 60}


def test_counts_that_could_not_be_written_are_written_later():
    with room_for() as folder:
        room = BackRoom(folder)
        key = room.sell("s1")
        room.code(key)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(usage.durable, "write_all", failing(errno.ENOSPC))
            assert room.store.tidy(force=True) == 5.0
        room.code(key)
        room.store.tidy(force=True)
        assert counted(room.store) == {key: 2}


@pytest.mark.usefixtures("small_files")
def test_a_reader_that_slept_through_two_compactions_misses_no_letter(tmp_path):
    """The file that it knows is gone, and its inode number may belong to the new one."""
    for turn in range(6):
        path = tmp_path / f"outbox-{turn}.jsonl"
        sleeper, sender = FileLetterBox(path, 1.0), FileLetterBox(path, 1.0)
        sender.enqueue([letter("first")])
        assert [one.id for one in sleeper.waiting()] == ["first"]
        seen = {os.stat(path).st_ino}
        day = 0
        for _ in range(2):
            before = os.stat(path).st_ino
            while os.stat(path).st_ino == before:
                day += 1
                assert day < 500
                with sender.turn():
                    sender.waiting()
                    sender.write([letter("first", "sent")])
                    sender.write([msgspec.structs.replace(letter("x", "sent"), at=NOW + timedelta(days=40 * day))])
            seen.add(os.stat(path).st_ino)
        assert len(seen) == 3, "the number of a file that is still open was given away"
        sender.enqueue([letter(f"new-{number}") for number in range(10)])
        assert [one.id for one in sleeper.waiting()] == [f"new-{number}" for number in range(10)]
        assert sleeper.counts() == sender.counts()
        sleeper.close()
        sender.close()


def test_what_cannot_be_read_is_passed_over_from_the_end_too(tmp_path):
    box = FileLetterBox(tmp_path / "outbox.jsonl", 1.0)
    box.enqueue([letter("1"), letter("2")])
    with box.path.open("ab") as file:
        file.write(b'{"id":"2","state":\n\n[1]\nnonsense\n')
    box.enqueue([letter("1", "sent"), letter("3")])
    with box.path.open("ab") as file:
        file.write(b'{"id":"3","kind":"delivery","st')
    assert [(one.id, one.state) for one in box.newest()] == [("3", "queued"), ("1", "sent"), ("2", "queued")]
    assert {name: one.state for name, one in box.named(["1", "2", "3"]).items()} == {
        "1": "sent",
        "2": "queued",
        "3": "queued",
    }
    box.close()
