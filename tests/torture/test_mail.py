"""kill -9 and power loss in the middle of the mail: a letter may go twice, under one Message-ID; none is lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from server.domain.purchase import Entry
from server.services.letters import letters_owed
from server.services.mailer import Compose, SmtpMailer
from server.services.outbox import Outbox
from server.storage.base import Letter, LetterBox
from server.storage.log import Mark
from tests.services.mail_room import Clock, Pigeon, PostOffice, Shop, settings_for
from tests.storage.backroom import room_for
from tests.torture.account import Torture
from tests.torture.disk import Folder, Recorder, WeakDisk
from tests.torture.processes import Child, Killer, Tap, Tell, spread

Point = tuple[int, str, float]
CUTS = (0.0, 0.5, -2.0, -1.0)


class Postman(Pigeon):
    """A mail server's yes reaches the test whatever happens to the sender then; to kill at it, it counts as a call."""

    box: LetterBox  # for the mutant that writes itself what it did

    def __init__(self, tap: Tap, tell: Tell) -> None:
        super().__init__()
        self._tap, self._tell = tap, tell

    def send(self, letter: Letter, compose: Compose) -> None:
        message = compose()
        self._tap.call("smtp", lambda: self._tell(["mailed", message["To"], message["Message-ID"]]))


def day(shop: Shop, tell: Tell) -> None:
    """Sales, each told when it is acknowledged, and turns at the outbox in between."""
    for number, products in enumerate((("G-WAVE", "G-TEAM"), ("G-STUDIO",), ("G-WAVE",))):
        for product in products:
            address = f"c{number}-{product.lower()}@example.com"
            shop.sale(f"s{number}-{product}", address, product=product)
            tell(["sold", address, None])
        shop.outbox.send_due()


def lived(folder: Path, killer: Killer) -> list[Any]:
    def work(tell: Tell) -> None:
        killer.install()
        postman = Postman(killer, tell)
        shop = Shop(folder, mailer=postman)
        postman.box = shop.store.letterbox
        day(shop, tell)
        tell(["calls", killer.calls, None])

    return Child(work).told()


def mailed_after(folder: Path) -> list[list[Any]]:
    """What goes out when the shop opens again and its timetable has run."""
    clock = Clock()
    shop = Shop(folder, clock)
    for _ in range(4):
        shop.outbox.send_due()
        clock.forward(minutes=5)
    assert set(shop.states().values()) <= {"sent"}
    shop.store.close()
    return [["mailed", message["To"], message["Message-ID"]] for message in shop.pigeon.messages]


def check(folder: Path, told: list[Any]) -> int:
    """Every acknowledged sale's letter went out, at most twice and then as the same letter; how many went twice."""
    letters: defaultdict[str, list[str]] = defaultdict(list)
    for what, address, name in (*told, *mailed_after(folder)):
        if what == "mailed":
            letters[address].append(name)
    for what, address, _ in told:
        assert what != "sold" or address in letters, f"the letter to {address} is lost"
    for address, names in letters.items():
        assert len(names) <= 2, f"{address} got it {len(names)} times"
        assert len(set(names)) == 1, "two letters, and not one of them twice"
    return sum(len(names) - 1 for names in letters.values())


def calls_of_the_day() -> list[str]:
    with room_for() as folder:  # here, so that its templates are loaded once and not in every process
        day(Shop(folder), lambda thing: None)
    with room_for() as folder:
        *told, (_, calls, _) = lived(folder, Killer())
        assert check(folder, told) == 0
    return list(calls)


def points(calls: list[str]) -> Iterator[Point]:
    """Closing changes nothing on a disk."""
    for at, name in enumerate(calls):
        if name == "close":
            continue
        yield at, "before", 0.0
        yield at, "after", 0.0
        if name == "write":
            for cut in CUTS:
                yield at, "middle", cut


def survives(point: Point) -> int:
    with room_for() as folder:
        return check(folder, lived(folder, Killer(*point)))


