"""Damaged files: what is in them is recovered, or the start is refused with file, line and remedy. Nothing silent."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.errors import DamagedFile, StorageUnavailable
from server.storage import flatfile, log
from server.storage.log import ascii_json, line_hash
from server.storage.view import Books, View, write_view
from tests.storage.backroom import (
    NOW,
    BackRoom,
    chain,
    counted,
    from_logs,
    letter,
    open_descriptors,
    records,
    room_for,
    written,
)
from tests.torture.account import Torture

LEDGER, DEVICES, VIEW, INDEX, USAGE = (
    "purchases.jsonl",
    "activity.jsonl",
    "licenses.json",
    "history.idx",
    "usage.jsonl",
)


class ShopBooks:
    """A small shop's folder as it was left, its licenses, and copies of it to damage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        room = BackRoom(folder)
        self.keys = [room.sell("s1"), room.sell("s2", "G-TEAM"), room.sell("s3")]
        room.code(self.keys[1], "d1")
        room.code(self.keys[1], "d2")
        room.code(self.keys[1], "d3")
        room.refund("s1")
        room.store.count_usage(self.keys[2], NOW, times=7)
        room.store.tidy(force=True)
        self.records = records(room.store)
        self.found = found_by_name(room, self.keys)
        self.used = counted(room.store)

    def damaged(self, *changes: tuple[str, bytes | None]) -> Damaged:
        """A copy with these files changed, or deleted."""
        return Damaged(self, changes)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


class Damaged:
    def __init__(self, books: ShopBooks, changes: tuple[tuple[str, bytes | None], ...]) -> None:
        self.books, self.changes = books, changes

    def __enter__(self) -> Damaged:
        self._room = room_for()
        self.folder = self._room.__enter__()
        shutil.copytree(self.books.folder, self.folder, dirs_exist_ok=True)
        for name, data in self.changes:
            (self.folder / name).unlink()
            if data is not None:
                (self.folder / name).write_bytes(data)
        return self

    def __exit__(self, *error: Any) -> None:
        self._room.__exit__(None, None, None)

    def refused(self) -> DamagedFile | None:
        """The refusal to start; None when it starts, and then with all licenses as they were."""
        try:
            room = BackRoom(self.folder)
        except DamagedFile as error:
            return error
        assert records(room.store) == self.books.records
        assert found_by_name(room, self.books.keys) == self.books.found
        return None

    def opened(self) -> BackRoom:
        return BackRoom(self.folder)


def found_by_name(room: BackRoom, keys: list[str]) -> list[Any]:
    """What the store finds by the names of licenses and events, through its index."""
    events = [f"event\0gumroad\0{name}" for name in ("s1:sale", "s2:sale", "s3:sale", "s1:refund")]
    return [
        [[entry.event_id for entry in room.store.history([key])] for key in keys],
        [[line.hardware_id for line in room.store.device_lines(key)] for key in keys],
        [found.seq if (found := room.store.find_event(name)) else None for name in events],
    ]


@pytest.fixture(scope="module")
def books() -> Iterator[ShopBooks]:
    with room_for() as folder:
        yield ShopBooks(folder)


@pytest.fixture
def step(torture: Torture) -> int:
    """Every seventh byte, or in full every one."""
    return torture.of(7, 1)


def refusal(books: ShopBooks, *changes: tuple[str, bytes | None]) -> str:
    with books.damaged(*changes) as damaged:
        found = damaged.refused()
    assert found is not None, "it started"
    return str(found)


