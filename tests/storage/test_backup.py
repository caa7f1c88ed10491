"""Backups: a moment of the books beside writers, whole or not there; a folder is the old one or the new one."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from server.errors import Conflict, NotFound, StorageUnavailable
from server.storage import archive, backup, durable
from server.storage.archive import BadBackup
from server.storage.base import Letter
from server.storage.flatfile import FlatFileStore
from server.storage.history import HistoryIndex
from server.storage.inspection import inspect_folder
from tests.storage.backroom import BackRoom, chain, from_logs, records, room_for
from tests.torture.processes import Child, Killer, Tap, Tell

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
BOOKS = ("purchases.jsonl", "activity.jsonl", "outbox.jsonl", "usage.jsonl", "products.json")


@pytest.fixture
def room() -> Iterator[Path]:
    with room_for() as folder:
        yield folder


@pytest.fixture
def shop(room: Path) -> Iterator[BackRoom]:
    """Two sales, a device, a letter, a count, in a folder `data`."""
    (room / "data").mkdir()
    shop = BackRoom(room / "data")
    shop.code(shop.sell("s1"), "laptop")
    shop.sell("s2", "G-TEAM")
    shop.store.letterbox.enqueue([letter(1)])
    shop.store.count_usage(shop.sell("s3"), NOW)
    shop.store.tidy(force=True)
    yield shop
    shop.store.close()


def letter(seq: int) -> Letter:
    return Letter(id=f"{seq}:delivery", kind="delivery", to="ann@example.com", seq=seq, at=NOW)


def leave(shop: BackRoom) -> dict[str, Any]:
    """Close the shop with all that is mapped; its licenses."""
    found = records(shop.store)
    shop.store.close()
    shop.store._known.index = HistoryIndex()
    return found


def made(shop: BackRoom, minutes: int = 0, **more: Any) -> Path:
    place = shop.folder.with_name("data-backups")
    return backup.create(shop.folder, place, NOW + timedelta(minutes=minutes), **more).file


def opened(folder: Path) -> dict[str, Any]:
    store = FlatFileStore(folder).open()
    try:
        return records(store)
    finally:
        store.close()


# ------------------------------------------------------------------------------------------------ there and back
def test_a_backup_brings_back_all_of_the_books(shop: BackRoom, room: Path) -> None:
    path = made(shop)
    assert path.stat().st_mode & 0o777 == 0o600
    checked = backup.verify(path)
    assert checked.findings == []
    assert {kept.name: kept.seq for kept in checked.manifest.files if kept.seq} == {
        "purchases.jsonl": 3,
        "activity.jsonl": 1,
    }
    done = backup.restore(path, room / "new", NOW)
    assert (done.folder, done.aside) == (room / "new", None)
    for name in BOOKS:
        assert (room / "new" / name).read_bytes() == (shop.folder / name).read_bytes(), name
    assert opened(room / "new") == records(shop.store)
    assert BackRoom(room / "new").sell("s1") == shop.sell("s1")
    assert list(inspect_folder(room / "new", lambda done, total: None)) == []
    assert (room / "new").stat().st_mode & 0o777 == 0o700
    assert not list(room.glob("data-backups/.*"))


def test_any_tar_can_unpack_it_and_no_secret_is_in_it(shop: BackRoom, room: Path) -> None:
    (shop.folder / ".env").write_text("LICENSE_SECRET=canary-of-the-tests\n")
    path = made(shop)
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert names[0] == "manifest.json"
    assert ".env" not in names
    assert b"canary-of-the-tests" not in gzip.decompress(path.read_bytes())


def test_a_folder_with_a_ledger_is_kept_unless_forced_and_then_moved_aside(shop: BackRoom) -> None:
    path, then = made(shop), records(shop.store)
    key = shop.sell("after")
    shop.store.close()
    with pytest.raises(Conflict, match="--force"):
        backup.restore(path, shop.folder, NOW)
    assert key in opened(shop.folder)
    done = backup.restore(path, shop.folder, NOW, force=True)
    assert opened(shop.folder) == then
    assert done.aside is not None
    assert key in opened(done.aside)


def test_a_new_shops_folder_without_a_ledger_needs_no_force(shop: BackRoom, room: Path) -> None:
    (room / "fresh").mkdir()
    (room / "fresh" / "products.json").write_text("{}")
    done = backup.restore(made(shop), room / "fresh", NOW)
    assert opened(room / "fresh") == records(shop.store)
    assert done.aside is not None
    assert (done.aside / "products.json").read_text() == "{}"


def test_a_folder_behind_a_link_is_restored_where_it_is(shop: BackRoom, room: Path) -> None:
    (room / "real").mkdir()
    (room / "link").symlink_to(room / "real")
    backup.restore(made(shop), room / "link", NOW)
    assert (room / "link").is_symlink()
    assert opened(room / "real") == records(shop.store)


def test_a_folder_that_a_process_has_open_is_refused_until_it_ends(shop: BackRoom, room: Path) -> None:
    path = made(shop)

    def serve(tell: Tell) -> None:
        store = FlatFileStore(shop.folder).open()
        tell("open")
        signal.pause()
        store.close()

    server = Child(serve)
    assert server.hear() == "open"
    with pytest.raises(Conflict, match=f"process {server.pid}"):
        backup.restore(path, shop.folder, NOW, force=True)
    server.kill()
    assert backup.restore(path, shop.folder, NOW, force=True).aside


def test_a_folder_in_which_somebody_writes_is_refused(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(shop)
    monkeypatch.setattr(backup, "PATIENCE", 0)
    with shop.store.transaction(), pytest.raises(StorageUnavailable):
        backup.restore(path, shop.folder, NOW, force=True)
    assert not list(shop.folder.parent.glob("*set-aside*"))


def test_where_folders_cannot_change_places_nothing_is_done(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = made(shop), sorted(shop.folder.parent.iterdir())

    def mounted(one: Path, other: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(durable, "exchange", mounted)
    with pytest.raises(Conflict, match="--to a new folder"):
        backup.restore(path, shop.folder, NOW, force=True)
    assert sorted(shop.folder.parent.iterdir()) == before


def test_a_folder_without_a_ledger_is_no_backup(room: Path) -> None:
    with pytest.raises(NotFound, match="DATA_DIR"):
        backup.create(room, room / "backups", NOW)
    assert not list(room.rglob("*.tar.gz"))


def test_the_newest_backup_leaves_a_note(shop: BackRoom) -> None:
    assert archive.last_backup(shop.folder) is None
    path = made(shop)
    assert archive.last_backup(shop.folder) == archive.Note(NOW, str(path), 3, True)


def test_a_folder_that_takes_no_bytes_can_be_backed_up(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock cannot be opened for writing there, and the note not be written."""

    class ReadOnly(Tap):
        def call(self, name: str, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
            if name == "open" and given[1] & os.O_CREAT and Path(given[0]).parent == shop.folder:
                raise OSError(30, "Read-only file system")
            return real(*given, **named)

    with monkeypatch.context() as patch:
        ReadOnly().install_with(patch)
        path = made(shop)
    assert backup.verify(path).manifest.ledger_lines == 3
    assert archive.last_backup(shop.folder) is None


# ------------------------------------------------------------------------------------------------ rotation
def test_the_newest_ones_are_kept(shop: BackRoom) -> None:
    paths = [made(shop, minutes) for minutes in range(4)]
    (paths[0].parent / "keyledger-mine.tar.gz").write_bytes(b"not ours")
    newest = made(shop, 5, keep=2)
    assert sorted(paths[0].parent.iterdir()) == sorted([paths[3], newest, paths[0].parent / "keyledger-mine.tar.gz"])


def test_a_lost_ledger_does_not_push_out_the_backups_that_hold_more(shop: BackRoom) -> None:
    full = made(shop)
    shop.store.close()
    shutil.rmtree(shop.folder)
    shop.folder.mkdir()
    anew = BackRoom(shop.folder)
    anew.sell("s1")
    assert [made(anew, minutes, keep=1) for minutes in (1, 2)]
    assert full.exists()
    assert len(list(full.parent.iterdir())) == 2


def test_a_changed_last_line_is_told_though_no_line_after_it_vouches_for_it(shop: BackRoom, room: Path) -> None:
    ledger = shop.folder / "purchases.jsonl"
    *before, last = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([*before, last.replace(b"Ann Lee", b"Ann Bee")]))
    checked = backup.create(shop.folder, room / "backups", NOW)
    assert "number 3 is not the line" in checked.findings[0].detail
    with pytest.raises(BadBackup, match=r"purchases\.jsonl"):
        backup.restore(checked.file, room / "new", NOW)


