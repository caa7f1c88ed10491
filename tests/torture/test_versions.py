"""Two versions of the program on one folder: the older one keeps what it does not know, or refuses it by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.domain import fold as folding
from server.domain.license import DeviceLine, License
from server.domain.purchase import Entry
from server.errors import DamagedFile
from server.services import fulfilment, seats
from server.storage import durable, flatfile, known, letterbox, log, view
from server.storage.base import Letter
from server.storage.letterbox import FileLetterBox
from tests.storage.backroom import BackRoom, chain, letter, records, room_for, written
from tests.torture.processes import failing

LEDGER, DEVICES, VIEW, OUTBOX = "purchases.jsonl", "activity.jsonl", "licenses.json", "outbox.jsonl"


class NewerEntry(Entry, kw_only=True):
    gift_to: str | None = None


class NewerDeviceLine(DeviceLine, kw_only=True):
    system: str | None = None


class NewerLicense(License, kw_only=True):
    gift_to: str | None = None


class NewerBooks(view.Books, frozen=True, kw_only=True):
    written_by: str = "9.0"


def newer_fold(entries: Any) -> dict[str, License]:
    """A version that tells in the license what its ledger lines say."""
    entries = list(entries)
    gift = next((gift for entry in entries if (gift := getattr(entry, "gift_to", None))), None)
    return {
        key: NewerLicense(**{name: getattr(license, name) for name in License.__struct_fields__}, gift_to=gift)
        for key, license in folding.fold(entries).items()
    }


@contextmanager
def newer_version() -> Iterator[pytest.MonkeyPatch]:
    """The program as a later version has it: each kind of line and record with one field more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flatfile, "Entry", NewerEntry)
        patch.setattr(flatfile, "DeviceLine", NewerDeviceLine)
        patch.setattr(flatfile, "Books", NewerBooks)
        patch.setattr(known, "fold", newer_fold)
        patch.setattr(fulfilment, "Entry", partial(NewerEntry, gift_to="Eve"))
        patch.setattr(fulfilment, "fold", newer_fold)
        patch.setattr(seats, "DeviceLine", partial(NewerDeviceLine, system="Haiku"))
        patch.setattr(view, "License", NewerLicense)
        patch.setattr(view, "Books", NewerBooks)
        yield patch


def shop_of_the_newer(folder: Path) -> list[str]:
    """A shop with two licenses, one of them with a device; the view is written."""
    with newer_version():
        room = BackRoom(folder)
        keys = [room.sell("s1", "G-TEAM"), room.sell("s2", "G-TEAM")]
        assert room.code(keys[0], "d1") == "VALID"
        room.store.tidy(force=True)
        return keys


def raw_lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def test_the_newer_version_says_more() -> None:
    """Else nothing below would show anything."""
    with room_for() as folder:
        shop_of_the_newer(folder)
        assert b'"gift_to":"Eve"' in raw_lines(folder / LEDGER)[0]
        assert b'"system":"Haiku"' in raw_lines(folder / DEVICES)[0]
        assert b'"gift_to":"Eve"' in (folder / VIEW).read_bytes()
        assert b'"written_by":"9.0"' in (folder / VIEW).read_bytes()


def older_version_works(folder: Path, keys: list[str]) -> BackRoom:
    """All that an older version does to a folder."""
    room = BackRoom(folder)
    assert room.code(keys[0], "d2") == "VALID"
    room.refund("s2")
    room.sell("s3")
    room.store.tidy(force=True)
    return room


def test_an_older_version_keeps_the_lines_of_both_logs_as_they_are() -> None:
    with room_for() as folder:
        keys = shop_of_the_newer(folder)
        before = {name: raw_lines(folder / name) for name in (LEDGER, DEVICES)}
        room = older_version_works(folder, keys)
        with pytest.MonkeyPatch.context() as patch:  # a failed fsync: both logs move to fresh files
            patch.setattr(durable, "sync", failing(5))
            room.store.state(probe=True)
            with pytest.raises(log.StorageUnavailable):
                room.code(keys[0], "d3")
            with pytest.raises(log.StorageUnavailable):
                room.sell("s4")
        room.sell("s4")
        assert room.code(keys[0], "d3") == "VALID"
        room.store.rebuild()
        for name, lines in before.items():
            assert raw_lines(folder / name)[: len(lines)] == lines
            chain(folder / name)