def recovers(books: ShopBooks, *changes: tuple[str, bytes | None]) -> tuple[str, ...]:
    """The notices with which it starts; a sale after that is kept, and the next start finds everything in order."""
    with books.damaged(*changes) as damaged:
        room = damaged.opened()
        assert records(room.store) == books.records
        notices = room.store.state().notices
        key = room.sell("later")
        room.store.tidy(force=True)
        assert set(written(damaged.folder)) == {*books.keys, key}
        assert from_logs(damaged.folder) == records(room.store)
        again = damaged.opened()
        assert again.store.state().notices == ()
        assert records(again.store) == records(room.store)
    return notices


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# ------------------------------------------------------------------------------------------------ a torn tail
@pytest.mark.parametrize("name", [LEDGER, DEVICES])
def test_a_line_torn_at_any_byte_is_as_if_it_was_never_written(name, torture):
    with room_for() as folder:
        room = BackRoom(folder)
        key = room.sell("s1", "G-TEAM")
        room.code(key, "d1")
        before = records(room.store)
        path = folder / name
        whole = path.stat().st_size
        room.store.tidy(force=True)
        deed = (lambda room: room.sell("s2")) if name == LEDGER else (lambda room: room.code(key, "d2"))
        first = deed(room)
        after = records(room.store)
        line = path.read_bytes()[whole:]
        books = [(one, (folder / one).read_bytes()) for one in (LEDGER, DEVICES, VIEW, INDEX)]
        cuts = [*range(0, len(line) - 2, torture.of(3, 1)), len(line) - 2, len(line) - 1]
        for cut in torture.each("last lines torn at every byte", cuts, len(cuts)):
            with room_for() as torn:
                for one, data in books:
                    (torn / one).write_bytes(data if one != name else data[: whole + cut])
                other = BackRoom(torn)
                assert records(other.store) == before
                assert deed(other) == first
                assert records(other.store) == after
                assert len(chain(torn / name)) == 2
                assert from_logs(torn) == after
                fragment = line[:cut]
                assert (torn / name).read_bytes()[whole:].startswith(fragment)


def test_a_writer_seals_a_torn_tail_with_a_newline(books):
    torn = b'{"seq":5,"timestamp":"2026-11-20T12'
    with books.damaged((LEDGER, books.read(LEDGER) + torn)) as damaged:
        damaged.opened().sell("later")
        lines = (damaged.folder / LEDGER).read_bytes().split(b"\n")
        assert lines[4] == torn
        assert (json.loads(lines[5])["seq"], json.loads(lines[5])["prev"]) == (5, line_hash(torn))
        assert lines[6:] == [b""]


# ------------------------------------------------------------------------------------------------ flipped bytes
@pytest.mark.parametrize("name", [LEDGER, DEVICES])
def test_a_flipped_byte_in_a_log_is_refused_wherever_it_is(books, name, step, torture):
    data = books.read(name)
    for at in torture.each("flipped bytes in a log", range(0, len(data), step)):
        with books.damaged((name, flipped(data, at))) as damaged:
            found = damaged.refused()
            assert found is not None, f"started with byte {at} flipped"
            assert name in str(found)
            assert "backup" in str(found)


@pytest.mark.parametrize("name", [LEDGER, DEVICES])
def test_without_a_view_a_flipped_byte_is_refused_with_its_line_or_the_next(books, name, step, torture):
    """The last line has nothing behind it that vouches for it: there only what cannot be read is noticed."""
    data = books.read(name)
    last = data.rindex(b"\n", 0, -1) + 1
    for at in torture.each("flipped bytes in a log without a view", range(0, last, step)):
        with books.damaged((name, flipped(data, at)), (VIEW, None)) as damaged:
            found = damaged.refused()
            line = data.count(b"\n", 0, at) + 1
            assert found is not None, f"started with byte {at} flipped"
            assert (found.file, found.line - line) in ((name, 0), (name, 1))
    for at in range(last, len(data) - 2):
        changed = flipped(data, at)
        try:
            json.loads(changed[last:])
        except ValueError:
            with books.damaged((name, changed), (VIEW, None)) as damaged:
                found = damaged.refused()
                assert found is not None, f"started with byte {at} flipped"
                assert (found.file, found.line) == (name, data.count(b"\n"))


@pytest.mark.parametrize("name", [VIEW, INDEX, USAGE])
def test_a_flipped_byte_in_what_is_derived_changes_no_license(books, name, step, torture):
    data = books.read(name)
    for at in torture.each("flipped bytes in what is derived", range(0, len(data), step)):
        with books.damaged((name, flipped(data, at))) as damaged:
            assert damaged.refused() is None


def test_mutant_a_chain_that_nobody_checks_is_caught(books, monkeypatch):
    """Where each line says what it should have said, a changed one is noticed only by what it names."""
    data = books.read(LEDGER).replace(b"ann@example.com", b"eve@example.com", 1)
    assert "purchases.jsonl line 1: it was changed" in refusal(books, (LEDGER, data), (VIEW, None))

    def unchecked(self: Any, data: bytes, start: int) -> Any:
        lines, mark, offset = [], self.mark, start
        for raw in data.split(b"\n")[:-1]:
            if line := self._parse(raw):
                mark = type(mark)(offset + len(raw) + 1, line.seq, line_hash(raw))
                lines.append((offset, line))
            offset += len(raw) + 1
        return lines, mark

    monkeypatch.setattr(flatfile.ChainedLog, "_link", unchecked)
    with books.damaged((LEDGER, data), (VIEW, None)) as damaged:
        assert {record["email"] for record in records(damaged.opened().store).values()} == {
            "ann@example.com",
            "eve@example.com",
        }