def test_a_view_that_was_changed_by_hand_is_told_and_a_restore_makes_it_anew(shop: BackRoom, room: Path) -> None:
    view, good = shop.folder / "licenses.json", records(shop.store)
    view.write_bytes(view.read_bytes().replace(b"Ann Lee", b"Ann Bee"))
    checked = backup.create(shop.folder, room / "backups", NOW)
    assert "checksum" in checked.findings[0].detail
    backup.restore(checked.file, room / "new", NOW)
    assert opened(room / "new") == good
    assert list(inspect_folder(room / "new", lambda done, total: None)) == []


def test_damaged_books_are_kept_told_and_displace_nothing(shop: BackRoom) -> None:
    good = made(shop)
    ledger = shop.folder / "purchases.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"Ann Lee", b"Ann Bee", 1))
    checked = backup.create(shop.folder, good.parent, NOW + timedelta(minutes=1), keep=1)
    assert "purchases.jsonl line 1" in checked.findings[0].where
    assert (good.exists(), checked.file.exists()) == (True, True)
    note = archive.last_backup(shop.folder)
    assert note is not None
    assert not note.is_sound


# ------------------------------------------------------------------------------------------------ beside writers
def sells(folder: Path, name: str, told: Path) -> Callable[[Tell], None]:
    """Sells without end, binds devices and writes letters; what was acknowledged stands in the file `told`."""

    def work(tell: Tell) -> None:
        room, at = BackRoom(folder, pace=0.05), 0
        with told.open("a", buffering=1) as acknowledged:
            while True:
                at += 1
                key = room.sell(f"{name}-{at}", "G-TEAM")
                acknowledged.write(f"{key}\n")
                room.code(key, "laptop")
                room.store.letterbox.enqueue([letter(room.store.ledger.mark.seq)])
                room.store.count_usage(key, NOW)
                room.store.tidy()

    return work