def test_a_kill_at_any_call_of_an_outbox_step_loses_no_letter(torture: Torture) -> None:
    found = list(points(calls_of_the_day()))[:: torture.of(2, 1)]
    twice = 0
    for one in torture.each("kills before, inside and after every call of outbox steps", spread(survives, found)):
        twice += one
    assert twice > 0, "nobody was killed between a mail server's yes and the line"


def test_a_kill_with_a_real_mail_server_loses_no_letter(torture: Torture) -> None:
    calls = calls_of_the_day()
    found = list(points(calls))[:: torture.of(18, 1)]
    with PostOffice() as office:

        def survives_smtp(point: Point) -> None:
            def work(tell: Tell) -> None:
                Killer(*point).install()
                day(Shop(folder, mailer=SmtpMailer(settings_for(folder, smtp_port=office.port))), tell)

            office.inbox.clear()
            with room_for() as folder:
                told = Child(work).told()
                told += [["mailed", message["To"], message["Message-ID"]] for _, message in office.inbox]
                check(folder, told)

        for point in torture.each("kills while a real SMTP server takes the letters", found, len(found)):
            survives_smtp(point)


# ------------------------------------------------------------------------------------------------ power loss
def crashes(every: bool = False) -> Iterator[tuple[Folder, list[Any]]]:
    """Every folder that a power loss may leave at any moment of the day, with what was told until then."""

    def work(tell: Tell) -> None:
        recorder = Recorder(tell)
        recorder.install()
        day(Shop(folder, mailer=Postman(Tap(), tell)), tell)

    disk, told, seen = WeakDisk(), [], set()
    with room_for() as folder:
        story = Child(work).told()
    for what in story:
        told.append(what) if what[0] in ("sold", "mailed") else disk.take(what)
        for found in disk.after_power_loss(every):
            mark = (len(told), frozenset(found.items()))
            if mark not in seen:
                seen.add(mark)
                yield found, list(told)


def survives_crash(crash: tuple[Folder, list[Any]]) -> None:
    found, told = crash
    with room_for() as folder:
        for name, data in found.items():
            (folder / name).write_bytes(data)
        check(folder, told)


def test_a_power_loss_at_any_moment_of_an_outbox_step_loses_no_letter(torture: Torture) -> None:
    found = list(crashes(torture.is_full))
    for _ in torture.each("states of the disk after a power loss in outbox steps", spread(survives_crash, found)):
        pass


# ------------------------------------------------------------------------------------------------ mutants
def is_broken(deed: Callable[[Any], Any], things: list[Any]) -> bool:
    for thing in things:
        try:
            deed(thing)
        except Exception:
            return True
    return False


def test_mutant_a_mark_written_together_with_its_letters_is_caught(monkeypatch):
    """The disk keeps the second half of one write and loses the first: the mark says that all were queued."""

    def queue(self: Outbox, mark: Mark, entries: Sequence[Entry], since: Any) -> None:
        owed = [letter for entry in entries for letter in letters_owed(entry, None)]
        covers = Letter(id="covers", covers=mark, at=self._clock())
        self._box.write([*owed, covers], durably=False)

    monkeypatch.setattr(Outbox, "_queue", queue)
    assert is_broken(survives_crash, list(crashes()))


def test_mutant_a_mark_written_before_its_letters_is_caught(monkeypatch):
    def queue(self: Outbox, mark: Mark, entries: Sequence[Entry], since: Any) -> None:
        self._box.write([Letter(id="covers", covers=mark, at=self._clock())])
        self._box.write([letter for entry in entries for letter in letters_owed(entry, None)])

    monkeypatch.setattr(Outbox, "_queue", queue)
    assert is_broken(survives, [point for point in points(calls_of_the_day()) if point[1] != "middle"])


def test_mutant_a_letter_called_sent_before_the_servers_yes_is_caught(monkeypatch):
    real = Postman.send

    def send(self: Postman, letter: Letter, compose: Compose) -> None:
        with_account = msgspec.structs.replace(letter, state="sent")
        self.box.write([with_account])
        real(self, letter, compose)

    monkeypatch.setattr(Postman, "send", send)
    calls = calls_of_the_day()
    assert is_broken(survives, [point for point in points(calls) if calls[point[0]] == "smtp"])