# ------------------------------------------------------------------------------------------------ garbage
GARBAGE = {
    "a word": b"garbage\n",
    "two empty lines": b"\n\n",
    "a word and an empty line": b"abc\n\n",
    "another object": b'{"seq": 5}\n',
    "an array": b"[[[[[[[[\n",
    "deep": b'{"x":' + b"[" * 100_000 + b"\n",
    "CRLF": b"\r\n",
    "NUL": b"\0" * 5000 + b"\n",
    "NUL without an end": b"\0" * 5000,
    "not UTF-8": b'{"email": "\xff\xfe"\n',
    "U+2028": '{"email": "\u2028'.encode() + b"\n",
    "a megabyte": b"x" * (1 << 20) + b"\n",
    "a megabyte without an end": b"{" * (1 << 20),
}


@pytest.mark.parametrize("name", [LEDGER, DEVICES])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_behind_the_last_line_is_refused_or_passed_over(books, name, garbage):
    with books.damaged((name, books.read(name) + garbage)) as damaged:
        found = damaged.refused()
        if found is not None:
            assert (found.file, found.line) == (name, books.read(name).count(b"\n") + 1)
            return
        room = damaged.opened()
        key = room.sell("later", "G-TEAM")
        assert room.code(key, "d9") == "VALID"
        for _ in range(2):
            again = damaged.opened()
            assert set(records(again.store)) == {*books.keys, key}
            assert again.store.find_license(key).knows("d9")
            assert records(again.store) == from_logs(damaged.folder)
            again.store.rebuild()


@pytest.mark.parametrize("name", [LEDGER, DEVICES])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_between_lines_is_refused_with_its_place(books, name, garbage):
    first, newline, rest = books.read(name).partition(b"\n")
    damaged_data = first + newline + garbage + rest
    for changes in ([(name, damaged_data)], [(name, damaged_data), (VIEW, None)]):
        with books.damaged(*changes) as damaged:
            found = damaged.refused()
            assert found is not None
            assert found.file == name
            assert found.line in (2, 3, 4)


def test_a_ledger_saved_with_windows_line_ends_is_refused(books):
    assert LEDGER in refusal(books, (LEDGER, books.read(LEDGER).replace(b"\n", b"\r\n")))
    assert f"{LEDGER} line 2" in refusal(books, (LEDGER, books.read(LEDGER).replace(b"\n", b"\r\n")), (VIEW, None))


def test_a_last_line_that_was_damaged_after_it_was_written_is_no_torn_one(books):
    data = books.read(LEDGER)
    damaged = data[:-40] + b"\xff" + data[-39:]
    told = refusal(books, (LEDGER, damaged), (VIEW, None))
    assert "purchases.jsonl line 4: the line cannot be read, but it was written whole" in told


# ------------------------------------------------------------------------------------------------ the view
def test_a_view_cut_anywhere_is_rebuilt_loudly(books, torture):
    data = books.read(VIEW)
    for length in torture.each("cuts of a view", range(0, len(data), torture.of(7, 1))):
        with books.damaged((VIEW, data[:length])) as damaged:
            room = damaged.opened()
            assert records(room.store) == books.records
            (notice,) = room.store.state().notices
            assert notice.startswith("licenses.json was rebuilt from the ledger: ")
            assert set(written(damaged.folder)) == set(books.keys)


VIEWS = {"null": b"null", "object": b"{}", "list": b"[]", "empty": b"", "newline": b"\n", "NUL": b"\0" * 4096}


@pytest.mark.parametrize("content", VIEWS.values(), ids=VIEWS)
def test_a_view_that_is_none_is_rebuilt_loudly(books, content):
    assert len(recovers(books, (VIEW, content))) == 1


def test_a_missing_view_is_rebuilt(books):
    assert recovers(books, (VIEW, None)) == ()
    assert recovers(books, (VIEW, None), (INDEX, None), (USAGE, None)) == ()


def test_an_edit_of_the_view_by_hand_does_not_count(books):
    edited = books.read(VIEW).replace(b'"is_active":false', b'"is_active":true ')
    assert edited != books.read(VIEW)
    (notice,) = recovers(books, (VIEW, edited))
    assert "changed by hand" in notice
    more = books.read(VIEW).replace(b'"max_devices":3', b'"max_devices":9999')
    assert len(recovers(books, (VIEW, more))) == 1


