"""A full, failing or read-only disk: nothing is promised falsely, validation goes on, and it heals by itself."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.errors import DamagedFile, StorageUnavailable
from server.storage import durable, log
from server.storage.known import Known
from tests.conftest import Clock, Shop, sale_ping
from tests.storage.backroom import BackRoom, chain, letter, open_descriptors, records, room_for
from tests.torture.account import Torture
from tests.torture.processes import Child, Tap, Tell, children, failing, spread
from tests.torture.promises import DAY, KEYS, SALES, deliver_again, kept

SHORT_DAY = [*DAY[:3], *DAY[3:6:2], *DAY[6:10], DAY[11]]
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class Faults(Tap):
    """Lets one call fail, or that one and all that change the disk after it, until `heal`.

    `repeated` tells what was done with a descriptor after an fsync failed on it.
    """

    def __init__(self, at: int = -1, number: int = errno.EIO, lasting: bool = False, half: bool = False) -> None:
        self.at, self.number, self.lasting, self.half = at, number, lasting, half
        self.calls: list[str] = []
        self.failing = False
        self.repeated: list[str] = []
        self._burnt: set[int] = set()

    def heal(self) -> None:
        self.at, self.failing = -1, False

    def call(self, name: str, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        here = len(self.calls) == self.at
        self.calls.append(name)
        self.failing = self.failing or (here and self.lasting)
        if name in ("write", "fsync") and given[0] in self._burnt:
            self.repeated.append(name)
        if here or (self.failing and changes_the_disk(name, given)):
            self._fail(name, real, given)
        if name == "close":
            self._burnt.discard(given[0])
        return real(*given, **named)

    def _fail(self, name: str, real: Callable[..., Any], given: tuple[Any, ...]) -> None:
        if name == "write" and self.half:
            real(given[0], bytes(given[1])[: len(given[1]) // 2])
        if name == "close":
            self._burnt.discard(given[0])
            real(*given)
        if name == "fsync":
            self._burnt.add(given[0])
        raise OSError(self.number, os.strerror(self.number))


def changes_the_disk(name: str, given: tuple[Any, ...]) -> bool:
    return name != "close" and (name != "open" or bool(given[1] & (os.O_RDWR | os.O_WRONLY | os.O_CREAT)))


def live_with(faults: Faults, room: BackRoom) -> list[Any]:
    """A day on this disk; what was promised of it. Every license that was ever promised is found all the time."""
    told: list[Any] = []
    promised: set[str] = set()
    for name, step in SHORT_DAY:
        told.append(["begin", name, None])
        try:
            result = step(room)
        except StorageUnavailable:
            pass
        else:
            told.append(["done", name, result])
            promised.update(result if name.startswith("sell") else ())
        for key in promised:
            assert room.store.find_license(key) is not None
            assert room.code(key) in ("VALID", "SUSPENDED")
    return told


def survives(faults: Faults, again: bool = True) -> list[str]:
    """What was called; asserts that no promise is broken while the disk fails, after it was healed, and ever after."""
    with room_for() as folder, pytest.MonkeyPatch.context() as patch:
        room, other = BackRoom(folder), BackRoom(folder)
        faults.install_with(patch)
        told = live_with(faults, room)
        faults.heal()
        kept(room, told)
        if again:
            deliver_again(room)
        assert room.store.state(probe=True).trouble is None
        assert records(other.store) == records(room.store)
        assert faults.repeated == [], "used again after an fsync had failed on it"
        assert room.store.state().notices == ()
    return faults.calls


def all_faults(calls: list[str], errors_each: int = 1) -> Iterator[Faults]:
    """At each call one error after the other, or so many of them; alone, lasting, and in the middle of a write."""
    for at, name in enumerate(calls):
        for number in [ERRORS[(at + more) % 4] for more in range(errors_each)]:
            yield Faults(at, number)
            yield Faults(at, number, lasting=True)
        if name == "write":
            yield Faults(at, ERRORS[(at + 1) % 4], half=True)


def test_an_error_at_any_call_breaks_no_promise(torture: Torture) -> None:
    calls = survives(Faults())
    assert min(calls.count("write"), calls.count("fsync")) > 15
    found = list(all_faults(calls, torture.of(1, 4)))
    what = "ENOSPC, EDQUOT, EIO, EROFS at each open, write, fsync, close and rename"
    every = torture.of(3, 1)  # after so many all is delivered again
    checked = spread(lambda fault: survives(fault[1], again=fault[0] % every == 0), enumerate(found))
    for _ in torture.each(what, checked, len(found)):
        pass


def is_broken() -> bool:
    calls = survives(Faults())
    for faults in all_faults(calls):
        try:
            survives(faults)
        except Exception:
            return True
    return False


def test_mutant_an_fsync_that_is_tried_again_on_the_same_descriptor_is_caught(monkeypatch):
    trusting = property(lambda self: False, lambda self, suspect: None)
    monkeypatch.setattr(log.ChainedLog, "_suspect", trusting, raising=False)
    assert is_broken()


def test_mutant_a_promise_in_spite_of_a_failed_fsync_is_caught(monkeypatch):
    def sync(descriptor: int) -> None:
        try:
            durable.os.fsync(descriptor)
        except OSError:
            return

    monkeypatch.setattr(durable, "sync", sync)
    assert is_broken()


def test_mutant_a_failed_line_that_is_not_cut_off_is_caught(monkeypatch):
    """Without the cut the line may stay, whole: whoever reads it meanwhile knows what nobody was promised."""
    seen = refused_but_seen()
    monkeypatch.setattr(log.ChainedLog, "_cut", lambda self: None)
    assert (seen, refused_but_seen()) == (False, True)


def refused_but_seen() -> bool:
    with room_for() as folder, pytest.MonkeyPatch.context() as patch:
        room, other = BackRoom(folder), BackRoom(folder)
        room.sell("s1")
        faults = Faults()
        faults.install_with(patch)
        patch.setattr(durable, "sync", failing(errno.EIO))
        with pytest.raises(StorageUnavailable):
            room.sell("s2", "G-TEAM")
        return other.store.find_license(KEYS["s2"]) is not None


# ------------------------------------------------------------------------------------------------ over HTTP
def answers_on(folder: Path, faults: Faults) -> list[str]:
    """What was called; asserts that no webhook is answered 2xx in vain, and that validation goes on."""
    shop = Shop(folder, Clock())
    known = shop.sale("s0")
    with pytest.MonkeyPatch.context() as patch:
        faults.install_with(patch)
        promised = {}
        for number in (1, 2):
            answered = shop.post(sale_ping(f"s{number}", "ann@example.com"))
            assert answered.status_code in (200, 503), answered.text
            if answered.status_code == 200:
                promised[f"s{number}"] = answered.json["license_keys"][0]
            else:
                assert answered.headers["Retry-After"]
            assert shop.code(known) == "VALID"
        shop.services.store.tidy(force=True)
        faults.heal()
        assert all(shop.code(key) == "VALID" for key in promised.values())
        assert promised.items() <= {f"s{number}": shop.sale(f"s{number}") for number in (1, 2)}.items()
        assert shop.services.store.state(probe=True).trouble is None
    assert sorted(line["sale_id"] for line in shop.ledger()) == ["s0", "s1", "s2"]
    return faults.calls


def test_an_error_at_any_call_of_a_webhook_is_a_503_or_it_was_kept(torture: Torture) -> None:
    with room_for() as folder:
        calls = answers_on(folder, Faults())
    found = list(all_faults(calls, torture.of(1, 4)))[:: torture.of(2, 1)]
    for faults in torture.each("such errors under a webhook", found):
        with room_for() as folder:
            answers_on(folder, faults)


# ------------------------------------------------------------------------------------------------ a failed fsync
def test_after_a_failed_fsync_everyone_goes_on_in_a_fresh_file(monkeypatch):
    with room_for() as folder:
        room = BackRoom(folder)
        room.sell("s1")
        room.store.tidy(force=True)
        before = os.stat(folder / "purchases.jsonl").st_ino

        def sell_s3(tell: Tell) -> None:
            other = BackRoom(folder)
            tell("opened")
            assert os.read(gate, 1) == b"!"
            tell([other.sell("s1"), other.sell("s3"), os.stat(folder / "purchases.jsonl").st_ino])

        gate, opener = os.pipe()
        with children([sell_s3]) as (child,):
            assert child.hear() == "opened"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(durable, "sync", failing(errno.EIO))
                with pytest.raises(StorageUnavailable, match=r"purchases\.jsonl cannot be written: Input/output error"):
                    room.sell("s2", "G-TEAM")
                assert room.store.find_license(KEYS["s2"]) is None
                assert room.code(KEYS["s1"]) == "VALID"
                assert "Input/output error" in str(room.store.state().trouble)
            os.write(opener, b"!")
            first, third, inode = child.hear()
            child.end()
        os.close(gate)
        os.close(opener)
        assert (first, third) == (KEYS["s1"], KEYS["s3"])
        assert inode != before
        assert room.store.find_license(third) is not None
        assert room.sell("s2", "G-TEAM") == KEYS["s2"]
        assert os.stat(folder / "purchases.jsonl").st_ino == inode
        assert [line["sale_id"] for line in chain(folder / "purchases.jsonl")] == ["s1", "s3", "s2"]
        assert room.store.state().trouble is None


def test_where_no_fresh_file_can_be_made_nothing_is_written_until_one_can(monkeypatch):
    with room_for() as folder:
        room = BackRoom(folder)
        room.sell("s1")
        before = (folder / "purchases.jsonl").read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "sync", failing(errno.EIO))
            patch.setattr(durable, "replace", failing(errno.ENOSPC))
            for _ in range(3):
                with pytest.raises(StorageUnavailable):
                    room.sell("s2", "G-TEAM")
                assert (folder / "purchases.jsonl").read_bytes() == before
            patch.undo()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "replace", failing(errno.ENOSPC))
            with pytest.raises(StorageUnavailable, match="No space left"):
                room.sell("s2", "G-TEAM")
        assert room.sell("s2", "G-TEAM") == KEYS["s2"]


# ------------------------------------------------------------------------------------------------ real limits
def test_a_real_limit_on_the_size_of_files_is_told_and_heals():
    """RLIMIT_FSIZE cuts a write in its middle, as a full disk does."""
    with room_for() as folder:
        room = BackRoom(folder)
        key = room.sell("s2", "G-TEAM")
        room.code(key, "d1")
        size = (folder / "purchases.jsonl").stat().st_size

        def work(tell: Tell) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            other = BackRoom(folder)
            for limit in (size, size + 1, size + 100, size + 600):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                for sale_id in ("s1", "s3"):
                    try:
                        other.sell(sale_id)
                        tell(f"sold {sale_id} within {limit - size}")
                    except StorageUnavailable as error:
                        tell([error.detail, other.code(key, "d1"), other.store.find_license(KEYS[sale_id]) is None])
                other.store.tidy(force=True)
                tell(str(other.store.state(probe=True).trouble))
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            tell([other.sell("s1"), other.code(key, "d2"), other.store.state(probe=True).trouble])

        child = Child(work)
        *refused, healed = child.told()
        assert child.status == 0
        assert (
            refused
            == [
                *[["purchases.jsonl cannot be written: File too large", "VALID", True]] * 2,
                "the data folder takes no bytes: File too large",
            ]
            * 4
        )
        assert healed == [KEYS["s1"], "VALID", None]
        assert [line["sale_id"] for line in chain(folder / "purchases.jsonl")] == ["s2", "s1"]
        assert room.code(KEYS["s1"]) == "VALID"


def read_only(path: Any, flags: int, *mode: int, **named: int) -> int:
    if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT) and (os.path.exists(path) or flags & os.O_CREAT):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    return os.open(path, flags, *mode, **named)


class ReadOnly(Tap):
    """A disk that is mounted read-only."""

    def call(self, name: str, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if changes_the_disk(name, given) and (name != "open" or os.path.exists(given[0]) or given[1] & os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(*given, **named)


def test_a_service_that_starts_on_a_read_only_disk_validates_and_heals():
    with room_for() as folder:
        room = BackRoom(folder)
        key = room.sell("s2", "G-TEAM")
        room.code(key, "d1")
        with pytest.MonkeyPatch.context() as patch:
            ReadOnly().install_with(patch)
            other = BackRoom(folder)
            assert other.code(key, "d1") == "VALID"
            for deed in (lambda: other.sell("s1"), lambda: other.code(key, "d2")):
                with pytest.raises(StorageUnavailable):
                    deed()
            assert "Read-only file system" in str(other.store.state(probe=True).trouble)
            assert other.store.tidy(force=True) == 5.0
        assert other.sell("s1") == KEYS["s1"]
        assert other.code(key, "d2") == "VALID"
        assert other.store.state(probe=True).trouble is None
        other.store.tidy(force=True)
        assert other.store.state().notices == ()


def test_trouble_that_went_away_is_not_told_any_more():
    """A shop that sells nothing now is not called ill until its next sale."""
    with room_for() as folder:
        room = BackRoom(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "write_all", failing(errno.ENOSPC))
            with pytest.raises(StorageUnavailable):
                room.sell("s1")
            assert "No space left" in str(room.store.state().trouble)
            assert "No space left" in str(room.store.state(probe=True).trouble)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "sync", failing(errno.EIO))
            assert "purchases.jsonl cannot be written: Input/output" in str(room.store.state(probe=True).trouble)
        assert room.store.state(probe=True).trouble is None
        assert room.store.state().trouble is None


def test_a_look_that_fails_once_forgets_nothing():
    """What was appended while the books could not be read is taken in later; what was known is known all the time."""
    with room_for() as folder:
        reader, writer = BackRoom(folder), BackRoom(folder)
        keys = [writer.sell("s1"), writer.sell("s2", "G-TEAM")]
        assert reader.code(keys[0]) == "VALID"
        late = writer.sell("s3")
        for name in ("stat", "pread"):
            with pytest.MonkeyPatch.context() as patch:
                for module in (log, durable):
                    patch.setattr(module.os, name, failing(errno.EIO))
                assert [reader.store.find_license(key) is not None for key in keys] == [True, True]
        assert [reader.code(key) for key in (*keys, late)] == ["VALID"] * 3
        assert records(reader.store) == records(writer.store)


def test_books_that_cannot_be_taken_in_are_read_anew():
    """The line is on disk and read, but what it follows from cannot be read for a moment."""
    with room_for() as folder:
        reader, writer = BackRoom(folder), BackRoom(folder)
        key = writer.sell("s1")
        assert reader.code(key) == "VALID"
        writer.refund("s1")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Known, "history", failing(errno.EIO))
            assert reader.code(key) == "VALID"
            assert writer.store.find_license(key).inactive_reason == "refunded"
            with pytest.raises(StorageUnavailable, match=r"storage cannot be read: .*Input/output error"):
                writer.sell("s3")
        assert reader.code(key) == "SUSPENDED"


def test_a_writer_that_cannot_take_in_its_own_line_reads_it_anew():
    with room_for() as folder:
        room = BackRoom(folder)
        room.sell("s1")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Known, "take_entries", failing(errno.EIO))
            assert room.sell("s3") == KEYS["s3"]
        assert room.code(KEYS["s3"]) == "VALID"
        assert room.sell("s3") == KEYS["s3"]
        assert [line["sale_id"] for line in chain(folder / "purchases.jsonl")] == ["s1", "s3"]


def test_descriptors_are_not_lost_when_the_folder_cannot_be_synced():
    with room_for() as folder:
        room = BackRoom(folder)
        open_before = open_descriptors()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "sync_folder", failing(errno.EIO))
            for _ in range(50):
                with pytest.raises(StorageUnavailable):
                    room.sell("s1")
                with pytest.raises(StorageUnavailable):
                    room.store.letterbox.enqueue([letter("1")])
        assert open_descriptors() <= open_before + 2
        assert [room.sell(sale_id, product) for sale_id, product in SALES.items()] == list(KEYS.values())


def test_leftovers_of_killed_writers_are_removed_and_those_of_living_ones_are_not(tmp_path: Path):
    """A ledger that is being moved to a fresh file is not swept away by somebody who tidies."""
    with room_for() as folder:
        room = BackRoom(folder)
        room.sell("s1")
        other = BackRoom(folder)
        other.store._folder_lock.patience = 0.0
        other.store._view_lock.patience = 0.0

        class Sweeping(Tap):
            def call(self, name: str, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
                if name == "replace" and str(given[1]).endswith("purchases.jsonl"):
                    other.store.tidy(force=True)
                return real(*given, **named)

        before = os.stat(folder / "purchases.jsonl").st_ino
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "sync", failing(errno.EIO))
            Sweeping().install_with(patch)
            with pytest.raises(StorageUnavailable):
                room.sell("s3")
        assert os.stat(folder / "purchases.jsonl").st_ino != before
        (folder / ".licenses.json.999.tmp").write_bytes(b"left behind")
        assert room.sell("s3") == KEYS["s3"]
        room.store.tidy(force=True)
        assert list(folder.glob(".*.tmp")) == []


def test_a_file_that_cannot_be_read_at_the_start_is_refused_by_name():
    with room_for() as folder:
        room = BackRoom(folder)
        room.sell("s1")
        room.store.tidy(force=True)
        for name, call in (("licenses.json", "open"), ("purchases.jsonl", "stat")):
            with pytest.MonkeyPatch.context() as patch:
                refuse_file(patch, call, name)
                with pytest.raises(DamagedFile, match=f"{name}: cannot be read .*Check the disk and the folder's perm"):
                    BackRoom(folder)
        assert BackRoom(folder).code(KEYS["s1"]) == "VALID"


def refuse_file(patch: pytest.MonkeyPatch, call: str, name: str) -> None:
    where: Any = log.os if call == "stat" else builtins
    real = getattr(where, call)

    def refuse(path: Any, *given: Any, **named: Any) -> Any:
        if str(path).endswith(name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *given, **named)

    patch.setattr(where, call, refuse)