def acknowledged(folder: Path) -> set[str]:
    return {line for path in folder.glob("told-*") for line in path.read_text().split("\n")[:-1]}


def wait_for(sales: int, folder: Path) -> set[str]:
    deadline = time.monotonic() + 30
    while len(found := acknowledged(folder)) < sales and time.monotonic() < deadline:
        pass
    assert len(found) >= sales, "the writers stand still"
    return found


def backups_beside_writers(folder: Path, times: int, seed: int) -> None:
    """At chance moments; now and then a writer is killed and another one begins."""
    chance, data = random.Random(seed), folder / "data"
    data.mkdir()
    BackRoom(data).sell("first")
    crew = [Child(sells(data, f"w{n}", folder / f"told-{n}")) for n in range(3)]
    try:
        for at in range(times):
            before = wait_for(len(acknowledged(folder)) + chance.randrange(1, 12), folder)
            path = backup.create(data, folder / "backups", NOW + timedelta(seconds=at)).file
            for child in crew:
                child.signal(signal.SIGSTOP)  # else the books grow while they are checked
            backup.restore(path, folder / "new", NOW)
            check_restored(folder / "new", before)
            shutil.rmtree(folder / "new")
            if at % 5 == 4:
                crew.pop(0).kill()
                crew.append(Child(sells(data, f"k{at}", folder / f"told-k{at}")))
            for child in crew:
                child.signal(signal.SIGCONT)
    finally:
        for child in crew:
            child.kill()