def test_the_bookkeeping_of_a_view_cannot_be_edited_either(books):
    assert b'"count":3' in books.read(VIEW)
    with books.damaged((VIEW, books.read(VIEW).replace(b'"count":3', b'"count":9'))) as damaged:
        assert damaged.opened().store.state().licenses == 3


def test_a_damaged_view_of_a_shop_with_many_lines_is_rebuilt():
    with room_for() as folder:
        room = BackRoom(folder)
        for number in range(300):
            room.sell(f"s{number}")
        room.store.tidy(force=True)
        (folder / VIEW).write_bytes((folder / VIEW).read_bytes()[:-1])
        again = BackRoom(folder)
        assert again.store.state().licenses == 300
        assert len(again.store.state().notices) == 1
        assert len(written(folder)) == 300


@pytest.mark.parametrize("number", [2, 300])
def test_a_rebuild_believes_the_logs_and_not_the_view(number):
    """A view that was written by a version with an error in it is sound, and wrong."""
    with room_for() as folder:
        room = BackRoom(folder)
        keys = [room.sell(f"s{at}") for at in range(number)]
        room.store.tidy(force=True)
        truth = records(room.store)
        view = View(folder / VIEW)
        wrong = {keys[0]: msgspec.structs.replace(view.find(keys[0]), email="nobody@example.com")}
        write_view(folder / VIEW, view, wrong, view.books)
        again = BackRoom(folder)
        assert again.store.find_license(keys[0]).email == "nobody@example.com"
        assert again.store.rebuild() == number
        assert records(again.store) == truth
        assert records(BackRoom(folder).store) == truth


def test_a_view_is_never_an_empty_shop(books):
    """With neither a sound view nor a ledger nothing can be rebuilt: the last copy of the licenses stays as it is."""
    for content in (books.read(VIEW)[:-3], b"", b"null"):
        for ledger in (None, b""):
            with books.damaged((VIEW, content), (LEDGER, ledger)) as damaged:
                found = damaged.refused()
                assert found is not None
                assert "licenses.json" in str(found)
                assert "Restore purchases.jsonl from a backup" in str(found)
                assert (damaged.folder / VIEW).read_bytes() == content


def test_a_shop_without_ledger_and_view_is_no_empty_one_while_anything_tells_of_it(books):
    """The device log and the index speak of lines that are gone."""
    for ledger in (None, b""):
        for others in ((), ((INDEX, None),), ((DEVICES, None),)):
            with books.damaged((LEDGER, ledger), (VIEW, None), *others) as damaged:
                found = damaged.refused()
                assert found is not None
                assert found.file == LEDGER
                assert "Restore purchases.jsonl from a backup" in str(found)
        with books.damaged((LEDGER, ledger), (VIEW, None), (INDEX, None), (DEVICES, None)) as damaged:
            assert records(damaged.opened().store) == {}


# ------------------------------------------------------------------------------------------------ shorter logs
@pytest.mark.parametrize("name", [LEDGER, DEVICES])
def test_a_log_shorter_than_the_view_rests_on_is_refused_with_a_remedy(books, name, torture):
    data = books.read(name)
    shorter = (data[:length] for length in range(0, len(data), torture.of(5, 1)))
    for content in torture.each("logs cut behind their view", (None, *shorter)):
        with books.damaged((name, content)) as damaged:
            found = damaged.refused()
            assert found is not None
            assert found.file == name
            assert "licenses.json rests on its first" in str(found)
            assert "Restore the file from a backup" in str(found)
            assert "delete licenses.json and start again" in str(found)


def test_the_remedy_for_a_shorter_ledger_works(books):
    data = books.read(LEDGER)
    with books.damaged((LEDGER, data[: data.index(b"\n") + 1]), (VIEW, None)) as damaged:
        assert set(records(damaged.opened().store)) == {books.keys[0]}


def test_the_ledger_of_another_shop_is_refused(books):
    with room_for() as folder:
        room = BackRoom(folder)
        for number in range(10):
            room.sell(f"other-{number}")
        other = (folder / LEDGER).read_bytes()
    assert "licenses.json rests on its first" in refusal(books, (LEDGER, other))