def test_two_versions_at_once_say_that_nothing_is_damaged() -> None:
    """Each reads the view that the other one wrote, and neither calls it changed by hand."""
    with room_for() as folder:
        keys = shop_of_the_newer(folder)
        for turn in range(3):
            older = BackRoom(folder)
            assert older.store.state().notices == ()
            older.sell(f"old-{turn}")
            older.store.tidy(force=True)
            with newer_version():
                newer = BackRoom(folder)
                assert newer.store.state().notices == ()
                assert newer.sell("s1", "G-TEAM") == keys[0]
                newer.sell(f"new-{turn}")
                newer.store.tidy(force=True)
        assert records(BackRoom(folder).store).keys() == written(folder).keys()
        assert len(written(folder)) == 8
        assert [finding for finding in BackRoom(folder).store.inspect() if not finding.is_note] == []


def test_a_field_of_the_view_that_an_older_version_left_out_comes_back_by_a_rebuild() -> None:
    """The view is derived: a record that the older version writes anew has what it knows. The logs have the rest."""
    with room_for() as folder:
        keys = shop_of_the_newer(folder)
        older_version_works(folder, keys)
        with newer_version():
            newer = BackRoom(folder)
            assert newer.store.rebuild() == 3
            assert [newer.store.find_license(key).gift_to for key in keys] == ["Eve", "Eve"]
            assert {written(folder)[key]["gift_to"] for key in keys} == {"Eve"}


def test_records_that_an_older_version_does_not_touch_keep_their_fields() -> None:
    with room_for() as folder:
        keys = shop_of_the_newer(folder)
        room = BackRoom(folder)
        room.code(keys[0], "d2")
        room.store.tidy(force=True)
        assert written(folder)[keys[1]]["gift_to"] == "Eve"


def test_a_kind_of_event_that_only_a_newer_version_knows_is_refused_by_name() -> None:
    """It may decide about a license: passing it over would be silent."""
    with room_for() as folder:
        shop_of_the_newer(folder)
        (line,) = chain(folder / LEDGER)[-1:]
        line |= {"seq": 3, "prev": log.line_hash(raw_lines(folder / LEDGER)[-1]), "event": "gift"}
        with open(folder / LEDGER, "ab") as ledger:
            ledger.write(json.dumps(line).encode() + b"\n")
        with pytest.raises(DamagedFile, match=r"purchases\.jsonl line 3: the line cannot be read, but it was written"):
            BackRoom(folder)


# ------------------------------------------------------------------------------------------------ letters
def newer_letter(name: str, state: str = "queued") -> bytes:
    return msgspec.json.encode(letter(name, state))[:-1] + b',"copy_to":["eve@example.com"],"urgent":true}\n'


def state_of(box: FileLetterBox, name: str, state: str) -> Letter:
    found = next(one for one in box.waiting() if one.id == name)
    return msgspec.structs.replace(found, state=state)


def keeps_fields(folder: Path) -> dict[str, bool]:
    """Which letters of a newer version still have all their fields after an older one sent and compacted."""
    (folder / OUTBOX).write_bytes(b"".join(map(newer_letter, ("waits", "fails", "goes"))))
    box = FileLetterBox(folder / OUTBOX, 1.0)
    with box.turn():
        box.write([state_of(box, "fails", "failed"), state_of(box, "goes", "sent")])
        box.write([state_of(box, "fails", "failed") for _ in range(30)])
    box.close()
    newest = {line["id"]: line for line in map(json.loads, raw_lines(folder / OUTBOX))}
    assert len(newest) == len(raw_lines(folder / OUTBOX)) == 3, "it was not compacted"
    return {name: line.get("copy_to") == ["eve@example.com"] and line["urgent"] for name, line in newest.items()}


def test_the_fields_of_a_letter_stay_with_it_through_states_and_compaction(monkeypatch):
    monkeypatch.setattr(letterbox, "_COMPACT_FROM", 100)
    with room_for() as folder:
        assert keeps_fields(folder) == {"waits": True, "fails": True, "goes": True}


def test_mutant_a_box_that_writes_only_what_it_knows_is_caught(monkeypatch):
    monkeypatch.setattr(letterbox, "_COMPACT_FROM", 100)
    monkeypatch.setattr(FileLetterBox, "_line", lambda self, letter: log.ascii_json(letter))
    with room_for() as folder:
        assert keeps_fields(folder) == {"waits": True, "fails": False, "goes": False}


def test_mutant_a_view_checked_by_what_is_known_of_it_is_caught(monkeypatch):
    """The checksum of the bookkeeping as this version would write it."""
    real = view._check

    def check(descriptor: int, size: int) -> Any:
        books, end = real(descriptor, size)
        if view.ascii_json(books) not in view.os.pread(descriptor, size, 0):
            raise view.ViewDamaged("its checksum does not match")
        return books, end

    with room_for() as folder:
        shop_of_the_newer(folder)
        monkeypatch.setattr(view, "_check", check)
        assert BackRoom(folder).store.state().notices != ()