def check_restored(folder: Path, before: set[str]) -> None:
    lines, devices = chain(folder / "purchases.jsonl"), chain(folder / "activity.jsonl")
    issued = {key for line in lines for key in line["license_keys"]}
    assert before <= issued, "a sale that was acknowledged before the backup is not in it"
    assert {line["license_key"] for line in devices} <= issued, "a device of a license that is not there"
    letters = [json.loads(raw) for raw in (folder / "outbox.jsonl").read_bytes().splitlines()]
    assert max((one["seq"] for one in letters), default=0) <= len(lines), "a letter of a line that is not there"
    for name in BOOKS[:4]:
        assert not (raw := (folder / name).read_bytes()) or raw.endswith(b"\n"), f"{name} ends within a line"
    assert opened(folder) == from_logs(folder)


def test_backups_beside_writers_hold_all_that_was_acknowledged() -> None:
    with room_for() as folder:
        backups_beside_writers(folder, 10, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_two_hundred_backups_at_chance_moments(seed: int) -> None:
    with room_for() as folder:
        backups_beside_writers(folder, 10, seed)


@contextmanager
def writing_between(shop: BackRoom, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody sells, binds and writes a letter each time before a backup opens a file; no lock holds him up."""
    real = backup._open_part

    def open_part(path: Path, opened: Any) -> archive.Part:
        key = shop.sell(f"before {path.name}")
        shop.code(key, "laptop")
        shop.store.letterbox.enqueue([letter(shop.store.ledger.mark.seq)])
        shop.store.tidy(force=True)
        return real(path, opened)

    with patch.context() as changed:
        changed.setattr(backup, "_between_two_writes", lambda folder, patience: nullcontext())
        changed.setattr(backup, "_open_part", open_part)
        yield


def the_order_alone_keeps_the_books_together(shop: BackRoom, patch: pytest.MonkeyPatch) -> None:
    with writing_between(shop, patch):
        path = made(shop)
    backup.restore(path, shop.folder.with_name("new"), NOW)
    check_restored(shop.folder.with_name("new"), set())


def test_without_the_lock_no_copy_speaks_of_a_line_that_is_not_in_it(
    shop: BackRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    the_order_alone_keeps_the_books_together(shop, monkeypatch)


@pytest.mark.parametrize("late", ["activity.jsonl", "outbox.jsonl", "licenses.json"])
def test_mutant_what_speaks_of_the_ledger_is_opened_after_it(
    shop: BackRoom, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    wrong = (*(name for name in archive.FILES if name != late), late)
    monkeypatch.setattr(backup, "FILES", wrong)
    with pytest.raises((AssertionError, BadBackup), match=r"that is not there|its end was cut off|cut or changed"):
        the_order_alone_keeps_the_books_together(shop, monkeypatch)


def nobody_writes_between(shop: BackRoom, patch: pytest.MonkeyPatch) -> None:
    other, refused = FlatFileStore(shop.folder), []
    other._folder_lock.patience = 0
    real = backup._open_part

    def open_part(path: Path, opened: Any) -> archive.Part:
        try:
            with other.transaction():
                pass
        except StorageUnavailable:
            refused.append(path.name)
        return real(path, opened)

    with patch.context() as changed:
        changed.setattr(backup, "_open_part", open_part)
        made(shop)
    other.close()
    assert set(BOOKS) <= set(refused), "somebody could write between two files of one backup"


def test_a_backup_is_a_moment_between_two_writes(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody_writes_between(shop, monkeypatch)


def test_mutant_a_backup_takes_no_lock(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "_between_two_writes", lambda folder, patience: nullcontext())
    with pytest.raises(AssertionError, match="between two files"):
        nobody_writes_between(shop, monkeypatch)


def test_the_lock_is_let_go_before_anything_is_copied(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(*given: Any) -> Iterator[bytes]:
        shop.sell("while it is copied")
        return archive.pack(*given)

    monkeypatch.setattr(backup, "pack", pack)
    path = made(shop)
    assert backup.verify(path).manifest.ledger_lines == 3


def test_beside_a_writer_that_hangs_a_backup_is_made_all_the_same(shop: BackRoom) -> None:
    with shop.store.transaction():
        path = made(shop, patience=0)
    assert backup.verify(path).manifest.ledger_lines == 3


def without_a_torn_tail(shop: BackRoom) -> None:
    whole = (shop.folder / "purchases.jsonl").read_bytes()
    for name in BOOKS[:4]:
        with (shop.folder / name).open("ab") as file:
            file.write(b'{"seq":4,"ti')
    backup.restore(made(shop), shop.folder.with_name("new"), NOW)
    check_restored(shop.folder.with_name("new"), set())
    assert (shop.folder.with_name("new") / "purchases.jsonl").read_bytes() == whole


def test_what_a_writer_was_killed_in_is_not_in_a_backup(shop: BackRoom) -> None:
    without_a_torn_tail(shop)


def test_mutant_a_backup_is_not_cut_at_the_last_newline(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "_whole_lines", lambda part: part.size)
    with pytest.raises((AssertionError, ValueError)):
        without_a_torn_tail(shop)


def test_a_sealed_tail_is_in_a_backup_as_it_is(shop: BackRoom, room: Path) -> None:
    with (shop.folder / "purchases.jsonl").open("ab") as ledger:
        ledger.write(b'{"seq":4,"ti\n')  # sealed, and nothing follows yet
    kept = {one.name: one for one in backup.verify(made(shop)).manifest.files}["purchases.jsonl"]
    assert (kept.seq, kept.size) == (3, (shop.folder / "purchases.jsonl").stat().st_size)
    shop.sell("s4")
    backup.restore(made(shop, 1), room / "new", NOW)
    assert BackRoom(room / "new").sell("s4") == shop.sell("s4")


# ------------------------------------------------------------------------------------------------ kill -9
LAST_CALLS = 12  # from the time when what was prepared gets its place
AT_CALLS = pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])


def kills(room: Path, deed: Callable[[], object], check: Callable[[], None], every: int) -> int:
    """Kill `deed` before calls that change the disk, and amid writes, on the same beginning each time: at each of its
    last calls, at every so many of those before. How many calls there are."""
    shutil.copytree(room, begin := room.with_name(f"{room.name}-begin"))
    calls = Child(lives(Killer(), deed)).told()[0]
    last = range(len(calls) - LAST_CALLS, len(calls))
    try:
        for at, name in [*enumerate(calls), (len(calls), "")]:
            if at % every and at not in last:
                continue
            for when in ("before", "middle") if name == "write" else ("before",):
                shutil.rmtree(room)
                shutil.copytree(begin, room)
                child = Child(lives(Killer(at, when), deed))
                child.told()
                assert child.status == (signal.SIGKILL if at < len(calls) else 0)
                check()
        return len(calls)
    finally:
        shutil.rmtree(begin)


def lives(killer: Killer, deed: Callable[[], object]) -> Callable[[Tell], None]:
    def work(tell: Tell) -> None:
        killer.install()
        deed()
        tell(killer.calls)

    return work


@AT_CALLS
def test_a_kill_while_a_backup_is_made_leaves_no_half_one(shop: BackRoom, every: int) -> None:
    first, data = made(shop), shop.folder
    place, expected = first.parent, leave(shop)

    def check() -> None:
        assert list(place.glob("*.tar.gz"))
        for path in place.glob("*.tar.gz"):
            assert backup.verify(path).findings == []
        backup.create(data, place, NOW + timedelta(hours=1), keep=1)
        assert [path.name for path in place.iterdir()] == ["keyledger-20261128-130000-000.tar.gz"]
        assert opened(data) == expected

    later = NOW + timedelta(minutes=1)
    assert kills(data.parent, lambda: backup.create(data, place, later, keep=1), check, every) > 20


def restores_the_old_or_the_new(shop: BackRoom, every: int) -> None:
    path, new = made(shop), records(shop.store)
    shop.sell("after")
    old = leave(shop)
    seen = set()

    def check() -> None:
        found = opened(shop.folder)
        assert found in (old, new)
        seen.add(found == new)
        aside = [
            folder for folder in shop.folder.parent.glob("data.set-aside-*") if (folder / "products.json").exists()
        ]
        assert found == old or opened(aside[0]) == old, "the old books are gone"

    assert kills(shop.folder.parent, lambda: backup.restore(path, shop.folder, NOW, force=True), check, every) > 20
    assert seen == {True, False}


@AT_CALLS
def test_a_kill_while_restoring_leaves_the_old_folder_or_the_new_one(shop: BackRoom, every: int) -> None:
    restores_the_old_or_the_new(shop, every)


def test_mutant_folders_change_places_in_two_steps(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(one: Path, other: Path) -> None:
        between = other.with_name("between")
        durable.os.replace(other, between)
        durable.os.replace(one, other)
        durable.os.replace(between, one)

    monkeypatch.setattr(durable, "exchange", exchange)
    with pytest.raises(AssertionError):
        restores_the_old_or_the_new(shop, 1000)


# ------------------------------------------------------------------------------------------------ damage
def refuses_damaged_books(shop: BackRoom) -> None:
    ledger, good = shop.folder / "purchases.jsonl", records(shop.store)
    whole = ledger.read_bytes()
    ledger.write_bytes(whole.replace(b"Ann Lee", b"Ann Bee", 1))
    path = made(shop)
    ledger.write_bytes(whole)
    with pytest.raises(BadBackup, match=r"purchases\.jsonl line 1"):
        backup.restore(path, shop.folder, NOW, force=True)
    assert opened(shop.folder) == good
    assert not list(shop.folder.parent.glob("*set-aside*"))


def test_damaged_books_are_not_put_in_place(shop: BackRoom) -> None:
    refuses_damaged_books(shop)


def test_mutant_a_backup_is_put_in_place_unchecked(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "unpack_and_open", lambda path, folder, progress: archive.unpack(path, folder))
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        refuses_damaged_books(shop)


def counts_only_when_it_was_read_back(shop: BackRoom, patch: pytest.MonkeyPatch) -> None:
    def spoil(*given: Any) -> Iterator[bytes]:
        whole = bytearray(b"".join(archive.pack(*given)))
        whole[len(whole) // 2] ^= 1
        yield bytes(whole)

    with patch.context() as changed:
        changed.setattr(backup, "pack", spoil)
        with pytest.raises(BadBackup):
            made(shop)
    assert not list(shop.folder.parent.rglob("*.tar.gz"))
    assert archive.last_backup(shop.folder) is None


def test_what_a_disk_spoils_gets_no_name(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    counts_only_when_it_was_read_back(shop, monkeypatch)


def test_mutant_a_backup_is_not_read_back(shop: BackRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    unread = backup.Checked(Path(), archive.Manifest(1, NOW, "", ()), [])
    monkeypatch.setattr(backup, "verify", lambda path, progress: unread)
    with pytest.raises(pytest.fail.Exception):
        counts_only_when_it_was_read_back(shop, monkeypatch)


def test_a_backup_that_is_cut_off_anywhere_is_refused(shop: BackRoom, room: Path) -> None:
    whole, cut = made(shop).read_bytes(), room / "cut.tar.gz"
    for length in [*range(0, len(whole), 61), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(BadBackup, match=r"^cut\.tar\.gz: "):
            backup.verify(cut)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(shop: BackRoom, room: Path) -> None:
    """gzip's header has some bytes that say nothing of the content."""
    path = made(shop)
    whole, manifest, flipped = path.read_bytes(), archive.read_manifest(path), room / "flipped.tar.gz"
    harmless, told = 0, []
    for at in [*range(12), *range(12, len(whole), 37), len(whole) - 1]:
        flipped.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            assert backup.verify(flipped).manifest == manifest
            harmless += 1
        except BadBackup as error:
            told.append(error.detail)
    assert all(text.startswith("flipped.tar.gz: ") for text in told)
    assert len(told) > 40
    assert harmless <= 7


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None, link: str = ""
) -> bytes:
    header = tarfile.TarInfo(name)
    header.type, header.size, header.linkname = kind, len(data) if size is None else size, link
    return header.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def told(*names: str, size: int = 1, form: int = 1) -> bytes:
    files = [{"name": name, "size": size, "sha256": "0" * 64} for name in names]
    return json.dumps({"format": form, "created": "2026-11-28T12:00:00Z", "version": "9", "files": files}).encode()


PRODUCTS = member("manifest.json", told("products.json"))
ENDED = bytes(1024)
HOSTILE = {
    "traversal in the manifest": (member("manifest.json", told("../../etc/cron.d/x")), "'../../etc/cron.d/x'"),
    "absolute name in the manifest": (member("manifest.json", told("/etc/passwd")), "'/etc/passwd'"),
    "traversal in a member": (PRODUCTS + member("../products.json", b"x"), "'../products.json'"),
    "a link": (PRODUCTS + member("products.json", kind=tarfile.SYMTYPE, link="/etc/passwd"), "no plain file"),
    "a hard link": (PRODUCTS + member("products.json", kind=tarfile.LNKTYPE, link="/etc/passwd"), "no plain file"),
    "a device": (PRODUCTS + member("products.json", kind=tarfile.CHRTYPE), "no plain file"),
    "a folder": (PRODUCTS + member("products.json", kind=tarfile.DIRTYPE), "no plain file"),
    "a long name": (PRODUCTS + member("././@LongLink", b"x" * 600, tarfile.GNUTYPE_LONGNAME), "no plain file"),
    "extended headers": (PRODUCTS + member("pax", b"11 path=/x\n", tarfile.XHDTYPE), "no plain file"),
    "a sparse file": (PRODUCTS + member("products.json", kind=tarfile.GNUTYPE_SPARSE), "no plain file"),
    "the secrets": (member("manifest.json", told(".env")), "'.env'"),
    "a name twice": (member("manifest.json", told("products.json", "products.json")), "twice"),
    "another file than told": (PRODUCTS + member("usage.jsonl", b"x"), "'usage.jsonl'"),
    "another size than told": (PRODUCTS + member("products.json", b"xx"), "of 2 bytes"),
    "another content than told": (PRODUCTS + member("products.json", b"x") + ENDED, "products.json is not what"),
    "more than told": (member("manifest.json", told()) + member("products.json", b"x") + ENDED, "more than"),
    "something behind the end": (member("manifest.json", told()) + ENDED + b"x", "more than"),
    "no manifest": (member("products.json", b"x") + ENDED, "manifest.json should come here"),
    "a manifest of no sense": (member("manifest.json", b"[]") + ENDED, "manifest.json cannot be read"),
    "a huge manifest": (member("manifest.json", size=1 << 40), "manifest.json has 1099511627776 bytes"),
    "another format": (member("manifest.json", told(form=2)) + ENDED, "format 2"),
    "huge": (member("manifest.json", told("products.json", size=1 << 60)), "has room for"),
    "less than nothing": (member("manifest.json", told("products.json", size=-1)), "products.json"),
    "nothing": (b"", "cut off"),
    "an end alone": (ENDED, "cannot be read"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_we_did_not_make_is_refused_with_its_place(shop: BackRoom, room: Path, kind: str) -> None:
    content, place = HOSTILE[kind]
    path, before = room / "bad.tar.gz", records(shop.store)
    path.write_bytes(gzip.compress(content))
    for deed in (lambda: backup.verify(path), lambda: backup.restore(path, shop.folder, NOW, force=True)):
        with pytest.raises(BadBackup) as refused:
            deed()
        assert refused.value.detail.startswith("bad.tar.gz: ")
        assert place in refused.value.detail
    assert opened(shop.folder) == before
    assert {one.name for one in room.iterdir()} == {"data", "bad.tar.gz"}


def test_what_is_no_archive_at_all_is_refused(room: Path) -> None:
    path = room / "holiday.jpg"
    path.write_bytes(b"\xff\xd8\xff" + bytes(1000))
    with pytest.raises(BadBackup, match=r"holiday\.jpg: manifest\.json cannot be read"):
        backup.verify(path)


def test_a_bomb_behind_the_end_is_not_unpacked(room: Path) -> None:
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as squeezed:
        squeezed.write(member("manifest.json", told()) + ENDED + bytes(64 << 20))
    (room / "bomb.tar.gz").write_bytes(bomb.getvalue())
    with pytest.raises(BadBackup, match="more than"):
        backup.verify(room / "bomb.tar.gz")