# ------------------------------------------------------------------------------------------------ index and usage
def test_an_index_cut_anywhere_changes_nothing(books, step, torture):
    data = books.read(INDEX)
    for length in torture.each("cuts of an index", range(0, len(data), step)):
        with books.damaged((INDEX, data[:length])) as damaged:
            room = damaged.opened()
            assert records(room.store) == books.records
            assert [entry.event_id for entry in room.store.history([books.keys[0]])] == ["s1:sale", "s1:refund"]
            assert len(room.store.device_lines(books.keys[1])) == 3
            assert room.sell("s2", "G-TEAM") == books.keys[1]
            assert len(chain(damaged.folder / LEDGER)) == 4


@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", b"keyledger history 1\n{}\n", b"keyledger history 2\n{}\n", b"\0" * 100_000]
)
def test_an_index_that_is_none_is_made_anew(books, content):
    assert recovers(books, (INDEX, content)) == ()


def test_the_index_of_another_shop_is_made_anew(books):
    with room_for() as folder:
        room = BackRoom(folder)
        for number in range(10):
            room.code(room.sell(f"other-{number}"), "d1")
        room.store.tidy(force=True)
        other = (folder / INDEX).read_bytes()
    assert recovers(books, (INDEX, other)) == ()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"garbage\n", b'{"counts":{"\xff":{}}}\n', b'{"x":' + b"[" * 100_000 + b"\n", b'{"generation":1'],
)
def test_a_damaged_usage_file_costs_nothing_but_counts(books, content):
    with books.damaged((USAGE, content)) as damaged:
        room = damaged.opened()
        assert records(room.store) == books.records
        for _ in range(3):
            assert room.code(books.keys[2]) == "VALID"
            room.store.tidy(force=True)
        assert room.store.state().notices == ()
        assert counted(room.store)[books.keys[2]] >= 3


def test_a_torn_usage_line_costs_its_own_counts_alone(books):
    data = books.read(USAGE)
    with books.damaged((USAGE, data + b'{"counts":{"' + books.keys[2].encode())) as damaged:
        room = damaged.opened()
        assert room.code(books.keys[2]) == "VALID"
        room.store.tidy(force=True)
        assert counted(room.store) == {**books.used, books.keys[2]: 8}


def test_a_torn_letter_is_passed_over(books):
    with books.damaged() as damaged:
        box = damaged.opened().store.letterbox
        box.enqueue([letter("1")])
        whole = (damaged.folder / "outbox.jsonl").read_bytes()
        for cut in range(1, len(whole)):
            (damaged.folder / "outbox.jsonl").write_bytes(whole + whole[:cut].replace(b'"1"', b'"x"'))
            torn = damaged.opened().store.letterbox
            torn.enqueue([letter("2")])
            assert {"1", "2"} <= {one.id for one in damaged.opened().store.letterbox.waiting()}
        (damaged.folder / "outbox.jsonl").write_bytes(whole + b'{"id":' + b"[" * 100_000 + b"\n\xff\n\n")
        assert [one.id for one in damaged.opened().store.letterbox.waiting()] == ["1"]


# ------------------------------------------------------------------------------------------------ while it runs
def test_what_is_known_still_serves_when_a_log_is_damaged_under_a_running_service(books):
    for name in (LEDGER, DEVICES):
        for content in (None, b"", books.read(name)[:-20], books.read(name) + b'{"seq":99}\n' + books.read(name)):
            with books.damaged() as damaged:
                room = damaged.opened()
                fresh = room.sell("fresh", "G-TEAM")
                assert room.code(fresh, "d1") == "VALID"
                kept = (damaged.folder / name).read_bytes()
                (damaged.folder / name).unlink()
                if content is not None:
                    (damaged.folder / name).write_bytes(content)
                assert [room.code(key) for key in books.keys] == ["SUSPENDED", "VALID", "VALID"]
                assert room.code(fresh, "d1") == "VALID"
                with pytest.raises(StorageUnavailable):
                    room.sell("more")
                assert room.store.state().trouble is not None
                assert name in room.store.state().trouble
                (damaged.folder / name).write_bytes(kept)
                room.sell("more")
                assert room.store.state().trouble is None
                assert len(records(room.store)) == 5


def test_lines_before_a_damaged_one_still_count(books):
    """A line that does not follow is added behind good ones that no view covers yet."""
    with books.damaged() as damaged:
        room, reader = damaged.opened(), damaged.opened()
        fresh = room.sell("fresh")
        with open(damaged.folder / LEDGER, "ab") as ledger:
            ledger.write(books.read(LEDGER))
        for store in (room.store, reader.store):
            assert store.find_license(fresh) is not None
            assert "purchases.jsonl line 6" in str(store.state().trouble)


def test_the_books_of_a_view_that_says_more_than_the_ledger_are_refused(books):
    """Another process cannot be ahead of the ledger: a view that claims it was restored beside an older ledger."""
    with books.damaged() as damaged:
        view = View(damaged.folder / VIEW)
        mark = msgspec.structs.replace(view.books.ledger, position=view.books.ledger.position + 1)
        write_view(damaged.folder / VIEW, view, {}, Books(ledger=mark, devices=view.books.devices, count=3))
        assert "licenses.json rests on its first" in str(damaged.refused())


def test_a_folder_that_is_none_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DamagedFile, match="Check DATA_DIR"):
        flatfile.FlatFileStore(tmp_path / "file").open()


def test_odd_text_never_breaks_a_line():
    """Each separator of lines that any standard knows, inside what a customer typed."""
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\ni\u0000j\U0001f600k"
    assert ascii_json({"x": odd}).isascii()
    assert ascii_json({"x": odd}).splitlines() == [ascii_json({"x": odd})]
    with room_for() as folder:
        room = BackRoom(folder)
        key = room.sell("s1", customer_name=odd, email=f"{odd}@example.com")
        room.store.tidy(force=True)
        assert BackRoom(folder).store.find_license(key).customer_name == odd
        assert written(folder)[key]["customer_name"] == odd
        assert len((folder / LEDGER).read_bytes().splitlines()) == 1
        assert os.stat(folder / LEDGER).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("pace", [0.0, 3600.0])
def test_an_edit_of_the_view_in_its_place_does_not_count_while_a_service_runs(books, pace):
    """Whether it looks for a newer view right away, or has read the one that was edited long ago."""
    with books.damaged() as damaged:
        room = BackRoom(damaged.folder, pace)
        assert records(room.store) == books.records
        with open(damaged.folder / VIEW, "r+b") as view:
            view.write(books.read(VIEW).replace(b'"customer_name":"Ann Lee"', b'"customer_name":"Eve Lee"'))
        assert records(room.store) == books.records
        key = room.sell("later")
        room.store.tidy(force=True)
        assert {record["customer_name"] for record in written(damaged.folder).values()} == {"Ann Lee"}
        with open(damaged.folder / VIEW, "r+b") as view:
            view.truncate(10)
        assert room.store.find_license(key) is not None
        assert records(room.store) == from_logs(damaged.folder)


def test_a_mark_that_the_ledger_no_longer_has_is_refused(books):
    """The outbox remembers how far it looked through the ledger; then an older backup was put back."""
    with books.damaged() as damaged:
        room = damaged.opened()
        *_, (mark, _) = room.store.entries()
        assert list(room.store.entries(mark)) == []
        for data in (books.read(LEDGER)[:-200], books.read(LEDGER).replace(b"ann@", b"eve@"), None):
            (damaged.folder / LEDGER).unlink()
            if data is not None:
                (damaged.folder / LEDGER).write_bytes(data)
            with pytest.raises(DamagedFile, match=r"purchases\.jsonl: what was read from it before"):
                list(room.store.entries(mark))


def test_an_inspection_gives_its_descriptors_back(books):
    with books.damaged() as damaged:
        room = damaged.opened()
        list(room.store.inspect())
        gc.collect()  # what earlier tests left open is not this one's
        before = open_descriptors()
        for _ in range(5):
            assert list(room.store.inspect()) == []
        assert open_descriptors() <= before


def test_a_line_longer_than_what_is_read_at_once_is_read(books, monkeypatch):
    monkeypatch.setattr(log, "CHUNK", 64)
    monkeypatch.setattr(log, "SCAN", 64)
    for changes in ((), ((VIEW, None), (INDEX, None))):
        with books.damaged(*changes) as damaged:
            assert damaged.refused() is None
            room = damaged.opened()
            key = room.sell("later")
            assert set(records(damaged.opened().store)) == {*books.keys, key}
            assert [line.event_id for line in room.store.scan(Named)] == [
                "s1:sale",
                "s2:sale",
                "s3:sale",
                "s1:refund",
                "later:sale",
            ]
            assert [line.event_id for line in room.store.scan(Named, newest_first=True)][:2] == [
                "later:sale",
                "s1:refund",
            ]


class Named(msgspec.Struct):
    event_id: str
